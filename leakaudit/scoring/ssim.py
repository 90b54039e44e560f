"""SSIM of two images, over the windows that lie inside and whose centre the model reads."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

SSIM_WINDOW = 11
"""Side of the Gaussian window, in pixels (Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""


def ssim(guess: Tensor, truth: Tensor, read: Tensor | None = None) -> float | None:
    """Mean SSIM of images (C, H, W) in 0..1; ``None`` where there is no such window.

    Args:
        guess: The reconstruction.
        truth: The sample.
        read: Entries (C, H, W) that count; the others are taken to agree.
    """
    if min(guess.shape[-2:]) < SSIM_WINDOW:
        return None
    edge = SSIM_WINDOW // 2  # torchmetrics pads by reflection; only windows inside the image count here
    counted = None if read is None else read[..., edge:-edge, edge:-edge]
    if counted is not None and not bool(counted.any()):
        return None
    same = guess if read is None else torch.where(read, guess, truth)
    _, full = structural_similarity_index_measure(
        same[None].double(), truth[None].double(), sigma=1.5, data_range=1.0, return_full_image=True
    )
    inside = full[0, ..., edge:-edge, edge:-edge]
    return float(inside.mean() if counted is None else inside[counted].mean())
