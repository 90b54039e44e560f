"""What an attack hands back, and how it is watched while it runs; shared by attacks, the matching engine and the audit.

A :class:`Reconstruction` is a guess of a batch with what it cost; a :class:`NotApplicable` says in place of one why an
attack cannot run. Nothing here holds a private sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from leakaudit.document.status import Cause, Cut
from leakaudit.protocols.base import Play
from leakaudit.target.dropout import Steps


class Memory(Protocol):
    """What an attack makes once and needs again, such as a trained prior; the audit decides how long it is kept.

    A key is a sequence of values with a content (text, numbers, tensors, …): everything that the thing depends on.
    """

    def held(self, *key: Any) -> Any:
        """The object that was held last under this key, or ``None``."""

    def hold(self, value: Any, *key: Any) -> None:
        """Keep an object for the runs to come; ``None`` lets it go. Few are held, and the oldest go first."""

    def stored(self, *key: Any) -> Any:
        """A value that an audit before stored under this key, or ``None``."""

    def store(self, value: Any, *key: Any) -> str:
        """Keep tensors, numbers and text, in containers, for later audits; why that was not possible, or ""."""


class Forgetting:
    """A memory that keeps nothing."""

    def held(self, *key: Any) -> Any:
        """Nothing."""

    def hold(self, value: Any, *key: Any) -> None:
        """Ignore."""

    def stored(self, *key: Any) -> Any:
        """Nothing."""

    def store(self, value: Any, *key: Any) -> str:
        """Ignore."""
        return ""


class Monitor(Protocol):
    """How a running attack reports progress and learns that it must stop. Never carries private data."""

    def update(self, fraction: float, objective: float) -> None:
        """Say how far the attack is (0 to 1) and its objective."""

    def should_stop(self) -> bool:
        """Whether the user interrupted or the attack's share of the time budget is spent."""

    def seconds_left(self) -> float | None:
        """Time left for this run, or ``None`` without a time budget."""

    def over(self) -> bool:
        """Whether also what follows a run, its certificate, must end."""

    @property
    def memory(self) -> Memory:
        """What earlier runs of this audit kept."""


@dataclass(eq=False)
class SilentMonitor:
    """A monitor that prints nothing and never stops.

    Args:
        memory: What the attack finds of earlier runs; by default nothing.
    """

    memory: Memory = field(default_factory=Forgetting)

    def update(self, fraction: float, objective: float) -> None:
        """Ignore."""

    def should_stop(self) -> bool:
        """Never."""
        return False

    def seconds_left(self) -> float | None:
        """No limit."""
        return None

    def over(self) -> bool:
        """Never."""
        return False


@dataclass(eq=False)
class Part:
    """The monitor of one part of a run, from one share of the whole to another.

    Args:
        whole: Of the run.
        begin: Share at which the part begins; of the time left, the earlier parts are over by then.
        end: Share at which it ends.
    """

    whole: Monitor
    begin: float = 0.0
    end: float = 1.0

    def update(self, fraction: float, objective: float) -> None:
        """Within the part."""
        self.whole.update(self.begin + (self.end - self.begin) * fraction, objective)

    def should_stop(self) -> bool:
        """As the whole."""
        return self.whole.should_stop()

    def seconds_left(self) -> float | None:
        """The part's share of what is left."""
        left = self.whole.seconds_left()
        return None if left is None else left * (self.end - self.begin) / (1 - self.begin)

    def over(self) -> bool:
        """As the whole."""
        return self.whole.over()

    @property
    def memory(self) -> Memory:
        """As the whole."""
        return self.whole.memory


def cause_of(monitor: Monitor) -> Cause:
    """Why a run ends before it is through, asked at its end: by its share of a time budget unless somebody stops it."""
    left = monitor.seconds_left()
    return Cause.INTERRUPT if monitor.should_stop() and (left is None or left > 0) else Cause.BUDGET


@dataclass(frozen=True)
class NotApplicable:
    """Why an attack cannot run on this target and observation, with the way out."""

    reason: str


@dataclass(frozen=True)
class LossPoint:
    """One point of an attack's objective over its iterations."""

    iteration: int
    objective: float
    match: float


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The reconstruction part of the way, ``inputs`` (B, C, H, W) in normalised space.

    ``fraction`` is of the iterations that led to the result; descents that were given up do not count.
    """

    fraction: float
    inputs: Tensor


@dataclass(frozen=True, eq=False)
class TokenReading:
    """What an attack read of a batch of token ids.

    Args:
        found: Ids (k,) that occurred somewhere in the batch, ascending.
        placed: Places (B, L) at which the reconstruction's inputs are a reading; the others hold filler.
    """

    found: Tensor
    placed: Tensor


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an attack recovered.

    Args:
        inputs: Model inputs (B, *shape), inside the valid range: (B, C, H, W) of images, ids (B, 1, 1, L) of texts.
        labels: (B, *label_shape) of the task, or class probabilities (B, K), that the attack used or recovered.
        match: Final cosine distance to the update, whatever the attack's own objective is.
        residual: ‖g(x̂) − g*‖ / ‖g*‖ of the update regenerated from the reconstruction; filled in by the base class.
        history: Objective over iterations.
        snapshots: Reconstructions part of the way.
        iterations: Iterations done, over all restarts and trials.
        seconds: Wall time; filled in by the base class.
        cuts: What it had less of than its settings say, by a time budget or an interruption.
        masks: Dropout masks by step and layer of the reconstruction, where the attack found or was given any.
        exact: True for attacks whose result is algebraic, not approximate; the certificate decides.
        notes: Facts for the report, one sentence each.
        tokens: What was read, where the model takes token ids.
        read: Entries (B, *shape) that the attack claims to have read, where these are not all; the others hold filler.
        confidence: How sure the attack is of each entry (B, *shape), from 0 to 1, without knowing the truth; ``None``
            where it does not say.
        errors: The error at the outputs (B, outputs) that the attack knew in place of the labels, which follow from it.
        confirmed: Samples (B,) that the attack's own check proves to be read right, where it has such a check.
    """

    inputs: Tensor
    labels: Tensor
    match: float
    residual: float = float("nan")
    history: tuple[LossPoint, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    iterations: int = 0
    seconds: float = 0.0
    cuts: tuple[Cut, ...] = ()
    masks: Steps | None = None
    exact: bool = False
    notes: tuple[str, ...] = field(default=())
    tokens: TokenReading | None = None
    read: Tensor | None = None
    confidence: Tensor | None = None
    errors: Tensor | None = None
    confirmed: Tensor | None = None

    @property
    def incomplete(self) -> str:
        """Why parts of the inputs are filler, so that no update follows from them; "" where none are."""
        complete = self.tokens is None or bool(self.tokens.placed.all())
        return "" if complete else "not every token's place was read"

    @property
    def stopped(self) -> str:
        """Why it ended early, or ""."""
        return next((cut.told for cut in self.cuts if cut.stopped), "")

    @property
    def play(self) -> Play:
        """The guess of what the client did."""
        return Play(self.inputs, self.labels, masks=self.masks or (), errors=self.errors)
