"""Which entries an update depends on, how much, and models without a slope."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from leakaudit.risk.dependence import HARDLY, PROBES, _change, dependence, read_entries
from leakaudit.risk.rank import rank_analysis
from leakaudit.target import load
from tests.attacks.slices import SHAPE, Crop, Partly, Slices
from tests.conftest import make_target, small_cnn, small_mlp
from tests.risk.nets import lenet


class Steps(nn.Module):
    """What becomes of trees: comparisons, and a matrix behind them."""

    def __init__(self, slope: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.slope = nn.Linear(432, 16), nn.Linear(16, 5), slope

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        hidden = (self.first(flat) > 0).to(x.dtype)
        if self.slope:
            hidden = hidden + flat[:, :16]
        logits: Tensor = self.head(hidden)
        return logits


def deep_sigmoids() -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(6) for part in (nn.Linear(432, 432), nn.Sigmoid())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(432, 5))


def test_entries_that_are_read() -> None:
    strided = nn.Sequential(nn.Conv2d(3, 8, 1, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert int(read_entries(make_target(strided, SHAPE, 5)).sum()) == 3 * 16
    assert int(read_entries(make_target(Crop(), SHAPE, 5)).sum()) == 108
    for module in (small_cnn(), Slices(2), Partly(225)):
        assert bool(read_entries(make_target(module, SHAPE, 5)).all())


def test_a_weight_of_zero_hides_nothing_from_its_gradient() -> None:
    """Logits of a zero-initialised model depend on nothing; its update shows the input."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 5))
    nn.init.zeros_(module[1].weight)
    assert bool(read_entries(make_target(module, SHAPE, 5)).all())


@pytest.mark.parametrize("slope", [False, True])
def test_a_comparison_reads_what_it_compares(slope: bool) -> None:
    """It has no slope in any entry, or in all but sixteen, and depends on every one."""
    assert bool(read_entries(make_target(Steps(slope), SHAPE, 5)).all())


def test_how_much_an_update_depends_on_the_sample() -> None:
    for target in (make_target(small_mlp(), SHAPE, 5), make_target(small_cnn(), SHAPE, 5), lenet()):
        found = dependence(target)
        assert found.change is not None
        assert found.change > HARDLY
        assert (found.flat, found.told) == (False, "")
    steps, vanishing = (dependence(make_target(module, SHAPE, 5)) for module in (Steps(), deep_sigmoids()))
    assert steps.flat
    assert "slope" in steps.told
    assert vanishing.change is not None
    assert vanishing.change < HARDLY
    assert "hardly depends" in vanishing.told


class Counting(nn.Module):
    """Notes the size of every batch that goes through."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.sizes = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        result: Tensor = self.inner(x)
        return result


def test_samples_go_one_by_one_where_they_do_not_influence_each_other() -> None:
    target = make_target(Counting(small_cnn()), SHAPE, 5)
    target.module.sizes.clear()
    assert dependence(target).told == ""
    assert read_entries(target).all()
    assert {*target.module.sizes} == {1}
    normalised = make_target(Counting(nn.Sequential(nn.BatchNorm2d(3), small_cnn())), SHAPE, 5)
    for module in normalised.module.modules():
        module.train()
    normalised.module.sizes.clear()
    assert dependence(normalised).told == ""
    assert 1 not in normalised.module.sizes


def test_one_pair_tells_nearly_always_and_several_where_the_change_is_small() -> None:
    plain, vanishing = (make_target(Counting(module), SHAPE, 5) for module in (small_mlp(), deep_sigmoids()))
    for target, updates in ((plain, 2), (vanishing, 2 + 2 * PROBES)):
        target.module.sizes.clear()
        _change(target)
        assert len(target.module.sizes) == updates


def test_a_large_update_is_looked_at_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (small_cnn(), deep_sigmoids()):
        target = make_target(module, SHAPE, 5)
        whole, names = dependence(target), [*target.parameters]
        with monkeypatch.context() as patch:
            for place in ("HELD", "TWICE"):
                patch.setattr(f"leakaudit.risk.dependence.{place}", 4000)
            grouped = dependence(target)
        assert grouped.change == pytest.approx(whole.change, rel=1e-5)
        assert (grouped.flat, [*target.parameters]) == (whole.flat, names)


def test_a_zero_head_has_a_slope_in_its_update_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 5))
    nn.init.zeros_(module[4].weight)
    target = make_target(module, SHAPE, 5)
    assert not dependence(target).flat
    monkeypatch.setattr("leakaudit.risk.dependence.TWICE", 400)
    assert not dependence(target).flat
    assert bool(read_entries(target).all())


def test_rank_analysis_says_so() -> None:
    report = rank_analysis(make_target(Steps(), SHAPE, 5))
    assert any("slope" in note for note in report.notes)
    section = report.to_document()
    assert section.update_flat
    assert section.update_told
    assert not rank_analysis(make_target(small_cnn(), SHAPE, 5)).to_document().update_told


def test_a_model_that_rescales_pixels_by_itself(data: Path) -> None:
    """Fed pixels in 0..1 it would hardly see them; it is fed what it was trained on, and does."""
    path = data.parent / "cases" / "onnx" / "rescale_keras.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name} beside the test data")
    target = load(str(path))
    assert dependence(target).told == ""
    domain = replace(target.domain, std=(1.0,), white=1.0)
    assert "hardly depends" in dependence(replace(target, domain=domain)).told
