"""Signals and volumes are audited end to end: a leak is shown where there is one, and none where there is not."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.api import defend
from leakaudit.audit import draw
from leakaudit.document.redact import redact
from leakaudit.document.schema import Report
from leakaudit.errors import UsageError
from leakaudit.report.formats.csv import render_csv
from leakaudit.report.formats.html import render_html
from leakaudit.report.formats.junit import render_junit
from leakaudit.report.formats.markdown import render_markdown
from tests.audit.series import beats, blobs
from tests.target.sequences import Recurrent

SMOOTH = {"iterations": "200", "optimizer": "lbfgs", "distance": "euclidean", "tv_weight": "0"}
SHORT: dict[str, Any] = {"ig": SMOOTH}


def ecg() -> nn.Module:
    layers = [nn.Conv1d(2, 12, 7, 2, 3), nn.Tanh(), nn.Conv1d(12, 12, 5, 2, 2), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 4))


def scanner() -> nn.Module:
    layers = [nn.Conv3d(1, 12, 3, 2, 1), nn.Sigmoid(), nn.Conv3d(12, 12, 3, 1, 1), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * 48, 4))


def gru() -> nn.Module:
    return Recurrent(nn.GRU, width=32, pooled=True)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[int, int], Tensor]]] = {
    "ecg": (ecg, (2, 48), beats),
    "gru": (gru, (4, 8), lambda count, seed: beats(count, seed, 4, 8)),
    "volume": (scanner, (1, 6, 8, 8), blobs),
}


def audited(name: str, seed: int = 0, count: int = 24, **more: Any) -> Report:
    build, shape, samples = CASES[name]
    torch.manual_seed(seed)
    made = samples(count, seed).numpy()
    keywords = {"victims": 1, "preset": "quick", "settings": SHORT, "controls": "none", "attacks": ["ig"], **more}
    return leakaudit.scan(
        leakaudit.load(build(), image_shape=shape), (made, np.arange(count) % 3), seed=seed, **keywords
    )


@pytest.mark.parametrize("name", ["ecg", "volume"])
def test_a_leak_is_shown_and_rendered(name: str) -> None:
    report = audited(name, distractors_needed=100)
    assert report.target.domain == ("volumes" if name == "volume" else "signals")
    sample = report.attacks[[a.name for a in report.attacks].index("ig")].results[0].samples[0]
    assert sample.leaked, sample.leaked_reason
    assert sample.metrics["margin"] >= 8  # type: ignore[operator]
    assert sample.original_png
    page = render_html(report)
    assert ("SNR dB" if name == "ecg" else "PSNR dB") in page
    assert sample.told in render_markdown(report) or sample.told in page
    assert re.search(r'<article class="sample leaked wide"', page), "curves and slices take the whole width"
    assert render_junit(report)
    assert "margin" in next(csv.reader(io.StringIO(render_csv(report))))
    hidden = redact(report, "none")
    kept = [s for a in hidden.attacks for r in a.results for s in r.samples]
    assert not any(s.original_png or s.reconstruction_png for s in kept)
    assert render_html(hidden)


def test_a_recurrent_network_has_a_second_derivative() -> None:
    report = audited("gru", settings={"ig": {**SMOOTH, "iterations": "40"}})
    assert "LA930" not in {finding.id for finding in report.findings}
    result = next(a for a in report.attacks if a.name == "ig").results[0]
    first, last = result.history[0].match, result.history[-1].match
    assert first is not None
    assert last is not None
    assert last < first / 10, "the descent follows it"


@pytest.mark.slow
def test_a_recurrent_network_leaks() -> None:
    report = audited("gru", settings={"ig": {**SMOOTH, "iterations": "600"}})
    sample = next(a for a in report.attacks if a.name == "ig").results[0].samples[0]
    assert sample.metrics["margin"] >= 8  # type: ignore[operator]


def test_the_unit_and_the_range_are_those_of_the_file(tmp_path: Path) -> None:
    values = 1000 * beats(12, 3).transpose(1, 2).numpy()
    np.savez(tmp_path / "b.npz", x=values, y=np.arange(12) % 4)
    target = leakaudit.load(ecg(), image_shape=(2, 48))
    keywords = {"victims": 1, "attacks": ["linear"], "controls": "none"}
    report = leakaudit.scan(target, tmp_path / "b.npz", mean=[200.0], std=[400.0], **keywords)  # type: ignore[arg-type]
    assert any("range of the channels" in note and "-500 to" not in note for note in report.batch.notes)
    assert any("read as (N, L, C)" in note for note in report.batch.notes)
    assert (report.batch.mean, report.batch.std) == ([200.0, 200.0], [400.0, 400.0])
    for wrong in ({"resize": True}, {"values": "pixels"}):
        with pytest.raises(UsageError, match="the model takes signals"):
            leakaudit.scan(target, tmp_path / "b.npz", **keywords, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is a folder; the model takes signals"):
        leakaudit.scan(target, tmp_path, **keywords)  # type: ignore[arg-type]


def test_defend_takes_goals_by_the_metric_of_signals() -> None:
    target = leakaudit.load(
        nn.Sequential(nn.Flatten(), nn.Linear(96, 24), nn.ReLU(), nn.Linear(24, 4)), image_shape=(2, 48)
    )
    report = defend(
        replace(target), (beats(16, 1).numpy(), np.arange(16) % 4), goal="SNR<5", victims=1, attacks=["linear"],
        grid=["prune=0.5"], steps=2,
    )  # fmt: skip
    assert not report.trials[0].meets
    assert report.trials[0].leaked == 1
    assert render_html(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ecg", "volume", "gru"])
def test_forty_mismatched_scans_show_no_leak(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The update is of other samples than those that reconstructions are scored against.

    The file is large enough that a sample is told from real others: four balls in a volume are few numbers, and of 24
    volumes the nearest is soon that of another file.
    """
    honest = draw.observe_victim
    statuses = []
    for seed in range(40):
        others = CASES[name][2](4, 1000 + seed)

        def other(target: Any, batch: Any, *rest: Any, others: Tensor = others) -> Any:
            source = replace(batch, images=others[: len(batch)])
            return replace(honest(target, source, *rest), batch=batch)

        monkeypatch.setattr(draw, "observe_victim", other)
        statuses.append(audited(name, seed, count=200, attacks=["ig", "linear", "spear"]))
    assert [report.verdict.status for report in statuses if report.verdict.code.leaks] == []
