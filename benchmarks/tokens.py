"""How much of private texts the closed-form readers recover: token sets and sequences, on two models.

    python benchmarks/tokens.py [--tinybert FILE] [--out benchmarks/results/tokens.md]

Models: a generated two-layer transformer classifier (vocabulary 1,000, 16 tokens, learned positions), also with its
table frozen, and a real tiny BERT encoder (vocabulary 1,656) whose pooled output is audited as a head of 50 classes,
since the file has no class head. Texts are drawn with the frequencies of a language (rank to the power of minus one).
Every row is the mean over independent batches; the update is one float32 gradient, undefended.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from store import machine
from torch import Tensor, nn

from leakaudit.attacks.base import Attack
from leakaudit.attacks.registry import create
from leakaudit.audit.memory import Memory
from leakaudit.audit.victim import Knowledge, attack_victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import reader_for
from leakaudit.domains.tokens import Tokens, tokens_of
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import SilentMonitor
from leakaudit.scoring.tokens import TextScore, TokenMeasure
from leakaudit.target import Target, load
from leakaudit.target.tokens import with_length

LENGTH, BATCHES = 16, 10
HEADER = (
    "| model | batch | reader | token-set precision | token-set recall | places right | floor | certified "
    "| leaked | seconds |\n|---|---|---|---|---|---|---|---|---|---|\n"
)


class Classifier(nn.Module):
    """Embedding, learned positions, two encoder layers, mean pooling, a linear head."""

    def __init__(self, trained_table: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.positions = nn.Embedding(1000, 64), nn.Parameter(0.1 * torch.randn(1, LENGTH, 64))
        self.table.weight.requires_grad_(trained_table)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, 4) of ids (B, L)."""
        logits: Tensor = self.head(self.encoder(self.table(ids) + self.positions).mean(1))
        return logits


def texts(target: Target, count: int) -> tuple[Tokens, Batch]:
    """Private texts for a model."""
    vocabulary = tokens_of(target.domain).vocabulary
    chances = 1 / np.arange(1, vocabulary + 1)
    rng = np.random.default_rng(0)
    order = rng.permutation(vocabulary)  # frequent tokens are not the small ids
    ids = order[rng.choice(vocabulary, (count, LENGTH), p=chances / chances.sum())]
    target, batch = reader_for(target).fitted((ids, rng.integers(0, target.classes, count)))
    return tokens_of(target.domain), batch


def row(name: str, target: Target, attack: Attack, size: int) -> str:
    """One line of the table: means over `BATCHES` batches."""
    space, population = texts(target, BATCHES * size)
    scorer = TokenMeasure(population, space.vocabulary)
    started = time.perf_counter()
    scores, certified = [], 0
    for number, batch in enumerate(population.draw(BATCHES, size, 0)):
        victim = observe_victim(target, batch, FedSGD(size), space, Knowledge(), number)
        refusal = attack.refusal(target, victim.seen_by(attack))
        if refusal is not None:
            return f"| {name} | {size} | {attack.name} | not applicable: {refusal.reason} | | | | | | |\n"
        outcome = attack_victim(attack, target, victim, scorer, 0, SilentMonitor(), Memory())
        certified += outcome.certified
        scores += outcome.scores
    seconds = (time.perf_counter() - started) / BATCHES
    read = [score.tokens for score in scores if isinstance(score, TextScore)]
    accuracies = [t.match.accuracy for t in read if t.match.accuracy is not None]
    right = f"{100 * float(np.mean(accuracies)):.1f} %" if accuracies else "not read"
    floor = np.mean([max(f.accuracy or 0.0 for f in t.floors.values()) for t in read])
    leaked = sum(score.leaked for score in scores)
    return (
        f"| {name} | {size} | {attack.name} | {100 * np.mean([t.match.precision for t in read]):.1f} % "
        f"| {100 * np.mean([t.match.recall for t in read]):.1f} % | {right} | {100 * floor:.1f} % "
        f"| {certified} of {BATCHES} | {leaked} of {len(scores)} | {seconds:.2f} |\n"
    )


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tinybert", type=Path, help="the ONNX file of the tiny BERT encoder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tokens.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = (1, 1, LENGTH)
    models = {
        "generated": load(Classifier(True), image_shape=shape),
        "generated, table frozen": load(Classifier(False), image_shape=shape),
    }
    if given.tinybert is not None:
        models["tiny BERT, pooled output"] = with_length(load(given.tinybert, output="output_1"), LENGTH)
    lines = [
        row(name, target, create(reader, "standard"), size)
        for name, target in models.items()
        for size in (1, 4)
        for reader in ("embedding", "dager")
    ]
    title = f"# Reading texts from one update\n\n{BATCHES} batches a row, {LENGTH} tokens a text. "
    note = (
        "Floor: the best of random tokens, the most frequent at each place, and other texts. Seconds a batch include "
        "the update, label inference, the certificate and scoring, under whatever load the machine had.\n\n"
    )
    given.out.write_text(f"{title}{note}{HEADER}{''.join(lines)}\n{machine()}\n", encoding="utf-8")
    print(given.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
