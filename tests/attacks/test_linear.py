"""The first-layer reader: exact where algebra says so, silent otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.linear import LinearReader, LinearSettings
from leakaudit.attacks.reading.first_layer import find_linears
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.reconstruction import NotApplicable, Reconstruction
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel
from tests.attacks.exact import confirmed_count, dropout_mlp, errors, judge, noise_batch, relu_mlp, seen
from tests.conftest import make_target, small_cnn, small_mlp

ATTACK = LinearReader(LinearSettings())


def read(target: Target, batch: Batch, space: Images, mode: str = "eval", seed: int = 0) -> Reconstruction:
    observation = seen(target, batch, space, mode, seed)  # type: ignore[arg-type]
    assert ATTACK.applies(target, observation) is None
    return ATTACK(target, observation, cpu_generator(0))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("index", [0, 13])
def test_one_sample_is_exact(bias: bool, index: int, samples: Batch, space: Images) -> None:
    target = make_target(small_mlp(bias=bias), (3, 12, 12), 5)
    victim = samples.subset([index])
    result = read(target, victim, space)
    assert result.exact
    assert float(errors(result, victim, space)) < 1e-5
    assert result.residual < 1e-5
    assert result.labels.tolist() == victim.labels.tolist()


class Rearranged(nn.Module):
    """Normalises inside and reads the pixels in another order before its first layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(432, 64), nn.Linear(64, 5)
        self.register_buffer("order", torch.randperm(432))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = ((x - 0.3) * 1.7).flatten(1)[:, self.order]
        return self.last(torch.relu(self.first(flat)))


def test_affine_changes_and_pixel_order_are_undone(samples: Batch, space: Images) -> None:
    target = make_target(Rearranged(), (3, 12, 12), 5)
    victim = samples.subset([3])
    result = read(target, victim, space)
    assert result.exact
    assert float(errors(result, victim, space)) < 1e-5


def test_other_layouts(samples: Batch, space: Images) -> None:
    target = Target(relu_mlp().eval(), "net", "module", (12, 12, 3), "NHWC", Images.plain((3, 12, 12)), SingleLabel(5))
    victim = samples.subset([3])
    result = read(target, victim, space)
    assert float(errors(result, victim, space)) < 1e-5


def test_a_batch_that_has_units_of_its_own(samples: Batch, space: Images) -> None:
    target = make_target(relu_mlp(512), (3, 12, 12), 5)
    victim = noise_batch(3)
    result = read(target, victim, space)
    assert result.exact
    assert judge(result, victim, space) == (3, 0)
    order = errors(result, victim, space).argmin(1)
    assert result.labels.tolist() == victim.labels[order].tolist()


def test_repeated_samples_are_one_group(samples: Batch, space: Images) -> None:
    target = make_target(relu_mlp(512), (3, 12, 12), 5)
    victim = noise_batch(3).subset([0, 0, 1])
    result = read(target, victim, space)
    assert judge(result, victim, space)[1] == 0


@pytest.mark.parametrize("seed", range(3))
def test_dropout_makes_units_of_its_own(seed: int, space: Images) -> None:
    target = make_target(dropout_mlp(0.75, 256, seed), (3, 12, 12), 5)
    victim = noise_batch(8, seed)
    plain = judge(read(target, victim, space), victim, space)
    result = read(target, victim, space, "train", seed)
    right, wrong = judge(result, victim, space)
    assert right >= 6
    assert right > plain[0]
    assert plain[1] == 0
    assert wrong == 0
    assert f"rows 1 to {right}" in result.notes[0] or right == 8


def test_a_shared_batch_gives_nothing_and_says_so(space: Images) -> None:
    target = make_target(small_mlp(), (3, 12, 12), 5)
    victim = noise_batch(8)
    result = read(target, victim, space)
    assert confirmed_count(result) == 0
    assert not result.exact
    assert result.inputs.shape == (8, 3, 12, 12)
    assert "not a result" in result.notes[0]


def test_mixtures_that_agree_are_refused(space: Images) -> None:
    """One hidden layer and two classes: errors of all samples are proportional, so rows of mixtures agree."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 128), nn.ReLU(), Dropout(0.5), nn.Linear(128, 2))
    target = make_target(module, (3, 12, 12), 2)
    for seed in range(4):
        victim = noise_batch(2, seed, classes=2)
        result = read(target, victim, space, "train", seed)
        assert judge(result, victim, space)[1] == 0


def test_refusals_name_the_reason(samples: Batch, space: Images) -> None:
    target = make_target(small_cnn(), (3, 12, 12), 5)
    refusal = ATTACK.applies(target, seen(target, samples.subset([0]), space))
    assert isinstance(refusal, NotApplicable)
    assert "no fully connected layer" in refusal.reason
    target = make_target(small_mlp(bias=False), (3, 12, 12), 5)
    refusal = ATTACK.applies(target, seen(target, samples.subset([0, 1]), space))
    assert isinstance(refusal, NotApplicable)
    assert "no bias" in refusal.reason


def test_a_layer_behind_an_activation_is_not_taken_for_the_first() -> None:
    torch.manual_seed(0)
    target = make_target(nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(432, 5)), (3, 12, 12), 5)
    assert find_linears(target) == ()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        LinearSettings(minimum_rows=1)
