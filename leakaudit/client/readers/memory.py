"""Samples in memory, in the forms in which training scripts have them, as arrays of inputs and labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leakaudit.client.batch import Batch
from leakaudit.client.readers.npz import LABEL_KEYS, SAMPLE_KEYS, Arrays
from leakaudit.errors import BatchError, UsageError
from leakaudit.safety.archives import MOST

NAMES = (*SAMPLE_KEYS, "pixel_values", "img")
"""Keys of inputs, those of Hugging Face's batches among them."""
FORMS = "a path, (inputs, labels), {'inputs': …, 'labels': …}, a DataLoader or a Dataset"


def gathered(source: Any) -> str | Path | Batch | tuple[Any, ...]:
    """A path or samples as they are; whatever else holds samples as arrays of inputs and labels.

    Raises:
        UsageError: It is nothing that holds samples.
        BatchError: It holds none, or more than :data:`~leakaudit.safety.archives.MOST`.
    """
    if isinstance(source, str | Path | Batch | Arrays):
        return source
    if isinstance(source, Mapping):
        return _plain(*_pair(source))
    if isinstance(source, tuple | list) and len(source) == 2 and not _two_samples(source):
        return _plain(*source)
    if isinstance(source, DataLoader):
        return _joined(source, whole=True)
    if isinstance(source, Dataset) or (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return _joined(_items(source), whole=False)
    raise UsageError(f"batch is {type(source).__name__}, expected {FORMS}")


def _two_samples(source: tuple[Any, ...] | list[Any]) -> bool:
    """Whether a list of two is two samples with a label each, and not inputs and labels: by the shapes in each."""
    return isinstance(source, list) and all(
        isinstance(item, Mapping) or (isinstance(item, tuple | list) and len(item) >= 2 and _unlike(item[0], item[1]))
        for item in source
    )


def _unlike(one: Any, other: Any) -> bool:
    """Whether two things are arrays of different shapes, as an input and its label are, and two inputs are not."""
    try:
        return tuple(np.shape(one)) != tuple(np.shape(other))
    except ValueError:  # of a list whose parts do not go together
        return False


def _pair(item: Any) -> tuple[Any, Any]:
    """Inputs and labels of a batch or of one sample.

    Raises:
        UsageError: Nothing says which is which.
    """
    if isinstance(item, Mapping):
        inputs = next((item[key] for key in NAMES if key in item), None)
        labels = next((item[key] for key in LABEL_KEYS if key in item), None)
        if inputs is None or labels is None:
            what = "inputs" if inputs is None else "labels"
            raise UsageError(
                f"the batch has no {what}: it holds {', '.join(map(str, item)) or 'nothing'}",
                f"name them one of: {', '.join(NAMES if inputs is None else LABEL_KEYS)}",
            )
        return inputs, labels
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise UsageError(f"a sample is {type(item).__name__}, expected inputs with a label")


def _items(source: Any) -> Iterator[Any]:
    """The samples of a data set one by one; of one without places, as it yields them."""
    if not hasattr(source, "__len__"):
        yield from source
        return
    for position in range(len(source)):
        yield source[position]


def _joined(items: Iterable[Any], *, whole: bool) -> tuple[Any, Any]:
    """All batches one after the other (`whole`), or all samples on top of each other."""
    inputs: list[Any] = []
    labels: list[Any] = []
    size = 0
    for item in items:
        found, label = _plain(*_pair(item))
        size += found.nbytes
        if size > MOST:
            raise BatchError(f"the samples take over {MOST / 2**30:.0f} GiB", "pass the samples of one client")
        inputs.append(found)
        labels.append(label)
    if not inputs:
        raise BatchError("the batch is empty", "pass the samples behind one update, or more")
    try:
        put: Any = np.concatenate if whole else np.stack
        return put(inputs), put(labels)
    except ValueError as error:
        raise BatchError(f"the samples do not go together: {error}", "give all of them one shape") from error


def _plain(inputs: Any, labels: Any) -> tuple[Any, Any]:
    return array_of(inputs), array_of(labels)


def array_of(value: Any) -> np.ndarray[Any, Any]:
    """An array on the CPU; of a PIL image, its channels first."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    try:
        array: np.ndarray[Any, Any] = np.asarray(value)
    except ValueError as error:
        raise BatchError(
            f"the samples are a {type(value).__name__} whose parts have different shapes, expected an array",
            "give all samples one shape, and every sample one label",
        ) from error
    return array.transpose(2, 0, 1) if hasattr(value, "getbands") and array.ndim == 3 else array
