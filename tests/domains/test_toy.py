"""A domain that a plug-in brings is audited end to end: nothing in the house knows its name."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.api import defend
from leakaudit.attacks.ig import IG
from leakaudit.attacks.linear import LinearReader
from leakaudit.document.redact import redact
from leakaudit.document.schema import Report
from leakaudit.domains import registry
from leakaudit.errors import UsageError
from leakaudit.report.domains import card_for
from leakaudit.report.formats.csv import render_csv
from leakaudit.report.formats.html import render_html
from leakaudit.report.formats.junit import render_junit
from leakaudit.report.formats.markdown import render_markdown
from leakaudit.target.target import Target
from tests.domains.toy import Waves
from tests.plugins import Install

SHORT = {"ig": {"iterations": "120"}}


@pytest.fixture
def installed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in as a package would bring it, and two attacks that read what it takes."""
    install(registry.GROUP, waves="tests.domains.toy:Waves")
    for attack in (IG, LinearReader):
        monkeypatch.setattr(attack, "reads", (*attack.reads, "waves"))


def model() -> Target:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Sigmoid(), nn.Linear(24, 4))
    return replace(leakaudit.load(module, image_shape=(2, 8)), domain=Waves())


def samples(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return Waves().look_alikes(count, torch.Generator().manual_seed(5)).numpy(), np.arange(count) % 4


def audited(**more: object) -> Report:
    return leakaudit.scan(model(), samples(), victims=2, attacks=["ig", "linear"], settings=SHORT, **more)  # type: ignore[arg-type]


@pytest.mark.usefixtures("installed")
def test_a_domain_of_a_plug_in_is_audited_end_to_end() -> None:
    report = audited()
    assert registry.available()["waves"] is Waves
    assert report.target.domain == "waves"
    assert [spec.name for spec in report.metrics] == ["error"]
    status = {attack.name: attack.status for attack in report.attacks}
    assert (status["linear"], status["ig"]) == ("run", "run")
    read = next(a for a in report.attacks if a.name == "linear").results[0].samples[0]
    assert read.leaked
    assert read.recognisable
    assert read.metrics["error"] < 1e-3  # type: ignore[operator]
    assert set(read.metric_floors) == {"mean"}
    assert report.verdict.status == "LEAKS (certified)"
    assert {c.kind: c.passed for c in report.controls if c.attack == "linear"} == {
        "negative": True,
        "prior_only": True,
        **({"positive": True} if any(c.kind == "positive" and c.attack == "linear" for c in report.controls) else {}),
    }
    message = next(f.message for f in report.findings if f.id == "LA203")
    assert "an error of 0.000 V" in message


@pytest.mark.usefixtures("installed")
def test_its_report_is_rendered_in_every_form() -> None:
    report = audited(controls="none")
    for level in ("full", "none"):
        shown = redact(report, level)  # type: ignore[arg-type]
        page = render_html(shown)
        assert "Error V" in page
        assert "2 × 8 waves" in page
        assert "best error 0.000 V" in render_junit(shown)
        assert "best error" in render_markdown(shown)
    rows = list(csv.DictReader(io.StringIO(render_csv(report))))
    assert {"error", "mean_error"} <= set(rows[0])
    assert not {"psnr", "accuracy"} & set(rows[0])


def test_its_report_is_rendered_where_the_plug_in_is_not_installed(tmp_path: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for attack in (IG, LinearReader):
            patch.setattr(attack, "reads", (*attack.reads, "waves"))
        report = audited(controls="none")
    assert type(card_for(report)).__name__ == "Card"
    assert "Error V" in render_html(Report.model_validate_json(report.model_dump_json()))


@pytest.mark.usefixtures("installed")
def test_defend_takes_goals_by_its_own_metric() -> None:
    keywords = {"victims": 1, "attacks": ["linear"], "grid": ["prune=0.5"], "steps": 2}
    report = defend(model(), samples(), goal="error>0.01", **keywords)  # type: ignore[arg-type]
    assert not report.trials[0].meets
    assert report.trials[0].metrics["error"] < 1e-3  # type: ignore[operator]
    assert "an error of" in render_html(report)
    for goal, message in (("PSNR<15", "measured by error"), ("error<0.01", "closer reconstruction")):
        with pytest.raises(UsageError, match=message):
            defend(model(), samples(), goal=goal, **keywords)  # type: ignore[arg-type]


@pytest.mark.usefixtures("installed")
def test_attacks_that_do_not_read_it_say_so() -> None:
    report = audited(controls="none")
    (reason,) = {a.reason for a in leakaudit.scan(
        model(), samples(), victims=1, attacks=["embedding"], controls="none"
    ).attacks if a.name == "embedding"}  # fmt: skip
    assert reason == "the model takes waves; this attack recovers token ids"
    assert all(a.status != "run" for a in report.attacks if a.name not in ("ig", "linear"))


@pytest.mark.usefixtures("installed")
def test_options_about_pixels_are_refused() -> None:
    with pytest.raises(UsageError, match="--mean is for images, the model takes waves"):
        audited(mean=[0.5])


def test_a_plug_in_that_cannot_be_imported_is_named(install: Install) -> None:
    install(registry.GROUP, broken="tests.domains.nowhere:Nothing")
    with pytest.raises(UsageError, match=r"'broken'.*cannot be imported"):
        registry.available()
