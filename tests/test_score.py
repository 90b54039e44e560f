"""Metrics against independent definitions, one-to-one matching, floors, and what counts as a leak."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from leakaudit.batch import Batch
from leakaudit.score import Scorer
from tests.conftest import smooth_images


def population(count: int = 12, side: int = 16) -> Batch:
    return Batch(torch.from_numpy(smooth_images(count, side)), torch.arange(count) % 3, tuple(range(count)))


def test_metrics_equal_scikit_image() -> None:
    batch = population()
    guess = (batch.images[0] + 0.1 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    scores = Scorer(batch).measure(guess, batch.images[0])
    truth, other = (t.numpy().astype(np.float64) for t in (batch.images[0], guess))
    assert scores.psnr == pytest.approx(peak_signal_noise_ratio(truth, other, data_range=1.0), abs=1e-9)
    _, full = structural_similarity(
        truth, other, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    assert scores.ssim == pytest.approx(full[:, 5:-5, 5:-5].mean(), abs=1e-6)


def test_matching_is_one_to_one_and_undoes_any_order() -> None:
    batch = population().subset([2, 5, 7, 9])
    order = [3, 0, 2, 1]
    scores = Scorer(population()).score(batch, batch.images[order] * 0.9)
    assert [s.reconstruction for s in scores] == [order.index(i) for i in range(4)]


def test_an_exact_reconstruction_leaks_and_its_psnr_is_undefined() -> None:
    batch = population().subset([4])
    (score,) = Scorer(population()).score(batch, batch.images.clone())
    assert score.scores.psnr is None
    assert "identical" in score.scores.reasons["psnr"]
    assert score.margin == math.inf
    assert score.leaked
    assert score.reidentified


def test_the_floors_themselves_are_no_leak() -> None:
    whole = population()
    batch = whole.subset([4])
    scorer = Scorer(whole)
    for guess in (torch.full_like(batch.images, 0.5), whole.images[[7]], whole.images.mean(0, keepdim=True)):
        (score,) = scorer.score(batch, guess)
        assert not score.leaked
        assert score.margin is not None
        assert score.margin < 3


def test_floors_use_samples_outside_the_victim_batch() -> None:
    whole = population()
    floors = Scorer(whole).floors(whole.subset([0, 1]), 0)
    assert set(floors) == {"grey", "mean", "other"}
    expected = float((whole.images[2:].mean(0) - whole.images[0]).double().square().mean())
    assert floors["mean"].mse == pytest.approx(expected)
    assert floors["other"].mse == pytest.approx(float((whole.images[3] - whole.images[0]).double().square().mean()))


def test_small_images_and_missing_lpips_have_reasons() -> None:
    batch = population(4, 8)
    scores = Scorer(batch, None, "no weights").measure(batch.images[0], batch.images[1])
    assert scores.ssim is None
    assert "11×11" in scores.reasons["ssim"]
    assert scores.lpips is None
    assert scores.reasons["lpips"] == "no weights"


def test_a_single_sample_has_no_reidentification() -> None:
    batch = population(1)
    (score,) = Scorer(batch).score(batch, batch.images * 0.99)
    assert score.reidentified is None
    assert set(score.floors) == {"grey"}
