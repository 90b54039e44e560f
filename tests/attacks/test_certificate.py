"""The certificate: residuals against a direct computation, rank against a dense singular value decomposition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.certificate import OUT_OF_TIME, certify
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.domains.tokens import Tokens
from leakaudit.matching.once import joined
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedsgd import FedSGD, gradient_of
from leakaudit.risk import update_jacobian
from leakaudit.risk.update_jacobian import UpdateJacobian, missing_directions
from leakaudit.target.target import Target
from leakaudit.tasks.single_label import SingleLabel
from tests.attacks.exact import noise_batch, relu_mlp
from tests.conftest import make_target
from tests.texts import VOCABULARY, TextClassifier, text_target

SPACE = Images((1, 6, 6), (0.5,), (0.25,))


def small(module: nn.Module) -> Target:
    return make_target(module, (1, 6, 6), 3)


def conv_net(channels: int, stride: int, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, channels, 3, stride, bias=bias)
    width = convolution(torch.zeros(1, 1, 6, 6)).numel()
    return nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(width, 3))


def dense_rank(target: Target, inputs: torch.Tensor, labels: torch.Tensor) -> int:
    double = Target(target.module.double(), "net", "module", (1, 6, 6), "NCHW", Images.plain((1, 6, 6)), SingleLabel(3))

    def update(flat: torch.Tensor) -> torch.Tensor:
        gradients = double.gradient(flat.view_as(inputs), labels, create_graph=True)
        return torch.cat([g.reshape(-1) for g in gradients.values()])

    jacobian = torch.autograd.functional.jacobian(update, inputs.double().flatten())
    return int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))


def test_the_truth_is_certified_and_unique(samples: Batch, space: Images) -> None:
    target = make_target(relu_mlp(32), (3, 12, 12), 5)
    victim = samples.subset([1, 7])
    observation = observe(target, victim, FedSGD(2), space)
    certificate = certify(target, observation, Play(space.encode(victim.images), victim.labels))
    assert certificate.exact
    assert certificate.unique is True
    assert certificate.rank == certificate.unknowns == 2 * 432


def test_residuals_are_those_of_the_definition(samples: Batch, space: Images) -> None:
    target = make_target(relu_mlp(), (3, 12, 12), 5)
    victim = samples.subset([1])
    observation = observe(target, victim, FedSGD(1), space)
    guess = space.encode(victim.images) * 0.9
    certificate = certify(target, observation, Play(guess, victim.labels), uniqueness=False)
    gradients = target.gradient(guess, victim.labels)
    whole = torch.cat([g.flatten() for g in observation.update.values()])
    difference = torch.cat([(gradients[n] - g).flatten() for n, g in observation.update.items()])
    assert certificate.residual == pytest.approx(float(difference.norm() / whole.norm()), rel=1e-5)
    for name, gradient in observation.update.items():
        expected = float((gradients[name] - gradient).norm() / gradient.norm())
        assert certificate.residuals[name] == pytest.approx(expected, rel=1e-5)
    assert not certificate.exact
    assert certificate.unique is None


@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (1, 2), (2, 3)])
def test_rank_agrees_with_a_dense_decomposition(channels: int, stride: int) -> None:
    target = small(conv_net(channels, stride))
    victim = noise_batch(1, classes=3, shape=(1, 6, 6))
    inputs = SPACE.encode(victim.images)
    observation = observe(target, victim, FedSGD(1), SPACE)
    certificate = certify(target, observation, Play(inputs, victim.labels), products=2000)
    rank = dense_rank(target, inputs, victim.labels)
    assert certificate.unique is (rank == 36)
    assert certificate.rank is not None
    assert abs(certificate.rank - rank) <= 8  # an estimate from two random probes where it is deficient


def test_products_with_the_jacobian_are_adjoint_and_linearise_the_gradient() -> None:
    target = small(conv_net(2, 1).double())
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((2, 1, 6, 6), generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 2])
    everything = Observation(gradient_of(target, inputs, labels), FedSGD(2), SPACE)
    jacobian = UpdateJacobian(target, everything, Play(inputs, labels))
    direction = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    dual = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in jacobian.value]
    image = jacobian.times(direction)
    left, right = joined(image) @ joined(dual), (direction * jacobian.transposed_times(dual)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-10)
    step = 1e-6
    ahead = UpdateJacobian(target, everything, Play(inputs + step * direction, labels)).value
    behind = UpdateJacobian(target, everything, Play(inputs - step * direction, labels)).value
    assert torch.allclose((joined(ahead) - joined(behind)).detach() / (2 * step), joined(image), atol=1e-8)


def test_what_does_not_depend_on_the_inputs_is_left_out_of_the_products() -> None:
    """The gradient of a bias of the last layer is constant where the loss is linear; as zeros it would only cost."""
    target = small(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double())
    inputs = torch.rand((1, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = torch.tensor([[0.2, -0.3, 0.1]], dtype=torch.float64)
    play = Play(inputs, torch.tensor([1]), errors=errors)
    seen = Observation(gradient_of(target, inputs, play.labels), FedSGD(1), SPACE)
    jacobian = UpdateJacobian(target, seen, play)
    assert [value.shape for value in jacobian.value] == [(3, 36)]
    (image,) = jacobian.times(inputs)
    assert torch.allclose(image, errors.T * inputs.flatten())
    assert torch.allclose(jacobian.transposed_times([image]).flatten(), errors.square().sum() * inputs.flatten())


def test_a_sample_without_influence_is_not_certified(space: Images) -> None:
    """A confidently right sample hardly changes the update: a small residual says nothing about it."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 2))
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].weight[0] = 0.5
    target = make_target(module, (3, 12, 12), 2)
    images = torch.stack([torch.full((3, 12, 12), 0.9), torch.full((3, 12, 12), 0.5)])
    victim = Batch(images, torch.tensor([0, 1]), (0, 1))
    observation = observe(target, victim, FedSGD(2), space)
    guess = space.encode(images)
    guess[0] = -guess[0].flip(0) * 0.5 + 1.0  # another bright image, so as confident
    certificate = certify(target, observation, Play(guess, victim.labels), uniqueness=False)
    assert certificate.residual < certificate.tolerance
    assert not certificate.exact


def test_a_probe_that_is_reached_ends_early_and_decides_as_its_end_would() -> None:
    target = small(conv_net(4, 1).double())
    victim = noise_batch(1, classes=3, shape=(1, 6, 6))
    inputs = SPACE.encode(victim.images).double()
    seen = Observation(gradient_of(target, inputs, victim.labels), FedSGD(1), SPACE)
    jacobian = UpdateJacobian(target, seen, Play(inputs, victim.labels))
    asked: list[float] = []

    def missing(tolerance: float) -> list[float]:
        begun = len(asked)
        found, converged = missing_directions(
            jacobian, 400, cpu_generator(0), probes=2, tolerance=tolerance, over=lambda: asked.append(1.0) is not None
        )
        assert converged
        return [*found, len(asked) - begun]

    *early, few = missing(1e-4)
    *ends, many = missing(0.0)
    assert few < many
    assert all(end <= found <= 1e-4 for end, found in zip(ends, early, strict=True))


class _Uneven(nn.Module):
    """A network behind pixels of different weights."""

    def __init__(self, network: nn.Module, apart: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("weights", torch.logspace(-apart, apart, 36).view(1, 1, 6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x * self.weights)
        return logits


def steps_of(apart: float, vectors: int) -> tuple[list[float], int]:
    """Estimates of the missing directions, and iterations of the conjugate gradients."""
    target = small(_Uneven(conv_net(4, 1), apart).double())
    inputs = torch.rand((1, 1, 6, 6), generator=cpu_generator(3), dtype=torch.float64)
    labels = torch.tensor([1])
    seen = Observation(gradient_of(target, inputs, labels), FedSGD(1), SPACE)
    asked: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update_jacobian, "BALANCING", vectors)
        missing, converged = missing_directions(
            UpdateJacobian(target, seen, Play(inputs, labels)),
            *(2000, cpu_generator(0)),
            probes=2,
            tolerance=1e-4,
            over=lambda: asked.append(1.0) is not None,
        )
    assert converged
    return missing, len(asked) - vectors


def test_columns_of_different_lengths_are_balanced() -> None:
    """The rank is that of the columns as they are, and comes out sooner; columns of about one length cost no more."""
    (uneven, many), (balanced, few) = steps_of(1.0, 0), steps_of(1.0, 20)
    assert max(*uneven, *balanced) <= 1e-4
    assert few < 0.7 * many
    assert steps_of(0.0, 20)[1] <= 1.2 * steps_of(0.0, 0)[1]


def test_too_few_products_leave_it_undecided(samples: Batch, space: Images) -> None:
    target = make_target(relu_mlp(), (3, 12, 12), 5)
    victim = samples.subset([1, 7])
    observation = observe(target, victim, FedSGD(2), space)
    certificate = certify(target, observation, Play(space.encode(victim.images), victim.labels), products=1)
    assert certificate.unique is None
    assert "undecided" in certificate.note


def test_token_ids_are_unique_only_where_their_order_matters() -> None:
    """A bag of words keeps the counts and loses the order; positions keep both."""
    ids = torch.tensor([[3, 1, 3, 0, 1, 7, 5, 2]])[:, None, None, :]
    labels = torch.tensor([1])
    for positions, expected in ((True, True), (False, False)):
        module = TextClassifier()
        if not positions:
            module.positions.data.zero_()
            module.positions.requires_grad_(False)
        target = text_target(module)
        batch = Batch(ids, labels, (0,))
        observation = observe(target, batch, FedSGD(1, "eval"), Tokens.of(8, VOCABULARY))
        found = certify(target, observation, Play(ids, labels))
        assert found.exact
        assert found.unique is expected
        assert (found.note == "") is expected


def test_time_that_is_over_leaves_uniqueness_undecided(samples: Batch, space: Images) -> None:
    """The residual stays: it costs no more than a step of an attack."""
    target, victim = make_target(relu_mlp(32), (3, 12, 12), 5), samples.subset([0])
    observation = observe(target, victim, FedSGD(1), space)
    play, asked = Play(space.encode(victim.images), victim.labels), list[int]()

    def over() -> bool:
        asked.append(len(asked))
        return len(asked) > 3

    certificate = certify(target, observation, play, over=over)
    assert len(asked) == 4, "between two products"
    assert certificate.exact
    assert (certificate.unique, certificate.note) == (None, OUT_OF_TIME)
    assert certify(target, observation, play).unique
