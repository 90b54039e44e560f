"""Make a small CNN and a batch of photographs to audit: writes ``model.onnx`` and ``batch.npz`` beside this file.

The network is untrained, as in the first round of federated learning. The samples are 32-pixel crops of six photographs
that scikit-image carries; the class of a crop is its photograph.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import nn

HERE = Path(__file__).resolve().parent
SIDE = 32
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "retina", "immunohistochemistry")
# Size of the crop as a share of the photograph's shorter side, and its place from left and from top, 0 to 1.
CROPS = (
    (1.0, 0.5, 0.5),
    (0.5, 0.5, 0.3),
    (0.5, 0.3, 0.3),
    (0.5, 0.7, 0.3),
    (0.5, 0.3, 0.7),
    (0.5, 0.7, 0.7),
    (0.35, 0.4, 0.4),
    (0.35, 0.6, 0.6),
)


def crops(photograph: np.ndarray) -> list[np.ndarray]:
    """The crops of one photograph (H, W, 3), each (32, 32, 3) uint8."""
    height, width = photograph.shape[:2]
    image = Image.fromarray(photograph)
    found = []
    for share, left, top in CROPS:
        size = int(share * min(height, width))
        x, y = int((width - size) * left), int((height - size) * top)
        found.append(np.asarray(image.crop((x, y, x + size, y + size)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return found


def network(classes: int) -> nn.Module:
    """Two convolutions and two linear layers with GELU."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.GELU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(16 * (SIDE // 2) ** 2, 64),
        nn.GELU(),
        nn.Linear(64, classes),
    )


def main() -> None:
    """Write both files."""
    images = [crop for name in PHOTOGRAPHS for crop in crops(getattr(data, name)())]
    labels = np.repeat(np.arange(len(PHOTOGRAPHS)), len(CROPS))
    np.savez_compressed(HERE / "batch.npz", x=np.stack(images), y=labels, class_names=np.array(PHOTOGRAPHS))

    torch.manual_seed(0)
    model = network(len(PHOTOGRAPHS)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter that keeps every parameter is the older one
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, SIDE, SIDE),),
            str(HERE / "model.onnx"),
            dynamo=False,
            opset_version=17,
            do_constant_folding=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        )
    print(f"wrote {HERE / 'model.onnx'} and {HERE / 'batch.npz'}")


if __name__ == "__main__":
    main()
