"""The name of a result: what decides it changes the name, and where files lie does not."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from leakaudit.sweeps import contents as module
from leakaudit.sweeps.contents import PERMISSIONS, Contents, files_below, named_files, relocated
from tests.sweeps.build import requests


def key(folder: Path, seed: int = 0) -> str:
    (request,) = requests(folder, ["net"], [seed])
    return Contents(folder).key(request, "full")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    return tmp_path / "one"


def test_files_may_move_together_with_their_sweep(folder: Path) -> None:
    before = key(folder)
    shutil.copytree(folder, folder.parent / "two")
    assert key(folder.parent / "two") == before


def test_the_content_of_every_file_counts(folder: Path) -> None:
    (request,) = requests(folder, ["net"])
    (folder / "others").mkdir()
    (folder / "others" / "x.png").write_bytes(b"a")
    request = replace(request, distractors=folder / "others")
    keys = [Contents(folder).key(request)]
    for path, content in (
        ("net.onnx", b"retrained"),
        ("batch.npz", b"more"),
        ("others/x.png", b"b"),
        ("others/y", b""),
    ):
        (folder / path).write_bytes(content)
        keys.append(Contents(folder).key(request))
    (folder / "net.onnx").unlink()
    keys.append(Contents(folder).key(request))
    assert len(set(keys)) == 6


def test_the_request_and_the_evidence_count(folder: Path) -> None:
    (request,) = requests(folder, ["net"])
    contents = Contents(folder)
    assert len({contents.key(request, "full"), contents.key(request, "none"), key(folder, 1)}) == 3
    assert contents.key(replace(request, cache=True), "full") == contents.key(request, "full")


@pytest.mark.parametrize("name", PERMISSIONS)
def test_a_cell_that_was_refused_for_want_of_a_permission_is_another_one(folder: Path, name: str) -> None:
    (request,) = requests(folder, ["net"])
    contents = Contents(folder)
    assert contents.key(replace(request, **{name: True})) != contents.key(request)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_not_read(folder: Path) -> None:
    (request,) = requests(folder, ["net"])
    known = Contents(folder).key(request)
    (folder / "net.onnx").unlink()
    absent = Contents(folder).key(request)
    os.mkfifo(folder / "net.onnx")
    assert Contents(folder).key(request) == absent != known


def test_what_runs_is_asked_once_for_all_cells(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    honest = module.entry_points
    monkeypatch.setattr(module, "entry_points", lambda group: (asked.append(group), honest(group=group))[1])
    contents = Contents(folder)
    for request in requests(folder, ["net"], range(5)):
        contents.key(request)
    assert len(asked) == len(set(asked)) > 0


def test_the_source_of_a_named_function_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (request,) = requests(folder, ["net"])
    source = "def defend(update, generator): return update\ndef build(): return {}\n"
    (folder / "nets_of_a_sweep.py").write_text(source.format(1))
    monkeypatch.delitem(sys.modules, "nets_of_a_sweep", raising=False)
    for number, changes in enumerate(
        (
            {"factory": "nets_of_a_sweep:build"},
            {"generator": "nets_of_a_sweep:build"},
            {"defences": ("nets_of_a_sweep:defend",)},
            {"loss": "nets_of_a_sweep:loss", "task": "single-label"},
        )
    ):
        own = replace(request, **changes)  # type: ignore[arg-type]
        before = Contents(folder).key(own)
        (folder / "nets_of_a_sweep.py").write_text(source.format(2 + number))
        assert Contents(folder).key(own) != before


def test_external_data_of_a_model_belongs_to_it(folder: Path) -> None:
    (folder / "classes").mkdir()
    (folder / "classes" / "a.png").touch()
    assert files_below(folder / "classes") == [folder / "classes" / "a.png"]
    assert files_below(folder / "absent.onnx", model=True) == [folder / "absent.onnx"]


def test_a_request_can_be_moved_elsewhere(folder: Path) -> None:
    (request,) = requests(folder, ["net"])
    assert named_files(request) == {"model": (folder / "net.onnx",), "batch": (folder / "batch.npz",)}
    moved = relocated(request, {folder / "net.onnx": Path("/else/net.onnx")})
    assert (moved.model, moved.batch) == (Path("/else/net.onnx"), folder / "batch.npz")
    several = replace(request, checkpoints=(folder / "net.onnx",))
    assert relocated(several, {folder / "net.onnx": Path("/x")}).checkpoints == (Path("/x"),)
