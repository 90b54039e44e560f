"""Weights with a factory, exported programs, modules: the same update as the original, and dropout in hand."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from leakaudit.errors import ModelError, UsageError
from leakaudit.target import Target, load
from leakaudit.target.dropout import Dropout, dropout_layers, injected_masks, record
from leakaudit.tasks.multi_label import MultiLabel
from tests.target import zoo


class Functional(nn.Module):
    """Dropout in every form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True)
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.dropout2d(self.conv(x), 0.3, self.training)
        tokens = maps.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        first = F.dropout(mixed, p=0.1, training=self.training).mean(1)
        return self.head(self.drop(first))


def without_dropout(module: nn.Module) -> nn.Module:
    for child in module.modules():
        if isinstance(child, nn.Dropout | Dropout):
            child.p = 0.0
        if isinstance(child, nn.MultiheadAttention):
            child.dropout = 0.0
    return module


def expected(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(F.cross_entropy(model(x), y), list(named.values())), strict=True))


def same_update(target: Target, reference: dict[str, Tensor], x: Tensor, y: Tensor) -> None:
    update = target.gradient(x, y)
    assert set(update) == set(reference)
    for name, value in reference.items():
        assert float((update[name] - value).norm()) <= 1e-5 * float(value.norm()) + 1e-8, name


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def make(name: str) -> str:
        text = f"from tests.target import zoo\n\nbuild = zoo.ZOO[{name!r}][0]\n\ndef wrong():\n    return 3\n"
        (tmp_path / "user_model.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "user_model", raising=False)
        return "user_model:build"

    return make


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    "name", ["mlp", "residual", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18", "vit"))]
)
def test_parity_of_all_formats(tmp_path: Path, factory, name: str, mode) -> None:
    model, shape = zoo.build(name)
    x, y = torch.rand(8, *shape), torch.arange(8)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "checkpoint.th")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
    zoo.export(model, shape, tmp_path / "m.onnx", "legacy_unfolded", 17)
    reference = expected(without_dropout(model).train(mode == "train"), x, y)
    options = {"factory": factory(name), "image_shape": shape, "mode": mode}
    targets = [load(tmp_path / file, **options) for file in ("w.pt", "checkpoint.th", "w.safetensors")]
    targets += [load(tmp_path / "m.pt2", trust=True, mode=mode), load(tmp_path / "m.onnx", mode=mode)]
    targets.append(load(model, image_shape=shape, mode=mode))
    for target in targets:
        without_dropout(target.module)
        same_update(target, reference, x, y)


def test_dropout_of_every_form_is_recorded_and_injected() -> None:
    torch.manual_seed(0)
    target = load(Functional(), image_shape=(3, 6, 6), mode="train")
    assert sorted(layer.kind for layer in dropout_layers(target.module).values()) == [
        "attention",
        "channel",
        "element",
        "element",
    ]
    x = torch.rand(3, 3, 6, 6)
    with record(target.module, torch.Generator().manual_seed(1)) as steps:
        first = target.logits(x)
    (masks,) = steps
    assert len(masks) == 4
    with record(target.module, torch.Generator().manual_seed(1)):
        torch.testing.assert_close(target.logits(x), first)
    floats = {name: mask.clone().requires_grad_() for name, mask in masks.items()}
    with injected_masks(target.module, floats):
        again = target.logits(x)
    torch.testing.assert_close(again, first)
    grads = torch.autograd.grad(again.square().sum(), list(floats.values()))
    assert all(bool(g.any()) for g in grads)
    assert not torch.equal(target.logits(x), first)


def test_expectation_of_dropout_is_the_input() -> None:
    layer = Dropout(0.25).train()
    with record(layer, torch.Generator().manual_seed(0)) as steps:
        mean = layer(torch.ones(20000, 3)).mean()
    assert abs(float(mean) - 1) < 0.02
    assert steps[0][""].shape == (20000, 3)
    assert layer.eval()(torch.ones(2)).tolist() == [1.0, 1.0]


def test_mask_shapes_and_repeated_calls() -> None:
    layer = Dropout(0.5, "channel", "d").train()

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    module = Twice()
    with record(module) as steps:
        module(torch.rand(2, 3, 4, 4))
        module(torch.rand(2, 3, 4, 4))
    first, masks = steps
    assert first.keys() == masks.keys()
    assert not torch.equal(torch.cat(list(first.values())), torch.cat(list(masks.values())))
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == {"d": (2, 3, 1, 1), "d#1": (2, 3, 1, 1)}
    ones = {name: torch.ones(2, 3, 1, 1) * 0.5 for name in masks}
    with injected_masks(module, ones):
        x = torch.rand(2, 3, 4, 4)
        torch.testing.assert_close(module(x), x)


def test_batch_statistics_are_used_but_not_kept() -> None:
    model, shape = zoo.build("residual")
    target = load(model, image_shape=shape, mode="train")
    before = {name: buffer.clone() for name, buffer in target.module.named_buffers()}
    target.gradient(torch.rand(4, *shape), torch.arange(4))
    for name, buffer in target.module.named_buffers():
        assert torch.equal(buffer, before[name])


def test_missing_second_derivative_is_named() -> None:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(12, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch._C._nn.hardsigmoid(self.a(x.flatten(1))))

    notes = {note.id: note.message for note in load(Calls(), image_shape=(3, 2, 2)).fidelity}
    assert "hardsigmoid" in notes["LA930"]


def test_refusals(tmp_path: Path, factory) -> None:
    model, _ = zoo.build("mlp")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    make = factory("lenet")
    with pytest.raises(ModelError, match="without the architecture"):
        load(tmp_path / "w.pt")
    with pytest.raises(ModelError, match="does not fit"):
        load(tmp_path / "w.pt", factory=make)
    with pytest.raises(ModelError, match="returned int"):
        load(tmp_path / "w.pt", factory="user_model:wrong")
    with pytest.raises(UsageError, match=r"no_such_package:build.*No module named"):
        load(tmp_path / "w.pt", factory="no_such_package:build")
    with pytest.raises(UsageError, match=r"not of the form module:function"):
        load(tmp_path / "w.pt", factory="user_model")
    with pytest.raises(ModelError, match="maps of another size than the sample"):
        load(nn.Conv2d(3, 4, 3), image_shape=(3, 6, 6))
    with pytest.raises(ModelError, match="no trainable"):
        load(nn.Flatten(), image_shape=(3, 2, 2))


def test_pickled_module_needs_permission(tmp_path: Path) -> None:
    torch.save(zoo.build("mlp")[0], tmp_path / "m.pt")
    with pytest.raises(ModelError, match="pickle"):
        load(tmp_path / "m.pt")
    assert load(tmp_path / "m.pt", unsafe_pickle=True, image_shape=(3, 8, 8)).classes == 10


class Auxiliary(nn.Module):
    """Returns a second head in train mode, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.other = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = x.flatten(1)
        return (self.head(x), self.other(x)) if self.training else self.head(x)


class Mapping(Auxiliary):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(x.flatten(1))}


class Boxes(Auxiliary):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"boxes": self.head(x.flatten(1))[:, None], "scores": self.other(x.flatten(1))}


@dataclass
class Both:
    logits: Tensor
    aux_logits: Tensor


class Named(Auxiliary):
    def forward(self, x: Tensor) -> Both:
        return Both(self.head(x.flatten(1)), self.other(x.flatten(1)))


def test_one_of_several_outputs_is_audited_and_said() -> None:
    x = torch.rand((2, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    plain = load(Auxiliary(), image_shape=(3, 2, 2))
    assert plain.classes == 4
    assert not any(note.id == "LA911" for note in plain.fidelity)
    assert load(Mapping(), image_shape=(3, 2, 2)).classes == 4
    for module, chosen, wanted in (
        (Auxiliary(), None, "head"), (Auxiliary(), "1", "other"),
        (Named(), None, "head"), (Named(), "aux_logits", "other"),
        (Boxes(), "scores", "other"), (Boxes(), "1", "other"),
    ):  # fmt: skip
        target = load(module, image_shape=(3, 2, 2), mode="train", output=chosen)
        expected = getattr(module, wanted)(x.flatten(1))
        assert torch.equal(target.logits(x), expected)
        (note,) = [note for note in target.fidelity if note.id == "LA911"]
        assert "without what only trains the others" in note.message
        gradient = target.gradient(x, torch.zeros(2, dtype=torch.long))
        assert all((float(g.norm()) > 0) == (wanted in name) for name, g in gradient.items())
    with pytest.raises(ModelError, match=r"(?s)returns a mapping.*detection and models with several heads"):
        load(Boxes(), image_shape=(3, 2, 2))
    with pytest.raises(UsageError, match="has no output 'other'; it has boxes, scores"):
        load(Boxes(), image_shape=(3, 2, 2), output="other")
    with pytest.raises(UsageError, match="returns one tensor, and no output 'logits'"):
        load(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), image_shape=(3, 2, 2), output="logits")


def test_the_outputs_of_a_program_keep_their_names(tmp_path: Path) -> None:
    x = torch.rand((2, 3, 2, 2), generator=torch.Generator().manual_seed(0))

    class Heads(Auxiliary):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"risk": self.other(x.flatten(1)), "finding": self.head(x.flatten(1))}

    module = Heads().eval()
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "net.pt2")
    for chosen, wanted in ((None, module.other), ("finding", module.head), ("1", module.head)):
        target = load(tmp_path / "net.pt2", trust=True, output=chosen)
        assert torch.allclose(target.logits(x), wanted(x.flatten(1)), atol=1e-6)
        assert any("risk, finding" in note.message for note in target.fidelity)


def test_loss_must_fit_the_outputs() -> None:
    one, four = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    assumed = load(one, image_shape=(3, 2, 2))
    assert assumed.binary
    assert "LA922" in {note.id for note in assumed.fidelity}
    assert "LA922" not in {note.id for note in load(one, image_shape=(3, 2, 2), loss="bce").fidelity}
    assert load(four, image_shape=(3, 2, 2), loss="bce").task == MultiLabel(4)
    with pytest.raises(UsageError, match="an output per class"):
        load(one, image_shape=(3, 2, 2), loss="cross-entropy")


@pytest.mark.parametrize("kind", ["module", "exported"])
def test_batchnorm_statistics_are_chosen(tmp_path: Path, kind: str) -> None:
    x = torch.rand(4, 3, 16, 16)

    def logits(**options: object) -> Tensor:
        model, shape = zoo.build("residual")
        if kind == "module":
            return load(model, image_shape=shape, **options).logits(x)
        torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
        return load(tmp_path / "m.pt2", trust=True, **options).logits(x)

    running, batch = logits(), logits(mode="train")
    assert not torch.allclose(running, batch)
    torch.testing.assert_close(logits(mode="train", batchnorm="running"), running)
    torch.testing.assert_close(logits(batchnorm="batch"), batch)
    with pytest.raises(UsageError, match="no BatchNorm layers"):
        load(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), image_shape=(3, 2, 2), batchnorm="batch")


def test_dropout_is_put_behind_modules_by_name() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 4))
    names = [name for name, _ in model.named_parameters()]
    target = load(model, image_shape=(3, 2, 2), mode="train", dropout={"2": 0.25, "3": 0.5})
    assert {name: layer.p for name, layer in dropout_layers(target.module).items()} == {"2": 0.25, "3": 0.5}
    assert list(target.parameters) == names
    x = torch.rand(2, 3, 2, 2)
    with injected_masks(target.module, {"2": torch.ones(2, 6) * 0.75, "3": torch.zeros(2, 6)}):
        torch.testing.assert_close(target.logits(x), model[4].bias.expand(2, 4))
    with pytest.raises(UsageError, match="no module 'missing'"):
        load(model, image_shape=(3, 2, 2), dropout={"missing": 0.5})


def test_frozen_pattern_that_matches_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    assert list(load(model, image_shape=(3, 2, 2), frozen=["*.bias"]).parameters) == ["1.weight"]
    with pytest.raises(UsageError, match=r"'conv\*' matches no tensor"):
        load(model, image_shape=(3, 2, 2), frozen=["conv*"])
