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
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.images import SampleScore, Scores
from leakaudit.scoring.reidentify import Identification

LEAK_SKILL = 0.5
"""Share of the way from the best floor to perfection from which a text leaked; chosen, not measured: the readers of
`benchmarks/results/tokens.md` are at 100 %."""
DRAWS = 20
"""Draws of other texts that the floor is the mean of; chosen."""
NO_IMAGE = dict.fromkeys(("psnr", "ssim", "lpips", "mse"), "token ids, not an image")


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


class TokenScorer:
    """Scores readings of batches drawn from one file of texts.

    Args:
        population: The whole batch file, for floors and re-identification.
        vocabulary: Number of ids.
    """

    def __init__(self, population: Batch, vocabulary: int) -> None:
        self.population, self.vocabulary = population, vocabulary
        self.texts = population.images.flatten(1)

    def score(self, batch: Batch, read: ReadTexts, prior_only: Sequence[ReadTexts] = ()) -> list[SampleScore]:
        """Score readings against a drawn batch of B texts.

        Args:
            batch: The victim.
            read: What the attack read, texts in any order.
            prior_only: What it read without the update: one more floor, the best of them.
        """
        truth = batch.images.flatten(1)
        right = ((truth[:, None] == read.ids[None]) & read.placed[None]).sum(2)
        rows, columns = linear_sum_assignment(-right.numpy())
        return [self._sample(batch, int(i), int(j), read, prior_only) for i, j in zip(rows, columns, strict=True)]

    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a text of one batch agrees with one of the other in most places."""
        same = one.images.flatten(1)[:, None] == other.images.flatten(1)[None]
        return bool((same.double().mean(2) >= LEAK_SKILL).any())

    def _sample(
        self, batch: Batch, position: int, row: int, read: ReadTexts, prior_only: Sequence[ReadTexts]
    ) -> SampleScore:
        truth, together = batch.images[position].flatten(), batch.images.flatten().tolist()
        guess, placed, found = read.ids[row], read.placed[row], read.found.tolist()
        match = _match(truth, found, together, _accuracy(truth, guess, placed))
        floors = self._floors(batch, position)
        for alone in prior_only:
            best = max(
                (_accuracy(truth, i, p) or 0.0 for i, p in zip(alone.ids, alone.placed, strict=True)), default=0.0
            )
            blind = _match(truth, alone.found.tolist(), together, best)
            floors["prior_only"] = max(floors.get("prior_only", blind), blind, key=lambda m: m.overlap)
        skill = _skill(match, floors)
        nearest = self._reidentify(batch, position, guess, placed, found)
        score = TokenScore(
            original=tuple(truth.tolist()),
            recovered=tuple(t if p else None for t, p in zip(guess.tolist(), placed.tolist(), strict=True)),
            found=tuple(found),
            match=match,
            floors=floors,
            skill=skill,
        )
        reason = (
            "" if skill >= LEAK_SKILL else f"less than {LEAK_SKILL:.0%} of the way from its best floor to perfection"
        )
        reason = reason or ("another text of the file is nearer to the reading" if nearest is False else "")
        return SampleScore(
            position=position,
            reconstruction=row,
            scores=Scores(None, None, None, None, dict(NO_IMAGE)),
            floors={},
            margin=None,
            lpips_margin=None,
            identification=Identification(nearest, len(self.population) - 1, 0, 0),
            leaked=not reason,
            reason=reason,
            tokens=score,
        )

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

    def _floors(self, batch: Batch, position: int) -> dict[str, TokenMatch]:
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
