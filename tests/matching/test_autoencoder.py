"""The autoencoder does what it is for, is kept from run to run, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.audit.cache import Cache
from leakaudit.audit.memory import Memory
from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images
from leakaudit.domains.signals import Signals
from leakaudit.domains.volumes import Volumes
from leakaudit.matching import autoencoder
from leakaudit.matching.autoencoder import (
    AnomalyScore,
    Autoencoder,
    Network,
    build,
    shares,
    strided,
    train_autoencoder,
    vgg,
)
from tests.conftest import smooth_images

SPACE = Images((3, 12, 12), (0.5,) * 3, (0.25,) * 3)
IMAGES = torch.from_numpy(smooth_images(40))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small networks."""
    torch.set_num_threads(1)


def test_tells_images_from_noise_and_is_kept() -> None:
    memory = Memory()
    trained, facts = train_autoencoder(IMAGES, 200, memory=memory)
    noise = torch.rand(8, 3, 12, 12, generator=cpu_generator(1))
    assert float((noise - trained.network(noise)).square().mean()) > 2 * trained.residual
    assert facts == ()
    assert train_autoencoder(IMAGES, 200, memory=memory)[0] is trained
    assert train_autoencoder(IMAGES[:30], 1, memory=memory)[0] is not trained


def never(*_: float) -> bool:
    raise AssertionError("it trains")


def test_the_next_run_takes_it_from_the_disk_with_the_same_numbers(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    first, _ = train_autoencoder(IMAGES, 20, memory=Memory(cache))
    (file,) = (tmp_path / "cache").glob("leakaudit-cache/*")
    assert file.stat().st_mode & 0o777 == 0o600
    second, _ = train_autoencoder(IMAGES, 20, never, memory=Memory(cache))
    assert second is not first
    assert second.residual == first.residual
    assert torch.equal(second.network(IMAGES), first.network(IMAGES))
    assert not any(p.requires_grad for p in second.network.parameters())
    assert torch.equal(train_autoencoder(IMAGES, 20)[0].network(IMAGES), first.network(IMAGES))  # without a cache


@pytest.mark.parametrize("change", ["images", "steps", "kind"])
def test_another_input_is_trained_anew(change: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    train_autoencoder(IMAGES, 2, memory=Memory(cache))
    images = IMAGES + 0.001 if change == "images" else IMAGES
    with pytest.raises(AssertionError, match="it trains"):
        train_autoencoder(
            images,
            3 if change == "steps" else 2,
            never,
            kind="strided" if change == "kind" else "auto",
            memory=Memory(cache),
        )


@pytest.mark.parametrize("content", [b"", b"garbage", "half", "other"])
def test_a_damaged_file_means_training_again(content: bytes | str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first, _ = train_autoencoder(IMAGES, 5, memory=Memory(cache))
    (file,) = tmp_path.glob("leakaudit-cache/*")
    if content == "half":
        file.write_bytes(file.read_bytes()[:2000])
    elif content == "other":
        torch.save({"weights": {"layers.0.weight": torch.zeros(1)}, "residual": 0.0}, file)
    else:
        file.write_bytes(bytes(content))  # type: ignore[arg-type]
    again, facts = train_autoencoder(IMAGES, 5, memory=Memory(cache))
    assert facts == ()
    assert torch.equal(again.network(IMAGES), first.network(IMAGES))


def test_a_cache_that_cannot_be_written_is_a_fact_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    _, facts = train_autoencoder(IMAGES, 2, memory=Memory(Cache(tmp_path / "file")))
    assert "autoencoder not kept" in facts[0]


def test_an_interrupted_training_is_not_kept(tmp_path: Path) -> None:
    steps: list[float] = []

    def goes_on(fraction: float, loss: float) -> bool:
        steps.append(fraction)
        return len(steps) < 3

    first, facts = train_autoencoder(IMAGES, 50, goes_on, memory=Memory(Cache(tmp_path)))
    assert len(steps) == 3
    assert (first.missing, facts) == (47, ())
    assert list(tmp_path.glob("leakaudit-cache/*")) == []
    assert train_autoencoder(IMAGES, 1)[0] is not first


def test_an_interrupted_training_is_gone_on_with() -> None:
    parts = iter([3, 12, 50])
    memory = Memory()
    found = [train_autoencoder(IMAGES, 20, _StopAt(next(parts) / 20), memory=memory) for _ in range(3)]
    assert len(memory.objects) == 1, "the training is let go when it has ended"
    assert [trained.missing for trained, _ in found] == [17, 8, 0]
    whole, _ = train_autoencoder(IMAGES, 20)
    assert torch.equal(found[2][0].network(IMAGES), whole.network(IMAGES))
    assert not torch.equal(found[1][0].network(IMAGES), found[0][0].network(IMAGES))
    assert not torch.equal(found[1][0].network(IMAGES), whole.network(IMAGES))


class _StopAt:
    """Ends a training once this fraction is done."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def __call__(self, fraction: float, loss: float) -> bool:
        return fraction < self.fraction


class _Constant(Network):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(), 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.full_like(pixels, 0.5)


def test_both_sides_of_the_score() -> None:
    flat, far = torch.zeros(1, 3, 12, 12), torch.full((1, 3, 12, 12), 1.0)  # pixels 0.5 and 0.75
    trained = Autoencoder(_Constant(), residual=0.02)
    published = AnomalyScore(trained, SPACE, weight=3.0)
    one_sided = AnomalyScore(trained, SPACE, weight=3.0, one_sided=True)
    torch.testing.assert_close(published({"inputs": flat}), torch.tensor(0.06))
    assert float(one_sided({"inputs": flat})) == 0
    for prior in (published, one_sided):
        torch.testing.assert_close(prior({"inputs": far}), torch.tensor(3 * (0.0625 - 0.02)))


def test_networks_take_any_side() -> None:
    small_vgg = vgg(1, ((2, 4), (3, 8)))
    for side, network in (
        (13, strided(1, autoencoder.SMALL)),
        (70, strided(1, autoencoder.LARGE)),
        (13, small_vgg.eval()),
    ):
        assert network(torch.rand(2, 1, side, side + 1)).shape == (2, 1, side, side + 1)


def test_the_published_architectures() -> None:
    small = build(IMAGES, "auto")
    assert [m.out_channels for m in small.modules() if isinstance(m, nn.Conv2d)] == [12, 24, 48]
    with torch.device("meta"):
        large = build(torch.empty(8, 3, 224, 224), "vgg")
    convolutions = [m.out_channels for m in large.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions[:16] == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert convolutions[-1] == 3
    assert sum(isinstance(m, nn.MaxPool2d) for m in large.modules()) == 5
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in large.modules()) == 5


@pytest.mark.parametrize("domain", [Signals.plain((2, 41)), Volumes.plain((1, 5, 8, 9))], ids=["signals", "volumes"])
def test_signals_and_volumes_are_told_from_noise(domain: Domain) -> None:
    real = domain.look_alikes(40, cpu_generator(0))
    trained, _ = train_autoencoder(shares(domain, real), 150)
    score = AnomalyScore(trained, domain, weight=2.0, one_sided=True)
    low, high = domain.box(real)
    noise = low + (high - low) * torch.rand((8, *domain.shape), generator=cpu_generator(1))
    assert float(score({"inputs": noise})) > 2 * float(score({"inputs": real[:8]}))
    assert shares(domain, real).aminmax().min >= 0
    assert shares(domain, real).aminmax().max <= 1


def test_the_shares_of_images_are_their_pixels() -> None:
    assert torch.allclose(shares(SPACE, SPACE.encode(IMAGES)), IMAGES, atol=1e-6)


def test_vgg_is_for_images_and_signals_are_not_reversed() -> None:
    assert isinstance(build(torch.zeros(1, 2, 500), "auto").layers[0], nn.Conv1d)
    rising = torch.linspace(0.1, 0.9, 16).repeat(24, 1, 1)
    seen: list[torch.Tensor] = []
    network = build(rising, "auto")
    network.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    autoencoder._Training.of(network).advance(rising, 8, lambda *_: True)
    assert all(torch.equal(part, rising[:16]) for part in seen)


def test_the_loss_is_the_binary_cross_entropy_of_the_shares() -> None:
    network = build(IMAGES, "strided")
    told: list[float] = []
    order = torch.Generator().manual_seed(0)
    public = IMAGES[autoencoder._held_out(IMAGES) :]
    chosen = public[torch.randint(len(public), (autoencoder.BATCH,), generator=order)]
    chosen = chosen.flip(-1) if bool(torch.rand(1, generator=order) < 0.5) else chosen
    expected = torch.nn.functional.binary_cross_entropy(network(chosen), chosen)
    derivatives = torch.autograd.grad(expected, list(network.parameters()))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    training = autoencoder._Training.of(network)
    training.advance(IMAGES, 1, lambda _, loss: told.append(loss) is None)
    assert told[0] == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, was, slope in zip(network.parameters(), before, derivatives, strict=True):
        clear = slope.abs() > 1e-5  # the first step of Adam is the sign of the derivative
        moved = (was - parameter.detach())[clear] / autoencoder.LEARNING_RATE
        torch.testing.assert_close(moved, slope[clear].sign(), rtol=1e-2, atol=1e-2)


def test_weights_for_images_have_their_channels_last_and_give_the_same() -> None:
    network = build(IMAGES, "strided")
    first = network.layers[0].weight
    assert isinstance(first, torch.Tensor)
    assert first.is_contiguous(memory_format=torch.channels_last)
    plain = strided(3, autoencoder.SMALL)
    plain.load_state_dict({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    plain = plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    torch.testing.assert_close(network(IMAGES), plain(IMAGES), rtol=1e-5, atol=1e-6)
