"""Importing what every command needs that opens a model: torch, and the reading of models."""

from __future__ import annotations

import gc
import sys


def import_heavy() -> None:
    """Import it while the garbage collector rests, and take what there is then out of its sight; once per process.

    Modules make hundreds of thousands of objects and no garbage. The collector would look at all of them again and
    again, also later. What it never looks at, processes that are forked share with their parent.
    """
    if "torch" in sys.modules:
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import leakaudit.audit.intake  # noqa: F401
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
