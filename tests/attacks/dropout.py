"""Networks with dropout, and what a client of theirs shares."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe_step
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target
from tests.conftest import make_target


def dropout_net(activation: type[nn.Module] = nn.GELU, p: float = 0.5) -> Target:
    """Convolution, channel dropout, linear layers with dropout before each."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 1, 1), activation(), Dropout(0.25, "channel", "channels"), nn.Conv2d(6, 6, 3, 1, 1)),
        *(activation(), nn.Flatten(), Dropout(p, label="wide"), nn.Linear(864, 32), activation()),
        *(Dropout(p, label="narrow"), nn.Linear(32, 5)),
    )
    return make_target(net, (3, 12, 12), 5)


def small_net(p: float = 0.1, units: int = 64) -> Target:
    """One dropout of few units at a low rate, so that a mask without zeros would be no surprise."""
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(432, units), nn.GELU(), Dropout(p, label="drop"), nn.Linear(units, 5))
    return make_target(nn.Sequential(*layers), (3, 12, 12), 5)


def dropped(target: Target, batch: Batch, space: Images, seed: int = 0) -> Observation:
    """The observation of a client with dropout on, with its masks."""
    observation, masks = observe_step(target, batch, FedSGD(len(batch), "train"), space, seed)
    return replace(observation, labels=batch.labels, masks=masks)


def linear_net() -> Target:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(432, 64), nn.GELU(), Dropout(0.5, label="drop"), nn.Linear(64, 5))
    return make_target(nn.Sequential(*layers), (3, 12, 12), 5)
