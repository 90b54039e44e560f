"""What a model's first layer says of the axes of its input: signals, sequences and volumes, from every kind of file."""

from __future__ import annotations

import io
import warnings
from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from leakaudit.domains.signals import Signals
from leakaudit.domains.volumes import Volumes
from leakaudit.errors import ModelError
from leakaudit.target.consumer import Consumer, consumer
from leakaudit.target.layout import infer
from leakaudit.target.load import load
from leakaudit.target.target import Target
from tests.target.sequences import Attention, Moved, OneChannel, Recurrent, ecg, volume

NETWORKS = {
    "ecg": (ecg, (2, 16), "NCL", (2, 16)),
    "moved": (Moved, (16, 2), "NLC", (2, 16)),
    "one channel": (OneChannel, (16,), "L", (1, 16)),
    "gru": (lambda: Recurrent(nn.GRU), (7, 4), "NLC", (4, 7)),
    "lstm": (lambda: Recurrent(nn.LSTM), (7, 4), "NLC", (4, 7)),
    "rnn, both ways": (lambda: Recurrent(nn.RNN, both=True), (7, 4), "NLC", (4, 7)),
    "attention": (Attention, (7, 4), "NLC", (4, 7)),
    "volume": (volume, (2, 4, 6, 5), "NCDHW", (2, 4, 6, 5)),
}
EVERY = pytest.mark.parametrize("name", NETWORKS)


def built(name: str) -> tuple[nn.Module, tuple[int, ...], str, tuple[int, ...]]:
    build, native, layout, shape = NETWORKS[name]
    torch.manual_seed(0)
    return build().eval(), native, layout, shape


def check(target: Target, module: nn.Module, native: tuple[int, ...], layout: str, shape: tuple[int, ...]) -> None:
    """It is of the domain, takes samples channels first, and computes what the module does."""
    assert (target.layout, target.native_shape, target.image_shape) == (layout, native, shape)
    assert isinstance(target.domain, Volumes if len(shape) == 4 else Signals)
    inputs = target.random_inputs(3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(target.to_images(target.to_native(inputs)), inputs)
    with torch.no_grad():
        torch.testing.assert_close(target.logits(inputs), module(target.to_native(inputs)), rtol=1e-4, atol=1e-5)


@EVERY
def test_a_module_says_what_its_axes_are(name: str) -> None:
    module, native, layout, shape = built(name)
    check(load(module, image_shape=shape), module, native, layout, shape)


@EVERY
def test_so_does_an_exported_program(name: str, tmp_path: Path) -> None:
    module, native, layout, shape = built(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch, of a recurrent layer's own attributes
        program = torch.export.export(module, (torch.zeros(1, *native),))
    torch.export.save(program, tmp_path / "m.pt2")
    target = load(tmp_path / "m.pt2", trust=True)
    assert "LA921" not in {note.id for note in target.fidelity}, "the file says what it takes"
    if target.batch_sizes is None:
        check(target, module, native, layout, shape)
    else:
        assert (target.layout, target.native_shape, target.image_shape) == (layout, native, shape)


@pytest.mark.parametrize("name", ["ecg", "moved", "gru", "lstm", "rnn, both ways", "volume"])
def test_so_does_an_onnx_file(name: str, tmp_path: Path) -> None:
    module, native, layout, shape = built(name)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, *native),), stream, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
        )
    (tmp_path / "m.onnx").write_bytes(stream.getvalue())
    check(load(tmp_path / "m.onnx"), module, native, layout, shape)


def test_a_size_that_is_open_is_taken_from_the_user_in_either_order() -> None:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(8, 3))
    assert load(pooled, image_shape=(2, 50)).domain.shape == (2, 50)
    assumed = load(pooled)
    assert assumed.domain.shape[0] == 2
    assert "LA921" in {note.id for note in assumed.fidelity}
    assert load(Recurrent(nn.GRU), image_shape=(4, 9)).native_shape == (9, 4)
    with pytest.raises(ModelError, match="accepts none of the input shapes"):
        load(pooled, image_shape=(3, 50))


def test_a_sample_that_reads_alike_in_both_orders_is_one_candidate() -> None:
    assert infer((None, None), (5, 5), "m.onnx")[1] == [(5, 5)]
    assert infer((None, None), (2, 5), "m.onnx")[1] == [(2, 5), (5, 2)]
    assert infer((None, None, None, None), (8, 8, 8, 8), "m.onnx")[1] == [(8, 8, 8, 8)]


def test_an_exported_program_over_rows_of_pixels_is_of_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for shape, expected in (((12, 12), (1, 12, 12)), ((144,), (1, 12, 12)), ((3, 8, 8), (3, 8, 8))):
        module = nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 3)).eval()
        torch.export.save(torch.export.export(module, (torch.zeros(1, *shape),)), tmp_path / "m.pt2")
        target = load(tmp_path / "m.pt2", trust=True)
        assert (target.domain.kind, target.image_shape, target.native_shape) == ("images", expected, shape)


def test_the_rank_that_the_user_names_overrules_the_first_layer() -> None:
    torch.manual_seed(0)
    rows = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    assert load(rows, image_shape=(12, 12)).domain.kind == "signals"
    assert load(rows, image_shape=(24, 6)).domain.shape == (24, 6)
    vector = nn.Sequential(nn.Linear(144, 3))
    assert load(vector, image_shape=(24, 6)).domain == Signals.plain((24, 6))
    assert load(vector, image_shape=(1, 4, 6, 6)).domain == Volumes.plain((1, 4, 6, 6))
    steps = nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3))
    assert load(steps, image_shape=(12, 12)).domain.kind == "signals"
    assert load(steps, image_shape=(1, 12, 12)).domain.shape == (1, 12, 12)


def test_pictures_are_still_pictures() -> None:
    rows = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    assert load(rows, image_shape=(1, 12, 12)).domain.kind == "images"
    assert consumer(rows, (12, 12), 1) == Consumer("whole")
    assert consumer(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8), 1) == Consumer("convolution", 2, 3)
    assert consumer(nn.Flatten(), (3, 8, 8), 1) == Consumer("anything")
