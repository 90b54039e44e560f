r"""SME, the surrogate model extension: local steps taken for one gradient at weights in between.

.. math:: \min_{x,\,\alpha} \; D_{\cos}(\nabla_\theta \ell(f_{w}(x), y),\, \Delta) + \lambda\, TV(x),
   \qquad w = (1-\alpha)\,\theta_0 + \alpha\,\theta_K

All the samples of a client stand in one batch, whatever steps they were visited in, so learning rate, batch size and
number of steps need not be known, and an iteration costs one gradient. α begins at one half and is learnt.

α = 0 is the reading of the update as a gradient at θ_0. Where the first step decides, it is far better (41 dB on a
sigmoid LeNet), and α does not find back to it; so both are tried for some of the steps, and the smaller match goes on.

Clients do not walk straight. The last steps bend the path: a quadratic Bézier curve, as Zhu et al. (2025, arXiv
2509.22082) have it, but with a control point that is not learnt: the client leaves θ_0 down its own gradient, and that
of the guess is at hand. So the curve has three unknowns (α, the length of its first leg, and the share of the first
gradient in the update) where a free control point has as many as the model, and it is kept where it matches better.

After many steps neither says enough. So the last iterations go down a chain of a few coarse steps, each drawn to the
straight way (`leakaudit.protocols.coarse`), at the cost of a gradient each, and that is kept where it matches better.
It goes on from what is found, or begins anew where the path so far leaves much unexplained and L-BFGS has not won.

Reference: Zhu et al. 2023, arXiv 2306.00127. Deviations from the authors' code: the start at α = 0; α is a logit, so
that it stays within the segment; the bent path; the coarse steps. What each gains is in
`benchmarks/results/local_steps.md`.

Fails where the steps' gradients do not point alike: many epochs at a high rate, dropout masks that change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import JOINT, Attack
from leakaudit.attacks.ig import MATCHING, IGSettings, refuse_batch_size
from leakaudit.matching.descent import Progress, Solution
from leakaudit.matching.engine import prepare, solve, to_reconstruction
from leakaudit.matching.problem import CLIENT, GradientMatching
from leakaudit.matching.runners import chain
from leakaudit.matching.search import search
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.base import Protocol
from leakaudit.protocols.coarse import CoarseSteps, begun
from leakaudit.protocols.surrogates import ALPHA, BENT, FIRST, Between
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.target import Target

TRIAL_SHARE = 0.15
"""Of the steps, for each of the two starts; chosen, not measured."""
BENT_SHARE = 0.2
"""Of the steps, for the bent path; chosen, not measured."""
COARSE_SHARE = 0.3
"""Of the steps, for coarse ones; chosen, not measured."""
STEPS_IN_A_COARSE_ONE = 4
"""Of the client's, chosen: 40 of them are ten coarse ones. They end at 18.5, 15.1 and 17.2 dB where
five end at 16.3, 14.7 and 17.3; of ten steps, ten and five end alike (`benchmarks/results/local_steps.md`)."""
FEW_COARSE = 5
"""Coarse steps of a client that takes few, chosen on LeNets of two and four samples."""
ON_COARSE_STEPS: Mapping[str, Any] = {"optimizer": "adam", "distance": "cosine", "signed": False, "tv_weight": 1e-2}
"""How coarse steps are gone down that begin anew: 14.5 and 11.9 dB after 40 steps of a ReLU CNN, where it is 14.4 and
10.9 from where the bent path ended, which fits what is not there, and what a search then chooses ends at 11.2
(`benchmarks/results/local_steps.md`)."""
UNEXPLAINED = 0.03
"""Cosine distance above which a path without L-BFGS is given up for coarse steps from a start of their own. Chosen: it
is what such steps leave unexplained of a client's own samples (.014 to .041), bent paths end at .04 to .14 after 40
steps of a ReLU CNN, and where the weights hardly move at .002 to .007, where coarse steps from noise match better too
and lose 6 dB (`benchmarks/results/local_steps.md`)."""
AT_THE_BEGINNING = {ALPHA: -3.0, FIRST: 3.0}
"""Where the bent path begins that goes on from the weights before: near them, logits of 0.05 and 0.95; chosen."""


@dataclass(frozen=True, kw_only=True)
class SMESettings(IGSettings):
    """Settings of SME.

    Args:
        naive: Try the gradient at the weights before the first step as well.
        bend: Let the path bend in later steps, and keep that where it matches better.
        coarse: Coarse steps, at most, that are tried last, and kept where they match better; 0 for none. Ten, as
            measured in `benchmarks/results/local_steps.md`; fewer after a client that is known to take fewer than four
            for each of them, see `FEW_COARSE`.
    """

    naive: bool = True
    bend: bool = True
    coarse: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("coarse")


class SME(Attack):
    """Gradient matching at weights between those before and those after the local steps."""

    name: ClassVar[str] = "sme"
    title: ClassVar[str] = "SME (surrogate of the local steps)"
    threat_model: ClassVar[ThreatModel] = "B"
    needs: ClassVar[str] = "an update of several local steps; their number and learning rate need not be known"
    reference: ClassVar[str] = "Zhu et al., Surrogate Model Extension, ICML 2023, arXiv 2306.00127"
    cost: ClassVar[int] = 58
    told: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = JOINT
    adapts: ClassVar[tuple[str, ...]] = MATCHING
    # paper: 1,000 unsigned steps of Adam, as in the authors' repository, from α = .5 alone.
    presets: ClassVar[dict[str, SMESettings]] = {
        "quick": SMESettings(iterations=600, signed=False, tv_weight=1e-2, coarse=0),
        "standard": SMESettings(iterations=6000, tolerance=1e-9, search=True),
        "paper": SMESettings(iterations=1000, signed=False, tv_weight=1e-2, naive=False, bend=False, coarse=0),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs weights before and after several steps."""
        one = observation.protocol.steps == 1 and not observation.protocol.withheld
        if one or _moved(target, observation) is None:
            return NotApplicable("the update is of one step: there are no weights between its beginning and its end")
        return refuse_batch_size(target, observation)

    def step_cost(self, protocol: Protocol) -> float:
        """Gradients of all samples, on average over the paths, where the client makes one in every epoch."""
        settings: SMESettings = self.settings
        more = BENT_SHARE * settings.bend + COARSE_SHARE * max(0, settings.coarse - 1)
        return (1 + more) / max(1, protocol.passes)

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Both starts for some steps, the better one for most, then a bent path, and coarse steps for the last."""
        settings: SMESettings = self.settings
        moved = _moved(target, observation)
        if moved is None:
            raise ValueError("SME needs the weights after the steps: see applies()")
        protocol = observation.protocol
        segment = Between(protocol.batch_size, protocol.mode, way=moved)
        seen = replace(observation, protocol=segment, start=observation.start)
        like = next(iter(target.parameters.values()))
        problem, guesses, cuts = prepare(
            *(target, seen, settings, generator, monitor),
            extra=lambda: {CLIENT + ALPHA: torch.zeros(1, dtype=like.dtype)},
        )
        run = _Run(problem, generator, Progress(monitor), settings, problem.settings.iterations)
        guess = guesses[0]
        starts = [_Start("weights between those before and after", problem, guess)]
        if settings.naive:
            plain = replace(seen, protocol=replace(segment, fixed=0.0))
            there = GradientMatching(target, plain, problem.labels, problem.settings)
            starts.append(_Start("the weights before", there, {"inputs": guess["inputs"]}))
        best, facts = run.of(starts)
        if settings.bend and not best.found.cut:
            best, more = run.bent(best)
            facts = (*facts, *more)
        count = _coarse_steps(settings, observation)
        if count and run.goes_on(best.found):
            coarse = replace(seen, protocol=CoarseSteps(protocol.batch_size, protocol.mode, way=moved))
            best, more = run.coarse(best, GradientMatching(target, coarse, problem.labels, problem.settings), count)
            facts = (*facts, *more)
        return to_reconstruction(best.problem, [run.told(best.found)], facts, cuts)


def _moved(target: Target, observation: Observation) -> Mapping[str, Tensor] | None:
    return observation.protocol.moved(observation.update, target.parameters)


def _coarse_steps(settings: SMESettings, observation: Observation) -> int:
    """M: those of the settings, or what suits the steps that the client is known to have taken; 0 for none."""
    protocol = observation.protocol
    count = settings.coarse
    if not {"local_epochs", "local_batch_size"} & {*protocol.withheld}:
        suited = max(FEW_COARSE, protocol.steps // STEPS_IN_A_COARSE_ONE)
        count = min(count, suited, protocol.steps)
    return count if count > 1 else 0


@dataclass(eq=False)
class _Start:
    """A way down: its objective, where it is, and what was found."""

    label: str
    problem: GradientMatching
    guess: Mapping[str, Tensor]
    found: Any = None
    facts: tuple[str, ...] = ()
    smooth: bool = False
    """Whether L-BFGS won the last search."""


@dataclass(eq=False)
class _Run:
    """The steps of one attack and how they are shared out."""

    first: GradientMatching
    generator: Generator
    progress: Progress
    settings: SMESettings
    total: int
    spent: int = 0

    def of(self, starts: list[_Start]) -> tuple[_Start, tuple[str, ...]]:
        """Each start for its trial, then the one with the smaller match for the rest."""
        later = BENT_SHARE * self.settings.bend + COARSE_SHARE * (self.settings.coarse > 1)
        rest = self.total - round(later * self.total)
        if len(starts) > 1:
            for start in starts:
                self._advance(start, max(1, round(TRIAL_SHARE * self.total)))
                if start.found.cut:
                    return start, start.facts
        best = min(starts, key=lambda start: float("inf") if start.found is None else start.found.match)
        self._advance(best, max(1, rest - self.spent))
        best.found = best.found.beside([start.found for start in starts if start is not best])
        facts = (f"gradient at {best.label}{self._where(best.found)}",)
        return best, (*facts, *best.facts)

    def told(self, found: Solution) -> Solution:
        """With the iterations of the whole attack, where it was stopped in a part."""
        return replace(found, cut=found.cut and replace(found.cut, done=found.spent, planned=self.total))

    def _where(self, found: Solution) -> str:
        name = CLIENT + ALPHA
        return f", at {float(found.values[name].sigmoid()):.2f} of the way" if name in found.values else ""

    def _advance(self, start: _Start, steps: int, fixed: bool = False) -> None:
        """Descend further, by search where the settings say so, unless its problem's settings are fixed."""
        problem = start.problem.under(replace(start.problem.settings, iterations=steps, restarts=1))
        share = self.progress.share(self.spent / self.total, min(steps, self.total - self.spent) / self.total)
        if self.settings.search and not fixed:
            found, won, start.facts = search(problem, start.guess, self.generator, share)
            start.smooth = won.settings.optimizer == "lbfgs"
        else:
            (found,), start.facts = solve(problem, [start.guess], self.generator, share)
        found.match = problem.cosine(problem.projected(found.values))
        self.spent += steps
        before = start.found
        start.found = found if before is None else chain(before, found, better=found.match < before.match)
        start.guess = start.found.values

    def goes_on(self, found: Solution) -> bool:
        """Whether there is time and something left to be explained."""
        return not found.cut and self.spent < self.total and found.match >= self.settings.tolerance

    def _anew(self, start: _Start) -> bool:
        """Whether what the path so far has found is given up: it explains too little, and L-BFGS did not win."""
        return self.settings.search and not start.smooth and start.found.match > UNEXPLAINED

    def bent(self, start: _Start) -> tuple[_Start, tuple[str, ...]]:
        """The same on a curve that leaves the weights before down their gradient; whichever matches better."""
        straight = CLIENT + ALPHA in start.found.values
        placed = {ALPHA: 0.0, **BENT, **({} if straight else AT_THE_BEGINNING)}
        like = start.found.values["inputs"]
        unknowns = {CLIENT + name: like.new_full((1,), value) for name, value in placed.items()}
        other = _Start(start.label, self.first, {**unknowns, **start.found.values})
        left = self.total - self.spent
        steps = min(left, round(BENT_SHARE * self.total)) if self.settings.coarse > 1 else left
        return self._the_better(start, other, steps, "the path bent")

    def coarse(self, start: _Start, problem: GradientMatching, count: int) -> tuple[_Start, tuple[str, ...]]:
        """The same with a few coarse steps for the path; whichever matches better."""
        inputs = start.found.values["inputs"]
        unknowns = {CLIENT + name: value for name, value in begun(count, inputs).items()}
        anew = self._anew(start)
        if anew:
            problem = problem.under(problem.settings.changed(ON_COARSE_STEPS))
            begin = problem.domain.start(problem.settings.initialization, len(inputs), self.generator)
            inputs = begin.to(inputs)
        other = _Start(start.label, problem, {**unknowns, "inputs": inputs})
        return self._the_better(start, other, self.total - self.spent, f"followed by {count} coarse steps", anew)

    def _the_better(
        self, start: _Start, other: _Start, steps: int, fact: str, fixed: bool = False
    ) -> tuple[_Start, tuple[str, ...]]:
        """After the other has gone down so many steps from where this one is."""
        before = start.found
        self._advance(other, max(1, steps), fixed)
        better = other.found.match < before.match
        other.found = chain(before, other.found, better=better)
        if better:
            return other, (fact,)
        start.found, start.smooth = other.found, start.smooth or other.smooth
        return start, ()
