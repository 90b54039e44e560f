"""Attacks on an update of several local steps: what each adds, and where it does not apply."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks import dlfa, sme
from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.dlfa import DLFA, DLFASettings, SameMean, aligned
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.attacks.registry import create
from leakaudit.attacks.sme import SME, SMESettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.matching.descent import Progress
from leakaudit.matching.engine import solve
from leakaudit.matching.precise import precisely
from leakaudit.matching.problem import CLIENT, GradientMatching
from leakaudit.matching.settings import MatchSettings
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play, Update
from leakaudit.protocols.coarse import PLACES, PULLS, RATES, SHARES, CoarseSteps, begun
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.protocols.surrogates import ALPHA, BENT, FIRST, LENGTH, Between, PerEpoch, norm
from leakaudit.reconstruction import NotApplicable, Reconstruction, SilentMonitor
from leakaudit.target.target import Target
from tests.conftest import make_target

STEPS: dict[str, Any] = {"signed": False, "tv_weight": 1e-2}


def network(activation: type[nn.Module] = nn.GELU) -> Target:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 48), activation(), nn.Linear(48, 5))
    return make_target(net, (3, 12, 12), 5)


def convolutions() -> Target:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 5, padding=2, stride=2), nn.Conv2d(8, 8, 3, padding=1)
    net = nn.Sequential(first, nn.GELU(), second, nn.GELU(), nn.Flatten(), nn.Linear(288, 5))
    return make_target(net, (3, 12, 12), 5)


def shared(target: Target, samples: Batch, space: Images, protocol: FedAvg, *positions: int) -> Observation:
    batch = samples.subset(list(positions))
    found = observe(target, batch, protocol, space, seed=2)
    return replace(found, labels=batch.labels, label_source="given")


def error(found: Tensor, samples: Batch, space: Images, *positions: int) -> float:
    return float((space.decode(found) - samples.images[list(positions)]).square().mean())


def test_the_surrogate_at_zero_is_the_naive_gradient(samples: Batch, space: Images) -> None:
    target, protocol = network(), FedAvg(2, local_epochs=3, learning_rate=0.5)
    observation = shared(target, samples, space, protocol, 0, 1)
    moved = protocol.moved(observation.update, target.parameters)
    play = Play(space.encode(samples.images[:2]), samples.labels[:2])
    plain = Between(2, way=moved, fixed=0.0).update(target, play)
    gradient = FedSGD(2).update(target, play)
    assert all(torch.equal(plain[name], tensor) for name, tensor in gradient.items())
    after = {name: tensor + moved[name] for name, tensor in target.parameters.items()}
    at_the_end = Between(2, way=moved).update(target, replace(play, unknowns={ALPHA: torch.tensor([40.0])}))
    for name, tensor in target.gradient(play.inputs, play.labels, parameters=after).items():
        torch.testing.assert_close(at_the_end[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_bent_path_is_the_first_gradient_the_last_or_between(samples: Batch, space: Images) -> None:
    target, protocol = network(), FedAvg(2, local_epochs=3, learning_rate=0.5)
    observation = shared(target, samples, space, protocol, 0, 1)
    moved = protocol.moved(observation.update, target.parameters)
    play = Play(space.encode(samples.images[:2]), samples.labels[:2])

    def at(alpha: float, length: float, first: float) -> Update:
        values = {ALPHA: alpha, LENGTH: length, FIRST: first}
        unknowns = {name: torch.tensor([value]) for name, value in values.items()}
        return Between(2, way=moved).update(target, replace(play, unknowns=unknowns))

    for name, tensor in FedSGD(2).update(target, play).items():
        torch.testing.assert_close(at(0.0, 0.0, 40.0)[name], tensor, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(at(-40.0, 0.0, -40.0)[name], tensor, rtol=1e-4, atol=1e-6)
    after = {name: (tensor + moved[name]).detach().requires_grad_() for name, tensor in target.parameters.items()}
    for name, tensor in target.gradient(play.inputs, play.labels, parameters=after).items():
        torch.testing.assert_close(at(40.0, 0.0, -40.0)[name], tensor, rtol=1e-4, atol=1e-6)


def least(surrogate: FedSGD, begun: dict[str, Tensor], seen: Observation, target: Target, samples: Batch) -> float:
    """Of the cosine distance of a surrogate from the update, at the client's own first two, over its numbers."""
    seen = replace(seen, protocol=surrogate)
    problem = GradientMatching(target, seen, samples.labels[:2], IGSettings(tv_weight=0.0, distance="cosine"))
    unknowns = {CLIENT + name: value.clone().requires_grad_() for name, value in begun.items()}
    variables = {"inputs": seen.domain.encode(samples.images[:2]), **unknowns}
    found = [float("inf")]
    optimizer = torch.optim.LBFGS(list(unknowns.values()), max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = problem.objective(variables)[0]
        found.append(min(found[-1], float(value.detach())))  # a line search may go too far
        (1e6 * value).backward()
        return 1e6 * value

    optimizer.step(closure)
    return found[-1]


def test_more_of_the_path_explains_more_of_the_update(samples: Batch, space: Images) -> None:
    """A bent path is far nearer to five full steps than one gradient, coarse steps to twenty of a sample each."""
    target = convolutions()
    numbers = {name: torch.tensor([value]) for name, value in {ALPHA: 0.0, **BENT}.items()}
    five = shared(target, samples, space, client := FedAvg(2, local_epochs=5, learning_rate=0.1), 0, 1)
    path = Between(2, way=client.moved(five.update, target.parameters))
    straight = least(path, {ALPHA: numbers[ALPHA]}, five, target, samples)
    assert least(path, numbers, five, target, samples) < 0.2 * straight
    client = FedAvg(2, local_epochs=10, local_batch_size=1, learning_rate=0.1)
    twenty = shared(target, samples, space, client, 0, 1)
    way = client.moved(twenty.update, target.parameters)
    bent = least(Between(2, way=way), numbers, twenty, target, samples)
    coarse = least(CoarseSteps(2, way=way), begun(5, torch.zeros(())), twenty, target, samples)
    assert coarse < 0.8 * bent, (bent, coarse)


def test_coarse_steps_replay_a_client_that_takes_as_many(samples: Batch, space: Images) -> None:
    """Drawn nowhere, with equal shares and the client's rate, they are its steps."""
    target, protocol = network(), FedAvg(2, local_epochs=3, learning_rate=0.5)
    observation = shared(target, samples, space, protocol, 0, 1)
    way = protocol.moved(observation.update, target.parameters)
    play = Play(space.encode(samples.images[:2]), samples.labels[:2])
    rate = (0.5 * norm(FedSGD(2).update(target, play)) / norm(way)).log()
    free = {RATES: rate.expand(2), SHARES: torch.zeros(3), PLACES: torch.zeros(2), PULLS: torch.full((2,), -40.0)}
    update = CoarseSteps(2, way=way).update(target, replace(play, unknowns=free))
    for name, tensor in observation.update.items():
        torch.testing.assert_close(update[name] / 3, tensor, rtol=1e-4, atol=1e-5)


def test_coarse_steps_that_are_drawn_fully_are_on_the_straight_way(samples: Batch, space: Images) -> None:
    target, protocol = network(), FedAvg(2, local_epochs=3, learning_rate=0.5)
    observation = shared(target, samples, space, protocol, 0, 1)
    way = protocol.moved(observation.update, target.parameters)
    play = Play(space.encode(samples.images[:2]), samples.labels[:2])
    place = torch.tensor([0.7])
    drawn = {RATES: torch.zeros(1), SHARES: torch.tensor([-40.0, 0.0]), PLACES: place, PULLS: torch.full((1,), 40.0)}
    coarse = CoarseSteps(2, way=way).update(target, replace(play, unknowns=drawn))
    straight = Between(2, way=way).update(target, replace(play, unknowns={ALPHA: place}))
    for name, tensor in straight.items():
        torch.testing.assert_close(coarse[name], tensor, rtol=1e-4, atol=1e-6)
    assert {name: len(value) for name, value in begun(2, place).items()} == {RATES: 1, SHARES: 2, PLACES: 1, PULLS: 1}


def test_the_weights_after_training_follow_from_the_update(samples: Batch, space: Images) -> None:
    target = network()
    for protocol in (
        FedAvg(2, local_epochs=3, learning_rate=0.5, momentum=0.5, weight_decay=0.1),
        FedAvg(2, local_epochs=3, learning_rate=0.01, optimizer="adam"),
    ):
        observation = shared(target, samples, space, protocol, 0, 1)
        moved = protocol.moved(observation.update, target.parameters)
        sent = {name: (tensor + moved[name]).detach() for name, tensor in target.parameters.items()}
        again = protocol.from_shared(sent, target.parameters)
        for name, tensor in observation.update.items():
            torch.testing.assert_close(again[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_place_on_the_path_is_differentiable(samples: Batch, space: Images) -> None:
    target, protocol = network(), FedAvg(2, local_epochs=3, learning_rate=0.5)
    observation = shared(target, samples, space, protocol, 0, 1)
    target.module.double()
    observation = replace(observation, update={name: g.double() for name, g in observation.update.items()})
    seen = replace(observation, protocol=Between(2, way=protocol.moved(observation.update, target.parameters)))
    problem = GradientMatching(target, seen, samples.labels[:2], IGSettings(**STEPS))
    inputs = space.encode(samples.images[2:4]).double()

    def value(place: Tensor) -> Tensor:
        return problem.objective({"inputs": inputs, CLIENT + ALPHA: place})[0]

    place = torch.zeros(1).double().requires_grad_()
    (slope,) = torch.autograd.grad(value(place), place)
    ahead, behind = (value(torch.full((1,), s * 1e-5).double().requires_grad_()).detach() for s in (1, -1))
    assert float(slope) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-4)
    assert abs(float(slope)) > 1e-4


def test_sme_gains_where_the_weights_move(samples: Batch, space: Images) -> None:
    target, protocol = convolutions(), FedAvg(2, local_epochs=5, learning_rate=0.1)
    observation = shared(target, samples, space, protocol, 0, 1)
    sme = SME(SMESettings(iterations=400, bend=False, **STEPS))(target, observation, cpu_generator(0))
    naive = IG(IGSettings(iterations=400, **STEPS))(target, replace(observation, protocol=FedSGD(2)), cpu_generator(0))
    gained = error(naive.inputs, samples, space, 0, 1) / error(sme.inputs, samples, space, 0, 1)
    assert gained > 3, gained
    assert any("between those before and after, at 0." in note for note in sme.notes)


def test_as_many_coarse_steps_as_suit_the_client(samples: Batch, space: Images) -> None:
    target, protocol = convolutions(), FedAvg(2, local_epochs=3, learning_rate=0.1)
    settings = SMESettings(iterations=40, **STEPS)
    observation = shared(target, samples, space, protocol, 0, 1)
    assert "followed by 3 coarse steps" in SME(settings)(target, observation, cpu_generator(0)).notes
    hidden = replace(observation, protocol=replace(protocol, untold=("local_epochs",)))
    assert "followed by 10 coarse steps" in SME(settings)(target, hidden, cpu_generator(0)).notes
    longer = shared(target, samples, space, replace(protocol, local_epochs=28), 0, 1)
    assert "followed by 7 coarse steps" in SME(settings)(target, longer, cpu_generator(0)).notes
    without = SME(replace(settings, coarse=0))(target, observation, cpu_generator(0))
    assert not any("coarse" in note for note in without.notes)


def test_where_lbfgs_does_not_win_coarse_steps_begin_anew(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are gone down as is measured for ReLU, from a start of their own, not searched for from the bent path's."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5))
    protocol = FedAvg(4, local_epochs=10, local_batch_size=2, learning_rate=0.3)
    observation = shared(make_target(net, (3, 12, 12), 5), samples, space, protocol, 0, 1, 2, 3)
    seen: list[tuple[str, MatchSettings, Tensor]] = []
    solve_ = sme.solve

    def noted(problem: GradientMatching, guesses: Any, *rest: Any) -> Any:
        seen.append((problem.observation.protocol.name, problem.settings, guesses[0]["inputs"].clone()))
        return solve_(problem, guesses, *rest)

    monkeypatch.setattr(sme, "solve", noted)
    monkeypatch.setattr(sme, "UNEXPLAINED", 0.0)
    attack = SME(SMESettings(iterations=1200, search=True))
    found = attack(make_target(net, (3, 12, 12), 5), observation, cpu_generator(0))
    assert not any("L-BFGS" in note for note in found.notes if note.startswith("chosen"))
    ((name, settings, begun_at),) = seen
    assert (name, settings.optimizer, settings.signed) == ("coarse", "adam", False)
    assert float(begun_at.std()) > 0.5  # noise


def test_sme_falls_back_to_the_weights_before(samples: Batch, space: Images) -> None:
    """Where the weights hardly move, what it finds is no worse than the naive reading."""
    target, protocol = network(nn.Sigmoid), FedAvg(1, local_epochs=5, learning_rate=1e-3)
    observation = shared(target, samples, space, protocol, 2)
    settings: dict[str, Any] = {"optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 0.0}
    sme = SME(SMESettings(iterations=400, **settings))(target, observation, cpu_generator(0))
    naive = IG(IGSettings(iterations=400, **settings))(
        target, replace(observation, protocol=FedSGD(1)), cpu_generator(0)
    )
    assert error(sme.inputs, samples, space, 2) < 1.5 * error(naive.inputs, samples, space, 2) + 1e-6


@pytest.mark.parametrize("epochs", [1, 3])
def test_what_float32_ends_is_refined_in_float64(samples: Batch, space: Images, epochs: int) -> None:
    """Where the rounding of float32 ends a descent, of one step as of several, and a tolerance asks for more."""
    target, protocol = convolutions(), FedAvg(1, local_epochs=epochs, learning_rate=0.1)
    observation = shared(target, samples, space, protocol, 0)
    asked = IGSettings(iterations=300, optimizer="lbfgs", distance="euclidean", tv_weight=0.0, tolerance=1e-15)
    problem = GradientMatching(target, observation, samples.labels[:1], asked)
    near = space.encode(samples.images[:1]) + 0.01 * torch.randn(1, 3, 12, 12, generator=cpu_generator(0))
    progress = Progress(SilentMonitor())
    (coarse,), _ = solve(problem, [{"inputs": near}], cpu_generator(0), progress)
    fine, facts = precisely(problem, coarse, cpu_generator(0), progress, 600)
    assert facts == ("refined in float64",)
    assert fine.values["inputs"].dtype == torch.float32
    assert coarse.spent < fine.spent <= 600
    ends = [error(found.values["inputs"], samples, space, 0) for found in (fine, coarse)]
    assert ends[0] < 0.5 * ends[1], ends
    enough = problem.under(replace(asked, tolerance=1e-9))
    assert precisely(enough, coarse, cpu_generator(0), progress, 600) == (coarse, ())


def test_the_epochs_of_dlfa_are_tied_matched_and_averaged(samples: Batch, space: Images) -> None:
    target, protocol = convolutions(), FedAvg(4, local_epochs=2, local_batch_size=2, learning_rate=0.1)
    observation = shared(target, samples, space, protocol, 0, 1, 2, 3)
    result = DLFA(DLFASettings(iterations=200, **STEPS))(target, observation, cpu_generator(0))
    assert result.inputs.shape == (4, 3, 12, 12)
    assert torch.equal(result.labels, samples.labels[:4])
    assert result.snapshots[0].inputs.shape == result.inputs.shape
    noise = space.finish(torch.randn(4, 3, 12, 12, generator=cpu_generator(1)))
    assert error(result.inputs, samples, space, 0, 1, 2, 3) < 0.2 * error(noise, samples, space, 0, 1, 2, 3)


@pytest.mark.parametrize("gained", [False, True])
def test_dlfa_is_never_behind_the_surrogate(
    gained: bool, samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of both explains the replayed steps better stays, told without the samples."""
    target, protocol = network(), FedAvg(2, local_epochs=2, local_batch_size=1, learning_rate=0.1)
    observation = shared(target, samples, space, protocol, 0, 1)
    begun: list[Tensor | None] = []
    noise, truth = torch.randn(4, 3, 12, 12, generator=cpu_generator(1)), space.encode(samples.images[:2])
    found = truth.repeat(2, 1, 1, 1) if gained else noise

    def replayed(target: Target, seen: Observation, *_: Any, **__: Any) -> Reconstruction:
        begun.append(seen.start)
        assert seen.labels is not None
        return Reconstruction(inputs=found, labels=seen.labels, match=0.0)

    monkeypatch.setattr(dlfa, "match", replayed)
    attack = DLFA(DLFASettings(iterations=60, **STEPS))
    result = attack.run(target, observation, cpu_generator(0), SilentMonitor())
    (start,) = begun
    assert start is not None
    torch.testing.assert_close(start[:2], start[2:])
    torch.testing.assert_close(result.inputs, truth if gained else start[:2])
    assert any("they stay" in note for note in result.notes) is not gained
    DLFA(replace(attack.settings, warm=False)).run(target, observation, cpu_generator(0), SilentMonitor())
    assert begun[1] is None


def test_the_tie_depends_on_no_order() -> None:
    inputs = torch.randn(6, 3, 4, 4, generator=cpu_generator(0))
    prior = SameMean(2, 1.0)
    shuffled = torch.cat([inputs[:3], inputs[3:][[2, 0, 1]]])
    torch.testing.assert_close(prior({"inputs": shuffled}), prior({"inputs": inputs}))
    first, second = inputs[:3].mean(0), inputs[3:].mean(0)
    by_hand = 2 * (first - second).square().mean() / 4  # two of the four pairs differ
    torch.testing.assert_close(prior({"inputs": inputs}), by_hand)
    assert float(prior({"inputs": inputs[:3].repeat(2, 1, 1, 1)})) == pytest.approx(0, abs=1e-12)


def test_samples_are_matched_within_their_label() -> None:
    first = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    labels = torch.tensor([0, 0, 1, 1])
    places = aligned(torch.stack([first, first[[1, 0, 3, 2]] + 0.1]), labels)
    assert [place.tolist() for place in places] == [[0, 1, 2, 3], [1, 0, 3, 2]]
    near_another_label = torch.stack([first, first[[2, 3, 0, 1]]])
    assert set(aligned(near_another_label, labels)[1][:2].tolist()) == {0, 1}


def test_a_replay_of_all_epochs_is_the_client(samples: Batch, space: Images) -> None:
    """With the client's own samples in the client's own order, per epoch, the update is the client's."""
    target, protocol = network(), FedAvg(4, local_epochs=2, local_batch_size=2, learning_rate=0.5)
    observation = shared(target, samples, space, protocol, 0, 1, 2, 3)
    order = protocol.order(torch.Generator().manual_seed(2), 4)
    assert order is not None
    inputs = space.encode(samples.images[:4])
    visited = Play(inputs[order.flatten()], samples.labels[:4][order.flatten()])
    replayed = PerEpoch.of(protocol).update(target, visited)
    for name, tensor in observation.update.items():
        torch.testing.assert_close(replayed[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "protocol", "words"),
    [
        ("sme", FedSGD(2), "of one step"),
        ("sme", FedAvg(2), "of one step"),
        ("dlfa", FedSGD(2), "visits its samples once"),
        ("dlfa", FedAvg(2, local_batch_size=1), "visits its samples once"),
        ("dlfa", FedAvg(2, local_epochs=3), "every step visits all samples"),
    ],
)
def test_where_they_do_not_apply(name: str, protocol: Any, words: str, samples: Batch, space: Images) -> None:
    target = network()
    refusal = create(name, "quick").refusal(target, shared(target, samples, space, protocol, 0, 1))
    assert isinstance(refusal, NotApplicable)
    assert any(word in refusal.reason for word in words.split("|")), refusal.reason


def test_sme_needs_nothing_of_the_training(samples: Batch, space: Images) -> None:
    """At other settings that nobody knows, it finds the same to the last bit."""
    target = network()
    hidden = FedAvg(2, local_epochs=2, learning_rate=0.25, untold=("learning_rate", "local_epochs"))
    observation = shared(target, samples, space, hidden, 0, 1)
    way = hidden.moved(observation.update, target.parameters)
    other = replace(hidden, learning_rate=0.5)
    after = {name: tensor.detach() + way[name] for name, tensor in target.parameters.items()}
    again = replace(observation, protocol=other, update=other.from_shared(after, target.parameters))
    attack = SME(SMESettings(iterations=30, **STEPS))
    found = [attack(target, seen, cpu_generator(0)) for seen in (observation, again)]
    torch.testing.assert_close(found[0].inputs, found[1].inputs, rtol=1e-3, atol=1e-3)
    assert not [result for result in found if result.residual == result.residual]
    refusal = create("ig", "quick").refusal(target, observation)
    assert isinstance(refusal, NotApplicable)
    assert refusal.reason.startswith("learning rate and local epochs of the client are not known")


@pytest.mark.parametrize(
    "attack", [SME(SMESettings(iterations=60, **STEPS)), DLFA(DLFASettings(iterations=30, **STEPS))]
)
def test_they_stop_when_told_and_repeat_themselves(attack: Attack, samples: Batch, space: Images) -> None:
    target, protocol = network(), FedAvg(4, local_epochs=2, local_batch_size=2, learning_rate=0.5)
    observation = shared(target, samples, space, protocol, 0, 1, 2, 3)
    first, again = (attack(target, observation, cpu_generator(3)) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)

    class Impatient(SilentMonitor):
        def should_stop(self) -> bool:
            return True

    stopped = attack(target, observation, cpu_generator(3), Impatient())
    assert stopped.cuts
    assert stopped.iterations < first.iterations
    assert stopped.inputs.shape == first.inputs.shape
