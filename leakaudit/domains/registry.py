"""The domains that are installed: those of this package, and the entry points of the group ``leakaudit.domains``."""

from __future__ import annotations

from collections.abc import Sequence

from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images
from leakaudit.domains.several import Several
from leakaudit.domains.signals import Signals
from leakaudit.domains.table import Table
from leakaudit.domains.tokens import Tokens
from leakaudit.domains.volumes import Volumes
from leakaudit.plugins import installed

GROUP = "leakaudit.domains"
OWN: tuple[type[Domain], ...] = (Images, Volumes, Signals, Tokens, Table, Several)


def available() -> dict[str, type[Domain]]:
    """Domain classes by kind.

    Raises:
        UsageError: One that a package brings cannot be imported.
    """
    return {**{domain.kind: domain for domain in OWN}, **installed(GROUP, "domain")}


def taken(kinds: Sequence[str]) -> str:
    """What models of these domains take, in words; a kind that is not installed by its name."""
    known = available()
    *others, last = [known[kind].takes if kind in known else kind for kind in kinds]
    return f"{', '.join(others)} or {last}" if others else last
