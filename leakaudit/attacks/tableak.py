r"""TabLeak: rows of a table by gradient matching from many starts, pooled (Vero et al. 2023, arXiv 2210.01785).

1. *Softmax relaxation*: every category is the softmax of free unknowns, every number a sigmoid over its range.
2. *Pooled ensembling*: the cosine distance is minimised by signed Adam from several starts. The rows of each result are
   matched to those of the best one, the lowest distance (Hungarian method), and cells are the median over the starts.
3. *Entropy*: how sure a category is follows from the pooled block p over D levels, without the truth:

.. math:: confidence = 1 + \frac{1}{\log D} \sum_j p_j \log p_j

and of a number from its spread s over the starts, as ``1 - s / (high - low)·√12``, that of a uniform guess being 0.

The presets quick and standard also pull the rows towards the row space of a linear first layer's gradient, in which
every row lies: an addition of ours. On Adult, batch 32, it takes one batch from 68 to 84 per cent of the cells. And
they leave out levels whose entries have no gradient (`leakaudit.attacks.reading.levels`).

Threat model B, and the schema is public. Fails where starts end in different batches: their medians are then no row.
Deviations from the authors' code: the entropy is that of the mean of the softmax over the starts, and the best iterate
of each start by the objective is pooled, not the last. The authors take 30 starts (preset paper), fewer are chosen for
time (`benchmarks/results/tables.md`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import scipy
import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.ig import MATCHING, refuse_batch_size
from leakaudit.attacks.linear import first_layer_or_reason
from leakaudit.attacks.reading.levels import occurring
from leakaudit.attacks.reading.one_sample import covered
from leakaudit.attacks.reading.polytope import row_rank
from leakaudit.domains.base import Domain
from leakaudit.matching.descent import Progress, Solution
from leakaudit.matching.engine import MatchSettings, prepare, solve, to_reconstruction
from leakaudit.matching.priors import Variables
from leakaudit.matching.relaxed import Relaxation, RelaxedMatching
from leakaudit.matching.settings import Schedule
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.target import Target

UNIFORM = math.sqrt(12)
"""Range over standard deviation of a uniform guess, by definition."""


@dataclass(frozen=True, kw_only=True)
class TabLeakSettings(MatchSettings):
    """Settings of TabLeak.

    Args:
        temperature: τ of the softmax.
        row_space: Weight of the distance of the rows from the row space of a linear first layer's gradient, in which
            they lie; an addition of ours, 0 leaves it out. Chosen, see `benchmarks/results/tables.md`.
        occurring: Leave out levels that have no gradient in a layer that reads them (an embedding's rows that were not
            looked up), since no row has them; an addition of ours.

    Defaults: `iterations`, `restarts` and `learning_rate` as in the authors' code of TabLeak (Vero et al. 2023, arXiv
    2210.01785), as is `temperature`; there is no total variation.
    """

    iterations: int = 1500
    restarts: int = 30
    learning_rate: float = 0.06
    tv_weight: float = 0.0
    schedule: Schedule = "constant"
    temperature: float = 1.0
    row_space: float = 0.05
    occurring: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.optimizer == "lbfgs":
            raise ValueError("optimizer must be adam or adamw")


class TabLeak(Attack):
    """Softmax relaxation, pooled starts, entropy."""

    name: ClassVar[str] = "tableak"
    title: ClassVar[str] = "TabLeak"
    threat_model: ClassVar[ThreatModel] = "B"
    reads: ClassVar[tuple[str, ...]] = ("table",)
    needs: ClassVar[str] = "rows of a table, whose columns are known; labels are inferred from the update"
    reference: ClassVar[str] = "Vero et al., TabLeak: Tabular Data Leakage in FL, ICML 2023, arXiv 2210.01785"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 54
    adapts: ClassVar[tuple[str, ...]] = MATCHING
    # paper: as published. quick and standard: chosen for time, see benchmarks/tables.py; compiling a step takes longer
    # than the rest of them.
    presets: ClassVar[dict[str, TabLeakSettings]] = {
        "quick": TabLeakSettings(iterations=600, restarts=4),
        "standard": TabLeakSettings(restarts=8, execution="traced"),
        "paper": TabLeakSettings(row_space=0.0, occurring=False),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs a batch size that the model takes."""
        return refuse_batch_size(target, observation)

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Descend from every start, and pool."""
        blank = replace(observation, start=None)
        plain, guesses, cuts = prepare(target, blank, self.settings, generator, monitor)
        like = next(iter(plain.parameters.values()))
        levels = occurring(target, blank) if self.settings.occurring else None
        relaxation = Relaxation(observation.domain, like, self.settings.temperature, levels)
        space = row_space(target, blank) if self.settings.row_space else None
        priors = [] if space is None else [InRowSpace(space, relaxation, self.settings.row_space)]
        problem = RelaxedMatching(relaxation, target, blank, plain.labels, plain.settings, priors=priors)
        solutions, facts = solve(problem, guesses, generator, Progress(monitor))
        base = to_reconstruction(problem, solutions, facts, cuts)
        results = [relaxation(solution.values["inputs"]) for solution in _ranked(solutions)]
        pooled, sure = pool(observation.domain, results)
        note = (
            f"{len(results)} starts pooled; {float(sure.mean()):.0%} sure of its entries on average, without the truth"
        )
        absent = 0 if levels is None else int((~levels).sum())
        told = (f"{absent} levels of categories have no gradient, so no row has them",) if absent else ()
        return replace(
            base,
            inputs=pooled,
            snapshots=tuple(replace(shot, inputs=relaxation(shot.inputs)) for shot in base.snapshots),
            confidence=sure,
            notes=(*base.notes, note, *told),
        )


def row_space(target: Target, observation: Observation) -> Tensor | None:
    """Orthonormal basis (n + 1 - r, n + 1) of what no row ``[x 1]`` has a part in; ``None`` where the update hides it.

    Needs an exact gradient of a linear layer with bias that reads the whole input as it is, and fewer rows than
    entries.
    """
    entry = first_layer_or_reason(target, observation)
    if isinstance(entry, NotApplicable) or entry.bias is None or not observation.protocol.one_gradient:
        return None
    if observation.pruned or not observation.plain or covered(target, [entry]) is not None:
        return None
    if not torch.equal(entry.map.index, torch.arange(len(entry.map.index), device=entry.map.index.device)):
        return None
    rows = entry.rows(observation.update).double()
    whole = torch.cat([rows, observation.update[entry.bias].reshape(-1, 1).double()], 1)
    _, singular, right = torch.linalg.svd(whole, full_matrices=True)
    rank = row_rank(singular, observation.batch_size)
    outside = right[rank:]
    scaled = torch.cat(
        [
            outside[:, :-1] * entry.map.scale.double(),
            outside[:, -1:] + outside[:, :-1] @ entry.map.shift.double()[:, None],
        ],
        1,
    )
    return scaled.to(observation.update[entry.weight]) if len(outside) else None


class InRowSpace:
    """Mean squared part of the rows outside the row space, times a weight.

    Args:
        outside: From :func:`row_space`.
        relaxation: From unknowns to rows.
        weight: Of the whole term.
    """

    def __init__(self, outside: Tensor, relaxation: Relaxation, weight: float) -> None:
        self.outside, self.relaxation, self.weight = outside, relaxation, weight

    def __call__(self, variables: Variables) -> Tensor:
        """The weighted distance, a scalar."""
        rows = self.relaxation(variables["inputs"])
        flat = rows.reshape(rows.shape[0], -1)
        part = flat @ self.outside[:, :-1].T + self.outside[:, -1]
        return self.weight * part.square().sum(1).mean()


def _ranked(solutions: list[Solution]) -> list[Solution]:
    return sorted(solutions, key=lambda solution: solution.match)


def pool(domain: Domain, results: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The median of several results (B, *shape), each entry's confidence beside it.

    Args:
        domain: Has blocks.
        results: Inputs of every start, the best first, whose order of rows counts.
    """
    low, high = domain.box(results[0])
    span = (high - low).clamp_min(1e-12)
    base = results[0]
    aligned = [base, *(_aligned(base, other, span) for other in results[1:])]
    stacked = torch.stack(aligned)
    sure = (1 - stacked.std(0, correction=0) / span * UNIFORM).clamp(0, 1)
    mean = stacked.mean(0)
    for start, stop in domain.blocks:
        block = mean[..., start:stop].clamp_min(1e-12)
        block = block / block.sum(-1, keepdim=True)
        entropy = -(block * block.log()).sum(-1, keepdim=True) / math.log(max(2, stop - start))
        sure[..., start:stop] = (1 - entropy).clamp(0, 1)
    return stacked.median(0).values, sure


def _aligned(base: Tensor, other: Tensor, span: Tensor) -> Tensor:
    """The rows of a result in the order in which they are nearest to those of another."""
    apart = torch.cdist((base / span).flatten(1), (other / span).flatten(1), p=1)
    _, order = scipy.optimize.linear_sum_assignment(apart.cpu().numpy())
    return other[torch.as_tensor(order, device=other.device)]
