"""Whether a command may keep results on disk."""

from __future__ import annotations

from collections.abc import Mapping

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


def without_disk(settings: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    """Settings under which the attacks keep nothing on disk either."""
    from leakaudit.attacks.registry import available

    own = [name for name, attack in available().items() if hasattr(attack.presets["standard"], "cache")]
    return {**settings, **{name: {**settings.get(name, {}), "cache": "false"} for name in own}}
