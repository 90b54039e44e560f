"""What an update tells of labels where the loss is over several heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakaudit.attacks.base import SilentMonitor, cpu_generator
from leakaudit.attacks.labels.behind import labels_behind
from leakaudit.attacks.labels.by_head import infer_by_head, seen
from leakaudit.attacks.registry import create
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.protocols.base import Protocol
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target import load
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess
from leakaudit.tasks.regression import Regression
from tests.target.head_networks import CLASSES, SHAPE, STATED, Maps, SharedClassifier, TwoHeads, samples

HERE = "tests.target.head_networks"


def batch_of(labels: Tensor, seed: int = 0) -> Batch:
    return Batch(samples(len(labels), seed)[0], labels, tuple(range(len(labels))))


def guessed(target: Target, batch: Batch, protocol: Protocol | None = None) -> LabelGuess:
    seen_by_attacker = observe(target, batch, protocol or FedSGD(len(batch)), target.domain)
    return target.task.infer(target, seen_by_attacker, cpu_generator(0))


def fitted(module: nn.Module, steps: int = 100) -> nn.Module:
    """Trained a little, so that predictions differ from those of a fresh network."""
    optimizer, (x, labels) = torch.optim.Adam(module.parameters(), 1e-2), samples(32, 9)
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = module(x)
        (F.cross_entropy(outputs["logits"], labels) + 0.3 * F.cross_entropy(outputs["aux"], labels)).backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("stated", [STATED, "0.5*logits+0.5*aux", "aux+2*logits"])
@pytest.mark.parametrize("steps", [0, 100])
@pytest.mark.parametrize("loss", [None, "focal:gamma=2"])
def test_the_label_of_one_sample_is_right(stated: str, steps: int, loss: str | None) -> None:
    target = load(fitted(TwoHeads(), steps), image_shape=SHAPE, output=stated, loss=loss)
    labels = torch.arange(10) % CLASSES
    for place in range(10):
        guess = guessed(target, batch_of(labels).subset([place]))
        assert guess.labels.tolist() == [place % CLASSES]
        assert guess.exact
        assert not guess.assumed


def test_a_last_layer_that_heads_share_tells_no_label() -> None:
    """Its gradient is the sum over both heads: the prediction minus the label of neither."""
    target = load(SharedClassifier(), image_shape=SHAPE, output=STATED)
    guess = guessed(target, batch_of(torch.tensor([3])))
    assert guess.assumed
    assert "no linear last layer found" in guess.method


@pytest.mark.parametrize("protocol", [FedSGD(8), FedAvg(8, local_epochs=2, local_batch_size=4, learning_rate=0.05)])
def test_the_classes_of_a_batch_are_counted(protocol: Protocol) -> None:
    right = 0
    for stated in (STATED, "0.5*logits+0.5*aux"):
        target = load(TwoHeads(), image_shape=SHAPE, output=stated)
        for seed in range(3):
            labels = torch.randint(CLASSES, (8,), generator=torch.Generator().manual_seed(seed)).sort().values
            guess = guessed(target, batch_of(labels, seed), protocol)
            right += target.task.tally(labels, guess.labels).right
    assert right >= 0.9 * 48


def test_every_label_of_several_is_right() -> None:
    target = load(TwoHeads(), image_shape=SHAPE, output="0.5*logits+0.5*aux", task="multi-label")
    labels = (torch.rand((10, CLASSES), generator=torch.Generator().manual_seed(3)) < 0.4).float()
    for place in range(10):
        guess = guessed(target, batch_of(labels).subset([place]))
        assert torch.equal(guess.labels, labels[place : place + 1])
        assert guess.exact
    counted = guessed(target, batch_of(labels[:8]))
    assert torch.equal((8 * counted.labels[0]).round(), labels[:8].sum(0))


@pytest.mark.parametrize("stated", [STATED, "0.5*logits+0.5*aux"])
def test_the_errors_of_all_heads_are_read_and_the_numbers_follow(stated: str) -> None:
    target = load(TwoHeads(), image_shape=SHAPE, output=stated, task="regression")
    batch = batch_of(torch.randn((1, CLASSES), generator=torch.Generator().manual_seed(2)))
    observation = observe(target, batch, FedSGD(1), target.domain)
    guess = target.task.infer(target, observation, cpu_generator(0))
    assert guess.errors is not None
    assert guess.exact
    x = target.domain.encode(batch.images)
    outputs = target.logits(x)
    torch.testing.assert_close(target.task.errors(outputs, batch.labels), guess.errors, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(target.task.behind(outputs, guess.errors), batch.labels, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(labels_behind(target, observation, x), batch.labels, rtol=1e-3, atol=1e-4)
    assert isinstance(target.task.main, Regression)


def test_numbers_of_heads_that_share_a_layer_are_unknowns() -> None:
    target = load(SharedClassifier(), image_shape=SHAPE, output=STATED, task="regression")
    guess = guessed(target, batch_of(torch.zeros((1, CLASSES))))
    assert guess.open
    assert guess.errors is None


def test_the_areas_of_maps_begin_at_those_of_the_main_head() -> None:
    target = load(Maps(), image_shape=SHAPE, output=STATED)
    labels = torch.zeros((1, 12, 12), dtype=torch.long)
    labels[:, :6] = 3
    guess = guessed(target, batch_of(labels))
    assert all(target.task.match_labels(labels, guess.labels))


def test_the_label_under_a_loss_of_heads_of_different_widths() -> None:
    own = f"{HERE}:coarse"
    module = TwoHeads(side=2)
    target = load(module, image_shape=SHAPE, output="logits+aux", task="single-label", loss=own)
    for label in range(CLASSES):
        guess = guessed(target, batch_of(torch.tensor([label]), label))
        assert guess.labels.tolist() == [label]
        assert guess.exact
    several = guessed(target, batch_of(torch.tensor([1, 2])))
    assert several.assumed
    assert "over several heads at once" in several.method


def test_one_head_is_a_target_of_its_own() -> None:
    target = load(TwoHeads(), image_shape=SHAPE, output=STATED)
    x, labels = samples(3)
    main, side = seen(target, 0), seen(target, 1)
    outputs = TwoHeads()(x)
    torch.testing.assert_close(main.logits(x), outputs["logits"])
    torch.testing.assert_close(side.logits(x), outputs["aux"])
    torch.testing.assert_close(side.loss(x, labels), 0.3 * F.cross_entropy(outputs["aux"], labels))
    assert torch.allclose(main.loss(x, labels) + side.loss(x, labels), target.loss(x, labels))
    plain = replace(target, task=target.task.main)
    with pytest.raises(TypeError, match="not one of several heads"):
        infer_by_head(plain, observe(target, batch_of(labels[:1]), FedSGD(1), target.domain), cpu_generator(0))


@pytest.mark.parametrize(("name", "margin"), [("rgap", 60.0), ("ig", 30.0), ("dlg", 20.0)])
def test_attacks_recover_the_sample_of_a_network_with_two_heads(name: str, margin: float) -> None:
    target = load(TwoHeads(), image_shape=SHAPE, output=STATED)
    batch = batch_of(torch.tensor([2]))
    observation = observe(target, batch, FedSGD(1), target.domain)
    guess = target.task.infer(target, observation, cpu_generator(0))
    informed = replace(observation, labels=guess.labels, label_source="inferred")
    attack = create(name, "quick")
    assert attack.refusal(target, informed) is None
    found = attack(target, informed, cpu_generator(0), SilentMonitor())
    apart = F.mse_loss(target.domain.decode(found.inputs), batch.images)
    assert float(-10 * apart.log10()) >= margin
