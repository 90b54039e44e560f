"""Heads of probabilities in modules, whatever they are spelt as, and what must not be taken for one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from leakaudit.target import Target, load
from leakaudit.target.fitting import probabilities
from leakaudit.target.probabilities import probable
from leakaudit.tasks.multi_label import MultiLabel
from tests.target import exporters


def ids(target: Target) -> set[str]:
    return {note.id for note in target.fidelity}


def audited(end: nn.Module, classes: int = 5, **options: object) -> tuple[Target, exporters.Net]:
    torch.manual_seed(3)
    net = exporters.Net(nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh()), 16, end, classes)
    return load(copy.deepcopy(net), image_shape=exporters.SHAPE, **options), net


ENDS = {
    "softmax": (lambda: nn.Softmax(1), 5), "hand": (exporters.Hand, 5), "shifted": (exporters.Shifted, 5),
    "clipped": (exporters.Clipped, 5), "smoothed": (exporters.Smoothed, 5), "percent": (exporters.Percent, 5),
    "pair": (exporters.Pair, 1), "sigmoid": (nn.Sigmoid, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_the_loss_is_on_the_logits(name: str) -> None:
    end, classes = ENDS[name]
    target, net = audited(end(), classes)
    x, y = torch.rand(3, *exporters.SHAPE), torch.tensor([0, 1, 1])
    assert "LA910" in ids(target)
    assert (target.binary, target.classes) == (classes == 1, max(2, classes))
    torch.testing.assert_close(target.logits(x), net.logits(x))
    assert exporters.differences(target.gradient(x, y), exporters.oracle(net, x, y)) == []


def test_names_mode_maps_and_recordings_stay() -> None:
    target, net = audited(exporters.Hand())
    assert list(target.parameters) == [name for name, _ in net.named_parameters()]
    x, y = torch.rand(3, *exporters.SHAPE), torch.tensor([0, 1, 3])
    expected = target.gradient(x, y)
    parameters = {name: tensor.detach() for name, tensor in target.parameters.items()}
    each = vmap(grad(lambda p, a, b: target.loss(a[None], b[None], p)), in_dims=(None, 0, 0))(parameters, x, y)
    program = make_fx(lambda inputs: list(target.gradient(inputs, y, create_graph=True).values()))(x)
    for name, recorded in zip(expected, program(x), strict=True):
        torch.testing.assert_close(each[name].mean(0), expected[name])
        torch.testing.assert_close(recorded, expected[name])


class Twofold(nn.Module):
    """Logits in training, probabilities in use."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(x.flatten(1))
        return z if self.training else torch.softmax(z, 1)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_probabilities_in_one_mode_only(mode) -> None:
    target = load(Twofold(), image_shape=exporters.SHAPE, mode=mode)
    x = torch.rand(2, *exporters.SHAPE)
    torch.testing.assert_close(target.logits(x), F.linear(x.flatten(1), *target.parameters.values()))


class Counted(nn.Module):
    """Outputs that are made of the features, and how many samples went through."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features, self.end, self.seen = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), end, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        result: Tensor = self.end(self.features(x))
        return result


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0 * x


@pytest.mark.parametrize(
    ("end", "samples"),
    [(nn.Identity(), 1), (nn.ReLU(), 2), (Zero(), 2), (nn.Softplus(), 2)],
    ids=["negative", "sums differ", "zero", "positive"],
)
def test_a_sample_or_two_tell_that_outputs_are_no_probabilities(end: nn.Module, samples: int) -> None:
    net = Counted(end)
    assert not probable(net, None, exporters.SHAPE)
    assert net.seen == 2 * samples  # in each mode
    net.depends_on_mode = False
    net.seen = 0
    assert not probable(net, None, exporters.SHAPE)
    assert net.seen == samples


def test_more_samples_are_asked_where_they_may_be() -> None:
    for end in (nn.Softmax(1), nn.Sigmoid(), exporters.Percent()):
        net = Counted(end)
        assert probable(net, None, exporters.SHAPE)
        assert net.seen > 8


class Hidden(nn.Module):
    """Probabilities with no logits in front: distances to prototypes, normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.prototypes = nn.Linear(192, 8), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        near = 1 / (1 + torch.cdist(self.a(x.flatten(1))[:, None], self.prototypes[None])[:, 0])
        return near / near.sum(1, keepdim=True)


def test_probabilities_without_logits_are_audited_through_their_logarithm() -> None:
    torch.manual_seed(0)
    model = Hidden()
    target = load(copy.deepcopy(model), image_shape=exporters.SHAPE)
    assert "LA916" in ids(target)
    x, y = torch.rand(2, *exporters.SHAPE), torch.tensor([0, 3])
    loss = F.nll_loss(model(x).log(), y)
    expected = dict(zip(target.parameters, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    reference = {name: value for (name, _), value in zip(model.named_parameters(), expected.values(), strict=True)}
    assert exporters.differences(target.gradient(x, y), reference) == []


def test_what_is_not_taken_for_probabilities() -> None:
    for end in (nn.Identity(), nn.LogSoftmax(1), nn.ReLU(), nn.Tanh()):
        target, net = audited(end)
        x = torch.rand(2, *exporters.SHAPE)
        assert not {"LA910", "LA916"} & ids(target)
        torch.testing.assert_close(target.logits(x), net(x))
    regression = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    with torch.no_grad():
        regression[1].weight.mul_(0.01)
        regression[1].bias.fill_(0.5)
    assert "LA922" in ids(load(regression, image_shape=exporters.SHAPE))
    assert not probabilities(torch.tensor([[0.2, 0.8], [0.4, 0.7]]))
    assert not probabilities(torch.full((4, 2), 0.5))
    assert probabilities(torch.tensor([[20.0, 80.0], [40.0, 60.0]]))


def test_a_sigmoid_over_several_outputs_is_a_multi_label_head() -> None:
    target, net = audited(nn.Sigmoid())
    assert target.task == MultiLabel(5)
    x = torch.rand(3, *exporters.SHAPE)
    torch.testing.assert_close(target.logits(x), net.logits(x))
    assert "LA910" in ids(target)
