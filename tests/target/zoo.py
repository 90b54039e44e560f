"""Small versions of common architectures, and every way in which torch exports them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision.models as tv
from torch import Tensor, nn


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 16, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(x.flatten(1, 2))
        return self.head(hidden[:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(24, 16)
        self.place = nn.Parameter(torch.randn(1, 24, 16) * 0.02)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.flatten(1, 2)) + self.place).mean(1))


class Residual(nn.Module):
    """A small network with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(*(tv.resnet.BasicBlock(8, 8) for _ in range(2)))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))


def vgg() -> nn.Module:
    features = tv.vgg.make_layers([8, "M", 16, "M", 16, 16, "M"])
    head = (nn.Linear(256, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(4), nn.Flatten(), *head)


def vit() -> nn.Module:
    return tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10)


def swin() -> nn.Module:
    return tv.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=10, stochastic_depth_prob=0.0)


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig

    return tv.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], 0.0, num_classes=10)


def densenet() -> nn.Module:
    return tv.DenseNet(8, (2, 2), 16, num_classes=10)


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "lenet": (lenet, (1, 28, 28)),
    "mlp": (mlp, (3, 8, 8)),
    "lstm": (Recurrent, (1, 24, 24)),
    "encoder": (Encoder, (1, 24, 24)),
    "residual": (Residual, (3, 16, 16)),
    "resnet18": (lambda: tv.resnet18(num_classes=10), (3, 32, 32)),
    "mobilenet_v2": (lambda: tv.mobilenet_v2(num_classes=10, width_mult=0.25), (3, 32, 32)),
    "mobilenet_v3": (lambda: tv.mobilenet_v3_small(num_classes=10, width_mult=0.5), (3, 32, 32)),
    "vgg": (vgg, (3, 32, 32)),
    "densenet": (densenet, (3, 32, 32)),
    "efficientnet_b0": (lambda: tv.efficientnet_b0(num_classes=10, stochastic_depth_prob=0.0), (3, 32, 32)),
    "convnext": (convnext, (3, 32, 32)),
    "vit": (vit, (3, 32, 32)),
    "swin": (swin, (3, 32, 32)),
}
KINDS = ("legacy", "legacy_train", "legacy_unfolded", "dynamo", "dynamo_unoptimised")
OPSETS = {"legacy": (13, 17, 18, 20), "legacy_train": (13, 17, 18, 20), "legacy_unfolded": (13, 17, 18, 20),
          "dynamo": (18, 20, 23), "dynamo_unoptimised": (18, 20, 23)}  # fmt: skip


def build(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A model with parameters and statistics that are all different from their initial values."""
    make, shape = ZOO[name]
    torch.manual_seed(0)
    model = make()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif key.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval(), shape


def export(
    model: nn.Module, shape: tuple[int, int, int], path: Path, kind: str, opset: int, dynamic: bool = True
) -> None:
    """Write ``path`` in one of the ways in `KINDS`."""
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {"opset_version": opset, "input_names": ["input"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind.startswith("legacy"):
            if dynamic:
                options["dynamic_axes"] = {"input": {0: "N"}}
            if kind == "legacy_train":
                options |= {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
                model.train()
            if kind == "legacy_unfolded":
                options["do_constant_folding"] = False
            torch.onnx.export(model, (x,), str(path), dynamo=False, **options)
            model.eval()
        else:
            if dynamic:
                options["dynamic_shapes"] = ({0: torch.export.Dim("N", min=1, max=64)},)
            options["optimize"] = kind == "dynamo"
            torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False, external_data=False, **options)


def cases() -> Iterator[tuple[str, str, int]]:
    """All (model, kind, opset)."""
    for name in ZOO:
        for kind in KINDS:
            for opset in OPSETS[kind]:
                yield name, kind, opset


def serialised(model: nn.Module) -> bytes:
    """The state dict of a model as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()
