"""Importing what the user named as ``package.module:function``, and nothing else of the current folder."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
