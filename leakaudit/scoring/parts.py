"""Parts of samples: what a model reads of them, and what an attack claims to have read.

Entries that the model never reads can neither leak nor be rebuilt, so no metric counts them. An attack that reads a
part of the rest is judged on that part as on a whole sample: it must beat every floor there, and be told from others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SHARE = 0.05
"""Share of the entries that a model reads below which a part is no finding of its own; chosen."""


@dataclass(frozen=True)
class Part:
    """A part of a sample that leaked.

    Args:
        entries: How many entries were read.
        of: How many the model reads.
        psnr: On these, in dB; ``None`` where they are identical to the last bit, or no picture.
        name: Of the input that they are, where a model has several.
    """

    entries: int
    of: int
    psnr: float | None
    name: str = ""

    @property
    def told(self) -> str:
        """In words."""
        how = "exactly" if self.psnr is None else f"at {self.psnr:.1f} dB PSNR"
        return f"{self.entries} of {self.of} entries {how}"


@dataclass(frozen=True, eq=False)
class PartlyRead:
    """Reconstructions of which only some entries are claimed.

    Args:
        values: (B, C, H, W) in 0..1.
        read: The claimed entries, of the same shape.
    """

    values: Tensor
    read: Tensor


def values_of(found: Tensor | PartlyRead) -> Tensor:
    """The values (B, C, H, W), filler included."""
    return found.values if isinstance(found, PartlyRead) else found


def claimed(found: Tensor | PartlyRead) -> Tensor | None:
    """Entries (C, H, W) that are claimed of some sample; ``None`` where all are."""
    return found.read.any(0) if isinstance(found, PartlyRead) and bool(found.read.any()) else None


def claimed_of(found: Tensor | PartlyRead, row: int) -> Tensor | None:
    """Entries (C, H, W) that are claimed of one sample; ``None`` where all or none are."""
    return found.read[row] if isinstance(found, PartlyRead) and bool(found.read[row].any()) else None


def within(images: Tensor, read: Tensor | None) -> Tensor:
    """Images (…, C, H, W) with what is not read left at zero, so that distances do not count it."""
    return images if read is None else torch.where(read, images, torch.zeros_like(images))


def mean_colour(image: Tensor, read: Tensor | None) -> Tensor:
    """The mean of each channel over what is read, as a sample of the same shape (C, …)."""
    axes = tuple(range(1, image.dim()))
    if read is None:
        return image.mean(axes, keepdim=True).expand_as(image)
    counts = read.sum(axes, keepdim=True).clamp_min(1)
    return ((image * read).sum(axes, keepdim=True) / counts).expand_as(image)
