"""Attacks on updates of several local steps, on Fashion-MNIST: replayed, epoch by epoch, by a surrogate, naive.

    python benchmarks/local_steps.py [CASE ...] [--first 100] [--victims 4]

A case is a network, how its client trains, and an attack. *naive* is IG that takes the update for one gradient. Labels
are the true ones. PSNR in 0..1, samples matched (Hungarian), mean over the samples of a victim; median and range over
the victims. Victim v has the weights and the samples of seed v, of distinct classes where there are as many; settings
were chosen on victims below 100, and victims from 100 on confirm them. Measured victims are kept in ``--store`` and not
measured again. Needs fashion_mnist_test.npz in $LEAKAUDIT_DATA/images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from networks import cifar, distinct
from scipy.optimize import linear_sum_assignment
from store import RESULTS, Measurement, Store, machine
from torch import Tensor, nn

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.registry import create
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe_step
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

FASHION = Images((1, 28, 28), (0.0,), (1.0,))
"""Pixels as they are; rows *normalised* have mean 0.2860 and standard deviation 0.3530, which moves weights further."""
NORMALISED = Images((1, 28, 28), (0.2860,), (0.3530,))
CLASSES = 10
Activation = Callable[[], nn.Module]


def lenet(activation: Activation, p: float = 0.0) -> nn.Module:
    """Three 5×5 convolutions of 12 channels and a linear layer, dropout before it."""
    layers: list[nn.Module] = []
    for inputs, stride in ((1, 2), (12, 2), (12, 1)):
        layers += [nn.Conv2d(inputs, 12, 5, stride, 2), activation()]
    return nn.Sequential(*layers, nn.Flatten(), *([Dropout(p)] if p else []), nn.Linear(588, 10))


def cnn(activation: Activation = nn.ReLU) -> nn.Module:
    """Two 5×5 convolutions of 32 and 64 channels, each with a max-pool, and a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 5, padding=2), activation(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3136, 10))


@dataclass(frozen=True)
class Case:
    """One row.

    Args:
        build: The network.
        client: How it trains; its mode is train where masks are drawn.
        attack: Name; ``naive`` for IG on one gradient.
        steps: Of the attack, 0 for those of its preset standard.
        bar: What is to be reached, in dB.
        settings: Of the attack, beside the preset's.
    """

    build: Callable[[], nn.Module]
    client: FedAvg
    attack: str
    steps: int = 0
    bar: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: Images = FASHION


EXACT = {"tolerance": 1e-13}
"""Down to the rounding of the weights."""


def gelu() -> nn.Module:
    return lenet(nn.GELU)


def sigmoid() -> nn.Module:
    return lenet(nn.Sigmoid)


def dropped() -> nn.Module:
    return lenet(nn.GELU, 0.5)


def _cell(name: str, build: Callable[[], nn.Module], client: FedAvg, steps: int, **bars: str) -> dict[str, Case]:
    """The naive attack and those named, on one client."""
    cases = {f"{name} naive": Case(build, client, "naive", steps)}
    for attack, bar in bars.items():
        own = EXACT if attack == "ig" else {}
        cases[f"{name} {attack}"] = Case(build, client, attack, steps, bar, own)
    return cases


def _normalised(cases: dict[str, Case]) -> dict[str, Case]:
    return {f"normalised {name}": replace(case, space=NORMALISED, bar="") for name, case in cases.items()}


CASES: dict[str, Case] = {
    **_cell("gelu N2 B2 E5 .1", gelu, FedAvg(2, local_epochs=5, learning_rate=0.1), 4500, sme="≥ 33", ig="≥ 100"),
    **_cell("sigmoid N1 B1 E5 .1", sigmoid, FedAvg(1, local_epochs=5, learning_rate=0.1), 3000, sme="", ig="≥ 48"),
    **_cell("cnn N8 B4 E5 .1", cnn, FedAvg(8, "eval", "none", 5, 4, 0.1), 400, sme="", dlfa="≥ 13"),
    **_cell("cnn N8 B4 E5 .004", cnn, FedAvg(8, "eval", "none", 5, 4, 0.004), 1500, sme="", dlfa="≥ 25"),
    **_cell("cnn N16 B4 E10 .02", cnn, FedAvg(16, "eval", "none", 10, 4, 0.02), 1500, sme="≥ naive + 3"),
    **_cell("gelu N4 B2 E5 .1", gelu, FedAvg(4, "eval", "none", 5, 2, 0.1), 2000, sme="≥ 16", dlfa="≥ 17"),
    **_cell("gelu N4 B2 E5 .004", gelu, FedAvg(4, "eval", "none", 5, 2, 0.004), 2000, sme="", dlfa=""),
}
CASES |= _normalised(_cell("gelu N2 B2 E5 .1", gelu, FedAvg(2, local_epochs=5, learning_rate=0.1), 4500, sme="", ig=""))


def _dropout(
    name: str, client: FedAvg, joint: str, build: Callable[[], nn.Module] = dropped, known: str = "≥ 100"
) -> dict[str, Case]:
    client = replace(client, mode="train")
    return {
        f"dropout {name} known": Case(build, client, "wia", 3000, known, EXACT),
        f"dropout {name} joint": Case(build, client, "dia", 3000, joint),
        f"dropout {name} plain": Case(build, client, "ig", 1000, "< 17" if joint else ""),
    }


def dropped_mlp() -> nn.Module:
    """Two hidden layers of 128 with dropout after each."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (784, 128):
        layers += [nn.Linear(inputs, 128), nn.GELU(), Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(128, 10))


class Block(nn.Module):
    """One block of a transformer: attention of four heads and an MLP, dropout after both."""

    def __init__(self, width: int, p: float) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixing, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.after_attention, self.after_mlp = Dropout(p), Dropout(p)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        parts = self.mixing(self.first(tokens)).reshape(batch, count, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        weights = (parts[0] @ parts[1].transpose(-1, -2) / (width // 4) ** 0.5).softmax(-1)
        mixed = self.joined((weights @ parts[2]).transpose(1, 2).reshape(batch, count, width))
        tokens = tokens + self.after_attention(mixed)
        return tokens + self.after_mlp(self.wide(self.second(tokens)))


class ViT(nn.Module):
    """Patches of 7×7 in 64 dimensions, two blocks, dropout p in each."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 7, 7)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, 64))
        self.blocks = nn.Sequential(Block(64, p), Block(64, p))
        self.norm, self.last = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.last(self.norm(self.blocks(tokens)).mean(1))


def dropped_vit() -> nn.Module:
    return ViT(0.1)


CASES |= {
    **_dropout("N1 K1", FedAvg(1, learning_rate=0.1), "≥ 40 (read)"),
    **_dropout("N1 K3", FedAvg(1, local_epochs=3, learning_rate=0.1), "≥ 30"),
    **_dropout("N2 K2", FedAvg(2, local_epochs=2, learning_rate=0.1), "≥ 30"),
    **_dropout("MLP K2", FedAvg(1, local_epochs=2, learning_rate=0.1), "", dropped_mlp, ""),
    **_dropout("MLP K5", FedAvg(1, local_epochs=5, learning_rate=0.1), "", dropped_mlp, ""),
    **_dropout("ViT K2", FedAvg(1, local_epochs=2, learning_rate=0.1), "", dropped_vit, ""),
    **_dropout("ViT K5", FedAvg(1, local_epochs=5, learning_rate=0.1), "", dropped_vit, ""),
    **_cell("FEMNIST-like N50 B5 E10 .01", cnn, FedAvg(50, "eval", "none", 10, 5, 0.01), 400, sme=""),
}


def attack_of(case: Case) -> Attack:
    """The attack of a case with its settings."""
    changes = {**case.settings, **({"iterations": case.steps} if case.steps else {})}
    attack = create("ig" if case.attack == "naive" else case.attack, "standard")
    attack.settings = replace(attack.settings, **changes)
    return attack


def observed(case: Case, number: int) -> tuple[Target, Observation, Tensor]:
    """The network, what a server sees, and the samples (N, 1, 28, 28) in 0..1."""
    torch.manual_seed(number)
    net = Target(case.build().eval(), "net", "module", FASHION.shape, "NCHW", case.space, SingleLabel(CLASSES))
    images, labels = cifar("fashion_mnist_test.npz")
    size = case.client.batch_size
    drawn = torch.randperm(len(images), generator=cpu_generator(number))[:size]
    chosen = distinct(labels, size, number) if size <= CLASSES else drawn
    batch = Batch(images[chosen].reshape(-1, *FASHION.shape), labels[chosen], tuple(chosen.tolist()))
    seen, masks = observe_step(net, batch, case.client, case.space, number)
    seen = replace(seen, labels=batch.labels, label_source="given", masks=masks or None)
    if case.attack == "naive":
        seen = replace(seen, protocol=FedSGD(case.client.batch_size, case.client.mode))
    return net, seen, batch.images


CLEAR = 20.0
"""dB above which an image counts as recovered, as the authors of DLFA have it on FEMNIST (arXiv 2206.12395)."""


def matched(found: Tensor, images: Tensor) -> Tensor:
    """PSNR in 0..1 of every sample (N,), each beside its own reconstruction by the least sum of errors."""
    error = (found[:, None] - images[None]).square().flatten(2).mean(2)
    rows, columns = linear_sum_assignment(error.numpy())
    return -10 * error[rows, columns].clamp_min(1e-12).log10()


def measure(name: str, number: int) -> Measurement:
    """One attack on one victim."""
    case = CASES[name]
    net, seen, images = observed(case, number)
    attack = attack_of(case)
    refusal = attack.refusal(net, seen)
    assert refusal is None, refusal
    started = time.perf_counter()
    found = attack(net, seen, cpu_generator(number))
    seconds = time.perf_counter() - started
    values = matched(case.space.decode(found.inputs).clamp(0, 1), images)
    notes = (*found.notes, f"{float((values > CLEAR).float().mean()):.0%} of the samples above {CLEAR:g} dB")
    return Measurement(name, number, float(values.mean()), seconds, found.match or 0.0, notes)


def row(name: str, rows: list[Measurement]) -> str:
    """Median and range, over the victims."""
    values = sorted(r.psnr for r in rows)
    spread = f" ({values[0]:.1f} to {values[-1]:.1f})" if len(values) > 1 else ""
    seconds = statistics.median(r.seconds for r in rows)
    case = CASES[name]
    cells = [name, case.client.steps, case.attack, f"{statistics.median(values):.1f}{spread}", case.bar or "–"]
    return "| " + " | ".join(map(str, [*cells, len(values), f"{seconds:.0f}"])) + " |"


HEADER = "| case | K | attack | PSNR, dB | bar | victims | seconds each |\n|---|---|---|---|---|---|---|"


@click.command()
@click.argument("names", nargs=-1, metavar="[CASE ...]")
@click.option("--first", default=100, show_default=True, help="The first victim.")
@click.option("--victims", default=4, show_default=True)
@click.option("--store", "path", default=RESULTS / "local_steps.jsonl", type=click.Path(path_type=Path))
@click.option("--threads", default=1, show_default=True)
@click.option("--table", is_flag=True, help="Measure nothing: print what the store holds.")
def main(names: tuple[str, ...], first: int, victims: int, path: Path, threads: int, table: bool) -> None:
    """Measure cases, all by default, or those whose name holds one of the words."""
    torch.set_num_threads(threads)
    store = Store(path)
    click.echo(f"{machine(f'{threads} thread(s)')}\n\n{HEADER}")
    for name in [known for known in CASES if not names or any(word in known for word in names)]:
        rows = []
        for number in range(first, first + victims):
            known = store.get(name, number)
            if known is None and not table:
                known = store.add(measure(name, number))
            rows += [known] if known else []
        if rows:
            click.echo(row(name, rows))


if __name__ == "__main__":
    main()
