"""Masks follow from masked activations, unit by unit and channel by channel."""

from __future__ import annotations

import torch
from torch import nn

from leakaudit.domains.images import Images
from leakaudit.matching.masked import drop_smallest, keep_what_passed, masked_activations
from leakaudit.matching.priors import KeepRate
from leakaudit.matching.problem import MASK, GradientMatching
from leakaudit.matching.settings import MatchSettings
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.dropout import Dropout
from tests.conftest import make_target

SPACE = Images((3, 12, 12), (0.5,) * 3, (0.25,) * 3)


def test_drops_the_given_share_of_each_sample() -> None:
    activation = torch.tensor([[4.0, -3.0, 2.0, 0.1], [0.1, 2.0, -3.0, 4.0]])
    mask = torch.tensor([[1.0, 0.01, 1.0, 1.0], [1.0, 1.0, 1.0, -1.0]])
    found = drop_smallest(activation, mask, 0.5)
    assert found.tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]


def test_judges_a_channel_as_a_whole() -> None:
    activation = torch.ones(1, 3, 2, 2)
    activation[0, 1] = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    mask = torch.tensor([1.0, 1.0, 0.1]).reshape(1, 3, 1, 1)
    found = drop_smallest(activation, mask, 1 / 3)
    assert found.shape == mask.shape
    assert found.flatten().tolist() == [1, 1, 0]
    kept = keep_what_passed(mask * activation, activation, mask.shape)
    assert kept.shape == mask.shape
    assert kept.flatten().tolist() == [1, 1, 0]


def test_keeps_a_unit_whose_output_is_nearer_to_its_input_than_to_zero() -> None:
    activation = torch.tensor([[2.0, -2.0, 2.0, -2.0, 2.0]])
    passed = torch.tensor([[1.9, -1.1, 0.9, 2.0, 0.0]])
    assert keep_what_passed(passed, activation, activation.shape).tolist() == [[1, 1, 0, 0, 0]]


def test_gradient_with_respect_to_the_mask_against_finite_differences() -> None:
    torch.manual_seed(0)
    drop = Dropout(0.25, label="map")
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.GELU(), drop, nn.Flatten(), nn.Linear(144, 5)).double()
    target, labels = make_target(net, (3, 12, 12), 5), torch.tensor([1, 3])
    truth, guess, direction, mask = (torch.randn(2, c, s, s).double() for c, s in ((3, 12), (3, 12), (4, 6), (4, 6)))
    update = {k: v.detach() for k, v in target.gradient(truth, labels).items()}
    observation = Observation(update, FedSGD(2), SPACE, labels=labels)
    problem = GradientMatching(target, observation, labels, MatchSettings(tv_weight=0.01))

    def objective(at: torch.Tensor) -> torch.Tensor:
        return problem.objective({"inputs": guess, MASK + "0/map": at})[0]

    leaf = mask.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective(leaf), [leaf])
    step = 1e-6
    numeric = (objective(mask + step * direction) - objective(mask - step * direction)).detach() / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-6, atol=1e-9)


def test_known_zeros_of_a_mask_count_as_zeros_whatever_the_variable_holds() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 6), nn.GELU(), Dropout(0.5, label="drop"), nn.Linear(6, 5))
    target, labels, inputs = make_target(net, (3, 12, 12), 5), torch.tensor([0, 1]), torch.randn(2, 3, 12, 12)
    update = {k: v.detach() for k, v in target.gradient(inputs, labels).items()}
    observation = Observation(update, FedSGD(2), SPACE, labels=labels)
    limit = torch.ones(2, 6)
    limit[:, 0] = 0.0
    prior = KeepRate({"0/drop": 0.5}, 1.0)
    settings = MatchSettings(tv_weight=0.0)
    problem = GradientMatching(target, observation, labels, settings, priors=[prior], possible={"0/drop": limit})
    without = GradientMatching(target, observation, labels, settings, priors=[prior])
    mask = torch.rand(2, 6).requires_grad_(True)
    for held in (problem, problem.under(settings)):
        objective, _ = held.objective({"inputs": inputs, MASK + "0/drop": mask})
        torch.testing.assert_close(objective, without.objective({"inputs": inputs, MASK + "0/drop": mask * limit})[0])
        (gradient,) = torch.autograd.grad(objective, [mask])
        assert not bool(gradient[:, 0].any())
        assert bool((gradient[:, 1:] != 0).all())
    assert problem.under(settings, priors=()).priors == ()


def test_activations_are_those_in_front_of_each_dropout() -> None:
    torch.manual_seed(0)
    shared = Dropout(0.5, label="shared")
    first, second = nn.Linear(432, 6), nn.Linear(6, 6)
    net = nn.Sequential(nn.Flatten(), first, shared, second, shared, nn.Linear(6, 5))
    target = make_target(net, (3, 12, 12), 5)
    inputs, labels = torch.randn(2, 3, 12, 12), torch.tensor([0, 1])
    update = {k: v.detach() for k, v in target.gradient(inputs, labels).items()}
    observation = Observation(update, FedSGD(2), SPACE, labels=labels)
    known = {"0/shared#1": torch.ones(2, 6)}
    problem = GradientMatching(target, observation, labels, MatchSettings(), masks=known)
    mask = torch.rand(2, 6)
    found = masked_activations(problem, {"inputs": inputs, MASK + "0/shared": mask})
    assert list(found) == ["0/shared"]
    torch.testing.assert_close(found["0/shared"][0], first(inputs.flatten(1)).detach())
    assert found["0/shared"][1] is mask
    both = GradientMatching(target, observation, labels, MatchSettings())
    found = masked_activations(both, {"inputs": inputs, MASK + "0/shared": mask, MASK + "0/shared#1": mask})
    expected = second(2 * mask * first(inputs.flatten(1))).detach()
    torch.testing.assert_close(found["0/shared#1"][0], expected)


def test_activations_of_every_step_are_those_at_its_own_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.GELU(), Dropout(0.5, label="drop"), nn.Linear(8, 5))
    target, labels = make_target(net, (3, 12, 12), 5), torch.tensor([1, 3])
    client = FedAvg(2, "train", local_epochs=2, learning_rate=0.5)
    inputs, masks = torch.randn(2, 3, 12, 12), [torch.rand(2, 8) for _ in range(2)]
    play = Play(inputs, labels, masks=tuple({"drop": mask} for mask in masks))
    seen = Observation(client.update(target, play), client, SPACE)
    problem = GradientMatching(target, seen, labels, MatchSettings())
    values = {"inputs": inputs, **{f"{MASK}{step}/drop": mask for step, mask in enumerate(masks)}}
    found = masked_activations(problem, values)
    one = FedAvg(2, "train", local_epochs=1, learning_rate=0.5)
    first = one.update(target, Play(inputs, labels, masks=play.masks[:1]))
    after = {name: tensor - 0.5 * first[name] for name, tensor in target.parameters.items()}
    for step, weights in enumerate((target.parameters, after)):
        hidden = nn.functional.gelu(inputs.flatten(1) @ weights["1.weight"].T + weights["1.bias"])
        torch.testing.assert_close(found[f"{step}/drop"][0], hidden.detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(found[f"{step}/drop"][1], masks[step])
    assert not torch.allclose(found["0/drop"][0], found["1/drop"][0])
