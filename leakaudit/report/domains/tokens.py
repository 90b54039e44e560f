"""What the report shows of texts: the tokens read beside the original, marked right or wrong, with their own scores.

Words, where the batch file names them, and ids otherwise. Marks are words too, so that they survive without colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from leakaudit.document.schema import AttackEntry, Report, SampleResult, TokenMetrics, TokenResult, VictimResult
from leakaudit.report.views.facts import Fact
from leakaudit.report.views.tables import Cell, Table, leak_cell, reidentified
from leakaudit.report.wording import MISSING, clip, count, fixed

Mark = Literal["right", "wrong", "unread"]
FLOORS = {
    "chance": "random tokens",
    "frequent": "most frequent tokens of the other texts",
    "other": "other texts of the file",
}
TITLES = {"accuracy": "Places right", "recall": "Tokens named", "precision": "Named and right"}
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


def is_text(report: Report) -> bool:
    """Whether the audited model takes token ids."""
    return report.target.vocabulary is not None


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


def _named(hits: int, total: int, elsewhere: list[str]) -> str:
    note = f"{hits} of its {count(total, 'different token')} named, without their order"
    if not elsewhere:
        return f"{note}, and no other."
    shown = ", ".join(elsewhere[:LONGEST_LIST]) + (", …" if len(elsewhere) > LONGEST_LIST else "")
    return f"{note}. Also named: {shown}."


def _word(tokens: TokenResult, token: int) -> str:
    return clip(tokens.words.get(token, str(token)), 30) or f"({token})"


def text_facts(sample: SampleResult, tokens: TokenResult) -> list[Fact]:
    """The scores on a text's card."""
    facts = []
    for key, title in TITLES.items():
        value, floor = getattr(tokens, key), best_floor(tokens, key)
        if value is not None:
            facts.append(Fact(title, f"{value:.0%}", f"best floor {floor:.0%}" if floor is not None else ""))
    facts.append(Fact("Skill", fixed(tokens.skill, 2), "of the way from the best floor"))
    facts.append(Fact("Re-identified", reidentified(sample), clip(sample.reidentified_reason)))
    return facts


def best_floor(tokens: TokenResult, key: str) -> float | None:
    """The floor that is hardest to beat."""
    values = [v for floor in tokens.floors.values() if (v := getattr(floor, key)) is not None]
    return max(values, default=None)


def texts(report: Report) -> Iterator[tuple[AttackEntry, VictimResult, SampleResult, TokenResult]]:
    """Every text that was read."""
    for attack in report.attacks:
        for result in attack.results:
            for sample in result.samples:
                if sample.tokens is not None:
                    yield attack, result, sample, sample.tokens


def score_table(report: Report) -> Table:
    """Every text's scores beside the best floor."""
    columns = (
        ("Sample", True), ("Attack", False), ("Victim", True), ("Result", False), ("Places right", True),
        ("Best floor", True), ("Tokens named", True), ("Best floor", True), ("Named and right", True), ("Skill", True),
        ("Re-identified", False),
    )  # fmt: skip
    table = Table("scores", "Scores of every text beside its best floor", columns)
    for attack, result, sample, tokens in texts(report):
        unordered = "" if tokens.accuracy is not None else "the set of tokens was read, not their order"
        cells: list[Cell | str] = [
            Cell(str(sample.index), str(sample.index)),
            clip(attack.title, 60),
            Cell(str(result.victim), str(result.victim)),
            leak_cell(sample),
            table.value(tokens.accuracy, _share(tokens.accuracy), unordered),
            _cell(table, best_floor(tokens, "accuracy")),
            _cell(table, tokens.recall),
            _cell(table, best_floor(tokens, "recall")),
            _cell(table, tokens.precision),
            table.value(tokens.skill, fixed(tokens.skill, 2)),
            table.value(None, reidentified(sample), sample.reidentified_reason),
        ]
        table.add(cells, attack.name, str(result.victim))
    return table


def floor_table(report: Report) -> Table:
    """What guesses without the update score; a text that several attacks read appears once."""
    columns = (("Sample", True), ("Floor", False), *((title, True) for title in TITLES.values()))
    table = Table("floors", "Floors: what scores without knowing the text", columns)
    seen: set[tuple[int, str]] = set()
    for _, _, sample, tokens in texts(report):
        for name, floor in tokens.floors.items():
            if (sample.index, name) not in seen:
                seen.add((sample.index, name))
                table.add(_floor_cells(table, sample.index, name, floor))
    return table


def _floor_cells(table: Table, index: int, name: str, floor: TokenMetrics) -> list[Cell | str]:
    numbers = [_cell(table, getattr(floor, key)) for key in TITLES]
    return [Cell(str(index), str(index)), FLOORS.get(name, clip(name, 40)), *numbers]


def _cell(table: Table, value: float | None) -> Cell:
    return table.value(value, _share(value))


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1%}"
