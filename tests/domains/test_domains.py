"""What every domain of this package promises: hash and pickle, a valid range, starts, look-alikes, and a prior."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.registry import available as attacks
from leakaudit.client.readers.base import Reader, reader_for
from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images, total_variation
from leakaudit.domains.registry import OWN, available, taken
from leakaudit.domains.signals import Signals, round_range
from leakaudit.domains.tokens import Tokens, tokens_of
from leakaudit.domains.volumes import Volumes
from leakaudit.errors import UsageError
from leakaudit.report.domains import OWN as CARDS
from leakaudit.scoring.base import Measure, specs_of
from tests.conftest import make_target, small_mlp
from tests.texts import text_target

IMAGES = Images((3, 12, 12), (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
TOKENS = Tokens.of(8, 60, "table.weight")
VOLUMES = Volumes((2, 4, 6, 5), (0.5, 0.4), (0.25, 0.2))
SIGNALS = Signals.plain((3, 40)).normalised((1.0, 0.0, -2.0), (0.5, 2.0, 1.0))
ALL = (IMAGES, VOLUMES, SIGNALS, TOKENS)
DOMAINS = pytest.mark.parametrize("domain", ALL, ids=lambda d: d.kind)


@DOMAINS
def test_it_hashes_and_pickles(domain: Domain) -> None:
    again = pickle.loads(pickle.dumps(domain))
    assert again == domain
    assert hash(again) == hash(domain)
    assert len({again, domain}) == 1
    assert domain.normalised((), ()) != IMAGES


@DOMAINS
def test_what_is_finished_is_in_the_valid_range_and_stays_as_it_was(domain: Domain) -> None:
    wild = 1000 * torch.randn((4, *domain.shape), generator=cpu_generator(0))
    kept = wild.clone()
    found = domain.finish(wild)
    assert torch.equal(wild, kept)
    low, high = domain.box(found)
    assert bool(((found >= low) & (found <= high)).all())
    assert torch.equal(domain.finish(found), found)
    moved = wild.clone()
    domain.projection(moved)(moved)
    assert torch.equal(domain.cast(moved), found)


@DOMAINS
def test_look_alikes_are_valid_and_survive_the_way_to_values_and_back(domain: Domain) -> None:
    made = domain.look_alikes(5, cpu_generator(1))
    assert made.shape == (5, *domain.shape)
    assert torch.allclose(domain.encode(domain.decode(made)).float(), made, atol=1e-5)
    assert torch.equal(domain.finish(made), domain.cast(domain.project(made)))
    assert torch.allclose(domain.project(made), made)
    assert not torch.equal(made, domain.look_alikes(5, cpu_generator(2)))


@DOMAINS
@pytest.mark.parametrize("kind", ["normal", "uniform", "zeros", "tiled"])
def test_starts_are_drawn_from_the_generator_alone(domain: Domain, kind: str) -> None:
    one, two = (domain.start(kind, 3, cpu_generator(4)) for _ in range(2))  # type: ignore[arg-type]
    assert one.shape == (3, *domain.shape)
    assert torch.equal(one, two)


def test_the_roughness_of_images_is_their_total_variation() -> None:
    inputs = torch.randn((2, 3, 12, 12), generator=cpu_generator(0))
    assert float(IMAGES.roughness(inputs)) == float(total_variation(inputs)) > 0
    assert float(IMAGES.roughness(torch.ones((1, 3, 12, 12)))) == 0
    assert float(TOKENS.roughness(TOKENS.look_alikes(2, cpu_generator(0)))) == 0


@DOMAINS
def test_its_private_rooms_and_its_card_exist(domain: Domain) -> None:
    target = text_target() if domain is TOKENS else replace(make_target(small_mlp(), (3, 12, 12), 5), domain=domain)
    assert isinstance(reader_for(target), Reader)
    names = [spec.name for spec in specs_of(domain)]
    assert len(set(names)) == len(names) > 2
    assert CARDS[domain.kind] == domain.card
    assert domain.references


def test_the_registry_has_those_of_this_package() -> None:
    own = {domain.kind for domain in OWN}
    assert (
        set(available()) >= own == {*(domain.kind for domain in ALL), "table", "several"}
    )  # which have tests of their own
    assert taken(("images", "tokens")) == "real-valued inputs such as pixels or token ids"
    assert taken(("graphs",)) == "graphs"


def test_every_attack_reads_a_domain_that_there_is() -> None:
    for name, attack in attacks().items():
        assert set(attack.reads) <= set(available()), name
        assert attack.reads, name


def test_the_roughness_of_volumes_and_signals_is_along_each_of_their_axes() -> None:
    inputs = torch.randn((2, 2, 4, 6, 5), generator=cpu_generator(0))
    expected = sum(inputs.diff(dim=axis).abs().mean() for axis in (2, 3, 4))
    torch.testing.assert_close(VOLUMES.roughness(inputs), expected)
    signals = SIGNALS.look_alikes(4, cpu_generator(0))
    rough = SIGNALS.random_inputs(4, cpu_generator(0))
    assert 0 < float(SIGNALS.roughness(signals)) < 0.5 * float(SIGNALS.roughness(rough))
    scaled = replace(SIGNALS, std=(5.0, 20.0, 10.0), low=SIGNALS.low, high=SIGNALS.high)
    torch.testing.assert_close(scaled.roughness(0.1 * signals), SIGNALS.roughness(signals))
    assert float(Signals.plain((1, 1)).roughness(torch.ones((2, 1, 1)))) == 0


def test_a_signal_is_in_the_unit_and_the_range_of_its_channels() -> None:
    values = torch.tensor([[[1.5, 3.0]], [[0.25, -4.0]]]).transpose(0, 1)  # (1, 2, 2)
    domain = Signals.plain((2, 2)).normalised((1.0, 0.0), (0.5, 2.0)).within((0.0, -5.0), (5.0, 5.0))
    assert domain.encode(values).tolist() == [[[1.0, 4.0], [0.125, -2.0]]]
    assert torch.equal(domain.decode(domain.encode(values)), values)
    assert domain.decode(torch.full((1, 2, 2), 99.0)).tolist() == [[[5.0, 5.0], [5.0, 5.0]]]
    assert domain.squared_unit() == pytest.approx((0.25 + 4) / 2)
    with pytest.raises(UsageError, match="--std has 3 values, the model takes 2"):
        domain.normalised((), (1.0, 1.0, 1.0))
    with pytest.raises(UsageError, match=r"--std is .*expected positive"):
        domain.normalised((), (0.0,))


def test_a_range_that_nobody_named_is_of_round_numbers() -> None:
    assert [round_range(*ends) for ends in ((-0.7, 1.3), (0.0, 0.04), (3.0, 5.0), (-3100.0, 12.0), (0.0, 0.0))] == [
        (-2.0, 2.0), pytest.approx((0.0, 0.05)), (0.0, 5.0), (-5000.0, 5000.0), (-1.0, 1.0),
    ]  # fmt: skip


def test_images_are_normalised_per_channel() -> None:
    plain = Images.plain((3, 4, 4))
    assert plain.normalised((0.5,), (0.25,)) == Images((3, 4, 4), (0.5,) * 3, (0.25,) * 3)
    assert plain.normalised((), ()) == plain
    assert IMAGES.squared_unit() == pytest.approx((0.25**2 + 0.2**2 + 0.1**2) / 3)
    with pytest.raises(UsageError, match="--mean has 2 values, the model takes 3"):
        plain.normalised((0.5, 0.5), ())
    with pytest.raises(UsageError, match=r"--std is .*expected positive"):
        plain.normalised((), (0.0,))


def test_tokens_have_no_normalisation_and_no_error_in_squares() -> None:
    with pytest.raises(UsageError, match="--std is for images, the model takes token ids"):
        TOKENS.normalised((), (1.0,))
    assert TOKENS.normalised((), ()) == TOKENS
    assert TOKENS.squared_unit() is None
    assert TOKENS.uncounted
    assert not IMAGES.uncounted
    with pytest.raises(ValueError, match="token ids"):
        tokens_of(IMAGES)


def test_neighbours_of_a_text_are_exchanges_and_repetitions() -> None:
    sample = torch.tensor([3, 5, 3]).view(1, 1, 3)
    found = {tuple(n.flatten().tolist()) for n in Tokens.of(3, 9).neighbours(sample)}
    assert found == {(5, 3, 3), (3, 3, 5), (5, 5, 3), (3, 3, 3), (3, 5, 5)}
    assert IMAGES.neighbours(torch.zeros(3, 12, 12)) is None


def test_exposed_are_the_rows_of_a_trained_table() -> None:
    assert TOKENS.exposed(["other"]) == ()
    assert "table.weight" in TOKENS.exposed(["table.weight"])[0]


def test_measures_are_measures() -> None:
    from pkgutil import resolve_name

    for domain in OWN:
        assert issubclass(resolve_name(domain.measure), Measure)
