"""R-GAP on graphs with several paths: exact where every tensor follows, and the layer in the way named where not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.linear import LinearReader
from leakaudit.attacks.rgap import RGAP
from leakaudit.observation import Observation
from leakaudit.reconstruction import NotApplicable
from leakaudit.target.target import Target
from tests.attacks.closed_form import SMALL, attack, error, image, leaky, make, refusal


class Net(nn.Module):
    """A stem, then one of several graphs with a biased linear layer at the end."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.act = kind, leaky()
        self.stem, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, width, 3, stride=2, padding=1)
        self.first, self.second = nn.Conv2d(width, 16, 3, padding=1), nn.Conv2d(16, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width).requires_grad_(False)
        self.head, self.side = nn.Linear(width * 36, 5), nn.Linear(width * 36, 3)
        self.last = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.down(self.act(self.stem(x))))
        if self.kind in ("residual", "outside"):
            x = self.act(self.norm(self.second(self.act(self.first(x)))) + x)
        if self.kind == "doubled":
            x = x + x
        flat = x.flatten(1)
        result: Tensor = self.head(flat)
        if self.kind == "two heads":
            return result + self.last(torch.sin(self.side(flat)))
        if self.kind == "outside":
            return result * torch.sigmoid(flat.mean(1, keepdim=True))
        if self.kind == "padded":
            return result + nn.functional.pad(x, (1, 1)).square().mean((1, 2, 3))[:, None]
        return result


def sample(kind: str, width: int = 24) -> tuple[Target, Observation, Tensor]:
    return make(Net(kind, width), SMALL, image(), 1, 5)


@pytest.mark.parametrize("kind", ["residual", "two heads"])
def test_exact_where_every_tensor_follows(kind: str) -> None:
    target, observation, truth = sample(kind)
    result = attack(target, observation)
    assert result.exact
    assert error(result, truth) < 1e-9
    assert any("through the graph" in note for note in result.notes)


@pytest.mark.parametrize(
    ("kind", "width", "words"),
    [
        ("residual", 4, ("down (convolution)", "of 1152 directions")),
        ("outside", 24, ("add1 (add)", "cannot be told apart")),
        ("doubled", 24, ("add1 (add)", "joins several paths")),
    ],
)
def test_the_layer_in_the_way_is_named(kind: str, width: int, words: tuple[str, ...]) -> None:
    reason = refusal(*sample(kind, width)[:2])
    assert all(word in reason for word in words)
    assert f"the input of head ({width * 36} values) is exact all the same" in reason


def test_a_path_outside_costs_the_gradient_constraints_only() -> None:
    """δ is not known where padding also reads x; the strided layer's outputs alone are too few."""
    assert "down (convolution)" in refusal(*sample("padded")[:2])


def test_outputs_alone_invert_layers_that_expand() -> None:
    class Expanding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.head, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 144, 5), leaky()

        def forward(self, x: Tensor) -> Tensor:
            flat = self.act(self.stem(x)).flatten(1)
            result: Tensor = self.head(flat) * torch.sigmoid(flat.mean(1, keepdim=True))
            return result

    target, observation, truth = make(Expanding(), SMALL, image(), 1, 5)
    result = attack(target, observation)
    assert result.exact
    assert error(result, truth) < 1e-8


def test_padding_of_another_path_is_not_taken_for_the_convolutions_own() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
            self.head, self.act = nn.Linear(12 * 144, 5), leaky()

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.act(self.stem(x))
            padded = nn.functional.pad(hidden, (1, 1))
            result: Tensor = self.head(self.act(self.conv(hidden)).flatten(1))
            return result + padded.square().mean((1, 2, 3))[:, None]

    target, observation, truth = make(Beside(), SMALL, image(), 1, 5)
    result = attack(target, observation)
    assert result.exact
    assert error(result, truth) < 1e-8


def test_the_first_layer_reader_tells_what_an_inner_layer_gives_away() -> None:
    target, observation, _ = sample("residual", 4)
    refused = LinearReader(LinearReader.presets["standard"]).applies(target, observation)
    assert isinstance(refused, NotApplicable)
    assert "head, further in, gives away its own input: 144 values" in refused.reason


def test_stopping_returns_an_unfinished_result() -> None:
    class Stop:
        def update(self, fraction: float, objective: float) -> None: ...

        def should_stop(self) -> bool:
            return True

        def seconds_left(self) -> float | None:
            return None

    target, observation, _ = sample("residual")
    result = RGAP(RGAP.presets["standard"])(target, observation, cpu_generator(0), Stop())
    assert result.stopped
    assert not result.exact
