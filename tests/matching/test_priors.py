"""The priors against closed forms."""

from __future__ import annotations

import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.domains.images import Images
from leakaudit.matching.priors import BatchStatistics, KeepRate
from tests.conftest import make_target

SPACE = Images((3, 12, 12), (0.5,) * 3, (0.25,) * 3)


def test_keep_rate_is_one_number_per_layer() -> None:
    masks = {
        "inputs": torch.zeros(1),
        "mask:a": torch.tensor([[1.0, 0.0, 1.0, 1.0]]),
        "mask:b": torch.full((2, 3), 0.5),
    }
    prior = KeepRate({"a": 0.5, "b": 0.5, "absent": 0.9}, weight=2.0)
    torch.testing.assert_close(prior(masks), torch.tensor(2 * (0.25 + 0.0)))


def moments(activation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    flat = activation.detach().transpose(0, 1).flatten(1)
    return flat.mean(1), flat.var(1, correction=0)


def test_batch_statistics_vanish_at_the_truth_and_nowhere_else() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    target = make_target(net, (3, 12, 12), 5)
    truth = torch.randn(4, 3, 12, 12, generator=cpu_generator(0))
    prior = BatchStatistics(target, {"1": moments(net[0](truth))}, weight=1.0, first=1.0)
    assert float(prior({"inputs": truth}).detach()) < 1e-4
    other = torch.randn(4, 3, 12, 12, generator=cpu_generator(1)) + 0.5
    (mean, variance), (reference_mean, reference_variance) = moments(net[0](other)), moments(net[0](truth))
    expected = (mean - reference_mean).norm() + (variance - reference_variance).norm()
    torch.testing.assert_close(prior({"inputs": other}), expected, rtol=1e-4, atol=1e-5)
