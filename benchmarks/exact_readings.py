"""How many samples the exact readings recover, how fast, and whether any claim is ever false.

    python benchmarks/exact_readings.py bars          # the table of batch sizes, fresh, trained, with dropout
    python benchmarks/exact_readings.py false 240     # random networks, batches and modes; every claim checked
    python benchmarks/exact_readings.py labels 100    # class counts on LeNet, a plain ConvNet and ResNet-20, by seed
    python benchmarks/exact_readings.py steps 100     # the same after four local steps

Needs cifar10_test.npz and cifar10_train.npz (arrays x, uint8, NCHW, and y) in the folder LEAKAUDIT_DATA. A sample
counts as recovered if its RMSE in pixels is below 1e-3. Times are wall times of this machine; they are not tests.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.labels.infer import infer_labels
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.spear import Spear, SpearSettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.base import Mode, Protocol
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import NotApplicable
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel

SPACE = Images((3, 32, 32), (0.49147, 0.48226, 0.44677), (0.24703, 0.24349, 0.26159))
EXACT = 1e-3
SHAPE = (3, 32, 32)


def load(name: str) -> tuple[Tensor, Tensor]:
    """Pixels in 0..1 and labels."""
    root = Path(os.environ.get("LEAKAUDIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    folder = root / "images" if (root / "images").is_dir() else root
    with np.load(folder / name) as data:
        return torch.from_numpy(data["x"]).float() / 255, torch.from_numpy(data["y"]).long()


def wrap(module: nn.Module, classes: int = 10) -> Target:
    return Target(module.eval(), "net", "module", SHAPE, "NCHW", Images.plain(SHAPE), SingleLabel(classes))


def mlp(seed: int, hidden: int = 512, depth: int = 1, p: float = 0.0, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    width = 3072
    for _ in range(depth):
        layers += [nn.Linear(width, hidden), nn.ReLU(), Dropout(p)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, classes))


def train(module: nn.Module, steps: int, rate: float) -> float:
    """Some steps of SGD with momentum on 64 images each; the last loss."""
    images, labels = load("cifar10_train.npz")
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9)
    module.train()
    for _ in range(steps):
        index = torch.randint(len(images), (64,), generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(module(SPACE.encode(images[index])), labels[index])
        loss.backward()
        optimizer.step()
    module.eval()
    return loss.item()


def draw(images: Tensor, labels: Tensor, size: int, seed: int, skewed: bool = False) -> Batch:
    """A batch; with skewed class frequencies labels repeat more often."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(10, generator=generator) ** 3 if skewed else torch.ones(10)
    index = torch.multinomial(weights[labels], size, generator=generator)
    return Batch(images[index], labels[index], tuple(index.tolist()))


def see(target: Target, batch: Batch, mode: Mode, seed: int) -> Observation:
    observation = observe(target, batch, FedSGD(len(batch.labels), mode), SPACE, seed)
    guess = infer_labels(target, observation, cpu_generator(seed))
    return replace(observation, labels=guess.labels, label_source="inferred")


def attempt(attack: Attack, target: Target, batch: Batch, mode: Mode, seed: int) -> tuple[int, int, float] | None:
    """Claims that are true, claims that are false, seconds."""
    observation = see(target, batch, mode, seed)
    started = time.perf_counter()
    if isinstance(attack.applies(target, observation), NotApplicable):
        return None
    result = attack(target, observation, cpu_generator(seed))
    seconds = time.perf_counter() - started
    claimed = int(result.notes[0].split(" of ")[0])
    if result.exact and claimed < len(batch.labels):
        raise AssertionError("exact, but not all samples are claimed")
    rows = SPACE.decode(result.inputs[:claimed]).flatten(1)
    truth = batch.images.flatten(1)
    if claimed == 0:
        return 0, 0, seconds
    distance = torch.cdist(rows, truth) / truth.shape[1] ** 0.5
    right = int((distance.min(1).values < EXACT).sum())
    return right, claimed - right, seconds


def bars() -> None:
    images, labels = load("cifar10_test.npz")
    attacks: tuple[Attack, ...] = (LinearReader(LinearSettings()), Spear(SpearSettings()))
    cases: list[tuple[str, Callable[[int], Target], Mode, tuple[int, ...]]] = [
        ("fresh", lambda seed: wrap(mlp(seed)), "eval", (1, 4, 8, 12, 16, 20, 24)),
        ("200 steps", trained, "eval", (4, 8, 16)),
        ("dropout .5, 3x512", lambda seed: wrap(mlp(seed, depth=3, p=0.5)), "train", (8, 16, 24)),
    ]
    print(f"{'network':20} {'batch':>5}  {'attack':7} recovered per seed (seconds)")
    for name, make, mode, sizes in cases:
        for attack in attacks:
            for size in sizes:
                cells = []
                for seed in range(5):
                    found = attempt(attack, make(seed), draw(images, labels, size, seed), mode, seed)
                    if found is not None:
                        right, wrong, seconds = found
                        cells.append(f"{right}{f' +{wrong} FALSE' if wrong else ''} ({seconds:.1f})")
                print(f"{name:20} {size:5}  {attack.name:7} {'  '.join(cells)}", flush=True)


def trained(seed: int) -> Target:
    module = mlp(seed)
    train(module, 200, 0.01)
    return wrap(module)


def false_claims(runs: int) -> None:
    """Random networks; every sample that an attack calls exact must be in the batch."""
    images, labels = load("cifar10_test.npz")
    attacks: tuple[Attack, ...] = (LinearReader(LinearSettings()), Spear(SpearSettings(starts=256, rounds=3)))
    totals = {attack.name: [0, 0, 0, 0] for attack in attacks}
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        pick = lambda options, g=generator: options[int(torch.randint(len(options), (1,), generator=g))]  # noqa: E731
        classes, p = pick([2, 10]), pick([0.0, 0.25, 0.5, 0.75])
        target = wrap(mlp(seed, pick([64, 128, 256]), pick([1, 2]), p, classes), classes)
        mode: Mode = pick(["eval", "train"])
        batch = draw(images, labels, pick([1, 2, 3, 4, 6, 8, 12, 16]), seed)
        batch = Batch(batch.images, batch.labels % classes, batch.indices)
        for attack in attacks:
            found = attempt(attack, target, batch, mode, seed)
            if found is not None:
                right, wrong, _ = found
                for i, value in enumerate((1, right, wrong, len(batch.labels))):
                    totals[attack.name][i] += value
                if wrong:
                    print(f"FALSE: seed {seed}, {attack.name}, {mode}, p {p}, {classes} classes: {wrong}", flush=True)
    for name, (count, right, wrong, samples) in totals.items():
        print(f"{name}: {count} runs, {right} of {samples} samples recovered, {wrong} false claims", flush=True)


def convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(inputs, outputs, stride), *convolution(outputs, outputs)[:2])
        self.skip = nn.Identity() if inputs == outputs else convolution(inputs, outputs, stride, 1)[:2]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def lenet() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, stride in ((3, 2), (12, 2), (12, 1)):
        layers += [nn.Conv2d(inputs, 12, 5, stride, 2), nn.Sigmoid()]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))
    for tensor in module.parameters():
        nn.init.uniform_(tensor, -0.5, 0.5)
    return module


def convnet() -> nn.Module:
    parts = [convolution(3, 16), convolution(16, 32), nn.MaxPool2d(2), convolution(32, 64), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, convolution(64, 64), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 10))


def resnet20() -> nn.Module:
    sizes = [(16, 16, 1)] * 3 + [(16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
    blocks = [Residual(*size) for size in sizes]
    return nn.Sequential(convolution(3, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


NETWORKS: tuple[tuple[str, Callable[[], nn.Module], float], ...] = (
    ("LeNet", lenet, 0.1),
    ("ConvNet", convnet, 0.02),
    ("ResNet-20", resnet20, 0.05),
)
"""By name, with the learning rate that it is trained at."""


def right_counts(target: Target, protocol: Protocol, seeds: range) -> float:
    """Mean share of right class counts over batches, every second one skewed."""
    images, labels = load("cifar10_test.npz")
    shares = []
    for seed in seeds:
        batch = draw(images, labels, protocol.batch_size, seed, skewed=bool(seed % 2))
        observation = observe(target, batch, protocol, SPACE, seed)
        guess = infer_labels(target, observation, cpu_generator(seed)).labels
        counts = [torch.bincount(x, minlength=10) for x in (guess, batch.labels)]
        shares.append(float(torch.minimum(*counts).sum()) / protocol.batch_size)
    return sum(shares) / len(shares)


def label_counts(first: int = 0, repeats: int = 10) -> None:
    print(f"{'network':10} {'steps':>5}  share of right counts at batch 8, 16, 32, 64")
    for name, make, rate in NETWORKS:
        for steps in (0, 25, 100):
            torch.manual_seed(first)
            module = make()
            loss = train(module, steps, rate) if steps else float("nan")
            target, seeds = wrap(module), range(first, first + repeats)
            cells = [f"{right_counts(target, FedSGD(size), seeds):.3f}" for size in (8, 16, 32, 64)]
            print(f"{name:10} {steps:5}  {'  '.join(cells)}   training loss {loss:.2f}", flush=True)


CLIENTS = (
    FedAvg(32, local_batch_size=8, learning_rate=0.01),
    FedAvg(32, local_batch_size=8, learning_rate=0.05),
    FedAvg(8, local_epochs=4, learning_rate=0.01),
    FedAvg(8, local_epochs=4, learning_rate=0.05),
)
"""Four steps of eight samples: of 32 samples once, and of eight samples four times."""


def counts_after_steps(first: int = 0, repeats: int = 10) -> None:
    print(f"{'network':10} {'steps':>5}  share of right counts: 32 samples at .01, at .05, 8 samples at .01, at .05")
    for name, make, rate in NETWORKS:
        for steps in (0, 100):
            torch.manual_seed(first)
            module = make()
            if steps:
                train(module, steps, rate)
            target, seeds = wrap(module), range(first, first + repeats)
            cells = [f"{right_counts(target, client, seeds):.3f}" for client in CLIENTS]
            print(f"{name:10} {steps:5}  {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    what = sys.argv[1] if len(sys.argv) > 1 else "bars"
    if what == "bars":
        bars()
    elif what == "false":
        false_claims(int(sys.argv[2]) if len(sys.argv) > 2 else 240)
    elif what == "labels":
        label_counts(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    elif what == "steps":
        counts_after_steps(int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[3]) if len(sys.argv) > 3 else 10)
    else:
        sys.exit(f"unknown table {what!r}: bars, false, labels or steps")
