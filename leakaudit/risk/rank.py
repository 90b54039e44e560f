"""Rank analysis: how much of its input a model's shared update determines, from the model alone.

Claim. Every segment of the model (`leakaudit.risk.chain`) gets its unknowns, its gradient, weight and virtual
constraints, the paper's count |x| - |G| - |z|, the exact structural rank r̂, and the deficit |x| - r̂; deficits
propagate to the image as RA_prop. Blocks with several paths get an upper bound on their rank (`leakaudit.risk.flow`).
Where shapes do not give the rank, the segment's Jacobian is measured if it is small; otherwise the segment is named
and nothing is claimed about it. With ``jacobian=True`` the whole map from image
to update is measured too (RA_J).

Where layers are not trained, no chain of solved layers need reach the loss: what the update determines is then measured
if that is cheap (`leakaudit.risk.frozen`), and else bounded by the smallest cut of the forward and the backward pass
(`leakaudit.risk.update_flow`), which the notes call "at most".

Levels
    *exact leak*: a biased fully connected layer reads the image off, or every layer is solvable in closed form;
    *identifiable*: the update determines the image locally (RA_prop = 0 or RA_J = 0), some layer alone does not;
    *partially identifiable*: it determines rank of n directions;
    *counts unavailable*: some segment could not be treated.

Score, 0 to 1, higher is more at risk: the mean of two fractions, ``1 - RA/n`` (directions of the image that the
update determines; RA is RA_J where measured, else RA_prop) and ``1 - Σ deficit_i / Σ |x_i|`` over the weighted layers
(how far a layer-by-layer attack gets; where layers are not trained, with what the layers after each leave open). Risk
is high for the first two levels and from a determined share RA/n of 90 %, medium from 30 %, low below. There is no
"safe": a deficit of d of n still gives away n - d directions, and priors fill in the rest.

Fails: r̂ is an upper bound (see `structural`); δ and z are taken as known, which non-convexity denies to weak
optimisers. References: Zhu & Blaschko, "R-GAP", ICLR 2021; the structural rank, RA_prop, RA_seg and the score are
ours.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from leakaudit.risk.chain import segments
from leakaudit.risk.dependence import dependence
from leakaudit.risk.judge import judge
from leakaudit.risk.measure import Measuring
from leakaudit.risk.ranked import RankReport
from leakaudit.target.inventory import layers_and_outputs
from leakaudit.target.kinds import Layer, parameter_users
from leakaudit.target.target import Target
from leakaudit.target.trace import trace, usable_batch_size


def rank_analysis(
    target: Target, *, batch_size: int = 1, jacobian: bool = False, seconds: float | None = None, seed: int = 0
) -> RankReport:
    """Analyse a model. Needs no data.

    Args:
        target: In the mode (train or eval) that the client trains in.
        batch_size: Samples behind one update.
        jacobian: Also measure segments up to 4,000 unknowns and the map from image to update.
        seconds: Time for measurements, 0 for none: 3 by default, 60 with ``jacobian``. Counts alone take a fraction of
            a second.
        seed: Of the random inputs at which ranks are measured.

    Raises:
        TraceError: The model's operators cannot be recorded.
    """
    if target.domain.uncounted:
        return _uncounted(target)
    started = time.perf_counter()
    accepted = target.batch_sizes is None or batch_size in target.batch_sizes
    recorded = trace(target, batch_size=batch_size if accepted else usable_batch_size(target), seed=seed)
    layers, outputs = layers_and_outputs(recorded)
    layers = annotate(layers, target)
    parts = segments(layers, batch_size)
    budget = time.perf_counter() + (seconds if seconds is not None else 60.0 if jacobian else 3.0)
    measuring = Measuring(recorded, outputs, frozenset(target.parameters), jacobian, budget, seed)
    measured = measuring.segments(parts) if recorded.batch_size == batch_size else {}
    spectrum = measuring.whole(target) if jacobian and target.parameters else None
    determined = measuring.determined(target, layers) if recorded.batch_size == batch_size else None
    parts = tuple(replace(p, note=f"{p.note}; {measuring.refused[p.name]}") if p.name in measuring.refused else p
                  for p in parts)  # fmt: skip
    report = judge(parts, batch_size, measured, spectrum, determined)
    found = dependence(target) if seconds != 0 else None
    notes = (*report.notes, found.told) if found is not None and found.told else report.notes
    return replace(report, seconds=time.perf_counter() - started, dependence=found, notes=notes)


def _uncounted(target: Target) -> RankReport:
    """Why there are no counts for such samples, and what the architecture gives away regardless."""
    return RankReport(
        risk="unknown",
        score=None,
        score_reason=target.domain.uncounted,
        level="counts unavailable",
        unknowns=0,
        propagated_deficit=None,
        layers=(),
        notes=target.domain.exposed(target.parameters),
    )


def annotate(layers: tuple[Layer, ...], target: Target) -> tuple[Layer, ...]:
    """Note on each layer which of its tensors are trained, and whether its weight is frozen or used elsewhere too."""
    trainable = target.parameters
    users = parameter_users(layers)
    noted = []
    for layer in layers:
        own = (layer.weight, layer.bias, *layer.settings.get("tensors", ()))
        extra: dict[str, Any] = {"trained": tuple(name for name in own if name in trainable)}
        if layer.weight is not None:
            extra |= {"frozen": layer.weight not in trainable, "shared": len(users[layer.weight]) > 1}
            extra["users"] = users[layer.weight]
            extra["biased"] = layer.bias in trainable
        noted.append(replace(layer, settings=layer.settings | extra))
    return tuple(noted)
