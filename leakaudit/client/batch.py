"""The private samples as a validated :class:`Batch`; `leakaudit.client.readers` makes one from a file or folder.

Only `leakaudit.client.observe` and `leakaudit.scoring` may hold one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

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

    def at(self, first: int) -> Batch:
        """The same samples, the first of them at this place."""
        return replace(self, indices=tuple(range(first, first + len(self.indices))))

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """The samples of several batches that have some, one after the other, each at its own places.

        Raises:
            BatchError: They are not of one shape, or only some have soft labels.
        """
        known = [batch for batch in batches if batch.known]
        if len(known) == 1:
            return known[0]
        kinds = {(tuple(batch.images.shape[1:]), tuple(batch.labels.shape[1:])) for batch in known}
        if len(kinds) > 1:
            raise BatchError(
                f"samples of {len(known)} batches do not go together: they have shapes {sorted(kinds)}",
                "give them alike, all with class indices or all with probabilities",
            )
        return cls(
            images=torch.cat([batch.images for batch in known]),
            labels=torch.cat([batch.labels for batch in known]),
            indices=tuple(index for batch in known for index in batch.indices),
            class_names=known[0].class_names,
            notes=tuple(dict.fromkeys(note for batch in known for note in batch.notes)),
            words=known[0].words,
        )

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
                f"{count} victim(s) of {size} sample(s) need {count * size} samples, the batch file has {len(self)}",
                "lower --victims or --batch-size, or give a larger file",
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        return [self.subset(order[i * size : (i + 1) * size]) for i in range(count)]


def refuse_overlap(auxiliary: Tensor, private: Batch) -> None:
    """Refuse public samples that also occur in the private batch: the attacker would hold the answer.

    Raises:
        BatchError: A sample occurs in both; pixels are compared at 8 bits.
    """
    known = {_image_hash(image) for image in auxiliary}
    shared = [i for i, image in enumerate(private.images) if _image_hash(image) in known]
    if shared:
        raise BatchError(
            f"{len(shared)} of {len(private)} private samples are among the auxiliary images, first sample {shared[0]}",
            "give images that are not in the batch: the attacker must not hold the answer",
        )


def _image_hash(values: Tensor) -> bytes:
    plain = (values * 255).round().byte() if values.is_floating_point() else values
    return hashlib.sha256(plain.numpy().tobytes()).digest()
