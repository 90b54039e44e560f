"""A ``.gitignore`` beside a report: private images must not end up in a repository by the next ``git add -A``.

A folder of leakaudit's own gets one that hides everything in it. In a folder that holds other files, as with
``--out .``, everything would hide the user's work, so there it names the files of the report. One that is there
already is left as it is; what it does not cover is said, where the folder lies in a repository.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

NAME = ".gitignore"
UNFINISHED = ".leakaudit-"
"""How the names of files begin that are being written, see `leakaudit.report.files`."""
_HEAD = "# Made by leakaudit: its reports show private samples.\n"


def keep_out_of_git(directory: Path, ours: Collection[str], written: Collection[str]) -> str:
    """Write a ``.gitignore`` where there is none.

    Args:
        directory: The report's folder.
        ours: Names in it that are leakaudit's: files of earlier reports, and the sub-folder for partial ones.
        written: Names of the files that are about to be written.

    Returns:
        One sentence of what git would still add, or "".

    Raises:
        OSError: It cannot be written.
    """
    path = directory / NAME
    if os.path.lexists(path):
        if not _made_here(path):
            return _uncovered(path, written)
        missing = [line for name in sorted(written) if (line := f"/{name}") not in _patterns(path)]
        if missing and "*" not in _patterns(path):
            with path.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{line}\n" for line in missing)
        return ""
    others = {entry.name for entry in directory.iterdir() if not entry.name.startswith(UNFINISHED)} - set(ours)
    lines = [f"/{name}" for name in (NAME, f"{UNFINISHED}*", *sorted(written))] if others else ["*"]
    with suppress(FileExistsError), open(path, "x", encoding="utf-8", opener=_private) as stream:  # a race is no error
        stream.writelines([_HEAD, *(f"{line}\n" for line in lines)])
    return ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def remove_ours(directory: Path) -> None:
    """Remove a ``.gitignore`` that :func:`keep_out_of_git` made, from a folder that is to be removed."""
    if _made_here(directory / NAME):
        (directory / NAME).unlink(missing_ok=True)


def _made_here(path: Path) -> bool:
    return not path.is_symlink() and _text(path).startswith(_HEAD)


def _patterns(path: Path) -> list[str]:
    """The lines of a file."""
    return [line.strip() for line in _text(path).splitlines()]


def _uncovered(path: Path, written: Collection[str]) -> str:
    """What an existing file lets git add, if it lies in a repository."""
    folder = path.absolute().parent
    if not any(os.path.lexists(place / ".git") for place in (folder, *folder.parents)):
        return ""
    patterns = [pattern.removeprefix("/") for pattern in _patterns(path)]
    open_to_git = [name for name in written if not any(fnmatchcase(name, pattern) for pattern in patterns if pattern)]
    if not open_to_git:
        return ""
    return (
        f"git adds {', '.join(sorted(open_to_git))} of {path.parent} unless you ignore it: the {NAME} there is yours "
        "and was left as it is, and a report shows private samples"
    )


def _text(path: Path) -> str:
    """Of a regular file, no link; empty otherwise."""
    if not path.is_file():
        return ""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
