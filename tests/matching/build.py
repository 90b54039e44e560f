"""What the tests of gradient matching share: an observation, its network, the error, and a monitor that stops."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import torch
from torch import nn

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.target import Target
from tests.conftest import make_target


def observation_of(target: Target, batch: Batch, space: Images) -> Observation:
    """What a client of one step shares, with the labels given."""
    return replace(observe(target, batch, FedSGD(len(batch)), space), labels=batch.labels, label_source="given")


def psnr(space: Images, inputs: torch.Tensor, batch: Batch) -> float:
    """Mean PSNR of reconstructed model inputs against the batch, in dB."""
    return float(-10 * torch.log10((space.decode(inputs) - batch.images).square().mean()))


class StopAfter(SilentMonitor):
    """Says stop after so many steps of a descent."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def update(self, fraction: float, objective: float) -> None:
        self.steps -= 1

    def should_stop(self) -> bool:
        return self.steps <= 0

    def seconds_left(self) -> float | None:
        return None


def cnn() -> Target:
    """12×12 colour images to five logits through a convolution and a hidden layer."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, 1, 1), nn.GELU(), nn.Flatten(), nn.Linear(864, 16), nn.GELU(), nn.Linear(16, 5))
    return make_target(nn.Sequential(*layers), (3, 12, 12), 5)


def imports_compiler(*lines: str) -> bool:
    """Whether torch's compiler is imported by lines of Python, in a process of their own."""
    program = ["import sys, torch", *lines, "sys.exit(3 if 'torch._dynamo' in sys.modules else 0)"]
    ended = subprocess.run([sys.executable, "-c", "\n".join(program)], check=False)
    assert ended.returncode in (0, 3)
    return ended.returncode == 3
