"""What the report shows of texts: the tokens read beside the original, marked right or wrong, with their own scores.

Words, where the batch file names them, and ids otherwise. Marks are words too, so that they survive without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from leakaudit.document.counting import count
from leakaudit.document.schema import SampleResult, TokenResult
from leakaudit.domains.specs import TOKENS, Spec
from leakaudit.report.domains.base import Card
from leakaudit.report.views.cells import Fact
from leakaudit.report.wording import MISSING, clip, number

Mark = Literal["right", "wrong", "unread"]
FLOORS = {
    "chance": "random tokens",
    "frequent": "most frequent tokens of the other texts",
    "other": "other texts of the file",
}
INTRO = (
    "Above the private text, below what the attack read at each place. Where only the set of tokens was read, the "
    "tokens of the text that the attack named are marked. The numbers compare the two; a “best floor” is what a guess "
    "without the update scores."
)
SCORES_INTRO = (
    "Places right: share of the places at which the right token was read. Tokens named: share of the text's different "
    "tokens that the attack says occur; named and right: share of what it names that is in the batch. Skill is the "
    "share of the way from the best floor to perfection; from 0.5 on a text counts as leaked."
)
IDS = "The numbers are token ids, as the batch file names no words for them."
"""What stands above texts of ids."""
LONGEST_LIST = 40


@dataclass(frozen=True)
class Place:
    """One place of a text: the original token, what was read there, and whether that is right."""

    original: str
    read: str
    mark: Mark


@dataclass(frozen=True)
class TextView:
    """One text beside what was read of it; `ordered` if places were read, else only the set of tokens."""

    places: list[Place]
    ordered: bool
    note: str


def text_view(tokens: TokenResult) -> TextView:
    """A text prepared for the template."""
    ordered = tokens.accuracy is not None
    if not tokens.original:
        return TextView([], ordered, "The tokens are left out of this report.")
    named, own = set(tokens.found), set(tokens.original)
    places = []
    for original, read in zip(tokens.original, tokens.recovered, strict=True):
        if ordered:
            mark: Mark = "unread" if read is None else "right" if read == original else "wrong"
        else:
            mark = "right" if original in named else "unread"
        shown = MISSING if read is None else _word(tokens, read)
        places.append(Place(_word(tokens, original), shown, mark))
    elsewhere = [_word(tokens, token) for token in tokens.found if token not in own]
    return TextView(places, ordered, "" if ordered else _named(len(named & own), len(own), elsewhere))


def reading_view(sample: SampleResult) -> TextView:
    """What was read of a text that nobody has."""
    if any(token is not None for token in sample.reading):
        ids = ", ".join(MISSING if token is None else str(token) for token in sample.reading)
        return TextView([], True, f"Read, place by place: {clip(ids, 400)}.")
    if not sample.found:
        return TextView([], False, "The tokens are left out of this report, or none were read.")
    shown = ", ".join(map(str, sample.found[:LONGEST_LIST])) + (", …" if len(sample.found) > LONGEST_LIST else "")
    return TextView([], False, f"{count(len(sample.found), 'token')} of the batch named, in no order: {shown}.")


def _named(hits: int, total: int, elsewhere: list[str]) -> str:
    note = f"{hits} of its {count(total, 'different token')} named, without their order"
    if not elsewhere:
        return f"{note}, and no other."
    shown = ", ".join(elsewhere[:LONGEST_LIST]) + (", …" if len(elsewhere) > LONGEST_LIST else "")
    return f"{note}. Also named: {shown}."


def _word(tokens: TokenResult, token: int) -> str:
    return clip(tokens.words.get(token, str(token)), 30) or f"({token})"


def _ordered(sample: SampleResult) -> bool:
    """Whether tokens were read at their places, and not only named."""
    if sample.tokens is None:
        return any(token is not None for token in sample.reading)
    return sample.tokens.accuracy is not None


class TokenCard(Card):
    """Texts: tokens beside tokens."""

    own: ClassVar[Sequence[Spec]] = TOKENS
    floor_titles: ClassVar[Mapping[str, str]] = {**Card.floor_titles, **FLOORS}
    intro: ClassVar[str] = INTRO
    scores_intro: ClassVar[str] = SCORES_INTRO
    thing: ClassVar[str] = "text"
    trial_heading: ClassVar[str] = "Best reading"
    trial_axis: ClassVar[str] = "skill of the best reading (lower is better)"

    @classmethod
    def headline(cls, leaked: Sequence[SampleResult], attacked: int) -> str:
        """Whether the texts were read, or only the set of their words."""
        share = f"{len({sample.index for sample in leaked})} of {attacked}"
        if any(_ordered(sample) for sample in leaked):
            return f"{share} private texts can be read from one update"
        return f"The words of {share} private texts can be read from one update, without their order"

    @classmethod
    def manner(cls, leaked: Sequence[SampleResult]) -> str:
        """The same in a word or two."""
        return "read" if any(_ordered(sample) for sample in leaked) else "read as sets of words"

    def metrics(self, sample: SampleResult) -> Mapping[str, float | None]:
        """Those of the reading, as version 1 of the schema has them."""
        names = [spec.name for spec in TOKENS]
        return {} if sample.tokens is None else {name: getattr(sample.tokens, name) for name in names}

    def floors(self, sample: SampleResult) -> Mapping[str, Mapping[str, float | None]]:
        """The same."""
        return {} if sample.tokens is None else {n: floor.model_dump() for n, floor in sample.tokens.floors.items()}

    def reason(self, sample: SampleResult, name: str) -> str:
        """Only the order may be missing."""
        return super().reason(sample, name) or "the set of tokens was read, not their order"

    def closeness(self, sample: SampleResult) -> float:
        """Skill, and how much of it is in order."""
        return 0.0 if sample.tokens is None else sample.tokens.skill + (sample.tokens.accuracy or 0.0)

    def showable(self, sample: SampleResult) -> bool:
        """Whether there is a reading, if only that it was left out."""
        return sample.tokens is not None or not sample.scored

    def text(self, sample: SampleResult) -> TextView | None:
        """The text and what was read of it; of a text that nobody has, the reading alone."""
        if sample.tokens is not None:
            return text_view(sample.tokens)
        return None if sample.scored else reading_view(sample)

    def told_once(self) -> list[str]:
        """What the numbers are where the batch file names no words; a text without an order says so itself."""
        shown = [sample.tokens for sample in self.samples() if sample.tokens is not None and sample.tokens.original]
        return [IDS] if shown and not any(tokens.words for tokens in shown) else []

    def legend(self) -> str:
        """That numbers are token ids."""
        return " ".join(self.told_once())

    def tile(self) -> Fact:
        """The most that was read of one text."""
        read = [s.tokens for s in self.evidence() if s.tokens is not None]
        accuracies = [tokens.accuracy for tokens in read if tokens.accuracy is not None]
        if accuracies:
            return Fact("Places right", f"{max(accuracies):.0%}", "of the best text, in order")
        named = max((tokens.recall for tokens in read), default=None)
        return Fact("Tokens named", MISSING if named is None else f"{named:.0%}", "of the best text, in no order")

    def input_facts(self) -> list[tuple[str, str]]:
        """Length and vocabulary."""
        target = self.report.target
        return [("Input", f"{number(target.input_shape[-1])} token ids of {number(target.vocabulary)}")]
