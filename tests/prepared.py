"""Folders with tiny models, samples, updates and reports under the names that the documentation uses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import leakaudit
from leakaudit.capture import record
from tests import tables
from tests.cli.build import export
from tests.conftest import smooth_images

NETS = '''
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.ReLU(), nn.Linear(16, 5))


class Adapted(nn.Module):
    """A classifier of texts of which only an adapter of rank 4 and the last layer are trained."""

    def __init__(self):
        super().__init__()
        self.table, self.base = nn.Embedding(40, 12), nn.Linear(12, 12)
        self.down, self.up, self.head = nn.Linear(12, 4, bias=False), nn.Linear(4, 12, bias=False), nn.Linear(12, 3)
        for frozen in (self.table, self.base):
            frozen.requires_grad_(False)

    def forward(self, ids):
        x = self.table(ids)
        return self.head((self.base(x) + self.up(self.down(x))).relu().mean(1))


def adapted():
    torch.manual_seed(0)
    return Adapted()
'''
MODELS = '''
import torch
from torch import nn


class Examined(nn.Module):
    """A classifier of a picture of 64 pixels a side with three numbers beside it."""

    def __init__(self):
        super().__init__()
        self.seen, self.head = nn.Conv2d(1, 4, 8, stride=8), nn.Linear(4 * 64 + 3, 3)

    def forward(self, image, row):
        return self.head(torch.cat([self.seen(image).sigmoid().flatten(1), row], 1))


def build():
    torch.manual_seed(0)
    return Examined()
'''
PRIORS = """
import torch
from torch import nn


def faces():
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(8, 432), nn.Sigmoid(), nn.Unflatten(1, (3, 12, 12)))
    generator.latent = 8
    return generator
"""
FILTERS = "def apply(update, generator):\n    return {name: tensor * 0.5 for name, tensor in update.items()}\n"
POLICY = """
preset = "quick"
victims = 1
controls = "none"
evidence = "full"
cache = false
format = ["json", "html"]
attack = ["linear", "ig", "embedding"]
set = ["ig.iterations=10"]
"""
"""What makes a scan of tiny files quick; it says nothing that a command line of the documentation says."""
SWEEP = """
[scan]
batch = "batch.npz"
preset = "quick"
victims = 1
attack = ["linear"]
model = "model.onnx"
controls = "none"
[grid]
seed = [0, 1]
"""
RATE = 0.05


def mlp() -> nn.Module:
    """The network of ``net`` in nets.py."""
    space: dict[str, Any] = {}
    exec(NETS, space)
    module: nn.Module = space["net"]()
    return module


def adapted() -> nn.Module:
    """That of ``adapted``."""
    space: dict[str, Any] = {}
    exec(NETS, space)
    module: nn.Module = space["adapted"]()
    return module


def _loss(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(inputs), labels)


def _trained(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state after one step of SGD."""
    client = copy.deepcopy(module)
    parameters = [p for p in client.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, RATE)
    _loss(client, inputs, labels).backward()
    optimizer.step()
    return dict(client.state_dict())


def _arrays(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


def images(folder: Path) -> None:
    """A classifier of images, samples, a client's update in several formats, and reports."""
    x, y = smooth_images(16), np.arange(16) % 5
    net = mlp()
    for name in ("model.onnx", "net.onnx"):
        export(net, folder / name)
    for name in ("batch.npz", "sample.npz", "local.npz"):
        np.savez(folder / name, x=x, y=y)
    inputs = (x / 255 if x.dtype == np.uint8 else x).astype(np.float32)
    one, label = torch.from_numpy(inputs[:1]), torch.from_numpy(y[:1])
    for name in ("step.npz", "client0.npz"):
        np.savez(folder / name, x=x[:1], y=y[:1])
    names = [name for name, _ in net.named_parameters()]
    gradients = torch.autograd.grad(_loss(net, one, label), list(net.parameters()))
    pruned = [torch.where(g.abs() >= g.abs().flatten().quantile(0.9), g, torch.zeros(())) for g in gradients]
    np.savez(folder / "update.npz", **dict(zip(names, (g.numpy() for g in pruned), strict=True)))
    after = _trained(net, one, label)
    torch.save(dict(net.state_dict()), folder / "global.pt")
    torch.save(after, folder / "client0.pt")
    np.savez(folder / "sent0.npz", **_arrays(after))
    np.savez(folder / "round7.npz", **_arrays(dict(net.state_dict())))
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    (folder / "my_filters.py").write_text(FILTERS, encoding="utf-8")
    (folder / "sweep.toml").write_text(SWEEP, encoding="utf-8")


def priors(folder: Path) -> None:
    """A generator of such images."""
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "__init__.py").touch()
    (folder / "mypackage" / "priors.py").write_text(PRIORS, encoding="utf-8")


def several(folder: Path) -> None:
    """A classifier of a picture and a row in three forms, and samples."""
    space: dict[str, Any] = {}
    exec(MODELS, space)
    module: nn.Module = space["build"]().eval()
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "__init__.py").touch()
    (folder / "mypackage" / "models.py").write_text(MODELS, encoding="utf-8")
    given, names = (torch.zeros(2, 1, 64, 64), torch.zeros(2, 3)), ["image", "row"]
    torch.onnx.export(
        module, given, str(folder / "model.onnx"), dynamo=False, opset_version=17, input_names=names,
        dynamic_axes={name: {0: "N"} for name in names},
    )  # fmt: skip
    batch = {0: torch.export.Dim("N")}
    torch.export.save(torch.export.export(module, given, dynamic_shapes=(batch, batch)), folder / "model.pt2")
    torch.save(module.state_dict(), folder / "weights.pt")
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(12, 1, 8, 8, generator=generator)
    pictures = nn.functional.interpolate(small, size=64, mode="bilinear").numpy()
    row = torch.randn(12, 3, generator=generator).numpy()
    np.savez(folder / "batch.npz", image=pictures, row=row, labels=np.arange(12) % 3)


def reports(folder: Path) -> None:
    """Two reports of the images' model, under every name that the pages use."""
    for number, names in enumerate((("before", "a"), ("after", "b", "report"))):
        report = leakaudit.scan(
            folder / "model.onnx", folder / "sample.npz", preset="quick", attacks=["linear"], victims=1,
            controls="none", seed=number,
        )  # fmt: skip
        for name in names:
            (folder / f"{name}.json").write_text(report.to_json(), encoding="utf-8")
    report.save(folder / "saved", formats=["html"])
    (folder / "saved" / "report.html").rename(folder / "report.html")


def adapter_round(folder: Path) -> None:
    """A recorded round of a client that trains an adapter."""
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    module = adapted()
    ids, labels = torch.arange(6).reshape(1, 6) + 3, torch.tensor([1])
    before, after = dict(module.state_dict()), _trained(module, ids, labels)
    torch.save(before, folder / "global.pt")
    record(before, after, out=folder / "rounds" / "mine", learning_rate=RATE, local_epochs=1, num_examples=1)
    np.savez(folder / "text.npz", inputs=ids.numpy(), labels=labels.numpy())


def text(folder: Path) -> None:
    """A classifier of texts."""
    torch.manual_seed(0)

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(40, 12), nn.Linear(12, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.table(ids).mean(1))
            return logits

    torch.onnx.export(
        Text().eval(), (torch.zeros(1, 6, dtype=torch.long),), str(folder / "text_model.onnx"), dynamo=False,
        opset_version=17, input_names=["input"], dynamic_axes={"input": {0: "N"}},
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(0, 40, (12, 6))
    np.savez(folder / "tokens.npz", inputs=ids, labels=np.arange(12) % 3, vocabulary=[f"word{n}" for n in range(40)])


def table(folder: Path) -> None:
    """A classifier of rows, in place of the images' model.onnx."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(tables.SIZE, 12), nn.ReLU(), nn.Linear(12, 2))
    torch.onnx.export(
        module.eval(), (torch.zeros(1, tables.SIZE),), str(folder / "model.onnx"), dynamo=False, opset_version=17,
        input_names=["input"], dynamic_axes={"input": {0: "N"}},
    )  # fmt: skip
    (folder / "schema.toml").write_text(tables.SCHEMA, encoding="utf-8")
    np.savez(folder / "rows.npz", inputs=tables.rows(16).reshape(16, -1).numpy(), labels=np.arange(16) % 2)
