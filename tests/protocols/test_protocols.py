"""One function makes an update for client and attacker, whatever the number of local steps."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leakaudit import scan
from leakaudit.attacks.base import cpu_generator, relative_residual
from leakaudit.attacks.certificate import certify
from leakaudit.attacks.dia import DIA, DIASettings
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.attacks.reading.masks import masked_layers
from leakaudit.attacks.registry import available, create
from leakaudit.attacks.wia import WIA
from leakaudit.audit.assemble import protocol_section
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe, observe_step
from leakaudit.client.rounds.files import RecordedUpdate
from leakaudit.defences.gaussian import GaussianMechanism
from leakaudit.domains.images import Images
from leakaudit.errors import AuditError, UpdateError
from leakaudit.matching.engine import GradientMatching, MatchSettings
from leakaudit.matching.step import Step
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play, Protocol
from leakaudit.protocols.fedsgd import FedSGD, gradient_of
from leakaudit.reconstruction import NotApplicable
from leakaudit.report.formats.html import render_html
from leakaudit.target.dropout import Dropout, by_step, keyed
from leakaudit.target.target import Target
from tests.conftest import make_target, smooth_images
from tests.protocols.two_steps import TwoSteps

LABEL = torch.tensor([2])


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def smooth_net(p: float = 0.0) -> Target:
    torch.manual_seed(0)
    middle = [Dropout(p, label="drop")] if p else []
    layers = (nn.Flatten(), nn.Linear(432, 48), nn.Sigmoid(), *middle, nn.Linear(48, 5))
    return make_target(nn.Sequential(*layers), (3, 12, 12), 5)


def with_labels(samples: Batch, *positions: int) -> Batch:
    return samples.subset(list(positions))


def by_hand(target: Target, inputs: Tensor, labels: Tensor, protocol: TwoSteps, order: Tensor) -> dict[str, Tensor]:
    """Two steps of `torch.optim.SGD`, in the units of a gradient."""
    module = copy.deepcopy(target.module)
    optimizer = torch.optim.SGD(module.parameters(), protocol.rate)
    for chosen in torch.tensor_split(order, 2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
    return {
        name: (target.parameters[name] - after).detach() / (2 * protocol.rate)
        for name, after in module.named_parameters()
    }


def test_fedsgd_shares_the_gradient_of_the_mean_loss(target: Target, samples: Batch, space: Images) -> None:
    play = Play(space.encode(samples.images[:3]), samples.labels[:3])
    update = FedSGD(3).update(target, play)
    losses = [target.loss(play.inputs[i : i + 1], play.labels[i : i + 1]) for i in range(3)]
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(target.parameters.values()))
    for found, wanted in zip(update.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    functional = FedSGD(3).update(target, play, functional=True)
    assert list(functional) == list(update)
    assert all(torch.allclose(functional[name], tensor, atol=1e-7) for name, tensor in update.items())
    elsewhere = {name: tensor.detach().mul(1.1).requires_grad_() for name, tensor in target.parameters.items()}
    moved = FedSGD(3).update(target, play, parameters=elsewhere)
    assert not torch.allclose(moved["1.weight"], update["1.weight"])


def test_the_client_of_several_steps_shares_what_training_makes(samples: Batch, space: Images) -> None:
    target, protocol = smooth_net(), TwoSteps(4, rate=0.5)
    batch = with_labels(samples, 0, 1, 2, 3)
    observation = observe(target, batch, protocol, space, seed=3)
    order = protocol.order(torch.Generator().manual_seed(3), 4)[0]
    assert order.tolist() != [0, 1, 2, 3]
    expected = by_hand(target, space.encode(batch.images), batch.labels, protocol, order)
    for name, tensor in observation.update.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
    play = Play(space.encode(batch.images), batch.labels, order[None])
    assert relative_residual(target, observation, play) < 1e-6
    assert relative_residual(target, observation, replace(play, order=None)) > 1e-3


def test_several_steps_can_be_differentiated_and_recorded(samples: Batch, space: Images) -> None:
    target, protocol = smooth_net(), TwoSteps(2, rate=0.5)
    observation = observe(target, with_labels(samples, 0, 1), protocol, space)
    labels = torch.tensor([0, 1])
    double = replace(target, module=copy.deepcopy(target.module).double())
    settings = MatchSettings(distance="euclidean", tv_weight=0.0)
    problem = GradientMatching(double, observation, labels, settings)
    point, direction = (torch.randn(2, 3, 12, 12, generator=cpu_generator(s)).double() for s in (0, 1))
    leaf = point.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(problem.evaluate(leaf)[0], [leaf])
    ahead, behind = (problem.evaluate(point + sign * 1e-6 * direction)[0] for sign in (1, -1))
    assert float((slope * direction).sum()) == pytest.approx(float((ahead - behind).detach()) / 2e-6, rel=1e-5)
    stacked = torch.stack([point, direction])
    steps = {mode: Step(problem, ["inputs"], [stacked], mode) for mode in ("eager", "traced")}
    assert steps["traced"].mode == "traced", steps["traced"].note
    eager, traced = (step([stacked]) for step in steps.values())
    torch.testing.assert_close(traced[0], eager[0])
    torch.testing.assert_close(traced[2][0], eager[2][0])


def test_two_steps_are_attacked_and_certified(samples: Batch, space: Images) -> None:
    """The whole way: client, IG, certificate; an attacker who takes it for one gradient does not get there."""
    target, protocol = smooth_net(), TwoSteps(1, rate=1.0)
    batch = with_labels(samples, 2)
    observation = replace(observe(target, batch, protocol, space), labels=LABEL, label_source="given")
    attack = IG(IGSettings(iterations=400, optimizer="lbfgs", distance="euclidean", tv_weight=0.0))
    found = attack(target, observation, cpu_generator(0))
    naive = attack(target, replace(observation, protocol=FedSGD(1)), cpu_generator(0))
    error = (space.decode(found.inputs) - batch.images).square().mean()
    assert float(error) < 1e-5
    assert found.residual < 1e-4
    assert naive.residual > 100 * found.residual
    truth = Play(space.encode(batch.images), LABEL)
    certificate = certify(target, observation, truth)
    assert certificate.exact
    assert certificate.unique
    assert not certify(target, replace(observation, protocol=FedSGD(1)), truth, uniqueness=False).exact


@pytest.mark.parametrize("protocol", [FedSGD(2, "train"), TwoSteps(2, "train")])
def test_masks_go_by_step_and_layer(samples: Batch, space: Images, protocol: Protocol) -> None:
    target, batch = smooth_net(0.5), with_labels(samples, 0, 1)
    observation, masks = observe_step(target, batch, protocol, space, seed=4)
    shapes = protocol.mask_shapes(target)
    assert len(masks) == len(shapes) == protocol.steps
    assert [{n: tuple(m.shape) for n, m in step.items()} for step in masks] == list(shapes)
    assert not any(layer.training for layer in target.module.modules() if isinstance(layer, Dropout))
    order = protocol.order(torch.Generator().manual_seed(4), 2)
    play = Play(space.encode(batch.images), batch.labels, order, masks)
    shared = observation.regenerate(target, play)
    assert all(torch.equal(shared[name], tensor) for name, tensor in observation.update.items())
    assert relative_residual(target, observation, replace(play, masks=())) > 0.05
    if protocol.steps > 1:
        assert not torch.equal(masks[0]["drop"], masks[1]["drop"])
        assert relative_residual(target, observation, replace(play, masks=masks[::-1])) > 0.05
    assert protocol.mask_shapes(smooth_net()) == tuple({} for _ in range(protocol.steps))


def test_attacks_on_masks_know_the_step(samples: Batch, space: Images) -> None:
    target, protocol = smooth_net(0.5), TwoSteps(1, "train", rate=1.0)
    seen, masks = observe_step(target, with_labels(samples, 2), protocol, space, seed=1)
    observation = replace(seen, labels=LABEL, label_source="given")
    assert [layer.key for layer in masked_layers(target, observation)] == ["0/drop", "1/drop"]
    short = DIASettings(iterations=40, tv_weight=1e-5)
    blind = DIA(short)(target, observation, cpu_generator(0))
    assert blind.masks is not None
    assert [set(step) for step in blind.masks] == [{"drop"}, {"drop"}]
    assert "2 dropout masks optimised, 11 units read" in blind.notes[0], "a column of zeros was dropped in both steps"
    given = replace(observation, masks=masks)
    informed = WIA(IGSettings(iterations=300, optimizer="lbfgs", distance="euclidean", tv_weight=0.0))
    assert informed.refusal(target, given) is None
    assert isinstance(informed.refusal(target, replace(given, masks=masks[:1])), NotApplicable)
    assert informed(target, given, cpu_generator(0)).residual < 1e-2 < blind.residual


def test_what_was_sent_is_read_by_the_protocol(samples: Batch, space: Images) -> None:
    target, protocol = smooth_net(), TwoSteps(2, rate=0.5)
    batch = with_labels(samples, 0, 1)
    made = observe(target, batch, protocol, space).update
    weights = {n: (tensor - 2 * protocol.rate * made[n]).detach() for n, tensor in target.parameters.items()}
    sent = RecordedUpdate(weights, "update.npz", "0" * 64)
    read, masks = observe_step(target, batch, protocol, space, recorded=sent)
    assert masks == ()
    for name, tensor in made.items():
        torch.testing.assert_close(read.update[name], tensor, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(g, made[n]) for n, g in FedSGD(2).from_shared(made, target.parameters).items())
    for wrong, message in (({"x": LABEL}, "no trainable tensor"), ({"1.bias": LABEL}, "expected")):
        with pytest.raises(UpdateError, match=message):
            protocol.from_shared(wrong, target.parameters)


def test_attacks_whose_algebra_is_of_one_gradient_say_so(samples: Batch, space: Images) -> None:
    target = smooth_net()
    observation = observe(target, with_labels(samples, 0), TwoSteps(1), space)
    reasons = {name: create(name, "quick").refusal(target, observation) for name in available()}
    told = {name: refusal.reason for name, refusal in reasons.items() if refusal and "2 local steps" in refusal.reason}
    assert set(told) == {"lp", "rgap"}
    assert "between them the weights move" in told["rgap"]


def test_per_sample_clipping_of_several_steps_is_refused(samples: Batch, space: Images) -> None:
    defence = GaussianMechanism(clip=1.0)
    with pytest.raises(AuditError, match="2 local steps"):
        observe(smooth_net(), with_labels(samples, 0, 1), TwoSteps(2), space, 0, [defence])


def test_the_share_of_a_sample_is_taken_under_its_own_masks(samples: Batch, space: Images) -> None:
    """A mask has a row per sample; one sample's logits under all rows would be a batch folded into the classes."""
    target, batch = smooth_net(0.5), with_labels(samples, 0, 1)
    observation, masks = observe_step(target, batch, FedSGD(2, "train"), space)
    play = Play(space.encode(batch.images), batch.labels, masks=masks)
    found = certify(target, observation, play, uniqueness=False)
    norms = []
    for i in range(2):
        own = Play(play.inputs[i : i + 1], play.labels[i : i + 1], masks=({"drop": masks[0]["drop"][i : i + 1]},))
        update = observation.protocol.update(target, own)
        norms.append(torch.cat([g.flatten() for g in update.values()]).norm() / 2)
    whole = torch.cat([g.flatten() for g in observation.update.values()]).norm()
    assert found.weakest == pytest.approx(float(min(norms) / whole), rel=1e-5)
    assert found.exact


def test_rows_of_a_play() -> None:
    folded, common = torch.arange(8.0).reshape(4, 2), torch.ones(1, 2)
    play = Play(torch.zeros(2, 1, 1, 1), torch.tensor([5, 6]), masks=({"heads": folded, "common": common},))
    part = play.of([1])
    assert part.labels.tolist() == [6]
    assert part.masks[0]["heads"].tolist() == [[4, 5], [6, 7]]
    assert part.masks[0]["common"] is common
    for odd in (replace(play, order=torch.zeros(1, 2)), replace(play, masks=({"odd": torch.ones(3, 2)},))):
        with pytest.raises(AuditError):
            odd.of([0])


def test_keys_of_masks_there_and_back() -> None:
    steps = ({"a/b": torch.ones(1)}, {}, {"c": torch.zeros(1)})
    assert list(keyed(steps)) == ["0/a/b", "2/c"]
    assert by_step(keyed(steps)) == steps
    assert by_step({}) == ()


def test_a_protocol_is_a_value_with_facts() -> None:
    for protocol in (FedSGD(2, "train"), TwoSteps(2, "train", rate=0.3)):
        assert pickle.loads(pickle.dumps(protocol)) == protocol
        assert hash(protocol) == hash(replace(protocol))
    assert FedSGD(2) != TwoSteps(2)
    section = protocol_section(FedSGD(2, "train"), [GaussianMechanism(clip=1.0)])
    assert section.steps == 1
    assert section.assumption == (
        "FedSGD: the client shares the gradient of 2 samples, after clip=1, computed in train mode."
    )
    with pytest.raises(TypeError):
        Protocol(2)  # type: ignore[abstract]


def test_experiments_of_readers_are_of_one_gradient(target: Target, samples: Batch, space: Images) -> None:
    inputs = space.encode(samples.images[:2])
    found = gradient_of(target, inputs, samples.labels[:2])
    seen = Observation(found, FedSGD(2), space)
    assert relative_residual(target, seen, Play(inputs, samples.labels[:2])) == 0
    assert not any(g.requires_grad for g in found.values())


def test_a_protocol_of_another_package_is_audited_end_to_end() -> None:
    """Its client, its attacker, its controls and its place in the document; nothing else was registered."""
    report = scan(
        smooth_net(), (smooth_images(12), np.arange(12) % 5), protocol=TwoSteps(1, rate=1.0), victims=1,
        attacks=["rgap", "ig"], settings={"ig": {"iterations": "150", "optimizer": "lbfgs", "distance": "euclidean"}},
        mean=[0.5], std=[0.25], preset="quick",
    )  # fmt: skip
    facts = report.protocol
    assert (facts.algorithm, facts.steps, facts.settings) == ("two-steps", 2, {"rate": 1.0})
    by_name = {attack.name: attack for attack in report.attacks}
    assert by_name["rgap"].status == "not_applicable"
    assert "2 local steps" in by_name["rgap"].reason
    assert by_name["ig"].status == "run"
    assert by_name["ig"].results[0].samples[0].leaked
    assert report.verdict.status.startswith("LEAKS")
    assert "Two steps of SGD at rate 1" in render_html(report)
