"""One kind of input: its honest files, how each is damaged, and how a command reads it; with what all kinds share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import Draw, changed_archive, changed_text

Files = Sequence[tuple[str, bytes]]
"""Honest files, each as a name and its content."""
Member = Callable[[str, bytes, Draw], bytes]


@dataclass(frozen=True, eq=False)
class Subject:
    """One kind of input.

    Args:
        name: Of the kind.
        honest: Makes the honest files, each as a name and its content, from which one is damaged.
        damage: Writes a damaged copy of a content into an empty folder, and gives the path to be read.
        read: Opens that path as a command would.
        share: Of a campaign's inputs.
        whole: Writes the honest folder, for kinds that are folders.
    """

    name: str
    honest: Callable[[], Files]
    damage: Callable[[str, bytes, Draw, Path], Path]
    read: Callable[[Path], object]
    share: int
    whole: Callable[[Path], Path] | None = None


def written(folder: Path, name: str, content: bytes) -> Path:
    """A file in a folder."""
    (folder / name).write_bytes(content)
    return folder / name


def damage_archive(member: Member) -> Callable[[str, bytes, Draw, Path], Path]:
    """A way to damage archives whose members are damaged so."""

    def damage(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
        return written(folder, name, changed_archive(content, draw, member))

    return damage


def damage_text(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By lines and values."""
    text = content.decode()
    for _ in range(draw.choice((1, 1, 2))):
        text = changed_text(text, draw)
    return written(folder, name, text.encode("utf-8", "replace"))


def no_file(path: Path, draw: Draw) -> None:
    """Nothing, a folder, a pipe or a link to nowhere, to itself or to a device."""
    way = draw.randrange(6)
    if way == 0:
        path.mkdir()
    elif way == 1:
        os.mkfifo(path)
    elif way > 2:
        path.symlink_to({3: "/dev/zero", 4: path.name, 5: "nowhere"}[way])
