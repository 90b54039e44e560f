"""Local steps are those of torch.optim, and what is shared of them is a weighted mean of gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator, relative_residual
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.attacks.registry import available, create
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe, observe_step
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.protocols.optimizers import impulses
from leakaudit.reconstruction import NotApplicable
from leakaudit.target.dropout import Dropout, injected_masks
from leakaudit.target.target import Target
from tests.conftest import make_target

RATE = 0.05
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.ReLU(), nn.Linear(24, 5)),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5)
    ),
    "batchnorm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(400, 5)
    ),
    "dropout": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(432, 24), nn.Sigmoid(), Dropout(0.5, label="drop"), nn.Linear(24, 5)
    ),
    "groupnorm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=2), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 5)
    ),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "decay": {"weight_decay": 5e-3},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    "adam": {"optimizer": "adam", "weight_decay": 5e-4},
    "adamw": {"optimizer": "adamw", "weight_decay": 1e-2},
    "rmsprop": {"optimizer": "rmsprop", "momentum": 0.5, "weight_decay": 5e-4},
}


def target_of(name: str) -> Target:
    torch.manual_seed(0)
    target = make_target(NETWORKS[name](), (3, 12, 12), 5)
    target.module.train()
    return target


def weights_of(protocol: FedAvg) -> list[float]:
    """How much each step's gradient moves the weights; of Adam and alike the learning rate, by convention."""
    if protocol.optimizer != "sgd":
        return [protocol.learning_rate] * protocol.steps
    settings = (protocol.learning_rate, protocol.momentum, protocol.nesterov, protocol.weight_decay)
    return impulses(protocol.steps, *settings)[1]


def optimizer(module: nn.Module, protocol: FedAvg) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": protocol.learning_rate, "weight_decay": protocol.weight_decay}
    if protocol.optimizer in ("sgd", "rmsprop"):
        settings["momentum"] = protocol.momentum
    if protocol.optimizer == "sgd":
        settings["nesterov"] = protocol.nesterov
    kinds: dict[str, Any] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    built: torch.optim.Optimizer = kinds[protocol.optimizer](module.parameters(), **settings)
    return built


def trained(target: Target, protocol: FedAvg, play: Play) -> dict[str, Tensor]:
    """Weights after torch.optim's own loop, the masks replayed."""
    module = copy.deepcopy(target.module)
    steps = optimizer(module, protocol)
    number = 0
    for epoch in range(protocol.local_epochs):
        order = torch.arange(len(play.inputs)) if play.order is None else play.order[epoch]
        for chosen in order.split(protocol.local_batch_size or len(order)):
            if protocol.drop_last and len(chosen) < (protocol.local_batch_size or 0):
                continue
            steps.zero_grad()
            with injected_masks(module, play.masks_of(number)):
                nn.functional.cross_entropy(module(play.inputs[chosen]), play.labels[chosen]).backward()
            steps.step()
            number += 1
    return {name: tensor.detach() for name, tensor in module.named_parameters()}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_client_trains_as_torch_does(network: str, settings: str, samples: Batch, space: Images) -> None:
    target = target_of(network)
    rate = 1e-3 if "optimizer" in SETTINGS[settings] else RATE
    protocol = FedAvg(7, "train", "none", 2, 3, rate, **SETTINGS[settings])
    if network == "batchnorm":  # a rest of one sample is no batch
        protocol = replace(protocol, drop_last=True)
    before = {name: tensor.detach().clone() for name, tensor in target.parameters.items()}
    batch = samples.subset(list(range(7)))
    observation, masks = observe_step(target, batch, protocol, space, seed=4)
    order = protocol.order(torch.Generator().manual_seed(4), 7)
    play = Play(space.encode(batch.images), batch.labels, order, masks)
    after = trained(target, protocol, play)
    assert len(masks) == (protocol.steps if network == "dropout" else 0)
    sent = protocol.from_shared(after, before)
    for name, found in observation.update.items():
        learnt = (after[name] - before[name]).norm()
        # what is compared is the difference of the weights, in float32: their own rounding is part of it
        error = (sent[name] - found).norm() * sum(weights_of(protocol))
        assert error <= 1e-6 * before[name].norm() + 1e-6 * learnt, (name, error, learnt)


def test_without_dropout_the_weights_are_the_clients_to_the_last_bit(samples: Batch, space: Images) -> None:
    """SGD's float32 arithmetic is the same, so rows that nothing touched and zeros stay what they are."""
    target = target_of("mlp")
    target.module.eval()
    protocol = FedAvg(4, "eval", "none", 2, 2, RATE, momentum=0.9)
    batch = samples.subset([0, 1, 2, 3])
    observation = observe(target, batch, protocol, space, seed=1)
    order = protocol.order(torch.Generator().manual_seed(1), 4)
    after = trained(target, protocol, Play(space.encode(batch.images), batch.labels, order))
    sent = protocol.from_shared(after, target.parameters)
    assert all(torch.equal(sent[name], found) for name, found in observation.update.items())


@pytest.mark.parametrize("settings", [name for name, own in SETTINGS.items() if "optimizer" not in own])
def test_an_update_of_sgd_is_a_weighted_mean_of_gradients(settings: str, samples: Batch, space: Images) -> None:
    target = replace(target_of("mlp"))
    target.module.double().eval()
    protocol = FedAvg(4, "eval", "none", 3, 2, RATE, **SETTINGS[settings])
    play = Play(space.encode(samples.images[:4]).double(), samples.labels[:4])
    update = protocol.update(target, play)
    shares = [part / sum(weights_of(protocol)) for part in weights_of(protocol)]
    # one step at a time: the gradient at the weights that the steps before it led to
    gradients = []
    for number, chosen in enumerate(protocol.visits(play)):
        reached = trained_for(target, protocol, play, number)
        gradients.append(target.gradient(play.inputs[chosen], play.labels[chosen], parameters=reached))
    for name, found in update.items():
        mean = sum(s * g[name] for s, g in zip(shares, gradients, strict=True))
        torch.testing.assert_close(found, mean, rtol=1e-9, atol=1e-12)


def trained_for(target: Target, protocol: FedAvg, play: Play, count: int) -> dict[str, Tensor]:
    module = copy.deepcopy(target.module)
    steps = optimizer(module, protocol)
    for _, chosen in zip(range(count), protocol.visits(play), strict=False):
        steps.zero_grad()
        nn.functional.cross_entropy(module(play.inputs[chosen]), play.labels[chosen]).backward()
        steps.step()
    return dict(module.named_parameters())


@pytest.mark.parametrize("settings", ["sgd", "decay", "momentum", "nesterov"])
def test_one_step_is_the_gradient(settings: str, samples: Batch, space: Images) -> None:
    """FedSGD in disguise, up to the rounding of the weights that it says it has."""
    target = target_of("convolution")
    target.module.eval()
    batch = samples.subset([0, 1])
    protocol = FedAvg(2, "eval", learning_rate=RATE, **SETTINGS[settings])
    assert protocol.one_gradient
    found = observe(target, batch, protocol, space).update
    gradient = observe(target, batch, FedSGD(2), space).update
    for name, tensor in gradient.items():
        # the decay's share is removed within the rounding of the weights, ulp(θ)/η
        rounding = torch.finfo(torch.float32).eps * float(target.parameters[name].detach().abs().max()) / RATE
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=rounding)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"local_epochs": 2}, False),
        ({"local_batch_size": 1}, False),
        ({"optimizer": "adam"}, False),
        ({"local_batch_size": 3, "drop_last": False}, True),
    ],
)
def test_what_counts_as_one_gradient(settings: dict[str, Any], expected: bool) -> None:
    assert FedAvg(2, **settings).one_gradient is expected


def test_every_step_is_differentiable(samples: Batch, space: Images) -> None:
    target = target_of("mlp")
    target.module.double().eval()
    play = Play(space.encode(samples.images[:2]).double(), samples.labels[:2])
    for settings in SETTINGS.values():
        protocol = FedAvg(2, "eval", "none", 2, 1, 1e-2, **settings)
        point = play.inputs.clone().requires_grad_()

        def value(inputs: Tensor, protocol: FedAvg = protocol) -> Tensor:
            made = protocol.update(target, replace(play, inputs=inputs), create_graph=True)
            return sum((tensor.sin().sum() for tensor in made.values()), start=torch.zeros(()).double())

        (slope,) = torch.autograd.grad(value(point), point)
        assert bool(slope.isfinite().all())
        direction = torch.randn(slope.shape, generator=cpu_generator(0)).double()
        ahead, behind = (value((play.inputs + s * 1e-6 * direction).requires_grad_()).detach() for s in (1, -1))
        assert float((slope * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-3, abs=1e-6)


def test_functional_and_eager_agree(samples: Batch, space: Images) -> None:
    target, protocol = target_of("groupnorm"), FedAvg(3, "train", "none", 2, 2, RATE, momentum=0.9)
    play = Play(space.encode(samples.images[:3]), samples.labels[:3])
    eager, functional = protocol.update(target, play), protocol.update(target, play, functional=True)
    for name, tensor in eager.items():
        torch.testing.assert_close(functional[name], tensor, rtol=1e-3, atol=1e-5)


def test_unrolled_matching_recovers_after_local_steps(samples: Batch, space: Images) -> None:
    """Whoever takes the same update for one gradient does not get there."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 48), nn.Sigmoid(), nn.Linear(48, 5))
    target, batch = make_target(net, (3, 12, 12), 5), samples.subset([2])
    protocol = FedAvg(1, local_epochs=5, learning_rate=0.5)
    observation = replace(observe(target, batch, protocol, space), labels=torch.tensor([2]), label_source="given")
    attack = IG(IGSettings(iterations=300, optimizer="lbfgs", distance="euclidean", tv_weight=0.0))
    found = attack(target, observation, cpu_generator(0))
    naive = attack(target, replace(observation, protocol=FedSGD(1)), cpu_generator(0))
    errors = [float((space.decode(result.inputs) - batch.images).square().mean()) for result in (found, naive)]
    assert errors[0] < 1e-5 < errors[1]
    truth = Play(space.encode(batch.images), torch.tensor([2]))
    assert relative_residual(target, observation, truth) < 1e-5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"local_epochs": 0}, "local epochs 0"),
        ({"local_batch_size": 0}, "local batch size 0"),
        ({"learning_rate": 0.0}, "learning rate 0.0"),
        ({"learning_rate": float("nan")}, "learning rate nan"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"optimizer": "adam", "momentum": 0.9}, "none with adam"),
        ({"nesterov": True}, "nesterov"),
        ({"weight_decay": -1.0}, "weight decay -1.0"),
        ({"optimizer": "lamb"}, "sgd, adam, adamw, rmsprop"),
        ({"local_batch_size": 8, "drop_last": True}, "at most the 4 samples"),
    ],
)
def test_settings_that_no_client_has_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        FedAvg(4, **settings)


def test_what_the_report_says_of_it() -> None:
    protocol = FedAvg(20, "train", "none", 2, 8, 0.05, 0.9, True, 5e-4)
    assert protocol.step_sizes == (8, 8, 4, 8, 8, 4)
    assert replace(protocol, drop_last=True).step_sizes == (8, 8, 8, 8)
    facts = protocol.facts()
    assert (facts["local_epochs"], facts["local_batch_size"], facts["local_steps"], facts["samples"]) == (2, 8, 6, 20)
    assert (facts["learning_rate"], facts["momentum"], facts["nesterov"]) == (0.05, 0.9, True)
    assert (facts["weight_decay"], facts["optimizer"], facts["algorithm"]) == (5e-4, "sgd", "fedavg")
    assert "6 steps of SGD (learning rate 0.05, Nesterov momentum 0.9" in protocol.assumption()


def test_rows_that_nothing_touched_stay_zero_under_weight_decay(space: Images) -> None:
    """Whether a row is zero is what reveals tokens: what rounding leaves of the decay is no trace."""
    torch.manual_seed(0)
    target = make_target(nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.ReLU(), nn.Linear(24, 5)), (3, 12, 12), 5)
    with torch.no_grad():
        target.parameters["1.bias"][:12] = -100.0  # these units never fire
    batch = Batch(torch.rand(4, 3, 12, 12), torch.arange(4), tuple(range(4)))
    protocol = FedAvg(4, "eval", "none", 3, 2, RATE, momentum=0.9, weight_decay=5e-3)
    update = observe(target, batch, protocol, space).update["1.weight"]
    assert not bool(update[:12].any())
    assert bool(update[12:].any())


def test_the_first_step_of_adam_is_no_gradient_to_read(samples: Batch, space: Images) -> None:
    """Signs and magnitudes near one: what reads a single gradient must not take it for one."""
    target = target_of("mlp")
    target.module.eval()
    seen = observe(target, samples.subset([0]), FedAvg(1, "eval", learning_rate=1e-3, optimizer="adam"), space)
    for name, kind in available().items():
        if (kind.one_gradient or kind.sum_of_gradients) and "images" in kind.reads:
            refusal = create(name, "quick").refusal(target, seen)
            assert isinstance(refusal, NotApplicable)
            assert refusal.reason.startswith("Adam: spans and ratios do not survive it")


@pytest.mark.parametrize("untold", ["learning_rate", "local_epochs", "local_batch_size"])
def test_a_decay_whose_rate_follows_from_what_is_withheld_is_not_told(untold: str) -> None:
    told = FedAvg(4, weight_decay=0.01)
    assert (told.facts()["weight_decay"], "weight decay 0.01" in told.assumption()) == (0.01, True)
    withheld = replace(told, untold=(untold,))
    assert withheld.facts()["weight_decay"] is None
    assert ("weight decay" in withheld.assumption(), "0.01" in withheld.assumption()) == (True, False)
    assert replace(withheld, weight_decay=0.0).facts()["weight_decay"] == 0.0, "there is none"
