"""Private texts: reading an ``.npz`` of token ids into a validated :class:`leakaudit.client.batch.Batch`.

Accepted: whole numbers ``(N, L)`` under ``inputs``, ``input_ids``, ``tokens`` or any name that images may have, one
label per text, and, to show words beside ids, an array ``vocabulary`` of strings by id.
Only `leakaudit.client.observe` and `leakaudit.scoring.tokens` may hold what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import Reader, Source
from leakaudit.client.readers.labels import following, label_note, read_labels
from leakaudit.client.readers.memory import gathered
from leakaudit.client.readers.npz import INPUT_KEYS, Arrays, as_arrays, hash_files, read_npz
from leakaudit.domains.tokens import Tokens, tokens_of
from leakaudit.errors import BatchError, UsageError
from leakaudit.target.target import Target
from leakaudit.target.tokens import with_length
from leakaudit.tasks.base import Task
from leakaudit.tasks.class_loss import IGNORED

TOKEN_KEYS = ("inputs", "input_ids", "tokens", *INPUT_KEYS)


@dataclass(frozen=True, eq=False)
class TokenReader(Reader):
    """Reads texts for a model over token ids."""

    def read(self, source: Source) -> Batch:
        """Texts of the model's length, or of one length where it leaves that open."""
        return self.fitted(source)[1]

    def fitted(self, source: Source) -> tuple[Target, Batch]:
        """Texts, and the model for their length."""
        target, source = self.target, gathered(source)
        if isinstance(source, Batch):
            return with_length(target, source.images.shape[-1]), source
        if isinstance(source, tuple):
            path, arrays = None, as_arrays(source)
        else:
            path = Path(source)
            arrays = read_tokens(path, labelled=target.task.labelled)
        domain = tokens_of(target.domain)
        if domain.any_length:
            ids = check_ids(arrays.inputs, None, domain.vocabulary, str(path or "batch"))
            target = with_length(target, ids.shape[1])
        return target, from_tokens(arrays, tokens_of(target.domain), target.task, path)


def read_tokens(path: Path, *, labelled: bool = True) -> Arrays:
    """The arrays of a file of token ids.

    Args:
        path: The file.
        labelled: Whether it must hold labels.

    Raises:
        UsageError: There is no such file, or it is a folder.
        BatchError: It holds no arrays of inputs and labels.
    """
    way = "pass --batch FILE.npz with integer inputs (N, L) and labels"
    if not path.exists():
        raise UsageError(f"no such batch file: {path}", way)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; the model takes token ids, not images", way)
    return read_npz(path, True if labelled else None, TOKEN_KEYS)


def from_tokens(arrays: Arrays, domain: Tokens, task: Task | int, path: Path | None = None) -> Batch:
    """Check token ids against a model.

    Args:
        arrays: From :func:`read_tokens`, or made in memory.
        domain: Length and vocabulary of the model.
        task: What labels are, or a number of classes of which each text has one.
        path: File that they came from.

    Raises:
        BatchError: They do not fit the model; says where and what was expected.
    """
    where = str(path) if path else "batch"
    ids = check_ids(arrays.inputs, domain.shape[2], domain.vocabulary, where)
    if arrays.words and len(arrays.words) != domain.vocabulary:
        raise BatchError(
            f"{where}: array 'vocabulary' names {len(arrays.words)} tokens, the model has {domain.vocabulary}",
            "give one word per id, in the order of the ids, or leave the array out",
        )
    texts = torch.from_numpy(ids.astype(np.int64))[:, None, None, :]
    own = None if isinstance(task, int) else task.of_inputs(texts)
    if own is None:
        labels = read_labels(task, arrays.labels, len(ids), where)
    else:
        labels = following(own, ids, arrays.labels, where)
        check_ids(labels.masked_fill(labels == IGNORED, 0).numpy(), domain.shape[2], domain.vocabulary, where)
    batch = Batch(
        images=texts,
        labels=labels,
        indices=tuple(range(len(ids))),
        class_names=arrays.class_names,
        path=None if path is None else where,
        notes=(
            f"{ids.dtype} token ids {int(ids.min())} to {int(ids.max())} read as (N, L) = {ids.shape}",
            *label_note(labels, task),
        ),
        words=arrays.words,
    )
    return batch if path is None else replace(batch, sha256=hash_files([path]))


def check_ids(ids: np.ndarray[Any, Any], length: int | None, vocabulary: int, where: str) -> np.ndarray[Any, Any]:
    """The ids, if they are whole numbers (N, length) inside the vocabulary; any length if it is ``None``."""
    shown = "L" if length is None else str(length)
    if ids.dtype.kind not in "ui":
        raise BatchError(
            f"{where}: inputs have dtype {ids.dtype}, the model takes token ids, which are integers",
            "store the ids that the model is fed, not embeddings or images, as int64",
        )
    if ids.ndim != 2 or ids.size == 0:
        raise BatchError(
            f"{where}: inputs have shape {ids.shape}, expected (N, {shown}) with N ≥ 1", "store one row of ids per text"
        )
    if length is not None and ids.shape[1] != length:
        raise BatchError(
            f"{where}: texts have {ids.shape[1]} tokens, the model takes {length}",
            "pad or cut the texts, or export the model with a dynamic length",
        )
    outside = np.argwhere((ids < 0) | (ids >= vocabulary))
    if len(outside):
        row, place = (int(i) for i in outside[0])
        raise BatchError(
            f"{where}: token {int(ids[row, place])} of text {row} at place {place} is out of range, the model has "
            f"{vocabulary} tokens (0 to {vocabulary - 1})",
            "check that the batch was made with this model's tokenizer",
        )
    return ids
