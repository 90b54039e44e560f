"""A TOML file of settings: short, and whatever is wrong with it is one error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from leakaudit.errors import UsageError
from leakaudit.safety.files import ordinary

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LIMIT = 1 << 20
"""Bytes of a file of settings, at most; chosen, a thousand times what one has."""


def read_toml(path: Path, called: str, hint: str = "") -> dict[str, Any]:
    """The tables of a file.

    Args:
        path: The file.
        called: How a message names it.
        hint: The way out where it is not TOML.

    Raises:
        UsageError: It is not there, cannot be read, is too long, or is not TOML.
    """
    try:
        with ordinary(path).open("rb") as stream:
            content = stream.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise UsageError(f"{called} has more than {LIMIT} bytes, expected a short TOML file")
        return dict(tomllib.loads(content.decode("utf-8")))
    except OSError as error:
        raise UsageError(f"cannot read {called}: {error.strerror}", "pass a TOML file that can be read") from error
    except (ValueError, RecursionError) as error:  # the first is the base of what tomllib and decoding raise
        raise UsageError(f"{called} is not TOML: {error}", hint) from error
