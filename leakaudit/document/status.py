"""What became of a run, an attack, a control and an audit, as values that code decides by.

Sentences are derived from these values, and nothing reads a sentence back. The words are those of ``report.json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class _Word(str, Enum):
    """An enum whose members print as their words."""

    def __str__(self) -> str:
        return str(self.value)


class RunStatus(_Word):
    """What became of an attack, or of a setting of a defence."""

    RUN = "run"
    NOT_APPLICABLE = "not_applicable"
    NOT_RUN = "not_run"


class ControlStatus(_Word):
    """What became of a control."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


class CellStatus(_Word):
    """What became of a cell of a sweep."""

    DONE = "done"
    FAILED = "failed"
    """The model, the samples or the request cannot be audited."""
    MEMORY = "out of memory"
    TIME = "over its time"
    LOST = "lost"
    """Its worker died, again and again."""
    NOT_RUN = "not run"

    @property
    def kept(self) -> bool:
        """Whether it is an answer that the next sweep takes as it is."""
        return self not in (CellStatus.LOST, CellStatus.NOT_RUN)

    @property
    def unaudited(self) -> bool:
        """Whether the cell was tried and has no report."""
        return self not in (CellStatus.DONE, CellStatus.NOT_RUN)


class VerdictStatus(_Word):
    """The answer of an audit; `leakaudit.findings.verdict` says what each means."""

    LEAKS_CERTIFIED = "LEAKS (certified)"
    LEAKS_MEASURED = "LEAKS (measured)"
    BOUNDED = "BOUNDED"
    NOT_SHOWN = "NOT SHOWN (budget)"
    NOT_APPLICABLE = "NOT APPLICABLE"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def leaks(self) -> bool:
        """Whether a sample was reconstructed."""
        return self in (VerdictStatus.LEAKS_CERTIFIED, VerdictStatus.LEAKS_MEASURED)

    @property
    def inconclusive(self) -> bool:
        """Whether nothing can be concluded: exit code 5."""
        return self in (VerdictStatus.INCONCLUSIVE, VerdictStatus.NOT_APPLICABLE)


class MisuseKind(_Word):
    """What deployed code does wrong with a defence; each has a finding of its own."""

    BUFFERS_COUNTED = "buffers counted"
    """The norm that is clipped counts buffers and counters."""
    WRONG_DIVISOR = "wrong divisor"
    """Noise calibrated for the sum is added to the mean, or the reverse."""
    CLASSIC_BOUND = "classic bound"
    """The classic bound of the Gaussian mechanism is used for ε > 1, where it is no theorem."""
    UNACCOUNTED = "unaccounted"
    """Noise in every round, without an accountant over the rounds."""
    SERVER_SEES_RAW = "server sees raw updates"
    """The noise is added to the aggregate, after the server has seen the updates."""
    WEIGHTS_FILTERED = "weights filtered"
    """A filter for differences acts on full weights."""
    PASSED_UNNOISED = "passed un-noised"
    """Some tensors are shared without the noise."""


class AuxiliarySource(_Word):
    """Where the samples come from that an attacker of threat model D learns from."""

    GIVEN = "given"
    """The user named public ones."""
    BATCH_FILE = "batch file"
    """Samples of the batch file that no victim holds stand for the attacker's own."""
    GENERATED = "generated"
    """Nobody's: a generic set with the spectrum of such samples."""
    GENERATOR = "own generator"
    """What the user's own generator makes."""


class Cause(_Word):
    """What ended something before it was through."""

    BUDGET = "time budget"
    SHORT = "time budget too short"
    """What is left of it is not even enough for the fewest steps that tell something."""
    INTERRUPT = "interrupted"
    MEMORY = "out of memory"


class Lost(_Word):
    """What a cut took away."""

    PLAN = "plan"
    """Iterations, before the run began: its schedule was made shorter, and then ended."""
    ITERATIONS = "iterations"
    """Iterations, on the way: the run was stopped."""
    ROUNDS = "rounds"
    """Rounds of a search, on the way."""
    RECURSION = "recursion"
    """The image: a recursion through the layers was stopped, which has nothing to show before its end."""
    TRAINING = "training"
    """Steps of the training of a prior."""
    VICTIMS = "victims"
    """Victims that were not attacked."""


@dataclass(frozen=True)
class Cut:
    """What something had less of than its settings say.

    Args:
        lost: What of.
        cause: Why.
        done: How much of it there was; of a plan, as many as were planned.
        planned: How much there would have been.
    """

    lost: Lost
    cause: Cause
    done: int = 0
    planned: int = 1

    @property
    def told(self) -> str:
        """A sentence without its full stop."""
        share = f"{self.done} of {self.planned}"
        if self.lost is Lost.VICTIMS:
            return f"{_spent(self.cause)}: {share} victims attacked{_WAY_OUT.get(self.cause, '')}"
        return {
            Lost.PLAN: f"{self.cause}: {share} iterations planned per restart",
            Lost.ITERATIONS: f"stopped after {share} iterations",
            Lost.ROUNDS: f"stopped after {share} rounds",
            Lost.RECURSION: f"stopped before the recursion reached the image: {self.cause}",
            Lost.TRAINING: f"{self.cause}: {share} training steps of the prior done",
        }[self.lost]

    @property
    def stopped(self) -> bool:
        """Whether it ended the run itself, on its way."""
        return self.lost in (Lost.ITERATIONS, Lost.ROUNDS, Lost.RECURSION)


_WAY_OUT = {Cause.MEMORY: "; use --device cpu, or a smaller --batch-size"}


def _spent(cause: Cause) -> str:
    return "time budget spent" if cause is Cause.BUDGET else str(cause)
