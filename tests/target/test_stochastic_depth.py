"""Stochastic depth and alpha dropout are dropout layers: found, recorded and injected as torch does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from leakaudit import load
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe_step
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.protocols.gradients import gradient
from leakaudit.target.dropout import dropout_layers, injected_masks, replace_dropout


class DropPath(nn.Module):
    """As timm writes it: the name, ``drop_prob`` and ``scale_by_keep`` are all that is known of such classes."""

    def __init__(self, drop_prob: float, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty((len(x), *(1,) * (x.dim() - 1))).bernoulli_(1 - self.drop_prob)
        return x * (keep / (1 - self.drop_prob) if self.scale_by_keep else keep)


class Residual(nn.Module):
    """A block whose branch is dropped as a whole."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.first, self.branch, self.drop = nn.Linear(27, 27), nn.Linear(27, 27), drop
        self.head = nn.Linear(27, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        return self.head(x + self.drop(self.branch(x).relu()))


class Noisy(nn.Module):
    """Draws by a function of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(27, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(x + 0.1 * torch.randn_like(x) if self.training else x)


LAYERS = [
    (StochasticDepth(0.4, "row"), (6, 1)),
    (StochasticDepth(0.4, "batch"), (1, 1)),
    (DropPath(0.4), (6, 1)),
    (DropPath(0.4, scale_by_keep=False), (6, 1)),
    (nn.AlphaDropout(0.4), (6, 27)),
    (nn.FeatureAlphaDropout(0.4), (6, 27)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: type(value).__name__)
def test_it_is_found_and_its_masks_explain_the_gradient(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    target = load(Residual(layer).train(), mode="train", image_shape=(3, 3, 3))
    assert list(dropout_layers(target.module)) == ["drop"]
    assert "LA917" not in {note.id for note in target.fidelity}
    images, labels = torch.rand(6, 3, 3, 3), torch.arange(6) % 3
    batch = Batch(images, labels, tuple(range(6)))
    observation, steps = observe_step(target, batch, FedSGD(6, "train"), target.domain, seed=3)
    assert steps[0]["drop"].shape == shape
    again = gradient(target, images, labels, steps[0])
    other = gradient(target, images, labels, {"drop": 1 - steps[0]["drop"]})
    for name, tensor in observation.update.items():
        assert torch.allclose(again[name], tensor, atol=1e-7), name
    assert not torch.allclose(other["head.weight"], observation.update["head.weight"], atol=1e-4)


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.3), nn.FeatureAlphaDropout(0.3)], ids=lambda v: type(v).__name__)
def test_alpha_dropout_takes_the_values_of_torch(layer: Any) -> None:
    """A kept entry and a dropped one have one image each, which torch's own layer shows."""
    x = torch.linspace(0.1, 3, 4000).reshape(40, 100) if isinstance(layer, nn.AlphaDropout) else torch.rand(40, 8, 5)
    expected = layer.train()(x)
    holder = nn.Sequential(layer)
    replace_dropout(holder)
    dropped = expected < expected.min() + 1e-5
    kept = torch.ones(holder[0].mask_shape(x))
    zero = torch.zeros_like(kept)
    with injected_masks(holder, {"0": kept}):
        assert torch.allclose(holder(x)[~dropped], expected[~dropped], atol=1e-6)
    with injected_masks(holder, {"0": zero}):
        assert torch.allclose(holder(x)[dropped], expected[dropped], atol=1e-6)


def test_torchvision_networks_with_stochastic_depth_have_their_layers() -> None:
    from torchvision.models import efficientnet_b0

    names = replace_dropout(efficientnet_b0(num_classes=4))
    assert len([name for name in names if "stochastic_depth" in name]) == 16


def test_draws_that_no_layer_makes_are_said() -> None:
    target = load(Noisy().train(), mode="train", image_shape=(3, 3, 3))
    (note,) = (note for note in target.fidelity if note.id == "LA917")
    assert "no dropout layer's" in note.message
    assert "LA917" not in {note.id for note in load(Noisy(), image_shape=(3, 3, 3)).fidelity}
