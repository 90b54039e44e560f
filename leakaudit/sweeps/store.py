"""Results of cells that outlive the sweep, and who is at work on which cell.

::

    results/ab/ab12….zip      a result, under the hash of all that it depends on
    claims/ab12….0            who is at work on a cell; ….1 is who took it over, and so on

A claim is a file that only one driver can make. Whoever holds it writes to it again and again; one that does not
change for :data:`LEASE` seconds, by the watcher's own clock, is taken over by making the next in line, which again only
one can do. So clocks need not agree. On the machine that made it, a claim ends with its process. A cell can be audited
twice where a driver was only slow, but its result is the same, and none is audited once a result is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from leakaudit.document.status import CellStatus
from leakaudit.errors import AuditError, LeakauditError, UsageError
from leakaudit.sweeps.places import Place
from leakaudit.sweeps.results import Result, unpack

LEASE = 60.0
"""Seconds after which a claim that does not change is taken over; chosen: many times that of a write."""
BEATS = 4
"""How often a claim is renewed in that time; chosen: some may be lost."""
SAME_START = 5.0
"""Seconds by which two readings of a process's start may differ; chosen: the system's clock is adjusted in between."""


class Store:
    """A store for one driver.

    Args:
        place: Where it lies.
        lease: Seconds of a claim.
    """

    def __init__(self, place: Place, lease: float = LEASE) -> None:
        self.place = place
        self.lease = lease
        self._me = {**_process(), "driver": secrets.token_hex(8)}
        self._held: dict[str, int] = {}
        self._seen: dict[str, tuple[Any, float]] = {}
        self._beat = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._renew, daemon=True)
        self._heart.start()

    def close(self) -> None:
        """Give all claims back."""
        self._ended.set()
        self._heart.join()
        for key in list(self._held):
            self.release(key)

    # Results

    def finished(self) -> set[str]:
        """Keys of all results."""
        return {Path(name).stem for name in self.place.names("results")}

    def has(self, key: str) -> bool:
        """Whether there is a result that can be read."""
        return self.sound(key) is not None

    def sound(self, key: str) -> Result | None:
        """The head of a result whose files can all be read: of one that is damaged a sweep audits the cell again."""
        found = self.get(key)
        return None if found is None else replace(found, files={})

    def get(self, key: str, *, head_only: bool = False) -> Result | None:
        """The result of a cell, or ``None``: there is none, or what is there is damaged.

        Args:
            key: Of the cell.
            head_only: Leave the files out, and do not look at them.
        """
        content = self.place.read(_result(key))
        if content is None:
            return None
        try:
            found = unpack(content, head_only=head_only)
        except AuditError:
            return None
        return found if found.key == key else None

    def put(self, result: Result) -> None:
        """Keep a result; whole or not at all.

        Raises:
            UsageError: The place refuses.
        """
        self.place.write(_result(result.key), result.pack())

    def forget(self, keys: Iterable[str]) -> None:
        """Remove results of cells that have no report, so that they are tried again."""
        for key in keys:
            found = self.get(key, head_only=True)
            if found is not None and found.status is not CellStatus.DONE:
                self.place.remove(_result(key))

    # Claims

    def claim(self, key: str) -> bool:
        """Take a cell, if nobody alive is at work on it and it has no result.

        Raises:
            UsageError: The place refuses.
        """
        numbers = self._claims(key)
        latest = max(numbers, default=-1)
        if numbers and self._alive(key, latest):
            return False
        with self._lock:
            if not self.place.make(_claim(key, latest + 1), self._content()):
                return False
            self._held[key] = latest + 1
        for number in numbers:
            self.place.remove(_claim(key, number))
        if self.has(key):  # it was finished between looking and claiming
            self.release(key)
            return False
        return True

    def release(self, key: str) -> None:
        """Give a claim back."""
        with self._lock:
            number = self._held.pop(key, None)
        if number is not None:
            with suppress(UsageError):
                self.place.remove(_claim(key, number))

    def _claims(self, key: str) -> list[int]:
        """Numbers of the claims on a cell."""
        ends = [Path(name).name.rpartition(".") for name in self.place.names("claims")]
        return [int(number) for stem, _, number in ends if stem == key and number.isdecimal()]

    def _alive(self, key: str, number: int) -> bool:
        """Whether somebody still works on a cell."""
        name = _claim(key, number)
        content = self.place.read(name)
        if content is None:
            return False
        if (here := _known_here(content)) is not None:
            return here
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if content != before:
            self._seen[name] = (content, now)
            return True
        return now - since < self.lease

    def _content(self) -> bytes:
        self._beat += 1
        return json.dumps({**self._me, "beat": self._beat}).encode()

    def _renew(self) -> None:
        """Write to the claims that are held, as long as they are."""
        while not self._ended.wait(self.lease / BEATS):
            with self._lock:
                for key, number in self._held.items():
                    with suppress(LeakauditError, OSError):  # one that is lost is audited twice, at worst
                        self.place.write(_claim(key, number), self._content())


def _result(key: str) -> str:
    return f"results/{key[:2]}/{key}.zip"


def _claim(key: str, number: int) -> str:
    return f"claims/{key}.{number}"


def _process() -> dict[str, Any]:
    """This process, so that others on this machine can tell whether it lives; the machine's name is not told."""
    import psutil

    return {"machine": _machine(), "process": os.getpid(), "started": psutil.Process().create_time()}


def _machine() -> str:
    """A hash that is the same for all processes that can see one another."""
    import platform

    import psutil

    try:
        space = os.readlink("/proc/self/ns/pid") + Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:  # no Linux: the minute of the last start, since its seconds follow the clock
        space = f"{psutil.boot_time() / 60:.0f}"
    told = f"{platform.node()} {space}"
    return hashlib.sha256(told.encode()).hexdigest()


def _known_here(content: bytes) -> bool | None:
    """Whether a claim's process lives, or ``None`` where that cannot be seen from here."""
    import psutil

    try:
        told = json.loads(content)
        machine, process, started = told["machine"], int(told["process"]), float(told["started"])
    except (ValueError, KeyError, TypeError):  # half written: whoever did that is at work, or dies and lets it age
        return None
    if machine != _machine():
        return None
    try:
        return bool(abs(psutil.Process(process).create_time() - started) < SAME_START)
    except psutil.Error:
        return False
