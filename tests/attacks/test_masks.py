"""Masks read off an update are the client's; what cannot be read is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.masks import draw_masks, masked_layers, read_masks
from leakaudit.batch import Batch
from leakaudit.observation import InputSpace, Observation, Protocol
from leakaudit.target.dropout import Dropout, dropout_layers, record
from leakaudit.target.target import Target
from tests.conftest import make_target


def dropout_net(activation: type[nn.Module] = nn.GELU, p: float = 0.5) -> Target:
    """Convolution, channel dropout, linear layers with dropout before each."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 1, 1), activation(), Dropout(0.25, "channel", "channels"), nn.Conv2d(6, 6, 3, 1, 1)),
        *(activation(), nn.Flatten(), Dropout(p, label="wide"), nn.Linear(864, 32), activation()),
        *(Dropout(p, label="narrow"), nn.Linear(32, 5)),
    )
    return make_target(net, (3, 12, 12), 5)


def dropped(target: Target, batch: Batch, space: InputSpace, seed: int = 0) -> Observation:
    """The observation of a client with dropout on, with its masks."""
    layers = dropout_layers(target.module).values()
    for layer in layers:
        layer.train()
    with record(target.module, cpu_generator(seed)) as masks:
        update = {n: g.detach() for n, g in target.gradient(space.normalize(batch.images), batch.labels).items()}
    for layer in layers:
        layer.eval()
    return Observation(update, Protocol(len(batch), "train"), space, labels=batch.labels, masks=dict(masks))


def test_finds_the_layers_that_are_on(samples: Batch, space: InputSpace) -> None:
    target = dropout_net()
    observation = dropped(target, samples.subset([0, 1]), space)
    layers = masked_layers(target, observation)
    assert [(x.name, x.rate, x.shape) for x in layers] == [
        ("channels", 0.25, (2, 6, 1, 1)),
        ("wide", 0.5, (2, 864)),
        ("narrow", 0.5, (2, 32)),
    ]
    assert not any(layer.training for layer in dropout_layers(target.module).values())
    assert masked_layers(target, replace(observation, protocol=Protocol(2, "eval"))) == ()
    assert masked_layers(dropout_net(p=0.0), observation)[0].name == "channels"


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Tanh])
@pytest.mark.parametrize("seed", [0, 1])
def test_reads_every_mask_of_one_sample(
    samples: Batch, space: InputSpace, activation: type[nn.Module], seed: int
) -> None:
    target = dropout_net(activation)
    observation = dropped(target, samples.subset([seed]), space, seed)
    layers = masked_layers(target, observation)
    read = read_masks(target, replace(observation, masks=None), layers, cpu_generator(9))
    assert observation.masks is not None
    assert set(read) == {"channels", "wide", "narrow"}
    for name, mask in read.items():
        assert torch.equal(mask, observation.masks[name]), name


def test_behind_relu_only_units_that_are_zero_anyway_are_taken_for_dropped(samples: Batch, space: InputSpace) -> None:
    target = dropout_net(nn.ReLU)
    observation = dropped(target, samples.subset([2]), space)
    read = read_masks(target, observation, masked_layers(target, observation), cpu_generator(9))
    assert observation.masks is not None
    for name in ("wide", "narrow"):
        assert not bool((read[name] > observation.masks[name]).any())
        assert float(read[name].sum()) > 0


def test_several_samples_show_what_none_of_them_keeps(samples: Batch, space: InputSpace) -> None:
    target = dropout_net()
    observation = dropped(target, samples.subset([0, 1]), space)
    layers = masked_layers(target, observation)
    read = read_masks(target, observation, layers, cpu_generator(9))
    assert observation.masks is not None
    kept = observation.masks["wide"].amax(0)
    assert torch.equal(read["wide"], kept.expand(2, -1))
    start = draw_masks(layers, torch.zeros(1), cpu_generator(0), read)
    assert not bool(start["wide"][:, kept == 0].any())
    assert 0.3 < float(start["wide"][:, kept == 1].mean()) < 0.7


def test_a_noisy_update_shows_no_mask(samples: Batch, space: InputSpace) -> None:
    target = dropout_net()
    observation = dropped(target, samples.subset([0]), space)
    noisy = {n: g + 1e-6 * torch.randn(g.shape, generator=cpu_generator(1)) for n, g in observation.update.items()}
    layers = masked_layers(target, observation)
    read = read_masks(target, replace(observation, update=noisy), layers, cpu_generator(9))
    assert read == {}


def test_masks_of_a_convolutions_map_cannot_be_read(samples: Batch, space: InputSpace) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 1, 1), nn.GELU(), Dropout(0.25, label="map"), nn.Conv2d(6, 6, 3, 2, 1)),
        *(nn.GELU(), nn.Flatten(), nn.Linear(216, 5)),
    )
    target = make_target(net, (3, 12, 12), 5)
    observation = dropped(target, samples.subset([0]), space)
    layers = masked_layers(target, observation)
    assert layers[0].units == 864
    assert read_masks(target, observation, layers, cpu_generator(9)) == {}
