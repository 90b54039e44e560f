"""A sweep's file: every combination once, labels that tell cells apart, and no key that is silently ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leakaudit.audit.request import Request
from leakaudit.errors import UsageError
from leakaudit.sweeps.grid import Plan, plan_of, read_plan

GRID = """
[scan]
batch = "data/batch.npz"
attack = ["ig", "linear"]
set = { ig = { iterations = 30 } }
mean = [0.5, 0.5, 0.5]
input-shape = "3,12,12"

[grid]
model = ["a.onnx", "sub/b.onnx"]
mode = ["eval", "train"]
defence = ["", "prune=0.9", ["clip=1.0", "sign"]]
seed = [0, 1]

[[cell]]
model = "late.onnx"
seed = 7
set = ["ig.iterations=50"]
"""


def plan(folder: Path, text: str) -> Plan:
    (folder / "sweep.toml").write_text(text)
    return read_plan(folder / "sweep.toml")


def test_every_combination_is_a_cell_and_single_ones_are_beside_them(tmp_path: Path) -> None:
    found = plan(tmp_path, GRID)
    assert len(found.cells) == 2 * 2 * 3 * 2 + 1
    assert [cell.number for cell in found.cells] == list(range(1, 26))
    first, last = found.cells[0].request, found.cells[-1].request
    assert first == Request(
        model=tmp_path / "a.onnx", batch=tmp_path / "data" / "batch.npz", attacks=("ig", "linear"), mode="eval",
        settings={"ig": {"iterations": "30"}}, mean=(0.5, 0.5, 0.5), input_shape=(3, 12, 12),
    )  # fmt: skip
    assert (last.model, last.seed, last.settings) == (tmp_path / "late.onnx", 7, {"ig": {"iterations": "50"}})
    assert found.cells[23].request.defences == ("clip=1.0", "sign")
    assert len({cell.request.key() for cell in found.cells}) == 25


def test_labels_tell_cells_apart(tmp_path: Path) -> None:
    found = plan(tmp_path, GRID)
    assert list(found.axes) == ["model", "mode", "defence", "seed", "settings"]
    assert found.axes["model"] == ("a.onnx", "b.onnx", "late.onnx")
    assert found.axes["defence"] == ("none", "prune=0.9", "clip=1.0 + sign")
    assert found.cells[0].labels == {
        "model": "a.onnx", "mode": "eval", "defence": "none", "seed": "0", "settings": "ig.iterations=30"
    }  # fmt: skip
    assert len({tuple(cell.labels.values()) for cell in found.cells}) == 25
    assert found.cells[0].title == "a.onnx, eval, none, 0, ig.iterations=30"


def test_models_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    found = plan(tmp_path, '[grid]\nmodel = ["x/m.onnx", "y/m.onnx"]\nbatch = ["b.npz"]\n')
    assert found.axes["model"] == ("x/m.onnx", "y/m.onnx")


def test_local_training_is_an_axis_like_any_other(tmp_path: Path) -> None:
    found = plan(tmp_path, f"{BASE}learning-rate = 0.1\n[grid]\nlocal_epochs = [1, 2]\nsamples = [4, 8]")
    assert list(found.axes) == ["model", "mode", "defence", "seed", "samples", "local_epochs"]
    assert [(c.request.samples, c.request.value_of("local_epochs")) for c in found.cells] == [
        (4, None), (8, None), (4, 2), (8, 2)
    ]  # fmt: skip
    assert found.axes["local_epochs"] == ("1", "2"), "a default is a value like any other"
    assert [cell.labels["local_epochs"] for cell in found.cells] == ["1", "1", "2", "2"]


def test_one_gradient_and_local_training_differ_by_what_was_asked_for(tmp_path: Path) -> None:
    found = plan(tmp_path, f"{BASE}[[cell]]\nseed = 0\n[[cell]]\nlearning-rate = 0.1\nmomentum = 0.9")
    assert list(found.axes)[4:] == ["batch_size", "learning_rate", "momentum"]
    assert [cell.labels["momentum"] for cell in found.cells] == ["–", "0.9"]


def test_a_pattern_stands_for_the_files_that_it_matches(tmp_path: Path) -> None:
    (tmp_path / "zoo").mkdir()
    for name in ("b.onnx", "a.onnx", "notes.txt"):
        (tmp_path / "zoo" / name).touch()
    found = plan(tmp_path, '[scan]\nbatch = "b.npz"\n[grid]\nmodel = ["zoo/*.onnx"]')
    assert [cell.request.model for cell in found.cells] == [tmp_path / "zoo" / "a.onnx", tmp_path / "zoo" / "b.onnx"]
    with pytest.raises(UsageError, match=r"no file matches model 'zoo/\*\.pt'"):
        plan(tmp_path, '[scan]\nbatch = "b.npz"\n[grid]\nmodel = ["zoo/*.pt"]')


def test_a_train_config_lies_below_the_own_options(tmp_path: Path) -> None:
    (tmp_path / "clients.toml").write_text('mode = "train"\nloss = "bce"\n[dropout]\n"/a" = 0.5\n')
    text = '[scan]\nmodel = "m.onnx"\nbatch = "b.npz"\ntrain-config = "clients.toml"\nloss = "cross-entropy"'
    one = plan(tmp_path, text + '\n[scan.dropout]\n"/b" = 0.25\n[grid]\nseed = [3]').cells[0].request
    assert (one.protocol.mode, one.loss, one.dropout) == ("train", "cross-entropy", {"/a": 0.5, "/b": 0.25})


def test_a_combination_that_stands_twice_is_one_cell(tmp_path: Path) -> None:
    text = '[scan]\nbatch = "b.npz"\nmodel = "m.onnx"\n[grid]\nseed = [1, 2, 1]\n[[cell]]\nseed = 2'
    assert [cell.request.seed for cell in plan(tmp_path, text).cells] == [1, 2]


BASE = '[scan]\nmodel = "m.onnx"\nbatch = "b.npz"\n'
WRONG = {
    "[gird]\nseed = [1]": ("unknown section 'gird'", "did you mean 'grid'?"),
    "[grid]\nsede = [1]": ("[grid] has unknown key 'sede'", "did you mean 'seed'?"),
    "[grid]\nfail-on = ['low']": ("[grid] has unknown key 'fail-on'", ""),
    "[grid]\nprotocol = ['x']": ("unknown key 'protocol'", ""),
    "[grid]\nseed = 1": ("[grid] seed is 1, expected a list", "[scan]"),
    "[grid]\nseed = []": ("expected a list", ""),
    "[grid]\nseed = [1.5]": ("seed is 1.5, expected a whole number", ""),
    "[grid]\ndefence = ['prune=0.9']\ndefences = ['sign']": ("twice, under two names", ""),
    "[grid]\ndefence = [1]": ("expected a text or a list of texts", ""),
    "[grid]\nset = ['ig']": ("expected ATTACK.SETTING=VALUE", ""),
    "[grid]\nmode = ['fast']": ("expected eval, train or both", ""),
    "[grid]\nmomentum = [0.9]": ("without a learning rate", "add --learning-rate"),
    "": ("has no cell", "[grid]"),
    "cell = 3": ("is not a list of tables", ""),
    "[grid": ("is not TOML", ""),
    f"[scan]\nseed = {'[' * 5000}": ("is not TOML", ""),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_is_one_line_with_the_file(tmp_path: Path, text: str) -> None:
    message, hint = WRONG[text]
    with pytest.raises(UsageError) as caught:
        plan(tmp_path, text if text == "cell = 3" else BASE + text)
    assert str(tmp_path / "sweep.toml") in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_cell_names_a_model_and_a_batch(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a cell has no batch"):
        plan(tmp_path, '[grid]\nmodel = ["m.onnx"]')
    with pytest.raises(UsageError, match="a cell has no model"):
        plan(tmp_path, '[grid]\nbatch = ["b.npz"]')
    with pytest.raises(UsageError, match="cannot read the sweep"):
        read_plan(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="no cell"):
        plan_of([], tmp_path)
    (tmp_path / "long.toml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(UsageError, match="expected a short TOML file"):
        read_plan(tmp_path / "long.toml")


def test_a_recorded_update_is_a_file_and_needs_no_batch(tmp_path: Path) -> None:
    recorded = Request(model=tmp_path / "m.onnx", update=tmp_path / "u.npz")
    assert plan_of([recorded], tmp_path).cells[0].request == recorded
    in_memory = Request(model=tmp_path / "m.onnx", batch=tmp_path / "b.npz", update={"w": np.zeros(2)})
    with pytest.raises(UsageError, match="the update of a cell is in memory"):
        plan_of([in_memory], tmp_path)
