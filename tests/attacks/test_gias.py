"""GIAS recovers what a generator can make, leaves that by its weights, and what it makes anyway is a floor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.gias import GIAS, GIASSettings
from leakaudit.attacks.ig import IG
from leakaudit.client.batch import Batch
from leakaudit.document.status import AuxiliarySource
from leakaudit.matching.generator import OwnGenerator
from leakaudit.observation import Observation
from leakaudit.reconstruction import NotApplicable
from leakaudit.target.target import Target
from tests.attacks.networks import SPACE
from tests.cli.build import export
from tests.cli.build import leakaudit as command
from tests.conftest import make_target, smooth_images
from tests.generators import path_for
from tests.matching.build import StopAfter, observation_of, psnr

PATH = path_for("few", SPACE.shape)
FEW = GIASSettings(iterations=160, weight_learning_rate=1e-3, execution="eager")


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def pooled() -> Target:
    """Fewer gradient entries than pixels, so that the update alone does not tell a sample."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, 2, 1), nn.GELU(), nn.Conv2d(6, 6, 3, 2, 1), nn.GELU(), nn.AvgPool2d(3))
    return make_target(nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 5)), (3, 12, 12), 5)


def own() -> OwnGenerator:
    return OwnGenerator.of(PATH, SPACE)


def made(count: int, seed: int = 5) -> Tensor:
    """Samples (count, 3, 12, 12) of the generator."""
    return SPACE.decode(own().drawn(count, SPACE, torch.Generator().manual_seed(seed)))


def observed(images: Tensor, generator: OwnGenerator | None = None) -> tuple[Target, Batch, Observation]:
    target, batch = pooled(), Batch(images, torch.arange(len(images)) % 5, tuple(range(len(images))))
    return target, batch, replace(observation_of(target, batch, SPACE), generator=generator or own())


def test_what_the_generator_can_make_is_recovered_where_the_update_alone_does_not_do() -> None:
    target, batch, observation = observed(made(1))
    found = GIAS(replace(FEW, weight_share=0.0, restarts=2))(target, observation, cpu_generator(0))
    alone = IG(replace(IG.presets["quick"], iterations=320))(target, observation, cpu_generator(0))
    assert psnr(SPACE, found.inputs, batch) > psnr(SPACE, alone.inputs, batch) + 8
    assert found.iterations == 320


def test_its_weights_leave_its_range_as_far_as_the_update_asks() -> None:
    images = torch.from_numpy(smooth_images(1, seed=8)) * 0.5
    target, _, observation = observed(images)
    within, beyond = (
        GIAS(replace(FEW, weight_share=share, weight_learning_rate=1e-2))(target, observation, cpu_generator(0))
        for share in (0.0, 0.5)
    )
    assert beyond.iterations == within.iterations == 160
    assert beyond.match < within.match / 2
    assert "then its weights for 80: cosine distance" in beyond.notes[0]


def test_it_says_what_it_needs_and_stops_when_told() -> None:
    target, _, observation = observed(made(2))
    refusal = GIAS(FEW).applies(target, replace(observation, generator=None))
    assert isinstance(refusal, NotApplicable)
    assert "--generator" in refusal.reason
    for steps in (5, 100):
        cut = GIAS(FEW)(target, observation, cpu_generator(0), StopAfter(steps))
        assert cut.stopped
        assert cut.iterations == steps
    with pytest.raises(ValueError, match="weight_share must be from 0 to below 1"):
        replace(FEW, weight_share=1.0)


def scanned(images: Tensor, **more: Any) -> leakaudit.Report:
    return leakaudit.scan(
        pooled().module, (images.numpy(), np.arange(len(images)) % 5), attacks=["gias"], victims=1, preset="quick",
        mean=[0.5], std=[0.25], input_shape=(3, 12, 12), generator=PATH,
        settings={"gias": {"iterations": "250", "restarts": "2", "weight_share": "0", "execution": "eager"}}, **more,
    )  # fmt: skip


def test_what_the_generator_makes_anyway_is_no_leak() -> None:
    """The private samples are among the dozens that the attacker's generator makes without any update."""
    from leakaudit.audit.environment import seed_of
    from leakaudit.audit.victim import ALONE

    anyway = made(ALONE, seed=seed_of(0, "generator alone", 0))
    report = scanned(anyway, controls="none")
    (entry,) = [attack for attack in report.attacks if attack.name == "gias"]
    (sample,) = entry.results[0].samples
    assert not sample.leaked
    assert sample.floors["prior_only"].psnr is None or sample.floors["prior_only"].psnr > 40


@pytest.mark.slow
def test_the_report_names_the_generator_and_its_controls_ask_for_its_samples() -> None:
    report = scanned(made(120), controls="quick", distractors_needed=100)
    (entry,) = [attack for attack in report.attacks if attack.name == "gias"]
    assert entry.auxiliary is not None
    assert entry.auxiliary.source is AuxiliarySource.GENERATOR
    assert entry.threat_model == "D"
    assert entry.beside is not None
    assert entry.beside.name == "ig"
    (sample,) = entry.results[0].samples
    assert sample.leaked, sample.leaked_reason
    assert sample.floors["prior_only"].psnr < 40  # type: ignore[operator]
    assert "only to an attacker who also holds a generator of similar samples" in report.verdict.at_least
    controls = {control.kind: control for control in report.controls if control.attack == "gias"}
    assert set(controls) == {"negative", "prior_only", "positive"}
    assert {control.status for control in controls.values()} == {"passed"}
    assert f"--generator {PATH}" in " ".join(report.command) or not report.command


@pytest.mark.slow
def test_an_update_of_other_samples_shows_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.audit import pipeline

    honest, others = pipeline.observe_victim, made(3, seed=77)

    def other(target: Any, batch: Any, *rest: Any) -> Any:
        return replace(honest(target, replace(batch, images=others[: len(batch)]), *rest), batch=batch)

    monkeypatch.setattr(pipeline, "observe_victim", other)
    report = scanned(made(120), controls="quick", distractors_needed=100)
    assert not report.verdict.code.leaks


def test_it_is_asked_for_on_the_command_line_and_called_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(pooled().module, tmp_path / "net.onnx")
    np.savez(tmp_path / "batch.npz", x=made(8).numpy(), y=np.arange(8) % 5)
    Path("facemakers.py").write_text(
        "from tests.generators import Smooth\ndef faces(): return Smooth((3, 12, 12))\ndef broken(): return 1 / 0\n"
    )
    words = ("scan", "net.onnx", "-b", "batch.npz", "--attack", "gias", "--set", "gias.iterations=4", "--victims", "1")
    words += ("--controls", "none", "--preset", "quick", "-f", "json", "--fail-on", "never", "-q")
    code, _, err = command(*words, "--generator", "facemakers:faces")
    assert code in (0, 1, 5), err
    report = leakaudit.Report.load(Path("leakaudit-report/report.json"))
    (entry,) = [attack for attack in report.attacks if attack.name == "gias"]
    assert entry.status == "run"
    code, _, err = command(*words, "--generator", "facemakers:broken")
    assert code == 2
    assert err.startswith("Error: --generator facemakers:broken raised ZeroDivisionError: division by zero (facemakers")
    assert len(err.splitlines()) == 2
