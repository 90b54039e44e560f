"""GI-PIP helps where total variation is weak, and says what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, nn

import leakaudit
from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.gi_pip import GIPIP, GIPIPSettings
from leakaudit.attacks.ig import IG
from leakaudit.client.batch import Batch
from leakaudit.document.schema import AttackEntry
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, SilentMonitor
from leakaudit.report.views.view import build_view
from leakaudit.target.target import Target
from tests.conftest import make_target, smooth_images
from tests.matching.build import StopAfter, observation_of, psnr

AUXILIARY = torch.from_numpy(smooth_images(64, seed=7))
WEAK = GIPIPSettings(iterations=150, signed=False, tv_weight=1e-5, training_steps=250)


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def pooled() -> Target:
    """Too few gradient entries per pixel for the update alone."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
    return make_target(nn.Sequential(*layers), (3, 12, 12), 5)


def test_the_prior_brings_the_guess_nearer(samples: Batch, space: Images) -> None:
    target, victim = pooled(), samples.subset([0, 3])
    observation = replace(observation_of(target, victim, space), auxiliary=AUXILIARY)
    quality = {
        weight: psnr(
            space,
            GIPIP(replace(WEAK, anomaly_weight=weight, one_sided=True))(target, observation, cpu_generator(0)).inputs,
            victim,
        )
        for weight in (0.0, 1.0)
    }
    assert quality[1.0] > quality[0.0] + 0.5


def test_an_interrupted_training_still_gives_a_reconstruction(samples: Batch, space: Images) -> None:
    target = pooled()
    images = torch.from_numpy(smooth_images(16, seed=11))
    observation = replace(observation_of(target, samples.subset([0]), space), auxiliary=images)
    result = GIPIP(WEAK)(target, observation, cpu_generator(0), StopAfter(5))
    assert result.stopped
    assert result.notes[0].startswith("autoencoder of 16 auxiliary samples")


def test_says_what_it_needs(samples: Batch, space: Images) -> None:
    target = pooled()
    observation = observation_of(target, samples.subset([0]), space)
    attack = GIPIP(GIPIP.presets["quick"])

    def reason(images: torch.Tensor | None) -> str:
        refusal = attack.applies(target, replace(observation, auxiliary=images))
        assert isinstance(refusal, NotApplicable)
        return refusal.reason

    assert "--auxiliary" in reason(None)
    assert "at least 8" in reason(AUXILIARY[:3])
    assert "(3, 12, 10)" in reason(AUXILIARY[..., :10])
    assert attack.applies(target, replace(observation, auxiliary=AUXILIARY)) is None


def test_ig_with_its_own_total_variation_stands_beside_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "public.npz", x=smooth_images(30, seed=9))

    def scan(*attacks: str, iterations: str = "12") -> leakaudit.Report:
        settings = {"gi-pip": {"iterations": "12", "training_steps": "5"}, "ig": {"iterations": iterations}}
        return leakaudit.scan(
            pooled().module, (smooth_images(12), np.arange(12) % 5), attacks=attacks, settings=settings, victims=2,
            auxiliary=tmp_path / "public.npz", mean=[0.5], std=[0.25], input_shape=(3, 12, 12),
        )  # fmt: skip

    def entry(report: leakaudit.Report) -> AttackEntry:
        return next(a for a in report.attacks if a.name == "gi-pip")

    alone, together, weaker = scan("gi-pip"), scan("gi-pip", "ig"), scan("gi-pip", "ig", iterations="5")
    for report in (alone, together, weaker):
        assert entry(report).auxiliary.source == "given"  # type: ignore[union-attr]
        beside = entry(report).beside
        assert beside is not None
        assert beside.name == "ig"
        assert beside.hyperparameters["search"] is True
        assert beside.hyperparameters["iterations"] == 12
        assert [r.victim for r in beside.results] == [r.victim for r in entry(report).results] == [0, 1]
        assert all(s.reconstruction_png is None for r in beside.results for s in r.samples)
        (gallery,) = [g for g in build_view(report).galleries if g.attack == "gi-pip"]
        assert "IG (Inverting Gradients) with the total variation that its own objective chose" in gallery.beside[0]
        ours = [s.psnr for r in entry(report).results for s in r.samples]
        theirs = [s.psnr for r in beside.results for s in r.samples]
        gain = sum(a - b for a, b in zip(ours, theirs, strict=True)) / 2  # type: ignore[operator]
        assert f"{abs(gain):.1f} dB in the median" in gallery.beside[0]
        assert beside.gain == pytest.approx(gain)
    assert next(a for a in alone.attacks if a.name == "ig").status == "not_run"
    ig = next(a for a in together.attacks if a.name == "ig")
    beside = entry(together).beside
    assert beside is not None
    assert [r.seconds for r in beside.results] == [r.seconds for r in ig.results]  # run once
    gi_pip = entry(together)
    assert gi_pip.hyperparameters["cache"] is False  # nothing is kept on disk unless the scan keeps its results


@pytest.mark.parametrize("preset", ["quick", "standard", "paper"])
def test_what_its_rival_needs_to_choose_comes_on_top(preset: str, samples: Batch, space: Images) -> None:
    attack = GIPIP(replace(GIPIP.presets[preset], iterations=30))
    own, rival = attack.settings, attack.rival(space.sides)
    observation = observation_of(pooled(), samples.subset([0]), space)
    (note,) = [n for n in rival(pooled(), observation, cpu_generator(0)).notes if n.startswith("chosen by")]
    trials = int(note.split(" trial steps")[0].rsplit(" ", 1)[1])
    left = rival.settings.iterations - trials
    assert left >= own.iterations if not own.search else rival.settings.iterations == own.iterations


def test_victims_together_are_as_in_turn(samples: Batch, space: Images) -> None:
    target = pooled()
    victims = [
        replace(observation_of(target, samples.subset(positions), space), auxiliary=AUXILIARY)
        for positions in ([0, 1], [2, 3])
    ]
    settings = replace(WEAK, iterations=30, training_steps=40, anomaly_weight=1.0, execution="traced")
    in_turn = replace(settings, execution="eager")
    found = GIPIP(settings).together(target, victims, [cpu_generator(i) for i in range(2)], SilentMonitor())
    assert found is not None
    for number, (result, victim) in enumerate(zip(found, victims, strict=True)):
        alone = GIPIP(in_turn)(target, victim, cpu_generator(number))
        assert (result.inputs - alone.inputs).abs().max() < 1e-2
        assert result.match == pytest.approx(alone.match, rel=1e-2)
        assert result.notes[0] == alone.notes[0]
        assert result.notes[-1] == "2 victims attacked together"
        without = IG(in_turn)(target, victim, cpu_generator(number))
        assert (alone.inputs - without.inputs).abs().max() > 0.1, "the prior is not part of it"


def test_is_not_asked_to_learn_where_victims_go_in_turn(samples: Batch, space: Images) -> None:
    target = pooled()
    victims = [observation_of(target, samples.subset([i]), space) for i in range(2)]  # without public images
    for settings in (GIPIP.presets["standard"], replace(WEAK, execution="eager"), replace(WEAK, optimizer="lbfgs")):
        assert GIPIP(settings).together(target, victims, [cpu_generator(0)] * 2, SilentMonitor()) is None


def scan_within(seconds: float, public: Path) -> leakaudit.Report:
    np.savez(public, x=smooth_images(30, seed=9))
    return leakaudit.scan(
        pooled().module, (smooth_images(12), np.arange(12) % 5), attacks=["gi-pip"], victims=2, auxiliary=public,
        mean=[0.5], std=[0.25], input_shape=(3, 12, 12), controls="none", time_budget=seconds,
        settings={"gi-pip": {"iterations": "1000000000", "training_steps": "5"}},
    )  # fmt: skip


@pytest.mark.slow
def test_claims_no_gain_over_a_rival_that_the_time_budget_cut(tmp_path: Path) -> None:
    report = scan_within(30.0, tmp_path / "public.npz")
    gi_pip = next(a for a in report.attacks if a.name == "gi-pip")
    assert gi_pip.beside is not None
    assert [r.victim for r in gi_pip.beside.results] == [0], "of a billion steps one victim is tried, not two"
    assert "; beside it, IG (Inverting Gradients): time budget: " in gi_pip.reason
    (gallery,) = [g for g in build_view(report).galleries if g.attack == "gi-pip"]
    assert "not compared, since not both had all their steps (victim 0: " in gallery.notes[0]
    assert not any(" dB" in note for note in gallery.notes)
    (finding,) = [f for f in report.findings if f.id == "LA953"]
    assert "IG (Inverting Gradients) beside GI-PIP" in finding.message


def test_its_rival_waits_for_the_same_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[tuple[str, float]] = []
    for kind in (GIPIP, IG):
        monkeypatch.setattr(kind, "run", _noted(given))
    scan_within(1000.0, tmp_path / "public.npz")
    assert [name for name, _ in given] == ["gi-pip", "ig"], "of a billion steps one victim is tried, not two"
    shares = [1000 / 2, 1000]  # each leaves all of its own
    assert [seconds for _, seconds in given] == pytest.approx(shares, rel=0.05)


def _noted(given: list[tuple[str, float]]) -> Callable[..., Reconstruction]:
    def run(
        self: Attack, target: Target, observation: Observation, generator: Generator, monitor: Monitor
    ) -> Reconstruction:
        left = monitor.seconds_left()
        assert left is not None
        given.append((self.name, left))
        assert observation.labels is not None
        return Reconstruction(torch.zeros(1, 3, 12, 12), observation.labels, 1.0)

    return run
