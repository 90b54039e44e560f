"""Telling a sample from a hundred others: the rest of the file, given images, augmentations; near-duplicates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leakaudit.scoring.reidentify import Gallery, augment
from tests.conftest import smooth_images


def images(count: int, seed: int = 0, side: int = 12) -> Tensor:
    return torch.from_numpy(smooth_images(count, side, seed=seed))


def test_the_nearest_of_many() -> None:
    file = images(150)
    gallery = Gallery(file)
    noisy = (file[7] + 0.1 * torch.randn(file[7].shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    found = gallery.identify(noisy, file[7])
    assert (found.identified, found.distractors, found.augmented, found.near_duplicates) == (True, 149, 0, 0)
    assert gallery.identify(file[8], file[7]).identified is False


def test_given_images_compete() -> None:
    file, given = images(3), images(120, seed=9)
    assert Gallery(file, given).identify(given[5], file[0]).identified is False
    found = Gallery(file, given).identify(file[0], file[0])
    assert (found.identified, found.distractors, found.augmented) == (True, 122, 0)


def test_augmentations_fill_up_and_are_said_so() -> None:
    file = images(20)
    gallery = Gallery(file)
    found = gallery.identify(file[0], file[0])
    assert found.identified
    assert (found.distractors, found.augmented) == (100, 81)
    assert torch.equal(augment(file, 30), augment(file, 30))


def test_near_duplicates_do_not_compete_and_are_counted() -> None:
    """Frames of one video: the reconstruction of one is as near to the others."""
    generator = torch.Generator().manual_seed(1)
    scene = images(1)[0]
    frames = (scene + 0.01 * torch.randn((30, *scene.shape), generator=generator)).clamp(0, 1)
    file = torch.cat([frames, images(120, seed=5)])
    found = Gallery(file).identify(frames[12], frames[3])  # another frame is nearer than the sample itself
    assert found.identified
    assert found.near_duplicates == 29
    assert found.distractors == 120
    assert Gallery(file).identify(file[40], frames[3]).identified is False


def test_a_file_of_nothing_but_duplicates_competes_with_augmentations() -> None:
    found = Gallery(images(1).repeat(40, 1, 1, 1)).identify(images(1)[0], images(1)[0])
    assert (found.near_duplicates, found.distractors, found.augmented) == (39, 100, 100)
    assert found.identified


def test_a_constant_image_cannot_be_identified() -> None:
    flat = torch.full((1, 3, 12, 12), 0.4)
    assert Gallery(flat).identify(flat[0], flat[0]).identified is None


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 17), (3, 1, 5)])
def test_augmentations_have_the_shape_and_range(shape: tuple[int, int, int]) -> None:
    made = augment(torch.rand((2, *shape), generator=torch.Generator().manual_seed(0)), 25)
    assert made.shape == (25, *shape)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
