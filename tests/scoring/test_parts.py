"""What the model never reads does not count, and a part that is claimed is judged as a whole sample is."""

from __future__ import annotations

import torch

from leakaudit.client.batch import Batch
from leakaudit.scoring.images import ImageMeasure
from leakaudit.scoring.parts import PartlyRead
from tests.conftest import smooth_images


def population(count: int = 12, side: int = 16) -> Batch:
    return Batch(torch.from_numpy(smooth_images(count, side)), torch.arange(count) % 3, tuple(range(count)))


def left(side: int = 16) -> torch.Tensor:
    """The left half of an image."""
    read = torch.zeros(3, side, side, dtype=torch.bool)
    read[..., : side // 2] = True
    return read


def test_pixels_that_are_never_read_change_no_score() -> None:
    whole, read = population(), left()
    batch = whole.subset([2, 5])
    measure = ImageMeasure(whole, lambda a, b: (a - b).abs().mean(), read=read)
    guess = (0.9 * batch.images).clamp(0, 1)
    other = torch.where(read, guess, torch.rand(guess.shape, generator=torch.Generator().manual_seed(0)))
    for one, two in zip(measure.score(batch, guess), measure.score(batch, other), strict=True):
        assert one.metrics == two.metrics
        assert one.identification == two.identification
    half = whole.images[..., :8]
    cropped = ImageMeasure(Batch(half, whole.labels, whole.indices)).score(batch_of(half), guess[..., :8])
    assert [s.scores.psnr for s in cropped] == [s.scores.psnr for s in measure.score(batch, guess)]


def batch_of(half: torch.Tensor) -> Batch:
    return Batch(half[[2, 5]], torch.tensor([2, 2]), (2, 5))


def test_a_part_is_judged_on_its_entries() -> None:
    whole, read = population(), left()
    batch = whole.subset([2, 5])
    filler = torch.where(read, batch.images, torch.full_like(batch.images, 0.5))
    claim = PartlyRead(filler.flip(0), read.expand(2, -1, -1, -1))
    for score in ImageMeasure(whole).score(batch, claim):
        assert score.leaked
        assert score.part is not None
        assert (score.part.entries, score.part.of, score.part.psnr) == (384, 768, None)
        assert score.scores.psnr is not None
        assert score.scores.psnr < 40
    wrong = PartlyRead(torch.where(read, whole.images[[7, 8]], torch.full_like(batch.images, 0.5)), claim.read)
    assert not any(score.leaked for score in ImageMeasure(whole).score(batch, wrong))


def test_rows_without_a_claim_are_judged_as_a_whole() -> None:
    whole, read = population(), left()
    batch = whole.subset([2, 5])
    claimed = torch.stack([read, torch.zeros_like(read)])
    scores = ImageMeasure(whole).score(batch, PartlyRead(torch.where(claimed, batch.images, 0.5), claimed))
    assert [score.leaked for score in scores] == [True, False]


def test_a_part_of_what_is_never_read_does_not_count() -> None:
    """The attack claims the left half, of which the model reads the upper part alone."""
    whole, read = population(), left()
    upper = torch.zeros_like(read)
    upper[:, :8] = True
    batch = whole.subset([2])
    claim = PartlyRead(torch.where(read, batch.images, 0.5), read[None])
    (score,) = ImageMeasure(whole, read=upper).score(batch, claim)
    assert score.part is not None
    assert (score.part.entries, score.part.of) == (192, 384)
