"""Every printed bound against the best attacker there is, and ε against Opacus.

    python benchmarks/dp_bound.py [--trials 20000] [--out FILE]

One of 100 CIFAR-10 images takes part in an update; the attacker knows all 100, the other samples of the batch, and
every setting, and names the most likely one. No attack can do better with the prior 1/100, so its success must lie
below the bound that is printed for that case. The noise is added where a client adds it, by the defence itself, at 12
levels: on networks with GroupNorm, with BatchNorm in eval mode, and plain; one and four samples an update; Poisson
sampling with another divisor; clipping of the whole update; and ten updates of which a server averages with momentum,
which is post-processing of all ten. Also lists what is refused or has no bound: BatchNorm in train mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import click
import torch
from networks import CIFAR, cifar
from store import machine
from torch import Tensor, nn

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe, refuse_unfit
from leakaudit.defences.accounting import epsilon, renyi_epsilon
from leakaudit.defences.spec import parse_defence
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

MULTIPLIERS = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)
CANDIDATES, CLIP = 100, 1.0
CASES = {
    # network, samples an update, settings besides clip and multiplier, updates
    "plain, 1 sample": (nn.Identity, 1, "", 1),
    "GroupNorm, 1 sample": (lambda: nn.GroupNorm(4, 12), 1, "", 1),
    "BatchNorm (eval), 1 sample": (lambda: nn.BatchNorm2d(12), 1, "", 1),
    "BatchNorm (eval), 4 samples": (lambda: nn.BatchNorm2d(12), 4, "", 1),
    "plain, 4 samples": (nn.Identity, 4, "", 1),
    "plain, 4 drawn of 2 expected": (nn.Identity, 4, ",expected-batch=2", 1),
    "plain, 4 samples, per=update": (nn.Identity, 4, ",per=update", 1),
    "plain, 1 sample, 10 updates and momentum .9": (nn.Identity, 1, "", 10),
}
ACCOUNTED = (
    (1.1, 1.0, 1),
    (1.1, 0.01, 1000),
    (1.0, 4 / 64, 200),
    (1.1, 256 / 60000, 3000),
    (0.5, 0.01, 100),
    (0.7, 0.004, 5000),
    (4.0, 0.25, 1000),
    (2.0, 0.05, 400),
    (2.0, 1.0, 100),
)


def network(middle: Callable[[], nn.Module], mode: str = "eval") -> Target:
    """A convolution, something, a linear layer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 5, 2, 2), middle(), nn.GELU(), nn.Flatten(), nn.Linear(3072, 10))
    return Target(net.train(mode == "train"), "net", "module", (3, 32, 32), "NCHW", CIFAR, SingleLabel(10))


def clean_updates(target: Target, size: int, more: str) -> Tensor:
    """What is shared before the noise with each of the candidates beside the same others (100, entries)."""
    images, labels = cifar()
    rows = []
    for candidate in range(CANDIDATES):
        chosen = [candidate, *range(CANDIDATES, CANDIDATES + size - 1)]
        batch = Batch(images[chosen], labels[chosen], tuple(chosen))
        update = observe(target, batch, FedSGD(size), space(), 0, [parse_defence(f"clip={CLIP:g}{more}")]).update
        rows.append(torch.cat([g.flatten() for g in update.values()]))
    return torch.stack(rows).double()


def space() -> Images:
    """The images' normalisation."""
    return CIFAR


def success(known: Tensor, level: float, updates: int, trials: int) -> float:
    """Share of trials in which the nearest candidate is the true one.

    In an orthonormal basis of the candidates' differences: noise outside is the same for each. Several updates with the
    same sample are worth their mean, and what a server makes of them by momentum is no more than all of them.
    """
    centred = known - known.mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    low = vectors * values.clamp_min(0).sqrt()
    generator = torch.Generator().manual_seed(1)
    norms, hits = low.square().sum(1), 0
    for begin in range(0, trials, 1000):
        true = torch.arange(begin, min(begin + 1000, trials)) % CANDIDATES
        noise = torch.randn((len(true), low.shape[1]), generator=generator, dtype=low.dtype)
        shown = low[true] + level / math.sqrt(updates) * noise
        hits += int(((norms - 2 * shown @ low.T).argmin(1) == true).sum())
    return hits / trials


def bounds(trials: int) -> list[str]:
    """The table of attacks."""
    rows = ["| case | noise multiplier | best attacker | bound printed | below it? |", "|---|---|---|---|---|"]
    for case, (middle, size, more, updates) in CASES.items():
        known = clean_updates(network(middle), size, more)
        for multiplier in MULTIPLIERS:
            defence = parse_defence(f"clip={CLIP:g},multiplier={multiplier:g},steps={updates}{more}")
            found = defence.guarantee(size, 1 / CANDIDATES)
            assert found is not None
            level = defence.level(size)  # type: ignore[attr-defined]
            rate = success(known, level, updates, trials)
            bound = found.reconstruction
            slack = 3 * math.sqrt(bound * (1 - bound) / trials)
            verdict = "yes" if rate <= bound else ("within sampling error" if rate <= bound + slack else "NO")
            rows.append(f"| {case} | {multiplier:g} | {rate:.4f} | {bound:.4f} | {verdict} |")
    return rows


def refused() -> list[str]:
    """What has no bound."""
    try:
        refuse_unfit(network(lambda: nn.BatchNorm2d(12), "train"), [parse_defence("clip=1,multiplier=1")])
    except UsageError as error:
        return [f"BatchNorm in train mode: {error.message}; {error.hint}."]
    return ["BatchNorm in train mode was NOT refused."]


def accounting() -> list[str]:
    """ε beside Opacus' accountants, at δ = 1e-5."""
    try:
        from opacus.accountants import create_accountant
    except ImportError as missing:
        return [f"ε was not compared with Opacus: {missing}"]
    rows = [
        "| z | rate | steps | ε here | ε Opacus (PRV) | difference | Rényi here | Opacus (RDP) | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for z, rate, steps in ACCOUNTED:
        theirs = []
        for kind in ("prv", "rdp"):
            accountant = create_accountant(kind)
            accountant.history = [(z, rate, steps)]
            theirs.append(float(accountant.get_epsilon(1e-5)))
        ours, renyi = epsilon(z, rate, steps, 1e-5), renyi_epsilon(z, rate, steps, 1e-5)
        rows.append(
            f"| {z:g} | {rate:.4g} | {steps} | {ours:.4f} | {theirs[0]:.4f} | {ours / theirs[0] - 1:+.2%} | "
            f"{renyi:.4f} | {theirs[1]:.4f} | {renyi / theirs[1] - 1:+.2%} |"
        )
    return rows


@click.command()
@click.option("--trials", default=20000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(trials: int, out: Path | None) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    rows = [*bounds(trials), "", *refused(), "", *accounting(), ""]
    rows.append(f"{trials} trials, {CANDIDATES} candidates. {machine()}")
    click.echo("\n".join(rows))
    if out:
        out.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
