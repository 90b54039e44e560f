"""Kinds of model files: told by content, read by one value each, and open to other packages."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from leakaudit import ModelError, Reader, Target, UsageError, load
from leakaudit.target.isolated import load_isolated
from leakaudit.target.modules import from_module
from leakaudit.target.readers import GROUP, Asked, Content, available, look_at, reader_of
from tests.conftest import small_mlp
from tests.plugins import Install


def recognised(content: Content) -> bool:
    return content.head.startswith(b"MINE")


def read(path: Path, asked: Asked) -> Target:
    return from_module(small_mlp(), asked.image_shape or (3, 12, 12), asked.frozen, asked.mode, path=str(path))


MINE = Reader(kind="mine", called="a file of mine", recognises=recognised, read=read)


@pytest.fixture
def installed(install: Install) -> None:
    install(GROUP, mine=f"{__name__}:MINE")


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "{}")
    return path


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("net/models/model.json", "net/data.pkl"), "exported"),
        (("serialized_exported_program.json",), "exported"),
        (("net/constants.pkl", "net/data.pkl"), "torchscript"),
        (("net/code/x.py",), "torchscript"),
        (("net/data.pkl",), "checkpoint"),
    ],
)
def test_archives_are_told_by_what_they_hold(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    assert reader_of(archive(tmp_path / "file.onnx", *names)).kind == kind


def test_files_are_told_by_how_they_begin(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.pt")
    assert reader_of(tmp_path / "a.pt").kind == "safetensors"
    (tmp_path / "b.onnx").write_bytes(b"\x80\x02}")
    assert reader_of(tmp_path / "b.onnx").kind == "pickle"
    (tmp_path / "c.safetensors").write_bytes(b"\x08\x07")
    assert reader_of(tmp_path / "c.safetensors").kind == "onnx"


def test_archives_without_a_model_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="an archive that holds no model"):
        reader_of(archive(tmp_path / "a.pt", "readme.txt"))
    (tmp_path / "b.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ModelError, match="damaged archive"):
        look_at(tmp_path / "b.pt")


def test_ours_are_complete_and_name_themselves() -> None:
    assert list(available()) == ["exported", "torchscript", "checkpoint", "npz", "safetensors", "pickle", "onnx"]
    assert all(name == reader.kind and reader.called for name, reader in available().items())
    assert {name for name, reader in available().items() if reader.weights} == {
        "checkpoint",
        "npz",
        "safetensors",
        "pickle",
    }


@pytest.mark.usefixtures("installed")
def test_a_reader_that_hashes_nothing_is_read_through_a_child_as_well(tmp_path: Path) -> None:
    (tmp_path / "net.xyz").write_bytes(b"MINE and more")
    expected = hashlib.sha256(b"MINE and more").hexdigest()
    assert load(tmp_path / "net.xyz").sha256 == expected
    assert load_isolated(tmp_path / "net.xyz").sha256 == expected


@pytest.mark.usefixtures("installed")
def test_a_reader_of_another_package_reads_its_files(tmp_path: Path) -> None:
    (tmp_path / "net.xyz").write_bytes(b"MINE and more")
    target = load(tmp_path / "net.xyz", frozen=("1.*",), mode="train")
    assert (target.mode, target.path) == ("train", str(tmp_path / "net.xyz"))
    assert set(target.parameters) == {"3.weight", "3.bias"}
    with pytest.raises(ModelError, match="is a file of mine, not a file of weights"):
        load(tmp_path / "net.xyz", factory="tests.conftest:small_mlp")


def test_one_that_cannot_be_imported_is_named(install: Install) -> None:
    install(GROUP, mine="not_there:Mine")
    with pytest.raises(UsageError, match="the model reader 'mine'"):
        available()
