"""The ladder of local steps: up to how many steps the attacks work, and what the report makes of that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import leakaudit
from leakaudit.attacks.base import NotApplicable
from leakaudit.attacks.linear import LinearReader
from leakaudit.attacks.registry import create
from leakaudit.audit.budget import Budget
from leakaudit.audit.known import on_reference
from leakaudit.audit.ladder import ladder_on_reference, rungs
from leakaudit.audit.memory import Memory
from leakaudit.audit.scene import Run, Scene
from leakaudit.audit.victim import Knowledge
from leakaudit.client.batch import Batch
from leakaudit.document.schema import ControlEntry, Report
from leakaudit.document.status import VerdictStatus
from leakaudit.domains.images import Images
from leakaudit.findings.effort import efforts
from leakaudit.findings.ladder import told
from leakaudit.findings.verdict import conclude
from leakaudit.observation import Observation
from leakaudit.observer import SilentObserver
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.report.write import write_report
from leakaudit.scoring.images import ImageMeasure
from leakaudit.target.target import Target
from tests.conftest import make_target, small_mlp, smooth_images
from tests.findings.build import CONTROLS, entry, evidence, sample
from tests.protocols.two_steps import TwoSteps

SHAPE = (3, 12, 12)
LOCAL = {"local_epochs": 2, "learning_rate": 0.01}


def scan(count: int = 2, **options: Any) -> Report:
    defaults: dict[str, Any] = {
        "attacks": ["ig"], "settings": {"ig": {"iterations": "150"}}, "victims": 1, "mean": [0.5], "std": [0.25],
        "input_shape": SHAPE, "preset": "quick", "samples": 1, **LOCAL,
    }  # fmt: skip
    return leakaudit.scan(small_mlp(), (smooth_images(count), np.arange(count) % 5), **{**defaults, **options})


def ladders(report: Report) -> list[ControlEntry]:
    return [control for control in report.controls if control.kind == "ladder"]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (FedAvg(1, local_epochs=1), [1]),
        (FedAvg(1, local_epochs=7), [1, 2, 5, 7]),
        (FedAvg(16, local_epochs=10, local_batch_size=4), [1, 2, 4, 8, 20, 40]),
        (FedAvg(10, local_epochs=1, local_batch_size=4), [1, 2, 3]),
        (FedAvg(10, local_epochs=2, local_batch_size=4, drop_last=True), [1, 2, 4]),
        (FedSGD(8), [1]),
        (TwoSteps(4), [2]),
    ],
)
def test_the_rungs_end_at_the_steps_of_the_clients(protocol: Any, expected: list[int]) -> None:
    assert rungs(protocol) == expected
    assert [protocol.taking(steps).steps for steps in expected] == expected
    assert sum(expected) < 2.5 * protocol.steps + 1


def test_fewer_steps_are_the_same_training_cut_short() -> None:
    client = FedAvg(16, "train", "running", 10, 4, 0.02, momentum=0.5)
    assert client.taking(2) == replace(client, batch_size=8, local_epochs=1)
    assert client.taking(9) == replace(client, local_epochs=2)
    assert client.of_samples(2).step_sizes == (1, 1) * 10
    assert client.of_samples(1).step_sizes == (1,) * 10
    assert replace(client, local_batch_size=None).of_samples(3).step_sizes == (3,) * 10


def test_what_is_recovered_at_every_step_is_said() -> None:
    report = scan()
    reference, model = ladders(report)
    assert (reference.steps, reference.recovered) == (model.steps, model.recovered) == ([1, 2], [True] * 2)
    assert reference.passed
    assert model.passed
    assert reference.numbers["reference"] == "mlp"
    assert "reference" not in model.numbers
    assert report.verdict.at_least.endswith(
        "Shown at K = 2 local steps; the attacks recovered their controls up to K* = 2 (IG (Inverting Gradients), "
        "the bundled network 'mlp') and K* = 2 (IG (Inverting Gradients), generated samples through this model)."
    )


class OneStep(LinearReader):
    """Takes the update of one step only."""

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        if observation.protocol.steps > 1:
            return NotApplicable("more than one step")
        return super().applies(target, observation)


def test_a_ladder_whose_top_is_refused_decides_nothing(samples: Batch, space: Images) -> None:
    target, client = make_target(small_mlp(), SHAPE, 5), FedAvg(1, **LOCAL)
    budget = Budget.of(SilentObserver(), None)
    scene = Scene(target, samples, space, ImageMeasure(samples), client, Knowledge(), budget, Memory(), "quick")
    _, entry = ladder_on_reference(Run(OneStep(OneStep.presets["quick"]), []), scene, 1)
    assert (entry.steps, entry.recovered, entry.passed) == ([1], [True], None)
    assert entry.detail.endswith("beyond that not decided: no bundled network fits this attack: more than one step")


def test_an_attack_that_works_at_no_step_is_said_and_shows_nothing(tmp_path: Path) -> None:
    report = scan(settings={"ig": {"learning_rate": "1e-12", "iterations": "5", "search": "false"}})
    assert [(ladder.steps, ladder.recovered, ladder.reached) for ladder in ladders(report)] == [([1], [False], 0)] * 2
    assert report.verdict.code is VerdictStatus.INCONCLUSIVE
    assert (
        "Not shown at K = 2 local steps; the attacks recovered their controls up to K* = 0" in report.verdict.at_least
    )
    write_report(report, tmp_path, ("json", "html"))
    document = json.loads((tmp_path / "report.json").read_text())
    assert {"kind": "ladder", "steps": [1], "recovered": [False]}.items() <= document["controls"][-1].items()
    page = (tmp_path / "report.html").read_text()
    assert "not at K = 1; K* = 0 of 2 local steps" in page
    assert "recovered their controls up to K* = 0" in page


def test_one_step_has_no_ladder_and_no_controls_have_none_either() -> None:
    few = {"settings": {"ig": {"iterations": "2"}}}
    assert not ladders(scan(local_epochs=1, **few))
    assert not ladders(scan(controls="none", **few))


class Impatient(SilentObserver):
    """Interrupts once a ladder is announced; keeps what was announced and told."""

    def __init__(self, *, after: int) -> None:
        self.after, self.announced = after, list[str]()
        self.told: list[str] = []

    def attack(self, title: str, victim: int, victims: int) -> None:
        self.announced.append(title)

    def result(self, title: str, summary: str) -> None:
        self.told.append(summary)

    def interrupted(self) -> bool:
        return sum("K = " in text for text in self.told) >= self.after


def test_a_ladder_is_announced_and_can_be_interrupted() -> None:
    observer = Impatient(after=1)
    reference, model = ladders(scan(observer=observer))
    assert any("ladder of local steps on a bundled network" in title for title in observer.announced)
    assert "the bundled network 'mlp', K = 1 local steps: recovered" in observer.told
    assert (reference.steps, reference.recovered) == ([1], [True])
    assert reference.passed is None
    assert "beyond that not decided: interrupted" in reference.detail
    assert (model.steps, model.detail) == ([], "not run: interrupted")


def test_dlfa_has_a_positive_control_of_two_samples(samples: Batch, space: Images) -> None:
    """It needs an order, which one sample has not; on a network known to leak it recovers one of two."""
    target, client = make_target(small_mlp(), SHAPE, 5), FedAvg(4, "eval", "none", 2, 2, 0.01)
    budget = Budget.of(SilentObserver(), None)
    scene = Scene(target, samples, space, ImageMeasure(samples), client, Knowledge(), budget, Memory(), "quick")
    attack = create("dlfa", "quick", {"iterations": "60"})
    known = on_reference(attack, scene, hard=False)
    assert not isinstance(known, str), known
    assert known.victim.observation.protocol.step_sizes == (1, 1, 1, 1)
    assert known.attacked(attack, scene, "positive", budget.share(1)).leaked
    refused = on_reference(attack, scene, hard=False, steps=1)
    assert isinstance(refused, str)
    assert "visits its samples once" in refused


def ladder(recovered: list[bool | None], reference: str = "") -> ControlEntry:
    steps = [1, 2, 5, 10][: len(recovered)]
    passed = None if None in recovered else all(recovered)
    numbers = {"reference": reference} if reference else {}
    return ControlEntry(
        kind="ladder", attack="ig", title="IG", passed=passed, detail="", numbers=numbers, steps=steps,
        recovered=recovered,
    )  # fmt: skip


def shown(*controls: ControlEntry, leaked: bool = False) -> Any:
    found = evidence([entry(sample(leaked))], controls=[*CONTROLS, *controls])
    found.protocol.steps = 10
    return found


def test_failure_beyond_what_an_attack_follows_says_nothing() -> None:
    short, long = shown(ladder([True, True, False], "mlp")), shown(ladder([True] * 4, "mlp"))
    assert [effort.counts for effort in efforts(short)] == [True]
    assert "it recovered a known leak up to K* = 2 of 10 local steps" in conclude(short, [], "quick").headline
    assert conclude(short, [], "quick").code is VerdictStatus.INCONCLUSIVE
    assert conclude(long, [], "quick").code is VerdictStatus.NOT_SHOWN
    of_the_model = shown(ladder([True] * 4, "mlp"), ladder([False]))
    verdict = conclude(of_the_model, [], "quick")
    assert verdict.code is VerdictStatus.NOT_SHOWN  # the attack works; the model gives less away
    assert "K* = 10 (IG, the bundled network 'mlp') and K* = 0 (IG, generated samples through this model)" in (
        verdict.at_least
    )


def test_what_decided_nothing_is_not_told() -> None:
    assert told(shown(ladder([None], "mlp")), leaked=False) == ""
    assert told(evidence([entry(sample(False))], controls=[ladder([True])]), leaked=False) == ""
    assert "Shown at K = 10" in told(shown(ladder([True])), leaked=True)
