"""The formats that are installed: the entry points of the group ``leakaudit.formats``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from leakaudit.errors import UsageError
from leakaudit.plugins import FORMATS as GROUP
from leakaudit.plugins import installed

if TYPE_CHECKING:
    from leakaudit.report.formats.base import Format


def available() -> dict[str, Format]:
    """Formats by name in the order of writing, the document last.

    Raises:
        UsageError: One cannot be imported, is no format of that name, or two want the same file.
    """
    found: dict[str, Format] = installed(GROUP, "report format")
    files: dict[str, str] = {}
    for name, kind in found.items():
        if getattr(kind, "name", None) != name:
            raise UsageError(
                f"the report format {name!r} is no Format of that name", "repair the package or uninstall it"
            )
        if PurePath(kind.file).name != kind.file:
            raise UsageError(f"the report format {name!r} writes {kind.file!r}, expected a file name without a folder")
        if kind.file in files:
            raise UsageError(f"the report formats {files[kind.file]!r} and {name!r} both write {kind.file}")
        files[kind.file] = name
    return dict(sorted(found.items(), key=lambda item: (item[1].document, item[0])))


def chosen(wanted: Sequence[str]) -> list[Format]:
    """The formats of these names, or the default ones for none, in the order of writing.

    Raises:
        UsageError: There is no format of a name.
    """
    known = available()
    if unknown := sorted(set(wanted) - set(known)):
        raise UsageError(f"unknown report format {', '.join(unknown)}", f"choose from {', '.join(known)}")
    return [kind for name, kind in known.items() if (name in wanted if wanted else kind.default)]
