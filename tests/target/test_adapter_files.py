"""Files that hold adapters: an export does not say that they alone are trained."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import leakaudit
from leakaudit.errors import UsageError
from tests.attacks.lora import VOCABULARY, Adapted, warmed

ALONE = "!*lora_*"


@pytest.fixture(scope="module", params=[False, True], ids=["torchscript", "default"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "adapted.onnx"
    ids = torch.randint(VOCABULARY, (1, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {} if request.param else {"opset_version": 17, "do_constant_folding": False}
        torch.onnx.export(warmed(Adapted(6)).eval(), (ids,), str(path), dynamo=request.param, verbose=False, **options)
    return path


def test_it_is_said_that_all_was_taken_as_trained(file: Path) -> None:
    (note,) = (note for note in leakaudit.load(file).fidelity if note.id == "LA918")
    assert "taken as trained" in note.message
    assert ALONE in note.hint


def test_a_pattern_takes_out_all_but_the_adapters(file: Path) -> None:
    target = leakaudit.load(file, frozen=[ALONE])
    assert len(target.parameters) == 8
    assert all("lora_" in name for name in target.parameters)
    assert "LA918" not in {note.id for note in target.fidelity}
    with_head = leakaudit.load(file, frozen=[ALONE, "!head.*"])
    assert len(with_head.parameters) == 10, "the exceptions are together"
    with pytest.raises(UsageError, match="matches no tensor"):
        leakaudit.load(file, frozen=["!*adapter*"])


def test_a_module_says_it_itself() -> None:
    target = leakaudit.load(Adapted(6), image_shape=(1, 1, 6))
    assert len(target.parameters) == 10, "the head is trained, too"
    assert "LA918" not in {note.id for note in target.fidelity}
