"""Goals of `leakaudit defend`."""

from __future__ import annotations

import pytest

from leakaudit.document.schema import Report
from leakaudit.errors import UsageError
from leakaudit.sweep.goal import parse_goal
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


@pytest.mark.parametrize("text", ["PSNR", "PSNR=15", "beauty<3", "PSNR<fifteen", "", "leaked>0"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--target"):
        parse_goal(text)


def measured(psnr: float | None, leaked: bool) -> Report:
    """A report whose samples all have this PSNR."""
    document = build(victims=1)
    for attack in document.attacks:
        for result in attack.results:
            for sample in result.samples:
                sample.psnr, sample.leaked, sample.reidentified = psnr, leaked, leaked
    return document


def test_the_worst_sample_decides() -> None:
    document = measured(12.0, False)
    assert parse_goal("PSNR<15").met(document)
    assert parse_goal("leaked=0").met(document)
    document.attacks[0].results[0].samples[0].psnr = 15.0
    assert not parse_goal("PSNR<15").met(document)
    assert parse_goal("PSNR<=15").met(document)
    document.attacks[0].results[0].samples[0].leaked = True
    assert not parse_goal("leaked=0").met(document)
    assert parse_goal("leaked<=1").met(document)


def test_an_exact_reconstruction_misses_every_goal() -> None:
    assert not parse_goal("PSNR<99").met(measured(None, True))
