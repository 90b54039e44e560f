"""Whether a network is small, by the operations that torch itself counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from leakaudit.target.size import _Counter

NETWORKS = {
    "convolution": (nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4)), 3),
    "transposed": (nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1), 3),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10), nn.Linear(10, 5, bias=False)), 3),
    "attention": (
        nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 4, 32, dropout=0.0, batch_first=True)),
        3,
    ),
    "recurrent": (nn.Sequential(nn.Flatten(2), nn.GRU(64, 7, batch_first=True)), 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_are_those_of_torch(name: str) -> None:
    network, channels = NETWORKS[name]
    x = torch.zeros(2, channels, 8, 8)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.no_grad():
        network.train()
        with FlopCounterMode(display=False) as expected:
            network(x)
        with _Counter() as counter:
            network(x)
    assert counter.operations == expected.get_total_flops() > 0
