"""The reconstruction bound against the best attacker there is, on real gradients.

    python benchmarks/rero.py [--trials 400] [--candidates 100] [--out FILE]

One of N CIFAR-10 images is drawn; its clipped and noised gradient is shared; the attacker, who knows all N images and
their gradients, names the most likely one. No attack can do better with the prior 1/N, so its success rate must lie
below γ(1/N), and near it where the gradients are far apart. Also prints ε against Opacus' accountants where Opacus is
installed.
"""

from __future__ import annotations

import math
from pathlib import Path

import click
import torch
from networks import CIFAR, cifar, lenet, mlp, target
from store import machine

from leakaudit.defences.accounting import epsilon, reconstruction_bound
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.protocols.private import clipped

MULTIPLIERS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
CLIP = 1.0
ACCOUNTING = ((1.0, 0.01, 1000), (0.7, 0.004, 5000), (2.0, 0.05, 400), (1.5, 1.0, 10))


def gradients(name: str, count: int) -> torch.Tensor:
    """Clipped gradients of the first images in an orthonormal basis of their span (count, count).

    Noise outside the span is the same for every candidate, so nothing is lost.
    """
    net, (images, labels) = target({"mlp": mlp, "lenet": lenet}[name]), cifar()
    rows = []
    for x, y in zip(images[:count], labels[:count], strict=True):
        found = clipped(gradient_of(net, CIFAR.encode(x[None]), y[None]), CLIP)
        rows.append(torch.cat([g.detach().flatten() for g in found.values()]))
    known = torch.stack(rows).double()
    values, vectors = torch.linalg.eigh(known @ known.T)
    return vectors * values.clamp_min(0).sqrt()


def success(known: torch.Tensor, multiplier: float, trials: int) -> float:
    """Share of trials in which the nearest candidate is the true one."""
    generator = torch.Generator().manual_seed(0)
    norms, hits = known.square().sum(1), 0
    for trial in range(trials):
        true = trial % len(known)
        shown = known[true] + CLIP * multiplier * torch.randn(known.shape[1], generator=generator, dtype=known.dtype)
        hits += int(int((norms - 2 * known @ shown).argmin()) == true)
    return hits / trials


@click.command()
@click.option("--trials", default=400, show_default=True)
@click.option("--candidates", default=100, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(trials: int, candidates: int, out: Path | None) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    rows = ["| network | noise multiplier | best attacker | bound γ | within the bound? |", "|---|---|---|---|---|"]
    for name in ("mlp", "lenet"):
        known = gradients(name, candidates)
        for multiplier in MULTIPLIERS:
            rate, bound = success(known, multiplier, trials), reconstruction_bound(multiplier, 1 / candidates)
            slack = 3 * math.sqrt(bound * (1 - bound) / trials)
            verdict = "yes" if rate <= bound else ("within sampling error" if rate <= bound + slack else "NO")
            rows.append(f"| {name} | {multiplier} | {rate:.3f} | {bound:.3f} | {verdict} |")
    rows += ["", *accounting(), "", f"{trials} trials, {candidates} candidates. {machine()}"]
    click.echo("\n".join(rows))
    if out:
        out.write_text("\n".join(rows) + "\n", encoding="utf-8")


def accounting() -> list[str]:
    """ε beside Opacus' PRV accountant, at δ = 1e-5."""
    try:
        from opacus.accountants import create_accountant
    except ImportError as missing:
        return [f"ε was not compared with Opacus: {missing}"]
    rows = ["| noise multiplier | rate | steps | ε here | ε Opacus (PRV) | difference |", "|---|---|---|---|---|---|"]
    for multiplier, rate, steps in ACCOUNTING:
        other = create_accountant("prv")
        other.history = [(multiplier, rate, steps)]
        theirs = float(other.get_epsilon(1e-5))
        ours = epsilon(multiplier, rate, steps, 1e-5)
        rows.append(f"| {multiplier} | {rate} | {steps} | {ours:.4f} | {theirs:.4f} | {ours / theirs - 1:+.2%} |")
    return rows


if __name__ == "__main__":
    main()
