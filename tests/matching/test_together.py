"""Several victims in one optimisation: the same as one after the other, and only where they cannot meet."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.matching.engine import MatchSettings, minimize, minimize_together
from leakaudit.matching.problem import GradientMatching
from leakaudit.matching.step import Step
from leakaudit.observation import Observation
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.target import Target
from tests.cli.build import leakaudit
from tests.conftest import make_target, small_cnn
from tests.matching.build import StopAfter, observation_of

TRACED = MatchSettings(iterations=30, signed=False, tv_weight=0.01, restarts=2, execution="traced")


@pytest.fixture
def net() -> Target:
    return make_target(small_cnn(), (3, 12, 12), 5)


@pytest.fixture
def victims(net: Target, samples: Batch, space: Images) -> list[Observation]:
    return [observation_of(net, samples.subset(positions), space) for positions in ([0, 1], [2, 3], [4, 4])]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_recorded_step_of_several_victims_is_each_ones_own(
    net: Target, victims: list[Observation], distance: str
) -> None:
    settings = MatchSettings(tv_weight=0.01, distance=distance)  # type: ignore[arg-type]
    problems = [GradientMatching(net, v, v.labels, settings) for v in victims if v.labels is not None]
    values = torch.randn(3, 2, 3, 12, 12, generator=cpu_generator(0))
    cases = [problem.case for problem in problems]
    recorded = Step(problems[0], ["inputs"], [values], "traced", cases)
    assert (recorded.mode, recorded.note) == ("traced", "")
    other = torch.randn(3, 2, 3, 12, 12, generator=cpu_generator(1))
    for step in (recorded, Step(problems[0], ["inputs"], [values], "eager", cases)):
        objective, match, (gradient,) = step([other])
        for r, problem in enumerate(problems):
            alone = Step(problem, ["inputs"], [values[:1]])([other[r : r + 1]])
            torch.testing.assert_close(objective[r : r + 1], alone[0], rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(match[r : r + 1], alone[1], rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(gradient[r : r + 1], alone[2][0], rtol=1e-3, atol=1e-6)


def test_together_is_as_in_turn(net: Target, victims: list[Observation]) -> None:
    found = minimize_together(net, victims, TRACED, [cpu_generator(i) for i in range(3)], SilentMonitor())
    assert found is not None
    for number, (result, victim) in enumerate(zip(found, victims, strict=True)):
        alone = minimize(net, victim, TRACED, cpu_generator(number), SilentMonitor())
        assert (result.inputs - alone.inputs).abs().max() < 1e-2
        assert result.match == pytest.approx(alone.match, rel=1e-2)
        assert result.iterations == alone.iterations
        assert torch.equal(result.labels, alone.labels)


def test_stops_with_the_best_so_far_of_each(net: Target, victims: list[Observation]) -> None:
    found = minimize_together(net, victims, TRACED, [cpu_generator(i) for i in range(3)], StopAfter(5))
    assert found is not None
    assert len(found) == 3
    assert all(result.stopped for result in found)


def test_victims_that_were_not_begun_are_left_out(
    net: Target, victims: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leakaudit.matching.memory.free_bytes", lambda device: 0)
    settings = replace(TRACED, restarts=1)
    generators = [cpu_generator(i) for i in range(3)]
    found = IG(IGSettings(**asdict(settings))).together(net, victims, generators, StopAfter(settings.iterations + 5))
    assert found is not None
    assert [(r.iterations, r.stopped) for r in found] == [(30, ""), (5, "stopped after 5 of 30 iterations")]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "lbfgs"},
        {"tolerance": 1e-9},
        {"patience": 5},
        {"schedule": "plateau"},
        {"group_weight": 0.1},
        {"execution": "eager"},
        {"execution": "auto"},
    ],
)
def test_in_turn_where_victims_would_wait_or_meet(
    net: Target, victims: list[Observation], changes: dict[str, Any]
) -> None:
    settings = replace(TRACED, **changes)
    generators = [cpu_generator(i) for i in range(3)]
    assert minimize_together(net, victims, settings, generators, SilentMonitor()) is None
    defended = [replace(victim, channel=lambda gradients: gradients) for victim in victims]
    assert minimize_together(net, defended, TRACED, generators, SilentMonitor()) is None
    assert IG(IG.presets["standard"]).together(net, victims, generators, SilentMonitor()) is None


def test_a_scan_attacks_its_victims_together_and_remembers_them(model: Path, batch: Path, tmp_path: Path) -> None:
    words = ("scan", model, "-b", batch, "--mean", 0.5, "--std", 0.25, "--preset", "quick", "--attack", "ig", "-q")
    plain = ("--set", "ig.iterations=40", "--set", "ig.search=false", "--set", "ig.tolerance=0")
    more = (*plain, "--victims", 3, "--controls", "none", "--fail-on", "never", "--cache")
    reports = []
    for folder, how in (("a", "traced"), ("b", "traced"), ("c", "eager")):
        code, _, err = leakaudit(
            *words, *more, "-f", "json", "--set", f"ig.execution={how}", "--out", tmp_path / folder
        )
        assert code in (0, 5), err
        reports.append(json.loads((tmp_path / folder / "report.json").read_text())["attacks"][0])
    together, again, in_turn = (list(a["results"]) for a in reports)
    assert "3 victims attacked together" in together[0]["notes"]
    assert [r["seconds"] for r in again] == [r["seconds"] for r in together], "the second was not from the cache"
    assert "3 victims attacked together" not in in_turn[0]["notes"]
    for a, b in zip(together, in_turn, strict=True):
        assert a["samples"][0]["index"] == b["samples"][0]["index"]
        assert a["samples"][0]["psnr"] == pytest.approx(b["samples"][0]["psnr"], abs=0.3)
