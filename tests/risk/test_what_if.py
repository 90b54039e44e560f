"""Changed architectures against building them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from leakaudit.errors import UsageError
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.ranked import RankReport
from leakaudit.risk.what_if import parse, smallest_changes, what_if
from leakaudit.target.target import Target
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
    open_directions = [v.report.propagated_deficit for v in found if v.report.propagated_deficit is not None]
    assert open_directions == sorted(open_directions)  # each does more than the cheaper ones
    assert open_directions[-1] > 0


def test_a_change_is_said_in_a_sentence() -> None:
    told = what_if(lenet(), (parse("stride=conv1:3"),)).sentence()
    assert told.startswith("Change the stride of layer conv1 to 3: then ")
    assert "directions of the input (risk " in told
    assert told.endswith("leakaudit rank … --what-if stride=conv1:3)")
    bias = what_if(lenet(), (parse("bias=conv1:off"),)).sentence()
    assert bias.startswith("Remove the bias of layer conv1: then ")


@pytest.mark.parametrize(
    "text", ["stride", "stride=conv1", "depth=conv1:2", "stride=conv1:zwei", "stride=conv1:0", "width=:3"]
)
def test_unreadable_changes(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["stride=conv9:2", "stride=fc1:2", "width=fc1:3", "pool=conv1:99", "pool=fc1:2"])
def test_changes_that_do_not_fit(text: str) -> None:
    with pytest.raises(UsageError):
        what_if(cnn6(), (parse(text),))


# ---- several paths ---------------------------------------------------------------------------------------------------


class Stage(nn.Module):
    """Two residual blocks, the first with a projection, then a depthwise layer and a concatenation."""

    def __init__(self, stem: int, width: int, stride: int) -> None:
        super().__init__()
        middle = 6
        self.stem = nn.Sequential(conv(3, stem, 3, 1, 1), nn.BatchNorm2d(stem))
        self.a1, self.a2 = conv(stem, middle, 3, stride, 1), conv(middle, width, 3, 1, 1)
        self.project = conv(stem, width, 1, stride)
        self.b1, self.b2 = conv(width, middle, 3, 1, 1), conv(middle, width, 3, 1, 1)
        self.depthwise = conv(width, width, 3, 1, 1, groups=width)
        self.c1, self.c2 = conv(width, 3, 1), conv(width, 5, 1)
        size = (12 - 1) // stride + 1
        self.head = nn.Linear(8 * size * size, 4)
        self.act = leaky()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = self.act(self.a2(self.act(self.a1(x))) + self.project(x))
        x = self.depthwise(self.act(self.b2(self.act(self.b1(x))) + x))
        result: Tensor = self.head(torch.cat([self.c1(x), self.c2(x)], 1).flatten(1))
        return result


def stage(stem: int = 8, width: int = 8, stride: int = 1) -> Target:
    torch.manual_seed(0)
    return target(Stage(stem, width, stride), (3, 12, 12), 4)


def rows(report: RankReport) -> list[tuple[object, ...]]:
    return [
        (r.kind, r.unknowns, r.gradient, r.weight, r.virtual, r.rank, r.deficit, r.propagated) for r in report.layers
    ]


@pytest.mark.parametrize(
    ("text", "built", "pulled"),
    [
        ("width=stem.0:4", stage(stem=4), set()),
        ("width=a2:4", stage(width=4), {"project", "b2"}),
        ("width=b2:12", stage(width=12), {"project", "a2"}),
        ("stride=a1:2", stage(stride=2), {"project"}),
        ("stride=project:3", stage(stride=3), {"a1"}),
    ],
)
def test_paths_that_meet_change_together_as_if_rebuilt(text: str, built: Target, pulled: set[str]) -> None:
    variant = what_if(stage(), (parse(text),))
    assert rows(variant.report) == rows(rank_analysis(built, seconds=0.0))
    assert {change.layer for change in variant.implied} == pulled
    before, after = (sum(p.numel() for p in model.parameters.values()) for model in (stage(), built))
    grown = abs(math.log(after / before))
    assert variant.cost >= grown - 1e-12


def test_changes_named_together_are_taken_as_they_are() -> None:
    variant = what_if(stage(), (parse("stride=a1:2"), parse("stride=project:2")))
    assert variant.implied == ()
    assert rows(variant.report) == rows(rank_analysis(stage(stride=2), seconds=0.0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stride=b1:2", ("add2", "(8, 6, 6)", "(8, 12, 12)")),
        ("pool=b1:2", ("add2", "(8, 6, 6)")),
        ("width=head:3", ("classes",)),
        ("width=depthwise:4", ("depthwise", "input")),
        ("width=stem:4", ("no layer 'stem'", "stem.0")),
    ],
)
def test_what_does_not_fit_names_the_node_in_the_way(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        what_if(stage(), (parse(text),))
    assert all(word in caught.value.message + caught.value.hint for word in words)
    assert caught.value.hint


def test_width_of_a_stream_that_starts_at_the_input() -> None:
    model = target(nn.Sequential(Residual(3, 3), nn.Flatten(), nn.Linear(48, 4)), (3, 4, 4), 4)
    with pytest.raises(UsageError, match="tied to the model's input"):
        what_if(model, (parse("width=conv2:8"),))
    assert what_if(model, (parse("width=conv1:8"),)).report.layers[0].unknowns == 48


def test_smallest_changes_of_a_residual_network() -> None:
    found = smallest_changes(stage())
    assert found
    assert [v.cost for v in found] == sorted(v.cost for v in found)
    assert found[-1].report.propagated_deficit


def test_command_line_on_a_residual_file(data: Path) -> None:
    from leakaudit.cli.rank import rank

    model = data / "onnx_nolicence" / "resnet20_cifar_pt16_op9_bn.onnx"
    if not model.exists():
        pytest.skip(f"no {model}")
    run = CliRunner().invoke(rank, [str(model), "--what-if", "width=conv1:8", "--format", "json"])
    assert run.exit_code == 0
    document = json.loads(run.stdout)
    assert document["what_if"]["changes"] == ["width=conv1:8"]
    assert len(document["what_if"]["implied"]) == 3
    assert document["what_if"]["rank"]["propagated_deficit"] > document["rank"]["propagated_deficit"]
    assert document["smallest_changes"]


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
