"""Our reader of ``.pt2`` files against torch's own: the same numbers, gradients and names."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leakaudit.errors import ModelError
from leakaudit.target import load
from leakaudit.target.exported import from_exported
from tests.target import zoo


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.second(torch.relu(self.first(x))))
        return result


class Blocks(nn.Module):
    """Parts without gradients, lists, sizes, a constant, a branch and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last, self.drop = nn.Linear(6, 6), nn.Linear(6, 3), nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.rand(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            doubled = self.drop(x * 2)
            total = doubled.sum(1, keepdim=True)
        left, right = self.inner(doubled * self.scale).chunk(2, 1)
        hidden = torch.cat([right, left], 1) + total + x.new_ones(x.shape[0], 6)
        result: Tensor = torch.cond(x.sum() > 0, self.last, lambda h: self.last(h) * 2, (hidden,))
        return result[:, torch.arange(3, device=x.device)] + torch.tensor([1.0, 2.0, 3.0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(6, 5, batch_first=True, num_layers=2, bidirectional=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.lstm(x.unsqueeze(1).expand(-1, 4, -1))[0][:, -1])
        return result


class Named(nn.Module):
    """Returns a mapping, and has arguments that the export fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor, flag: bool = True, extra: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.last(x) if flag else x}


def export(model: nn.Module, x: Tensor, path: Path, decomposed: bool = False) -> Any:
    """An export on disk, and torch's own module of it; torch warns of what it does itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (x,))
        torch.export.save(program.run_decompositions() if decomposed else program, path)
        return torch.export.load(str(path)).module()


def _net(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    own: dict[str, Callable[[], nn.Module]] = {"tied": Tied, "blocks": Blocks, "recurrent": Recurrent, "named": Named}
    return (own[name](), (6,)) if name in own else zoo.build(name)


NAMES = ("tied", "blocks", "recurrent", "named", "lenet", "lstm", "encoder", "residual", "mobilenet_v3", "vit")
LONG = {("mobilenet_v3", False), ("mobilenet_v3", True), ("lstm", True), ("vit", True)}
"""Seconds each; smaller networks have their operators, whole and decomposed."""


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, of its `cond`
@pytest.mark.parametrize(
    ("name", "decomposed"),
    [
        pytest.param(name, decomposed, marks=[pytest.mark.slow] if (name, decomposed) in LONG else [])
        for name in NAMES
        for decomposed in (False, True)
    ],
)
def test_same_as_torch(tmp_path: Path, name: str, decomposed: bool) -> None:
    torch.manual_seed(0)
    model, shape = _net(name)
    x = torch.rand(3, *shape)
    theirs = export(model.eval(), x, tmp_path / "m.pt2", decomposed)
    ours = from_exported(tmp_path / "m.pt2").module.eval()
    expected, got = theirs(x), ours(x)
    if name == "named":
        assert isinstance(got, dict)
        expected, got = expected["logits"], got["logits"]
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    mine = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    assert list(mine) == list(wanted)
    assert {n for n, _ in ours.named_parameters()} == {n for n, _ in model.named_parameters()}
    gradients = torch.autograd.grad(got.square().sum(), list(mine.values()))
    reference = model(x)["logits"] if name == "named" else model(x)
    for a, b in zip(gradients, torch.autograd.grad(reference.square().sum(), list(wanted.values())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_dropout_without_gradients_can_be_recorded(tmp_path: Path) -> None:
    export(Blocks(), torch.rand(3, 6), tmp_path / "m.pt2")
    module = from_exported(tmp_path / "m.pt2").module
    found = [m for m in module.modules() if type(m).__name__ == "Dropout"]
    assert [layer.label for layer in found] == ["drop"]


def saved(path: Path) -> tuple[dict[str, bytes], nn.Module]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    export(model, torch.rand(1, 3, 2, 2), path)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}, model


def test_formats_of_earlier_versions(tmp_path: Path) -> None:
    members, model = saved(tmp_path / "new.pt2")
    state, nothing = io.BytesIO(), io.BytesIO()
    torch.save(dict(model.state_dict()), state)
    torch.save({}, nothing)
    for old, content in (("serialized_state_dict.pt", state), ("serialized_state_dict.json", state)):
        with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
            archive.writestr("version", "8.8")
            archive.writestr("serialized_exported_program.json", members["models/model.json"])
            archive.writestr(old, content.getvalue())
            archive.writestr("serialized_constants.pt", nothing.getvalue())
            archive.writestr("serialized_example_inputs.pt", b"never opened")
        target = load(tmp_path / "old.pt2", trust=True)
        x = torch.rand(1, 3, 2, 2)
        torch.testing.assert_close(target.logits(x), model(x))


def repack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"m/{name}", content)
    return path


def settings(members: dict[str, bytes], **change: Any) -> dict[str, bytes]:
    """The members with other settings of the weight."""
    key = "data/weights/model_weights_config.json"
    content = json.loads(members[key])
    content["config"]["1.weight"]["tensor_meta"].update(change)
    return {**members, key: json.dumps(content).encode()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sizes": [{"as_int": 4}, {"as_int": 13}]}, "reaches beyond"),
        ({"storage_offset": {"as_int": 1}}, "reaches beyond"),
        ({"sizes": [{"as_int": 1 << 20}, {"as_int": 1 << 20}], "strides": [{"as_int": 0}] * 2}, "reaches beyond"),
        ({"storage_offset": {"as_int": -1}}, "no readable shape"),
        ({"sizes": [{"as_expr": {"expr_str": "4"}}, {"as_int": 12}]}, "no readable shape"),
        ({"strides": [{"as_int": 12}]}, "no readable shape"),
        ({"dtype": 99}, "no readable shape"),
    ],
)
def test_weights_stay_within_their_bytes(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    members, _ = saved(tmp_path / "good.pt2")
    with pytest.raises(ModelError, match=reason):
        load(repack(tmp_path / "bad.pt2", settings(members, **change)), trust=True)


@pytest.mark.parametrize(
    "missing", ["models/model.json", "data/weights/weight_0", "data/weights/model_weights_config.json"]
)
def test_incomplete_archives(tmp_path: Path, missing: str) -> None:
    members, _ = saved(tmp_path / "good.pt2")
    del members[missing]
    with pytest.raises(ModelError):
        load(repack(tmp_path / "bad.pt2", members), trust=True)


def test_damaged_graphs_never_crash(tmp_path: Path) -> None:
    members, _ = saved(tmp_path / "good.pt2")
    text = members["models/model.json"].decode()
    for start in range(0, len(text), 97):
        for damaged in (text[:start] + text[start + 40 :], text[:start] + "1" + text[start + 1 :]):
            bad = repack(tmp_path / "bad.pt2", {**members, "models/model.json": damaged.encode()})
            try:
                load(bad, trust=True)
            except ModelError:
                continue


def test_other_control_flow_is_named(tmp_path: Path) -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch._higher_order_ops.map(lambda row: row * 2, x)

    export(Loop(), torch.rand(3, 6), tmp_path / "m.pt2")
    with pytest.raises(ModelError, match="control flow"):
        load(tmp_path / "m.pt2", trust=True)
