"""Label counts after several local steps: the last layer's training replayed without its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.labels import simulate
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.attacks.labels.steps import Training, halfway
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from tests.conftest import make_target, small_cnn

CLIENTS = (
    FedAvg(6, local_epochs=2, local_batch_size=4, learning_rate=0.3),
    FedAvg(6, local_epochs=2, local_batch_size=4, learning_rate=0.3, drop_last=True),
    FedAvg(6, local_epochs=3, learning_rate=0.2, momentum=0.9, nesterov=True, weight_decay=0.1),
    FedAvg(6, local_epochs=3, local_batch_size=3, learning_rate=0.2, momentum=0.5),
)


@pytest.mark.parametrize("client", CLIENTS, ids=range(len(CLIENTS)))
def test_the_replay_is_the_training_of_the_last_layer(client: FedAvg, space: Images) -> None:
    """A linear model is nothing but a last layer: what the replay says of it is what the client sends."""
    torch.manual_seed(0)
    target = make_target(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).double(), (3, 12, 12), 5)
    inputs = 0.05 * torch.randn(6, 3, 12, 12, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 2, 3, 3])
    update = client.update(target, Play(inputs, labels))
    features, soft = inputs.flatten(1), torch.nn.functional.one_hot(labels, 5).double()
    logits = target.logits(inputs).detach()
    errors, mean = Training.of(client, 6).replay(logits, features @ features.T + 1, soft)
    if not client.weight_decay:
        torch.testing.assert_close(errors.T @ features, update["1.weight"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(errors.sum(0), update["1.bias"], rtol=1e-9, atol=1e-12)
    visited = torch.cat(list(client.visits(Play(inputs, labels))))
    if client.local_batch_size is None:  # every visit counts alike within a step, so the means balance
        balance = mean - soft[visited].mean(0)
        torch.testing.assert_close(errors.sum(0), balance, rtol=1e-9, atol=1e-12)


def test_half_way_is_the_middle_of_the_weights(samples: Batch, space: Images) -> None:
    target, client = make_target(small_cnn(), (3, 12, 12), 5), FedAvg(8, local_epochs=4, learning_rate=0.05)
    observation = observe(target, samples.subset(range(8)), client, space, seed=1)
    way = client.moved(observation.update, target.parameters)
    middle = halfway(target, observation).parameters
    for name, tensor in target.parameters.items():
        torch.testing.assert_close(middle[name], tensor + way[name] / 2)
    assert halfway(target, observe(target, samples.subset(range(8)), FedSGD(8), space)) is target


def test_counts_after_several_steps(samples: Batch, space: Images) -> None:
    target, client = make_target(small_cnn(), (3, 12, 12), 5), FedAvg(16, "eval", "none", 1, 4, 0.05)
    (victim,) = samples.draw(1, 16, 0)
    guess = infer_labels(target, observe(target, victim, client, space, seed=0), cpu_generator(0))
    assert "in 4 steps" in guess.method
    right = sum((Counter(victim.labels.tolist()) & Counter(guess.labels.tolist())).values())
    assert right >= 15, right


def test_the_scale_of_an_unknown_training_is_told_by_missing_classes(samples: Batch, space: Images) -> None:
    """Whatever learning rate the client had, the counts are those of a known one."""
    target = make_target(small_cnn(), (3, 12, 12), 5)
    some = samples.subset([i for i, label in enumerate(samples.labels.tolist()) if label != 2][:6])
    fast = FedAvg(6, local_epochs=2, learning_rate=0.02, untold=("learning_rate",))
    seen = observe(target, some, fast, space, seed=0)
    other = replace(seen, update={name: 7 * tensor for name, tensor in seen.update.items()})
    found = [infer_labels(target, each, cpu_generator(0)).labels.tolist() for each in (seen, other)]
    assert found[0] == found[1]
    right = sum((Counter(some.labels.tolist()) & Counter(found[0])).values())
    assert right >= 5, right


def sigmoids() -> Target:
    """A network whose last layer gets nearly the same large features of every image, and so swings."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 12, 5, 2, 2), nn.Conv2d(12, 12, 5, 2, 2)
    net = nn.Sequential(first, nn.Sigmoid(), second, nn.Sigmoid(), nn.Flatten(), nn.Linear(108, 5))
    for tensor in net.parameters():
        nn.init.uniform_(tensor, -0.5, 0.5)
    return make_target(net, (3, 12, 12), 5)


@pytest.mark.slow
def test_counts_of_predictions_that_swing_are_simulated(samples: Batch, space: Images) -> None:
    target, client = sigmoids(), FedAvg(8, local_epochs=4, learning_rate=0.1)
    right = {"simulated": 0, "fitted": 0}
    for seed in range(3):
        (victim,) = samples.draw(1, 8, seed)
        observation = observe(target, victim, client, space, seed=seed)
        guess = infer_labels(target, observation, cpu_generator(seed))
        assert "simulated on look-alikes" in guess.method
        hidden = replace(observation, rescaled=True)
        fitted = infer_labels(target, hidden, cpu_generator(seed))
        assert "simulated" not in fitted.method
        for name, found in (("simulated", guess), ("fitted", fitted)):
            right[name] += sum((Counter(victim.labels.tolist()) & Counter(found.labels.tolist())).values())
    assert right["simulated"] >= max(20, right["fitted"]), right


def test_a_guess_is_simulated_once_on_each_batch_of_look_alikes(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where all guesses are tried, nothing is fitted to begin with."""
    monkeypatch.setattr(simulate, "KEPT", (6, 4, 2))
    monkeypatch.setattr("leakaudit.attacks.labels.infer._fitted", None)
    seen: list[tuple[int, tuple[int, ...]]] = []
    off = simulate.Simulation._off

    def noted(self: Any, labels: Tensor, drawn: Any) -> Any:
        place = {id(images): number for number, images in enumerate(self.images)}
        seen.extend((place[id(images)], tuple(row)) for images in drawn for row in labels.tolist())
        return off(self, labels, drawn)

    monkeypatch.setattr(simulate.Simulation, "_off", noted)
    (victim,) = samples.draw(1, 3, 0)
    client = FedAvg(3, local_epochs=2, learning_rate=0.1)
    guess = infer_labels(sigmoids(), observe(sigmoids(), victim, client, space, seed=0), cpu_generator(0))
    assert "simulated on look-alikes" in guess.method
    tried = seen[1:]  # the first one tells whether the model can be run so
    assert len(tried) == len(set(tried))
    rows = Counter(row for _, row in tried)
    assert sorted(rows.values(), reverse=True)[:6] == [8, 8, 4, 4, 2, 2]
    assert {number for number, _ in tried} == set(range(8))


def test_features_that_differ_are_not_simulated(samples: Batch, space: Images) -> None:
    target, client = make_target(small_cnn(), (3, 12, 12), 5), FedAvg(8, local_epochs=2, learning_rate=0.05)
    observation = observe(target, samples.subset(range(8)), client, space, seed=1)
    assert "simulated" not in infer_labels(target, observation, cpu_generator(0)).method
