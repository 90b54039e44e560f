"""SSIM of two images, over the windows that lie inside and whose centre the model reads.

As torchmetrics computes it, which takes longer to import than torch does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW = 11
"""Side of the Gaussian window, in pixels (Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""
DEVIATION = 1.5
"""Of the window, in pixels (Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""
C1, C2 = 0.01**2, 0.03**2
"""Constants that keep the quotients finite, for values in 0..1 (Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""


def ssim(guess: Tensor, truth: Tensor, read: Tensor | None = None) -> float | None:
    """Mean SSIM of images (C, H, W) in 0..1; ``None`` where there is no such window.

    Args:
        guess: The reconstruction.
        truth: The sample.
        read: Entries (C, H, W) that count; the others are taken to agree.
    """
    if min(guess.shape[-2:]) < SSIM_WINDOW:
        return None
    edge = SSIM_WINDOW // 2
    counted = None if read is None else read[..., edge:-edge, edge:-edge]
    if counted is not None and not bool(counted.any()):
        return None
    same = guess if read is None else torch.where(read, guess, truth)
    inside = _map(same.double(), truth.double())
    return float(inside.mean() if counted is None else inside[counted].mean())


def _map(x: Tensor, y: Tensor) -> Tensor:
    """SSIM (C, H - 10, W - 10) at the centre of every window inside two images (C, H, W) in 0..1; equation 13 there."""
    places = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    weights = torch.exp(-places.square() / (2 * DEVIATION**2))
    weights = weights / weights.sum()
    moments = torch.stack([x, y, x * x, y * y, x * y]).flatten(0, 1)[:, None]
    means = F.conv2d(F.conv2d(moments, weights.reshape(1, 1, -1, 1)), weights.reshape(1, 1, 1, -1))
    mean_x, mean_y, xx, yy, xy = torch.split(means[:, 0], len(x))
    variance_x, variance_y = (xx - mean_x.square()).clamp_min(0), (yy - mean_y.square()).clamp_min(0)
    likeness: Tensor = (2 * mean_x * mean_y + C1) * (2 * (xy - mean_x * mean_y) + C2)
    return likeness / ((mean_x.square() + mean_y.square() + C1) * (variance_x + variance_y + C2))
