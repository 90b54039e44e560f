"""Changed architectures against building them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import nn

from leakaudit.errors import UsageError
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.what_if import parse, smallest_changes, what_if
from tests.risk.nets import Residual, cnn6, conv, leaky, lenet, target


def test_width_equals_building_the_changed_model() -> None:
    changed = what_if(cnn6(), (parse("width=conv2:20"),)).report
    built = rank_analysis(cnn6(20))
    numbers = [(r.unknowns, r.gradient, r.weight, r.virtual, r.rank, r.deficit, r.propagated) for r in changed.layers]
    assert numbers == [
        (r.unknowns, r.gradient, r.weight, r.virtual, r.rank, r.deficit, r.propagated) for r in built.layers
    ]
    assert (changed.level, changed.score) == (built.level, built.score)


def test_stride_and_pool_equal_building_the_changed_model() -> None:
    def net(stride: int, pool: bool) -> nn.Module:
        size = (16 // stride) // (2 if pool else 1)
        middle = [nn.MaxPool2d(2)] if pool else []
        return nn.Sequential(conv(3, 6, 3, stride, 1), leaky(), *middle, nn.Flatten(), nn.Linear(6 * size * size, 4))

    base = target(net(1, False), (3, 16, 16), 4)
    for text, built in (("stride=conv1:2", net(2, False)), ("pool=conv1:2", net(1, True))):
        changed, real = what_if(base, (parse(text),)).report, rank_analysis(target(built, (3, 16, 16), 4))
        assert [(r.unknowns, r.weight, r.rank) for r in changed.layers] == [
            (r.unknowns, r.weight, r.rank) for r in real.layers
        ]
        assert changed.propagated_deficit == real.propagated_deficit
    pooled = target(net(1, True), (3, 16, 16), 4)
    without = what_if(pooled, (parse("pool=conv1:1"),)).report
    assert [(r.kind, r.weight, r.rank) for r in without.layers] == [
        (r.kind, r.weight, r.rank) for r in rank_analysis(base).layers
    ]


def test_bias_decides_the_exact_leak() -> None:
    model = target(nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 4)), (3, 4, 4), 4)
    assert rank_analysis(model).level == "exact leak"
    assert what_if(model, (parse("bias=fc1:off"),)).report.level == "identifiable"


def test_smallest_changes_are_improvements_in_order_of_cost() -> None:
    found = smallest_changes(lenet())
    assert found
    assert [v.cost for v in found] == sorted(v.cost for v in found)
    assert all(v.report.score is not None and v.report.score < 1.0 for v in found)


@pytest.mark.parametrize(
    "text", ["stride", "stride=conv1", "depth=conv1:2", "stride=conv1:zwei", "stride=conv1:0", "width=:3"]
)
def test_unreadable_changes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["stride=conv9:2", "stride=fc1:2", "width=fc1:3", "pool=conv1:99", "pool=fc1:2", "stride=conv1:2"]
)
def test_changes_that_do_not_fit(text: str) -> None:
    if text == "stride=conv1:2":
        model = target(nn.Sequential(Residual(3, 3), nn.Flatten(), nn.Linear(48, 4)), (3, 4, 4), 4)
    else:
        model = cnn6()
    with pytest.raises(UsageError):
        what_if(model, (parse(text),))


def test_command_line(data: Path) -> None:
    from leakaudit.cli.rank import rank

    model = str(data / "onnx" / "lenet5_pt17_op10.onnx")
    result = CliRunner().invoke(
        rank, [model, "--what-if", "stride=conv1:2", "--format", "json"], catch_exceptions=False
    )
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["rank"]["risk"] == "high"
    assert document["what_if"]["changes"] == ["stride=conv1:2"]
    assert document["what_if"]["rank"]["score"] < document["rank"]["score"]
    shown = CliRunner().invoke(rank, [model], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "risk high" in shown.stdout
