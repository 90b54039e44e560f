"""Layers that read parts of the input: put together where they make up the sample, claimed as a part where not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.certificate import certify
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.spear import Spear, SpearSettings
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.reconstruction import Reconstruction
from leakaudit.report.formats.html import render_html
from leakaudit.target.target import Target
from tests.attacks.exact import errors, seen
from tests.attacks.slices import SHAPE, Crop, Partly, Slices
from tests.conftest import make_target, smooth_images

READER = LinearReader(LinearSettings())


def read(module: nn.Module, batch: Batch, space: Images) -> tuple[Target, Observation, Reconstruction]:
    target = replace(make_target(module, SHAPE, 5), domain=space)
    observation = seen(target, batch, space)
    assert READER.applies(target, observation) is None
    return target, observation, READER(target, observation, cpu_generator(0))


@pytest.mark.parametrize("count", [2, 4], ids=["halves", "quarters"])
def test_slices_are_put_together(count: int, samples: Batch, space: Images) -> None:
    victim = samples.subset([3])
    target, observation, result = read(Slices(count), victim, space)
    assert (result.exact, result.read) == (True, None)
    assert float(errors(result, victim, space)) < 1e-5
    assert result.labels.tolist() == victim.labels.tolist()
    assert certify(target, observation, result.play).unique


def test_slices_of_several_samples_are_joined_by_their_errors(samples: Batch, space: Images) -> None:
    victim = samples.subset([3, 4, 5])
    _, _, result = read(Slices(2, 256), victim, space)
    assert result.exact
    assert float(errors(result, victim, space).min(0).values.max()) < 1e-5


def test_slices_without_a_bias_are_put_together_by_the_regenerated_update(samples: Batch, space: Images) -> None:
    victim = samples.subset([3])
    _, _, result = read(Slices(2, bias=False), victim, space)
    assert float(errors(result, victim, space)) < 1e-2


@pytest.mark.parametrize("places", [[3], [3, 4], [3, 3, 4]], ids=["one", "two", "a a b"])
def test_a_crop_is_all_that_the_model_reads(places: list[int], samples: Batch, space: Images) -> None:
    victim = samples.subset(places)
    target, observation, result = read(Crop(), victim, space)
    assert (result.exact, result.read) == (True, None)
    crop = slice(3, 9)
    rows, truth = space.decode(result.inputs)[..., crop, crop], victim.images[..., crop, crop]
    assert float(torch.cdist(rows.flatten(1), truth.flatten(1)).min(0).values.max()) < 1e-4
    certificate = certify(target, observation, result.play)
    assert (certificate.unique, certificate.unknowns) == (True, len(set(places)) * 108)


def test_a_crop_of_a_batch_is_separated_by_sparsity(samples: Batch, space: Images) -> None:
    victim = samples.subset([3, 4])
    target = replace(make_target(Crop(), SHAPE, 5), domain=space)
    result = Spear(SpearSettings(rounds=4))(target, seen(target, victim, space), cpu_generator(0))
    assert result.exact


@pytest.mark.parametrize("places", [[3], [3, 3, 3], [3, 4]], ids=["one", "repeated", "two"])
def test_a_part_is_claimed_as_one(places: list[int], samples: Batch, space: Images) -> None:
    _, _, result = read(Partly(225), samples.subset(places), space)
    assert not result.exact
    assert result.read is not None
    assert result.read.flatten(1).sum(1).tolist() == [225] * len(places)
    assert "225 of 432 entries" in result.notes[0]
    truth = space.encode(samples.images[places]).flatten(1)[:, :225]
    found = result.inputs.flatten(1)[:, :225]
    assert float(torch.cdist(found, truth).min(0).values.max()) < 1e-3


def scan(module: nn.Module, images: np.ndarray, size: int = 1) -> leakaudit.Report:
    return leakaudit.scan(
        module, (images, np.arange(len(images)) % 5), attacks=["linear"], victims=1, batch_size=size, controls="none",
        input_shape=images.shape[1:],
    )  # fmt: skip


def test_a_part_that_leaks_is_a_finding_of_its_own() -> None:
    """25 of 48 entries, exactly: the public report's case, which was NOT SHOWN."""
    report = scan(Partly(25, (3, 4, 4)), smooth_images(12, 4))
    (sample,) = report.attacks[0].results[0].samples
    assert sample.leaked
    assert sample.part is not None
    assert (sample.part.entries, sample.part.of) == (25, 48)
    assert sample.part.psnr is None or sample.part.psnr > 100
    assert report.verdict.status.startswith("LEAKS")
    assert report.verdict.headline.startswith("Parts of 1 of 1")
    found = {finding.id: finding for finding in report.findings}
    assert (found["LA208"].evidence["entries"], found["LA208"].severity) == (25, "high")
    assert "25 of 48 entries" in found["LA208"].message
    assert "LA203" not in found
    assert "leaked in part, 25 of 48 entries" in render_html(report)


def test_a_crop_leaks_and_what_is_never_read_is_said() -> None:
    """196 of 784 pixels, exactly: the public report's case, which was NOT SHOWN at 9.5 dB."""
    images = smooth_images(12, 28, channels=1)
    report = scan(Crop(1, 7, 14), images)
    (sample,) = report.attacks[0].results[0].samples
    assert (sample.leaked, sample.part) == (True, None)
    assert sample.psnr is None or sample.psnr > 100
    assert report.target.unread == 784 - 196
    assert "588 of 784 entries of a sample, left out of every score" in render_html(report)
    assert report.verdict.status == "LEAKS (certified)"
    assert {finding.id for finding in report.findings} >= {"LA203"}


def test_little_is_no_part(samples: Batch, space: Images) -> None:
    """Twelve of 432 entries are read exactly, and are no finding."""
    report = scan(Partly(12), smooth_images(12))
    (sample,) = report.attacks[0].results[0].samples
    assert (sample.leaked, sample.part) == (False, None)
