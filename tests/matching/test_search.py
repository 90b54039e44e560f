"""The search decides by the objective, spends what it is given, and says what it chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.attacks.registry import create
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.matching import runners
from leakaudit.matching import search as search_module
from leakaudit.matching.candidates import CANDIDATES, FEW, ONE_BIT_CANDIDATES, Candidate, few
from leakaudit.matching.descent import Progress
from leakaudit.matching.engine import GradientMatching, MatchSettings
from leakaudit.matching.runners import rank
from leakaudit.matching.search import search
from leakaudit.reconstruction import Reconstruction, SilentMonitor
from tests.conftest import make_target
from tests.matching.build import StopAfter, cnn, observation_of, psnr


def relu() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 5))


SETTINGS = IGSettings(iterations=500, tolerance=1e-9, search=True)


def test_recovers_and_reports_the_choice(samples: Batch, space: Images) -> None:
    net, victim = cnn(), samples.subset([3])
    result = IG(SETTINGS)(net, observation_of(net, victim, space), cpu_generator(0))
    assert psnr(space, result.inputs, victim) > 45
    assert result.match < 1e-8
    labels = [candidate.label for candidate in CANDIDATES]
    assert any(note.startswith("chosen by its match") and note.split(": ", 1)[1] in labels for note in result.notes)
    assert result.iterations <= 500
    iterations = [point.iteration for point in result.history]
    assert iterations == sorted(set(iterations))


def test_the_better_candidate_wins_whatever_the_order(samples: Batch, space: Images) -> None:
    net = cnn()
    observation = observation_of(net, samples.subset([3]), space)
    good = Candidate("good", {"optimizer": "lbfgs", "distance": "euclidean", "tv_weight": 0.0})
    bad = Candidate("bad", {"learning_rate": 1e-6})
    for order in ((good, bad), (bad, good)):
        problem = GradientMatching(net, observation, samples.subset([3]).labels, MatchSettings(iterations=100))
        start = {"inputs": torch.randn(1, 3, 12, 12, generator=cpu_generator(0))}
        _, _, facts = search(problem, start, cpu_generator(0), Progress(SilentMonitor()), order)
        assert facts[0].endswith(": good")


def test_stops_when_told_and_with_hardly_any_steps(samples: Batch, space: Images) -> None:
    net = cnn()
    observation = observation_of(net, samples.subset([3]), space)
    told = IG(SETTINGS)(net, observation, cpu_generator(0), StopAfter(5))
    assert told.iterations == 5
    assert told.stopped
    assert IG(IGSettings(iterations=1, search=True))(net, observation, cpu_generator(0)).match <= 1


def test_the_private_batch_cannot_change_the_choice(samples: Batch, space: Images) -> None:
    net, victim = cnn(), samples.subset([1])
    observation = observation_of(net, victim, space)
    short = IGSettings(iterations=60, search=True)
    first = IG(short)(net, observation, cpu_generator(5))
    victim.images.fill_(0.123)
    second = IG(short)(net, observation, cpu_generator(5))
    assert torch.equal(first.inputs, second.inputs)
    assert first.notes == second.notes


def test_smoother_than_a_photograph_is_no_merit() -> None:
    assert rank(0.99e-3, 0.4) < rank(1e-3, 0.0)
    assert rank(1e-3, 0.4) < rank(0.7e-3, 1.5)
    assert rank(0.99e-3, 0.3, larger=2) > rank(1e-3, 0.1, larger=7)
    assert rank(0.99e-3, 0.2, larger=7) < rank(1e-3, 0.0, larger=7)


def short_search(
    samples: Batch,
    space: Images,
    monkeypatch: pytest.MonkeyPatch,
    scores: Mapping[str, Sequence[float]],
    iterations: int = 100,
) -> tuple[Reconstruction, list[tuple[str, int, torch.Tensor]]]:
    """A search of few steps in which candidates rank as told, turn by turn; with who did how many steps from where."""
    ran: list[tuple[str, int, torch.Tensor]] = []
    left = {label: list(values) for label, values in scores.items()}
    advance = runners.Runner.advance

    def recorded(runner: runners.Runner, steps: int, *args: Any) -> Any:
        label, begin = runner.candidate.label, runner.guess["inputs"].clone()
        monkeypatch.setattr(runners, "rank", lambda *_: left[label].pop(0))
        found = advance(runner, steps, *args)
        ran.append((label, steps, begin))
        return found

    monkeypatch.setattr(runners.Runner, "advance", recorded)
    net = cnn()
    observation = observation_of(net, samples.subset([1]), space)
    return IG(IGSettings(iterations=iterations, search=True))(net, observation, cpu_generator(0)), ran


SMOOTH, HEAVY, LIGHT = (candidate.label for candidate in FEW)
FREE = CANDIDATES[0].label


def test_few_steps_are_tried_in_turn_and_the_light_one_follows_the_heavy(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {SMOOTH: [0.0], HEAVY: [-1.0, -2.0], LIGHT: [-2.1, -3.0]}
    result, ran = short_search(samples, space, monkeypatch, ranks)
    assert [(label, steps) for label, steps, _ in ran] == [
        *((SMOOTH, 20), (HEAVY, 20)),
        *((LIGHT, 20), (HEAVY, 20), (LIGHT, 20)),
    ]
    assert torch.equal(ran[0][2], ran[1][2])
    assert torch.equal(ran[2][2], ran[3][2])  # where the heavy one was
    assert not torch.equal(ran[2][2], ran[1][2])
    assert [point.iteration for point in result.history][
        -1
    ] == 59  # those of L-BFGS and half of the heavy led elsewhere
    assert result.iterations == 100
    assert result.notes[0].endswith(LIGHT)


def test_the_heavy_one_goes_on_where_the_light_one_gains_nothing(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, ran = short_search(samples, space, monkeypatch, {SMOOTH: [0.0], HEAVY: [-1.0, -2.0, -3.0], LIGHT: [-1.9]})
    assert [(label, steps) for label, steps, _ in ran][-2:] == [(HEAVY, 20), (HEAVY, 20)]
    assert result.notes[0].endswith(HEAVY)


def test_a_descent_that_is_far_ahead_but_moves_no_further_is_not_chosen(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {SMOOTH: [-4.0, -4.1], FREE: [-4.2], HEAVY: [-1.0, -2.0, -7.0], LIGHT: [-1.5]}
    result, ran = short_search(samples, space, monkeypatch, ranks, 200)
    assert [(label, steps) for label, steps, _ in ran] == [
        *((SMOOTH, 20), (HEAVY, 20), (SMOOTH, 20), (FREE, 20)),
        *((LIGHT, 20), (HEAVY, 20), (HEAVY, 80)),
    ]
    assert result.notes[0].endswith(f"120 trial steps: {HEAVY}")


def test_a_descent_that_is_far_ahead_and_falls_is_chosen(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ran = short_search(samples, space, monkeypatch, {SMOOTH: [-4.0, -5.0, -6.0, -7.0], HEAVY: [-1.0]})
    assert {label for label, _, _ in ran[2:]} == {SMOOTH}


def test_a_descent_that_its_total_variation_holds_goes_on_without(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {SMOOTH: [-4.0, -4.1], FREE: [-5.0, -6.0, -7.0], HEAVY: [-1.0]}
    result, ran = short_search(samples, space, monkeypatch, ranks)
    assert [label for label, _, _ in ran[:4]] == [SMOOTH, HEAVY, SMOOTH, FREE]
    assert {label for label, _, _ in ran[4:]} == {FREE}
    assert result.notes[0].endswith(f"80 trial steps: {FREE}")


def test_what_moves_no_further_is_kept_where_nothing_ranks_better(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {SMOOTH: [-4.0, -4.1], FREE: [-4.2], HEAVY: [-1.0, -2.0], LIGHT: [-1.5]}
    result, _ = short_search(samples, space, monkeypatch, ranks, 120)
    assert result.notes[0].endswith(FREE)


def test_a_search_of_larger_images_weighs_more_and_begins_coarse() -> None:
    assert few((32, 32)) == few((28, 28)) == few((3000,)) == few((16, 64, 64)) == FEW
    assert [few((side, side))[1].changes["tv_weight"] for side in (64, 128)] == pytest.approx([6e-2, 12e-2])
    _, heavy, none = few((64, 48))
    assert heavy.levels == none.levels
    assert [part for part, _ in heavy.levels] == [4, 2, 1]
    assert sum(share for _, share in heavy.levels) == 1
    assert (none.after, none.changes["tv_weight"]) == (heavy, 0)


@pytest.mark.parametrize("iterations", [20, 6000])
@pytest.mark.parametrize("side", [28, 224])
def test_signs_are_searched_with_all_that_there_is_for_them(iterations: int, side: int) -> None:
    seen = SimpleNamespace(one_bit=True)
    settings, domain = MatchSettings(iterations=iterations), SimpleNamespace(sides=(side, side))
    problem: Any = SimpleNamespace(observation=seen, settings=settings, domain=domain)
    assert search_module._suitable(problem) == ONE_BIT_CANDIDATES


def test_a_search_of_larger_images_goes_through_the_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 5))
    space, net = Images((3, 48, 48), (0.5,) * 3, (0.25,) * 3), make_target(module, (3, 48, 48), 5)
    image = torch.linspace(0, 1, 48).expand(1, 3, 48, 48).clone()
    observation = observation_of(net, Batch(image, torch.tensor([1]), (0,)), space)
    ran: list[tuple[int, int]] = []
    solved = runners.solve

    def recorded(problem: GradientMatching, guesses: Any, *rest: Any) -> Any:
        ran.append((guesses[0]["inputs"].shape[-1], problem.settings.iterations))
        return solved(problem, guesses, *rest)

    monkeypatch.setattr(runners, "solve", recorded)
    result = IG(IGSettings(iterations=600, search=True))(net, observation, cpu_generator(0))
    assert "from a quarter" in result.notes[0]
    assert [side for side, _ in ran[-3:]] == [12, 24, 48]
    assert sum(steps for _, steps in ran) == result.iterations == 600
    assert result.inputs.shape == (1, 3, 48, 48)
    assert {shot.inputs.shape for shot in result.snapshots} == {(1, 3, 48, 48)}


@pytest.mark.parametrize(
    ("smooth", "heavy", "turns"),
    [
        ([-2.0, -6.0, -8.0], [-1.0], [SMOOTH, SMOOTH]),  # far ahead
        (
            [-2.0, -3.0, -8.0],
            [-1.0, -2.5],
            [SMOOTH, HEAVY, SMOOTH],
        ),  # ahead, and still when the other is no longer coarse
        ([-2.0, -3.0], [-1.0, -4.0, -7.0], [SMOOTH, HEAVY, HEAVY]),
        ([-2.0, -2.1], [-1.0, -7.0], [SMOOTH, FREE, HEAVY]),  # ahead, and stuck
    ],
)
def test_in_larger_images_a_descent_is_chosen_far_ahead_or_after_the_coarse_level(
    samples: Batch,
    space: Images,
    monkeypatch: pytest.MonkeyPatch,
    smooth: list[float],
    heavy: list[float],
    turns: list[str],
) -> None:
    coarse = replace(FEW[1], levels=((1, 0.5), (1, 0.5)))
    monkeypatch.setattr(search_module, "few", lambda _: (FEW[0], coarse, FEW[2]))
    monkeypatch.setattr(runners, "FLAT", 0)
    ends = [-9.0, -9.1, -9.2]
    _, ran = short_search(
        samples, space, monkeypatch, {SMOOTH: [*smooth, *ends], FREE: [-2.2, *ends], HEAVY: [*heavy, *ends]}, 120
    )
    assert [label for label, _, _ in ran[: 2 + len(turns)]] == [SMOOTH, HEAVY, *turns]


def test_where_a_heavy_total_variation_flattens_a_larger_image_one_without_is_tried(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = replace(FEW[1], levels=((1, 0.5), (1, 0.5)))
    monkeypatch.setattr(search_module, "few", lambda _: (FEW[0], coarse, FEW[2]))
    monkeypatch.setattr(runners, "FLAT", float("inf"))
    _, ran = short_search(samples, space, monkeypatch, {SMOOTH: [0.0], HEAVY: [-1.0, -1.1], LIGHT: [-2.0, -3.0, -4.0]})
    assert [label for label, _, _ in ran] == [SMOOTH, HEAVY, LIGHT, HEAVY, LIGHT]


@pytest.mark.parametrize("restarts", [1, 2, 3])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_hardly_any_steps_and_restarts_end(samples: Batch, space: Images, iterations: int, restarts: int) -> None:
    net = cnn()
    settings = IGSettings(iterations=iterations, restarts=restarts, search=True)
    result = IG(settings)(net, observation_of(net, samples.subset([3]), space), cpu_generator(0))
    assert result.iterations <= iterations * restarts
    assert not result.stopped


def test_a_search_that_is_stopped_anywhere_says_so(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "CLEAR_LEAD", float("inf"))
    net = cnn()
    observation = observation_of(net, samples.subset([1]), space)
    for after in range(1, 40, 2):
        told = IG(IGSettings(iterations=40, search=True))(net, observation, cpu_generator(0), StopAfter(after))
        assert told.iterations == after
        assert told.stopped == f"stopped after {after} of 40 iterations"


def test_a_restart_of_the_light_one_begins_with_the_heavy(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []
    advance = runners.Runner.advance

    def recorded(runner: runners.Runner, iterations: int, *args: Any) -> Any:
        ran.append((runner.candidate.label, iterations))
        return advance(runner, iterations, *args)

    monkeypatch.setattr(runners.Runner, "advance", recorded)
    net = cnn()
    observation = observation_of(net, samples.subset([1]), space)
    problem = GradientMatching(net, observation, samples.subset([1]).labels, MatchSettings(iterations=40))
    light = FEW[-1]
    runner = runners.Runner(
        light,
        problem.under(replace(problem.settings, **light.changes)),
        {"inputs": torch.randn(1, 3, 12, 12, generator=cpu_generator(0))},
    )
    budget = runners.Budget(40, cpu_generator(0), Progress(SilentMonitor()))
    assert not search_module._run_out(runner, budget, 40)
    assert ran == [(HEAVY, 20), (LIGHT, 20)]
    assert budget.spent == runner.iterations == 40


def test_what_a_user_sets_is_not_searched() -> None:
    preset = create("ig", "standard").settings
    assert preset.search
    for name, text in (("tv_weight", "0.5"), ("optimizer", "adamw"), ("distance", "layerwise"), ("signed", "false")):
        settings = create("ig", "standard", {name: text}).settings
        assert not settings.search
        assert getattr(settings, name) != getattr(preset, name)
    assert create("ig", "standard", {"iterations": "50", "restarts": "2"}).settings.search
    assert create("ig", "standard", {"tv_weight": "0.5", "search": "true"}).settings.search
    assert create("gi-pip", "standard", {"tv_weight": "0.5", "anomaly_weight": "1"}).settings.anomaly_weight == 1


def test_every_restart_has_as_many_steps_and_all_are_counted(samples: Batch, space: Images) -> None:
    net = make_target(relu(), (3, 12, 12), 5)
    observation = observation_of(net, samples.subset([2]), space)
    one, three = (
        IG(IGSettings(iterations=240, restarts=n, search=True))(net, observation, cpu_generator(0)) for n in (1, 3)
    )
    assert one.iterations == 240
    assert three.iterations == 720
    assert three.match <= one.match
    assert three.history[-1].iteration < 240


def test_another_start_is_for_local_minima_and_not_for_what_noise_leaves() -> None:
    assert search_module._stuck([3e-5])
    assert search_module._stuck([3e-5, 8e-5])
    assert not search_module._stuck([3.0e-5, 8e-5, 3.1e-5])
    assert not search_module._stuck([3e-5, 5e-8])


def test_of_a_rounded_update_lbfgs_ends_twice_alike_and_stops(samples: Batch, space: Images) -> None:
    net, victim = cnn(), samples.subset([3])
    clean = observation_of(net, victim, space)
    rounded = {name: (g * 200 / g.abs().max()).round() * g.abs().max() / 200 for name, g in clean.update.items()}
    settings = IGSettings(iterations=4000, tolerance=1e-9)
    problem = GradientMatching(net, replace(clean, update=rounded), victim.labels, settings)
    start = torch.randn(1, 3, 12, 12, generator=cpu_generator(0))
    solution, _, _ = search(problem, {"inputs": start}, cpu_generator(1), Progress(SilentMonitor()), CANDIDATES[1:2])
    assert solution.match > 1e-6
    assert solution.given_up > 0
    assert solution.spent < 3000


def test_only_further_lbfgs_candidates_draw_a_start(
    samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[tuple[str, float], torch.Tensor] = {}
    original = runners.solve

    def watched(problem, guesses, *rest):  # type: ignore[no-untyped-def]
        settings = problem.settings
        begun.setdefault((settings.optimizer, settings.tv_weight), guesses[0]["inputs"].clone())
        return original(problem, guesses, *rest)

    monkeypatch.setattr(runners, "solve", watched)
    net = cnn()
    observation = observation_of(net, samples.subset([3]), space)
    problem = GradientMatching(net, observation, samples.subset([3]).labels, IGSettings(iterations=1200))
    start = torch.randn(1, 3, 12, 12, generator=cpu_generator(0))
    search(problem, {"inputs": start}, cpu_generator(1), Progress(SilentMonitor()))
    assert torch.equal(begun["lbfgs", 0.0], start)
    assert not torch.equal(begun["lbfgs", 1e-4], start)
    assert torch.equal(begun["adam", 1e-4], start)


def test_the_timeline_is_of_the_whole_way(samples: Batch, space: Images) -> None:
    net = make_target(relu(), (3, 12, 12), 5)
    victim = samples.subset([3])
    result = IG(replace(SETTINGS, iterations=600))(net, observation_of(net, victim, space), cpu_generator(0))
    fractions = [shot.fraction for shot in result.snapshots]
    assert fractions[0] == 0
    assert fractions == sorted(set(fractions))
    assert any(0.1 < fraction <= 0.5 for fraction in fractions)
    qualities = [psnr(space, shot.inputs, victim) for shot in result.snapshots]
    assert qualities[1] < psnr(space, result.inputs, victim) - 1  # not from the end of the way
