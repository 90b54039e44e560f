"""The private samples as a validated :class:`Batch`; `leakaudit.client.readers` makes one from a file or folder.

Only `leakaudit.client.observe` and `leakaudit.scoring` may hold one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakaudit.document import counting
from leakaudit.errors import BatchError, UsageError


@dataclass(frozen=True, eq=False)
class Batch:
    """Private samples; of a recorded update perhaps nobody has them, and then there are only their number and places.

    Args:
        images: Values of the samples (N, *shape): pixels in 0..1, float32 (N, C, H, W); voxels alike (N, C, D, H, W);
            signals in their unit (N, C, L); token ids, int64 (N, 1, 1, L).
        labels: As the task takes them: class indices, int64 (N,), class probabilities, float32 (N, K), or rows of marks
            or numbers, float32 (N, *label_shape).
        indices: Position of each sample in the file (N,), also of those that nobody has.
        class_names: Names by class index, where the folder gives them.
        path: File or folder.
        sha256: Hash of the file, or of the folder's files in order.
        notes: How the file was read, one sentence each.
        words: Of token ids, the words by id, where the file gives them.
    """

    images: Tensor
    labels: Tensor
    indices: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    path: str | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = field(default=())
    words: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @classmethod
    def unknown(cls, shape: Sequence[int], indices: Sequence[int] = ()) -> Batch:
        """Samples that nobody has.

        Args:
            shape: Of one.
            indices: Their places, one for each that is behind an update.
        """
        return cls(torch.empty((0, *shape)), torch.empty(0, dtype=torch.long), tuple(indices))

    @property
    def known(self) -> bool:
        """Whether the samples are there, to be compared with."""
        return len(self) > 0

    @property
    def classes(self) -> Tensor:
        """Class indices (N,); of soft labels the class with the largest share, of classes by place the commonest."""
        if self.labels.dim() == 1:
            return self.labels
        return self.labels.argmax(1) if self.labels.is_floating_point() else self.labels.flatten(1).mode(1).values

    def subset(self, positions: Sequence[int]) -> Batch:
        """The samples at these positions, in this order."""
        chosen = torch.as_tensor(list(positions), dtype=torch.long)
        return Batch(
            images=self.images[chosen],
            labels=self.labels[chosen],
            indices=tuple(self.indices[i] for i in positions),
            class_names=self.class_names,
            words=self.words,
        )

    def draw(self, count: int, size: int, seed: int) -> list[Batch]:
        """`count` disjoint batches of `size` samples, chosen by `seed`.

        Raises:
            UsageError: The file holds fewer than ``count * size`` samples.
        """
        if count * size > len(self):
            raise UsageError(
                f"{counting.count(count, 'victim')} of {counting.count(size, 'sample')} need {count * size} samples, "
                f"the batch file has {len(self)}",
                "lower --victims or --batch-size, or give a larger file",
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        return [self.subset(order[i * size : (i + 1) * size]) for i in range(count)]


def unlike(samples: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Those of the samples (N, *shape) that equal none of the others, each (M, *shape), nor one before them.

    Values in 0..1 throughout are compared at 8 bits, as pixels; others exactly.
    """
    eight_bits = _at_eight_bits(samples, *others)
    seen = {_hash(sample, eight_bits) for part in others for sample in part}
    kept: list[int] = []
    for position, sample in enumerate(samples):
        name = _hash(sample, eight_bits)
        if name not in seen:
            seen.add(name)
            kept.append(position)
    return samples[kept]


def refuse_overlap(auxiliary: Tensor, private: Batch) -> None:
    """Refuse public samples that also occur in the private batch: the attacker would hold the answer.

    Raises:
        BatchError: A sample occurs in both, compared as by :func:`unlike`.
    """
    eight_bits = _at_eight_bits(auxiliary, private.images)
    known = {_hash(sample, eight_bits) for sample in auxiliary}
    shared = [i for i, sample in enumerate(private.images) if _hash(sample, eight_bits) in known]
    if shared:
        raise BatchError(
            f"{len(shared)} of {len(private)} private samples are among the auxiliary images, first sample {shared[0]}",
            "give images that are not in the batch: the attacker must not hold the answer",
        )


def _at_eight_bits(*parts: Tensor) -> bool:
    """Whether all values are shares of white; those of signals in their unit would wrap round at 8 bits."""
    known = [part for part in parts if part.numel()]
    return all(part.is_floating_point() and float(part.min()) >= 0 and float(part.max()) <= 1 for part in known)


def _hash(values: Tensor, eight_bits: bool) -> bytes:
    plain = (values * 255).round().byte() if eight_bits else values  # 8 bits, by definition
    return hashlib.sha256(plain.contiguous().numpy().tobytes()).digest()
