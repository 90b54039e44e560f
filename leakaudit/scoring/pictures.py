"""Pictures of samples for the report."""

from __future__ import annotations

import base64
import io

import numpy as np
from torch import Tensor


def png(pixels: Tensor) -> str:
    """A PNG data URI of pixels (C, H, W) in 0..1 with 1, 3 or 4 channels; of the channels' mean otherwise."""
    from PIL import Image

    image = pixels if pixels.shape[0] in (1, 3, 4) else pixels.mean(0, keepdim=True)
    array = (image.detach().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    array = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
