"""``leakaudit defend`` on a real file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leakaudit.api import defend
from leakaudit.attacks.ig import IG
from leakaudit.observer import SilentObserver
from leakaudit.reconstruction import Reconstruction
from tests.cli.build import leakaudit

QUICK = ("--victims", 1, "--attack", "ig", "--set", "ig.iterations=150", "--steps", 5, "-q", "--controls", "none")


def test_defend_measures_settings_and_recommends_one_that_is_enough(
    model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ("--defence", "bits=16", "--defence", "clip=1,noise=1")
    words = (
        *("defend", model, "--batch", batch, "--out", tmp_path / "out", "--target", "PSNR<18", "--cache"),
        *(*grid, *QUICK, "-f", "json", "-f", "html"),
    )
    code, out, err = leakaudit(*words)
    assert code == 0, err
    assert "clip=1,noise=1" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    base, weak, strong = report["trials"]
    assert base["text"] == ""
    assert base["psnr"] > 18
    assert not weak["meets"]
    assert strong["meets"]
    assert strong["recommended"]
    assert strong["psnr"] < 18
    assert strong["accounting"]["reconstruction"] < 0.2
    assert weak["accounting"] is None
    assert strong["loss"] > base["loss"] - 1
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Defences measured" in html
    assert "trials-chart" in html
    monkeypatch.setattr(IG, "run", never)
    again, _, err = leakaudit(*words)
    assert again == 0, err
    resumed = json.loads((tmp_path / "out" / "report.json").read_text())["trials"]
    assert [trial["psnr"] for trial in resumed] == [base["psnr"], weak["psnr"], strong["psnr"]]


def never(*_: object) -> Reconstruction:
    raise AssertionError("it is attacked again")


TIMES = {"seconds", "created", "command", "self_sha256", "versions"}


def defended(out: Path, *words: object) -> dict[str, Any]:
    """The document of a run, without times."""
    code, _, err = leakaudit("defend", *words, "--out", out, "-f", "json", "--no-cache")
    assert code in (0, 1), err
    found: dict[str, Any] = bare(json.loads((out / "report.json").read_text()))
    return found


def bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in TIMES}
    return [bare(item) for item in value] if isinstance(value, list) else value


def asked(model: Path, batch: Path) -> tuple[object, ...]:
    grid = ("--defence", "bits=16", "--defence", "clip=1,noise=1")
    return (model, "--batch", batch, "--target", "PSNR<18", *grid, *QUICK)


def test_a_store_keeps_what_was_attacked(
    model: Path, batch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = defended(tmp_path / "plain", *asked(model, batch))
    kept = defended(tmp_path / "kept", *asked(model, batch), "--store", tmp_path / "store")
    assert kept == plain
    assert len(plain["trials"]) == 3
    monkeypatch.setattr(IG, "run", never)
    assert defended(tmp_path / "again", *asked(model, batch), "--store", tmp_path / "store") == plain


@pytest.mark.slow
def test_workers_find_what_this_process_finds(model: Path, batch: Path, tmp_path: Path) -> None:
    plain = defended(tmp_path / "plain", *asked(model, batch))
    assert defended(tmp_path / "apart", *asked(model, batch), "--workers", 2) == plain


def test_no_setting_is_enough(model: Path, batch: Path, tmp_path: Path) -> None:
    code, out, _ = leakaudit(
        *("defend", model, "--batch", batch, "--out", tmp_path / "out", "--target", "PSNR<1", "-f", "json"),
        *("--defence", "bits=8", *QUICK),
    )
    assert code == 1
    assert "No setting tried meets PSNR<1" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "PSNR"), "--target"),
        (("--defence", "prune=2"), "--defence"),
        (("--utility-data", "no.npz"), "no.npz"),
    ],
)
def test_bad_words_are_one_line(model: Path, batch: Path, tmp_path: Path, words: tuple[str, str], message: str) -> None:
    code, _, err = leakaudit("defend", model, "--batch", batch, "--out", tmp_path / "out", *words)
    assert code in (2, 3)
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("rank analysis", "Interrupted on the undefended model"),
        ("defence 2", "clip=1,noise=1 met PSNR<18 once"),
        ("confirming", "clip=1,noise=1 met PSNR<18 once"),
    ],
)
def test_an_interrupted_sweep_recommends_nothing_and_judges_nothing_unfinished(
    model: Path, batch: Path, stage: str, message: str
) -> None:
    class Interrupting(SilentObserver):
        stopped = False

        def stage(self, message: str) -> None:
            self.stopped = self.stopped or message.startswith(stage)

        def interrupted(self) -> bool:
            return self.stopped

    report = defend(
        *(model, batch),
        goal="PSNR<18",
        grid=("clip=1,noise=1", "bits=16"),
        steps=2,
        observer=Interrupting(),
        victims=1,
        attacks=("ig",),
        preset="quick",
        settings={"ig": {"iterations": "60"}},
    )
    assert message in report.recommendation
    assert "The same command goes on" in report.recommendation
    assert not any(trial.recommended for trial in report.trials)
    assert report.partial
    if stage == "defence 2":
        assert [trial.status for trial in report.trials] == ["run", "run", "not_run"]
