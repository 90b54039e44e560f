"""Importing what the user named as ``package.module:function``, and nothing else of the current folder."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from leakaudit.errors import LeakauditError, OwnCodeError, UsageError


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
        UsageError: There is no such module or function, or the module fails while it is imported.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise UsageError(f"{option} {path} is not of the form module:function", hint)
    try:
        with current_folder_importable():
            function = getattr(importlib.import_module(module), name)
    except LeakauditError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's module does while it is imported
        raise UsageError(f"{option} {path}: {type(error).__name__}: {error}", hint) from error
    if not callable(function):
        raise UsageError(f"{option} {path} is {type(function).__name__}, expected a function", hint)
    found: Callable[..., Any] = function
    return found


def user_source(path: str, function: Callable[..., Any]) -> bytes:
    """The file that ``module:function`` names, and behind it the one that the function stands in where that is another.

    By them results of another version can be told apart. Empty where there is none that can be read, as for what is
    typed into a prompt.

    Args:
        path: Of the function.
        function: What was imported.
    """
    named = getattr(sys.modules.get(path.partition(":")[0]), "__file__", None)
    files = dict.fromkeys(file for file in (named, _file_of(function)) if file)
    found = b""
    for file in files:
        with suppress(OSError):
            found += Path(file).read_bytes()
    return found


def _file_of(function: Any) -> str | None:
    """Where a function, or the class of what is called like one, was written."""
    whole = inspect.unwrap(function)
    while isinstance(whole, partial):
        whole = inspect.unwrap(whole.func)
    try:
        return inspect.getfile(whole if inspect.isroutine(whole) or inspect.isclass(whole) else type(whole))
    except (OSError, TypeError):
        return None


def raised_by(option: str, path: str, error: Exception, given: str = "") -> OwnCodeError:
    """The error of a user's function as one of usage: what it raised, in which line, and what it was given."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return OwnCodeError(
        f"{option} {path} raised {type(error).__name__}: {error} ({where}){given}",
        "mend your function; --debug shows its traceback",
    )
