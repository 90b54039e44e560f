"""Metrics against independent definitions, one-to-one matching, floors, and what counts as a leak."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.scoring import perceptual
from leakaudit.scoring.base import Judging
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.images import ImageMeasure
from leakaudit.scoring.interval import leak_interval
from tests.conftest import smooth_images


def population(count: int = 12, side: int = 16) -> Batch:
    return Batch(torch.from_numpy(smooth_images(count, side)), torch.arange(count) % 3, tuple(range(count)))


def test_without_the_package_lpips_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    measure = ImageMeasure.of(Images((3, 16, 16), (0.5,) * 3, (0.25,) * 3), population(), Judging())
    assert measure.lpips is None
    assert "pip install leakaudit[lpips]" in measure.lpips_reason


def test_metrics_equal_scikit_image() -> None:
    batch = population()
    guess = (batch.images[0] + 0.1 * torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    scores = ImageMeasure(batch).measure(guess, batch.images[0])
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
    scores = ImageMeasure(population()).score(batch, batch.images[order] * 0.9)
    assert [s.reconstruction for s in scores] == [order.index(i) for i in range(4)]


def test_an_exact_reconstruction_leaks_and_its_psnr_is_undefined() -> None:
    batch = population().subset([4])
    (score,) = ImageMeasure(population()).score(batch, batch.images.clone())
    assert score.scores.psnr is None
    assert "identical" in score.scores.reasons["psnr"]
    assert score.margin == math.inf
    assert score.leaked
    assert score.identification.identified


def test_the_floors_themselves_are_no_leak() -> None:
    whole = population()
    batch = whole.subset([4])
    scorer = ImageMeasure(whole)
    for guess in (torch.full_like(batch.images, 0.5), whole.images[[7]], whole.images.mean(0, keepdim=True)):
        (score,) = scorer.score(batch, guess)
        assert not score.leaked
        assert score.margin is not None
        assert score.margin < 3


def test_floors_use_samples_outside_the_victim_batch() -> None:
    whole = population()
    floors = ImageMeasure(whole).floors(whole.subset([0, 1]), 0)
    assert set(floors) == {"grey", "flat", "mean", "other"}
    expected = float((whole.images[2:].mean(0) - whole.images[0]).double().square().mean())
    assert floors["mean"].mse == pytest.approx(expected)
    assert floors["other"].mse == pytest.approx(float((whole.images[3] - whole.images[0]).double().square().mean()))


def test_small_images_and_missing_lpips_have_reasons() -> None:
    batch = population(4, 8)
    scores = ImageMeasure(batch, None, "no weights").measure(batch.images[0], batch.images[1])
    assert scores.ssim is None
    assert "11×11" in scores.reasons["ssim"]
    assert scores.lpips is None
    assert scores.reasons["lpips"] == "no weights"


def test_a_single_sample_is_told_from_its_own_augmentations() -> None:
    batch = population(1)
    (score,) = ImageMeasure(batch).score(batch, batch.images * 0.99)
    assert set(score.floors) == {"grey", "flat"}
    assert score.identification.identified
    assert score.identification.augmented == score.identification.distractors == 100


def smooth(count: int = 12) -> Batch:
    """Images of hardly any contrast, as of a clear sky: every guess of the colour has a high PSNR."""
    images = 0.3 + 0.02 * torch.from_numpy(smooth_images(count, 16)) + torch.linspace(0, 0.4, count).view(-1, 1, 1, 1)
    return Batch(images, torch.arange(count) % 3, tuple(range(count)))


def test_a_constant_reconstruction_is_no_leak_however_high_its_psnr() -> None:
    whole = smooth()
    batch = whole.subset([5])
    best_constant = batch.images.mean((-2, -1), keepdim=True).expand_as(batch.images)
    (score,) = ImageMeasure(whole).score(batch, best_constant)
    assert score.scores.psnr is not None
    assert score.scores.psnr > 40
    assert not score.leaked
    assert score.margin == pytest.approx(0, abs=1e-6)
    (near,) = ImageMeasure(whole).score(batch, batch.images + 1e-3)
    assert near.leaked  # a smooth image can leak, by its structure


def test_a_constant_sample_never_counts() -> None:
    images = torch.full((12, 3, 16, 16), 0.2) + torch.linspace(0, 0.5, 12).view(-1, 1, 1, 1)
    whole = Batch(images, torch.zeros(12, dtype=torch.long), tuple(range(12)))
    (score,) = ImageMeasure(whole).score(whole.subset([3]), images[[3]])
    assert not score.leaked
    assert score.margin is None
    assert "a floor reproduces" in score.reason


def test_the_prior_alone_is_one_more_floor() -> None:
    whole = population()
    batch = whole.subset([4])
    guess = batch.images + 0.02
    scorer = ImageMeasure(whole)
    (without,) = scorer.score(batch, guess)
    (beaten,) = scorer.score(batch, guess, prior_only=[whole.images[[2]], batch.images + 0.022])
    assert without.leaked
    assert not beaten.leaked
    assert beaten.margin == pytest.approx(20 * math.log10(0.022 / 0.02), abs=1e-3)
    assert "prior_only" in beaten.floors


def test_the_criterion_is_an_option() -> None:
    whole = population()
    batch = whole.subset([4])
    guess = batch.images + 0.02
    margin = ImageMeasure(whole).score(batch, guess)[0].margin
    assert margin is not None
    strict = ImageMeasure(whole, criterion=LeakCriterion(psnr_margin=margin + 0.1)).score(batch, guess)[0]
    assert not strict.leaked
    assert "by the margin" in strict.reason
    by_lpips = LeakCriterion(psnr_margin=margin + 0.1, lpips_margin=0.2)
    distance = ImageMeasure(whole, lambda a, b: (a - b).abs().mean() * 3, criterion=by_lpips).score(batch, guess)[0]
    assert distance.leaked
    assert distance.lpips_margin is not None
    assert distance.lpips_margin > 0.2
    with pytest.raises(UsageError, match="psnr_margin is 0"):
        LeakCriterion(psnr_margin=0)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 10), (5, 5), (17, 40)])
def test_the_interval_holds_the_tails_of_its_definition(k: int, n: int) -> None:
    found = leak_interval(k, n)
    assert found is not None
    low, high = found
    if k:
        assert binom.sf(k - 1, n, low) == pytest.approx(0.025)
    if k < n:
        assert binom.cdf(k, n, high) == pytest.approx(0.025)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


def test_no_interval_below_five() -> None:
    assert leak_interval(2, 4) is None


def test_samples_that_the_batch_repeats_share_their_match() -> None:
    """a, a, b, c against a, b, c and noise: all four places leak, and nothing else is used twice."""
    whole = population()
    batch = whole.subset([2, 2, 5, 7])
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scores = ImageMeasure(whole).score(batch, torch.cat([noise, whole.images[[7, 2, 5]]]))
    assert [score.reconstruction for score in scores] == [2, 2, 3, 1]
    assert [score.position for score in scores] == [0, 1, 2, 3]
    assert all(score.leaked for score in scores)
    apart = ImageMeasure(whole).score(whole.subset([2, 3]), whole.images[[2, 2]])
    assert [score.leaked for score in apart] == [True, False]
