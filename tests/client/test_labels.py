"""Labels of two dimensions: one-hot rows are classes, probabilities are kept, several per sample are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leakaudit.client.readers.labels import check_labels
from leakaudit.errors import BatchError

HOT = np.eye(4)[[2, 0, 3]]
MIXED = 0.7 * HOT + 0.3 * np.eye(4)[[1, 1, 2]]


def read(labels: np.ndarray) -> torch.Tensor:
    return check_labels(labels, 3, 4, "batch.npz")


@pytest.mark.parametrize("kind", [np.float32, np.int64, bool, np.uint8])
def test_one_hot_rows_are_classes(kind: type) -> None:
    assert read(HOT.astype(kind)).tolist() == [2, 0, 3]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_probabilities_are_kept(kind: type) -> None:
    found = read(MIXED.astype(kind))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), MIXED, atol=1e-3 if kind is np.float16 else 1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_one_soft_row_among_hot_ones_makes_all_of_them_probabilities() -> None:
    assert read(np.concatenate([HOT[:2], MIXED[:1]])).shape == (3, 4)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            [1, 0, 1, 0],
            "labels mark 2 classes for sample 1 (multi-hot): that is several labels per sample, trained with",
        ),
        ([0, 0, 0, 0], "labels mark no class for sample 1 (multi-hot)"),
        ([0.9, 0.9, 0.0, 0.0], "labels of sample 1 sum to 1.8, expected probabilities of 4 classes"),
        ([1.5, -0.5, 0.0, 0.0], "labels of sample 1 sum to 1, expected probabilities of 4 classes, from 0"),
        ([np.nan, 1, 0, 0], "expected probabilities of 4 classes"),
    ],
)
def test_what_is_neither_is_refused_by_its_name(row: list[float], words: str) -> None:
    labels = HOT.copy()
    labels[1] = row
    with pytest.raises(BatchError) as caught:
        read(labels)
    assert words in caught.value.message
    assert caught.value.hint
    assert ("binary cross-entropy" in caught.value.message) is ("mark" in words)


def test_fractions_without_an_axis_of_classes_are_refused_with_the_way_out() -> None:
    with pytest.raises(BatchError, match="expected whole class indices") as caught:
        read(np.array([0.2, 0.4, 1.0]))
    assert "probabilities of all classes as rows (3, 4)" in caught.value.hint
