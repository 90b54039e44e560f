"""Patterns of ``--frozen`` and ``--trained`` over the names of tensors.

A pattern is one of a shell (``conv1.*``); those that begin with ``!`` are together of every name but theirs, as
``!*lora_*`` and ``!classifier.*`` for clients that train adapters and a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from leakaudit.errors import UsageError

BUT = "!"


def matched(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns is of a name, or there are exceptions and it is none."""
    kept = [pattern.removeprefix(BUT) for pattern in patterns if pattern.startswith(BUT)]
    plain = any(fnmatchcase(name, pattern) for pattern in patterns if not pattern.startswith(BUT))
    return plain or (bool(kept) and not any(fnmatchcase(name, pattern) for pattern in kept))


def check_patterns(patterns: Sequence[str], names: Sequence[str], label: str, option: str = "--frozen") -> None:
    """Refuse a pattern of an option that no tensor matches: it is a typing mistake, not a wish."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix(BUT)) for name in names):
            raise UsageError(
                f"{option} {pattern!r} matches no tensor of {label}", f"its tensors are {', '.join(names[:20])}"
            )
