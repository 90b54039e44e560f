"""Samples of a batch off the rows of a linear layer that agree: units that one sample alone activates.

A unit that a single sample activates gives the same ratio vector as every other such unit of that sample, so rows are
grouped by agreement of their ratios. A group is a sample only if confirmed, see `leakaudit.attacks.linear`. Of several
layers that each read a part of the input, the combinations of groups are tried, and those are samples whose errors fit
in every layer. Where layers read but a part of what the model reads, no error can be computed, and a group rests on
agreement to floating-point precision, as with unknown dropout masks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.reading.confirm import Matched, Recovered, assemble, match_labels
from leakaudit.attacks.reading.first_layer import Entry, masks_unknown, mid_grey
from leakaudit.attacks.reading.noise import disturbed, spread
from leakaudit.attacks.reading.one_sample import covered, nothing
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.target import Target

MAX_ROWS = 4096
"""Rows of the first layer that are compared with each other, the strongest ones where there are more; chosen for
memory: 134 MB of float64."""

CHANCE_ROWS = 3
"""Rows of a mixture that do not agree to floating-point precision by chance; chosen, and `benchmarks/exact_readings.py`
looks for networks where they do."""

CHANCE = 1e-3
"""Expected groups of several samples below which a group of an update of several steps is one sample; chosen."""

DIVERSITY = 0.02
"""Relative spread of the ratios of rows that two samples share; chosen, of two samples of one class in an untrained
network, whose errors are alike."""

MAX_JOINS = 256
"""Combinations of parts, one of each layer on a slice, that are tried at most; chosen for time: 4 samples in quarters.
"""

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
    """Rows that agree.

    Args:
        rows: Their numbers.
        operand: What they share (n,).
        within: Largest relative distance that was allowed to them.
    """

    rows: Tensor
    operand: Tensor
    within: float = 0.0


def read_batch(
    target: Target, observation: Observation, entries: tuple[Entry, ...], settings: LinearSettings
) -> Reconstruction:
    """The samples of a batch from units of their own; of several layers on parts of the input, put together."""
    missing = covered(target, entries)
    if missing is None and len(entries) > 1:
        return _read_joined(target, observation, entries, settings)
    entry, missing = entries[0], missing if missing is None else entries[0].map.known
    hidden = missing is not None or not _own_known(target, observation)
    empty = nothing(observation, entry)
    if hidden and not _mixtures_disagree(target, entry, settings):
        return assemble(target, observation, empty, "in this network rows of several samples agree as well")
    groups = _groups(observation, entry, settings.strict_agreement if hidden else settings.agreement, settings)
    if not groups:
        return assemble(target, observation, empty, f"no unit of {entry.weight} is active for one sample alone")
    reference = observation.update[entry.weight]
    fill = mid_grey(observation, reference)[0]
    images = entry.map.images(torch.stack([g.operand for g in groups]), fill).to(reference.dtype)
    matched = match_labels(target, observation, entry, images, _errors(observation, entry, groups))
    if hidden:
        confirmed = _agreeing(observation, entry, groups, whole=missing is None)
    else:
        confirmed = _own_errors(observation, entry, groups, matched, settings)
    keep = confirmed.nonzero().flatten()
    sure = confirmed[keep] & _undisturbed(observation, [entry])
    found = Recovered(images[keep.to(images.device)], matched.labels[keep], sure, missing)
    how = f"units of {entry.weight} that one sample alone activates"
    return assemble(target, observation, found.repeated(matched.counts[keep]), how)


def _own_known(target: Target, observation: Observation) -> bool:
    """Whether a sample's own error can be computed: one gradient, without masks that only the client knows."""
    return observation.protocol.one_gradient and not masks_unknown(target, observation)


def _agreeing(observation: Observation, entry: Entry, groups: Sequence[Group], *, whole: bool) -> Tensor:
    """Which groups (k,) hold too many rows to agree by chance; fewer will do for one gradient of a `whole` sample."""
    if not observation.protocol.one_gradient:
        live = int(observation.update[str(entry.bias)].count_nonzero())
        return torch.tensor([by_chance(len(g.rows), live, g.within) <= CHANCE for g in groups])
    return torch.tensor([len(g.rows) >= CHANCE_ROWS or whole for g in groups])


def _own_errors(
    observation: Observation, entry: Entry, groups: Sequence[Group], matched: Matched, settings: LinearSettings
) -> Tensor:
    """Whether each group's rows have the error that its sample causes under some label, once or several times (k,)."""
    bias, wrong = observation.update[str(entry.bias)].reshape(-1), _wrong(observation, entry)
    noise = torch.tensor([wrong * len(g.rows) ** 0.5 / float(bias[g.rows].norm()) for g in groups])
    enough = torch.tensor([len(g.rows) >= CHANCE_ROWS for g in groups])
    several = enough & (int(matched.counts.sum()) <= observation.batch_size)
    own: Tensor = (matched.mismatch <= settings.mismatch + 3 * noise) & ((matched.counts == 1) | several)
    return own


def _wrong(observation: Observation, entry: Entry) -> float:
    """Standard deviation of what is wrong with the layer's gradient; 0 for an exact update."""
    return max(spread(observation, entry.weight), spread(observation, str(entry.bias)))


def _undisturbed(observation: Observation, entries: Sequence[Entry]) -> bool:
    """Whether the client put nothing wrong into the layers' gradients."""
    return not any(disturbed(observation, n) for entry in entries for n in (entry.weight, str(entry.bias)))


def by_chance(rows: int, live: int, within: float) -> float:
    """Groups of so many rows, of all that are not zero, that are expected to agree so far without a sample of their
    own.

    The ratios of rows that several samples share are taken to be spread over `DIVERSITY` of their size, and
    independent.
    """
    return math.comb(live, rows) * (within / DIVERSITY) ** (rows - 1) if within < DIVERSITY else math.inf


def _groups(observation: Observation, entry: Entry, agreement: float, settings: LinearSettings) -> list[Group]:
    groups = group_rows(observation.update, entry, agreement, _wrong(observation, entry))
    return _plausible(groups, entry, observation, settings.minimum_rows)


def _errors(observation: Observation, entry: Entry, groups: Sequence[Group]) -> Tensor:
    """Each group's error, times the batch size (k, m); not a number at rows that are not its own."""
    bias = observation.update[str(entry.bias)].reshape(-1)
    errors = torch.full((len(groups), len(bias)), float("nan"), device=bias.device)
    for error, group in zip(errors, groups, strict=True):
        error[group.rows] = bias[group.rows] * observation.batch_size
    return errors


def _read_joined(
    target: Target, observation: Observation, entries: tuple[Entry, ...], settings: LinearSettings
) -> Reconstruction:
    """Samples of which each layer reads a part: the combinations of parts whose errors fit in every layer."""
    weights = ", ".join(entry.weight for entry in entries)
    how = f"parts read by {weights}, units that one sample alone activates"
    empty = nothing(observation, entries[0])
    if not _own_known(target, observation):
        why = "after several local steps" if observation.protocol.steps > 1 else "with unknown dropout masks"
        return assemble(target, observation, empty, f"{why}, parts of {weights} do not join: no error is known")
    groups = [_groups(observation, entry, settings.agreement, settings) for entry in entries]
    if not all(groups) or prod(map(len, groups)) > MAX_JOINS:
        return assemble(target, observation, empty, f"{how}: {' × '.join(str(len(g)) for g in groups)} of them")
    joined = list(product(*groups))
    reference = observation.update[entries[0].weight]
    images = mid_grey(observation, reference)[:1].double().repeat(len(joined), 1, 1, 1)
    for number, entry in enumerate(entries):
        operands = torch.stack([parts[number].operand for parts in joined])
        images = torch.where(entry.map.known, entry.map.images(operands, images[0]), images)
    images = images.to(reference.dtype)
    confirmed, worst, matched = torch.ones(len(joined), dtype=torch.bool), torch.zeros(len(joined)), None
    for number, entry in enumerate(entries):
        own = [parts[number] for parts in joined]
        found = match_labels(target, observation, entry, images, _errors(observation, entry, own))
        confirmed &= found.mismatch <= settings.mismatch
        if matched is not None:
            confirmed &= (found.labels == matched.labels) & (found.counts == matched.counts)
        matched, worst = found, torch.maximum(worst, found.mismatch.float())
    assert matched is not None
    keep = torch.tensor(_apart(joined, confirmed, worst), dtype=torch.long)
    exact = confirmed[keep] & _undisturbed(observation, entries)
    result = Recovered(images[keep.to(images.device)], matched.labels[keep], exact)
    return assemble(target, observation, result.repeated(matched.counts[keep]), how)


def _apart(joined: Sequence[tuple[Group, ...]], confirmed: Tensor, worst: Tensor) -> list[int]:
    """Confirmed combinations, the best first, none of which uses a part of another."""
    used: set[int] = set()
    kept: list[int] = []
    for i in worst.argsort().tolist():
        parts = {id(part) for part in joined[i]}
        if bool(confirmed[i]) and not parts & used:
            used |= parts
            kept.append(i)
    return kept


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
    size = torch.maximum(rms[:, None], rms[None, :])
    allowed = agreement * size + both
    close = distance <= allowed
    groups, free = [], torch.ones(len(live), dtype=torch.bool, device=live.device)
    while bool(free.any()):
        counts = (close & free[None, :] & free[:, None]).sum(1)
        centre = int(counts.argmax())
        if int(counts[centre]) < 2:
            break
        members = close[centre] & free
        weights = bias[live[members]].double()
        operand = weights @ weight[live[members]].double() / weights.square().sum()
        within = float((allowed / size)[centre][members].max())
        groups.append(Group(live[members], operand, within))
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
    update = gradient_of(target, images, target.task.probes(2).to(images.device))
    truth = entry.map.operands(images).double()
    for group in group_rows(update, entry, settings.strict_agreement):
        distance = float((truth - group.operand).square().mean(1).sqrt().min())
        if len(group.rows) >= CHANCE_ROWS and distance > 1e-3:
            return False
    return True
