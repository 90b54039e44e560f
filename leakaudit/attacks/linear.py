"""First-layer reader: a fully connected layer on the input writes its samples into the update.

With ``z = W u + b`` and the error ``δ_i = ∂ℓ/∂z`` of sample i,

.. math:: ∂ℓ/∂W_j = \\sum_i δ_{ij} u_i, \\qquad ∂ℓ/∂b_j = \\sum_i δ_{ij}

One sample: ``u = ∂ℓ/∂W_j / ∂ℓ/∂b_j`` for any live unit j, whatever follows the layer (Phong et al. 2018; all rows are
used, by least squares). Without a bias, ``∂ℓ/∂W`` has rank one and its right singular vector is u up to scale and sign,
which the valid pixel range bounds and the regenerated update fixes.

A batch: a unit that a single sample activates gives the same ratio vector as every other such unit of that sample, so
rows are grouped by agreement of their ratios. ReLU makes such units, and dropout makes more of them.

A group is a sample only if confirmed: by its own error under some label, which must equal the bias gradient of the
group's rows; or, with unknown dropout masks, by agreement to floating-point precision of enough rows, after a
rehearsal on random images has shown that mixtures do not agree in this network (with one hidden layer and two classes
they do). A biased layer further in gives away its own input in the same way: reported where there is no first one.
Through known noise of standard deviation σ, one sample is the leading singular vector of ``[∂ℓ/∂W | ∂ℓ/∂b] = δ [uᵀ 1]``
(total least squares: the maximum of the likelihood), read only where its singular value is more than noise
(`leakaudit.attacks.reading.noise`); rows of a batch agree if they do up to the noise of their ratios. Of a pruned
update one sample is the matrix of rank one that agrees with the entries that survived. Rounding counts as noise.

Fails for layers of several tokens, for smooth activations without dropout, and where every unit is shared.
Deviation from the first published form (one row, one ratio): least squares over the rows of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from scipy.optimize import minimize_scalar
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack, cpu_generator, relative_residual
from leakaudit.attacks.certificate import RESIDUAL_TOLERANCE
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.attacks.reading.confirm import Recovered, assemble, best_label, match_labels
from leakaudit.attacks.reading.first_layer import Entry, find_linear, masks_unknown, mid_grey
from leakaudit.attacks.reading.noise import rank_limit, spread
from leakaudit.attacks.reading.rank_one import complete, leading
from leakaudit.errors import AuditError
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.recursion.graph import exposed
from leakaudit.recursion.plan import record
from leakaudit.target.target import Target

MAX_ROWS = 4096
"""Rows of the first layer that are compared with each other, the strongest ones where there are more; chosen for
memory: 134 MB of float64."""

INNER_MISFIT = 1e-3
"""Largest misfit of an inner layer's update to one outer product at which its input counts as read; rounding to 16 bit
stays below."""

CHANCE_ROWS = 3
"""Rows of a mixture that do not agree to floating-point precision by chance; chosen, and `benchmarks/exact_readings.py`
looks for networks where they do."""

CLEAR = 0.25
"""Noise of a row's ratios, relative to them, up to which rows are compared; beyond, all agree; chosen."""


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """Settings of the first-layer reader.

    Args:
        agreement: Largest rms difference of two ratio vectors of one group, relative to their rms, where the group is
            confirmed by its own error afterwards; chosen, not measured.
        strict_agreement: The same where it cannot be, because dropout masks are unknown; 25 times float32's precision.
        mismatch: Largest relative difference of a group's bias gradient and its sample's own error; chosen.
        minimum_rows: Rows that must agree; two by definition, as one agrees with itself.
    """

    agreement: float = 1e-3
    strict_agreement: float = 3e-6
    mismatch: float = 1e-2
    minimum_rows: int = 2

    def __post_init__(self) -> None:
        for name in ("agreement", "strict_agreement", "mismatch"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.minimum_rows < 2:
            raise ValueError(f"minimum_rows must be at least 2, got {self.minimum_rows}: one row agrees with itself")


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that agree: their numbers, and the operand (n,) that they share."""

    rows: Tensor
    operand: Tensor


def first_layer_or_reason(target: Target, observation: Observation) -> Entry | NotApplicable:
    """The linear layer that reads the input, or why there is none to read."""
    entry = find_linear(target)
    if entry is None:
        return NotApplicable("no fully connected layer reads the input directly (the first layer is something else)")
    if entry.weight not in observation.update:
        return NotApplicable(f"{entry.weight}, the first layer, is not part of the update")
    if target.batch_sizes is not None and observation.batch_size not in target.batch_sizes:
        return NotApplicable(f"the model file does not take batches of {observation.batch_size}")
    if observation.one_bit:
        return NotApplicable(f"only the signs of {entry.weight} are shared, which have neither ratios nor a rank")
    return replace(entry, bias=entry.bias if entry.bias in observation.update else None)


class LinearReader(Attack):
    """Reads the samples off the gradient of a fully connected first layer."""

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "First-layer reader"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA203"
    needs: ClassVar[str] = "a fully connected layer directly on the input; with a bias for batches"
    reference: ClassVar[str] = "Phong et al., Privacy-preserving deep learning via additively HE, IEEE TIFS 2018"
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 5
    adapts: ClassVar[tuple[str, ...]] = (
        "dp", "prune", "int", "accumulate", "clients", "share", "soteria", "precode", "dropout",
    )  # fmt: skip
    one_gradient: ClassVar[bool] = True
    presets: ClassVar[dict[str, LinearSettings]] = {
        "quick": LinearSettings(),
        "standard": LinearSettings(),
        "paper": LinearSettings(),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs a fully connected first layer, and its bias for more than one sample."""
        entry = first_layer_or_reason(target, observation)
        if isinstance(entry, NotApplicable):
            return NotApplicable(entry.reason + _inner_reading(target, observation))
        if entry.bias is None and observation.batch_size > 1:
            return NotApplicable(f"{entry.weight} has no bias: rows of several samples cannot be told apart by ratios")
        if observation.pruned and observation.batch_size > 1:
            return NotApplicable(
                f"{entry.weight} is pruned: rows of several samples have no entries in common to compare"
            )
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Read one sample, or the samples of a batch that have units of their own."""
        entry = first_layer_or_reason(target, observation)
        if isinstance(entry, NotApplicable):
            raise ValueError("the first-layer reader needs a linear first layer: ask `applies` first")
        if observation.batch_size == 1:
            return _read_one(target, observation, entry)
        return _read_batch(target, observation, entry, self.settings)


def _inner_reading(target: Target, observation: Observation) -> str:
    """What a biased layer further in gives away of one sample, read from the update; "" where there is none."""
    if observation.batch_size != 1:
        return ""
    try:
        found = exposed(record(target, observation))
    except AuditError:
        return ""
    if found is None:
        return ""
    if found.misfit > INNER_MISFIT:
        return f"; the update of {found.name}, further in, is not one sample's gradient (misfit {found.misfit:.0e})"
    return (
        f"; {found.name}, further in, gives away its own input: {found.size} values, exact up to {found.misfit:.0e} "
        "(R-GAP goes back from there where every layer before it has an inverse)"
    )


def _read_one(target: Target, observation: Observation, entry: Entry) -> Reconstruction:
    rows = entry.rows(observation.update).double()
    fill = mid_grey(observation, rows)[0]
    if observation.pruned or spread(observation, entry.weight) > 0:
        return _read_inexact(target, observation, entry, rows, fill)
    if entry.bias is not None:
        error = observation.update[entry.bias].reshape(-1).double()
        if not bool(error.any()):
            return _nothing(target, observation, entry, "the first layer's gradient is zero")
        operand = rows.T @ error / error.square().sum()
        misfit = float((rows - error[:, None] * operand).norm() / rows.norm())
        images = entry.map.images(operand[None], fill)
        how = f"∂W/∂b of {entry.weight}, rank-one misfit {misfit:.1e}"
    else:
        _, singular, vectors = torch.linalg.svd(rows, full_matrices=False)
        misfit = float(singular[1:2].sum() / singular[0])
        images, how = _fit_scale(target, observation, entry, vectors[0], fill)
    image = images.to(observation.update[entry.weight].dtype)
    label, residual = best_label(target, observation, image)
    tolerance = RESIDUAL_TOLERANCE[image.dtype]
    algebraic = entry.bias is not None and misfit <= tolerance and bool(entry.map.known.all())
    confirmed = algebraic if masks_unknown(target, observation) else residual <= tolerance
    found = Recovered(image, torch.tensor([label]), torch.tensor([confirmed]))
    return assemble(target, observation, found, how)


def _read_inexact(target: Target, observation: Observation, entry: Entry, rows: Tensor, fill: Tensor) -> Reconstruction:
    """One sample from a layer whose gradient was pruned, rounded or made noisy."""
    bias = None if entry.bias is None else observation.update[entry.bias].reshape(-1).double()
    wrong, wrong_bias = spread(observation, entry.weight), spread(observation, entry.bias or "")
    if observation.pruned:
        rows, bias = complete(rows, bias)  # without noise the survivors are exact, and so is this
    found = leading(rows, bias, wrong, wrong_bias)
    needed = rank_limit(*found.shape)
    if found.strength <= needed:
        how = f"{entry.weight} is not told from its noise: {found.strength:.3g} standard deviations of {needed:.3g}"
        return _nothing(target, observation, entry, how)
    how = f"leading direction of {entry.weight}, {found.strength:.3g} standard deviations of the noise"
    if observation.pruned:
        how = f"the matrix of rank one behind the surviving entries of {entry.weight}"
    if found.operand is not None:
        images = entry.map.images(found.operand[None], fill)
    else:
        images, how = _fit_scale(target, observation, entry, found.direction, fill)
    image = images.to(observation.update[entry.weight].dtype)
    label, residual = best_label(target, observation, image)
    confirmed = observation.noise == 0 and residual <= RESIDUAL_TOLERANCE[image.dtype]
    return assemble(target, observation, Recovered(image, torch.tensor([label]), torch.tensor([confirmed])), how)


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
        return relative_residual(target, observation, Play(image(scale), label))

    if not t_low < t_high:  # rounding may leave an empty range where a pixel is at its bound
        t_low, t_high = min(t_low, t_high) * 1.001, max(t_low, t_high) * 1.001
    grid = torch.linspace(t_low, t_high, 41).tolist()
    best = min(range(len(grid)), key=lambda i: residual(grid[i]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    scale = float(minimize_scalar(residual, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x)
    return image(scale), f"singular vector of {entry.weight}, scale by the regenerated update"


def _labels_by_sign(target: Target, observation: Observation) -> Tensor:
    labels = infer_labels(target, observation, cpu_generator(0)).labels
    return labels.to(next(iter(observation.update.values())).device)


def _nothing(target: Target, observation: Observation, entry: Entry, how: str) -> Reconstruction:
    reference = observation.update[entry.weight]
    empty = Recovered(
        reference.new_empty((0, *observation.domain.shape)),
        torch.empty(0, dtype=torch.long),
        torch.empty(0, dtype=torch.bool),
    )
    return assemble(target, observation, empty, how)


def _read_batch(target: Target, observation: Observation, entry: Entry, settings: LinearSettings) -> Reconstruction:
    hidden = masks_unknown(target, observation)
    if hidden and not _mixtures_disagree(target, entry, settings):
        return _nothing(target, observation, entry, "in this network rows of several samples agree as well")
    agreement = settings.strict_agreement if hidden else settings.agreement
    wrong = max(spread(observation, entry.weight), spread(observation, str(entry.bias)))
    groups = group_rows(observation.update, entry, agreement, wrong)
    groups = _plausible(groups, entry, observation, settings.minimum_rows)
    if not groups:
        return _nothing(target, observation, entry, f"no unit of {entry.weight} is active for one sample alone")
    reference = observation.update[entry.weight]
    fill = mid_grey(observation, reference)[0]
    images = entry.map.images(torch.stack([g.operand for g in groups]), fill).to(reference.dtype)
    errors = torch.full((len(groups), len(entry.rows(observation.update))), float("nan"), device=reference.device)
    bias = observation.update[str(entry.bias)].reshape(-1)
    for error, group in zip(errors, groups, strict=True):
        error[group.rows] = bias[group.rows] * observation.batch_size
    labels, mismatch = match_labels(target, observation, entry, images, errors)
    noise = torch.tensor([wrong * len(g.rows) ** 0.5 / float(bias[g.rows].norm()) for g in groups])
    confirmed = torch.ones(len(groups), dtype=torch.bool) if hidden else mismatch <= settings.mismatch + 3 * noise
    confirmed &= bool(entry.map.known.all())
    keep = confirmed.nonzero().flatten()
    found = Recovered(images[keep.to(images.device)], labels[keep], confirmed[keep] & (wrong == 0))
    return assemble(target, observation, found, f"units of {entry.weight} that one sample alone activates")


def group_rows(update: Mapping[str, Tensor], entry: Entry, agreement: float, noise: float = 0.0) -> list[Group]:
    """Groups of at least two rows whose ratio vectors agree within a relative rms of `agreement`, largest first.

    With noise of a standard deviation on every entry, rows agree that do up to the noise of their ratios, and rows with
    ratios noisier than `CLEAR` are left out.
    """
    weight, bias = entry.rows(update), update[str(entry.bias)].reshape(-1)
    live = bias.abs().argsort(descending=True)[:MAX_ROWS]
    live = live[bias[live] != 0]
    ratios = weight[live].double() / bias[live].double()[:, None]  # (rows, n)
    rms = ratios.square().mean(1).sqrt()
    wrong = noise * (1 + rms.square()).sqrt() / bias[live].double().abs()
    clear = wrong <= CLEAR * rms
    live, ratios, rms, wrong = live[clear], ratios[clear], rms[clear], wrong[clear]
    distance = torch.cdist(ratios, ratios, compute_mode="donot_use_mm_for_euclid_dist") / ratios.shape[1] ** 0.5
    both = (wrong[:, None].square() + wrong[None, :].square()).sqrt() * (1 + 4 / (2 * ratios.shape[1]) ** 0.5)
    close = distance <= agreement * torch.maximum(rms[:, None], rms[None, :]) + both
    groups, free = [], torch.ones(len(live), dtype=torch.bool, device=live.device)
    while bool(free.any()):
        counts = (close & free[None, :] & free[:, None]).sum(1)
        centre = int(counts.argmax())
        if int(counts[centre]) < 2:
            break
        members = close[centre] & free
        weights = bias[live[members]].double()
        operand = weights @ weight[live[members]].double() / weights.square().sum()
        groups.append(Group(live[members], operand))
        free &= ~members
    return groups


def _plausible(groups: list[Group], entry: Entry, observation: Observation, minimum: int) -> list[Group]:
    """Groups of enough rows (a tenth of the largest group's), inside the valid pixel range."""
    low, high = observation.domain.box(next(iter(observation.update.values())))
    needed = max(minimum, len(groups[0].rows) // 10) if groups else minimum
    kept = []
    for group in groups:
        image = entry.map.images(group.operand[None], torch.zeros(entry.map.image_shape))
        slack = 1e-3 * (high - low)
        inside = ((image >= low - slack) & (image <= high + slack))[0][entry.map.known]
        if len(group.rows) >= needed and bool(inside.all()):
            kept.append(group)
    return kept


def _mixtures_disagree(target: Target, entry: Entry, settings: LinearSettings) -> bool:
    """Whether, on two random images of this network, only rows of one image agree: the grouping's own control."""
    generator = cpu_generator(1)
    reference = target.parameters[entry.weight]
    images = torch.randn((2, *target.image_shape), generator=generator).to(reference)
    if target.batch_sizes is not None and 2 not in target.batch_sizes:
        return False
    update = gradient_of(target, images, torch.tensor([0, 1], device=images.device))
    truth = entry.map.operands(images).double()
    for group in group_rows(update, entry, settings.strict_agreement):
        distance = float((truth - group.operand).square().mean(1).sqrt().min())
        if len(group.rows) >= CHANCE_ROWS and distance > 1e-3:
            return False
    return True
