"""The defences that are installed: the entry points of the group ``leakaudit.defences``.

The name of an entry point is the key that the defence's text begins with; a defence with several such keys (``clip``
and ``noise``) has an entry point for each. A dot in it stands for the colon behind the name of a framework.
"""

from __future__ import annotations

from leakaudit.defences.base import Defence
from leakaudit.defences.names import GROUP
from leakaudit.plugins import installed


def available() -> dict[str, type[Defence]]:
    """Defence classes by leading key, ours first.

    Raises:
        UsageError: One that a package brings cannot be imported.
    """
    found: dict[str, type[Defence]] = {n.replace(".", ":"): d for n, d in installed(GROUP, "defence").items()}
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def keys_of() -> dict[type[Defence], tuple[str, ...]]:
    """The leading keys of each defence."""
    found: dict[type[Defence], tuple[str, ...]] = {}
    for key, kind in available().items():
        found[kind] = (*found.get(kind, ()), key)
    return found


def default_grid(batch_size: int, samples: int) -> tuple[str, ...]:
    """The settings that ``leakaudit defend`` tries where the user names none.

    Args:
        batch_size: Samples per update without a defence.
        samples: In the batch file: no more than these can stand behind an update.
    """
    return tuple(text for kind in keys_of() for text in kind.grid(batch_size, samples))
