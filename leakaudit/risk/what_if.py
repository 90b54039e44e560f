"""What a change of the architecture would do to the rank analysis, without building the changed model.

Claim. Counts need shapes only, so a changed stride, width, bias or pool is propagated through the layer graph
(`leakaudit.risk.changes`), pulls with it what has to follow, and the model is judged again. `smallest_changes` tries
the changes one by one and lists those that leave more of the image open than every cheaper one does: cost is the
relative change of the number of parameters and of activations.

Fails with `UsageError` for changes that do not fit, naming the layer in the way. Nothing is measured: the counts of
the unchanged model that a variant is compared with are taken from shapes too, so blocks of several paths enter with
their upper bound, and a model with a segment that shapes do not judge has no score.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log, prod

from leakaudit.document.counting import grouped
from leakaudit.errors import UsageError
from leakaudit.risk.chain import segments
from leakaudit.risk.changes import Change, changed
from leakaudit.risk.judge import judge
from leakaudit.risk.rank import annotate
from leakaudit.risk.ranked import RankReport
from leakaudit.risk.shapes import Layers
from leakaudit.target.inventory import inventory
from leakaudit.target.target import Target

CHANGES = ("stride", "width", "bias", "pool")
DIGITS = 9
"""Digits of a number at most; chosen: no layer has a billion units."""
WORTH_LISTING = 0.05
"""Share of the image that a change must hide beyond what cheaper ones do; chosen."""


@dataclass(frozen=True)
class Variant:
    """A changed architecture and what it would give away.

    Args:
        changes: What was changed.
        report: Its rank analysis.
        cost: |log| of the ratio of parameters plus |log| of the ratio of activations; 0 is free.
        implied: Changes of other layers that these pull with them.
    """

    changes: tuple[Change, ...]
    report: RankReport
    cost: float
    implied: tuple[Change, ...] = ()

    def title(self) -> str:
        """The changes, and how many others follow from them."""
        text = ", ".join(map(str, self.changes))
        if not self.implied:
            return text
        names = ", ".join(change.layer for change in self.implied[:3])
        more = f" and {len(self.implied) - 3} more" if len(self.implied) > 3 else ""
        return f"{text} (with {names}{more})"

    def summary(self) -> str:
        """The changes and what follows, in one line."""
        report = self.report
        score = "-" if report.score is None else f"{report.score:.3f}"
        text = f"{self.title()}: {report.level}, risk {report.risk}, score {score}"
        if report.propagated_deficit is None:
            return text
        return f"{text}, {report.unknowns - report.propagated_deficit} of {report.unknowns} directions"

    def sentence(self) -> str:
        """The same for a reader of the report, with the option that tries it."""
        report, many = self.report, f" ({len(self.implied)} other layers follow)" if self.implied else ""
        told = f"{' and '.join(change.sentence for change in self.changes)}{many}: then {report.level}"
        if report.propagated_deficit is not None:
            known = report.unknowns - report.propagated_deficit
            told += (
                f", one update determines {grouped(known)} of {grouped(report.unknowns)} directions of the input"
                if report.propagated_deficit
                else f", no layer is read off the update any more, though one update still determines all "
                f"{grouped(report.unknowns)} directions of the input"
            )
        score = "" if report.score is None else f", score {report.score:.2f}"
        options = " ".join(f"--what-if {change}" for change in self.changes)
        return f"{told} (risk {report.risk}{score}; leakaudit rank … {options})"


def parse(text: str) -> Change:
    """``stride=conv1:2`` as a `Change`.

    Raises:
        UsageError: It does not read so.
    """
    what, _, rest = text.partition("=")
    layer, _, value = rest.rpartition(":")
    number = {"on": "1", "off": "0"}.get(value, value)
    if what not in CHANGES or not layer or not number.isdecimal() or len(number) > DIGITS:
        raise UsageError(f"--what-if {text!r} is not CHANGE=LAYER:VALUE", f"CHANGE is one of {', '.join(CHANGES)}")
    if int(number) == 0 and what != "bias":
        raise UsageError(f"--what-if {text!r}: the value must be at least 1", "for example stride=conv1:2")
    return Change(what, layer, int(number))


def what_if(target: Target, changes: tuple[Change, ...], *, batch_size: int = 1) -> Variant:
    """Rank analysis of a changed model, from shapes.

    Raises:
        UsageError: Ranks do not apply to its inputs, there is no such layer, or the change does not fit.
        TraceError: The model cannot be recorded.
    """
    if target.domain.uncounted:
        taken = target.domain.takes
        raise UsageError(f"rank analysis does not apply to {taken}, nor does --what-if", "leave out --what-if")
    layers = annotate(inventory(target), target)
    base = judge(segments(layers, batch_size), batch_size)
    variant = _judged(_prepared(layers, changes), batch_size)
    score = "none" if base.score is None else f"{base.score:g}"
    note = f"counted from shapes; the unchanged model, counted so too: {base.level}, score {score}"
    return replace(variant, report=replace(variant.report, notes=(*variant.report.notes, note)))


def smallest_changes(target: Target, *, batch_size: int = 1, limit: int = 5) -> tuple[Variant, ...]:
    """Single changes that leave more of the image open or close an exact reading, the cheapest first.

    Each one listed does more than all cheaper ones. Empty where none helps, and where shapes do not judge the
    unchanged model: no variant could be compared with it.

    Raises:
        TraceError: The model cannot be recorded.
    """
    if target.domain.uncounted:
        return ()
    layers = annotate(inventory(target), target)
    base = judge(segments(layers, batch_size), batch_size)
    if base.score is None:
        return ()
    found: list[Variant] = []
    best = _exposure(base)
    for candidate in sorted(_candidates(layers), key=lambda prepared: prepared.cost):
        variant = _judged(candidate, batch_size)
        level, determined = _exposure(variant.report)
        if level < best[0] or determined <= best[1] - WORTH_LISTING * base.unknowns:
            best = min(level, best[0]), min(determined, best[1])
            found.append(variant)
        if len(found) == limit:
            break
    return tuple(found)


def _exposure(report: RankReport) -> tuple[int, int]:
    """Level, then determined directions; a variant that cannot be judged counts as most exposed."""
    order = {"counts unavailable": 3, "exact leak": 3, "identifiable": 2, "partially identifiable": 1}
    return order[report.level], report.unknowns - (report.propagated_deficit or 0)


@dataclass(frozen=True)
class _Prepared:
    """A changed layer list before it is judged."""

    changes: tuple[Change, ...]
    implied: tuple[Change, ...]
    layers: Layers
    cost: float


def _prepared(layers: Layers, changes: tuple[Change, ...]) -> _Prepared:
    after, implied = changed(layers, changes)
    cost = abs(log(_parameters(after) / _parameters(layers))) + abs(log(_activations(after) / _activations(layers)))
    return _Prepared(changes, implied, after, cost)


def _judged(prepared: _Prepared, batch_size: int) -> Variant:
    report = judge(segments(prepared.layers, batch_size), batch_size)
    return Variant(prepared.changes, report, prepared.cost, prepared.implied)


def _candidates(layers: Layers) -> Iterator[_Prepared]:
    """Every single change that fits; of layers that change together, once."""
    seen: set[tuple[str, int, frozenset[str]]] = set()
    for change in _single_changes(layers):
        try:
            prepared = _prepared(layers, (change,))
        except UsageError:  # does not fit: not a candidate
            continue
        together = frozenset((change.layer, *(other.layer for other in prepared.implied)))
        if (change.what, change.value, together) not in seen:
            seen.add((change.what, change.value, together))
            yield prepared


def _single_changes(layers: Layers) -> Iterator[Change]:
    for layer in layers:
        if layer.kind == "convolution":
            width = layer.settings["out_channels"]
            yield Change("stride", layer.name, max(layer.settings["stride"]) * 2)
            yield Change("pool", layer.name, 2)
            yield from (
                Change("width", layer.name, w) for w in (width * 3 // 4, width // 2, width // 4) if 0 < w < width
            )
        elif layer.kind == "linear":
            width = layer.settings["out_features"]
            if layer.settings.get("biased"):
                yield Change("bias", layer.name, 0)
            yield from (Change("width", layer.name, w) for w in (width // 2, width // 4) if w > 0)


def _parameters(layers: Layers) -> int:
    """Number of trained values, norms included."""
    total = 0
    for layer in layers:
        if layer.weight is not None:
            settings = layer.settings
            outputs = settings.get("out_channels", settings.get("out_features", prod(settings.get("bias_shape", (0,)))))
            total += prod(settings.get("weight_shape", (0,))) + (outputs if layer.bias else 0)
    return total


def _activations(layers: Layers) -> int:
    """Number of values that weighted layers compute for one sample."""
    return sum(prod(layer.output_shape) for layer in layers if layer.weight is not None)
