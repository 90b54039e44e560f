"""R-GAP on the networks of its paper: error and time per image.

    OMP_NUM_THREADS=1 python benchmarks/rgap.py

CNN6 and the rank-deficient CNN6-d on CIFAR-10, FCN3 on MNIST, batch size 1, default initialisation, float32 updates
unless the row says float64. The authors' code reaches a mean squared error of 3e-4 to 1e-2 on CNN6 in minutes.
Needs the images in $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

from leakaudit import FedSGD, Images
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.registry import create
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.reconstruction import NotApplicable
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import single_label

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("LEAKAUDIT_DATA", ROOT.parent / "shared" / "data"))
CIFAR = Images((3, 32, 32), (0.49147, 0.48226, 0.44677), (0.24703, 0.24349, 0.26159))
MNIST = Images((1, 28, 28), (0.1307,), (0.3081,))


def cnn6(second: int = 36, outputs: int = 1, bias: bool = False) -> nn.Module:
    """CNN6; ``second=20`` makes layer 2 deficient (CNN6-d)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for shape in ((3, 12, 4, 2, 2), (12, second, 3, 2, 1), (second, 36, 3, 1, 1), (36, 36, 3, 1, 1), (36, 64, 3, 2, 1)):
        layers += [nn.Conv2d(*shape, bias=False), nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(64, 128, 3, 1, 1, bias=False), nn.LeakyReLU(0.2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(3200, outputs, bias=bias))


def fcn3() -> nn.Module:
    """FCN3, with a LeakyReLU behind the last layer too."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for widths in ((784, 1000), (1000, 100), (100, 1)):
        layers += [nn.Linear(*widths, bias=False), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def lenet_tanh() -> nn.Module:
    """The LeNet of DLG with bias and tanh."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels, stride in ((3, 2), (12, 2), (12, 1)):
        layers += [nn.Conv2d(channels, 12, 5, stride, 2), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))


def measure(name: str, module: nn.Module, space: Images, file: str, count: int, double: bool = False) -> str:
    """One row: mean squared errors and seconds over `count` images."""
    with np.load(DATA / "images" / file) as archive:
        images, labels = archive["x"][:count].reshape(-1, *space.shape), archive["y"][:count].astype(np.int64)
    outputs = next(m for m in reversed(list(module.modules())) if isinstance(m, nn.Linear)).out_features
    module = module.double() if double else module
    target = Target(module.eval(), name, "module", space.shape, "NCHW", space, single_label(outputs))
    errors, seconds, exact, note = [], [], 0, ""
    for index in range(count):
        pixels = torch.from_numpy(images[[index]] / 255.0).to(torch.float64 if double else torch.float32)
        label = int(labels[index]) if outputs > 1 else index % 2
        sample = Batch(pixels, torch.tensor([label]), (index,))
        observation = observe(target, sample, FedSGD(1), space)
        attack = create("rgap", "standard")
        started = time.perf_counter()
        refusal = attack.applies(target, observation)
        assert not isinstance(refusal, NotApplicable), refusal
        result = attack(target, observation, cpu_generator(0))
        seconds.append(time.perf_counter() - started)
        truth = space.encode(pixels.double())
        scale = torch.tensor(space.std).double().view(-1, 1, 1)
        errors.append(float(((result.inputs.double() - truth) * scale).square().mean()))
        exact += result.exact
        note = next((n for n in result.notes if "deficient" in n), "")
    return (
        f"| {name} | {count} | {min(errors):.1e} – {max(errors):.1e} | {exact} | "
        f"{min(seconds):.1f} – {max(seconds):.1f} | {note} |"
    )


@click.command()
def main() -> None:
    """Print the table."""
    click.echo("| network | images | MSE | exact | seconds | note |\n|---|---|---|---|---|---|")
    cifar, mnist = "cifar10_test.npz", "mnist_test.npz"
    click.echo(measure("CNN6, one logit", cnn6(), CIFAR, cifar, 10))
    click.echo(measure("CNN6, ten classes, no bias", cnn6(outputs=10), CIFAR, cifar, 3))
    click.echo(measure("CNN6-d", cnn6(second=20), CIFAR, cifar, 3))
    click.echo(measure("FCN3, float64", fcn3(), MNIST, mnist, 5, double=True))
    click.echo(measure("FCN3", fcn3(), MNIST, mnist, 5))
    click.echo(measure("LeNet, bias, tanh", lenet_tanh(), CIFAR, cifar, 3))


if __name__ == "__main__":
    main()
