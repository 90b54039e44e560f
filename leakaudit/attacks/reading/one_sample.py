"""One sample off the linear layers that read it: a division, a singular vector, or the most likely direction.

Several layers that each read a slice of the input (halves, quarters, a crop) are put together. What they read between
them may be a part of what the model reads; the part is then claimed as one, if it follows from the algebra alone: with
a bias, from an update of rank one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import scipy
import torch
from torch import Tensor

from leakaudit.attacks.base import cpu_generator, relative_residual
from leakaudit.attacks.certificate import tolerance_of
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.attacks.reading.confirm import Recovered, assemble, best_labels
from leakaudit.attacks.reading.first_layer import Entry, masks_unknown, mid_grey, together
from leakaudit.attacks.reading.noise import disturbed, rank_limit, spread
from leakaudit.attacks.reading.rank_one import complete, leading
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.reconstruction import Reconstruction
from leakaudit.risk.dependence import read_entries
from leakaudit.target.target import Target


@dataclass(frozen=True, eq=False)
class Part:
    """What one layer shows of a sample.

    Args:
        entry: The layer.
        image: The sample (1, C, H, W), filled up with what was known before; ``None`` where the layer shows nothing.
        how: In words.
        algebraic: Whether it follows from the layer's update alone, to rounding.
        scaled: Whether the layer gives the scale.
    """

    entry: Entry
    image: Tensor | None
    how: str
    algebraic: bool = False
    scaled: bool = False


def covered(target: Target, entries: Sequence[Entry]) -> Tensor | None:
    """``None`` where the layers read all that the model reads of a sample, else the entries (C, H, W) they read."""
    known = together(entries)
    return None if bool(known.all()) or bool((known.cpu() | ~read_entries(target)).all()) else known


def needed(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The layers, each of which reads something that those before it do not; the first alone if it reads everything."""
    chosen = [entries[0]]
    for entry in entries[1:]:
        if bool((entry.map.known & ~together(chosen)).any()):
            chosen.append(entry)
    return tuple(chosen)


def read_one(target: Target, observation: Observation, entries: Sequence[Entry]) -> Reconstruction:
    """Read a batch of one sample from the layers on its parts."""
    reference = observation.update[entries[0].weight]
    fill = mid_grey(observation, reference.double())[0]
    parts: list[Part] = []
    for entry in needed(entries):
        parts.append(_part(target, observation, entry, fill))
        if (found := parts[-1].image) is not None:
            fill = found[0].double()
    shown = [part for part in parts if part.image is not None]
    how = "; ".join(part.how for part in parts)
    if not shown:
        return assemble(target, observation, nothing(observation, entries[0]), how)
    image = fill[None].to(reference.dtype)
    labels, residual = best_labels(target, observation, image)
    tolerance = tolerance_of(observation)
    missing = covered(target, [part.entry for part in shown])
    if missing is None or residual <= tolerance:
        algebraic = missing is None and all(part.algebraic for part in shown)
        inexact = observation.noise > 0 or any(disturbed(observation, part.entry.weight) > 0 for part in shown)
        unseen = masks_unknown(target, observation) and not inexact and not observation.pruned
        confirmed = algebraic if unseen else observation.noise == 0 and residual <= tolerance
        return assemble(target, observation, _one(image, labels, confirmed), how)
    claimed = [part for part in shown if part.scaled]
    entries_read = together([part.entry for part in claimed]) if claimed else None
    found_part = replace(_one(image, labels, bool(claimed)), entries=entries_read)
    return assemble(target, observation, found_part, how)


def _one(image: Tensor, labels: Tensor, confirmed: bool) -> Recovered:
    return Recovered(image, labels, torch.tensor([confirmed]))


def nothing(observation: Observation, entry: Entry) -> Recovered:
    """No sample at all."""
    reference = observation.update[entry.weight]
    none = torch.empty(0, dtype=torch.long)
    return Recovered(reference.new_empty((0, *observation.domain.shape)), none, none.bool())


def _part(target: Target, observation: Observation, entry: Entry, fill: Tensor) -> Part:
    rows = entry.rows(observation.update).double()
    if observation.pruned or disturbed(observation, entry.weight) > 0:
        return _inexact(target, observation, entry, rows, fill)
    if entry.bias is None:
        _, _, vectors = torch.linalg.svd(rows, full_matrices=False)
        return Part(entry, *_fit_scale(target, observation, entry, vectors[0], fill))
    error = observation.update[entry.bias].reshape(-1).double()
    if not bool(error.any()):
        return Part(entry, None, f"the gradient of {entry.weight} is zero")
    operand = rows.T @ error / error.square().sum()
    misfit = float((rows - error[:, None] * operand).norm() / rows.norm())
    exact = misfit <= tolerance_of(observation, entry.weight)
    how = f"∂W/∂b of {entry.weight}, rank-one misfit {misfit:.1e}"
    return Part(entry, entry.map.images(operand[None], fill), how, algebraic=exact, scaled=exact)


def _inexact(target: Target, observation: Observation, entry: Entry, rows: Tensor, fill: Tensor) -> Part:
    """From a layer whose gradient was pruned, rounded or made noisy."""
    bias = None if entry.bias is None else observation.update[entry.bias].reshape(-1).double()
    wrong, wrong_bias = spread(observation, entry.weight), spread(observation, entry.bias or "")
    if observation.pruned:
        rows, bias = complete(rows, bias)  # without noise the survivors are exact, and so is this
    found = leading(rows, bias, wrong, wrong_bias)
    least = rank_limit(*found.shape)
    if found.strength <= least:
        how = f"{entry.weight} is not told from its noise: {found.strength:.3g} standard deviations of {least:.3g}"
        return Part(entry, None, how)
    if found.operand is None:
        return Part(entry, *_fit_scale(target, observation, entry, found.direction, fill))
    how = f"leading direction of {entry.weight}, {found.strength:.3g} standard deviations of the noise"
    if observation.pruned:
        how = f"the matrix of rank one behind the surviving entries of {entry.weight}"
    return Part(entry, entry.map.images(found.operand[None], fill), how, scaled=True)


def _fit_scale(
    target: Target, observation: Observation, entry: Entry, direction: Tensor, fill: Tensor
) -> tuple[Tensor, str]:
    """Scale and sign of an operand direction: bounded by the pixel range, fixed by the regenerated update."""
    low, high = (bound.double().expand(observation.domain.shape) for bound in observation.domain.box(direction))
    used = direction.abs() > 1e-9 * direction.abs().max()
    bounds_of_operand = entry.map.operands(torch.stack([low, high]))[:, used]
    ends = bounds_of_operand / direction[used]  # t with t·direction at a pixel's bound
    t_low, t_high = float(ends.min(0).values.max()), float(ends.max(0).values.min())
    dtype = observation.update[entry.weight].dtype

    def image(scale: float) -> Tensor:
        return entry.map.images(scale * direction[None], fill).to(dtype)

    label = observation.labels if observation.labels is not None else _labels_by_sign(target, observation)

    def residual(scale: float) -> float:
        return relative_residual(target, observation, Play(image(scale), label, errors=observation.errors))

    if not t_low < t_high:  # rounding may leave an empty range where a pixel is at its bound
        t_low, t_high = min(t_low, t_high) * 1.001, max(t_low, t_high) * 1.001
    grid = torch.linspace(t_low, t_high, 41).tolist()
    best = min(range(len(grid)), key=lambda i: residual(grid[i]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    scale = float(scipy.optimize.minimize_scalar(residual, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x)
    return image(scale), f"singular vector of {entry.weight}, scale by the regenerated update"


def _labels_by_sign(target: Target, observation: Observation) -> Tensor:
    labels = infer_labels(target, observation, cpu_generator(0)).labels
    return labels.to(next(iter(observation.update.values())).device)
