"""What is installed of one kind of extension: the entry points of a group, ours and those of other packages.

Groups: ``leakaudit.attacks``, ``leakaudit.defences``, ``leakaudit.domains``, ``leakaudit.formats``,
``leakaudit.readers``. Finding names imports nothing; an extension is imported when it is asked for.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from leakaudit.errors import UsageError

FORMATS = "leakaudit.formats"
"""Here, so that the command line names formats without loading the report."""


def names(group: str) -> tuple[str, ...]:
    """The names in a group, ascending, without importing anything."""
    return tuple(sorted({point.name for point in _points(group)}))


def installed(group: str, kind: str) -> dict[str, Any]:
    """Everything in a group by name, imported, in ascending order of names.

    Args:
        group: Of entry points.
        kind: What one of them is, for messages: ``attack``.

    Raises:
        UsageError: One cannot be imported; an audit without it would say less than it seems to.
    """
    return {point.name: _loaded(point, kind) for point in sorted(_points(group), key=lambda p: p.name)}


def _points(group: str) -> EntryPoints:
    return _found(group, tuple(sys.path))


@cache
def _found(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Those on an import path: reading them takes milliseconds, and an audit asks 80 times."""
    return entry_points(group=group)


def _loaded(point: EntryPoint, kind: str) -> Any:
    try:
        return point.load()
    except Exception as error:
        package = point.dist.name if point.dist else point.value
        raise UsageError(
            f"the {kind} {point.name!r} of the package {package!r} cannot be imported: {type(error).__name__}: {error}",
            f"repair {package} or uninstall it",
        ) from error
