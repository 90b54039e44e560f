"""Models that rescale their input by themselves are fed what they take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.target.load import load
from leakaudit.target.rescaling import own_rescaling
from tests.cli.build import export
from tests.conftest import small_cnn, smooth_images


class Rescaled(nn.Module):
    """A network behind y = (x - mean) · scale."""

    def __init__(self, scale: float | list[float], mean: float | list[float] = 0.0) -> None:
        super().__init__()
        self.inner = small_cnn()
        self.register_buffer("scale", torch.tensor(scale).reshape(-1, 1, 1))
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner((images - self.mean) * self.scale)
        return logits


BYTES = {
    "Keras, 0..1": Rescaled(1 / 255),
    "Keras, -1..1": Rescaled(1 / 127.5, 127.5),
    "ImageNet in 0..255": Rescaled([1 / 58.395, 1 / 57.12, 1 / 57.375], [123.675, 116.28, 103.53]),
    "Caffe, mean alone": Rescaled(1.0, [104.0, 117.0, 123.0]),
    "CNTK": Rescaled(1 / 256),
}
UNIT = {
    "none": small_cnn(),
    "ImageNet in 0..1": Rescaled([1 / 0.229, 1 / 0.224, 1 / 0.225], [0.485, 0.456, 0.406]),
    "-1..1": Rescaled(2.0, 0.5),
    "nothing done": Rescaled(1.0),
}


@pytest.mark.parametrize("module", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("form", ["module", "onnx"])
def test_a_model_for_0_to_255_is_fed_0_to_255(tmp_path: Path, module: nn.Module, form: str) -> None:
    source = module if form == "module" else export(module, tmp_path / "m.onnx")
    target = load(source, image_shape=(3, 12, 12))
    assert target.domain.normalised((), ()).encode(torch.ones(1, 3, 12, 12)).unique().tolist() == pytest.approx([255])
    (note,) = [note for note in target.fidelity if note.id == "LA924"]
    assert "it takes pixels in 0..255, and gets them so (as with --std 0.00392157)" in note.message
    named = target.domain.normalised((0.5,), (0.25,))
    assert named.encode(torch.ones(1, 3, 12, 12)).unique().tolist() == pytest.approx([2]), "what the user says counts"


@pytest.mark.parametrize("module", UNIT.values(), ids=UNIT)
def test_a_model_for_0_to_1_is_fed_0_to_1(module: nn.Module) -> None:
    target = load(module, image_shape=(3, 12, 12))
    assert target.domain.normalised((), ()).encode(torch.ones(1, 3, 12, 12)).unique().tolist() == [1]
    assert not [note for note in target.fidelity if note.id == "LA924"]


def test_a_unit_that_nobody_uses_is_said() -> None:
    target = load(Rescaled(1e-5), image_shape=(3, 12, 12))
    (note,) = [note for note in target.fidelity if note.id == "LA924"]
    assert "to 1e-05 times it: what it takes for white is not known, and 1 was assumed" in note.message
    assert target.domain.normalised((), ()).encode(torch.ones(1, 3, 12, 12)).unique().tolist() == [1]


def test_the_change_is_measured_and_none_is_made_up() -> None:
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_cnn()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner((images / 255) ** 2)
            return logits

    found = own_rescaling(load(Rescaled(1 / 127.5, 127.5), image_shape=(3, 12, 12)))
    assert found is not None
    assert found[0].unique().tolist() == pytest.approx([1 / 127.5])
    assert found[1].unique().tolist() == pytest.approx([-1.0])
    first = own_rescaling(load(Squared(), image_shape=(3, 12, 12)))
    assert first is None or first[0].unique().tolist() == pytest.approx([1 / 255])
    assert own_rescaling(load(small_cnn(), image_shape=(3, 12, 12))) is None


def test_the_control_of_such_a_model_works_and_its_leak_is_found() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 5))

    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images / 255)
            return logits

    report = leakaudit.scan(
        Divided(), (smooth_images(8), [0, 1, 2, 3, 4, 0, 1, 2]), input_shape=(3, 12, 12), attacks=["ig"], victims=1,
        settings={"ig": {"iterations": "100"}},
    )  # fmt: skip
    assert report.batch.std == pytest.approx([1 / 255] * 3)
    assert [control.passed for control in report.controls if control.kind == "positive"] == [True]
    (sample,) = report.attacks[[a.name for a in report.attacks].index("ig")].results[0].samples
    assert sample.leaked


def test_the_case_of_the_report(data: Path) -> None:
    case = data.parent / "cases" / "onnx" / "rescale_keras.onnx"
    if not case.exists():
        pytest.skip(f"no case at {case}")
    with np.load(data / "images" / "mnist_test.npz") as archive:
        images, labels = archive["x"][:8], archive["y"][:8]
    report = leakaudit.scan(case, (images, labels), attacks=["rgap"], victims=1, controls="none")
    assert [note.id for note in report.target.fidelity if note.id == "LA924"] == ["LA924"]
    (sample,) = report.attacks[[a.name for a in report.attacks].index("rgap")].results[0].samples
    assert sample.leaked
    assert sample.psnr is None or sample.psnr > 70, "33.6 dB where the model is fed 0..1"
