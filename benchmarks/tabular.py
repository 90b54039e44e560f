"""Adult and German Credit as the tables of `benchmarks/tables.py`: columns, rows as a model takes them, labels.

Both files are plain text from the UCI repository, in ``tables/`` of $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from leakaudit.client.batch import Batch
from leakaudit.domains.schema import Column
from leakaudit.domains.table import Table
from leakaudit.target.load import load
from leakaudit.target.target import Target

DATA = Path(os.environ.get("LEAKAUDIT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tables"
ADULT = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship", "race",
    "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country",
)  # fmt: skip
ADULT_NUMBERS = {"age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"}
GERMAN = tuple(f"a{i}" for i in range(1, 21))
GERMAN_NUMBERS = {"a2", "a5", "a8", "a11", "a13", "a16", "a18"}


@dataclass(frozen=True, eq=False)
class Data:
    """Columns, and all rows in their units."""

    table: Table
    values: Tensor
    labels: Tensor

    def batch(self, indices: list[int]) -> Batch:
        """Some rows as a batch file of their own."""
        return Batch(self.values[indices], self.labels[indices], tuple(range(len(indices))))


def adult() -> Data:
    """32,561 rows of the 1994 census: 6 numbers, 8 categories in 102 entries; whether over 50,000 $ were earned."""
    rows = [line.split(", ") for line in (DATA / "adult.data").read_text().splitlines() if line.strip()]
    return _data(rows, ADULT, ADULT_NUMBERS, [int(row[-1].startswith(">")) for row in rows])


def german() -> Data:
    """1,000 loans: 7 numbers, 13 categories in 54 entries; whether they were paid back."""
    rows = [line.split() for line in (DATA / "german.data").read_text().splitlines() if line.strip()]
    return _data(rows, GERMAN, GERMAN_NUMBERS, [int(row[-1]) - 1 for row in rows])


def _data(rows: list[list[str]], names: tuple[str, ...], numbers: set[str], labels: list[int]) -> Data:
    columns, parts = [], []
    for place, name in enumerate(names):
        cells = [row[place].strip() for row in rows]
        if name in numbers:
            own = np.array(cells, float)
            columns.append(Column(name, "number", own.min(), own.max(), own.mean(), own.std()))
            parts.append(own[:, None])
        else:
            levels = tuple(sorted(set(cells)))
            columns.append(Column(name, "category", levels=levels))
            parts.append(np.eye(len(levels))[[levels.index(cell) for cell in cells]])
    values = torch.tensor(np.concatenate(parts, 1), dtype=torch.float32)[:, None, None, :]
    return Data(Table.of(columns), values, torch.tensor(labels))


def network(data: Data, seed: int = 0, units: int = 100) -> nn.Module:
    """FC 100-100-2 of ReLU units."""
    torch.manual_seed(seed)
    size = data.table.shape[-1]
    layers = [nn.Linear(size, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 2)]
    return nn.Sequential(*layers)


def target(data: Data, module: nn.Module) -> Target:
    """The module over rows of the table."""
    return replace(load(module), domain=data.table)


def trained(data: Data, module: nn.Module, steps: int, rate: float = 0.01, size: int = 32) -> nn.Module:
    """After so many steps of SGD on random batches."""
    inputs = data.table.encode(data.values).flatten(1)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (size,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs[chosen]), data.labels[chosen]).backward()
        optimizer.step()
    return module
