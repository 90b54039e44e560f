"""A user's generator is taken by its contract, and what breaks the contract is said in one line and called theirs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.domains.signals import Signals
from leakaudit.errors import UsageError
from leakaudit.matching.generated import WEIGHT, Generated
from leakaudit.matching.generator import OwnGenerator
from leakaudit.matching.settings import MatchSettings
from tests.generators import path_for
from tests.matching.build import cnn, observation_of
from tests.tables import TABLE

SPACE = Images((3, 12, 12), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PATH = path_for("images", SPACE.shape)

BROKEN = """
import torch
from torch import nn

class Net(nn.Module):
    latent = 4
    scale, shape, shift = 1.0, (3, 12, 12), 0.0
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 432)
    def forward(self, z):
        return self.scale * torch.sigmoid(self.layer(z)).view(-1, *self.shape) + self.shift

def changed(**values):
    net = Net()
    for name, value in values.items():
        setattr(net, name, value)
    return net

def raises(): return {}["faces"]
def nothing(): return None
def no_latent(): return changed(latent=None)
def empty_latent(): return changed(latent=(0, 3))
def other_latent(): return changed(latent=5)
def other_shape(): return changed(shape=(3, 9, 16))
def other_unit(): return changed(scale=255.0)
def signed_unit(): return changed(scale=2.0, shift=-1.0)
def not_finite(): return changed(scale=float("nan"))

class Noisy(Net):
    def forward(self, z):
        return (super().forward(z) + 0.1 * torch.rand(1)).clamp(0, 1)

class Cut(Net):
    def forward(self, z):
        return super().forward(z).detach()

class Pair(Net):
    def forward(self, z):
        return super().forward(z), z

def noisy(): return Noisy()
def cut(): return Cut()
def pair(): return Pair()
def whole(): return changed(latent=[4])
"""
SAID = {
    "raises": "raised KeyError: 'faces' (badgenerators.py, line ",
    "nothing": "returned NoneType, expected a torch.nn.Module",
    "no_latent": "the module's attribute latent is None, expected the sizes of one latent",
    "empty_latent": "the module's attribute latent is (0, 3), expected",
    "other_latent": "raised RuntimeError: ",
    "other_shape": "made (4, 3, 9, 16) of latents (4, 4), the model takes samples of (3, 12, 12)",
    "other_unit": "the samples have 0 to 1",
    "signed_unit": "the samples have 0 to 1",
    "not_finite": "made numbers that are not finite",
    "noisy": "made two samples of one latent in eval mode",
    "cut": "do not depend on the latent by a derivative",
    "pair": "its module returned tuple, expected samples of floats",
    "absent": "AttributeError: ",
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("generators")
    (folder / "badgenerators.py").write_text(BROKEN)
    sys.path.append(str(folder))
    return "badgenerators"


@pytest.mark.parametrize("name", SAID)
def test_what_breaks_the_contract_is_said(broken: str, name: str) -> None:
    with pytest.raises(UsageError) as refused:
        OwnGenerator.of(f"{broken}:{name}", SPACE)
    assert refused.value.message.startswith(f"--generator {broken}:{name}")
    assert SAID[name] in refused.value.message
    assert "\n" not in refused.value.message


def test_sizes_may_be_a_list_and_weights_are_part_of_its_content(broken: str) -> None:
    one, other = (OwnGenerator.of(f"{broken}:{name}", SPACE) for name in ("whole", "whole"))
    assert one.latent == (4,)
    assert one == other, "called once in a process"
    assert one.sha256 != OwnGenerator.of(PATH, SPACE).sha256


def test_a_signal_in_its_unit_is_in_range() -> None:
    domain = Signals.plain((2, 24))
    own = OwnGenerator.of(path_for("signals", domain.shape), domain)
    made = own.drawn(6, domain, torch.Generator().manual_seed(0))
    assert made.shape == (6, 2, 24)
    assert torch.equal(made, domain.finish(made))
    assert float(made.std()) > 0.5


def test_weights_of_its_own_for_each_sample() -> None:
    own = OwnGenerator.of(PATH, SPACE)
    latents = own.latents(2, torch.Generator().manual_seed(1))
    plain = own.values(latents)
    twice = {name: torch.stack([tensor, 0 * tensor]) for name, tensor in own.weights.items()}
    made = own.values(latents, twice)
    assert torch.allclose(made[0], plain[0], atol=1e-6)
    assert torch.allclose(made[1], torch.full((3, 12, 12), 0.5)), "a generator of zeros"


def test_the_objective_is_that_of_what_it_makes(samples: Batch) -> None:
    own, target, private = OwnGenerator.of(PATH, SPACE), cnn(), samples.subset([0])
    observation = observation_of(target, private, SPACE)
    problem = Generated(target, observation, private.labels, MatchSettings(tv_weight=0.0), own, latent_weight=0.5)
    latents = own.latents(1, torch.Generator().manual_seed(2)).requires_grad_()
    total, match = problem.objective({"inputs": latents})
    assert float((total - match).detach()) == pytest.approx(0.5 * float(latents.detach().square().mean()), rel=1e-4)
    assert problem.cosine({"inputs": latents}) == pytest.approx(float(match.detach()), rel=1e-4)
    (slope,) = torch.autograd.grad(total, latents)
    assert float(slope.abs().max()) > 0
    weights = {WEIGHT + name: tensor[None].clone().requires_grad_() for name, tensor in own.weights.items()}
    total, match = problem.objective({"inputs": latents, **weights})
    assert float(total.detach()) == pytest.approx(float(match.detach())), "beside weights the latents stay"
    found = torch.autograd.grad(total, [latents, *weights.values()], materialize_grads=True)
    assert float(found[0].abs().max()) == 0
    assert all(float(slope.abs().max()) > 0 for slope in found[1:])


def test_other_settings_and_another_type_keep_the_generator(samples: Batch) -> None:
    own, target, private = OwnGenerator.of(PATH, SPACE), cnn(), samples.subset([0])
    observation = observation_of(target, private, SPACE)
    problem = Generated(target, observation, private.labels, MatchSettings(), own, latent_weight=0.5)
    latents = 5 * own.latents(1, torch.Generator().manual_seed(2))
    plain, smooth = MatchSettings(tv_weight=0.0), MatchSettings(tv_weight=0.1)
    other = problem.under(plain)
    assert other.objective({"inputs": latents})[0] < problem.under(smooth).objective({"inputs": latents})[0]
    assert other.latent_weight == 0.5
    assert torch.equal(other.projected({"inputs": latents})["inputs"], latents), "any latent is in range"
    twice = problem.in_float64(plain)
    assert twice.cosine({"inputs": latents.double()}) == pytest.approx(problem.cosine({"inputs": latents}), rel=1e-4)


def test_a_domain_without_such_samples_is_refused_by_its_shape() -> None:
    with pytest.raises(UsageError, match="the model takes samples of"):
        OwnGenerator.of(PATH, TABLE)


def test_another_file_is_another_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for number in (1, 2):
        text = f"from tests.generators import Smooth\ndef made(): return Smooth((3, 12, 12))\n# {number}\n"
        (tmp_path / f"generators{number}.py").write_text(text)
    one, other = (OwnGenerator.of(f"generators{number}:made", SPACE) for number in (1, 2))
    assert one.sha256 != other.sha256
