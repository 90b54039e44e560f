"""Names of files that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakaudit.errors import UsageError


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart.

    Raises:
        UsageError: Two are the same.
    """
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        shown = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(shown)) == len(shown):
            return shown
    raise UsageError("--checkpoints names a file twice", "give each file once")
