"""The policy: from which severity on a finding fails, rule by rule, and which findings are accepted until when.

Written in ``leakaudit.toml``, or under ``[tool.leakaudit]`` of ``pyproject.toml``::

    fail-on = "high"

    [rules]
    LA301 = "never"        # one rule
    LA1xx = "medium"       # a family

    [[suppress]]
    rule = "LA404"
    reason = "accepted by the security team, ticket 123"
    expires = 2027-03-31

Every other key is an option of ``leakaudit scan``; those that can run code count only in a file that ``--policy``
names. A suppression without a reason or an end is refused; one that has ended no longer counts, and the report says so.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from leakaudit.document.schema import FindingEntry, Severity
from leakaudit.errors import UsageError, nearest
from leakaudit.safety.ownership import foreign_hands
from leakaudit.safety.toml import read_toml

Threshold = Literal["critical", "high", "medium", "low", "never"]
THRESHOLDS: tuple[Threshold, ...] = get_args(Threshold)
OWN_FILE, SHARED_FILE, TABLE = "leakaudit.toml", "pyproject.toml", "tool.leakaudit"
_RULE = re.compile(r"LA\d(\d\d|\dx|xx)")


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """A finding that is accepted until the end of a day.

    Args:
        rule: Id of the finding.
        reason: Why, for the next reader.
        expires: The last day on which it counts.
    """

    rule: str
    reason: str
    expires: datetime.date

    def active(self, today: datetime.date) -> bool:
        """Whether it still counts."""
        return today <= self.expires


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What fails an audit.

    Args:
        fail_on: Findings of this severity or above fail; ``never`` fails none.
        rules: The same for single rules (``LA301``) or families (``LA3xx``, ``LA95x``); the most exact one counts.
        suppressions: Findings that are accepted for now.
        file: Where it was read from.
    """

    fail_on: Threshold = "high"
    rules: Mapping[str, Threshold] = field(default_factory=dict)
    suppressions: tuple[Suppression, ...] = ()
    file: Path | None = None

    def threshold(self, identifier: str) -> Threshold:
        """The severity from which on this rule fails."""
        for name in (identifier, f"{identifier[:4]}x", f"{identifier[:3]}xx"):
            if name in self.rules:
                return self.rules[name]
        return self.fail_on

    def reaches(self, finding: FindingEntry) -> bool:
        """Whether a finding is severe enough to fail."""
        threshold = self.threshold(finding.id)
        levels = get_args(Severity)
        return threshold != "never" and levels.index(finding.severity) <= levels.index(threshold)


def find_policy(start: Path | None = None) -> Path | None:
    """The nearest ``leakaudit.toml``, or ``pyproject.toml`` with our table, from a folder up to its repository's root.

    The root is the nearest folder with a ``.git`` (a folder, or the file of a worktree). Outside of a repository only
    the folder itself counts: what lies above it may be anybody's, as in a shared temporary folder.

    Raises:
        UsageError: Another user can write the file, or the folder that it is in.
    """
    for place in _searched((start or Path.cwd()).absolute()):
        shared = place / SHARED_FILE
        if (place / OWN_FILE).is_file():
            return _own(place / OWN_FILE)
        if shared.is_file() and _table(shared) is not None:
            return _own(shared)
    return None


def _searched(folder: Path) -> list[Path]:
    """The folders in which a policy counts without being named."""
    places = [folder, *folder.parents]
    root = next((index for index, place in enumerate(places) if os.path.lexists(place / ".git")), 0)
    return places[: root + 1]


def _own(path: Path) -> Path:
    """The path, if nobody but the user could have written what it leads to."""
    for place in dict.fromkeys((path, path.parent, path.resolve().parent)):
        try:
            reason = foreign_hands(place)
        except OSError as error:
            reason = f"cannot be checked: {error.strerror}"
        if reason:
            what = "it" if place == path else f"its folder {place}"
            raise UsageError(
                f"the policy {path} is not used: {what} {reason}",
                f"pass --policy {path} if you trust it, or --policy with another file",
            )
    return path


def read_policy(path: Path) -> tuple[Policy, dict[str, Any]]:
    """A policy file's policy, and its other keys: options of ``leakaudit scan`` by parameter name.

    Raises:
        UsageError: The file is not there, not TOML, or says something that cannot be.
    """
    document = _table(path) or {}
    options = {key.replace("-", "_"): value for key, value in document.items()}
    rules = _rules(path, options.pop("rules", {}))
    suppressions = _suppressions(path, options.pop("suppress", []))
    fail_on = options.get("fail_on", "high")
    if fail_on not in THRESHOLDS:
        raise UsageError(f"{path}: fail-on is {fail_on!r}, expected one of {', '.join(THRESHOLDS)}")
    return Policy(fail_on=fail_on, rules=rules, suppressions=suppressions, file=path), options


def refuse_unknown(path: Path, options: Mapping[str, Any], known: set[str]) -> None:
    """Refuse keys that are no option.

    Raises:
        UsageError: Names the key, and what was probably meant.
    """
    for key in options:
        if key not in known:
            names = [name.replace("_", "-") for name in known]
            hint = nearest(key.replace("_", "-"), names, "see leakaudit scan --help", "'{}'")
            raise UsageError(f"{path}: unknown key {key.replace('_', '-')!r}", hint)


def _table(path: Path) -> dict[str, Any] | None:
    """What a file says for us: all of it, or the table of one that is shared; of one without it ``None``.

    Raises:
        UsageError: The file cannot be read, or what should be our table is none.
    """
    document = read_toml(path, f"the policy {path}", "leakaudit init writes one")
    if path.name != SHARED_FILE:
        return document
    tools = document.get("tool", {})
    table = tools.get("leakaudit") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{path}: [{TABLE}] is not a table")
    return table


def _rules(path: Path, table: Any) -> dict[str, Threshold]:
    if not isinstance(table, dict):
        raise UsageError(f'{path}: [rules] is not a table of rule = "severity"')
    for name, threshold in table.items():
        if not _RULE.fullmatch(name):
            raise UsageError(f"{path}: [rules] has {name!r}, expected a rule as LA301 or a family as LA3xx")
        _known(path, name)
        if threshold not in THRESHOLDS:
            raise UsageError(f"{path}: rule {name} has {threshold!r}, expected one of {', '.join(THRESHOLDS)}")
    return dict(table)


def _suppressions(path: Path, entries: Any) -> tuple[Suppression, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: [[suppress]] is not a list of tables")
    return tuple(_suppression(path, number, entry) for number, entry in enumerate(entries, 1))


def _suppression(path: Path, number: int, entry: Mapping[str, Any]) -> Suppression:
    where = f"{path}: suppression {number}"
    if unknown := sorted(set(entry) - {"rule", "reason", "expires"}):
        raise UsageError(f"{where} has unknown key {unknown[0]!r}", "it takes rule, reason and expires")
    rule, reason, expires = (entry.get(key) for key in ("rule", "reason", "expires"))
    if not isinstance(rule, str) or not re.fullmatch(r"LA\d\d\d", rule):
        raise UsageError(f"{where} has rule {rule!r}, expected one id as LA301")
    _known(path, rule)
    if not isinstance(reason, str) or not reason.strip():
        raise UsageError(f"{where} ({rule}) has no reason", 'add reason = "who accepted it and why"')
    if isinstance(expires, str):
        try:
            expires = datetime.date.fromisoformat(expires)
        except ValueError:
            expires = None
    if isinstance(expires, datetime.datetime):
        expires = expires.date()
    if not isinstance(expires, datetime.date):
        raise UsageError(f"{where} ({rule}) has no end", "add expires = 2027-03-31, its last day")
    return Suppression(rule=rule, reason=reason, expires=expires)


def _known(path: Path, name: str) -> None:
    """Refuse a rule, or a family, that does not exist."""
    from leakaudit.findings import RULES

    prefix = name.rstrip("x")
    if not any(identifier.startswith(prefix) for identifier in RULES):
        raise UsageError(f"{path}: there is no rule {name}", "leakaudit explain lists all")
