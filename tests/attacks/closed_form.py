"""One sample behind a small network, and R-GAP on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.rgap import RGAP
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import OneLogit, SingleLabel
from tests.conftest import smooth_images

SMALL = Images((3, 12, 12), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.2)


def small(*layers: nn.Module, classes: int = 5, seed: int = 0, bias: bool = True) -> nn.Sequential:
    """Layers that map (3, 12, 12) to anything, then a linear one."""
    torch.manual_seed(seed)
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    body = nn.Sequential(*layers, nn.Flatten()).eval()
    width = body(torch.zeros((1, 3, 12, 12), dtype=next(body.parameters()).dtype)).shape[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, classes, bias=bias))


def make(
    module: nn.Module,
    space: Images,
    pixels: np.ndarray[Any, Any] | Tensor,
    label: int,
    classes: int,
    **options: Any,
) -> tuple[Target, Observation, Tensor]:
    """Target, observation and the true model input, in float64 if ``dtype`` says so."""
    dtype = options.pop("dtype", torch.float32)
    mode = options.pop("mode", "eval")
    task = OneLogit() if options.pop("binary", False) else SingleLabel(classes)
    target = Target(module.to(dtype).eval(), "net", "module", space.shape, "NCHW", space, task, **options)
    images = torch.as_tensor(pixels).to(dtype).reshape(1, *space.shape)
    observation = observe(target, Batch(images, torch.tensor([label]), (0,)), FedSGD(1, mode), space)
    return target, observation, space.encode(images)


def attack(target: Target, observation: Observation) -> Reconstruction:
    rgap = RGAP(RGAP.presets["standard"])
    assert rgap.applies(target, observation) is None
    return rgap(target, observation, cpu_generator(0))


def error(result: Reconstruction, truth: Tensor) -> float:
    return float((result.inputs.double() - truth.double()).square().mean())


def refusal(target: Target, observation: Observation) -> str:
    refused = RGAP(RGAP.presets["standard"]).applies(target, observation)
    assert refused is not None
    return refused.reason


def image(seed: int = 0, side: int = 12) -> Tensor:
    return (torch.from_numpy(smooth_images(1, side, seed=seed)) * 255).round() / 255
