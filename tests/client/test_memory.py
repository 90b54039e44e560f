"""Samples in memory, in the forms of training scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import leakaudit
from leakaudit.client.readers.memory import gathered
from leakaudit.errors import BatchError, UsageError
from tests.conftest import small_mlp, smooth_images

IMAGES, LABELS = torch.from_numpy(np.asarray(smooth_images(6), np.float32)), torch.arange(6)


class Dicts(Dataset[dict[str, Any]]):
    """As Hugging Face's data sets, with pictures."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, position: int) -> dict[str, Any]:
        picture = Image.fromarray(np.full((12, 12, 3), 40 * position, np.uint8))
        return {"img": picture, "label": position}


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Yields samples, and has no places."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(IMAGES, LABELS, strict=True)


FORMS: dict[str, Any] = {
    "tensors": (IMAGES, LABELS),
    "a list of two": [IMAGES, LABELS],
    "arrays by name": {"inputs": IMAGES.numpy(), "labels": LABELS.numpy()},
    "a batch of Hugging Face": {"pixel_values": IMAGES, "labels": LABELS},
    "a data set": TensorDataset(IMAGES, LABELS),
    "a loader": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4),
    "a stream": Stream(),
    "a loader of a stream": DataLoader(Stream(), batch_size=4),
    "a list of samples": [(image, label) for image, label in zip(IMAGES, LABELS, strict=True)],
    "plain lists": [IMAGES.tolist(), LABELS.tolist()],
    "tensors with a graph": (IMAGES.clone().requires_grad_(), LABELS),
}


@pytest.mark.parametrize("name", FORMS)
def test_samples_are_taken_in_the_forms_of_training_scripts(name: str) -> None:
    inputs, labels = gathered(FORMS[name])
    assert np.array_equal(np.asarray(inputs), IMAGES.numpy())
    assert np.array_equal(np.asarray(labels), LABELS.numpy())


TWO: dict[str, Any] = {
    "two samples": [(IMAGES[0], 0), (IMAGES[1], 1)],
    "two samples in lists": [[IMAGES[0].tolist(), 0], [IMAGES[1].tolist(), 1]],
    "two samples by name": [{"x": IMAGES[0], "y": 0}, {"x": IMAGES[1], "y": 1}],
    "inputs and labels": [(IMAGES[0], IMAGES[1]), (0, 1)],
    "inputs and labels in lists": [[IMAGES[0].numpy(), IMAGES[1].numpy()], [0, 1]],
}


@pytest.mark.parametrize("name", TWO)
def test_a_list_of_two_samples_is_told_from_inputs_and_labels(name: str) -> None:
    inputs, labels = gathered(TWO[name])
    assert np.array_equal(np.asarray(inputs, np.float32), IMAGES[:2].numpy())
    assert list(labels) == [0, 1]


def test_pictures_of_a_data_set_have_their_channels_first() -> None:
    inputs, labels = gathered(Dicts())
    assert inputs.shape == (2, 3, 12, 12)
    assert inputs[1].max() == 40
    assert list(labels) == [0, 1]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (3, UsageError, "batch is int, expected a path"),
        (object(), UsageError, "batch is object, expected"),
        ({"x": IMAGES}, UsageError, "the batch has no labels: it holds x"),
        ({"y": LABELS}, UsageError, "the batch has no inputs: it holds y"),
        (DataLoader(TensorDataset(IMAGES), batch_size=2), UsageError, "expected inputs with a label"),
        ([1, 2, 3], UsageError, "a sample is int, expected inputs with a label"),
        ([(IMAGES[0], 1), (IMAGES[0][:, :4], 1), (IMAGES[0], 1)], BatchError, "do not go together"),
        (TensorDataset(IMAGES[:0], LABELS[:0]), BatchError, "the batch is empty"),
        (([[1.0, 2.0], [3.0]], [0, 1]), BatchError, "a list whose parts have different shapes"),
        ({"x": IMAGES, "y": [[0], [1, 2]]}, BatchError, "a list whose parts have different shapes"),
    ],
)
def test_what_holds_no_samples_is_one_line(source: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gathered(source)


def test_a_scan_takes_a_loader_and_one_number_for_all_channels() -> None:
    loader = DataLoader(TensorDataset(IMAGES, LABELS % 5), batch_size=4)
    common: dict[str, Any] = {"attacks": ["linear"], "victims": 1, "controls": "none", "input_shape": (3, 12, 12)}
    report = leakaudit.scan(small_mlp(), loader, mean=0.5, std=0.25, **common)
    assert report.batch.samples == 6
    assert (report.batch.mean, report.batch.std) == ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])


def test_a_device_that_is_not_offered_is_one_line() -> None:
    with pytest.raises(UsageError, match="device is 'cuda:0', expected auto, cpu or cuda"):
        leakaudit.scan(small_mlp(), (IMAGES, LABELS), device="cuda:0")
