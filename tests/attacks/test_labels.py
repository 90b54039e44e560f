"""Label inference from updates alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.labels import find_head, infer_labels
from leakaudit.batch import Batch
from leakaudit.client import observe
from leakaudit.observation import InputSpace, Protocol
from leakaudit.target.target import Target
from tests.conftest import make_target, small_cnn, small_mlp


@pytest.mark.parametrize("module", [small_mlp(), small_mlp(bias=False), small_cnn()], ids=["mlp", "no bias", "cnn"])
def test_one_sample_is_exact(module: nn.Module, samples: Batch, space: InputSpace) -> None:
    target = make_target(module, (3, 12, 12), 5)
    for index in range(20):
        victim = samples.subset([index])
        guess = infer_labels(target, observe(target, victim, Protocol(1), space), cpu_generator(0))
        assert guess.labels.tolist() == victim.labels.tolist()
        assert guess.exact


@pytest.mark.parametrize("bias", [True, False])
def test_counts_of_a_batch(bias: bool, samples: Batch, space: InputSpace) -> None:
    target = make_target(small_mlp(bias=bias), (3, 12, 12), 5)
    right = total = 0
    for seed in range(10):
        (victim,) = samples.draw(1, 8, seed)
        guess = infer_labels(target, observe(target, victim, Protocol(8), space), cpu_generator(seed))
        assert len(guess.labels) == 8
        right += sum((Counter(victim.labels.tolist()) & Counter(guess.labels.tolist())).values())
        total += 8
    assert right / total >= (0.9 if bias else 0.7)


def test_binary_model_with_one_logit(samples: Batch, space: InputSpace) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.Tanh(), nn.Linear(16, 1)).eval()
    target = Target(module, "net", "module", (3, 12, 12), "NCHW", (3, 12, 12), 2, binary=True)
    labels = torch.arange(20) % 2
    for index in range(20):
        victim = Batch(samples.images[[index]], labels[[index]], (index,))
        guess = infer_labels(target, observe(target, victim, Protocol(1), space), cpu_generator(0))
        assert guess.labels.tolist() == [int(labels[index])]


def test_the_head_is_found_by_what_it_does(samples: Batch, space: InputSpace) -> None:
    target = make_target(small_mlp(), (3, 12, 12), 5)
    head = find_head(target, observe(target, samples.subset([0]), Protocol(1), space), cpu_generator(0))
    assert (head.weight, head.bias, head.transposed) == ("3.weight", "3.bias", False)
