"""SPEAR: every sample of a small batch, exactly, from a Linear+ReLU layer on the input.

Reference: Dimitrov et al. 2024, "SPEAR: Exact Gradient Inversion of Batches in Federated Learning", arXiv 2403.03945.

The gradient of the layer is a product of thin matrices, and ReLU makes one of them sparse:

.. math:: G = ∂ℓ/∂W = Δ^T X, \\quad Δ ∈ R^{B×m} \\text{ (errors)}, \\quad X ∈ R^{B×n} \\text{ (samples)}, \\quad
   Δ_{ij} = 0 \\iff W_j x_i + b_j ≤ 0

A singular value decomposition gives ``G = U S Vᵀ`` of rank B, hence ``Δᵀ = U Q`` up to scale with an unknown B×B
matrix. A column q of Q is recognised by the zeros of ``U q``: about m/2 of them, where a chance direction has B − 1.
With all of Q, ``X`` follows by least squares, and its scale from ``∂ℓ/∂b = Δᵀ 1``.

Samples that the batch holds several times are one row of Δ and of X: the rank is then the number of distinct samples,
and the whole number by which a sample's own error is multiplied says how often it occurs.

The search. Kernels of B − 1 sampled rows of U are the starts; each is improved by ``min ‖U q‖₁`` on the sphere
(iteratively reweighted least squares, many starts at once), and solved once more on the rows that it made zero.
Candidates are taken greedily by their zeros as long as they are independent, and the choice is judged against the whole
sparsity pattern: ``U q`` must be non-zero exactly where the recovered sample activates its unit, for all samples. The
regenerated update has the last word. With dropout, non-zero units must be active; zeros then say nothing (and help, as
Δ is sparser).

Through known noise the rank is the number of singular values that are more than noise, a zero of ``U q`` is an entry
within `KNOWN_MARGIN` standard deviations, and the regenerated update has to agree up to the noise.

Needs m well above 2B, a bias, one token per sample, and B samples with independent gradients. Fails for other
activations, when a sample's loss is so small that its row drowns in rounding, and towards B ≈ 25 for m = 512.
Deviation from the authors' code: they rely on sampling alone, whose cost doubles with every sample; the ℓ1 step finds
the same columns from a start that is only near one, which moves batch 20 from minutes on a GPU to seconds on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack, relative_residual
from leakaudit.attacks.certificate import RESIDUAL_TOLERANCE
from leakaudit.attacks.linear import first_layer_or_reason
from leakaudit.attacks.reading.confirm import Recovered, assemble, match_labels, with_shares
from leakaudit.attacks.reading.first_layer import Entry, masks_unknown, mid_grey, probe_batch
from leakaudit.attacks.reading.noise import live_rows, noise_share, rank_limit, spread, step_of
from leakaudit.attacks.reading.one_sample import covered
from leakaudit.document.status import Cut, Lost
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, cause_of
from leakaudit.target.target import Target

MAX_BATCH = 64
"""Ranks beyond this are not looked for; chosen, above the 25 or so at which the search fails (arXiv 2403.03945)."""
NOISE_MARGIN = 10.0
"""Entries of U q below this many times the rounding noise count as zero; the margin is chosen."""
KNOWN_MARGIN = 4.0
"""The same where the noise is known; chosen: the share of a Gaussian's entries beyond is 6e-5."""
NOISY_RESIDUAL = 1.2
"""Times the expected norm of the noise that a regenerated update may miss: chosen, far above its fluctuation."""
FIRST_STARTS = 64
"""Starts of the first round for small batches, where nearly every start ends in a sample; chosen for time."""
MINIMUM_SUPPORT = 8
"""Active units that a sample needs for its pattern to be evidence; chosen: eight signs agree by chance once in 256."""
ACCURACY = 1e-3
"""Largest relative rounding noise of the weakest sample for a result that may be called exact; chosen, as in
`benchmarks/exact_readings.py`."""
SILENT_SHARE = 0.05
"""Active units, as a share of all, whose error may be too small to be told from zero; chosen, not measured."""
SAME = 1 - 1e-6
"""|cos| above which two candidates are the same column; chosen, an angle of 0.08 degrees."""


@dataclass(frozen=True, kw_only=True)
class SpearSettings:
    """Settings of SPEAR.

    Args:
        starts: Starting directions per round; chosen, not measured.
        rounds: Rounds at most; each continues with the candidates of the earlier ones. Chosen by `bars` of
            `benchmarks/exact_readings.py`.
        steps: Reweighting steps per start; chosen, not measured.
        mismatch: Largest relative difference of a sample's error and the one that its label gives; chosen.
    """

    starts: int = 512
    rounds: int = 40
    steps: int = 40
    mismatch: float = 0.05

    def __post_init__(self) -> None:
        for name in ("starts", "rounds", "steps", "mismatch"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Factors:
    """The layer's gradient as a product: ``G ≈ left · right`` of rank B, live rows only.

    Args:
        left: Orthonormal columns U (m', B).
        gradient: G (m', n).
        bias: ∂ℓ/∂b (m',).
        rows: Row numbers in the layer (m',).
        floor: Rounding noise relative to the weakest sample: the relative accuracy that a sample can be read with.
        margin: How many times the noise still counts as zero.
    """

    left: Tensor
    gradient: Tensor
    bias: Tensor
    rows: Tensor
    floor: float
    margin: float = NOISE_MARGIN

    @property
    def noise(self) -> float:
        """Size of an entry of U q, q of unit norm, that counts as zero."""
        return self.margin * self.floor / math.sqrt(len(self.rows))


class Spear(Attack):
    """Exact batch recovery from low rank and sparsity."""

    name: ClassVar[str] = "spear"
    title: ClassVar[str] = "SPEAR (exact batch recovery)"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA204"
    reads: ClassVar[tuple[str, ...]] = ("images", "table")
    needs: ClassVar[str] = "a fully connected layer with bias and ReLU directly on the input, batch up to about 25"
    reference: ClassVar[str] = (
        "Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches, NeurIPS 2024, arXiv 2403.03945"
    )
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 15
    adapts: ClassVar[tuple[str, ...]] = ("dp", "int", "accumulate", "clients", "share", "soteria", "dropout")
    one_gradient: ClassVar[bool] = True
    # rounds: measured on Linear(3072, 512)+ReLU, see benchmarks/exact_readings.py; quick ends near batch 16.
    presets: ClassVar[dict[str, SpearSettings]] = {
        "quick": SpearSettings(rounds=8),
        "standard": SpearSettings(rounds=40),
        "paper": SpearSettings(rounds=200),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs a biased linear layer on the input, followed by ReLU, with more units than twice the batch."""
        entry = first_layer_or_reason(target, observation)
        if isinstance(entry, NotApplicable):
            return entry
        if entry.bias is None or entry.bias not in observation.update:
            return NotApplicable(f"{entry.weight} has no bias in the update, which the scale of the samples comes from")
        if observation.pruned:
            return NotApplicable(f"{entry.weight} is pruned, which its low rank does not survive")
        if not relu_follows(target, entry):
            return NotApplicable(f"{entry.weight} is not followed by ReLU: its errors are not sparse")
        units = len(entry.rows(target.parameters))
        if units < 2 * observation.batch_size + MINIMUM_SUPPORT:
            return NotApplicable(f"{units} units are too few for a batch of {observation.batch_size}")
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Search columns until the whole sparsity pattern fits."""
        entry = first_layer_or_reason(target, observation)
        if isinstance(entry, NotApplicable):
            raise ValueError("SPEAR needs a linear first layer: ask `applies` first")
        factors, rank = factorize(observation, entry)
        size = observation.batch_size
        if rank > size or rank == 0 or (rank < size and masks_unknown(target, observation)):
            found, why = (
                _none(observation, target),
                f"the gradient of {entry.weight} has rank {rank} for {size} samples",
            )
            return assemble(target, observation, found, why)
        found, rounds, cuts = _search(target, observation, entry, factors, self.settings, generator, monitor)
        result = assemble(target, observation, found, f"low rank and sparsity of {entry.weight}, {rounds} rounds")
        return replace(result, iterations=rounds * self.settings.starts, cuts=cuts)


def relu_follows(target: Target, entry: Entry) -> bool:
    """Whether the layer's error is zero exactly at its negative outputs, on a probe."""
    if entry.bias is None:
        return False
    generator = torch.Generator().manual_seed(0)
    reference = target.parameters[entry.weight].detach()
    image = torch.randn(target.image_shape, generator=generator).to(reference)
    output = _outputs(target, entry, image[None].double())[0]
    inputs = probe_batch(target, image)
    label = torch.zeros(len(inputs), dtype=torch.long, device=inputs.device)
    error = gradient_of(target, inputs, label)[entry.bias].reshape(-1)
    return (
        bool((output > 0).any())
        and bool((output < 0).any())
        and not bool(error[output < 0].any())
        and bool(error.any())
    )


def _outputs(target: Target, entry: Entry, images: Tensor) -> Tensor:
    """Outputs (B, m) of the layer in float64 for images (B, C, H, W)."""
    weight = entry.rows(target.parameters).detach().double()
    bias = target.parameters[str(entry.bias)].detach().double().reshape(-1)
    outputs: Tensor = entry.map.operands(images.double()).double() @ weight.T + bias
    return outputs


def numerical_rank(singular: Tensor) -> int:
    """Rank at the widest gap of singular values (descending) that reaches rounding noise; 0 for a zero matrix."""
    values = singular[: MAX_BATCH + 1].double()
    if float(values[0]) == 0:
        return 0
    values = (values / values[0]).clamp_min(1e-14)
    gaps = values[:-1] / values[1:]
    return int(gaps.argmax()) + 1


def factorize(observation: Observation, entry: Entry) -> tuple[Factors, int]:
    """The factors of the layer's gradient, and its numerical rank: the batch size, or the number of distinct samples.

    Samples that the batch holds several times add to one column of errors; dropout masks make them differ again.
    """
    gradient = entry.rows(observation.update).double()
    rows = live_rows(gradient, observation.noise, step_of(observation, entry.weight))
    limit, gradient = rank_limit(*gradient.shape), gradient[rows]
    if len(rows) == 0:
        return Factors(gradient[:, :0], gradient, gradient[:, 0], rows, 1.0), 0
    # The Gram matrix squares the condition number, which float64 can afford: the data are float32.
    values, vectors = torch.linalg.eigh(gradient @ gradient.T)
    singular, left = values.flip(0).clamp_min(0).sqrt(), vectors.flip(1)
    wrong = spread(observation, entry.weight)
    rank = numerical_rank(singular)
    if wrong > 0:
        rank = int((singular > wrong * limit).sum())
    size = max(1, min(rank, observation.batch_size))
    next_value = float(singular[size]) if size < len(singular) else 0.0
    floor = max(next_value / float(singular[min(size, len(singular)) - 1].clamp_min(1e-300)), 1e-8)
    bias = observation.update[str(entry.bias)].reshape(-1).double()[rows]
    factors = Factors(left[:, :size].contiguous(), gradient, bias, rows, floor)
    if wrong > 0 and rank > 0:
        weakest = wrong * math.sqrt(len(rows)) / float(singular[size - 1])
        factors = replace(factors, floor=weakest, margin=KNOWN_MARGIN)
    return factors, rank


def starts(left: Tensor, found: Tensor, count: int, generator: Generator) -> Tensor:
    """Unit directions (count, B): kernels of B − 1 sampled rows, half of them freed of the columns found so far."""
    rows, size = left.shape
    sampled = torch.rand((count, rows), generator=generator).argsort(1)[:, : size - 1].to(left.device)
    kernels = torch.linalg.qr(left[sampled].transpose(1, 2), mode="complete").Q[:, :, -1]
    if 0 < len(found) < size:
        basis = torch.linalg.qr(found.T).Q
        kernels[::2] -= kernels[::2] @ basis @ basis.T
    directions: Tensor = kernels / kernels.norm(dim=1, keepdim=True)
    return directions


def sparsify(left: Tensor, directions: Tensor, steps: int) -> Tensor:
    """Descend ``‖U q‖₁`` on the unit sphere from many directions (N, B) at once, by reweighted inverse iteration.

    With weights ``w_j = 1 / sqrt((U_j q)² + ε²)`` and ε shrinking, each step solves ``(Uᵀ diag(w) U) q⁺ = q``.
    """
    rows, size = left.shape
    products = (left[:, :, None] * left[:, None, :]).reshape(rows, -1)
    identity = torch.eye(size, dtype=left.dtype, device=left.device)
    for step in range(steps):
        values = directions @ left.T
        width = values.abs().mean(1, keepdim=True) * max(1e-6, 0.3 * 0.7**step)
        weights = (values.square() + width.square()).rsqrt()
        normal = (weights @ products).view(-1, size, size)
        ridge = 1e-12 * normal.diagonal(dim1=1, dim2=2).mean(1)
        factor = torch.linalg.cholesky(normal + ridge[:, None, None] * identity)
        for _ in range(2):
            directions = torch.cholesky_solve(directions[:, :, None], factor)[:, :, 0]
            directions = directions / directions.norm(dim=1, keepdim=True)
    return directions


def count_zeros(left: Tensor, directions: Tensor, noise: float) -> Tensor:
    """Zeros of ``U q`` for each direction (N,)."""
    return ((directions @ left.T).abs() <= noise).sum(1)


def distinct(left: Tensor, directions: Tensor, noise: float) -> Tensor:
    """Directions with more zeros than chance gives, most zeros first, no repetition, solved anew on their zeros."""
    zeros = count_zeros(left, directions, noise)
    enough = zeros >= 2 * left.shape[1]
    directions = directions[enough][zeros[enough].argsort(descending=True)]
    kept: list[Tensor] = []
    while len(directions) > 0:
        first = directions[0]
        directions = directions[1:][(directions[1:] @ first).abs() < SAME]
        null_rows = left[(left @ first).abs() <= noise]
        kept.append(torch.linalg.eigh(null_rows.T @ null_rows).eigenvectors[:, 0])
    return torch.stack(kept) if kept else directions.reshape(0, left.shape[1])


def select(candidates: Tensor, size: int) -> Tensor:
    """The first `size` candidates that are independent of those before them, in order."""
    chosen: list[Tensor] = []
    basis = candidates.new_empty((0, candidates.shape[1]))
    for candidate in candidates:
        rest = candidate - (candidate @ basis.T) @ basis
        rest = rest - (rest @ basis.T) @ basis
        if float(rest.norm()) > 1e-4:
            chosen.append(candidate)
            basis = torch.cat([basis, (rest / rest.norm())[None]])
        if len(chosen) == size:
            break
    return torch.stack(chosen) if chosen else basis


def disaggregate(factors: Factors, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Samples (B, n) and errors (B, m') from all B columns; the scale of each from the bias gradient."""
    directions = factors.left @ columns.T  # (m', B)
    scale = torch.linalg.lstsq(directions, factors.bias[:, None]).solution[:, 0]
    errors = directions * scale
    return torch.linalg.lstsq(errors, factors.gradient).solution, errors.T


def pattern_fits(outputs: Tensor, errors: Tensor, noise: float, hidden: bool) -> Tensor:
    """Whether each sample's error is non-zero exactly where its unit is active (with hidden masks: only where).

    Args:
        outputs: Layer outputs of the samples at the live rows (B, m').
        errors: Their errors (B, m').
        noise: Entries of a unit-norm error below this are zero.
        hidden: Whether dropout may have zeroed active units.
    """
    nonzero = errors.abs() > noise * errors.norm(dim=1, keepdim=True)
    doubt = outputs.abs() <= 1e-3 * outputs.square().mean(1, keepdim=True).sqrt()
    wrong = (nonzero & (outputs < 0) & ~doubt).sum(1) > 0
    if not hidden:  # an active unit may have a small error by chance, an inactive one has none
        silent = (~nonzero & (outputs > 0) & ~doubt).sum(1)
        wrong |= silent > SILENT_SHARE * nonzero.sum(1)
    fits: Tensor = ~wrong & (nonzero.sum(1) >= MINIMUM_SUPPORT)
    return fits


def _none(observation: Observation, target: Target) -> Recovered:
    reference = next(iter(observation.update.values()))
    none = torch.empty(0, dtype=torch.long)
    return Recovered(reference.new_empty((0, *target.image_shape)), none, none.bool())


def _search(
    target: Target,
    observation: Observation,
    entry: Entry,
    factors: Factors,
    settings: SpearSettings,
    generator: Generator,
    monitor: Monitor,
) -> tuple[Recovered, int, tuple[Cut, ...]]:
    size, noise = factors.left.shape[1], factors.noise
    pool = factors.left.new_ones((int(size == 1), size))  # a single sample needs no search
    found = _none(observation, target)
    for number in range(1, settings.rounds + 1):
        if size > 1:
            count = settings.starts if number > 1 else min(settings.starts, max(FIRST_STARTS, size * size))
            directions = starts(factors.left, select(pool, size), count, generator)
            directions = torch.cat([pool, sparsify(factors.left, directions, settings.steps)])
            pool = distinct(factors.left, directions, noise)
        columns = select(pool, size)
        monitor.update(number / settings.rounds, 1 - len(columns) / size)
        if len(columns) == size:
            found, done = _judge(target, observation, entry, factors, columns, settings)
            if done:
                return found, number, ()
        if monitor.should_stop():
            return found, number, (Cut(Lost.ROUNDS, cause_of(monitor), number, settings.rounds),)
    return found, settings.rounds, ()


def _judge(
    target: Target, observation: Observation, entry: Entry, factors: Factors, columns: Tensor, settings: SpearSettings
) -> tuple[Recovered, bool]:
    """Samples of a complete choice of columns, and whether that settles it.

    It does where they explain the update as well as its noise allows, and where each has an error of its own but they
    are too few or too many for the batch: no other choice of columns would change that.

    Confirmed all together or not at all, as a wrong column spoils others; through noise none is.
    """
    operands, errors = disaggregate(factors, columns)
    dtype = observation.update[entry.weight].dtype
    images = entry.map.images(operands, mid_grey(observation, operands)[0])
    hidden = masks_unknown(target, observation)
    pattern = pattern_fits(_outputs(target, entry, images)[:, factors.rows], errors, factors.noise, hidden)
    images = images.to(dtype)
    low, high = observation.domain.box(images)
    slack = 1e-2 * (high - low)
    inside = ((images >= low - slack) & (images <= high + slack)).flatten(1).all(1)
    if not bool((pattern & inside).all()) or covered(target, [entry]) is not None:
        labels = torch.zeros(len(images), dtype=torch.long)
        return Recovered(images, labels, torch.zeros(len(images), dtype=torch.bool)), False
    every = torch.zeros((len(images), len(entry.rows(observation.update))), dtype=errors.dtype, device=errors.device)
    every[:, factors.rows] = errors * observation.batch_size
    matched = match_labels(target, observation, entry, images, every)
    found = Recovered(images, matched.labels, torch.ones(len(images), dtype=torch.bool)).repeated(matched.counts)
    noise = noise_share(observation)
    explained = hidden or noise > 0 or bool((matched.mismatch <= settings.mismatch).all())
    if len(found.images) != observation.batch_size:
        return replace(found, confirmed=torch.zeros(len(found.images), dtype=torch.bool)), explained
    fits = explained and (noise > 0 or factors.floor <= ACCURACY)
    if not hidden and not (observation.rescaled and observation.channel is None):  # clipped one by one: unknown scales
        known = with_shares(observation, found.labels.to(images.device))
        play = Play(found.images.clamp(low, high), known)
        fits &= relative_residual(target, observation, play) <= max(RESIDUAL_TOLERANCE[dtype], NOISY_RESIDUAL * noise)
    return replace(found, confirmed=torch.full((len(found.images),), fits and noise == 0)), fits
