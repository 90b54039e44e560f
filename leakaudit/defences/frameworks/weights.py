"""Filters of NVFlare that take differences of weights or full weights, which is what its clients send by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from leakaudit.defences.base import through
from leakaudit.defences.evidence import flat
from leakaudit.defences.frameworks.base import FrameworkFilter
from leakaudit.defences.misuse import Misuse, Practice
from leakaudit.defences.survivors import Shifted
from leakaudit.defences.units import cancelled
from leakaudit.document.status import MisuseKind
from leakaudit.observation import Channel, Observation
from leakaudit.target.target import Target


@dataclass(frozen=True, kw_only=True)
class WeightFilter(FrameworkFilter):
    """One that takes differences or full weights.

    Args:
        on: ``delta`` for differences of weights, or ``weights``.
        steps: Local steps that the client states with its result (NUM_STEPS_CURRENT_ROUND), by which values are divided
            before the filter and multiplied after it; 1 where it states none, as NVFlare has it.
    """

    on: str = "delta"
    steps: int = 1

    def _check_common(self) -> None:
        if self.on not in ("delta", "weights"):
            raise ValueError(f"on is {self.on!r}, expected delta or weights")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, expected at least 1")

    def _given(self, update: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the filter sees of a difference of weights."""
        if self.on == "delta":
            return dict(update)
        return {n: cancelled(before[n] + t, before[n]) for n, t in update.items()}

    def _sent(self, filtered: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: t - before[n] for n, t in filtered.items()} if self.on == "weights" else dict(filtered)

    def _channel_of(self, shown: Mapping[str, Tensor]) -> Channel:
        raise NotImplementedError

    def channel(self, observation: Observation) -> Channel:
        """On what it sees; :meth:`adapt` puts it where differences are."""
        return self._channel_of(observation.update)

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """With what it does to a guess; zeros say no more than that an entry was small."""
        before = {n: t.detach() for n, t in target.parameters.items() if n in observation.update}
        channel = self._channel_of(self._given(observation.update, before))
        if self.on == "weights":
            channel = Shifted(channel, before)
        return target, replace(through(observation, channel), pruned=True)

    def misuses(self, practice: Practice) -> Iterator[Misuse]:
        """Full weights in the place of differences."""
        if self.on == "weights" or practice.kind == "weights":
            yield Misuse(
                MisuseKind.WEIGHTS_FILTERED,
                f"full weights are what is sent{self._damage(practice)}; the filter is meant for their differences.",
                "certified" if self.on == "weights" else "measured",
            )

    def _damage(self, practice: Practice) -> str:
        """How many of the weights are larger than what the filter lets through."""
        if not practice.before:
            return ""
        bound = self._largest()
        weights = flat(practice.before, practice.before).abs()
        return f", and {float((weights > bound).double().mean()):.0%} of the model's are larger than {bound:g}, the cut"

    def _largest(self) -> float:
        raise NotImplementedError
