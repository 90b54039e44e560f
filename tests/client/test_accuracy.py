"""The model's accuracy on the samples is said, right, and leaves the model as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.client.accuracy import MOST, Accuracy, accuracy_on
from leakaudit.client.batch import Batch
from leakaudit.document.redact import redact
from leakaudit.domains.images import Images
from leakaudit.domains.table import Table
from leakaudit.domains.tokens import Tokens
from leakaudit.report.formats.html import render_html
from leakaudit.report.formats.markdown import render_markdown
from leakaudit.target.target import Target
from tests.conftest import make_target, small_mlp, smooth_images


def batch_of(target: Target, wrong: int, count: int = 20, soft: bool = False) -> Batch:
    """Samples labelled as the model says, but for the first few."""
    images = torch.from_numpy(smooth_images(count))
    with torch.no_grad():
        labels = target.logits(target.domain.encode(images)).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % 5
    kept = torch.nn.functional.one_hot(labels, 5) * 0.6 + 0.08 if soft else labels
    return Batch(images, kept, tuple(range(count)))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("sizes", [None, (1,), (8,)])
def test_it_is_counted_right(sizes: tuple[int, ...] | None, soft: bool) -> None:
    target = replace(make_target(small_mlp(), (3, 12, 12), 5), batch_sizes=sizes)
    found = accuracy_on(target, batch_of(target, 5, soft=soft), target.domain)
    assert (found.share, found.samples, found.reason) == (0.75, 20, "")


def test_one_logit_and_a_long_file() -> None:
    torch.manual_seed(0)
    target = leakaudit.load(nn.Sequential(nn.Flatten(), nn.Linear(432, 1)), image_shape=(3, 12, 12))
    images = torch.from_numpy(smooth_images(MOST + 50))
    with torch.no_grad():
        labels = (target.logits(target.domain.encode(images))[:, 0] > 0).long()
    labels[MOST:] = 1 - labels[MOST:]
    found = accuracy_on(target, Batch(images, labels, tuple(range(len(images)))), target.domain)
    assert (found.share, found.samples) == (1.0, MOST)


def test_of_large_samples_few_are_classified_a_few_at_a_time() -> None:
    """A thousand pictures of 224 px took minutes, and sixty-four at once more memory than a step of an attack."""
    sizes: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return self.weight * x.flatten(1)[:, :5]

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

    target = make_target(Counting(), (3, 224, 224), 5)
    batch = Batch(torch.rand(30, 3, 224, 224), torch.zeros(30, dtype=torch.int64), tuple(range(30)))
    sizes.clear()
    assert accuracy_on(target, batch, target.domain).samples == 20
    assert max(sizes) == 1


def test_the_model_stays_as_it_was() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(400, 5))
    target = make_target(module, (3, 12, 12), 5)
    batch = batch_of(target, 4)
    module.train()
    module[2].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert accuracy_on(target, batch, target.domain).share == 0.8, "neither dropout nor statistics of the batch count"
    assert [layer.training for layer in module] == [True, True, False, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_every_report_says_it_at_every_level() -> None:
    module = small_mlp()
    target = make_target(module, (3, 12, 12), 5)
    labels = batch_of(target, 6, 8).labels.numpy()
    report = leakaudit.scan(
        module, (smooth_images(8), labels), attacks=["linear"], victims=1, controls="none", input_shape=(3, 12, 12)
    )
    assert (report.batch.accuracy, report.batch.accuracy_samples) == (0.25, 8)
    for shown in (report, redact(report, "none")):
        assert "Classified right by the model" in render_html(shown)
        assert "25% of 8 samples; chance is 20%" in render_html(shown)
        assert "- Classified right by the model: 25% of 8 samples" in render_markdown(shown)


def test_a_trained_model_that_is_fed_wrong_pixels_is_told_by_it(data: Path) -> None:
    target = leakaudit.load(data / "onnx" / "mnist_convsmall_pt13_op9.onnx")
    with np.load(data / "images" / "mnist_test.npz") as archive:
        images, labels = torch.from_numpy(archive["x"][:64]).float(), torch.from_numpy(archive["y"][:64])
    right, black = (
        accuracy_on(
            target, Batch(pixels, labels, tuple(range(64))), target.domain.normalised((0.1307,), (0.3081,))
        ).share
        for pixels in (images / 255, images / 255 / 255)
    )
    assert right is not None
    assert black is not None
    assert right > 0.9
    assert black < 0.6


def test_a_model_at_chance_is_told_what_to_check() -> None:
    assert Accuracy(0.9, 50).told(10, "") == "the model classifies 90% of 50 samples right; chance is 10%"
    low = Accuracy(0.125, 16).told(10, Images.misread)
    assert "no more than chance (10%): if it is trained, check --mean, --std, the order of the channels and the" in low
    for domain in (Tokens, Table):
        assert "--mean, --std" not in Accuracy(0.125, 16).told(10, domain.misread), "texts and rows have none"
    assert Accuracy(0.5, 8).told(0, "") == "the model classifies 50% of 8 samples right"
    assert Accuracy(None, reason="nobody has the samples").told(10, "") == ""
