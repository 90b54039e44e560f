"""The samples as the report shows them: pictures with alternative texts, cards, galleries, the strip of the cover.

What leaked has a card; what did not is a thumbnail in a strip, since a page of noise says no more than a line of it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leakaudit.document.carried import is_picture
from leakaudit.document.counting import count
from leakaudit.document.schema import AttackEntry, Report, SampleResult, SnapshotEntry, VictimResult
from leakaudit.report.domains.base import Card
from leakaudit.report.views.cells import Fact, class_name, label_row
from leakaudit.report.views.comparison import comparison_sentence
from leakaudit.report.wording import MISSING, clip, scientific, seconds

PIXELATED_BELOW = 100
"""Images with fewer pixels a side are drawn with visible pixels, not smoothed: smoothing would flatter them."""
YARDSTICK = "a yardstick, given what no attacker has; it never counts"
"""What stands with the results of a declared upper bound."""
NARROW = 4
"""Thumbnails that fit in half a line on paper."""
KINDS = 6
"""Kinds of leaked samples on the cover, at most: two rows of three; chosen."""


@dataclass(frozen=True)
class Picture:
    """An image with its alternative text; ``src`` is ``None`` when the document holds none."""

    src: str | None
    alt: str
    small: bool = True


@dataclass(frozen=True)
class SampleView:
    """One private sample beside its reconstruction; `nearness` says in a few words how near it is."""

    title: str
    victim: str
    leaked: bool
    yardstick: bool
    result: str
    original: Picture
    reconstruction: Picture
    facts: list[Fact]
    snapshots: list[tuple[str, Picture]]
    nearness: str = ""
    label: str = ""
    text: Any = None
    wide: bool = False
    mask: Picture | None = None
    found_mask: Picture | None = None

    @property
    def pictured(self) -> bool:
        """Whether there are pictures to show: always where there is no text, and of both kinds where there are."""
        return self.text is None or self.original.src is not None or self.reconstruction.src is not None


@dataclass(frozen=True)
class Gallery:
    """All reconstructions of one attack."""

    attack: str
    title: str
    summary: str
    samples: list[SampleView]
    intro: str
    beside: list[str]
    notes: list[str]

    @property
    def leaked(self) -> list[SampleView]:
        """Those that have a card of their own."""
        return [sample for sample in self.samples if sample.leaked]

    @property
    def narrow(self) -> bool:
        """Whether two stand side by side on paper: of few pictures each, which are not wide."""
        least = len(self.leaked) <= 2 and len(self.held) <= NARROW
        return least and not any(sample.wide or sample.text is not None for sample in self.samples)

    @property
    def held(self) -> list[SampleView]:
        """The others."""
        return [sample for sample in self.samples if not sample.leaked]


def picture(uri: str | None, alt: str) -> Picture:
    """An image of the document; anything but a PNG data URI is left out, so nothing is ever loaded from elsewhere."""
    if uri is None or not is_picture(uri):
        return Picture(None, alt)
    head = base64.b64decode(uri[22:62])  # 8 bytes signature, 8 chunk header, then width and height
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    return Picture(uri, alt, max(width, height) < PIXELATED_BELOW)


def _label_map(uri: str | None, alt: str) -> Picture | None:
    """The picture of a label; ``None`` where it has none."""
    return None if uri is None else picture(uri, alt)


_Shown = tuple[SampleResult, AttackEntry, VictimResult, int]


def cover_samples(card: Card) -> tuple[list[SampleView], str]:
    """The clearest reconstruction of every kind of sample that leaked, else the closest attempt; and a caption."""
    candidates: list[_Shown] = [
        (sample, attack, result, position)
        for attack, result in card.results()
        for position, sample in enumerate(result.samples)
        if card.showable(sample) and not attack.upper_bound
    ]
    if not candidates:
        return [], ""
    candidates.sort(key=lambda item: (item[0].leaked, card.closeness(item[0])), reverse=True)
    if not candidates[0][0].leaked:
        sample, attack, result, position = candidates[0]
        caption = f"The closest attempt, not counted as a leak: sample {sample.index}, by {clip(attack.title, 80)}."
        return [sample_view(card, attack, result, position)], caption
    kinds: dict[Any, _Shown] = {}
    for item in candidates:
        if item[0].leaked:
            kinds.setdefault(_kind(item[0]), item)
    most = 2 if card.wide or card.text(candidates[0][0]) is not None else KINDS
    shown = [sample_view(card, a, r, p) for _, a, r, p in list(kinds.values())[:most]]
    return shown, _cover_caption(candidates[0], len(shown), len(kinds))


def _kind(sample: SampleResult) -> Any:
    """The label where there is one, else the sample itself."""
    return ("class", sample.label) if sample.label is not None else ("sample", sample.index)


def _cover_caption(best: _Shown, shown: int, kinds: int) -> str:
    sample, attack = best[0], best[1]
    if kinds == 1:
        return f"The clearest reconstruction: sample {sample.index}, by {clip(attack.title, 80)}."
    what = "class that leaked" if sample.label is not None else "sample that leaked"
    each = f"The clearest reconstruction of each {what}" if shown == kinds else f"{shown} of the {kinds} kinds"
    return f"{each}; the closest is sample {sample.index}, by {clip(attack.title, 80)}."


def under_variants(card: Card) -> list[tuple[str, SampleView]]:
    """The sample that is rebuilt clearest under the worst variant, as it was under each; labels before it."""
    worst = card.clearest(card.report.attacks)
    if worst is None or not card.report.variants:
        return []
    index = worst[1].samples[worst[2]].index
    reached = [(entry.label, card.clearest(entry.attacks, index)) for entry in card.report.variants]
    return [
        (clip(label, 60), sample_view(card, *found))
        for label, found in reached
        if found is not None and card.showable(found[1].samples[found[2]])
    ]


def gallery(card: Card, attack: AttackEntry) -> Gallery:
    """What one attack reached on every victim."""
    samples = [
        sample_view(card, attack, result, position)
        for result in attack.results
        for position in range(len(result.samples))
    ]
    beside = [comparison_sentence(attack)] if attack.beside else []
    stopped = [f"Victim {r.victim} ended early: {clip(r.stopped, 120)}." for r in attack.results if r.stopped]
    hit = f"{sum(s.leaked for s in samples)} of {count(len(samples), 'sample')}"
    told = f"{YARDSTICK}: {hit} would leak" if attack.upper_bound else f"{hit} leaked"
    return Gallery(
        attack=attack.name,
        title=clip(attack.title, 80),
        summary=f"{told} · {count(len(attack.results), 'victim')} · {seconds(attack.seconds)}",
        samples=samples,
        intro=card.told_of(attack),
        beside=beside + stopped,
        notes=notes_of(attack),
    )


def notes_of(attack: AttackEntry) -> list[str]:
    """What an attack noted, each remark once with the victims that it is about."""
    about: dict[str, list[int]] = {}
    for result in attack.results:
        for note in dict.fromkeys(result.notes):
            about.setdefault(scientific(clip(note)), []).append(result.victim)
    return [f"{_victims(victims)}: {note}" for note, victims in about.items()]


def _victims(numbers: Sequence[int]) -> str:
    """``Victim 0``, ``Victims 0 to 3``, ``Victims 0, 2``."""
    if len(numbers) == 1:
        return f"Victim {numbers[0]}"
    whole = len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1))
    return f"Victims {numbers[0]} to {numbers[-1]}" if whole else f"Victims {', '.join(map(str, numbers))}"


def _result(attack: AttackEntry, sample: SampleResult) -> str:
    """Whether it leaked, or which part of it did; of a yardstick, whether it would have."""
    if attack.upper_bound:
        return "yardstick" if sample.leaked else "not shown"
    if sample.leaked and sample.part is not None:
        name = f": {clip(sample.part.name, 40)}" if sample.part.name else ""
        return f"leaked in part{name}, {sample.part.entries} of {sample.part.of} entries"
    return "leaked" if sample.leaked else "not shown"


def sample_view(card: Card, attack: AttackEntry, result: VictimResult, position: int) -> SampleView:
    """One sample of one victim of one attack."""
    sample = result.samples[position]
    of_class = "" if sample.label is None else f", class {class_name(card.report, sample.label)}"
    near = card.described(sample)
    return SampleView(
        title=f"Sample {sample.index}",
        victim=str(result.victim),
        leaked=sample.leaked,
        yardstick=attack.upper_bound,
        result=_result(attack, sample),
        original=picture(sample.original_png, f"Original of sample {sample.index}{of_class}"),
        reconstruction=picture(
            sample.reconstruction_png,
            clip(f"Reconstruction of sample {sample.index} by {attack.title}, victim {result.victim}: {near}"),
        ),
        facts=_facts(card, sample),
        nearness=card.nearness(sample),
        label="" if sample.label is None else f"class {class_name(card.report, sample.label)}",
        text=card.text(sample),
        wide=card.wide,
        mask=_label_map(sample.label_png, f"Label of sample {sample.index}, a colour for each class"),
        found_mask=_label_map(sample.inferred_label_png, f"Label that was found for sample {sample.index}"),
        snapshots=[_snapshot(entry, position, sample.index) for entry in result.snapshots]
        if all(position < len(entry.images_png) for entry in result.snapshots)
        else [],
    )


def _snapshot(entry: SnapshotEntry, position: int, index: int) -> tuple[str, Picture]:
    share = f"{entry.fraction:.0%}"
    return share, picture(entry.images_png[position], f"Sample {index} after {share} of the attack")


def _facts(card: Card, sample: SampleResult) -> list[Fact]:
    """The metrics, the label, and whether the sample was told from others."""
    *metrics, identified = card.facts(sample)
    return [*metrics, _label_fact(card.report, sample), identified]


def _label_fact(report: Report, sample: SampleResult) -> Fact:
    if sample.label is None and sample.label_row is None:
        return Fact("Label", MISSING, "left out")
    if report.target.task == "next-token":
        told = {True: "read with the text", False: "not all read", None: ""}[sample.label_right]
        return Fact("Label", "the text itself, one place on", told)
    inferred = ""
    if sample.label_right is not None:
        inferred = "among those inferred" if sample.label_right else "not among those inferred"
    if sample.label is None:
        read = (
            ""
            if sample.inferred_row is None or sample.label_right is None
            else f"inferred {label_row(report, sample.inferred_row)}"
        )
        told = "; ".join(filter(None, [inferred, read]))
        return Fact("Label", label_row(report, sample.label_row or []), clip(told))
    return Fact("Label", class_name(report, sample.label), inferred)
