"""What a scan's exit code is worth: starved audits, mismatched updates and true leaks, on small networks.

    python benchmarks/verdicts.py [--starved 100] [--mismatched 200] [--true 100] [--out benchmarks/results/verdicts.md]

*Starved*: the time budget is 1 to 5 % of what the plan needs, by a step timed on this machine. None may exit with 0.
*Mismatched*: the update is of other samples than those that reconstructions are scored against. At most 1 of
200 may say LEAKS. *True*: updates of single samples through networks that leak. At least 97 of 100 must say LEAKS.
Every scan is the whole pipeline with its controls. Images are of CIFAR-10 at 16 px, from $LEAKAUDIT_DATA; texts are
random ids with the frequencies of a language. Twenty minutes on one core.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from false_alarms import mismatched
from networks import cifar
from torch import Tensor, nn

import leakaudit
from leakaudit.protocols.base import Mode

FILE = 120
"""Samples in the batch file of one scan: more than the hundred distractors that a leak is told from."""
VOCABULARY, LENGTH, CLASSES = 60, 8, 10
SHAPE = (3, 16, 16)


class Residual(nn.Module):
    """A convolution with ReLU, a residual block with BatchNorm, a mean over places, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.Linear(16, CLASSES)
        self.block = nn.Sequential(
            *(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, 16, 16)."""
        x = torch.relu(self.stem(x))
        logits: Tensor = self.head(torch.relu(x + self.block(x)).mean((2, 3)))
        return logits


class Text(nn.Module):
    """Embedding, learned positions, a unit layer per token, a linear head on the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(VOCABULARY, 32), nn.Parameter(torch.randn(1, LENGTH, 32))
        self.units, self.head = nn.Linear(32, 32), nn.Linear(32, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, K) of ids (B, L)."""
        logits: Tensor = self.head(torch.tanh(self.units(self.table(ids) + self.positions)).mean(1))
        return logits


def mlp(p: float = 0.0) -> nn.Module:
    """Two hidden layers of 64 GELU units without bias, dropout behind the first."""
    first = [nn.Flatten(), nn.Linear(768, 64, bias=False), nn.GELU(), nn.Dropout(p)]
    return nn.Sequential(*first, nn.Linear(64, 64, bias=False), nn.GELU(), nn.Linear(64, CLASSES, bias=False))


def biased() -> nn.Module:
    """One hidden layer of 64 ReLU units with biases: exact by algebra."""
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def lenet() -> nn.Module:
    """Two convolutions of 12 channels and two linear layers of GELU units."""
    first = [nn.Conv2d(3, 12, 5, 2, 2), nn.GELU(), nn.Conv2d(12, 12, 5, 2, 2), nn.GELU(), nn.Flatten()]
    return nn.Sequential(*first, nn.Linear(192, 64), nn.GELU(), nn.Linear(64, CLASSES))


def convnet() -> nn.Module:
    """Three convolutions with BatchNorm and ReLU, max-pooling, a linear head."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, CLASSES))


@dataclass(frozen=True)
class Case:
    """A network, the mode of its client, its attack and the steps of that attack's plan."""

    build: Callable[[], nn.Module]
    attack: str = "ig"
    steps: int = 150
    mode: Mode = "eval"
    text: bool = False


CASES = {
    "MLP": Case(mlp),
    "MLP, dropout .5": Case(lambda: mlp(0.5), "dia", mode="train"),
    "biased MLP": Case(biased, "linear"),
    "LeNet": Case(lenet, steps=300),
    "ConvNet, BatchNorm": Case(convnet),
    "residual": Case(Residual),
    "text": Case(Text, "embedding", text=True),
}
STARVED = ("MLP", "MLP, dropout .5", "LeNet", "ConvNet, BatchNorm", "residual")
"""Those that no algebra reads: there a leak would be found whatever the budget."""
LEAKY = ("MLP", "biased MLP", "LeNet", "text")
PRESETS = {"quick": 600, "standard": 6000}


def samples(case: Case, seed: int) -> tuple[Tensor, Tensor]:
    """Twice `FILE` samples and labels, drawn by seed."""
    generator = torch.Generator().manual_seed(seed)
    if case.text:
        chances = 1 / torch.arange(1.0, VOCABULARY + 1)
        ids = torch.multinomial(chances, 2 * FILE * LENGTH, replacement=True, generator=generator)
        return ids.view(2 * FILE, LENGTH), torch.randint(CLASSES, (2 * FILE,), generator=generator)
    x, y = cifar()
    order = torch.randperm(len(x), generator=generator)[: 2 * FILE]
    return F.avg_pool2d(x[order], 2), y[order]


def scan(case: Case, seed: int, wrong: bool = False, **options: Any) -> Any:
    """One scan, of an untrained network with weights and samples by seed."""
    x, y = samples(case, seed)
    torch.manual_seed(seed)
    module = case.build()
    shape: dict[str, Any] = {"input_shape": (1, 1, LENGTH)} if case.text else {"input_shape": SHAPE}
    if not case.text:
        shape |= {"mean": [0.5], "std": [0.25]}
    fixed: dict[str, Any] = {"victims": 1, "preset": "quick", "seed": seed, "mode": case.mode, "device": "cpu"}

    def run() -> Any:
        return leakaudit.scan(module, (x[:FILE].numpy(), y[:FILE].numpy()), **{**fixed, **shape, **options})

    if not wrong:
        return run()
    source = x[FILE:, None, None] if case.text else x[FILE:]
    with mismatched(source, y[FILE:]):
        return run()


def exit_code(report: Any) -> int:
    """As `leakaudit scan` ends."""
    if any(finding.fails for finding in report.findings):
        return 1
    return 5 if report.verdict.inconclusive else 0


def full(case: Case, seed: int) -> dict[str, Any]:
    """Options of a scan with the case's attack and all of its steps."""
    plan = {} if case.attack in ("linear", "embedding") else {case.attack: {"iterations": str(case.steps)}}
    return {"attacks": [case.attack], "settings": plan}


def seconds_of_plan(case: Case, preset: str, victims: int) -> float:
    """Seconds that all victims would take, by a scan of a few steps without a budget."""
    few = 20
    settings = {case.attack: {"iterations": str(few)}}
    report = scan(case, 0, attacks=[case.attack], settings=settings, controls="none")
    (ledger,) = [attack for attack in report.attacks if attack.name == case.attack]
    return victims * PRESETS[preset] * ledger.seconds / few


def starved(count: int) -> Iterator[tuple[str, Any]]:
    """Scans of four victims whose time is 1 to 5 % of the plan, over architectures and presets."""
    plans = {(name, preset): seconds_of_plan(CASES[name], preset, 4) for name in STARVED for preset in PRESETS}
    kinds = [(name, preset) for name in STARVED for preset in PRESETS]
    for number in range(count):
        name, preset = kinds[number % len(kinds)]
        share = 0.01 + 0.04 * (number // len(kinds)) / max(1, (count - 1) // len(kinds))
        budget = max(0.05, share * plans[name, preset])
        options: dict[str, Any] = {"victims": 4, "preset": preset, "attacks": [CASES[name].attack]}
        yield f"{name}, {preset}", scan(CASES[name], number, time_budget=budget, **options)


def several(names: tuple[str, ...], count: int, wrong: bool) -> Iterator[tuple[str, Any]]:
    """Scans with every step of the plan, of true or of mismatched updates."""
    for number in range(count):
        name = names[number % len(names)]
        yield name, scan(CASES[name], 1000 + number, wrong, **full(CASES[name], number))


def table(rows: Iterator[tuple[str, Any]], out: Callable[[str], None]) -> tuple[list[str], Counter[int], int]:
    """Lines of Markdown, how often each exit code came, and how many scans say LEAKS."""
    found: dict[str, list[Any]] = {}
    started = time.monotonic()
    for name, report in rows:
        found.setdefault(name, []).append(report)
        out(f"{name}: exit {exit_code(report)}, {report.verdict.status}")
    lines = ["| network | scans | exit 0 | exit 1 | exit 5 | LEAKS |", "|---|---|---|---|---|---|"]
    for name, reports in found.items():
        codes = Counter(map(exit_code, reports))
        leaks = sum(report.verdict.code.leaks for report in reports)
        lines.append(f"| {name} | {len(reports)} | {codes[0]} | {codes[1]} | {codes[5]} | {leaks} |")
    every = [report for reports in found.values() for report in reports]
    leaks = sum(report.verdict.code.leaks for report in every)
    lines.append(f"\n{len(every)} scans in {time.monotonic() - started:.0f} s, {leaks} of them LEAKS.\n")
    return lines, Counter(map(exit_code, every)), leaks


@click.command()
@click.option("--starved", "starving", default=100)
@click.option("--mismatched", "wrong", default=200)
@click.option("--true", "true", default=100)
@click.option("--out", type=click.Path(path_type=Path))
def main(starving: int, wrong: int, true: int, out: Path | None) -> None:
    """Print the tables, write them, and exit with 1 where a bar is missed."""
    torch.set_num_threads(1)
    lines = [
        "# Verdicts of starved, mismatched and true audits",
        f"\n{time.strftime('%Y-%m-%d')}, leakaudit {leakaudit.__version__}, torch {torch.__version__}, "
        f"{platform.processor() or platform.machine()}, one thread. `python benchmarks/verdicts.py`",
    ]
    missed = []
    if starving:
        rows, codes, _ = table(starved(starving), click.echo)
        lines += ["\n## Budgets of 1 to 5 % of the plan: the bar is 0 exits with 0\n", *rows]
        missed += ["starved"] if codes[0] else []
    if wrong:
        rows, _, leaks = table(several(tuple(CASES), wrong, wrong=True), click.echo)
        lines += ["\n## Updates of other samples: the bar is 1 LEAKS in 200\n", *rows]
        missed += ["mismatched"] if leaks > max(1, wrong // 200) else []
    if true:
        rows, _, leaks = table(several(LEAKY, true, wrong=False), click.echo)
        lines += ["\n## True updates of networks that leak: the bar is 97 LEAKS in 100\n", *rows]
        missed += ["true"] if leaks < 0.97 * true else []
    text = "\n".join(lines)
    click.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
