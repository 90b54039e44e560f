"""Files of token ids: what is read, and one clear line for what does not fit the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leakaudit.client.readers.base import reader_for
from leakaudit.errors import BatchError, UsageError
from leakaudit.target import load
from tests.texts import LENGTH, VOCABULARY, masked_graph, random_ids, text_target, write_texts


def test_ids_labels_and_words(tmp_path: Path) -> None:
    words = np.array([f"w{i}" for i in range(VOCABULARY)])
    path = write_texts(tmp_path / "b.npz", 6, vocabulary=words, class_names=np.array(["a", "b", "c", "d"]))
    target, batch = reader_for(text_target()).fitted(path)
    assert batch.images.shape == (6, 1, 1, LENGTH)
    assert batch.images.dtype == torch.long
    assert batch.images.flatten(1).tolist() == random_ids(6).tolist()
    assert batch.subset([1]).words[3] == "w3"
    assert batch.class_names == ("a", "b", "c", "d")
    assert batch.sha256 is not None
    assert target.domain.facts() == {"vocabulary": VOCABULARY}
    assert target.image_shape == (1, 1, LENGTH)


@pytest.mark.parametrize("name", ["inputs", "input_ids", "tokens", "x"])
def test_names_of_the_array(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "b.npz", **{name: random_ids(2).astype(np.int32), "y": np.zeros(2, np.int64)})  # type: ignore[arg-type]
    assert len(reader_for(text_target()).read(tmp_path / "b.npz")) == 2


def test_arrays_in_memory() -> None:
    batch = reader_for(text_target()).read((random_ids(3), np.arange(3)))
    assert (len(batch), batch.path, batch.sha256) == (3, None, None)


def test_the_length_of_the_batch_decides_where_the_model_leaves_it_open(tmp_path: Path) -> None:
    target = load(masked_graph(tmp_path / "m.onnx"))
    changed, batch = reader_for(target).fitted((random_ids(3, length=11), np.arange(3)))
    assert changed.image_shape == tuple(batch.images.shape[1:]) == (1, 1, 11)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": random_ids(4).astype(np.float32)}, "dtype float32, the model takes token ids"),
        ({"inputs": random_ids(4, length=5)}, "texts have 5 tokens, the model takes 8"),
        ({"inputs": random_ids(4)[:, :, None]}, r"shape \(4, 8, 1\), expected \(N, 8\)"),
        ({"inputs": np.full((4, LENGTH), VOCABULARY)}, "token 60 of text 0 at place 0 is out of range.*0 to 59"),
        ({"inputs": -random_ids(4) - 1}, "token -[0-9]+ of text 0"),
        ({"inputs": np.zeros((0, LENGTH), np.int64), "labels": np.zeros(0, np.int64)}, "expected .N, 8. with N ≥ 1"),
        ({"labels": np.arange(3)}, r"labels have shape \(3,\), expected \(4,\)"),
        ({"labels": np.full(4, 9)}, "label 9 of sample 0 is out of range"),
        ({"vocabulary": np.array(["a", "b"])}, "names 2 tokens, the model has 60"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(BatchError, match=message) as error:
        reader_for(text_target()).read(write_texts(tmp_path / "b.npz", 4, **arrays))
    assert error.value.hint
    assert "\n" not in str(error.value)


def test_paths_and_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such batch file"):
        reader_for(text_target()).read(tmp_path / "none.npz")
    with pytest.raises(UsageError, match="is a folder"):
        reader_for(text_target()).read(tmp_path)
    with pytest.raises(UsageError, match="--std is for images"):
        reader_for(text_target()).refuse({"--mean": (), "--std": (1.0,)})
