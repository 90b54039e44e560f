"""SSIM against torchmetrics' implementation."""

from __future__ import annotations

import pytest
import torch

from leakaudit.scoring.ssim import SSIM_WINDOW, ssim


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.6])
def test_it_is_that_of_torchmetrics(channels: int, noise: float) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    generator = torch.Generator().manual_seed(channels)
    truth = torch.rand(channels, 24, 17, generator=generator, dtype=torch.float64)
    guess = (truth + noise * torch.randn(truth.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    _, whole = structural_similarity_index_measure(
        guess[None], truth[None], sigma=1.5, data_range=1.0, return_full_image=True
    )
    edge = SSIM_WINDOW // 2
    inside = whole[0, ..., edge:-edge, edge:-edge]
    assert ssim(guess, truth) == pytest.approx(float(inside.mean()), abs=1e-9)
    read = torch.zeros(truth.shape, dtype=torch.bool)
    read[..., :9] = True
    same = torch.where(read, guess, truth)
    _, whole = structural_similarity_index_measure(
        same[None], truth[None], sigma=1.5, data_range=1.0, return_full_image=True
    )
    inside, counted = whole[0, ..., edge:-edge, edge:-edge], read[..., edge:-edge, edge:-edge]
    assert ssim(guess, truth, read) == pytest.approx(float(inside[counted].mean()), abs=1e-9)
