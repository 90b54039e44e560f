"""Importing what the user named as ``package.module:function``, and nothing else of the current folder."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leakaudit.errors import OwnCodeError, UsageError


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Inside, modules of the current folder can be imported too, after all installed ones of the same name.

    Only for the import of what the user named: were it on the path for longer, or in front, a file ``scipy.py`` of a
    cloned repository would run at the next import of that name.
    """
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def user_function(option: str, path: str, hint: str) -> Callable[..., Any]:
    """A user's function ``module:function``.

    Args:
        option: That named it, for errors.
        path: Of the function.
        hint: What else it could be, for errors.

    Raises:
        UsageError: There is no such module or function.
    """
    module, _, name = path.partition(":")
    try:
        with current_folder_importable():
            function = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever the user's module does while it is imported
        raise UsageError(f"{option} {path}: {type(error).__name__}: {error}", hint) from error
    if not callable(function):
        raise UsageError(f"{option} {path} is {type(function).__name__}, expected a function", hint)
    found: Callable[..., Any] = function
    return found


def raised_by(option: str, path: str, error: Exception, given: str = "") -> OwnCodeError:
    """The error of a user's function as one of usage: what it raised, in which line, and what it was given."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return OwnCodeError(
        f"{option} {path} raised {type(error).__name__}: {error} ({where}){given}",
        "mend your function; --debug shows its traceback",
    )
