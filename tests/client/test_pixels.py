"""Pictures of any depth are read right, or asked about in one clear line; never silently black or white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leakaudit.client.readers.images import load_batch, load_images
from leakaudit.domains.images import Images
from leakaudit.errors import BatchError
from tests.client.build import save

GREY, COLOUR = Images.plain((1, 8, 10)), Images.plain((3, 8, 10))
RAMP = np.linspace(0, 1, 80).reshape(8, 10)
LABELS = np.zeros(2, np.int64)


def folder(root: Path, *pictures: Image.Image, suffix: str = ".png") -> Path:
    (root / "pictures" / "0").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.save(root / "pictures" / "0" / f"{number}{suffix}")
    return root / "pictures"


def words(high: float = 65535) -> Image.Image:
    return Image.fromarray(np.rint(RAMP * high).astype(np.uint16))


@pytest.mark.parametrize("domain", [GREY, COLOUR, Images.plain((4, 8, 10))], ids=["grey", "colour", "alpha"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_read_as_16_bits(tmp_path: Path, domain: Images, suffix: str) -> None:
    batch = load_batch(folder(tmp_path, words(), suffix=suffix), domain, 1)
    for plane in batch.images[0, :3]:
        torch.testing.assert_close(plane, torch.from_numpy(RAMP).float(), atol=1e-4, rtol=0)
    assert bool((batch.images[0, 3:] == 1).all())
    assert batch.notes[1] == "uint16 values 0..65535 read as 0..65535"


def test_16_bits_are_scaled_to_size(tmp_path: Path) -> None:
    twice = Image.fromarray(np.rint(np.kron(RAMP, np.ones((2, 2))) * 65535).astype(np.uint16))
    batch = load_batch(folder(tmp_path, twice), GREY, 1, resize=True)
    assert float((batch.images[0, 0] - torch.from_numpy(RAMP)).abs().max()) < 0.02


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_fractions_of_a_tiff_are_read(tmp_path: Path, white: float) -> None:
    numbers = np.rint(RAMP * 255) / 255 * white
    picture = Image.fromarray(numbers.astype(np.float32))
    batch = load_batch(folder(tmp_path, picture, suffix=".tif"), COLOUR, 1)
    torch.testing.assert_close(batch.images[0, 1], torch.from_numpy(numbers / white).float(), atol=1e-6, rtol=0)


def test_depths_are_told_apart_file_by_file_and_ranges_over_all_of_a_depth(tmp_path: Path) -> None:
    dark, light = Image.fromarray(np.full((8, 10), 3, np.uint8)), Image.fromarray(np.full((8, 10), 200, np.uint8))
    batch = load_batch(folder(tmp_path, dark, words(), light), GREY, 1)
    assert batch.images[0].unique().tolist() == pytest.approx([3 / 255])
    assert float(batch.images[1].max()) == 1
    assert len(batch.notes) == 3


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool])
def test_masks_of_0_and_1_are_black_and_white(tmp_path: Path, kind: type) -> None:
    mask = (RAMP > 0.5).astype(kind)
    batch = load_batch(save(tmp_path, x=np.stack([mask, mask]), y=LABELS), GREY, 1)
    assert batch.images.unique().tolist() == [0, 1]
    if kind is np.uint8:
        assert load_batch(folder(tmp_path, Image.fromarray(mask)), GREY, 1).images.unique().tolist() == [0, 1]


def test_an_array_of_16_bits_is_read_as_a_picture_of_16_bits(tmp_path: Path) -> None:
    stack = np.stack([np.asarray(words())] * 2)
    for array in (stack, stack.astype(">u2")):
        images = load_batch(save(tmp_path, x=array, y=LABELS), GREY, 1).images
        torch.testing.assert_close(images[1, 0], torch.from_numpy(RAMP).float(), atol=1e-4, rtol=0)


ASKED = {
    "digits of 0..16": (np.rint(RAMP * 16), "up to 16 and would be read as 0..255, nearly black: they may be of fewer"),
    "6 bits": (np.rint(RAMP * 63).astype(np.uint8), "up to 63 and would be read as 0..255, nearly black"),
    "12 bits": (np.rint(RAMP * 4095).astype(np.uint16), "up to 4095 and would be read as 0..65535, nearly black"),
    "divided twice": (
        RAMP / 255,
        "up to 0.00392157 and would be read as 0..1, nearly black: they may have been divided",
    ),
}


@pytest.mark.parametrize(("array", "words"), ASKED.values(), ids=ASKED)
def test_what_would_be_nearly_black_is_asked_about(tmp_path: Path, array: np.ndarray, words: str) -> None:
    path = save(tmp_path, x=np.stack([array, array]), y=LABELS)
    with pytest.raises(BatchError, match=words) as caught:
        load_batch(path, GREY, 1)
    assert caught.value.hint.startswith("pass --values pixels if they do run so, else store them as fractions of white")
    images = load_batch(path, GREY, 1, values="pixels").images
    assert 0 < float(images.max()) < 0.3, "the answer was that they do run so"


@pytest.mark.parametrize(
    ("picture", "suffix", "message"),
    [
        (Image.fromarray(np.full((8, 10), 70000, np.int32)), ".tif", "inputs run from 70000 to 70000, expected"),
        (Image.fromarray((RAMP * 300).astype(np.float32)), ".tif", "inputs run from 0 to 300, expected"),
        (words(4095), ".png", "they may be of 10 or 12 bits"),
    ],
)
def test_pictures_whose_numbers_say_nothing_are_refused(
    tmp_path: Path, picture: Image.Image, suffix: str, message: str
) -> None:
    with pytest.raises(BatchError, match=message):
        load_batch(folder(tmp_path, picture, suffix=suffix), GREY, 1)


def test_public_pictures_are_read_alike(tmp_path: Path) -> None:
    images = load_images(folder(tmp_path, words()), GREY)
    torch.testing.assert_close(images[0, 0], torch.from_numpy(RAMP).float(), atol=1e-4, rtol=0)
    with pytest.raises(BatchError, match="10 or 12 bits"):
        load_images(folder(tmp_path / "dim", words(4095)), GREY)
    assert float(load_images(tmp_path / "dim" / "pictures", GREY, values="pixels").max()) == pytest.approx(4095 / 65535)


def test_a_file_of_several_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stack" / "0").mkdir(parents=True)
    one = Image.fromarray(np.full((8, 10), 200, np.uint8))
    one.save(tmp_path / "stack" / "0" / "volume.tif", save_all=True, append_images=[one, one])
    with pytest.raises(BatchError, match=r"volume\.tif: holds 3 pictures, expected one"):
        load_batch(tmp_path / "stack", GREY, 1)
