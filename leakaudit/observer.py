"""How a running audit tells what it does; the library itself prints nothing."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """How a running audit tells what it does."""

    def stage(self, message: str) -> None:
        """A new stage began."""

    def plan(self, done: int, current: int, total: int) -> None:
        """Before a run: steps of attacks that are done, that the run has, and of the whole audit, estimated."""

    def attack(self, title: str, victim: int, victims: int) -> None:
        """An attack on one victim begins."""

    def progress(self, fraction: float, objective: float) -> None:
        """Progress of the running attack, 0 to 1."""

    def result(self, title: str, summary: str) -> None:
        """An attack on one victim ended."""

    def interrupted(self) -> bool:
        """Whether the user asked to stop."""


def remark(observer: Observer, message: str) -> None:
    """Tell something that is no stage, where the observer knows the difference (its own method ``remark``)."""
    getattr(observer, "remark", observer.stage)(message)


class SilentObserver:
    """Says nothing and never interrupts; the default of the Python API."""

    def stage(self, message: str) -> None:
        """Ignore."""

    def plan(self, done: int, current: int, total: int) -> None:
        """Ignore."""

    def attack(self, title: str, victim: int, victims: int) -> None:
        """Ignore."""

    def progress(self, fraction: float, objective: float) -> None:
        """Ignore."""

    def result(self, title: str, summary: str) -> None:
        """Ignore."""

    def interrupted(self) -> bool:
        """Never."""
        return False
