"""Small networks and data for every test; nothing here needs the network or shared data."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.pop("CI", None)  # it changes a default (--evidence); tests of that set it themselves
os.environ.pop("PRE_COMMIT", None)  # so does this
os.environ["LEAKAUDIT_CACHE"] = "0"  # no test finds what another one left; those of the cache ask for it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small networks gain nothing from threads that spin

import numpy as np
import pytest
import scipy.optimize  # noqa: F401  not within a test that has a deadline
import torch
from torch import nn

from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel
from tests.cli.build import CLASSES, export
from tests.plugins import Install, write_package

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("LEAKAUDIT_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that a test caches outlives the tests or comes from before them."""
    os.environ["LEAKAUDIT_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real images and models; skips where there is none."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA} (set LEAKAUDIT_DATA)")
    return DATA


def make_target(module: nn.Module, shape: tuple[int, int, int], classes: int) -> Target:
    """A Target around a module that takes NCHW images."""
    return Target(module.eval(), "net", "module", shape, "NCHW", Images.plain(shape), SingleLabel(classes))


def small_mlp(classes: int = 5, bias: bool = True, seed: int = 0) -> nn.Module:
    """12×12 colour images to `classes` logits through one hidden layer."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 32, bias=bias), nn.GELU(), nn.Linear(32, classes, bias=bias))


def small_cnn(classes: int = 5, seed: int = 0) -> nn.Module:
    """12×12 colour images to `classes` logits through one convolution."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(1152, classes))


@pytest.fixture
def space() -> Images:
    return Images((3, 12, 12), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.fixture
def target() -> Target:
    return make_target(small_mlp(), (3, 12, 12), 5)


def smooth_images(count: int, side: int = 12, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Images (count, channels, side, side) in 0..1 with large structures, as photographs have."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True).numpy()


@pytest.fixture
def samples() -> Batch:
    """Twenty smooth 12×12 images of five classes."""
    images = torch.from_numpy(smooth_images(20))
    return Batch(images, torch.arange(20) % 5, tuple(range(20)))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of a small convolutional network with five classes; nobody may write to it."""
    torch.manual_seed(0)
    return export(small_cnn(CLASSES), tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture(scope="session")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty smooth images with labels as NPZ; nobody may write to it."""
    path = tmp_path_factory.mktemp("batch") / "batch.npz"
    np.savez(path, x=smooth_images(20), y=np.arange(20) % CLASSES)
    return path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Installs packages that extend leakaudit, until the end of the test: ``install(group, name=value)``."""

    def write(group: str, /, **points: str) -> None:
        folder = tmp_path_factory.mktemp("packages")
        write_package(folder, group, points)
        monkeypatch.syspath_prepend(folder)

    return write


def model_and_batch(folder: Path, module: nn.Module | None = None) -> tuple[Path, Path]:
    """A model file of 12×12 colour images and a batch file of eight samples, for the command line."""
    np.savez(folder / "batch.npz", x=smooth_images(8), y=np.arange(8) % 5)
    return export(module or small_cnn(), folder / "net.onnx"), folder / "batch.npz"
