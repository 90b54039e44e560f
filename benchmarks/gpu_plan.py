"""What `benchmarks/gpu.py` measures: the networks, their images, the cells of the grid, and the time for each part.

`REAL` is what is measured on a GPU. `SMALL` is the rehearsal: the same parts with stand-ins that take seconds on a CPU.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
import torch
import torchvision
from networks import CIFAR, DATA, convnet64, lenet, resnet18, target, victim
from real_size import CLASSES, SIDE, smooth_images
from torch import Tensor, nn

from leakaudit.domains.images import Images
from leakaudit.errors import first_line
from leakaudit.matching.step import Mode
from leakaudit.observation import Observation
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.target import Target

PHOTOS = Images((3, SIDE, SIDE), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Photographs, normalised as the models of torchvision expect them."""
TINY = Images((3, 16, 16), CIFAR.mean, CIFAR.std)
SAMPLES = {CIFAR: "cifar10_test.npz", PHOTOS: "photos_open_224.npz"}
Build = Callable[[], nn.Module]
Cell = tuple[str, int, int]
"""Network, batch, restarts."""
OUT_OF_MEMORY = "out of memory"


def resnet18_photos() -> nn.Module:
    """ResNet-18 of torchvision, of ten classes."""
    return torchvision.models.resnet18(num_classes=CLASSES)


def vit_b_16() -> nn.Module:
    """ViT-B/16 of torchvision, of ten classes."""
    return with_head(torchvision.models.vit_b_16(num_classes=CLASSES))


def with_head(net: nn.Module) -> nn.Module:
    """With a last layer that is not zero, as torchvision's is: no other layer would have a gradient."""
    nn.init.trunc_normal_(net.heads.head.weight, std=0.02)
    return net


def small_lenet() -> nn.Module:
    """A convolution with BatchNorm, and a linear layer."""
    first = (nn.Conv2d(3, 4, 5, 2, 2), nn.BatchNorm2d(4), nn.GELU())
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(256, CLASSES))


def small_vit() -> nn.Module:
    """A vision transformer of torchvision with one block."""
    return with_head(torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=CLASSES))


@dataclass(frozen=True)
class Plan:
    """What is measured, in this order.

    Args:
        networks: By the name of the row, the module and the images that it takes.
        grid: The cells whose step is timed.
        compiled: How many of the cells are also compiled, in a second pass.
        rounds: Turns of every contender.
        turn: Seconds of an eager turn.
        precise: Networks whose precision is measured.
        attack: Steps of the attack in float32 that says how close a match comes.
        mode: How a step of the precision and of the attack runs.
        photo: The network that is attacked by IG.
        steps: Most steps of IG.
        longest: Seconds of IG at most.
    """

    networks: Mapping[str, tuple[Build, Images]]
    grid: tuple[Cell, ...]
    compiled: int
    rounds: int
    turn: float
    precise: tuple[str, ...]
    attack: int
    mode: Mode
    photo: str
    steps: int
    longest: float

    def only(self, names: Sequence[str]) -> Plan:
        """Of some of the networks."""
        photo = self.photo if self.photo in names else names[-1]
        kept = {name: self.networks[name] for name in names}
        grid = tuple(cell for cell in self.grid if cell[0] in names)
        return replace(self, networks=kept, grid=grid, precise=tuple(names), photo=photo)


NETWORKS: dict[str, tuple[Build, Images]] = {
    "LeNet": (lenet, CIFAR),
    "ConvNet-64": (convnet64, CIFAR),
    "ResNet-18, 32 px": (resnet18, CIFAR),
    "ResNet-18, 224 px": (resnet18_photos, PHOTOS),
    "ViT-B/16, 224 px": (vit_b_16, PHOTOS),
}
SIZES = ((1, 1), (1, 16), (8, 1), (8, 16))
"""Batch and restarts of every network, the first of all networks before the second of any."""
REAL = Plan(
    networks=NETWORKS,
    grid=tuple((name, *size) for size in SIZES for name in NETWORKS),
    compiled=20,
    rounds=5,
    turn=0.1,
    precise=("LeNet", "ResNet-18, 224 px", "ViT-B/16, 224 px"),
    attack=2000,
    mode="traced",
    photo="ResNet-18, 224 px",
    steps=100_000,
    longest=300.0,
)
SMALL = Plan(
    networks={
        "LeNet (small)": (small_lenet, TINY),
        "ViT (small)": (small_vit, TINY),
    },
    grid=(("LeNet (small)", 1, 1), ("ViT (small)", 1, 1), ("LeNet (small)", 2, 2)),
    compiled=0,
    rounds=2,
    turn=0.01,
    precise=("LeNet (small)", "ViT (small)"),
    attack=60,
    mode="eager",
    photo="LeNet (small)",
    steps=120,
    longest=300.0,
)


def sample_of(space: Images) -> Path | None:
    """The file of images in $LEAKAUDIT_DATA, where it is there."""
    path = DATA / "images" / SAMPLES[space] if space in SAMPLES else None
    return path if path is not None and path.is_file() else None


def images_of(space: Images, count: int) -> Tensor:
    """Images (count, C, H, W) in 0..1: of the sample in $LEAKAUDIT_DATA where it is there, else generated."""
    path = sample_of(space)
    if path is None:
        return smooth_images(count, space.shape[-1], torch.Generator().manual_seed(0))
    with np.load(path) as file:
        return torch.from_numpy(file["x"][:count]).float() / 255


def case(plan: Plan, name: str, batch: int, device: torch.device) -> tuple[Target, Observation, Tensor]:
    """An untrained network on a device, the gradient of some images, each of a class of its own, and the images."""
    build, space = plan.networks[name]
    net = target(build, space=space).to(device)
    images, labels = images_of(space, batch).to(device), torch.arange(batch, device=device) % CLASSES
    return net, victim(net, images, labels, space=space), images


def why(error: BaseException) -> str:
    """What something was left out for."""
    if isinstance(error, OutOfTime):
        return "no time"
    return OUT_OF_MEMORY if isinstance(error, torch.OutOfMemoryError) else f"failed: {first_line(error, 80)}"


def left_out(lacking: Mapping[str, str]) -> str:
    """The paragraph below a table: what was left out, and why; "" where all is there."""
    return f"Left out: {'; '.join(f'{what} ({reason})' for what, reason in lacking.items())}." if lacking else ""


class OutOfTime(BaseException):
    """The deadline of a part has come; no `Exception`, so that nothing on the way takes it for a failure of its own."""


@dataclass(frozen=True)
class Deadline:
    """A moment of `time.monotonic`."""

    at: float

    def left(self) -> float:
        """Seconds, negative afterwards."""
        return self.at - time.monotonic()

    def share(self, part: float) -> Deadline:
        """The one after that part of what is left."""
        return Deadline(self.at - (1 - part) * self.left())

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever runs within is interrupted at the deadline, and again where that was not heeded.

        Raises:
            OutOfTime: It has come.
        """
        if self.left() <= 0:
            raise OutOfTime
        before = signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, self.left()), 2.0)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise OutOfTime


@dataclass(eq=False)
class Until(SilentMonitor):
    """Stops an attack at a moment.

    Args:
        at: Of `time.monotonic`.
        told: Whether the attack plans its steps by it.
    """

    at: float = 0.0
    told: bool = False

    def should_stop(self) -> bool:
        """From that moment on."""
        return time.monotonic() >= self.at

    def seconds_left(self) -> float | None:
        """Until that moment, where the attack is told."""
        return max(0.0, self.at - time.monotonic()) if self.told else None
