"""Small networks with auxiliary heads, as clients train them, and their training losses in plain torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 12, 12)
CLASSES = 5
STATED = "logits+0.3*aux"


class TwoHeads(nn.Module):
    """A head behind the whole body, and one behind its first layer."""

    def __init__(self, classes: int = CLASSES, side: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.Sigmoid())
        self.rest = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.Sigmoid())
        self.head = nn.Linear(8 * 36, classes)
        self.side = nn.Linear(8 * 36, classes if side is None else side)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of both."""
        first = self.body(x)
        return self.head(self.rest(first).flatten(1)), self.side(first.flatten(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits, aux = self.heads(x)
        return {"logits": logits, "aux": aux}


class Pair(TwoHeads):
    """The same as a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return self.heads(x)


class InTraining(TwoHeads):
    """The second head is there in train mode alone, as torchvision's GoogLeNet has it."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        logits, aux = self.heads(x)
        return (logits, aux) if self.training else logits


class Third(TwoHeads):
    """One more output that takes no part in the loss."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {**super().forward(x), "features": self.body(x).flatten(1)}


class SharedClassifier(TwoHeads):
    """Deep supervision: one classifier of two feature maps."""

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.body(x)
        return self.head(self.rest(first).flatten(1)), self.head(first.flatten(1))


class Likely(TwoHeads):
    """The second head ends in a softmax."""

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, aux = super().heads(x)
        return logits, aux.softmax(1)


class Maps(nn.Module):
    """Deep supervision of a segmentation: a class per pixel, twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.rest = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.head, self.side = nn.Conv2d(6, CLASSES, 1), nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.body(x).sigmoid()
        return {"logits": self.head(self.rest(first).sigmoid()), "aux": self.side(first)}


def coarse(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Classes, and beside them whether a class is even, at a head of two."""
    return F.cross_entropy(outputs["logits"], labels) + 0.5 * F.cross_entropy(outputs["aux"], labels % 2)


def margin(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss of one head."""
    return F.multi_margin_loss(outputs, labels, p=2)


def trained(
    module: nn.Module,
    x: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    weights: Sequence[float] = (1.0, 0.3),
) -> list[Tensor]:
    """The gradient of the weighted sum of a loss over a module's outputs, as a training loop has it."""
    found = module(x)
    outputs = list(found.values()) if isinstance(found, dict) else list(found)
    total = torch.stack([w * loss(output, labels) for w, output in zip(weights, outputs, strict=False)]).sum()
    return list(torch.autograd.grad(total, list(module.parameters()), allow_unused=True, materialize_grads=True))


def onnx_of(module: nn.Module, path: Path, names: Sequence[str] = ("logits", "aux")) -> Path:
    """Export to ONNX with any batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.rand(2, *SHAPE),), str(path), dynamo=False, opset_version=17, input_names=["x"],
            output_names=list(names), dynamic_axes={name: {0: "N"} for name in ["x", *names]},
        )  # fmt: skip
    return path


def program_of(module: nn.Module, path: Path) -> Path:
    """Export to ``.pt2`` with any batch size."""
    sizes = ({0: torch.export.Dim("N")},)
    torch.export.save(torch.export.export(module.eval(), (torch.rand(2, *SHAPE),), dynamic_shapes=sizes), path)
    return path


def samples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth pictures and their classes."""
    generator = torch.Generator().manual_seed(seed)
    coarse_pictures = torch.rand((count, 3, 4, 4), generator=generator)
    pictures = F.interpolate(coarse_pictures, size=SHAPE[1:], mode="bilinear", align_corners=False)
    return pictures, torch.randint(CLASSES, (count,), generator=generator)
