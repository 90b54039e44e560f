"""Whether a command may keep results on disk."""

from __future__ import annotations

from leakaudit.cli.output import say
from leakaudit.errors import UsageError


def cache_usable() -> bool:
    """Remove what is old, and see whether something new can be stored; a warning says why not."""
    from leakaudit.audit.cache import Cache

    cache = Cache()
    try:
        cache.remove_old()
        cache.put("0" * 64, None)
    except UsageError as error:
        say(f"Warning: nothing is cached, {error.message} ({error.hint})", err=True)
        return False
    return True
