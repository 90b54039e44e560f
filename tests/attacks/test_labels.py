"""Label inference from updates alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.labels.counts import ilrg_shares, round_counts
from leakaudit.attacks.labels.features import feature_fit
from leakaudit.attacks.labels.infer import find_head, infer_labels
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess
from leakaudit.tasks.single_label import OneLogit
from tests.conftest import make_target, small_cnn, small_mlp, smooth_images


@pytest.mark.parametrize("module", [small_mlp(), small_mlp(bias=False), small_cnn()], ids=["mlp", "no bias", "cnn"])
def test_one_sample_is_exact(module: nn.Module, samples: Batch, space: Images) -> None:
    target = make_target(module, (3, 12, 12), 5)
    for index in range(20):
        victim = samples.subset([index])
        guess = infer_labels(target, observe(target, victim, FedSGD(1), space), cpu_generator(0))
        assert guess.labels.tolist() == victim.labels.tolist()
        assert guess.exact


@pytest.mark.parametrize("bias", [True, False])
def test_counts_of_a_batch(bias: bool, samples: Batch, space: Images) -> None:
    target = make_target(small_mlp(bias=bias), (3, 12, 12), 5)
    right = total = 0
    for seed in range(10):
        (victim,) = samples.draw(1, 8, seed)
        guess = infer_labels(target, observe(target, victim, FedSGD(8), space), cpu_generator(seed))
        assert len(guess.labels) == 8
        right += sum((Counter(victim.labels.tolist()) & Counter(guess.labels.tolist())).values())
        total += 8
    assert right / total >= (0.9 if bias else 0.7)


def test_binary_model_with_one_logit(samples: Batch, space: Images) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.Tanh(), nn.Linear(16, 1)).eval()
    target = Target(module, "net", "module", (3, 12, 12), "NCHW", Images.plain((3, 12, 12)), OneLogit())
    labels = torch.arange(20) % 2
    for index in range(20):
        victim = Batch(samples.images[[index]], labels[[index]], (index,))
        guess = infer_labels(target, observe(target, victim, FedSGD(1), space), cpu_generator(0))
        assert guess.labels.tolist() == [int(labels[index])]


def test_the_head_is_found_by_what_it_does(samples: Batch, space: Images) -> None:
    target = make_target(small_mlp(), (3, 12, 12), 5)
    head = find_head(target, observe(target, samples.subset([0]), FedSGD(1), space), cpu_generator(0))
    assert (head.weight, head.bias, head.transposed) == ("3.weight", "3.bias", False)


def observe_soft(target: Target, images: torch.Tensor, soft: torch.Tensor, space: Images) -> Observation:
    """The update of one sample whose label is a distribution over classes."""
    gradients = target.gradient(space.encode(images), soft)
    return Observation({n: g.detach() for n, g in gradients.items()}, FedSGD(1), space)


def guess_of(target: Target, images: torch.Tensor, soft: list[float], space: Images) -> LabelGuess:
    observation = observe_soft(target, images, torch.tensor([soft]), space)
    return infer_labels(target, observation, cpu_generator(0))


def test_a_soft_label_of_one_sample_is_read_exactly(samples: Batch, space: Images) -> None:
    target = make_target(small_mlp(), (3, 12, 12), 5)
    soft = [0.1, 0.45, 0.05, 0.3, 0.1]
    guess = guess_of(target, samples.images[:1], soft, space)
    assert guess.soft is not None
    assert guess.soft[0].tolist() == pytest.approx(soft, abs=1e-4)
    assert guess.labels.tolist() == [1]
    assert guess.exact


def test_a_hard_label_has_no_soft_one(samples: Batch, space: Images) -> None:
    target = make_target(small_mlp(), (3, 12, 12), 5)
    guess = guess_of(target, samples.images[:1], [0.0, 0.0, 0.0, 1.0, 0.0], space)
    assert guess.soft is None
    assert guess.labels.tolist() == [3]


@pytest.mark.parametrize("size", [8, 20, 64])
def test_more_samples_than_classes_with_repeated_labels(size: int, samples: Batch, space: Images) -> None:
    target = make_target(small_cnn(), (3, 12, 12), 5)
    right = 0
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        weights = torch.rand(5, generator=generator)[samples.labels] ** 2
        index = torch.multinomial(weights, size, replacement=True, generator=generator)
        victim = Batch(samples.images[index], samples.labels[index], tuple(index.tolist()))
        guess = infer_labels(target, observe(target, victim, FedSGD(size), space), cpu_generator(seed))
        right += sum((Counter(victim.labels.tolist()) & Counter(guess.labels.tolist())).values())
        assert "iLRG agrees" in guess.method
    assert right / (4 * size) >= 0.95


def trained_on(samples: Batch, space: Images, steps: int) -> Target:
    target = make_target(small_cnn(), (3, 12, 12), 5)
    optimizer = torch.optim.SGD(target.module.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        target.loss(space.encode(samples.images), samples.labels).backward()
        optimizer.step()
    return target


def test_counts_survive_brief_training(samples: Batch, space: Images) -> None:
    target = trained_on(samples, space, 4)
    right = 0
    for seed in range(6):
        (victim,) = samples.draw(1, 8, seed)
        guess = infer_labels(target, observe(target, victim, FedSGD(8), space), cpu_generator(seed))
        right += sum((Counter(victim.labels.tolist()) & Counter(guess.labels.tolist())).values())
    assert right / 48 >= 0.9


def test_binary_counts(samples: Batch, space: Images) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.Tanh(), nn.Linear(16, 1)).eval()
    target = Target(module, "net", "module", (3, 12, 12), "NCHW", Images.plain((3, 12, 12)), OneLogit())
    for positive in range(5):
        labels = torch.tensor([1] * positive + [0] * (8 - positive))
        victim = Batch(samples.images[:8], labels, tuple(range(8)))
        guess = infer_labels(target, observe(target, victim, FedSGD(8), space), cpu_generator(0))
        assert abs(int(guess.labels.sum()) - positive) <= 1


def test_ilrg_is_exact_where_a_class_is_one_sample() -> None:
    """Identical features within a class and probabilities near the target make the class features exact."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((3, 40), generator=generator, dtype=torch.float64)
    weight = 1e-3 * torch.randn((3, 40), generator=generator, dtype=torch.float64)
    bias, labels = torch.zeros(3, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 1, 2])
    rows = features[labels]
    error = (rows @ weight.T).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    shares = ilrg_shares(weight, bias, error.T @ rows / 6, error.mean(0))
    assert (6 * shares).tolist() == pytest.approx([4.0, 1.0, 1.0], abs=0.05)


def test_rounding_keeps_sum_and_lower_bounds() -> None:
    counts = round_counts(torch.tensor([0.5, 0.48, 0.02]), 4, least=torch.tensor([-1.0, -1.0, 0.9]))
    assert counts.tolist() in ([2, 1, 1], [1, 2, 1])
    assert round_counts(torch.zeros(4), 6).sum() == 6
    assert round_counts(torch.tensor([-0.3, 1.3]), 5).tolist() == [0, 5]


def test_dummy_features_find_the_mean_prediction_of_a_confident_layer() -> None:
    """Fewer samples than classes, predictions far from uniform: the prior alone is off, the fit is not."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.5 * torch.randn((8, 40), generator=generator, dtype=torch.float64)
    bias = torch.zeros(8, dtype=torch.float64)
    pool = torch.randn((100, 40), generator=generator, dtype=torch.float64)
    fitted = prior = 0.0
    for _ in range(3):
        features = torch.randn((5, 40), generator=generator, dtype=torch.float64)
        predictions = (features @ weight.T).softmax(1)
        error = predictions - torch.nn.functional.one_hot(torch.randint(8, (5,), generator=generator), 8)
        fit = feature_fit(pool, weight, bias, error.T @ features / 5, error.mean(0))
        guess = (pool @ weight.T).softmax(1).mean(0)
        found = fit.mean_prediction(5, guess - error.mean(0), generator)
        fitted += float((found - predictions.mean(0)).abs().sum())
        prior += float((guess - predictions.mean(0)).abs().sum())
    assert fitted < prior / 2


def test_the_label_of_a_clipped_step_is_no_soft_label() -> None:
    """Clipping scales the error at the outputs, of which the algebra of one gradient knows nothing."""
    from leakaudit.defences.base import adapted, defended_protocol
    from leakaudit.defences.spec import parse_defences
    from leakaudit.protocols.fedavg import FedAvg

    target = make_target(small_mlp(), (3, 12, 12), 5)
    batch = Batch(torch.from_numpy(smooth_images(1)), torch.tensor([2]), (0,))
    defences = parse_defences(["clip=0.1"])
    protocol = defended_protocol(FedAvg(1), defences)
    observation = observe(target, batch, protocol, target.domain, 0, defences)
    target, seen = adapted(target, observation, defences)
    guess = infer_labels(target, seen, cpu_generator(0))
    assert guess.labels.tolist() == [2]


def test_the_head_is_looked_for_without_a_graph_of_what_is_in_front_of_it(samples: Batch, space: Images) -> None:
    """Which is most of the memory that labels take of a large network."""

    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[bool] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept.append(x.requires_grad)
            return x

    torch.manual_seed(0)
    front = Noting()
    target = make_target(
        nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.Tanh(), front, nn.Linear(16, 5)), (3, 12, 12), 5
    )
    observation = observe(target, samples.subset([0]), FedSGD(1), space)
    front.kept.clear()
    head = find_head(target, observation, cpu_generator(0))
    assert (head.weight, head.bias) == ("4.weight", "4.bias")
    assert front.kept
    assert not any(front.kept)
    assert all(tensor.requires_grad for tensor in target.parameters.values())
