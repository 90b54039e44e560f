"""Goals of `leakaudit defend`."""

from __future__ import annotations

import pytest

from leakaudit.document.schema import Report
from leakaudit.domains.specs import IMAGES, TOKENS, Spec
from leakaudit.errors import UsageError
from leakaudit.sweeps.goal import parse_goal
from tests.report.builder import build


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PSNR<15", "PSNR<15"),
        ("ssim <= 0.5", "SSIM<=0.5"),
        ("leaked=0", "leaked=0"),
        ("reidentified<=2", "reidentified<=2"),
    ],
)
def test_goals_are_read(text: str, shown: str) -> None:
    assert str(parse_goal(text)) == shown


@pytest.mark.parametrize("text", ["PSNR", "PSNR=15", "PSNR<fifteen", "PSNR<1.2.3", "", "leaked>0", "leaked>=1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--target"):
        parse_goal(text)


@pytest.mark.parametrize(
    ("text", "specs", "message"),
    [
        ("beauty<3", IMAGES, "have no BEAUTY, they are measured by psnr, margin, ssim, lpips, mse"),
        ("PSNR<15", TOKENS, "have no PSNR, they are measured by accuracy, recall, precision, skill"),
        ("accuracy<0.2", IMAGES, "have no ACCURACY"),
        ("PSNR>15", IMAGES, "higher PSNR is a closer"),
        ("LPIPS<0.2", IMAGES, "lower LPIPS is a closer"),
    ],
)
def test_a_goal_is_checked_against_the_metrics_of_the_samples(text: str, specs: tuple[Spec, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        parse_goal(text).among(specs)
    assert "\n" not in error.value.message


def test_goals_that_fit_the_samples() -> None:
    assert str(parse_goal("LPIPS > 0.3").among(IMAGES)) == "LPIPS>0.3"
    assert str(parse_goal("mse>=0.01").among(IMAGES)) == "MSE>=0.01"
    assert str(parse_goal("Accuracy<=.2").among(TOKENS)) == "ACCURACY<=0.2"
    assert parse_goal("leaked=0").among(()) == parse_goal("leaked=0")


def test_a_metric_of_which_less_is_closer_must_stay_above_its_limit() -> None:
    document = measured(12.0, False)
    for attack in document.attacks:
        for result in attack.results:
            for sample in result.samples:
                sample.metrics["mse"] = 0.05
    goal = parse_goal("MSE>0.01").among(IMAGES)
    assert goal.met(document)
    document.attacks[0].results[0].samples[0].metrics["mse"] = 0.01
    assert goal.value(document) == 0.01
    assert not goal.met(document)
    assert parse_goal("MSE>=0.01").among(IMAGES).met(document)


def measured(psnr: float | None, leaked: bool) -> Report:
    """A report whose samples all have this PSNR."""
    document = build(victims=1)
    for attack in document.attacks:
        for result in attack.results:
            for sample in result.samples:
                sample.metrics["psnr"], sample.leaked, sample.reidentified = psnr, leaked, leaked
    return document


def test_the_worst_sample_decides() -> None:
    document = measured(12.0, False)
    assert parse_goal("PSNR<15").met(document)
    assert parse_goal("leaked=0").met(document)
    document.attacks[0].results[0].samples[0].metrics["psnr"] = 15.0
    assert not parse_goal("PSNR<15").met(document)
    assert parse_goal("PSNR<=15").met(document)
    document.attacks[0].results[0].samples[0].leaked = True
    assert not parse_goal("leaked=0").met(document)
    assert parse_goal("leaked<=1").met(document)


def test_an_exact_reconstruction_misses_every_goal() -> None:
    assert not parse_goal("PSNR<99").met(measured(None, True))


@pytest.mark.parametrize("goal", ["PSNR<15", "reidentified<=9"])
def test_no_limit_is_met_while_a_sample_leaks(goal: str) -> None:
    wanted = parse_goal(goal).among(IMAGES)
    assert wanted.met(measured(14.7, False))
    assert not wanted.met(measured(14.7, True))
    assert wanted.reached(wanted.value(measured(14.7, True)))
    assert parse_goal("leaked<=9").met(measured(14.7, True))
