"""IG, "Inverting Gradients" (Geiping et al. 2020, arXiv 2003.14053).

.. math:: \\min_x \\; D_{\\cos}(\\nabla_\\theta \\ell(f_\\theta(x), y),\\, g^*) + \\alpha\\,TV(x)

by Adam on the sign of the gradient, projected into the valid range after every step, with three step decays.
Threat model B: an honest-but-curious server that knows model, loss, normalisation and batch size. Labels are inferred.

The preset paper is that. The presets quick and standard also try L-BFGS on the squared distance and other weights of
the total variation, and choose on the model under audit by `leakaudit.matching.search`, never by the private batch:
which of them is strongest depends on the activations, by 20 dB either way. Where a batch has few unknowns it begins
with Levenberg-Marquardt (`leakaudit.matching.gauss_newton`), which reads what the update shows only weakly.

Fails where the gradient hardly depends on the pixels (saturated or very narrow networks), with unknown dropout masks,
and for large batches. Deviations from the authors' code: the cancellation-free distance of
`leakaudit.matching.objective`, and the best iterate by the objective instead of the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Generator, Tensor

from leakaudit.attacks.base import JOINT, Attack
from leakaudit.document.status import Cut
from leakaudit.matching.candidates import SEARCHED
from leakaudit.matching.descent import Progress, Solution, best_of
from leakaudit.matching.engine import MatchSettings, minimize, minimize_together, prepare, to_reconstruction
from leakaudit.matching.gauss_newton import SOLVED, levenberg_marquardt
from leakaudit.matching.precise import precisely
from leakaudit.matching.priors import Prior
from leakaudit.matching.problem import GradientMatching
from leakaudit.matching.search import search
from leakaudit.observation import HANDED, Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS

BY_JACOBIAN = "found by Levenberg-Marquardt on the squared distance, in float64"
MATCHING = (HANDED, "accumulate", "clients", "share")
"""Defences that comparing gradients works through: those with a channel, larger batches, and tensors left out."""


@dataclass(frozen=True, kw_only=True)
class IGSettings(MatchSettings):
    """Settings of IG.

    Args:
        search: Choose optimiser, distance and total variation by trials (`leakaudit.matching.search`), which are part
            of `iterations`; `optimizer`, `distance`, `signed` and `tv_weight` come from the winner.
    """

    search: bool = False

    def changed(self, changes: Mapping[str, Any]) -> IGSettings:
        """With other values; what the search would choose and is given here is used, so there is no search."""
        chosen = SEARCHED & changes.keys()
        return replace(self, **{**changes, "search": changes.get("search", self.search and not chosen)})


class IG(Attack):
    """Gradient matching with cosine distance, total variation and signed Adam."""

    name: ClassVar[str] = "ig"
    title: ClassVar[str] = "IG (Inverting Gradients)"
    threat_model: ClassVar[ThreatModel] = "B"
    needs: ClassVar[str] = "a differentiable model; labels are inferred from the update"
    reference: ClassVar[str] = "Geiping et al., Inverting Gradients, NeurIPS 2020, arXiv 2003.14053"
    soft_labels: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = JOINT
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = MATCHING
    # quick: benchmarks/few_steps.py. standard: 6,000 evaluations bring L-BFGS to 40 dB on the sigmoid LeNet, and the
    # tolerance ends it at about 50 dB where it is faster; both in benchmarks/anchors.py. paper:
    # `reconstruct_image` of the authors' repository.
    presets: ClassVar[dict[str, IGSettings]] = {
        "quick": IGSettings(iterations=600, tolerance=1e-9, search=True),
        "standard": IGSettings(iterations=6000, tolerance=1e-9, search=True),
        "paper": IGSettings(iterations=24_000, tv_weight=1e-4),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs a batch size that the model takes."""
        return refuse_batch_size(target, observation)

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Optimise; see :func:`match`."""
        masks = self.given_masks(observation)
        return match(target, observation, self.settings, generator, monitor, masks=masks)

    def run_together(
        self,
        target: Target,
        observations: Sequence[Observation],
        generators: Sequence[Generator],
        monitor: Monitor,
    ) -> list[Reconstruction] | None:
        """All victims in one step; the search follows each victim by itself."""
        if self.settings.search:
            return None
        masks = [self.given_masks(observation) for observation in observations]
        return minimize_together(target, observations, self.settings, generators, monitor, masks=masks)

    def given_masks(self, observation: Observation) -> Mapping[str, Tensor]:
        """Dropout masks by ``step/layer`` that the attack is given: none."""
        return {}


def match(
    target: Target,
    observation: Observation,
    settings: MatchSettings,
    generator: Generator,
    monitor: Monitor,
    *,
    masks: Mapping[str, Tensor] | None = None,
    priors: Sequence[Prior] = (),
) -> Reconstruction:
    """IG with these settings, or with what the search chooses.

    Args:
        target: The model, in the mode of the protocol.
        observation: With labels (B,), given or inferred.
        settings: Of IG or of an attack built on it.
        generator: CPU generator of the starts.
        monitor: Told the progress.
        masks: Known dropout masks by ``step/layer``.
        priors: Further terms of the objective.

    Raises:
        ValueError: The observation has no labels.
    """
    if not (isinstance(settings, IGSettings) and settings.search):
        return minimize(target, observation, settings, generator, monitor, masks=masks, priors=priors)
    problem, guesses, cuts = prepare(target, observation, settings, generator, monitor, priors=priors, masks=masks)
    progress = Progress(monitor)
    first = levenberg_marquardt(problem, guesses[0], generator, progress)
    if first is not None:
        return _by_jacobian(problem, first, guesses[0], generator, progress, cuts)
    solution, winner, facts = search(problem, guesses[0], generator, progress)
    solution, more = precisely(winner, solution, generator, progress, problem.settings.planned)
    return to_reconstruction(winner, [solution], (*facts, *more), cuts)


def _by_jacobian(
    problem: GradientMatching,
    first: Solution,
    guess: Mapping[str, Tensor],
    generator: Generator,
    progress: Progress,
    cuts: tuple[Cut, ...],
) -> Reconstruction:
    """The sample that Levenberg-Marquardt has found; else the search, and the same again from where that ends."""
    if first.cut or first.match < SOLVED:
        return to_reconstruction(problem, [first], (BY_JACOBIAN,), cuts)
    total = problem.settings.planned
    left = (total - 2 * first.spent) // problem.settings.restarts
    within = replace(problem.settings, iterations=left)
    share = first.spent / total
    solution, _, facts = search(problem.under(within), guess, generator, progress.share(share, 1 - 2 * share))
    after = progress.share(1 - share, 1)  # it counts its steps by those of the whole
    again = None if solution.cut else levenberg_marquardt(problem, solution.values, generator, after)
    found = [first, solution] if again is None else [first, solution, again]
    best = min(found, key=lambda each: each.match)
    facts = facts if best is solution else (*facts, BY_JACOBIAN)
    whole = best_of(found)
    cut = progress.cut(whole.spent, problem.settings.planned) if found[-1].cut else None
    return to_reconstruction(problem, [replace(whole, cut=cut)], facts, cuts)


def refuse_batch_size(target: Target, observation: Observation) -> NotApplicable | None:
    """Why a model with fixed batch sizes cannot be attacked at this one, or ``None``."""
    if target.batch_sizes is not None and observation.batch_size not in target.batch_sizes:
        sizes = ", ".join(map(str, target.batch_sizes))
        return NotApplicable(f"the model file takes batches of {sizes} only: pass --batch-size accordingly")
    return None
