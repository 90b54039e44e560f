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

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import JOINT, Attack, relative_residual
from leakaudit.attacks.certificate import tolerance_of
from leakaudit.attacks.linear import first_layer_or_reason
from leakaudit.attacks.reading.columns import POWERS, distinct, entangled, select, sparsify, starts
from leakaudit.attacks.reading.confirm import Recovered, assemble, match_labels, with_shares
from leakaudit.attacks.reading.factors import Factors, disaggregate, factorize
from leakaudit.attacks.reading.first_layer import Entry, masks_unknown, mid_grey, probe_batch
from leakaudit.attacks.reading.noise import noise_share
from leakaudit.attacks.reading.one_sample import covered
from leakaudit.attacks.reading.steps import Weights, ends, regenerable
from leakaudit.document.counting import count
from leakaudit.document.status import Cut, Lost
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, cause_of
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS

NOISY_RESIDUAL = 1.2
"""Times the expected norm of the noise that a regenerated update may miss: chosen, far above its fluctuation."""
FIRST_STARTS = 64
"""Starts of the first round for small batches, where nearly every start ends in a sample; chosen for time."""
MINIMUM_SUPPORT = 8
"""Active units that a sample needs for its pattern to be evidence; chosen: eight signs agree by chance once in 256."""
ACCURACY = 1e-3
"""Largest relative rounding noise of the weakest sample for a result that may be called exact; chosen, as in
`benchmarks/exact_readings.py`."""
BETWEEN_SHARE = 0.3
"""Units, as a share of all with an error, that may have been active between the ends of the training only; chosen,
where a fifth was seen (`benchmarks/results/local_readers.md`) and half is chance."""
ABSENT_SHARE = 0.15
"""Units, as a share of all with an error, that may be active at both ends and without an error; chosen, where a
tenth was seen (`benchmarks/results/local_readers.md`) and half is chance."""
SILENT_SHARE = 0.05
"""Active units, as a share of all, whose error may be too small to be told from zero; chosen, not measured."""


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


class Spear(Attack):
    """Exact batch recovery from low rank and sparsity."""

    name: ClassVar[str] = "spear"
    title: ClassVar[str] = "SPEAR (exact batch recovery)"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA204"
    needs: ClassVar[str] = "a fully connected layer with bias and ReLU directly on the input, batch up to about 25"
    reference: ClassVar[str] = (
        "Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches, NeurIPS 2024, arXiv 2403.03945"
    )
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 15
    told: ClassVar[tuple[str, ...]] = ("local_epochs", "local_batch_size")  # what weights are rounded by
    reads: ClassVar[tuple[str, ...]] = JOINT
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = ("dp", "int", "accumulate", "clients", "share", "soteria", "dropout")
    sum_of_gradients: ClassVar[bool] = True
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
        result = assemble(
            target, observation, found, f"low rank and sparsity of {entry.weight}, {count(rounds, 'round')}"
        )
        return replace(result, iterations=rounds * self.settings.starts, cuts=cuts)


def relu_follows(target: Target, entry: Entry) -> bool:
    """Whether the layer's error is zero exactly at its negative outputs, on a probe."""
    if entry.bias is None:
        return False
    generator = torch.Generator().manual_seed(0)
    reference = target.parameters[entry.weight].detach()
    image = torch.randn(target.image_shape, generator=generator).to(reference)
    output = _outputs(entry, image[None].double(), target.parameters)[0]
    inputs = probe_batch(target, image)
    label = target.task.probes(1).repeat_interleave(len(inputs), 0).to(inputs.device)
    error = gradient_of(target, inputs, label)[entry.bias].reshape(-1)
    return (
        bool((output > 0).any())
        and bool((output < 0).any())
        and not bool(error[output < 0].any())
        and bool(error.any())
    )


def _outputs(entry: Entry, images: Tensor, weights: Weights) -> Tensor:
    """Outputs (B, m) of the layer in float64 for images (B, C, H, W)."""
    weight = entry.rows(weights).detach().double()
    bias = weights[str(entry.bias)].detach().double().reshape(-1)
    outputs: Tensor = entry.map.operands(images.double()).double() @ weight.T + bias
    return outputs


def pattern_fits(outputs: Tensor, errors: Tensor, noise: float, hidden: bool) -> Tensor:
    """Whether each sample's error is non-zero exactly where its unit is active (with hidden masks: only where).

    Over several local steps a unit that is active at both ends has an error, and one that is off at both ends has none,
    but for a few that were active in between.

    Args:
        outputs: Layer outputs of the samples at the live rows, at every end of the training (ends, B, m').
        errors: Their errors (B, m').
        noise: Entries of a unit-norm error below this are zero.
        hidden: Whether dropout may have zeroed active units.
    """
    nonzero = errors.abs() > noise * errors.norm(dim=1, keepdim=True)
    doubt = (outputs.abs() <= 1e-3 * outputs.square().mean(2, keepdim=True).sqrt()).any(0)
    off, on = (outputs < 0).all(0) & ~doubt, (outputs > 0).all(0) & ~doubt
    between, silent = (0.0, SILENT_SHARE) if len(outputs) == 1 else (BETWEEN_SHARE, ABSENT_SHARE)
    wrong = (nonzero & off).sum(1) > between * nonzero.sum(1)
    if not hidden:  # an active unit may have a small error by chance, an inactive one has none
        wrong |= (~nonzero & on).sum(1) > silent * nonzero.sum(1)
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
            power = POWERS[(number - 1) % len(POWERS)]
            directions = torch.cat([pool, sparsify(factors.left, directions, settings.steps, power)])
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
    outputs = torch.stack([_outputs(entry, images, at)[:, factors.rows] for at in ends(target, observation)])
    pattern = pattern_fits(outputs, errors, factors.noise, hidden)
    images = images.to(dtype)
    low, high = observation.domain.box(images)
    slack = 1e-2 * (high - low)
    inside = ((images >= low - slack) & (images <= high + slack)).flatten(1).all(1)
    sparsest = observation.protocol.one_gradient or not entangled(errors, factors.noise / factors.margin)
    if not (sparsest and bool((pattern & inside).all())) or covered(target, [entry]) is not None:
        labels = target.task.probes(1).expand(len(images), *target.task.label_shape)  # none was found
        return Recovered(images, labels, torch.zeros(len(images), dtype=torch.bool)), False
    every = torch.zeros((len(images), len(entry.rows(observation.update))), dtype=errors.dtype, device=errors.device)
    every[:, factors.rows] = errors * observation.batch_size
    matched = match_labels(target, observation, entry, images, every)
    found = Recovered(images, matched.labels, torch.ones(len(images), dtype=torch.bool)).repeated(matched.counts)
    noise = noise_share(observation)
    told = not hidden and noise == 0 and observation.protocol.one_gradient
    explained = not told or bool((matched.mismatch <= settings.mismatch).all())
    if len(found.images) != observation.batch_size:
        return replace(found, confirmed=torch.zeros(len(found.images), dtype=torch.bool)), explained
    fits = explained and (noise > 0 or factors.floor <= ACCURACY)
    clipped = observation.rescaled and observation.channel is None  # one by one: unknown scales
    if regenerable(target, observation) and not clipped:
        known = with_shares(observation, found.labels.to(images.device))
        play = Play(found.images.clamp(low, high), known)
        fits &= relative_residual(target, observation, play) <= max(tolerance_of(observation), NOISY_RESIDUAL * noise)
    return replace(found, confirmed=torch.full((len(found.images),), fits and noise == 0)), fits
