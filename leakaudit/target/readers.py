"""Readers of model files: one value per kind says how its content is recognised and how it becomes a Target.

The content decides what a file is, whatever its name says. A package brings a reader by an entry point of the group
``leakaudit.readers``; the entry point's name is the kind. Readers are asked in ascending `Reader.order`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from leakaudit.errors import ModelError
from leakaudit.plugins import installed
from leakaudit.target.target import Target

GROUP = "leakaudit.readers"
HEAD = 16
"""Bytes of a file that tell its kind; the longest mark that ours look at has 9."""


@dataclass(frozen=True)
class Content:
    """What a reader may look at to recognise a file, without unpacking or running anything.

    Args:
        path: The file.
        head: Its first bytes, at most `HEAD`.
        size: Its length in bytes.
        members: Names in a zip archive; ``None`` for other files.
    """

    path: Path
    head: bytes
    size: int
    members: tuple[str, ...] | None = None

    @property
    def inner(self) -> tuple[str, ...]:
        """Names in the archive without the folder that torch puts around everything."""
        return tuple(name.partition("/")[2] for name in self.members or ())


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a file is to be read; see `leakaudit.target.load` for each."""

    mode: Literal["eval", "train"] = "eval"
    output: str | None = None
    frozen: Sequence[str] = ()
    trained: Sequence[str] = ()
    trust: bool = False
    unsafe_pickle: bool = False
    image_shape: tuple[int, ...] | None = None
    dropout: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One kind of model file.

    Args:
        kind: Its name, that of its entry point.
        called: What it is in a sentence: ``an ONNX model``.
        risk: What opening it can do, where it is opened only if trusted; goes on after `called`.
        recognises: Whether a file is of this kind.
        read: The Target; may raise `ModelError`, and must run nothing of the file unless asked to trust it.
        weights: Tensors by name, for the module that a factory builds; ``None`` for files that are no weights.
        order: Readers are asked in ascending order; ours are at 50, and at 90 where anything is taken.
    """

    kind: str
    called: str
    recognises: Callable[[Content], bool]
    read: Callable[[Path, Asked], Target]
    weights: Callable[[Path], dict[str, Tensor]] | None = None
    risk: str = ""
    order: int = 50


def available() -> dict[str, Reader]:
    """Readers by kind, in the order of asking.

    Raises:
        UsageError: One that a package brings cannot be imported.
    """
    found: dict[str, Reader] = installed(GROUP, "model reader")
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def reader_of(path: Path) -> Reader:
    """The reader of a file.

    Raises:
        ModelError: The content is of no kind known here, or a damaged archive.
    """
    content = look_at(path)
    for reader in available().values():
        if reader.recognises(content):
            return reader
    what = "an archive that holds no model" if content.members is not None else "no model file"
    raise ModelError(f"{path} is {what}", "pass an ONNX, .pt2, TorchScript, state-dict or safetensors file")


def look_at(path: Path) -> Content:
    """The beginning of a file, and what is in it if it is an archive.

    Raises:
        ModelError: It is a damaged archive.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    size = path.stat().st_size
    if head[:4] != b"PK\x03\x04":
        return Content(path, head, size)
    try:
        with zipfile.ZipFile(path) as archive:
            return Content(path, head, size, tuple(archive.namelist()))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(f"{path} is a damaged archive ({error})", "copy or export it again") from error
