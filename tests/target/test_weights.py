"""Weights that a factory's module gets, and what goes wrong in the user's own code."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from leakaudit.errors import ModelError, UsageError
from leakaudit.target import load
from tests.conftest import small_cnn

SHAPE = (3, 12, 12)
FACTORY = "tests.conftest:small_cnn"


def state() -> dict[str, torch.Tensor]:
    return {name: tensor + 0.25 for name, tensor in small_cnn().state_dict().items()}


@pytest.mark.parametrize("form", ["by name", "as a list", "as a long list"])
def test_weights_may_be_an_npz(form: str, tmp_path: Path) -> None:
    """Arrays by name, or a list in the order of the state dict, as Flower's servers save it."""
    path = tmp_path / "weights.npz"
    named = {name: tensor.numpy() for name, tensor in state().items()}
    if form == "by name":
        np.savez(path, **named)
    elif form == "as a list":
        np.savez(path, *named.values())
    else:  # names in another order than their numbers
        np.savez(path, **{f"arr_{i}": array for i, array in reversed(list(enumerate(named.values())))})
    target = load(path, factory=FACTORY, image_shape=SHAPE)
    assert all(torch.equal(tensor, state()[name]) for name, tensor in target.module.state_dict().items())
    assert target.sha256


def test_an_npz_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "short.npz", *[tensor.numpy() for tensor in list(state().values())[:-1]])
    with pytest.raises(ModelError, match=r"does not fit the module of .*tensors are missing"):
        load(tmp_path / "short.npz", factory=FACTORY, image_shape=SHAPE)
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ModelError, match=r"is a damaged \.npz file"):
        load(tmp_path / "objects.npz", factory=FACTORY, image_shape=SHAPE)
    np.savez(tmp_path / "weights.npz", **{name: tensor.numpy() for name, tensor in state().items()})
    with pytest.raises(ModelError, match="holds weights without the architecture"):
        load(tmp_path / "weights.npz", image_shape=SHAPE)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('no licence')", "--factory mine:build: RuntimeError: no licence"),
        ("raise SystemExit('no licence')", "--factory mine:build: SystemExit: no licence"),
        ("def build(:", "--factory mine:build: SyntaxError"),
        ("build = 3", "--factory mine:build is int, expected a function"),
        ("", "--factory mine:build: AttributeError: module 'mine' has no attribute 'build'"),
    ],
)
def test_what_cannot_be_imported_is_told_as_of_every_function_of_the_user(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=words):
        load(written(source, tmp_path, monkeypatch), factory="mine:build", image_shape=SHAPE)


def test_a_factory_is_a_module_and_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for factory in ("mine", "mine:", ":build"):
        with pytest.raises(UsageError, match=f"--factory {factory} is not of the form module:function"):
            load(written("", tmp_path, monkeypatch), factory=factory, image_shape=SHAPE)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def build():\n    return 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("def build(width):\n    return width", "failed: TypeError"),
        ("def build():\n    return 3", "returned int, expected a torch.nn.Module"),
    ],
)
def test_an_exception_of_the_users_own_code_is_called_that(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"factory 'mine:build'.*" + words):
        load(written(source, tmp_path, monkeypatch), factory="mine:build", image_shape=SHAPE)


def written(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights, in a current folder whose module ``mine`` has this source."""
    (folder / "mine.py").write_text(source)
    np.savez(folder / "weights.npz", **{name: tensor.numpy() for name, tensor in state().items()})
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return folder / "weights.npz"
