"""Re-identification: does a reconstruction point at its own sample, among at least a hundred others?

A reconstruction may beat every floor and still not be *this* sample. So the true sample competes with distractors of
the same domain, by mean squared error in pixels: the rest of the batch file, images that the user adds, and, where
these are fewer than asked for, augmentations (flips, quarter turns, shifts, enlarged details) of the images at hand.

A *near-duplicate* is a distractor that shares 96 per cent of the sample's variance, with the mean per channel
:math:`\\bar x`:

.. math:: \\|d - x\\| \\le 0.2 \\, \\|x - \\bar x\\|

It is no other sample to be told from, so it does not compete, and the result says "up to near-duplicates".

Fails for a constant image: its augmentations are itself, so nothing is left to compete with; it is then undecided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.scoring.parts import mean_colour, within

NEAR_DUPLICATE = 0.2
"""Largest difference of a near-duplicate, relative to the sample's contrast; chosen: 96 per cent of its variance are
shared."""
HALF_LEVEL = 1 / 510
"""Half a grey level of an 8-bit image, by definition: images closer than this on average are the same."""
CHUNK = 1024
"""Images that are compared at a time; chosen for memory."""
SPARE = 2
"""Augmentations made per one needed, since some are near-duplicates of their sample; chosen."""


@dataclass(frozen=True)
class Identification:
    """Whether the true sample is the nearest.

    Args:
        identified: ``None`` when there is nothing to confuse it with.
        distractors: Number of images that it was told from.
        augmented: How many of these are augmentations, not images of their own.
        near_duplicates: Number of images that it cannot be told from, and that did not compete.
    """

    identified: bool | None
    distractors: int
    augmented: int
    near_duplicates: int


class Gallery:
    """The images that a reconstruction's sample has to be told from.

    Args:
        images: The batch file (N, C, H, W), in 0..1.
        others: Further images of the same kind (M, C, H, W), or ``None``.
        least: Number of distractors that is filled up to with augmentations.
        read: Entries (C, H, W) that count, or ``None`` for all.
        altered: Makes so many altered copies of samples; by default :func:`augment`.
    """

    def __init__(
        self,
        images: Tensor,
        others: Tensor | None = None,
        least: int = 100,
        read: Tensor | None = None,
        altered: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        self.real = images if others is None or not len(others) else torch.cat([images, others.to(images)])
        missing = least - (len(self.real) - 1)
        self.least = least
        made = (altered or augment)(self.real, SPARE * least) if missing > 0 else images[:0]
        self.read = read
        self.real, self.augmented = within(self.real, read), within(made, read)

    def near_duplicates(self, truth: Tensor, images: Tensor) -> Tensor:
        """Which of images (N, C, H, W) are near-duplicates of one sample (C, H, W), itself included: booleans (N,)."""
        contrast = float(within(truth - mean_colour(truth, self.read), self.read).norm())
        entries = truth.numel() if self.read is None else int(self.read.sum())
        distances = _distances(within(images, self.read), within(truth, self.read))
        near: Tensor = distances <= max(NEAR_DUPLICATE * contrast, HALF_LEVEL * entries**0.5)
        return near

    def identify(self, guess: Tensor, truth: Tensor) -> Identification:
        """Tell one sample (C, H, W) from all others by its reconstruction (C, H, W)."""
        guess, truth = within(guess, self.read), within(truth, self.read)
        alike = self.near_duplicates(truth, self.real)
        competitors = self.real[~alike]
        extra = self.augmented[~self.near_duplicates(truth, self.augmented)][: max(0, self.least - len(competitors))]
        count = len(competitors) + len(extra)
        duplicates = int(alike.sum()) - 1
        if not count:
            return Identification(None, 0, 0, duplicates)
        own = torch.cat([truth[None], self.real[alike]])
        nearest_own = _distances(own, guess).min()
        nearest_other = _distances(torch.cat([competitors, extra]), guess).min()
        return Identification(bool(nearest_own < nearest_other), count, len(extra), duplicates)


def _distances(images: Tensor, image: Tensor) -> Tensor:
    """Euclidean distances (N,) of images (N, C, H, W) to one (C, H, W)."""
    parts = [(chunk - image).flatten(1).norm(dim=1) for chunk in torch.split(images, CHUNK)]
    return torch.cat(parts) if parts else images.new_zeros(0)


def augment(images: Tensor, count: int) -> Tensor:
    """`count` altered copies of images (N, C, H, W), taken in turn: a flip or turn, a shift, and an enlarged detail.

    Of volumes (N, C, D, H, W) all slices are altered alike. The same images give the same copies.
    """
    generator = torch.Generator().manual_seed(0)
    planes = images.flatten(1, -3)
    made = [_alter(planes[i % len(planes)], generator) for i in range(count)]
    return torch.stack(made).view(count, *images.shape[1:])


def _alter(image: Tensor, generator: torch.Generator) -> Tensor:
    """One altered copy of an image (C, H, W)."""
    height, width = image.shape[-2:]
    turn, mirror, shift_y, shift_x, zoom = torch.rand(5, generator=generator).tolist()
    turns = int(4 * turn) if height == width else 2 * int(2 * turn)
    copy = torch.rot90(image, turns, (-2, -1))
    copy = copy.flip(-1) if mirror < 0.5 else copy
    copy = copy.roll((int(shift_y * height), int(shift_x * width)), (-2, -1))
    rows, columns = (max(1, round(side * (1 - 0.5 * zoom))) for side in (height, width))
    return F.interpolate(copy[None, :, :rows, :columns], (height, width), mode="bilinear", align_corners=False)[0]
