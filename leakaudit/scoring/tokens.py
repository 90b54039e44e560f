"""Scoring texts: what an attack read of a batch of token ids, against the private texts and against floors.

* *Sequence accuracy*: fraction of places at which the right token was read, after a one-to-one assignment of readings
  to texts (Hungarian method); a place that was not read counts as wrong. ``None`` if only the token set was read.
* *Token set*: recall is the share of a text's different tokens that the attack says occurred; precision the share of
  what it says that occurs anywhere in the batch.

A *floor* is the same for a guess that knows nothing of the batch: random ids (``chance``), the most frequent tokens of
the other texts in the file, as many as the batch has (``frequent``), and other texts of the file (``other``, the mean
of `DRAWS` draws). ``skill`` is the share of the way from the best floor to perfection, for accuracy or for the token
set (harmonic mean of precision and recall), whichever is larger; a text counts as leaked from `LEAK_SKILL` on, if the
reading is not closer to another text of the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.specs import TOKENS, Spec
from leakaudit.domains.tokens import tokens_of
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, Measure, SampleScore
from leakaudit.scoring.reidentify import Identification

LEAK_SKILL = 0.5
"""Share of the way from the best floor to perfection from which a text leaked; chosen, not measured: the readers of
`benchmarks/results/tokens.md` are at 100 %."""
READABLE = 0.8
"""Fraction of a text's places that are right from which it counts as readable; chosen, not measured."""
DRAWS = 20
"""Draws of other texts that the floor is the mean of; chosen."""
TOKEN_SET = "The words of {hit} of {total} texts were read, without their order,"
UNORDERED = "the set of tokens was read, not their order"


@dataclass(frozen=True)
class TokenMatch:
    """How well a guess fits one text: accuracy (``None`` without an order), precision and recall of its token set."""

    accuracy: float | None
    precision: float
    recall: float

    @property
    def overlap(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True)
class TokenScore:
    """One private text beside what was read of it.

    Args:
        original: Its ids (L,).
        recovered: The id read at each place, ``None`` where none was.
        found: Ids that the attack says occurred in the batch.
        match: How well that fits.
        floors: The same for guesses that know nothing of the batch.
        skill: Share of the way from the best floor to perfection, at most 1; negative below the floor.
    """

    original: tuple[int, ...]
    recovered: tuple[int | None, ...]
    found: tuple[int, ...]
    match: TokenMatch
    floors: dict[str, TokenMatch]
    skill: float


@dataclass(frozen=True, eq=False)
class ReadTexts:
    """What an attack read of a batch, on the CPU.

    Args:
        ids: (B, L).
        placed: Places (B, L) whose id is a reading; the others hold filler.
        found: Ids said to occur in the batch (k,).
    """

    ids: Tensor
    placed: Tensor
    found: Tensor

    @classmethod
    def of(cls, reconstruction: Reconstruction) -> ReadTexts:
        """Of a reconstruction; an attack that says nothing about places claims every one."""
        ids = reconstruction.inputs.flatten(1).cpu().long()
        if reconstruction.tokens is None:
            return cls(ids, torch.ones(ids.shape, dtype=torch.bool), torch.unique(ids))
        return cls(ids, reconstruction.tokens.placed.cpu(), reconstruction.tokens.found.cpu())

    def reading(self, row: int) -> Reading:
        """What was read of one text."""
        return Reading(self.ids[row], self.placed[row], tuple(self.found.tolist()))


@dataclass(frozen=True, eq=False)
class Reading:
    """One reading: ids (L,), which of them are read and not filler (L,), and the tokens said to be in the batch."""

    ids: Tensor
    placed: Tensor
    found: Sequence[int]


@dataclass(frozen=True, eq=False)
class Text:
    """One private text: its ids (L,), and those of its batch together."""

    ids: Tensor
    together: Sequence[int]

    @classmethod
    def of(cls, batch: Batch, position: int) -> Text:
        """A text of a batch."""
        return cls(batch.images[position].flatten(), batch.images.flatten().tolist())


@dataclass(frozen=True, eq=False, kw_only=True)
class TextScore(SampleScore):
    """One private text beside what was read of it.

    Args:
        tokens: The reading, its metrics and its floors.
    """

    tokens: TokenScore

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Accuracy, recall, precision and skill."""
        return {**asdict(self.tokens.match), "skill": self.tokens.skill}

    @property
    def floor_metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        """The same without the skill."""
        return {name: asdict(floor) for name, floor in self.tokens.floors.items()}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Only the accuracy may be undefined."""
        return {} if self.tokens.match.accuracy is not None else {"accuracy": UNORDERED}

    @property
    def strength(self) -> float:
        """The skill."""
        return self.tokens.skill

    @property
    def closeness(self) -> float:
        """The skill, and how much of it is in order."""
        return self.tokens.skill + (self.tokens.match.accuracy or 0.0)


class TokenMeasure(Measure[ReadTexts]):
    """Scores readings of texts.

    Args:
        population: The whole batch file, for floors and re-identification.
        vocabulary: Number of ids.
    """

    specs: ClassVar[tuple[Spec, ...]] = TOKENS

    def __init__(self, population: Batch, vocabulary: int) -> None:
        super().__init__(population)
        self.vocabulary = vocabulary
        self.texts = population.images.flatten(1)

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> TokenMeasure:
        """With the vocabulary of the domain."""
        return cls(population, tokens_of(domain).vocabulary)

    def like(self, domain: Domain, population: Batch) -> TokenMeasure:
        """With the other network's vocabulary."""
        return type(self)(population, tokens_of(domain).vocabulary)

    def recovered(self, domain: Domain, reconstruction: Reconstruction) -> ReadTexts:
        """Ids, places and the token set."""
        return ReadTexts.of(reconstruction)

    def distance(self, batch: Batch, found: ReadTexts) -> np.ndarray[Any, Any]:
        """Minus the number of places that were read right."""
        truth = batch.images.flatten(1)
        right = ((truth[:, None] == found.ids[None]) & found.placed[None]).sum(2)
        distance: np.ndarray[Any, Any] = -right.numpy()
        return distance

    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a text of one batch agrees with one of the other in most places."""
        same = one.images.flatten(1)[:, None] == other.images.flatten(1)[None]
        return bool((same.double().mean(2) >= LEAK_SKILL).any())

    def measure(self, guess: Reading, truth: Text) -> TokenMatch:
        """Places, and token set, of one reading against one text."""
        return _match(truth.ids, guess.found, truth.together, _accuracy(truth.ids, guess.ids, guess.placed))

    def judge(
        self, batch: Batch, position: int, found: ReadTexts, row: int, prior_only: Sequence[ReadTexts]
    ) -> TextScore:
        """The skill above the best floor, and whether another text of the file is nearer."""
        truth, guess = Text.of(batch, position), found.reading(row)
        match, floors = self.measure(guess, truth), dict(self.floors(batch, position))
        for alone in prior_only:
            blind = self._best_blind(alone, truth)
            floors["prior_only"] = max(floors.get("prior_only", blind), blind, key=lambda m: m.overlap)
        skill = _skill(match, floors)
        nearest = self.identify(batch, position, found, row)
        reason = (
            "" if skill >= LEAK_SKILL else f"less than {LEAK_SKILL:.0%} of the way from its best floor to perfection"
        )
        reason = reason or ("another text of the file is nearer to the reading" if nearest.identified is False else "")
        places = zip(guess.ids.tolist(), guess.placed.tolist(), strict=True)
        tokens = TokenScore(
            original=tuple(truth.ids.tolist()),
            recovered=tuple(token if placed else None for token, placed in places),
            found=tuple(guess.found),
            match=match,
            floors=floors,
            skill=skill,
        )
        return TextScore(
            position=position,
            reconstruction=row,
            identification=nearest,
            leaked=not reason,
            reason=reason,
            tokens=tokens,
        )

    def _best_blind(self, alone: ReadTexts, truth: Text) -> TokenMatch:
        """What was read without the update, at its best place by place."""
        accuracies = [_accuracy(truth.ids, i, p) or 0.0 for i, p in zip(alone.ids, alone.placed, strict=True)]
        return _match(truth.ids, alone.found.tolist(), truth.together, max(accuracies, default=0.0))

    def recognisable(self, score: SampleScore) -> bool:
        """Most of its places were read, in order."""
        return (score.metrics["accuracy"] or 0.0) >= READABLE

    def claim(self, score: SampleScore) -> str:
        """A token set is no reconstruction."""
        ordered = score.metrics["accuracy"] is not None
        return "" if ordered else TOKEN_SET

    def told(self, score: SampleScore) -> str:
        """Places right, or the token set where there is no order."""
        accuracy, recall, precision = (score.metrics[name] or 0.0 for name in ("accuracy", "recall", "precision"))
        if score.metrics["accuracy"] is None:
            return f"{recall:.0%} of its tokens, and {precision:.0%} of those named are right"
        return f"{accuracy:.0%} of its places right"

    def told_control(self, score: SampleScore) -> str:
        """The token set, and the places."""
        accuracy, recall, precision = (score.metrics[name] for name in ("accuracy", "recall", "precision"))
        order = "" if accuracy is None else f", {accuracy:.0%} of its places right"
        return f"{recall:.0%} of the text's tokens named, {precision:.0%} of those named right{order}"

    def summary(self, scores: Sequence[SampleScore]) -> str:
        """The most tokens, and the most places."""
        accuracies = [a for score in scores if (a := score.metrics["accuracy"]) is not None]
        order = f", {max(accuracies):.0%} of the places in the best text" if accuracies else ""
        return f"{max(score.metrics['recall'] or 0.0 for score in scores):.0%} of the tokens{order}"

    def entry(self, batch: Batch, score: SampleScore, found: ReadTexts) -> dict[str, Any]:
        """The text and what was read of it; the names of images are undefined, with a reason."""
        assert isinstance(score, TextScore)
        tokens = score.tokens
        shown = {*tokens.original, *tokens.found, *(t for t in tokens.recovered if t is not None)}
        undecided = score.identification.identified is None
        return {
            **{f"{name}_reason": "token ids, not an image" for name in ("psnr", "ssim", "lpips", "mse")},
            "margin_reason": "token ids have no PSNR",
            "reidentified_reason": "only the token set of several texts was read" if undecided else "",
            "tokens": {
                **asdict(tokens.match),
                "original": list(tokens.original),
                "recovered": list(tokens.recovered),
                "found": list(tokens.found),
                "words": {token: batch.words[token] for token in sorted(shown)} if batch.words else {},
                "floors": score.floor_metrics,
                "skill": tokens.skill,
            },
        }

    def unscored_entry(self, found: ReadTexts, row: int) -> dict[str, Any]:
        """Ids by place, and the token set."""
        reading = found.reading(row)
        places = zip(reading.ids.tolist(), reading.placed.tolist(), strict=True)
        return {
            "reading": [token if placed else None for token, placed in places],
            "found": list(reading.found),
        }

    def unscored_claim(self, found: ReadTexts) -> str:
        """A token set is no reconstruction."""
        return "" if bool(found.placed.any()) else TOKEN_SET

    def identify(self, batch: Batch, position: int, found: ReadTexts, row: int) -> Identification:
        """Against the other texts of the file; undefined for the token set of several texts."""
        reading = found.reading(row)
        nearest = self._reidentify(batch, position, reading.ids, reading.placed, reading.found)
        return Identification(nearest, len(self.population) - 1, 0, 0)

    def _reidentify(
        self, batch: Batch, position: int, guess: Tensor, placed: Tensor, found: Collection[int]
    ) -> bool | None:
        """Whether no other text of the file is nearer to the reading; undefined for the token set of several texts."""
        if len(self.population) < 2:
            return None
        if bool(placed.any()):
            nearness = [float(((text == guess) & placed).sum()) for text in self.texts]
        elif len(batch) == 1:
            nearness = [len(s & set(found)) / len(s | set(found)) for s in (set(t.tolist()) for t in self.texts)]
        else:
            return None
        return nearness[batch.indices[position]] >= max(nearness)

    def floors(self, batch: Batch, position: int) -> dict[str, TokenMatch]:
        """Random ids, the most frequent tokens of the other texts, and other texts."""
        truth, together = batch.images[position].flatten(), batch.images.flatten().tolist()
        different = len(set(together))
        floors = {"chance": TokenMatch(1 / self.vocabulary, different / self.vocabulary, different / self.vocabulary)}
        outside = torch.tensor([i for i in range(len(self.population)) if i not in set(batch.indices)])
        if len(outside) == 0:
            return floors
        others = self.texts[outside]
        frequent = [token for token, _ in Counter(others.flatten().tolist()).most_common(different)]
        floors["frequent"] = _match(truth, frequent, together, float((others.mode(0).values == truth).double().mean()))
        generator = torch.Generator().manual_seed(batch.indices[position])
        draws = [others[torch.randperm(len(others), generator=generator)[: len(batch)]] for _ in range(DRAWS)]
        matches = [
            _match(truth, torch.unique(d).tolist(), together, float((d[0] == truth).double().mean())) for d in draws
        ]
        floors["other"] = TokenMatch(
            sum(m.accuracy or 0.0 for m in matches) / DRAWS,
            sum(m.precision for m in matches) / DRAWS,
            sum(m.recall for m in matches) / DRAWS,
        )
        return floors


def _accuracy(truth: Tensor, guess: Tensor, placed: Tensor) -> float | None:
    return float(((guess == truth) & placed).double().mean()) if bool(placed.any()) else None


def _match(truth: Tensor, found: Collection[int], together: Collection[int], accuracy: float | None) -> TokenMatch:
    """The match of a found set with one text and with the batch's tokens together."""
    said, own, all_tokens = set(found), set(truth.tolist()), set(together)
    precision = len(said & all_tokens) / len(said) if said else 0.0
    return TokenMatch(accuracy, precision, len(said & own) / len(own))


def _skill(match: TokenMatch, floors: dict[str, TokenMatch]) -> float:
    def above(value: float, floor: float) -> float:
        return (value - floor) / (1 - floor) if floor < 1 else 0.0

    set_skill = above(match.overlap, max(f.overlap for f in floors.values()))
    if match.accuracy is None:
        return set_skill
    return max(set_skill, above(match.accuracy, max(f.accuracy or 0.0 for f in floors.values())))
