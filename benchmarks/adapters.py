"""Tokens behind an update of low-rank adapters: how many the span test finds, and how many it names falsely.

::

    python benchmarks/adapters.py

Tiny BERT- and Llama-like classifiers of transformers with random weights, adapted by peft (r = 8, queries and values),
in the first round, where B is zero, and later. One text of T tokens at a time, five of each length. Needs ``peft`` and
``transformers``; nothing is downloaded.
"""

from __future__ import annotations

import warnings

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dager import Dager, DagerSettings
from leakaudit.target.load import load
from tests.attacks.lora import warmed
from tests.attacks.test_adapters import seen, transformer

LENGTHS = range(3, 10)
SEEDS = range(5)


def cell(kind: str, later: bool, length: int) -> str:
    """A row of the table."""
    module = transformer(kind, length)
    target = load(warmed(module) if later else module, image_shape=(1, 1, length))
    attack = Dager(DagerSettings())
    right = false = whole = 0
    for seed in SEEDS:
        observation, ids = seen(target, length, seed)
        tokens = attack(target, observation, cpu_generator(0)).tokens
        found, true = set(() if tokens is None else tokens.found.tolist()), set(ids.tolist())
        right, false, whole = right + len(found & true), false + len(found - true), whole + (found >= true)
    stage = "later" if later else "first round"
    return f"| {kind} | {stage} | {length} | {right} of {length * len(SEEDS)} | {false} | {whole} of {len(SEEDS)} |"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print("| model | round | tokens | found | false | texts with all |\n|---|---|---|---|---|---|")
    for kind in ("bert", "llama"):
        for later in (False, True):
            for length in LENGTHS:
                print(cell(kind, later, length), flush=True)


if __name__ == "__main__":
    main()
