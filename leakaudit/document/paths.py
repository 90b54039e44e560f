"""Folders out of a report: paths below the working folder stay relative to it, of others the file's name stays.

An absolute path names people, customers and machines. Paths stand in fields of their own, in the command, in resolved
options and inside messages, so every text of the document is searched for the folders that occur in any of these, for
the working folder, the home folder and the temporary folder.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, TypeVar

from pydantic import BaseModel

from leakaudit.document.schema import Report

Section = TypeVar("Section", bound=BaseModel)
R = TypeVar("R", bound=Report)
_HOMES = r"/(?:home|Users)/[^/\s'\"]+|/root|[A-Za-z]:\\Users\\[^\\\s'\"]+"
"""A user's home, whoever the user is."""
_BELOW = r"[/\\](?:[^/\\\s'\":]+[/\\])*"
"""The folders of a path below it."""
_BEGIN = r"(?:(?<![\w.-])|(?<=^-[a-z]))"
"""A path does not begin within a word, unless it follows a short option."""
_DATA = "data:image/"


def short_paths(report: R) -> R:
    """The report without folders outside the working folder; a report without any is returned as an equal one."""
    return _section(report, shortener(_paths(report)))


def with_texts(report: R, change: Callable[[str], str]) -> R:
    """The report with every text in it changed by a function."""
    return _section(report, change)


def path_in_repository(path: str | None) -> str | None:
    """A file's path from the root of its repository, the nearest folder above it with a ``.git``.

    Args:
        path: The file; relative to the working folder. Links are not followed: the repository holds the link.

    Returns:
        With ``/`` between folders, or ``None`` where the file lies in no repository, or is not there.
    """
    if path is None or not os.path.lexists(path):
        return None
    file = Path(os.path.normpath(Path(path).absolute()))
    root = next((folder for folder in file.parents if os.path.lexists(folder / ".git")), None)
    return None if root is None else file.relative_to(root).as_posix()


def shortener(paths: Iterable[str]) -> Callable[[str], str]:
    """A function that takes folders out of a text.

    Args:
        paths: Files and folders as they were given; those below the working folder keep their relative path.
    """
    folders = sorted(_folders(paths), key=len, reverse=True)
    known = re.compile(_BEGIN + "(?:" + "|".join(map(re.escape, folders)) + ")")
    general = re.compile(_BEGIN + "(?:" + "|".join([*_own_places(), _HOMES]) + ")" + _BELOW)

    def shorten(text: str) -> str:
        if text.startswith(_DATA):
            return text
        return general.sub("", known.sub("", text))

    return shorten


def _folders(paths: Iterable[str]) -> set[str]:
    """What is to be cut off, each with its last separator."""
    here = Path.cwd()
    texts = {f"{folder}/" for folder in (here, here.resolve()) if len(folder.parts) > 1}
    for text in paths:
        path = Path(text)
        if path.is_absolute() and not path.is_relative_to(here):
            texts |= {f"{folder}/" for folder in (path.parent, path.resolve().parent) if len(folder.parts) > 1}
        elif text.startswith(("../", "~/")):
            texts.add(f"{path.parent}/")
            texts.add(f"{path.resolve().parent}/")
        elif re.match(r"[A-Za-z]:\\", text):
            texts.add(f"{PureWindowsPath(text).parent}\\")
    return texts or {str(here / "\0")}  # an alternative of nothing would match everywhere


def _own_places() -> list[str]:
    """The home and the temporary folder of this user, as patterns."""
    places = {Path(tempfile.gettempdir()), Path(tempfile.gettempdir()).resolve()}
    with suppress(RuntimeError):  # a user without a home
        places |= {Path.home(), Path.home().resolve()}
    return [re.escape(str(place)) for place in places if len(place.parts) > 1]


def _paths(report: Report) -> Iterator[str]:
    """Every path that the document has a place for."""
    for text in (report.target.path, report.batch.path, report.protocol.update_path):
        yield from () if text is None else (text,)
    yield from (variant.path for variant in report.variants if variant.path is not None)
    for word in report.command:
        yield word
        yield word.partition("=")[2]
        yield word[2:] if re.match(r"-[a-z]", word) else ""
    for setting in report.policy.settings if report.policy else ():
        yield from _texts(setting.value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str | PurePath):
        yield str(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _section(section: Section, shorten: Callable[[str], str]) -> Section:
    names = type(section).model_fields
    return section.model_copy(update={name: _value(getattr(section, name), shorten) for name in names})


def _value(value: Any, shorten: Callable[[str], str]) -> Any:
    if isinstance(value, str) and not isinstance(value, Enum):
        return shorten(value)
    if isinstance(value, BaseModel):
        return _section(value, shorten)
    if isinstance(value, list | tuple):
        return [_value(item, shorten) for item in value]
    if isinstance(value, Mapping):
        return {key: _value(item, shorten) for key, item in value.items()}
    return value
