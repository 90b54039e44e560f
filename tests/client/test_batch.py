"""Reading samples: every accepted form gives the same pixels, every bad form one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import leakaudit
from leakaudit.client.readers.base import reader_for
from leakaudit.client.readers.images import load_batch
from leakaudit.domains.images import Images
from leakaudit.errors import BatchError, UsageError
from leakaudit.target.load import load
from leakaudit.target.target import Target
from tests.cli.build import leakaudit as command
from tests.client.build import save

SPACE = Images((3, 8, 10), (0.5,) * 3, (0.25,) * 3)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 3, 8, 10), dtype=np.uint8)
LABELS = np.arange(6) % 4


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS.transpose(0, 2, 3, 1),
        PIXELS.astype(np.float32) / 255,
        PIXELS.astype(np.int64),
        PIXELS.astype(np.float64),
        PIXELS.reshape(6, -1),
        (PIXELS.astype(np.float32) / 255 - 0.5) / 0.25,
    ],
    ids=["uint8", "nhwc", "unit floats", "int64", "float 0..255", "flat", "normalised"],
)
def test_every_form_gives_the_same_pixels(tmp_path: Path, array: np.ndarray) -> None:
    batch = load_batch(save(tmp_path, x=array, y=LABELS), SPACE, 4)
    torch.testing.assert_close(batch.images, torch.from_numpy(PIXELS / 255).float(), atol=1e-6, rtol=0)
    assert batch.labels.tolist() == LABELS.tolist()
    assert batch.sha256 is not None
    assert len(batch.sha256) == 64


@pytest.mark.parametrize("labels", [LABELS[:, None], np.eye(4)[LABELS], LABELS.astype(np.float32)])
def test_labels_in_other_forms(tmp_path: Path, labels: np.ndarray) -> None:
    assert load_batch(save(tmp_path, images=PIXELS, labels=labels), SPACE, 4).labels.tolist() == LABELS.tolist()


def test_greyscale_without_a_channel_axis(tmp_path: Path) -> None:
    space = Images((1, 8, 10), (0.0,), (1.0,))
    assert load_batch(save(tmp_path, x=PIXELS[:, 0], y=LABELS), space, 4).images.shape == (6, 1, 8, 10)


NAN = PIXELS.astype(np.float32) / 255
NAN[3, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": PIXELS[:, :, :5], "y": LABELS}, "the model takes (3, 8, 10)"),
        ({"x": PIXELS.astype(str), "y": LABELS}, "expected uint8 or float"),
        ({"x": PIXELS.astype(np.complex64), "y": LABELS}, "expected uint8 or float"),
        ({"x": NAN, "y": LABELS}, "first in sample 3"),
        ({"x": PIXELS, "y": LABELS + 1}, "label 4 of sample 3 is out of range, the model has 4 classes (0 to 3)"),
        ({"x": PIXELS, "y": LABELS - 1}, "label -1 of sample 0"),
        ({"x": PIXELS, "y": LABELS[:5]}, "expected (6,)"),
        ({"x": PIXELS, "y": LABELS + 0.5}, "whole class indices"),
        ({"x": PIXELS[:0], "y": LABELS[:0]}, "with N ≥ 1"),
        ({"x": PIXELS}, "no array of labels"),
        ({"q": PIXELS, "y": LABELS}, "no array of inputs; it holds q, y"),
        ({"x": PIXELS.astype(np.float32) * 3.7, "y": LABELS}, "expected 0..1 or whole numbers 0..255"),
        ({"x": PIXELS.astype(np.float32) - 100, "y": LABELS}, "leaves 0..1"),
        ({"x": np.array([{}] * 6), "y": LABELS}, "pickled objects"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(BatchError) as caught:
        load_batch(save(tmp_path, **arrays), SPACE, 4)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_missing_text_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such batch"):
        load_batch(tmp_path / "none.npz", SPACE, 4)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(BatchError, match=r"not an \.npz"):
        load_batch(tmp_path / "text.npz", SPACE, 4)
    whole = save(tmp_path, x=PIXELS, y=LABELS).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BatchError):
        load_batch(tmp_path / "cut.npz", SPACE, 4)


def test_folder_of_images(tmp_path: Path) -> None:
    for name, index in (("cat", 0), ("dog", 1)):
        (tmp_path / name).mkdir()
        Image.fromarray(PIXELS[index].transpose(1, 2, 0)).save(tmp_path / name / "a.png")
    batch = load_batch(tmp_path, SPACE, 4)
    assert batch.class_names == ("cat", "dog")
    assert batch.labels.tolist() == [0, 1]
    torch.testing.assert_close(batch.images, torch.from_numpy(PIXELS[:2] / 255).float())


def test_folder_with_images_of_another_size(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "3" / "a.png")
    with pytest.raises(BatchError, match="20×20 pixels") as caught:
        load_batch(tmp_path, SPACE, 4)
    assert "--resize" in caught.value.hint
    batch = load_batch(tmp_path, SPACE, 4, resize=True)
    assert batch.images.shape == (1, 3, 8, 10)
    assert batch.labels.tolist() == [3]


def test_folder_with_a_broken_image(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_text("no image")
    with pytest.raises(BatchError, match="not a readable image"):
        load_batch(tmp_path, SPACE, 4)


def test_victims_are_disjoint_and_decided_by_the_seed(tmp_path: Path) -> None:
    batch = load_batch(save(tmp_path, x=PIXELS, y=LABELS), SPACE, 4)
    drawn = batch.draw(3, 2, seed=1)
    assert sorted(i for victim in drawn for i in victim.indices) == list(range(6))
    assert [v.indices for v in batch.draw(3, 2, seed=1)] == [v.indices for v in drawn]
    assert [v.indices for v in batch.draw(3, 2, seed=2)] != [v.indices for v in drawn]
    with pytest.raises(UsageError, match="need 8 samples, the batch file has 6"):
        batch.draw(4, 2, seed=0)


def vector_model(width: int) -> Target:
    return load(nn.Sequential(nn.Linear(width, 8), nn.Sigmoid(), nn.Linear(8, 3)))


def rows(width: int) -> tuple[np.ndarray, np.ndarray]:
    return RNG.random((9, width)).astype(np.float32), np.arange(9) % 3


@pytest.mark.parametrize("width", [14, 16, 27, 48])
def test_rows_of_a_table_are_no_pictures(width: int) -> None:
    """14 columns are no picture of one row, nor are 16 one of 4 by 4: nothing says that they are pictures at all."""
    report = leakaudit.scan(vector_model(width), rows(width), attacks=["linear"], controls="none")
    assert report.target.domain == "table"
    assert report.target.columns == width
    assert report.verdict.status == "LEAKS (certified)"


def test_a_table_in_a_file_says_what_was_guessed(tmp_path: Path) -> None:
    torch.save(vector_model(14).module, tmp_path / "m.pt")
    inputs, labels = rows(14)
    np.savez(tmp_path / "b.npz", x=inputs, y=labels)
    words = ("scan", tmp_path / "m.pt", "--unsafe-pickle", "--batch", tmp_path / "b.npz", "--out", tmp_path / "out")
    code, _, err = command(*words, "--attack", "linear", "--controls", "none", "--format", "json")
    assert code == 1
    assert "the columns were guessed as 14 numbers (x1: 0 to 1, x2" in err


def test_rows_are_pictures_where_something_says_so() -> None:
    square = reader_for(vector_model(81)).read(rows(81))
    assert square.images.shape == (9, 1, 9, 9)
    stated = load(nn.Sequential(nn.Linear(14, 8), nn.Sigmoid(), nn.Linear(8, 3)), image_shape=(1, 2, 7))
    assert reader_for(stated).read(rows(14)).images.shape == (9, 1, 2, 7)
    inputs, labels = rows(16)
    assert len(reader_for(vector_model(16)).read((inputs.reshape(9, 1, 4, 4), labels))) == 9
