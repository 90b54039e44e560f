"""Checkpoints and both modes in one report: the worst case decides, and what cannot be audited is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.document.schema import Report
from leakaudit.errors import ModelError, UsageError
from leakaudit.report.formats.html import render_html
from leakaudit.sweeps.run import Running
from leakaudit.sweeps.variants import name_variants
from tests.cli.build import export
from tests.cli.build import leakaudit as command_line
from tests.conftest import smooth_images

OPTIONS: dict[str, object] = {
    "attacks": ["ig", "linear"], "settings": {"ig": {"iterations": "40"}}, "victims": 1, "mean": [0.5], "std": [0.25],
    "controls": "none",
}  # fmt: skip


def mlp(dropout: float = 0.0, scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 32), nn.Sigmoid(), nn.Dropout(dropout), nn.Linear(32, 5))
    with torch.no_grad():
        net[1].weight.mul_(scale)
    return net


def mean_pixels() -> nn.Module:
    """A network that sees the mean colour alone: little to find."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return smooth_images(20), np.arange(20) % 5


def test_both_modes_of_a_module(data: tuple[np.ndarray, np.ndarray]) -> None:
    report = leakaudit.scan(mlp(0.5), data, mode="both", input_shape=(3, 12, 12), **OPTIONS)  # type: ignore[arg-type]
    assert [v.label for v in report.variants] == ["eval mode", "train mode"]
    assert [v.mode for v in report.variants] == ["eval", "train"]
    assert sum(v.worst for v in report.variants) == 1
    (worst,) = [v for v in report.variants if v.worst]
    assert report.protocol.mode == worst.mode
    assert report.verdict.status == worst.status == "LEAKS (certified)"
    assert worst.label in report.verdict.headline
    assert {a.name for a in report.variants[0].attacks} == {a.name for a in report.variants[1].attacks}
    assert "LA404" not in {f.id for f in (*report.findings, *(f for v in report.variants for f in v.findings))}
    for variant in report.variants:
        samples = [s for a in variant.attacks for r in a.results for s in r.samples]
        (shown,) = [s for s in samples if s.original_png or s.reconstruction_png]
        assert shown.original_png
        assert shown.leaked == any(s.leaked for s in samples)
    strip = render_html(report).partition('class="strip stages"')[2].partition("</figure>")[0]
    assert strip.count("<img ") == 4, "original and reconstruction under both modes"
    assert strip.index("eval mode") < strip.index("train mode")


def test_checkpoints_through_the_command_line(tmp_path: Path, data: tuple[np.ndarray, np.ndarray]) -> None:
    np.savez(tmp_path / "batch.npz", x=data[0], y=data[1])
    stages = [export(net, tmp_path / f"{name}.onnx") for name, net in (("dull", mean_pixels()), ("init", mlp()))]
    out = tmp_path / "report"
    code, text, err = command_line(
        "scan", "--checkpoints", *stages, "--batch", tmp_path / "batch.npz", "-o", out, "-f", "json", "-f", "html",
        "--attack", "linear", "--attack", "ig", "--set", "ig.iterations=40", "--victims", 1, "--controls", "none",
        "--mean", "0.5", "--std", "0.25",
    )  # fmt: skip
    assert code == 1, err
    assert "LEAKS (certified)" in text
    assert "(init.onnx)" in text
    report = Report.load(out / "report.json")
    dull, init = report.variants
    assert (dull.label, init.label) == ("dull.onnx", "init.onnx")
    assert (dull.worst, init.worst) == (False, True)
    assert dull.samples_leaked == 0
    assert dull.sha256 != init.sha256 == report.target.sha256
    finding = next(f for f in report.findings if f.id == "LA203")
    assert finding.evidence["variants"] == ["init.onnx"]
    page = (out / "report.html").read_text("utf-8")
    assert page.index("Variants compared</h2>") < page.index("Findings</h2>")
    assert "dull.onnx" in page


TIMES = {"seconds", "created", "versions", "self_sha256"}


def bare(value: Any) -> Any:
    """A document without times, at every depth."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in TIMES}
    return [bare(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def stages(tmp_path: Path, data: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Keywords of a scan of two checkpoints and a file that is none."""
    np.savez(tmp_path / "batch.npz", x=data[0], y=data[1])
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    paths = [export(net, tmp_path / f"{name}.onnx") for name, net in (("dull", mean_pixels()), ("init", mlp()))]
    return {
        **OPTIONS, "attacks": ["linear"], "batch": tmp_path / "batch.npz", "model": None,
        "checkpoints": [*paths, tmp_path / "damaged.onnx"],
    }  # fmt: skip


def test_a_store_keeps_every_variant(tmp_path: Path, stages: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = leakaudit.scan(**stages)
    kept = leakaudit.scan(store=tmp_path / "store", **stages)
    assert bare(kept.model_dump(mode="json")) == bare(plain.model_dump(mode="json"))
    monkeypatch.setattr("leakaudit.api.audit", never)
    again = leakaudit.scan(store=tmp_path / "store", **stages)
    assert again.model_dump(exclude=TIMES) == kept.model_dump(exclude=TIMES)
    assert [variant.code.value for variant in again.variants][2] == "NOT APPLICABLE"


def never(*_: object, **__: object) -> Report:
    raise AssertionError("it is audited again")


@pytest.mark.slow
def test_variants_are_the_same_by_two_workers(stages: dict[str, Any]) -> None:
    here = leakaudit.scan(mode="both", running=Running(threads=1), **stages)
    apart = leakaudit.scan(mode="both", running=Running(runner="processes", workers=2, threads=1), **stages)
    assert len(here.variants) == 6
    assert bare(apart.model_dump(mode="json")) == bare(here.model_dump(mode="json"))


def test_a_variant_that_cannot_be_audited_is_listed(data: tuple[np.ndarray, np.ndarray]) -> None:
    """BatchNorm over a single value per channel cannot train."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 5))
    report = leakaudit.scan(net, data, mode="both", input_shape=(3, 12, 12), **OPTIONS)  # type: ignore[arg-type]
    evaluated, trained = report.variants
    assert evaluated.worst
    assert trained.status == "NOT APPLICABLE"
    assert "single value" in trained.headline or "batch" in trained.headline
    assert "train mode" in render_html(report)


def test_none_that_can_be_audited_is_an_error(tmp_path: Path, data: tuple[np.ndarray, np.ndarray]) -> None:
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ModelError):
        leakaudit.scan(tmp_path / "a.onnx", data, checkpoints=[tmp_path / "b.onnx"], **OPTIONS)  # type: ignore[arg-type]


def test_labels_say_what_differs() -> None:
    a, b, far = Path("a.onnx"), Path("b.onnx"), Path("old/a.onnx")
    assert [n[0] for n in name_variants([a], ("train",))] == ["a.onnx"]
    assert [n[0] for n in name_variants([a], ("eval", "train"))] == ["eval mode", "train mode"]
    assert [n[0] for n in name_variants([a, b], ("eval", "train"))][1:3] == ["a.onnx, train mode", "b.onnx, eval mode"]
    assert [n[0] for n in name_variants([a, far], ("eval",))] == ["a.onnx", "old/a.onnx"]
    with pytest.raises(UsageError, match="twice"):
        name_variants([a, a], ("eval",))


def test_usage_errors(tmp_path: Path, data: tuple[np.ndarray, np.ndarray]) -> None:
    np.savez(tmp_path / "batch.npz", x=data[0], y=data[1])
    assert command_line("scan", "--batch", tmp_path / "batch.npz")[0] == 2
    code, _, err = command_line("scan", "--checkpoints", tmp_path / "none.onnx", "-b", tmp_path / "batch.npz")
    assert code == 2
    assert "no such model file" in err
    model = export(mlp(), tmp_path / "m.onnx")
    code, _, err = command_line("inspect", model, "--mode", "both")
    assert code == 2
    assert "expected eval or train" in err
    with pytest.raises(UsageError, match="in memory"):
        leakaudit.scan(mlp(), data, checkpoints=[model], input_shape=(3, 12, 12))
