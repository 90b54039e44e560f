"""The positive control is as hard as the case, and spare time decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

import leakaudit
from leakaudit.attacks.registry import create
from leakaudit.audit.budget import attacks_share
from leakaudit.document.schema import AttackEntry, ControlEntry
from leakaudit.document.status import Cause, Cut, Lost
from leakaudit.domains.references import REFERENCES
from tests.conftest import small_cnn, small_mlp, smooth_images

SHAPE = (3, 12, 12)


def scan(module: nn.Module, **options: Any) -> leakaudit.Report:
    defaults: dict[str, Any] = {
        "attacks": ["ig"], "victims": 2, "preset": "quick", "mean": [0.5], "std": [0.25], "input_shape": SHAPE,
    }  # fmt: skip
    return leakaudit.scan(module, (smooth_images(8), np.arange(8) % 5), **{**defaults, **options})


def ig_and_control(report: leakaudit.Report) -> tuple[AttackEntry, ControlEntry]:
    (attack,) = [attack for attack in report.attacks if attack.name == "ig"]
    (control,) = [control for control in report.controls if control.kind == "positive"]
    return attack, control


def test_a_standard_scan_in_no_time_is_inconclusive() -> None:
    report = scan(small_cnn(), preset="standard", time_budget=0.05, victims=4)
    (attack,) = [attack for attack in report.attacks if attack.name == "ig"]
    assert report.verdict.code is leakaudit.VerdictStatus.INCONCLUSIVE
    assert attack.cut in (Cut(Lost.VICTIMS, cause, 0, 4) for cause in (Cause.SHORT, Cause.BUDGET))
    assert report.verdict.headline == "No attack ran, so nothing was shown"
    assert not report.controls


@pytest.mark.parametrize(("module", "wanted"), [(small_cnn(), "lenet"), (small_mlp(), "mlp")])
def test_the_control_is_of_the_kind_and_has_the_iterations_of_the_case(module: nn.Module, wanted: str) -> None:
    report = scan(module, settings={"ig": {"iterations": "7", "search": "false"}})
    attack, control = ig_and_control(report)
    assert control.numbers["reference"] == wanted
    assert control.numbers["iterations"] == min(result.iterations for result in attack.results) == 7
    assert control.passed is False
    assert report.verdict.code is leakaudit.VerdictStatus.INCONCLUSIVE


def test_a_control_gets_no_more_than_what_was_done() -> None:
    whole = create("gradinversion", "quick")
    assert whole.planned == 600
    assert whole.within(600) is whole
    restarted = create("gradinversion", "standard")
    assert (restarted.planned, restarted.within(1001).planned, restarted.within(1).planned) == (3000, 1000, 2)
    algebra = create("linear", "quick")
    assert (algebra.planned, algebra.within(1)) == (None, algebra)


def test_a_network_is_as_large_as_the_case_and_not_larger() -> None:
    (lenet,) = [reference for reference in REFERENCES if reference.name == "lenet"]

    def size(parameters: int) -> int:
        module = lenet.like((3, 32, 32), 10, parameters).build((3, 32, 32), 10)
        return sum(p.numel() for p in module.parameters())

    assert [size(n) for n in (10, 700_000, 900_000, 4_000_000)] == [207_570, 207_570, 822_746, 3_275_946]
    (patches,) = [reference for reference in REFERENCES if reference.name == "patches"]
    assert patches.like((3, 32, 32), 10, 10**9) is patches


def test_a_control_has_the_time_of_a_victim() -> None:
    assert attacks_share(1) == 0.5
    assert [attacks_share(n) for n in (3, 4, 9)] == [0.75] * 3
