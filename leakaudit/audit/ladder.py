"""The ladder of local steps, a control: up to how many steps an attack recovers what is known.

After many local steps an attack may fail because nothing leaks, or because it follows so many steps nowhere. So it is
tried where the answer is known, at K = 1, 2, 5, 10, … up to the steps of the audit's own clients: on a bundled network
known to leak, with as few samples as the attack needs, and on generated samples through the model under audit, in steps
of as many samples as the clients take. It has the iterations that it had on the victims. K* is the largest K of those
before the first failure; beyond it, what was not shown says nothing.

The climb ends at the first failure. The numbers of steps sum up to less than 2.5 K, so at equal iterations a ladder
costs at most what two or three victims cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from leakaudit.attacks.base import Attack
from leakaudit.audit.known import Known, on_model, on_reference
from leakaudit.audit.scene import ENDED, Run, Scene, control_entry
from leakaudit.document.schema import ControlEntry
from leakaudit.protocols.base import Protocol

SERIES = (1, 2, 5)
"""Steps of the ladder, and ten, a hundred … times these; chosen, about twice as many each time."""
Rung = tuple[int, bool | None]
"""Local steps, and whether what is known was recovered; ``None`` where time ended it."""


def ladder_on_reference(run: Run, scene: Scene, runs_left: int) -> tuple[Run, ControlEntry]:
    """On a bundled network."""
    hard = not run.claims and run.attack.family == "optimisation"
    return _climbed(run, scene, runs_left, lambda attack, steps: on_reference(attack, scene, hard=hard, steps=steps))


def ladder_on_model(run: Run, scene: Scene, runs_left: int) -> tuple[Run, ControlEntry]:
    """On generated samples through the model under audit."""
    return _climbed(run, scene, runs_left, lambda attack, steps: on_model(attack, scene, steps=steps))


def rungs(protocol: Protocol) -> list[int]:
    """The numbers of steps to try, the last that of the protocol."""
    below = (protocol.taking(steps).steps for steps in _series(protocol.steps))
    return sorted({steps for steps in below if steps < protocol.steps} | {protocol.steps})


def _series(end: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, … below an end."""
    times = 1
    while times < end:
        yield from (times * factor for factor in SERIES if times * factor < end)
        times *= 10


def _climbed(
    run: Run, scene: Scene, runs_left: int, at: Callable[[Attack, int], Known | str]
) -> tuple[Run, ControlEntry]:
    """Up to the first failure, the first stop, or the top."""
    climb = _Climb(run.attack.within(run.iterations), scene, rungs(scene.protocol))
    for number, steps in enumerate(climb.planned):
        if cause := scene.budget.spent():
            climb.left = ENDED[cause]
            break
        known = at(climb.attack, steps)
        if isinstance(known, str):  # it may need more steps than the lowest rungs have
            climb.refuses(known)
        elif not climb.tries(known, runs_left + len(climb.planned) - number - 1):
            break
    return run, climb.entry()


@dataclass(eq=False)
class _Climb:
    """One ladder: what was planned, what was tried, and what was left."""

    attack: Attack
    scene: Scene
    planned: Sequence[int]
    tried: list[Rung] = field(default_factory=list)
    known: Known | None = None
    left: str = ""
    refused: str = ""

    def tries(self, known: Known, runs: int) -> bool:
        """Attack at one number of steps; whether to go on."""
        self.known = known
        steps = known.victim.observation.protocol.steps
        budget = self.scene.budget
        outcome = known.attacked(self.attack, self.scene, f"ladder {steps}", budget.share(runs))
        cut = "" if outcome.leaked else ", ".join(cut.told for cut in outcome.reconstruction.cuts)
        self.tried.append((steps, None if cut else outcome.leaked))
        did = f"not decided, {cut}" if cut else "recovered" if outcome.leaked else "not recovered"
        budget.observer.result(self.attack.title, f"{known.place}, K = {steps} local steps: {did}")
        self.left = cut
        return outcome.leaked

    def refuses(self, reason: str) -> None:
        """It does not apply at one number of steps: where it did below, the climb is not at its top."""
        self.refused = reason
        if self.known is not None:
            self.left = reason

    def entry(self) -> ControlEntry:
        """In words and numbers; passed where what is known was recovered at as many steps as the clients take."""
        if self.known is None:
            return control_entry("ladder", self.attack, None, f"not run: {self.left or self.refused}")
        reached = max((steps for steps, found in self.tried if found), default=0)
        numbers: dict[str, Any] = {"reached": reached}
        if self.known.reference:
            numbers["reference"] = self.known.reference.name
        detail = f"generated samples through {self.known.place}: {_in_words(self.tried)}"
        detail += f"; K* = {reached} of {self.scene.protocol.steps} local steps"
        detail += f", beyond that not decided: {self.left}" if self.left else ""
        passed = None if self.left else self.tried[-1][1]
        return control_entry("ladder", self.attack, passed, detail, numbers, self.tried)


def _in_words(tried: Sequence[Rung]) -> str:
    done = [str(steps) for steps, found in tried if found]
    parts = [f"recovered at K = {', '.join(done)}"] if done else []
    parts += [f"not at K = {steps}" for steps, found in tried if found is False]
    return ", ".join(parts) or "nothing decided"
