"""Does the rank score predict how well attacks do? Random architectures, real images, the project's own attacks.

    python benchmarks/rank_vs_attack.py [--architectures 60] [--seed 0] [--out benchmarks/results/rank_vs_attack.md]

Two families, drawn by ``--seed``: *chains* (two thirds: 2 to 4 convolutions with LeakyReLU, which R-GAP can invert) and
*mixed* (1 to 3 convolutions with GELU or ReLU, pooling, biased fully connected heads, most of which it cannot). Widths
run from 2 to 24: by the counts alone, that makes half to three quarters of the chains deficient somewhere.

CIFAR-10 images at 16×16, batch 1, labels inferred. The attacks and their settings are fixed here, in advance: R-GAP
standard; IG for 300 steps (signed Adam, cosine, TV 1e-4); the same engine for 300 evaluations of L-BFGS on the squared
distance without a prior.

Every score is turned so that higher means safer, and set against log10 of the pixel MSE, the median over the runs of an
architecture. ρ is Spearman's, its interval the 2.5 and 97.5 percentiles over 2,000 resamples of the architectures.
The partial ρ is the correlation of ranks after the rank of the number of parameters is taken out of both linearly.
*Best* is the best attack of each run, R-GAP included wherever it applies.

The tables are printed as found; intervals are not corrected for the number of comparisons. Attacks as short as these
fail for non-convexity too, so a large error is no evidence of safety. A count is missing where it needs a measurement
that did not fit into the three seconds that a quick analysis takes. Needs the CIFAR-10 sample in $LEAKAUDIT_DATA.
Ctrl-C leaves a table of what is done.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import click
import numpy as np
import scipy
import torch
from networks import CIFAR, cifar
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy.stats import mannwhitneyu, rankdata
from torch import nn

import leakaudit
from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.attacks.rgap import RGAP
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.ranked import RankReport
from leakaudit.scoring.images import ImageMeasure
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

Family = Literal["chain", "mixed"]
Vector = NDArray[np.float64]
SPACE = Images((3, 16, 16), CIFAR.mean, CIFAR.std)
LEAK = 1e-3
"""Pixel MSE, 30 dB, below which an image counts as leaked."""
RESAMPLES = 2000
FEWEST = 5
"""Fewest architectures for a correlation."""
SCORE = "1 − score (with RA_J)"
BASELINE = "−#parameters (baseline)"
BEST = "best"
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}
POOLS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


@dataclass(frozen=True)
class Conv:
    """One convolution, its activation and the pooling behind it ("" for none)."""

    filters: int
    kernel: int
    stride: int
    bias: bool
    activation: str
    pool: str = ""

    def __str__(self) -> str:
        words = f"{self.filters}×{self.kernel}×{self.kernel}/{self.stride}{' bias' if self.bias else ''}"
        return f"{words} {self.activation}{' ' + self.pool if self.pool else ''}"


@dataclass(frozen=True)
class Architecture:
    """A random network: convolutions, then a hidden linear layer of ``hidden`` units (0: none), then ten logits."""

    family: Family
    convolutions: tuple[Conv, ...]
    hidden: int
    head_bias: bool

    def __str__(self) -> str:
        head = [f"fc {self.hidden}"] if self.hidden else []
        return " → ".join([*map(str, self.convolutions), *head, f"fc 10{' bias' if self.head_bias else ''}"])

    def build(self, seed: int) -> Target:
        """With PyTorch's default weights under this seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            channels = SPACE.shape[0]
            for conv in self.convolutions:
                layers.append(
                    nn.Conv2d(channels, conv.filters, conv.kernel, conv.stride, conv.kernel // 2, bias=conv.bias)
                )
                layers.append(ACTIVATIONS[conv.activation]())
                layers += [POOLS[conv.pool](2)] if conv.pool else []
                channels = conv.filters
            layers.append(nn.Flatten())
            width = nn.Sequential(*layers)(torch.zeros(1, *SPACE.shape)).shape[1]
            if self.hidden:
                layers += [nn.Linear(width, self.hidden), ACTIVATIONS[self.convolutions[-1].activation]()]
            layers.append(nn.Linear(self.hidden or width, 10, bias=self.head_bias))
        shape = SPACE.shape
        return Target(
            nn.Sequential(*layers).eval(), str(self), "module", shape, "NCHW", Images.plain(shape), SingleLabel(10)
        )


def draw(family: Family, random: np.random.Generator) -> Architecture:
    """Width 2 to 24 (log-uniform), kernel, stride, depth, biases; activation, pooling and head in the mixed family."""
    depth = int(random.integers(2, 5)) if family == "chain" else int(random.integers(1, 4))
    activation = "leaky" if family == "chain" else str(random.choice(["relu", "gelu"]))
    convolutions = []
    side = SPACE.shape[1]
    for _ in range(depth):
        filters = round(2 * 12 ** float(random.random()))
        kernel, stride = int(random.choice([3, 4, 5])), int(random.choice([1, 2])) if side > 4 else 1
        bias = family == "mixed" or bool(random.random() < 0.5)
        side = (side + 2 * (kernel // 2) - kernel) // stride + 1
        pool = str(random.choice(["", "max", "avg"])) if family == "mixed" and side > 4 else ""
        side = side // 2 if pool else side
        convolutions.append(Conv(filters, kernel, stride, bias, activation, pool))
    hidden = int(random.choice([0, 32, 128])) if family == "mixed" else 0
    return Architecture(family, tuple(convolutions), hidden, family == "mixed" or bool(random.random() < 0.5))


def architectures(count: int, seed: int) -> list[Architecture]:
    """Distinct ones, every third of the mixed family."""
    random = np.random.default_rng(seed)
    found: list[Architecture] = []
    while len(found) < count:
        new = draw("mixed" if len(found) % 3 == 2 else "chain", random)
        if new not in found:
            found.append(new)
    return found


def scores(report: RankReport, counts: RankReport, parameters: int) -> dict[str, float | None]:
    """Every score of one architecture, higher is safer; ``None`` where it is not available.

    Args:
        report: With the Jacobian measured.
        counts: From shapes, and the short measurements that every analysis makes.
        parameters: Number of shared values.
    """
    rows = [row for row in counts.layers if row.gradient and row.kind.startswith("convolution")]
    deficits = [row.deficit for row in rows]
    naive = [float(row.index) for row in rows if row.index is not None]
    virtual = [float(row.index - row.virtual) for row in rows if row.index is not None and row.virtual is not None]
    complete = [float(d) for d in deficits if d is not None] if None not in deficits else []
    spectrum = report.spectrum
    return {
        SCORE: None if report.score is None else 1 - report.score,
        "1 − score (counts)": None if counts.score is None else 1 - counts.score,
        "RA_prop": None if counts.propagated_deficit is None else float(counts.propagated_deficit),
        "RA_J": None if spectrum is None else float(spectrum.deficit),
        "Σ deficit": sum(complete) if complete else None,
        "max deficit": max(complete, default=None),
        "max naive count": max(naive, default=None),
        "max RA_countV": max(virtual, default=None),
        "log condition of J": None if spectrum is None or not spectrum.condition else math.log10(spectrum.condition),
        BASELINE: -float(parameters),
    }


ATTACKS: dict[str, Callable[[int], Attack]] = {
    "R-GAP": lambda steps: RGAP(RGAP.presets["standard"]),
    "IG": lambda steps: IG(IGSettings(iterations=steps, execution="eager")),
    "L-BFGS": lambda steps: IG(
        IGSettings(iterations=steps, optimizer="lbfgs", distance="euclidean", tv_weight=0.0, execution="eager")
    ),
}


@dataclass(frozen=True)
class Row:
    """One architecture: its scores and, for each attack, the pixel MSE of each run, ``None`` where it cannot run."""

    architecture: str
    family: Family
    parameters: int
    deficient: bool | None
    scores: dict[str, float | None]
    errors: dict[str, list[float | None]] = field(default_factory=dict)

    def error(self, attack: str) -> float | None:
        """log10 of the MSE, median over runs; for ``best``, of the best attack in each run."""
        if attack == BEST:
            found = [
                min((e for e in run if e is not None), default=None) for run in zip(*self.errors.values(), strict=True)
            ]
        else:
            found = self.errors[attack]
        runs = [error for error in found if error is not None]
        return float(np.median(np.log10(runs))) if runs else None


def measure(architecture: Architecture, population: Batch, runs: int, steps: int, seed: int) -> Row:
    """Analyse it and attack it, each run with other weights and another image."""
    target = architecture.build(seed)
    parameters = sum(tensor.numel() for tensor in target.parameters.values())
    counts = rank_analysis(target, seed=seed)
    report = rank_analysis(target, jacobian=True, seed=seed)
    convolutions = [row for row in counts.layers if row.gradient]
    known = all(row.deficit is not None for row in convolutions)
    deficient = any(row.deficit for row in convolutions) if known else None
    row = Row(str(architecture), architecture.family, parameters, deficient, scores(report, counts, parameters))
    for run, batch in enumerate(population.draw(runs, 1, seed)):
        for name, mse in attack(architecture.build(seed + run), batch, population, steps, seed + run):
            row.errors.setdefault(name, []).append(mse)
    return row


def attack(
    target: Target, batch: Batch, population: Batch, steps: int, seed: int
) -> Iterator[tuple[str, float | None]]:
    """Every attack and its MSE in pixels of 0..1, at least 1e-16 (float32 rounding); ``None`` where it cannot run."""
    observation = observe(target, batch, FedSGD(1), SPACE, seed)
    labels = infer_labels(target, observation, cpu_generator(seed)).labels
    observation = replace(observation, labels=labels, label_source="inferred")
    scorer = ImageMeasure(population)
    for name, make in ATTACKS.items():
        runner = make(steps)
        if runner.applies(target, observation) is not None:
            yield name, None
        else:
            pixels = SPACE.decode(runner(target, observation, cpu_generator(seed)).inputs)
            mse = scorer.measure(pixels[0], batch.images[0]).mse
            assert mse is not None  # two images of one shape always have one
            yield name, max(mse, 1e-16)


def spearman(score: Vector, error: Vector) -> float:
    """Spearman's ρ; nan where one of them is constant."""
    return _correlation(rankdata(score), rankdata(error))


def partial(score: Vector, error: Vector, given: Vector) -> float:
    """Correlation of the ranks after the rank of `given` is taken out of both by least squares."""
    third = rankdata(given)
    basis = np.stack([np.ones_like(third), third], 1)
    left, right = (r - basis @ np.linalg.lstsq(basis, r, rcond=None)[0] for r in (rankdata(score), rankdata(error)))
    return _correlation(left, right)


def _correlation(left: Vector, right: Vector) -> float:
    if left.std() < 1e-9 or right.std() < 1e-9:
        return math.nan
    return float(np.corrcoef(left, right)[0, 1])


def interval(statistic: Callable[..., float], *columns: Vector, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap over architectures; resamples in which the statistic is undefined are left out."""
    random = np.random.default_rng(seed)
    picks = random.integers(len(columns[0]), size=(RESAMPLES, len(columns[0])))
    values = np.array([statistic(*(column[pick] for column in columns)) for pick in picks])
    values = values[np.isfinite(values)]
    return (float("nan"),) * 2 if not len(values) else tuple(np.percentile(values, [2.5, 97.5]))  # type: ignore[return-value]


def auc(score: Vector, leaked: NDArray[np.bool_]) -> float:
    """Probability that a leaking architecture scores less safe than one that does not leak."""
    if leaked.all() or not leaked.any():
        return math.nan
    statistic = mannwhitneyu(-score[leaked], -score[~leaked]).statistic
    return float(statistic / (leaked.sum() * (~leaked).sum()))


def columns(rows: Sequence[Row], name: str, attack_name: str) -> tuple[Vector, Vector, Vector]:
    """Score, error and number of parameters of the architectures that have both."""
    found = [(row.scores[name], row.error(attack_name), row.parameters) for row in rows]
    kept = [(s, e, p) for s, e, p in found if s is not None and e is not None]
    table = np.array(kept, dtype=np.float64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _cell(statistic: Callable[..., float], *values: Vector) -> str:
    if len(values[0]) < FEWEST:
        return "–"
    point = statistic(*values)
    if not math.isfinite(point):
        return "constant"
    low, high = interval(statistic, *values)
    return f"{point:.2f} [{low:.2f}, {high:.2f}]"


def correlations(rows: Sequence[Row], attacks: Sequence[str]) -> list[str]:
    """Table of ρ, one line per score and one column per attack; then partial ρ and AUC against the best attack."""
    headings = [f"ρ: {name}" for name in attacks] + ["partial ρ: best", f"AUC: best MSE < {LEAK:g}", "n"]
    lines = [f"| score, higher = safer | {' | '.join(headings)} |", "|---|" + "--:|" * len(headings)]
    for name in rows[0].scores:
        cells = [_cell(spearman, *columns(rows, name, attacked)[:2]) for attacked in attacks]
        score, error, parameters = columns(rows, name, BEST)
        cells.append("–" if name == BASELINE else _cell(partial, score, error, parameters))
        area = auc(score, error < math.log10(LEAK)) if len(score) else math.nan
        cells += [f"{area:.2f}" if math.isfinite(area) else "–", str(len(score))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ahead = _cell(lambda s, e, p: spearman(s, e) - spearman(-p, e), *columns(rows, SCORE, BEST))
    return [*lines, "", f"ρ of *{SCORE}* less ρ of the baseline, against the best attack: {ahead}."]


def confusion(rows: Sequence[Row]) -> list[str]:
    """R-GAP per run: what the deficits say against what it recovered."""
    runs = [(row.deficient, mse) for row in rows for mse in row.errors["R-GAP"] if mse is not None]
    lines = ["| R-GAP, single runs | MSE < 1e-9 | 1e-9 to 1e-3 | MSE > 1e-3 | range |", "|---|--:|--:|--:|---|"]
    titles = {False: "no layer deficient", True: "some layer deficient", None: "counts unavailable for some layer"}
    for deficient, title in titles.items():
        found = np.array([mse for flag, mse in runs if flag is deficient])
        bins = [int((found < 1e-9).sum()), int(((found >= 1e-9) & (found <= LEAK)).sum()), int((found > LEAK).sum())]
        span = f"{found.min():.0e} to {found.max():.0e}" if len(found) else "–"
        lines.append(f"| {title} | {' | '.join(map(str, bins))} | {span} |")
    return lines


def listing(rows: Sequence[Row]) -> list[str]:
    """Every architecture with its score and the median MSE of each attack."""
    lines = [
        f"| architecture | parameters | score | RA_prop | RA_J | Σ deficit | {' | '.join(ATTACKS)} |",
        "|---|--:|--:|--:|--:|--:|" + "--:|" * len(ATTACKS),
    ]
    for row in rows:
        risk = row.scores[SCORE]
        cells = ["–" if risk is None else f"{1 - risk:.3f}"]
        cells += ["–" if (v := row.scores[n]) is None else f"{v:.0f}" for n in ("RA_prop", "RA_J", "Σ deficit")]
        cells += ["–" if (e := row.error(name)) is None else f"{10**e:.1e}" for name in ATTACKS]
        lines.append(f"| {row.architecture} | {row.parameters:,} | {' | '.join(cells)} |")
    return lines


def document(rows: Sequence[Row], facts: Sequence[str]) -> str:
    """The result as Markdown."""
    lines = ["# Rank score against attack error", "", *facts, ""]
    groups: tuple[tuple[str, tuple[str, ...], list[Row]], ...] = (
        ("Chains", (*ATTACKS, BEST), [row for row in rows if row.family == "chain"]),
        ("Mixed", ("IG", "L-BFGS", BEST), [row for row in rows if row.family == "mixed"]),
        ("Both families", ("IG", "L-BFGS", BEST), list(rows)),
    )
    for title, attacks, group in groups:
        if group:
            lines += [f"## {title}: {len(group)} architectures", "", *correlations(group, attacks), ""]
    lines += ["## Deficits as a classifier for R-GAP", "", *confusion(rows), ""]
    return "\n".join([*lines, "## Every architecture", "", *listing(rows), ""])


def _facts(rows: Sequence[Row], total: int, runs: int, steps: int, seed: int) -> list[str]:
    facts = []
    if len(rows) < total:
        facts.append(f"**Partial: interrupted after {len(rows)} of {total} architectures.**\n")
    leaking = sum(1 for row in rows if (e := row.error(BEST)) is not None and e < math.log10(LEAK))
    versions = f"leakaudit {leakaudit.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    return [
        *facts,
        f"{len(rows)} random architectures × {runs} runs (other weights, another CIFAR-10 image at 16×16), "
        f"{steps} steps of IG and L-BFGS, R-GAP standard, seed {seed}. Higher ρ: the score "
        f"ranks architectures as the attack does. {leaking} of them leak (best attack below MSE {LEAK:g}). 95 % "
        "bootstrap intervals in brackets; partial ρ: given the number of parameters. How it is computed: "
        "`benchmarks/rank_vs_attack.py`.",
        "",
        f"{versions}, scipy {scipy.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"one of {os.cpu_count()} cores, {time.process_time() / 60:.1f} CPU minutes, {time.strftime('%Y-%m-%d')}.",
    ]


@click.command()
@click.option("--architectures", "count", default=60, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--runs", default=2, show_default=True, type=click.IntRange(1), help="Weights and images for each.")
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1), help="Of IG and of L-BFGS.")
@click.option("--seed", default=0, show_default=True, help="Of architectures, weights and images.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the tables there too.")
@click.option("--raw", type=click.Path(path_type=Path), help="Append every measurement there, a line of JSON each.")
@click.pass_context
def main(
    context: click.Context, count: int, runs: int, steps: int, seed: int, out: Path | None, raw: Path | None
) -> None:
    """Measure, print the tables, and write them."""
    torch.set_num_threads(1)
    images, labels = cifar()
    population = Batch(nn.functional.avg_pool2d(images, images.shape[-1] // 16), labels, tuple(range(len(labels))))
    rows: list[Row] = []
    try:
        drawn = track(architectures(count, seed), "Architectures", console=Console(stderr=True))
        for number, architecture in enumerate(drawn):
            rows.append(measure(architecture, population, runs, steps, seed + 1000 * number))
            if raw:
                with raw.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(rows[-1]), ensure_ascii=False) + "\n")
    except KeyboardInterrupt:
        pass  # the table says that it is partial
    text = document(rows, _facts(rows, count, runs, steps, seed)) if rows else "interrupted before the first was done\n"
    click.echo(text)
    if out and rows:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    context.exit(0 if len(rows) == count else 130)


if __name__ == "__main__":
    main()
