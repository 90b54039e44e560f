"""How much noise on the shared gradient stops R-GAP? Writes ``noise.svg`` and ``noise.csv`` beside this file.

The network is CNN6 of the R-GAP paper (six convolutions with LeakyReLU, one linear layer, no pooling), the sample a
32-pixel photograph. Gaussian noise of a relative size is added to every gradient tensor. The reconstruction's error
grows in proportion to it (slope 1 on log-log axes) until signs of activations near zero flip, and then all at once.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import click
import matplotlib
import torch
from PIL import Image
from skimage import data
from torch import nn

from leakaudit import FedSGD, Images, load
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.registry import create
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe

HERE = Path(__file__).resolve().parent
LEVELS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
LAYERS = (
    (3, 12, 4, 2, 2),
    (12, 36, 3, 2, 1),
    (36, 36, 3, 1, 1),
    (36, 36, 3, 1, 1),
    (36, 64, 3, 2, 1),
    (64, 128, 3, 1, 1),
)


def cnn6() -> nn.Module:
    """CNN6: (channels in, channels out, kernel, stride, padding) per convolution, then ten classes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels_in, channels_out, kernel, stride, padding in LAYERS:
        layers += [nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


def photograph() -> Batch:
    """The astronaut at 32 pixels."""
    image = Image.fromarray(data.astronaut()).resize((32, 32), Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32, 3)
    return Batch(pixels.permute(2, 0, 1)[None].float() / 255, torch.tensor([3]), (0,))


def measure() -> list[tuple[float, float]]:
    """Root mean squared error of the pixels for each relative noise level."""
    module = cnn6()
    module(torch.zeros(1, 3, 32, 32))
    space = Images((3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    target = load(module, image_shape=space.shape)
    target.module.double()  # so that rounding does not hide the noise
    sample = photograph()
    sample = replace(sample, images=sample.images.double())
    observation = observe(target, sample, FedSGD(1), space)
    generator = cpu_generator(1)
    noise = {n: torch.randn(g.shape, generator=generator, dtype=g.dtype) for n, g in observation.update.items()}
    rows = []
    for level in LEVELS:
        noisy = {n: g + level * g.square().mean().sqrt() * noise[n] for n, g in observation.update.items()}
        attack = create("rgap", "standard")
        result = attack(target, replace(observation, update=noisy, labels=sample.labels), cpu_generator(0))
        error = (space.decode(result.inputs).double() - sample.images).square().mean().sqrt()
        rows.append((level, float(error)))
        click.echo(f"noise {level:.0e}  error {rows[-1][1]:.2e}")
    return rows


def plot(rows: list[tuple[float, float]]) -> None:
    """Both on log axes, with a line of slope 1 through the first point."""
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    noise, error = zip(*rows, strict=True)
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axes.loglog(noise, error, marker="o", label="R-GAP on CNN6")
    axes.loglog(noise, [error[0] / noise[0] * n for n in noise], linestyle=":", color="grey", label="slope 1")
    axes.set(xlabel="relative noise on the gradient", ylabel="RMSE of the pixels", ylim=(error[0] / 3, 2))
    axes.legend()
    figure.savefig(HERE / "noise.svg", metadata={"Date": None})


@click.command()
def main() -> None:
    """Measure and plot."""
    rows = measure()
    with (HERE / "noise.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("noise", "rmse"), *rows])
    plot(rows)
    click.echo(f"wrote {HERE / 'noise.svg'}")


if __name__ == "__main__":
    main()
