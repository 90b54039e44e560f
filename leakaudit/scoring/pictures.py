"""Pictures of samples for the report."""

from __future__ import annotations

import base64
import io
from colorsys import hsv_to_rgb

import numpy as np
import torch
from torch import Tensor

WIDTH, HEIGHT = 480, 72
"""Of the curve of a channel in pixels; chosen for reading."""
SHOWN = 6
"""Channels of a signal that are drawn at most; chosen for reading."""
FINE = 3
"""How many times finer curves are drawn than shown, so that they are smooth; chosen."""
PAPER, BEHIND, FRONT = "#ffffff", "#9aa4b2", "#b3261e"
GOLDEN = 0.618034
"""Step of the hue from class to class, the golden ratio: neighbours differ by definition."""
BAND = 8
"""Height of the band of a sequence in pixels; chosen."""
GAP = 2
"""Pixels between the slices of a volume; chosen."""


def png(pixels: Tensor) -> str:
    """A PNG data URI of pixels (C, H, W) in 0..1 with 1, 3 or 4 channels; of the channels' mean otherwise."""
    from PIL import Image

    image = pixels if pixels.shape[0] in (1, 3, 4) else pixels.mean(0, keepdim=True)
    array = (image.detach().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    array = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def slices(volume: Tensor) -> Tensor:
    """The middle slices of the three axes of a volume (C, D, H, W) beside each other, as pixels (C, height, width)."""
    depth, height, width = (size // 2 for size in volume.shape[1:])
    planes = [volume[:, depth], volume[:, :, height], volume[..., width]]
    tallest = max(plane.shape[1] for plane in planes)
    framed = [torch.nn.functional.pad(p, (0, GAP, 0, tallest - p.shape[1]), value=1.0) for p in planes]
    return torch.cat(framed, 2)[..., :-GAP]


def class_map(classes: Tensor) -> str:
    """A PNG data URI of a class for each place (H, W), (D, H, W) or (L,), a colour for each class.

    Of a volume the middle slices are drawn, of a sequence a band; ignored places are white.
    """
    classes = classes.cpu()
    colours = torch.tensor(
        [hsv_to_rgb(k * GOLDEN % 1.0, 0.65, 0.8) for k in range(int(classes.max()) + 1)] or [[0.0] * 3]
    )
    drawn = torch.where((classes >= 0)[..., None], colours[classes.clamp_min(0)], 1.0).movedim(-1, 0)
    if classes.dim() == 1:
        return png(drawn[:, None].expand(-1, BAND, -1))
    return png(slices(drawn) if classes.dim() > 2 else drawn)


def lines(signal: Tensor, behind: Tensor | None = None) -> str:
    """A PNG data URI of the curves of a signal (C, L), a row a channel, another signal behind it in grey if given.

    The rows are scaled alike for both, from the smallest to the largest value of the one behind.
    """
    from PIL import Image, ImageDraw

    yardstick = signal if behind is None else behind
    shown = min(SHOWN, signal.shape[0])
    image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE * shown), PAPER)
    draw = ImageDraw.Draw(image)
    for row in range(shown):
        low, high = float(yardstick[row].min()), float(yardstick[row].max())
        for curve, colour in ((behind, BEHIND), (signal, FRONT if behind is not None else BEHIND)):
            if curve is not None:
                draw.line(_points(curve[row], low, high, row), fill=colour, width=FINE * 2)
    stream = io.BytesIO()
    small = image.resize((WIDTH, HEIGHT * shown), Image.Resampling.LANCZOS)
    small.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _points(curve: Tensor, low: float, high: float, row: int) -> list[tuple[float, float]]:
    """Where the values of one channel (L,) are drawn."""
    values = curve.detach().cpu().double()
    scaled = ((values - low) / (high - low) if high > low else torch.full_like(values, 0.5)).clamp(-0.1, 1.1)
    across = torch.linspace(0, WIDTH * FINE - 1, len(values), dtype=torch.float64)
    margin = 0.12
    down = (row + margin + (1 - 2 * margin) * (1 - scaled)) * HEIGHT * FINE
    points = list(zip(across.tolist(), down.tolist(), strict=True))
    return points if len(points) > 1 else [*points, (WIDTH * FINE - 1.0, points[0][1])]
