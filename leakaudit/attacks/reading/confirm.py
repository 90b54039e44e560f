"""From samples read off the first layer to a reconstruction: labels, confirmation, and honest bookkeeping of the rest.

A sample alone has the first-layer error ``δ(x, y) = ∂ℓ/∂z`` for each possible label. Its term of the update is known
once it was read, so the label is the one whose error agrees, and a sample for which none agrees is not a sample. This
needs the update's forward pass: with unknown dropout masks errors only rank the labels, and confirmation rests on the
algebra of the attack that read the sample.

A sample that the batch holds m times, drawn with replacement or oversampled, has m times that error: the multiplicity
is the whole number whose multiple agrees, and the reconstruction holds the sample as often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from leakaudit.attacks.base import relative_residual
from leakaudit.attacks.certificate import certify, tolerance_of
from leakaudit.attacks.labels.behind import label_of, labels_behind, solvable
from leakaudit.attacks.reading.first_layer import Entry, masks_unknown, mid_grey, probe_batch
from leakaudit.attacks.reading.steps import ends, regenerable
from leakaudit.matching.objective import CosineDistance
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.target import Target

ALL_CLASSES = 20
"""Up to this number of classes every label is tried, above it only those inferred from the update; chosen for time."""


@dataclass(frozen=True, eq=False)
class Recovered:
    """Samples that were read off an update.

    Args:
        images: (k, C, H, W) in normalised space.
        labels: (k, *label_shape).
        confirmed: Whether each is confirmed (k,), as far as it was read.
        entries: The entries (C, H, W) that were read, where the model reads others too; ``None`` where these are all.
    """

    images: Tensor
    labels: Tensor
    confirmed: Tensor
    entries: Tensor | None = None

    def repeated(self, counts: Tensor) -> Recovered:
        """Each sample as often as it occurs in the batch, by its count (k,)."""
        return Recovered(
            self.images.repeat_interleave(counts.to(self.images.device), 0),
            self.labels.repeat_interleave(counts.to(self.labels.device), 0),
            self.confirmed.repeat_interleave(counts),
            self.entries,
        )


@dataclass(frozen=True, eq=False)
class Matched:
    """Labels of read samples.

    Args:
        labels: (k, *label_shape).
        mismatch: How badly each sample's error fits, relative; 0 is perfect (k,).
        counts: How often the batch holds each (k,); 1 where errors do not tell.
    """

    labels: Tensor
    mismatch: Tensor
    counts: Tensor


def candidate_classes(target: Target, observation: Observation) -> list[int]:
    """The labels worth trying for one sample."""
    if target.classes <= ALL_CLASSES or observation.labels is None:
        return list(range(target.classes))
    return sorted(set(hard_labels(observation)))


def hard_labels(observation: Observation) -> list[int]:
    """The inferred classes, of a soft label the one with the largest share; empty where none were inferred."""
    labels = observation.labels
    return [] if labels is None else (labels.argmax(1) if labels.dim() == 2 else labels).tolist()


def with_shares(observation: Observation, labels: Tensor) -> Tensor:
    """Class indices (B,) as the inferred soft labels (B, K) that have these classes, where there are such."""
    soft = observation.labels
    if soft is None or soft.dim() == 1 or not torch.equal(soft.argmax(1).cpu(), labels.cpu()):
        return labels
    return soft.to(labels.device)


def class_errors(
    target: Target, entry: Entry, image: Tensor, classes: Sequence[int], observation: Observation | None = None
) -> Tensor:
    """First-layer error ∂ℓ/∂z (len(classes), m) of one image (C, H, W) under each label; needs the layer's bias.

    A class that an `observation` of one sample has inferred softly is taken with the shares of the others. Of several
    local steps it is the mean of the errors at both ends.
    """
    if entry.bias is None:
        raise ValueError(f"{entry.weight} has no bias: its error is not a gradient of the update")
    inputs = probe_batch(target, image)
    weights = [None] if observation is None else ends(target, observation)
    errors = []
    for label in classes:
        one = torch.tensor([label], device=inputs.device)
        labels = (one if observation is None else with_shares(observation, one)).repeat_interleave(len(inputs), 0)
        found = [gradient_of(target, inputs, labels, parameters=at)[entry.bias].reshape(-1) for at in weights]
        errors.append(torch.stack(found).mean(0))
    return torch.stack(errors)


def own_errors(target: Target, entry: Entry, images: Tensor, classes: Sequence[int]) -> Tensor:
    """First-layer errors ∂ℓ/∂z (P, len(classes), m) of images (P, *shape) under each label, all in one pass.

    One by one for a model that takes no single samples, or that `torch.func.vmap` cannot follow.
    """
    if entry.bias is None:
        raise ValueError(f"{entry.weight} has no bias: its error is not a gradient of the update")
    parameters = {name: tensor.detach() for name, tensor in target.parameters.items()}
    labels = torch.tensor(list(classes), device=images.device)

    def loss(bias: Tensor, image: Tensor, label: Tensor) -> Tensor:
        return target.loss(image[None], label[None], {**parameters, str(entry.bias): bias})

    if target.batch_sizes is None or 1 in target.batch_sizes:
        over_labels = torch.func.vmap(torch.func.grad(loss), (None, None, 0))
        try:
            found: Tensor = torch.func.vmap(over_labels, (None, 0, None))(parameters[entry.bias], images, labels)
            return found.detach().reshape(len(images), len(classes), -1)
        except RuntimeError:  # an operator without a rule for batches
            pass
    return torch.stack([class_errors(target, entry, image, classes) for image in images])


def match_labels(target: Target, observation: Observation, entry: Entry, images: Tensor, errors: Tensor) -> Matched:
    """The label of each read sample, how badly its error fits, and how often it occurs.

    The scale of the errors says nothing where the client clips, and little after several local steps.

    Args:
        target: The model.
        observation: For the candidates, and the label counts where masks are unknown.
        entry: The first layer.
        images: (k, C, H, W).
        errors: Each sample's error in the update, times the batch size (k, m); ``nan`` where it was not read.
    """
    if target.task.label_shape:
        return _match_rows(target, entry, images, errors)
    classes = candidate_classes(target, observation)
    mismatch = torch.empty(len(images), len(classes), dtype=torch.float64)
    counts = torch.ones(len(images), len(classes), dtype=torch.long)
    hidden = masks_unknown(target, observation)
    unscaled = observation.rescaled or not observation.protocol.one_gradient
    for i, (image, error) in enumerate(zip(images, errors, strict=True)):
        read = torch.isfinite(error)
        seen = error[read].double()
        predicted = class_errors(target, entry, image, classes, observation)[:, read].double()
        if unscaled and not hidden:  # the angle between them, which is their difference where it is small
            cosine = torch.nn.functional.cosine_similarity(predicted, seen[None], dim=1).cpu()
            mismatch[i] = (2 * (1 - cosine)).clamp_min(0).sqrt()
        elif hidden:
            mismatch[i] = 1 - torch.nn.functional.cosine_similarity(predicted, seen[None], dim=1).cpu()
        else:
            times = _multiple(predicted, seen, observation.batch_size)
            mismatch[i] = ((times[:, None] * predicted - seen).norm(dim=1) / seen.norm()).cpu()
            counts[i] = times.long().cpu()
    if hidden and observation.labels is not None and len(images) <= len(observation.labels):
        slots = torch.tensor([classes.index(label) for label in hard_labels(observation) if label in classes])
        chosen = slots[scipy.optimize.linear_sum_assignment(mismatch[:, slots].numpy())[1]]
    else:
        chosen = mismatch.argmin(1)
    rows = torch.arange(len(images))
    return Matched(torch.tensor(classes)[chosen], mismatch[rows, chosen], counts[rows, chosen])


def _match_rows(target: Target, entry: Entry, images: Tensor, errors: Tensor) -> Matched:
    """As :func:`match_labels`, for labels that are rows of numbers; each sample counts once."""
    if entry.bias is None:
        raise ValueError(f"{entry.weight} has no bias: its error is not a gradient of the update")
    labels, mismatch = [], []
    for image, error in zip(images, errors, strict=True):
        read, inputs = torch.isfinite(error), probe_batch(target, image)
        if solvable(target, 1):
            labels.append(label_of(target, entry.bias, inputs, error[read], read))
        else:
            labels.append(target.task.probes(1).to(image.device))
        known = labels[-1].expand(len(inputs), *target.task.label_shape)
        predicted = gradient_of(target, inputs, known)[entry.bias].reshape(-1)[read].double()
        mismatch.append(float((predicted - error[read].double()).norm() / error[read].double().norm()))
    ones = torch.ones(len(images), dtype=torch.long)
    return Matched(torch.cat(labels).cpu(), torch.tensor(mismatch, dtype=torch.float64), ones)


def _multiple(predicted: Tensor, seen: Tensor, most: int) -> Tensor:
    """The whole number, 1 to `most`, by which each prediction (classes, m) comes nearest to what was seen (m,)."""
    ratio = (predicted @ seen) / predicted.square().sum(1).clamp_min(1e-300)
    return ratio.round().clamp(1, most)


def best_labels(target: Target, observation: Observation, image: Tensor) -> tuple[Tensor, float]:
    """The label (1, *label_shape) under which the regenerated update of one sample fits best, and its residual."""
    if not target.task.label_shape:
        label, residual = best_label(target, observation, image)
        return torch.tensor([label]), residual
    known = observation.labels if observation.labels is not None else target.task.probes(1).to(image.device)
    known = known if (own := target.task.of_inputs(image)) is None else own
    residual = relative_residual(target, observation, Play(image, known))
    if residual <= 1e-5 or not solvable(target, 1):
        return known.cpu(), residual
    labels = labels_behind(target, observation, image)
    found = relative_residual(target, observation, Play(image, labels))
    return (labels.cpu(), found) if found < residual else (known.cpu(), residual)


def best_label(target: Target, observation: Observation, image: Tensor) -> tuple[int, float]:
    """The class under which the regenerated update fits best, and its residual; the inferred one is tried first."""
    given = hard_labels(observation)
    best = (0, float("inf"))
    for label in [*given, *(c for c in candidate_classes(target, observation) if c not in given)]:
        play = Play(image, with_shares(observation, torch.tensor([label], device=image.device)))
        residual = relative_residual(target, observation, play)
        if residual < best[1]:
            best = (label, residual)
        if residual <= tolerance_of(observation) / 10:
            break
    return best


def assemble(target: Target, observation: Observation, found: Recovered, how: str) -> Reconstruction:
    """A reconstruction with a row per sample of the batch: the confirmed samples first, then others, then mid-grey.

    ``exact`` is set only if all samples of the batch are confirmed and, where the update can be regenerated, the
    certificate says so too.
    """
    order = torch.argsort(~found.confirmed, stable=True)[: observation.batch_size]
    reference = next(iter(observation.update.values()))
    inputs = mid_grey(observation, reference)
    labels = with_shares(observation, fill_labels(target, found.labels[order], observation, reference.device))
    inputs[: len(order)] = found.images[order.to(found.images.device)].to(inputs)
    count = int(found.confirmed[order].sum())
    exact = count == observation.batch_size and found.entries is None
    if exact and regenerable(target, observation):
        inside = Play(observation.domain.project(inputs), labels)
        exact = certify(target, observation, inside, uniqueness=False).exact
    gradients = observation.regenerate(target, Play(inputs, labels))
    distance = CosineDistance(tuple(observation.update.values()))
    match = float(distance([gradients[name] for name in observation.update]))
    notes: tuple[str, ...] = (_note(count, len(order), observation.batch_size, how),)
    read = None
    if found.entries is not None:
        read = torch.zeros(inputs.shape, dtype=torch.bool, device=inputs.device)
        read[:count] = found.entries.to(inputs.device)
        part = f"{int(found.entries.sum())} of {found.entries.numel()} entries of "
        notes = (part + notes[0], "What the other entries hold is the start, not a result.")
    sure = torch.arange(len(inputs)) < count
    return Reconstruction(
        inputs=inputs, labels=labels, match=match, exact=exact, notes=notes, read=read, confirmed=sure
    )


def _note(count: int, shown: int, size: int, how: str) -> str:
    note = f"{count} of {size} samples recovered exactly and confirmed ({how})"
    if 0 < count < size:
        note += f": rows 1 to {count}"
    if shown > count:
        note += f"; rows {count + 1} to {shown} were read but not confirmed"
    return note + ("; the other rows are the start, not a result" if shown < size else "")


def fill_labels(target: Target, known: Tensor, observation: Observation, device: torch.device) -> Tensor:
    """Labels (B, *label_shape): the known ones first, then what is left of the inferred labels."""
    if target.task.label_shape:
        rows = torch.zeros_like(target.task.probes(observation.batch_size))
        rows = rows if observation.labels is None else observation.labels.cpu()
        return torch.cat([known.to(rows), rows[len(known) :]]).to(device) if len(known) else rows.to(device)
    inferred = hard_labels(observation) or [0] * observation.batch_size
    left = list((Counter(inferred) - Counter(known.tolist())).elements())
    missing = observation.batch_size - len(known)
    rest = (left + inferred)[:missing]
    return torch.tensor([*known.tolist(), *rest], dtype=torch.long, device=device)
