"""GIAS (Jeon et al. 2021, arXiv 2110.14962): gradient matching over the latents and the weights of a generator.

.. math:: \\min_z D_{\\cos}(\\nabla_\\theta \\ell(f_\\theta(G_w(z)), y),\\, g^*) + \\alpha\\,TV(G_w(z)),
   \\qquad \\text{then } \\min_w \\text{ of the same, with a } w \\text{ for each sample}

The generator G is the user's own, ``--generator module:function`` (`leakaudit.matching.generator`). Threat model D: the
server has, or has trained, a generator of samples of a similar distribution. Where the samples are not in the range of
the generator the second search leaves it, as far as the update asks for that.

A generator of faces makes faces whatever the update is. So samples that it makes without any update are one more floor
of every score, and a leak is above it by the margin; the positive control asks for samples of the generator itself.
Beside it stands IG with its own best total variation and as many steps.

Needs gradients through the generator. Fails where the latent search ends in a local minimum: more restarts
(``--set gias.restarts=8``). Deviations from the authors' code: all restarts go through both searches and the one with
the smallest match is kept, as the engine does; the weights are kept only where they match better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Generator, Tensor

from leakaudit.attacks.base import REAL, Attack
from leakaudit.attacks.ig import IG, MATCHING, refuse_batch_size
from leakaudit.matching.descent import Progress, Solution
from leakaudit.matching.engine import label_start, smooth_enough, solve, to_reconstruction, within_time
from leakaudit.matching.generated import WEIGHT, Generated
from leakaudit.matching.generator import OwnGenerator
from leakaudit.matching.problem import GradientMatching
from leakaudit.matching.runners import chain
from leakaudit.matching.search import with_trials
from leakaudit.matching.settings import MatchSettings
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS

LARGEST_WEIGHTS = 2**27
"""Entries of a batch's generator weights up to which they are searched; chosen: with Adam's moments, 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class GIASSettings(MatchSettings):
    """Settings of GIAS, beside those of the engine.

    Args:
        iterations: Steps of both searches together, per restart.
        tv_weight: Weight of the total variation.
        signed: Only the sign of the latents' gradient; not so in the authors' code.
        weight_share: Share of the steps that search the weights; 0 leaves the weights.
        weight_learning_rate: Of Adam in the second search.
        latent_weight: Weight of the mean squared latent in the first search.

    Defaults: as GIAS is run in GI-PIP's comparison (Sun et al. 2024, arXiv 2401.11748), 3,000 steps each.
    """

    iterations: int = 6000
    tv_weight: float = 1e-6
    signed: bool = False
    weight_share: float = 0.5
    weight_learning_rate: float = 1e-4
    latent_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("latent_weight")
        if not 0 <= self.weight_share < 1:
            raise ValueError(f"weight_share must be from 0 to below 1, got {self.weight_share}")
        if self.weight_learning_rate <= 0:
            raise ValueError(f"weight_learning_rate must be positive, got {self.weight_learning_rate}")

    @property
    def stages(self) -> tuple[int, int]:
        """Steps of the two searches, at least one of the first."""
        weights = min(int(self.iterations * self.weight_share), self.iterations - 1)
        return self.iterations - weights, weights


class GIAS(Attack):
    """Gradient matching over a generator's latents, then its weights."""

    name: ClassVar[str] = "gias"
    title: ClassVar[str] = "GIAS (your generator as a prior)"
    threat_model: ClassVar[ThreatModel] = "D"
    finding: ClassVar[str] = "LA206"
    needs: ClassVar[str] = "a generator of similar samples (--generator module:function)"
    reads: ClassVar[tuple[str, ...]] = REAL
    uses_generator: ClassVar[bool] = True
    reference: ClassVar[str] = "Jeon et al., Gradient Inversion with Generative Image Prior, NeurIPS 2021, 2110.14962"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 75
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = MATCHING
    # paper: the steps, rates and weights of GI-PIP's comparison. quick and standard: chosen, a tenth of the steps, and
    # four starts of half of them; benchmarks/results/gias.md has what they reach.
    presets: ClassVar[dict[str, GIASSettings]] = {
        "quick": GIASSettings(iterations=600, weight_learning_rate=1e-3),
        "standard": GIASSettings(iterations=1500, restarts=4, weight_learning_rate=1e-3),
        "paper": GIASSettings(),
    }

    def rival(self, sides: Sequence[int]) -> Attack:
        """IG with the total variation that its own objective chooses, in as many steps, those of the choice apart."""
        steps = with_trials(self.settings.iterations, sides)
        return IG(replace(IG.presets["standard"], iterations=steps, restarts=self.settings.restarts))

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs a generator."""
        if observation.generator is None:
            return NotApplicable("needs a generator of similar samples: pass --generator module:function")
        return refuse_batch_size(target, observation)

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Search the latents, then the weights."""
        if observation.generator is None or observation.labels is None:
            raise ValueError("GIAS needs a generator and labels: see applies()")
        settings, raised = smooth_enough(self.settings, observation)
        own, labels = observation.generator, observation.labels
        problem = Generated(target, observation, labels, settings, own, settings.latent_weight)
        guesses = _starts(problem, generator)
        settings, cuts = within_time(problem, settings, guesses[0], monitor)
        found, facts = _searched(problem, guesses, settings, generator, monitor)
        plain = GradientMatching(target, observation, labels, settings)
        return to_reconstruction(plain, found, (*raised, *facts), cuts)


def _starts(problem: Generated, generator: Generator) -> list[dict[str, Tensor]]:
    """Random latents for each restart, and where the labels are open what they begin with."""
    size, like, begin = problem.observation.batch_size, next(iter(problem.parameters.values())), label_start(problem)
    return [
        {"inputs": problem.own.latents(size, generator).to(like), **begin} for _ in range(problem.settings.restarts)
    ]


def _searched(
    problem: Generated,
    guesses: Sequence[Mapping[str, Tensor]],
    settings: GIASSettings,
    generator: Generator,
    monitor: Monitor,
) -> tuple[list[Solution], tuple[str, ...]]:
    """Both searches from every start; solutions whose unknowns are model inputs, and facts for the report."""
    first, second = settings.stages
    share = first / settings.iterations
    problem.settings = replace(settings, iterations=first)
    found, facts = solve(problem, guesses, generator, Progress(monitor, 0.0, share))
    told = f"latents of {problem.own.path} searched for {first} steps"
    before = min(solution.match for solution in found)
    size = sum(tensor.numel() for tensor in problem.own.weights.values()) * problem.observation.batch_size
    if not second or found[-1].cut or size > LARGEST_WEIGHTS:
        why = f"; its {size:,} weights are too many to search" if second and size > LARGEST_WEIGHTS else ""
        return [problem.as_inputs(solution) for solution in found], (told + why, *facts)
    problem.settings = replace(settings, iterations=second, learning_rate=settings.weight_learning_rate)
    begun = [{**solution.values, **_weights(problem.own, solution.values["inputs"])} for solution in found]
    better, more = solve(problem, begun, generator, Progress(monitor, share, 1.0))
    rest = [problem.as_inputs(solution) for solution in found[len(better) :]]  # a stop came before their weights
    ends = [*rest, *(_followed(problem, one, two) for one, two in zip(found, better, strict=False))]
    after = min(solution.match for solution in ends)
    told += f", then its weights for {second}: cosine distance {before:.2g}, then {after:.2g}"
    return ends, (told, *dict.fromkeys((*facts, *more)))


def _weights(own: OwnGenerator, latents: Tensor) -> dict[str, Tensor]:
    """The generator's tensors as unknowns, a set for each sample (B, …)."""
    count = len(latents)
    return {
        WEIGHT + name: tensor.detach().to(latents).expand(count, *tensor.shape).clone()
        for name, tensor in own.weights.items()
    }


def _followed(problem: Generated, first: Solution, then: Solution) -> Solution:
    """One descent out of the two, as model inputs; what the weights made stays where it matches better."""
    ends = problem.as_inputs(first), problem.as_inputs(replace(then, shots=()))
    return chain(*ends, better=then.match < first.match)
