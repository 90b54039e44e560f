"""BatchNorm is found where it runs, whatever the model is made of, and shared statistics are those of the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.batchnorm import is_trained, normalised, running_statistics
from tests.cli.build import export

SHAPE = (3, 12, 12)


def network(trained: bool = True) -> nn.Module:
    """Two layers of BatchNorm, one of them behind a flattening."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8),
        nn.ReLU(), nn.Linear(8, 5),
    )  # fmt: skip
    if trained:
        for layer in (net[1], net[5]):
            layer.running_mean.normal_()  # type: ignore[union-attr,operator]
            layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
    return net


def by_hand(net: nn.Module, inputs: torch.Tensor, upto: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance at a layer's input, with batch statistics in the layers before it."""
    for layer in list(net.children())[:upto]:
        inputs = layer.train()(inputs)
    axes = (0, 2, 3) if inputs.dim() == 4 else (0,)
    return inputs.mean(axes), inputs.var(axes, unbiased=False)


@pytest.fixture(params=["module", "onnx", "pt2"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | nn.Module:
    if request.param == "module":
        return network()
    if request.param == "onnx":
        return export(network(), tmp_path / "net.onnx")
    program = torch.export.export(network().eval(), (torch.zeros(4, *SHAPE),))
    torch.export.save(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def test_every_format_shares_the_statistics_of_the_batch(path: Path | nn.Module, samples: Batch, space: Images) -> None:
    victim, expected = samples.subset([0, 3, 7, 9]), network()
    for kind in ("batch", "running"):
        target = leakaudit.load(path, mode="train", image_shape=SHAPE, trust=True, share_bn_statistics=kind)
        protocol = FedSGD(4, "train", shared_statistics=kind)
        found = observe(target, victim, protocol, space).batch_statistics
        assert found is not None
        assert len(found) == 2
        for (mean, variance), upto in zip(found.values(), (1, 5), strict=True):
            wanted_mean, wanted_variance = by_hand(expected, space.encode(victim.images), upto)
            torch.testing.assert_close(mean, wanted_mean, rtol=1e-4, atol=2e-5)
            torch.testing.assert_close(variance, wanted_variance, rtol=1e-4, atol=2e-5)
        assert observe(target, victim, FedSGD(4, "train"), space).batch_statistics is None


def test_running_statistics_are_read_in_either_mode(path: Path | nn.Module) -> None:
    for mode in ("eval", "train"):
        target = leakaudit.load(path, mode=mode, image_shape=SHAPE, trust=True)
        found = running_statistics(target)
        net = network()
        for (mean, variance), layer in zip(found.values(), (net[1], net[5]), strict=True):  # type: ignore[index]
            torch.testing.assert_close(mean, layer.running_mean)
            torch.testing.assert_close(variance, layer.running_var)
        assert target.mode == mode
        inputs = torch.rand(4, *SHAPE)
        with torch.no_grad():
            normalising = normalised(target, inputs)
        assert all((call.running is None) == (mode == "train") for call in normalising.values())


def test_running_statistics_of_an_untrained_network_say_nothing() -> None:
    assert not is_trained(running_statistics(leakaudit.load(network(trained=False), image_shape=SHAPE)))
    assert is_trained(running_statistics(leakaudit.load(network(), image_shape=SHAPE)))


def test_layers_are_named_and_counted() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.bare = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
            self.head = nn.Linear(432, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.bare(self.norm(self.first(self.norm(x)))).flatten(1))

    target = leakaudit.load(Twice(), mode="train", image_shape=SHAPE)
    assert list(normalised(target, torch.rand(2, *SHAPE))) == ["norm", "norm#1", "batchnorm2"]


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UsageError, match="normalises with running ones"):
        leakaudit.load(network(), image_shape=SHAPE, share_bn_statistics="batch")
    with pytest.raises(UsageError, match="normalises with running ones"):
        leakaudit.load(network(), mode="train", batchnorm="running", image_shape=SHAPE, share_bn_statistics="batch")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(432, 5))
    with pytest.raises(UsageError, match="no BatchNorm layers"):
        leakaudit.load(plain, mode="train", image_shape=SHAPE, share_bn_statistics="batch")
