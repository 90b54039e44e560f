"""Masks read off an update are the client's; what cannot be read is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.reading.masks import draw_masks, masked_layers, read_masks
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe_step
from leakaudit.defences.base import ClientStep, Defence, through
from leakaudit.defences.gaussian import GaussianMechanism
from leakaudit.defences.pruning import Pruning
from leakaudit.defences.quantisation import IntegerQuantisation, SignQuantisation
from leakaudit.defences.survivors import Support
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.dropout import Dropout, dropout_layers, keyed
from leakaudit.target.target import Target
from tests.attacks.dropout import dropout_net, dropped, small_net
from tests.conftest import make_target


def test_finds_the_layers_that_are_on(samples: Batch, space: Images) -> None:
    target = dropout_net()
    observation = dropped(target, samples.subset([0, 1]), space)
    layers = masked_layers(target, observation)
    assert [(x.name, x.rate, x.shape) for x in layers] == [
        ("channels", 0.25, (2, 6, 1, 1)),
        ("wide", 0.5, (2, 864)),
        ("narrow", 0.5, (2, 32)),
    ]
    assert not any(layer.training for layer in dropout_layers(target.module).values())
    assert masked_layers(target, replace(observation, protocol=FedSGD(2, "eval"))) == ()
    assert masked_layers(dropout_net(p=0.0), observation)[0].name == "channels"


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Tanh])
@pytest.mark.parametrize("seed", [0, 1])
def test_reads_every_mask_of_one_sample(samples: Batch, space: Images, activation: type[nn.Module], seed: int) -> None:
    target = dropout_net(activation)
    observation = dropped(target, samples.subset([seed]), space, seed)
    layers = masked_layers(target, observation)
    read = read_masks(target, replace(observation, masks=None), layers, cpu_generator(9))
    assert observation.masks is not None
    assert set(read) == {"0/channels", "0/wide", "0/narrow"}
    for name, mask in read.items():
        assert torch.equal(mask, keyed(observation.masks)[name]), name


def test_behind_relu_only_units_that_are_zero_anyway_are_taken_for_dropped(samples: Batch, space: Images) -> None:
    target = dropout_net(nn.ReLU)
    observation = dropped(target, samples.subset([2]), space)
    read = read_masks(target, observation, masked_layers(target, observation), cpu_generator(9))
    assert observation.masks is not None
    for name in ("wide", "narrow"):
        assert not bool((read[f"0/{name}"] > observation.masks[0][name]).any())
        assert float(read[f"0/{name}"].sum()) > 0


def test_several_samples_show_what_none_of_them_keeps(samples: Batch, space: Images) -> None:
    target = dropout_net()
    observation = dropped(target, samples.subset([0, 1]), space)
    layers = masked_layers(target, observation)
    read = read_masks(target, observation, layers, cpu_generator(9))
    assert observation.masks is not None
    kept = observation.masks[0]["wide"].amax(0)
    assert torch.equal(read["0/wide"], kept.expand(2, -1))
    start = draw_masks(layers, torch.zeros(1), cpu_generator(0), read)
    assert not bool(start["0/wide"][:, kept == 0].any())
    assert 0.3 < float(start["0/wide"][:, kept == 1].mean()) < 0.7


def features_net(p: float = 0.5) -> Target:
    """Dropout between a convolution's map and the last layer, whose columns alone show it."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, 2, 1), nn.GELU(), nn.Flatten(), Dropout(p, label="drop"), nn.Linear(144, 5))
    return make_target(nn.Sequential(*layers), (3, 12, 12), 5)


def read(target: Target, observation: Observation) -> dict[str, Tensor]:
    """What the attack reads."""
    layers = masked_layers(target, observation)
    return read_masks(target, replace(observation, masks=None), layers, cpu_generator(9))


def defended(target: Target, observation: Observation, batch: Batch, defence: Defence, adapt: bool) -> Observation:
    """The observation of a client with a defence, by an attacker who knows of it or does not."""
    step = ClientStep(target, observation.domain.encode(batch.images), batch.labels, lambda *_: observation.update)
    shared = replace(observation, update=defence.protect(dict(observation.update), step, cpu_generator(1)))
    return defence.adapt(target, shared)[1] if adapt else shared


@pytest.mark.parametrize("build", [small_net, dropout_net])
@pytest.mark.parametrize("sigma", [1e-8, 1e-6, 1e-2])
def test_a_noisy_update_shows_no_mask(samples: Batch, space: Images, build: Callable[[], Target], sigma: float) -> None:
    target, batch = build(), samples.subset([0])
    observation = dropped(target, batch, space)
    assert set(read(target, observation)) == set(keyed(observation.masks or ()))
    assert read(target, defended(target, observation, batch, GaussianMechanism(noise=sigma), True)) == {}


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize(
    "defence",
    [Pruning(prune=0.9), Pruning(prune=0.99), Pruning(prune=0.9, scope="update"), IntegerQuantisation(bits=8)],
)
@pytest.mark.parametrize("build", [small_net, features_net, dropout_net])
def test_zeros_of_another_origin_are_not_taken_for_masks(
    samples: Batch, space: Images, build: Callable[[], Target], defence: Defence, adapt: bool
) -> None:
    target, batch = build(), samples.subset([3])
    assert read(target, defended(target, dropped(target, batch, space), batch, defence, adapt)) == {}


@pytest.mark.parametrize("defence", [SignQuantisation(), GaussianMechanism(clip=0.1, per="update")])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_defences_that_keep_zeros_keep_the_masks_readable(
    samples: Batch, space: Images, defence: Defence, p: float
) -> None:
    target, batch = small_net(p), samples.subset([3])
    observation = dropped(target, batch, space)
    found = read(target, defended(target, observation, batch, defence, True))
    assert observation.masks is not None
    assert torch.equal(found["0/drop"], observation.masks[0]["drop"])


def test_features_hidden_by_soteria_are_not_taken_for_dropped(samples: Batch, space: Images) -> None:
    target, batch = features_net(), samples.subset([3])
    observation = dropped(target, batch, space)
    weight = "model.4.weight" if "model.4.weight" in observation.update else "4.weight"
    columns = torch.ones(144)
    columns[::2] = 0.0
    hidden = replace(observation, update={**observation.update, weight: observation.update[weight] * columns})
    support = Support.of({weight: hidden.update[weight]})
    assert read(target, through(hidden, support)) == {}


def test_more_units_without_a_trace_than_the_rate_allows_are_no_mask(samples: Batch, space: Images) -> None:
    target = small_net(0.25)
    observation = dropped(target, samples.subset([3]), space)
    shown = torch.ones(64)
    shown[:58] = 0.0
    axis = {"1.weight": (64, 1), "1.bias": (64,), "4.weight": (1, 64)}
    emptied = {n: g * shown.view(axis[n]) if n in axis else g for n, g in observation.update.items()}
    assert read(target, replace(observation, update=emptied)) == {}


def test_nothing_dropped_is_believed_only_beside_true_zeros(samples: Batch, space: Images) -> None:
    alone, inputs = small_net(), space.encode(samples.subset([3]).images)
    protocol = FedSGD(1, "train")
    ones = {"drop": torch.ones(1, 64)}
    update = protocol.update(alone, Play(inputs, torch.tensor([3]), masks=(ones,)))
    assert read(alone, Observation(update, protocol, space)) == {}

    target = dropout_net()
    (drawn,) = dropped(target, samples.subset([3]), space).masks or ()
    masks = {**drawn, "channels": torch.ones_like(drawn["channels"])}
    update = protocol.update(target, Play(inputs, torch.tensor([3]), masks=(masks,)))
    found = read(target, Observation(update, protocol, space))
    assert all(torch.equal(found[f"0/{name}"], mask) for name, mask in masks.items())


def test_masks_of_a_convolutions_map_cannot_be_read(samples: Batch, space: Images) -> None:
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


@pytest.mark.parametrize("size", [1, 2])
def test_of_several_steps_only_what_is_dropped_in_all_of_them_is_read(size: int, samples: Batch, space: Images) -> None:
    target, client = small_net(p=0.5), FedAvg(size, "train", local_epochs=2, learning_rate=0.1)
    observation, masks = observe_step(target, samples.subset(range(size)), client, space, seed=1)
    read = read_masks(target, observation, masked_layers(target, observation), cpu_generator(9))
    assert set(read) == {"0/drop", "1/drop"}
    kept = torch.cat([step["drop"] for step in masks]).any(0)
    assert not bool(kept.all())
    for key, mask in read.items():
        assert mask.shape == keyed(masks)[key].shape
        assert torch.equal(mask.bool(), kept.expand(size, -1)), key
