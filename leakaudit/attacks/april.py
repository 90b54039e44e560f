"""APRIL-type reading of transformers: positions give the error of every token, the patch embedding gives the patches.

With patches ``X`` (T, k), tokens ``z = X Eᵀ + b_E + P`` and one sample, the learned position embedding P is shifted by
what shifts z, so ``∂ℓ/∂P = ∂ℓ/∂z =: Z̄`` is in the update, and

.. math:: ∂ℓ/∂E = Z̄^T X \\in R^{d×k}

is a linear system for all patches at once, with a unique solution when Z̄ has rank T ≤ d. The image follows by putting
the patches back (overlaps are averaged).

APRIL (Lu et al. 2022, arXiv 2112.14087) solves ``Z̄ᵀ z = W_qᵀ G_q + W_kᵀ G_k + W_vᵀ G_v`` in the first attention for z
and inverts the embedding afterwards. That identity needs an attention without normalisation and without skip
connection in front of it, as ``∂ℓ/∂z`` has further terms otherwise. The system used here stops before the attention,
so LayerNorm, skip connections and dropout behind the position embedding do not matter. What is lost is the case of a
frozen patch embedding.

Over local steps of SGD the patches stay what they are, so both sides add up over the steps and the system stays as
it is.

Through known noise only the directions of Z̄ that are more than noise are inverted.

Both tensors are found by what they do on a probe, not by name. Fails for more than one sample (the sum of products
does not separate), positions that are fixed or rotary, T > d, and networks whose errors at the tokens have rank below T
(a single block read out at one token); what is then recovered is the minimum-norm solution, and marked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.certificate import tolerance_of
from leakaudit.attacks.reading.confirm import Recovered, assemble, best_labels
from leakaudit.attacks.reading.first_layer import Entry, find_entries, like, masks_unknown, mid_grey, probe_batch
from leakaudit.attacks.reading.noise import disturbed, rank_limit, spread
from leakaudit.attacks.reading.one_sample import covered
from leakaudit.attacks.reading.repeated import as_one, one_repeated, repeated
from leakaudit.observation import Observation, ThreatModel
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.names import TASKS

IDENTITY_TOLERANCE = 1e-3
"""Relative misfit of ``∂ℓ/∂E = Z̄ᵀ X`` on the probe below which two tensors are taken as embedding and positions;
chosen, far above the 1e-7 that float32 leaves (`benchmarks/results/april.md`)."""
ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-6}
"""Singular values below this share of the largest are rounding noise, by the update's type: 450 and 8 times its
precision."""


@dataclass(frozen=True, kw_only=True)
class AprilSettings:
    """Settings of APRIL.

    Args:
        misfit: Largest relative residual of the linear system for a confirmed result; chosen, where float32 leaves 1e-7
            (`benchmarks/results/april.md`).
    """

    misfit: float = 1e-4

    def __post_init__(self) -> None:
        if self.misfit <= 0:
            raise ValueError(f"misfit must be positive, got {self.misfit}")


@dataclass(frozen=True, eq=False)
class Patches:
    """A patch embedding with its learned positions.

    Args:
        entry: The embedding, a convolution or a linear layer on patches.
        position: Name of the position embedding.
        swapped: Whether it is stored as (d, T).
        offset: Positions before the first patch (class token).
        count: Patches T.
    """

    entry: Entry
    position: str
    swapped: bool
    offset: int
    count: int

    def errors(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Z̄ᵀ (d, T): the gradient with respect to the positions of the patches."""
        width = embedding_rows(self.entry, tensors).shape[0]
        flat = tensors[self.position]
        rows = flat.reshape(width, -1) if self.swapped else flat.reshape(-1, width).T
        return rows[:, self.offset : self.offset + self.count]


def embedding_rows(entry: Entry, tensors: Mapping[str, Tensor]) -> Tensor:
    """The patch embedding, or its gradient, as (d, k)."""
    tensor = entry.rows(tensors)
    return tensor.reshape(len(tensor), -1)


def _geometry(entry: Entry) -> dict[str, Any]:
    """Stride, padding and dilation of a convolution, as `unfold` takes them."""
    return {name: tuple(entry.arguments[i]) for name, i in (("stride", 3), ("padding", 4), ("dilation", 5))}


def to_patches(entry: Entry, image: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Patches (T, k) of one image (C, H, W) as the embedding sees them."""
    operand = entry.map.operands(image[None]).view(1, *entry.map.shape)
    if entry.kind == "linear":
        return operand.reshape(-1, entry.map.shape[-1])
    return F.unfold(operand, kernel[-2:], **_geometry(entry))[0].T


def from_patches(entry: Entry, patches: Tensor, kernel: tuple[int, ...], fill: Tensor) -> Tensor:
    """The image (1, C, H, W) of patches (T, k); overlaps are averaged, unseen pixels taken from `fill` (C, H, W)."""
    if entry.kind == "linear":
        return entry.map.images(patches.reshape(1, -1), fill)
    size, geometry = entry.map.shape[-2:], _geometry(entry)
    total = F.fold(patches.T[None], size, kernel[-2:], **geometry)
    count = F.fold(torch.ones_like(patches.T)[None], size, kernel[-2:], **geometry)
    background = entry.map.operands(fill.to(patches)[None]).view_as(total)
    return entry.map.images(torch.where(count > 0, total / count.clamp_min(1), background), fill)


def find_patches(target: Target) -> Patches | None:
    """The patch embedding and position embedding for which ``∂ℓ/∂E = Z̄ᵀ X`` holds on a random image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(target.image_shape, generator=generator).to(like(target))
    inputs = probe_batch(target, image)
    gradients: Mapping[str, Tensor] | None = None
    for entry in find_entries(target, generator):
        if entry.kind == "linear" and len(entry.map.shape) != 2:
            continue
        if entry.kind == "convolution" and (entry.arguments[6] or entry.arguments[8] != 1):
            continue
        label = target.task.probes(1).repeat_interleave(len(inputs), 0).to(inputs.device)
        gradients = gradients or gradient_of(target, inputs, label)
        patches = to_patches(entry, image, tuple(gradients[entry.weight].shape))
        found = _find_position(entry, gradients, patches)
        if found is not None:
            return found
    return None


def _find_position(entry: Entry, gradients: Mapping[str, Tensor], patches: Tensor) -> Patches | None:
    product = embedding_rows(entry, gradients)
    width, count = len(product), len(patches)
    for name, gradient in gradients.items():
        places, rest = divmod(gradient.numel(), width)
        if name == entry.weight or rest or places < count or gradient.dim() < 2:
            continue
        for swapped in (False, True):
            for offset in sorted({0, places - count}):
                found = Patches(entry, name, swapped, offset, count)
                misfit = float((found.errors(gradients) @ patches - product).norm() / product.norm())
                if misfit <= IDENTITY_TOLERANCE:
                    return found
    return None


class April(Attack):
    """Reads the patches of one image from a transformer's position and patch embeddings."""

    name: ClassVar[str] = "april"
    title: ClassVar[str] = "APRIL (patches from the position embedding)"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA203"
    needs: ClassVar[str] = "a transformer with learned positions added to a trained patch embedding; batch 1"
    reference: ClassVar[str] = (
        "Lu et al., APRIL: Finding the Achilles' Heel on Privacy for Vision Transformers, CVPR 2022"
    )
    soft_labels: ClassVar[bool] = True
    cost: ClassVar[int] = 12
    tasks: ClassVar[tuple[str, ...]] = TASKS
    adapts: ClassVar[tuple[str, ...]] = ("dp", "int", "share", "soteria", "precode", "dropout")
    sum_of_gradients: ClassVar[bool] = True
    presets: ClassVar[dict[str, AprilSettings]] = {
        "quick": AprilSettings(),
        "standard": AprilSettings(),
        "paper": AprilSettings(),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs one sample, and both embeddings in the update."""
        found = find_patches(target)
        if found is None:
            return NotApplicable("no learned position embedding is added to a patch embedding of the input")
        if observation.batch_size != 1 and one_repeated(target, observation):
            return self.applies(target, as_one(observation))
        if observation.batch_size != 1:
            return NotApplicable(f"batch of {observation.batch_size}: position gradients of several samples are summed")
        if observation.one_bit or observation.pruned:
            done = "signed" if observation.one_bit else "pruned"
            return NotApplicable(f"{found.position} is {done}: errors and patches no longer satisfy one linear system")
        for name in (found.entry.weight, found.position):
            if name not in observation.update:
                return NotApplicable(f"{name} is not part of the update")
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Solve for the patches and put them back."""
        if observation.batch_size != 1:
            return repeated(self.run(target, as_one(observation), generator, monitor), observation.batch_size)
        found = find_patches(target)
        if found is None:
            raise ValueError("APRIL needs a patch embedding with learned positions: ask `applies` first")
        entry, update = found.entry, observation.update
        dtype = update[entry.weight].dtype
        product, errors = embedding_rows(entry, update).double(), found.errors(update).double()
        noise = spread(observation, found.position) * rank_limit(*errors.shape)
        rounding = max(ROUNDING.get(dtype, 1e-3), noise / float(torch.linalg.matrix_norm(errors, 2).clamp_min(1e-300)))
        patches, rank, condition, misfit = solve_patches(errors, product, rounding)
        fill = mid_grey(observation, patches)[0]
        image = from_patches(entry, patches, tuple(update[entry.weight].shape), fill).to(dtype)
        labels, residual = best_labels(target, observation, image)
        complete = rank == found.count and covered(target, [entry]) is None and len(product) > found.count
        exact = max(self.settings.misfit, tolerance_of(observation, entry.weight, found.position))
        confirmed = disturbed(observation, found.position) == 0 and complete and misfit <= exact
        if not masks_unknown(target, observation):
            confirmed = confirmed and residual <= max(10 * self.settings.misfit, tolerance_of(observation))
        how = (
            f"{found.position} and {entry.weight}: rank {rank} for {found.count} patches, "
            f"condition {condition:.1e}, misfit {misfit:.1e}"
        )
        if rank < found.count:
            how += "; minimum-norm solution"
        result = Recovered(image, labels, torch.tensor([confirmed]))
        return assemble(target, observation, result, how)


def solve_patches(errors: Tensor, product: Tensor, rounding: float) -> tuple[Tensor, int, float, float]:
    """Least-squares patches of ``Z̄ᵀ X = ∂ℓ/∂E`` of minimum norm.

    Args:
        errors: Z̄ᵀ (d, T).
        product: ∂ℓ/∂E (d, k).
        rounding: Relative singular values to leave out.

    Returns:
        Patches (T, k), the rank of Z̄, its condition number within that rank, and the relative misfit.
    """
    left, singular, right = torch.linalg.svd(errors, full_matrices=False)
    rank = int((singular > rounding * singular[0]).sum()) if bool(singular.any()) else 0
    if rank == 0:
        return product.new_zeros((errors.shape[1], product.shape[1])), 0, math.inf, 1.0
    patches = right[:rank].T @ ((left[:, :rank].T @ product) / singular[:rank, None])
    misfit = float((errors @ patches - product).norm() / product.norm().clamp_min(1e-300))
    return patches, rank, float(singular[0] / singular[rank - 1]), misfit
