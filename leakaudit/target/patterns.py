"""Patterns of ``--frozen`` and ``--trained`` over the names of tensors.

A pattern is one of a shell (``conv1.*``); one that begins with ``!`` is of every name but those, as ``!*lora_*`` for
clients that train adapters alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from leakaudit.errors import UsageError

BUT = "!"


def matched(name: str, patterns: Sequence[str]) -> bool:
    """Whether any of the patterns is of a name."""
    return any(fnmatchcase(name, pattern.removeprefix(BUT)) != pattern.startswith(BUT) for pattern in patterns)


def check_patterns(patterns: Sequence[str], names: Sequence[str], label: str, option: str = "--frozen") -> None:
    """Refuse a pattern of an option that no tensor matches: it is a typing mistake, not a wish."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix(BUT)) for name in names):
            raise UsageError(
                f"{option} {pattern!r} matches no tensor of {label}", f"its tensors are {', '.join(names[:20])}"
            )
