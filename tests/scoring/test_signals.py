"""Signals and volumes: what reconstructions score beside what guesses without the update do."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from leakaudit.attacks.base import cpu_generator
from leakaudit.client.batch import Batch
from leakaudit.domains.signals import Signals
from leakaudit.domains.volumes import Volumes
from leakaudit.scoring.base import Judging, measure_for
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.pictures import HEIGHT, WIDTH, lines, slices
from leakaudit.scoring.signals import SignalMeasure, shifted

DOMAIN = Signals.plain((2, 40))
VALUES = DOMAIN.look_alikes(20, cpu_generator(0))
FILE = Batch(VALUES, torch.arange(20) % 4, tuple(range(20)))


def measure(**more: object) -> SignalMeasure:
    made = measure_for(DOMAIN, FILE, Judging(**more))  # type: ignore[arg-type]
    assert isinstance(made, SignalMeasure)
    return made


def test_metrics_are_those_of_the_textbook() -> None:
    truth, guess = VALUES[0], VALUES[0] + 0.1 * VALUES[1]
    found = measure().measure(guess, truth)
    x, y = truth.double().numpy(), guess.double().numpy()
    centred, own = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    assert found.snr == pytest.approx(10 * np.log10((centred**2).sum() / ((y - x) ** 2).sum()))
    assert found.correlation == pytest.approx(np.corrcoef(centred.ravel(), own.ravel())[0, 1], abs=1e-6)
    assert found.error == pytest.approx(10 ** (-found.snr / 20))
    flat = measure().floors(FILE.subset([0]), 0)["flat"]
    assert flat.snr == pytest.approx(0, abs=1e-4)
    assert flat.correlation is None


def test_a_reconstruction_leaks_and_a_guess_does_not() -> None:
    victim = FILE.subset([3, 5])
    near = VALUES[[5, 3]] + 0.05 * torch.randn((2, 2, 40), generator=cpu_generator(1))
    first, second = sorted(measure().score(victim, near), key=lambda score: score.position)
    assert (first.reconstruction, second.reconstruction) == (1, 0)
    assert first.leaked
    assert first.identification.distractors >= 100
    assert measure().recognisable(first)
    exact = measure().score(victim, VALUES[[3, 5]])[0]
    assert (exact.leaked, exact.metrics["snr"], exact.metrics["error"]) == (True, None, 0.0)
    assert measure().told(exact) == "exact"
    others = measure().score(victim, VALUES[[7, 9]])
    assert not any(score.leaked for score in others)
    assert others[0].reason


def test_a_shift_in_time_is_another_signal() -> None:
    """A reconstruction that is right but for its place in time does not point at the sample."""
    victim = FILE.subset([3])
    moved = VALUES[[3]].roll(7, -1)
    score = measure().score(victim, moved)[0]
    assert not score.leaked
    copies = shifted(VALUES, 60)
    assert torch.equal(copies, shifted(VALUES, 60))
    assert copies.shape == (60, 2, 40)
    assert all(float((copies - v).flatten(1).norm(dim=1).min()) > 0 for v in VALUES)


def test_a_constant_signal_shows_nothing() -> None:
    flat = torch.cat([torch.full((1, 2, 40), 1.5), VALUES])
    made = measure_for(DOMAIN, Batch(flat, torch.zeros(21, dtype=torch.long), tuple(range(21))))
    score = made.score(Batch(flat[:1], torch.zeros(1, dtype=torch.long), (0,)), flat[:1])[0]
    assert not score.leaked
    assert score.metrics["margin"] is None
    assert score.reasons["margin"]


def test_entries_that_are_never_read_do_not_count() -> None:
    read = torch.ones((2, 40), dtype=torch.bool)
    read[:, 20:] = False
    guess = VALUES[[3]].clone()
    guess[..., 20:] = 99.0
    score = measure(read=read).score(FILE.subset([3]), guess)[0]
    assert score.metrics["error"] == 0.0
    assert measure().score(FILE.subset([3]), guess)[0].metrics["error"] > 1  # type: ignore[operator]


def test_the_criterion_is_asked() -> None:
    strict = measure(criterion=LeakCriterion(psnr_margin=60.0))
    near = VALUES[[3]] + 0.05 * torch.randn((1, 2, 40), generator=cpu_generator(1))
    assert strict.score(FILE.subset([3]), near)[0].reason == "does not beat every floor by the margin"


def reds(picture: Image.Image) -> set[bool]:
    """Whether there are red pixels, and others."""
    pixels = np.asarray(picture).astype(int)
    return set((pixels[..., 0] - pixels[..., 2] > 60).ravel().tolist())


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_a_curve_is_drawn_over_the_original() -> None:
    alone, over = opened(lines(VALUES[0])), opened(lines(VALUES[1], VALUES[0]))
    assert alone.size == over.size == (WIDTH, 2 * HEIGHT)
    assert reds(over) == {True, False}, "red over grey"
    assert reds(alone) == {False}
    assert opened(lines(torch.zeros((9, 1)))).size[1] == 6 * HEIGHT


def test_a_volume_is_shown_by_its_middle_slices_and_measured_by_all_voxels() -> None:
    domain = Volumes.plain((1, 4, 6, 8))
    values = domain.look_alikes(12, cpu_generator(2))
    shown: Tensor = slices(values[0])
    assert shown.shape == (1, 6, 8 + 2 + 8 + 2 + 6)
    assert torch.equal(shown[:, :, :8], values[0][:, 2])
    assert torch.equal(shown[:, :4, 10:18], values[0][:, :, 3])
    made = measure_for(domain, Batch(values, torch.arange(12) % 3, tuple(range(12))))
    victim = Batch(values[:1], torch.zeros(1, dtype=torch.long), (0,))
    near = values[:1] + 0.01 * torch.randn((1, 1, 4, 6, 8), generator=cpu_generator(3))
    score = made.score(victim, near)[0]
    assert score.leaked
    assert score.metrics["psnr"] == pytest.approx(-10 * np.log10(float((near - values[:1]).square().mean())), abs=1e-3)
    assert set(score.metrics) >= {spec.name for spec in made.specs}
    entry = made.entry(victim, score, near)
    assert opened(entry["original_png"]).size == (26, 6)
    assert (entry["ssim"], entry["lpips"]) == (None, None)
    assert entry["ssim_reason"] == "volumes have none"
