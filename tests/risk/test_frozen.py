"""Models of which some layers are not trained, against the float64 rank of their update's Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

import pytest
import torch
from torch import nn

from leakaudit.risk.changes import Change
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.ranked import RankReport
from leakaudit.risk.what_if import smallest_changes, what_if
from leakaudit.target.modules import from_module
from leakaudit.target.target import Target
from tests.risk.nets import Act, conv, leaky, target
from tests.risk.partly_frozen import Adapter, fine_tuned, numerical_rank

SAMPLE, ALL = range(24), range(300)


def trained(module: nn.Module, patterns: Sequence[str], classes: int = 5, size: int = 12) -> Target:
    """The module with only the tensors that match trained, on 3 × size × size inputs."""
    for name, tensor in module.named_parameters():
        tensor.requires_grad_(any(fnmatch(name, pattern) for pattern in patterns))
    return target(module, (3, size, size), classes)


def body(*layers: nn.Module, features: int, classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    for layer in layers:
        for part in layer.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))


def told(report: RankReport) -> str:
    return next(note for note in report.notes if note.startswith("The update determines"))


def determined(report: RankReport) -> int:
    assert report.propagated_deficit is not None
    return report.unknowns - report.propagated_deficit


def agrees(model: Target, report: RankReport) -> None:
    """Never above the rank where uniqueness is said, equal to it where it was counted, not below it elsewhere."""
    ranks = {numerical_rank(model, seed) for seed in (0, 1)}
    if report.level in ("identifiable", "exact leak") or report.layers[0].unique is True:
        assert ranks == {report.unknowns}
    if "at most" in told(report):
        assert max(ranks) <= determined(report)
    elif " to " not in told(report):
        assert ranks == {determined(report)}


def all_agree(seeds: range, seconds: float | None, size: int = 6) -> int:
    """How many of the networks were counted exactly."""
    exact = 0
    for seed in seeds:
        model = fine_tuned(seed, size)
        report = rank_analysis(model, seconds=seconds)
        agrees(model, report)
        exact += "at most" not in told(report) and " to " not in told(report)
    return exact


def test_random_partly_frozen_networks() -> None:
    assert all_agree(SAMPLE, None) >= 2 * len(SAMPLE) // 3


def test_random_partly_frozen_networks_from_shapes_alone() -> None:
    all_agree(range(24, 40), 0.0)


@pytest.mark.slow
def test_three_hundred_partly_frozen_networks() -> None:
    """One run: 245 of 300 exactly, 55 from one rank to another, 0 wrong; from shapes alone, 0 wrong. 51 s of CPU."""
    assert all_agree(ALL, None) >= len(ALL) * 3 // 4
    all_agree(ALL, 0.0)


PUBLIC_REPORT = {  # the rank that is right, and the network for which all of 432 was said to be determined
    "two convolutions and pooling": (
        4,
        lambda: body(
            conv(3, 8, 3, 1, 1), nn.Tanh(), conv(8, 4, 3, 1, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), features=4
        ),
        ["6.*"],
    ),
    "biases only": (
        6,
        lambda: body(nn.Conv2d(3, 4, 3, 1, 1), nn.Tanh(), features=576, classes=3),
        ["*.bias"],
    ),
    "linear probe": (
        13,
        lambda: body(conv(3, 8, 3, 2, 1), nn.GELU(), conv(8, 13, 3, 2, 1), nn.AdaptiveAvgPool2d(1), features=13),
        ["5.*"],
    ),
    "max pooling": (
        25,
        lambda: body(conv(3, 1, 3, 1, 0), nn.LeakyReLU(), nn.MaxPool2d(2), features=25),
        ["4.*"],
    ),
    "flatten": (152, lambda: body(conv(3, 38, 6, 6, 0), nn.Tanh(), features=152), ["3.*"]),
}


@pytest.mark.parametrize("name", PUBLIC_REPORT)
@pytest.mark.parametrize("seconds", [None, 0.0])
def test_outputs_of_untrained_layers_are_not_known(name: str, seconds: float | None) -> None:
    rank, make, patterns = PUBLIC_REPORT[name]
    model = trained(make(), patterns, classes=3 if name == "biases only" else 5)
    report = rank_analysis(model, seconds=seconds)
    assert numerical_rank(model) == rank
    assert determined(report) == rank
    assert (report.level, report.layers[0].unique) == ("partially identifiable", False)
    assert report.risk == ("medium" if rank > 0.3 * 432 else "low")
    assert report.score is not None
    assert report.score < 0.6
    assert any("not trained" in note for note in report.notes)


def test_units_that_are_active_decide() -> None:
    """With ReLU the rank is another for every input: the report says from where to where."""
    model = trained(body(conv(3, 6, 3, 2, 1), nn.ReLU(), features=216), ["3.*"])
    report = rank_analysis(model)
    assert " to " in told(report)
    assert "random inputs" in told(report)
    assert numerical_rank(model) <= determined(report) <= 216


def test_adapters_and_biases() -> None:
    torch.manual_seed(0)
    adapted = trained(body(conv(3, 6, 3, 1, 1), nn.GELU(), Adapter(6), features=864), ["2.*"])
    report = rank_analysis(adapted)
    assert determined(report) == numerical_rank(adapted) < 60  # 26 weights and biases, whatever they say
    bitfit = trained(body(nn.Conv2d(3, 6, 3, 1, 1), nn.GELU(), nn.Conv2d(6, 4, 3, 2, 1), features=144), ["*.bias"])
    report = rank_analysis(bitfit)
    assert determined(report) == numerical_rank(bitfit) <= 6 + 4 + 5


def test_low_rank_adapters() -> None:
    """A weight that is computed from frozen and trained tensors: W + B A."""

    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(9, 108) / 10)
            self.a, self.b = nn.Parameter(torch.randn(2, 108) / 10), nn.Parameter(torch.randn(9, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight + self.b @ self.a)

    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), LowRank(), nn.Tanh(), nn.Linear(9, 5))
    model = trained(module, ["1.a", "1.b"], size=6)
    report = rank_analysis(model)
    agrees(model, report)
    assert determined(report) >= numerical_rank(model)


@pytest.mark.parametrize(("patterns", "expected"), [(["0.*"], "prefix"), (["0.*", "2.*"], "probe"), (["4.*"], "head")])
def test_patterns_of_frozen(patterns: list[str], expected: str) -> None:
    """As `--frozen` names them, on a module all of whose tensors could be trained."""
    module = body(conv(3, 4, 3, 2, 1), leaky(), conv(4, 2, 3, 1, 1), features=2 * 9)
    model = from_module(module, (3, 6, 6), patterns, "eval", name=expected)
    report = rank_analysis(model)
    agrees(model, report)
    assert determined(report) <= {"prefix": 36, "probe": 18, "head": 108}[expected]
    assert any(f"{patterns[0][0]}" in note and "not trained" in note for note in report.notes)


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU])
def test_a_bound_that_rules_nothing_out_is_no_finding(act: Act) -> None:
    """Too large to measure, and the cut leaves nothing open: neither a level nor a score is said."""
    module = body(conv(3, 16, 3, 1, 1), act(), conv(16, 16, 3, 1, 1), act(), features=16 * 2304)
    model = trained(module, ["0.*"], size=48)
    report = rank_analysis(model)
    assert report.propagated_deficit is not None
    if report.propagated_deficit == 0:
        assert (report.level, report.risk, report.score) == ("counts unavailable", "unknown", None)
        assert "not trained" in report.score_reason
    else:
        assert report.level == "partially identifiable"
    assert report.layers[0].unique is not True


def test_a_frozen_stem_before_trained_layers_is_still_identifiable() -> None:
    """What follows determines its outputs: 12 filters of a 4 × 4 kernel, and R-GAP's network behind them."""
    model = trained(
        body(conv(3, 12, 4, 2, 2), leaky(), conv(12, 36, 3, 2, 1), leaky(), features=36 * 81), ["2.*", "5.*"], size=32
    )
    report = rank_analysis(model)
    assert report.level in ("identifiable", "exact leak")
    assert determined(report) == 3 * 32 * 32


def test_changes_of_a_partly_frozen_model_are_judged_so() -> None:
    model = trained(PUBLIC_REPORT["linear probe"][1](), ["5.*"])
    variant = what_if(model, (Change("width", "2", 6),))
    assert variant.report.propagated_deficit == 432 - 6
    assert all(v.report.level != "identifiable" for v in smallest_changes(model))
