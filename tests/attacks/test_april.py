"""Patches from position and patch embeddings, with and without normalisation, skip connections and dropout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from leakaudit.attacks.april import April, AprilSettings, find_patches, solve_patches
from leakaudit.attacks.base import cpu_generator
from leakaudit.domains.images import Images
from leakaudit.reconstruction import NotApplicable
from tests.attacks.exact import noise_batch, seen
from tests.attacks.transformer import TinyViT
from tests.cli.build import leakaudit
from tests.conftest import make_target, small_cnn, smooth_images

ATTACK = April(AprilSettings())
SHAPE = (3, 12, 12)


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"norm": False}, "eval"),
        ({}, "eval"),
        ({"convolution": False}, "eval"),
        ({"norm": False, "skip": False}, "eval"),
        ({"drop": 0.2}, "train"),
    ],
    ids=["no norm", "layer norm", "linear patches", "no skip", "dropout"],
)
def test_the_image_is_exact(settings: dict[str, bool], mode: str, space: Images) -> None:
    target = make_target(TinyViT(**settings), SHAPE, 5)  # type: ignore[arg-type]
    victim = noise_batch(1)
    observation = seen(target, victim, space, mode)  # type: ignore[arg-type]
    assert ATTACK.applies(target, observation) is None
    result = ATTACK(target, observation, cpu_generator(0))
    assert float((result.inputs - space.encode(victim.images)).square().mean()) < 1e-6
    assert result.exact


def test_more_patches_than_dimensions_are_not_called_exact(space: Images) -> None:
    target = make_target(TinyViT(width=12), SHAPE, 5)
    result = ATTACK(target, seen(target, noise_batch(1), space), cpu_generator(0))
    assert not result.exact
    assert "minimum-norm" in result.notes[0]


def test_embedding_and_positions_are_found_by_what_they_do() -> None:
    found = find_patches(make_target(TinyViT(), SHAPE, 5))
    assert found is not None
    assert (found.entry.weight, found.position, found.offset, found.count) == ("embed.weight", "position", 1, 16)


def test_refusals_name_the_reason(space: Images) -> None:
    cases = [
        (make_target(small_cnn(), SHAPE, 5), 1, "no learned position embedding"),
        (make_target(TinyViT(learned=False), SHAPE, 5), 1, "no learned position embedding"),
        (make_target(TinyViT(), SHAPE, 5), 2, "batch of 2"),
    ]
    for target, size, reason in cases:
        refusal = ATTACK.applies(target, seen(target, noise_batch(size), space))
        assert isinstance(refusal, NotApplicable)
        assert reason in refusal.reason


def test_minimum_norm_solution_of_a_deficient_system() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn((9, 3), generator=generator, dtype=torch.float64) @ torch.randn(
        (3, 5), generator=generator, dtype=torch.float64
    )
    truth = torch.randn((5, 4), generator=generator, dtype=torch.float64)
    patches, rank, _, misfit = solve_patches(errors, errors @ truth, 1e-10)
    assert rank == 3
    assert misfit < 1e-12
    assert torch.allclose(patches, torch.linalg.pinv(errors, rtol=1e-10) @ (errors @ truth), atol=1e-10)


def test_from_the_command_line_the_image_of_a_transformer_is_exact(tmp_path: Path) -> None:
    torch.save(TinyViT().state_dict(), tmp_path / "vit.pth")
    np.savez(tmp_path / "batch.npz", x=smooth_images(8), y=np.arange(8) % 5)
    words = ["scan", tmp_path / "vit.pth", "--factory", "tests.attacks.test_april:TinyViT"]
    words += ["--batch", tmp_path / "batch.npz", "--mean", "0.5", "--std", "0.25", "--input-shape", "3,12,12"]
    words += ["--attack", "april", "--victims", "1"]
    code, _, errors = leakaudit(*words, "--format", "json", "--out", tmp_path / "report")
    assert code == 1, errors
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    entry = next(attack for attack in report["attacks"] if attack["name"] == "april")
    assert entry["status"] == "run"
    assert entry["results"][0]["certified"] is not False, entry["results"][0]["certified_reason"]
    assert entry["results"][0]["samples"][0]["mse"] <= 1e-6
