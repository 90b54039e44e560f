"""The domains that are installed: those of this package, and the entry points of the group ``leakaudit.domains``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points

from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images
from leakaudit.domains.tokens import Tokens
from leakaudit.errors import UsageError

GROUP = "leakaudit.domains"
OWN: tuple[type[Domain], ...] = (Images, Tokens)


def available() -> dict[str, type[Domain]]:
    """Domain classes by kind.

    Raises:
        UsageError: One that a package brings cannot be imported.
    """
    found = {domain.kind: domain for domain in OWN}
    for point in entry_points(group=GROUP):
        try:
            found[point.name] = point.load()
        except Exception as error:
            package = point.dist.name if point.dist else point.value
            raise UsageError(
                f"the domain {point.name!r} of the package {package!r} cannot be imported: "
                f"{type(error).__name__}: {error}",
                f"repair {package} or uninstall it",
            ) from error
    return found


def taken(kinds: Sequence[str]) -> str:
    """What models of these domains take, in words; a kind that is not installed by its name."""
    known = available()
    return " or ".join(known[kind].takes if kind in known else kind for kind in kinds)
