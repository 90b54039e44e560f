"""The CNN of NVFlare's hello-pt, and the client's samples: photographs that scikit-image carries."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch import nn

SIDE = 32
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
MEAN = STD = 0.5


class SimpleNetwork(nn.Module):
    """Two convolutions and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, 32, 32) to logits (N, 10)."""
        x = self.pool(F.relu(self.conv2(self.pool(F.relu(self.conv1(x))))))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


def samples(client: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops of one photograph (N, 3, 32, 32) in 0..1 and their classes, another photograph for every client."""
    photograph = Image.fromarray(getattr(data, PHOTOGRAPHS[client % len(PHOTOGRAPHS)])())
    place = np.random.default_rng(client)
    found = []
    for _ in range(count):
        size = int(min(photograph.size) * place.uniform(0.4, 0.9))
        left, top = (int(place.uniform(0, side - size)) for side in photograph.size)
        crop = photograph.crop((left, top, left + size, top + size)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        found.append(np.asarray(crop, np.float32).transpose(2, 0, 1) / 255)
    return np.stack(found), (np.arange(count) + client) % 10
