"""LPIPS equals its published figures on the published weights, and refuses others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from leakaudit.errors import UsageError
from leakaudit.scoring.perceptual import PerceptualDistance, find_weights


@pytest.mark.parametrize("name", ["squeeze.backbone.pth", "squeezenet1_1_fp32features_fp16classifier.pt"])
def test_published_values(data: Path, name: str) -> None:
    distance = PerceptualDistance(data / "lpips" / name)
    torch.manual_seed(42)
    first, second = torch.rand(2, 3, 100, 100), torch.rand(2, 3, 100, 100)
    values = [float(distance(first[[i]], second[[i]])) for i in range(2)]
    assert values == pytest.approx([0.1024, 0.0938], abs=5e-5)  # torchmetrics' documentation
    assert float(distance(first[[0]], first[[0]])) == 0
    assert float(distance(torch.rand(1, 1, 28, 28), torch.rand(1, 1, 28, 28))) > 0


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="not the published SqueezeNet"):
        PerceptualDistance(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        PerceptualDistance(tmp_path / "text.pth")
    with pytest.raises(UsageError, match="not a readable checkpoint"):
        PerceptualDistance(tmp_path / "none.pth")


def test_the_hub_cache_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert find_weights() is None
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"")
    assert find_weights() == folder / "squeezenet1_1-b8a52dc0.pth"
