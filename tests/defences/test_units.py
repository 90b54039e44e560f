"""The unit of the noise, the divisor of Poisson sampling, and ε in Opacus' units."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.accounting import epsilon, renyi_epsilon
from leakaudit.defences.gaussian import GaussianMechanism
from leakaudit.defences.spec import parse_defence
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from tests.cli.build import leakaudit
from tests.conftest import DATA, model_and_batch

ROUND = DATA.parent / "cases" / "rounds" / "opacus_step"
OPACUS = (
    # noise multiplier, rate, steps, ε by the PRV accountant of Opacus 1.6 (with its error of 0.01), and by RDP
    (1.1, 1.0, 1, 3.9315, 4.2396),
    (1.1, 0.01, 1000, 1.5255, 1.7118),
    (1.0, 4 / 64, 200, 6.0383, 6.7408),
    (4.0, 0.25, 1000, 10.1159, 10.8616),
    (0.5, 0.01, 100, 6.4868, 8.0307),
    (2.0, 1.0, 100, 33.1149, 35.0818),
    (1.1, 256 / 60000, 3000, 1.0540, 1.2009),
)


def guarantee(text: str, drawn: int):  # type: ignore[no-untyped-def]
    """Of a defence as written, for so many samples drawn."""
    found = parse_defence(text).guarantee(drawn, 0.01)
    assert found is not None
    return found


@pytest.mark.parametrize(("z", "rate", "steps", "prv", "rdp"), OPACUS)
def test_epsilon_is_that_of_opacus(z: float, rate: float, steps: int, prv: float, rdp: float) -> None:
    assert epsilon(z, rate, steps, 1e-5) == pytest.approx(prv, rel=0.01)
    assert renyi_epsilon(z, rate, steps, 1e-5) == pytest.approx(rdp, rel=0.005)


def test_a_small_epsilon_is_not_drowned_by_the_grid() -> None:
    """On the coarse grid alone it came out as 0.089, and 0.375 for the second."""
    assert epsilon(1.1, 16 / 50000, 3125, 1e-5) == pytest.approx(0.0626, rel=0.01)
    assert epsilon(1.1, 16 / 60000, 56250, 1e-5) == pytest.approx(0.2401, rel=0.01)


@pytest.mark.parametrize("text", ["multiplier=1.1", "noise=0.06875", "noise-on=sum,noise=1.1"])
def test_every_unit_says_the_same(text: str) -> None:
    found = guarantee(f"{text},clip=1,rate=0.01,steps=1000", 16)
    assert found.multiplier == pytest.approx(1.1)
    assert found.epsilon == pytest.approx(1.5255, rel=0.01)
    assert found.epsilon_renyi == pytest.approx(1.7118, rel=0.002)
    assert "standard deviation 0.0688 on the mean gradient = 1.1 on the sum" in found.reading


def test_a_noise_without_unit_is_read_as_documented_and_the_other_reading_stands_beside() -> None:
    """z = 1.1, C = 1, B = 16 copied from Opacus: ε is 0.05 as read, and Opacus says 1.5 (1.71 by Rényi accounting)."""
    found = guarantee("clip=1,noise=1.1,rate=0.01,steps=1000", 16)
    assert found.multiplier == pytest.approx(17.6)
    assert found.epsilon < 0.07
    assert found.other.multiplier == pytest.approx(1.1)
    assert found.other.epsilon == pytest.approx(1.5255, rel=0.01)
    assert "write multiplier=1.1" in found.other.reading
    assert guarantee("clip=1,multiplier=1.1", 16).other is None
    assert guarantee("clip=1,noise=1.1,noise-on=sum", 16).other is None


def test_poisson_sampling_divides_by_the_expected_batch() -> None:
    """Seven were drawn where four are expected: ε came out as 2.4, and as 33.3 instead of 12.7 the other way round."""
    right = guarantee("clip=1,noise=0.25,expected-batch=4,rate=0.0625,steps=200", 7)
    assert right.multiplier == 1
    assert right.epsilon == pytest.approx(6.04, rel=0.01)
    assert "divided by 4 (expected-batch)" in right.reading
    assert guarantee("clip=1,noise=0.25,expected-batch=7,rate=0.0625,steps=200", 4).multiplier == pytest.approx(1.75)


def test_the_client_divides_by_it_too(target: Target, samples: Batch, space: Images) -> None:
    batch = samples.subset([0, 1, 2])
    plain = observe(target, batch, FedSGD(3), space, 0, [parse_defence("clip=0.01")]).update
    poisson = observe(target, batch, FedSGD(3), space, 0, [parse_defence("clip=0.01,expected-batch=6")]).update
    raw = observe(target, batch, FedSGD(3), space).update
    halved = observe(target, batch, FedSGD(3), space, 0, [parse_defence("noise=1e-12,expected-batch=6")]).update
    for name in plain:
        assert torch.allclose(poisson[name], plain[name] / 2, atol=1e-9)
        assert torch.allclose(halved[name], raw[name] / 2, atol=1e-7)
    noisy = observe(
        target, batch, FedSGD(3), space, 0, [parse_defence("clip=0.01,multiplier=5,expected-batch=6")]
    ).update
    rest = torch.cat([(noisy[n] - poisson[n]).flatten() for n in noisy])
    assert float(rest.std()) == pytest.approx(5 * 0.01 / 6, rel=0.02)


def test_the_attacker_knows_the_divisor(target: Target, samples: Batch, space: Images) -> None:
    defence = parse_defence("clip=0.01,expected-batch=4,multiplier=1")
    observation = observe(target, samples.subset([0]), FedSGD(1), space, 0, [defence])
    raw = observe(target, samples.subset([0]), FedSGD(1), space).update
    _, seen = defence.adapt(target, observation)
    assert seen.noise == pytest.approx(0.01 / 4)
    rest = torch.cat([(seen.shared(raw)[n] - observation.update[n]).flatten() for n in raw])
    assert float(rest.std()) == pytest.approx(0.01 / 4, rel=0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip=inf", "expected float, a finite number"),
        ("noise=nan", "expected float, a finite number"),
        ("clip=1,noise=inf", "expected float, a finite number"),
        ("clip=1,noise=-1", "at least 0"),
        ("clip=1,noise=1e999", "expected float, a finite number"),
        ("clip=1,noise=0.1,delta=nan", "expected float, a finite number"),
        ("clip=1,noise=0.1,steps=1e3", "expected int, a whole number"),
        ("clip=1,noise=0.1,steps=99999999999999999999", "1 to 1000000 steps"),
        ("clip=1,noise=0.1,rate=0", "expected probabilities"),
        ("multiplier=1.1", "it needs clip="),
        ("clip=1,noise=1,multiplier=1", "stands in place of noise="),
        ("clip=1,noise=1,noise-on=batch", "expected mean or sum"),
        ("clip=1,noise=1,per=update,expected-batch=4", "there is one update"),
        ("clip=1,noise=1,per=update,noise-on=sum", "there is one update"),
        ("clip=1,noise=1,expected-batch=-4", "expected at least 1"),
        ("clip=1,noise=1,clip=2", "sets clip twice"),
        ("prune=nan", "expected float, a finite number"),
        ("dropout=inf", "expected float, a finite number"),
        ("rate=0.5", "expected one of them above 0"),
    ],
)
def test_a_value_that_cannot_be_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--defence") as caught:
        parse_defence(text)
    assert message in caught.value.message


def test_settings_stand_in_any_order_and_print_as_they_are_written() -> None:
    defence = parse_defence("multiplier=1.1,rate=0.01,noise-on=mean,expected_batch=16,clip=1")
    assert isinstance(defence, GaussianMechanism)
    assert str(defence) == "clip=1,multiplier=1.1,expected-batch=16,rate=0.01"
    assert parse_defence(str(defence)) == defence


def test_hardly_any_noise_is_accounted_without_an_error() -> None:
    for text in (
        "clip=1,noise=1e-300",
        "clip=1e300,noise=1e-300",
        "clip=1e-300,noise=1e300",
        "clip=1e-300,noise=1e300,rate=0.01",
    ):
        found = parse_defence(f"{text},steps=1000").guarantee(4, 0.01)
        assert found is not None
        assert math.isinf(found.epsilon) or found.epsilon >= 0
        assert 0 <= found.reconstruction <= 1


def test_the_help_gives_the_units() -> None:
    code, out, _ = leakaudit("defences")
    assert code == 0
    assert "noise is a standard deviation on every entry of the shared mean gradient" in " ".join(out.split())
    assert "noise-on=mean" in out
    code, out, _ = leakaudit("scan", "--help")
    assert "standard deviation on the mean gradient" in " ".join(out.split())


def test_the_deciding_line_is_the_bound(tmp_path: Path) -> None:
    model, batch = model_and_batch(tmp_path)
    code, out, err = leakaudit(
        *("scan", model, "--batch", batch, "--out", tmp_path / "out", "-q", "--victims", 1, "--preset", "quick"),
        *("--batch-size", 4, "--defence", "clip=1,multiplier=1,rate=0.0625,steps=200", "-f", "json"),
        *("--attack", "ig", "--set", "ig.iterations=3", "--controls", "none"),
    )
    assert code in (0, 1, 5), err
    assert "absl" not in err
    bound = next(line for line in out.splitlines() if line.startswith("At most: "))
    assert "at most 0.0924 from one update that it took part in (ε = 4.38" in bound
    assert "from the training of 200 updates at sampling rate 0.0625 (ε = 6.03" in bound
    assert "0.25 on the mean gradient = 1 on the sum, divided by 4" in bound


@pytest.mark.skipif(not ROUND.is_dir(), reason=f"no recorded rounds at {ROUND.parent}")
@pytest.mark.parametrize("noise", ["multiplier=1", "noise=0.25"])
def test_what_opacus_shared_has_the_bound_of_opacus(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROUND.parent))
    sys.modules.pop("nets", None)
    import nets  # type: ignore[import-not-found]

    import leakaudit as package

    net = nets.lenet()
    net.load_state_dict(torch.load(ROUND / "global.pt", weights_only=True))
    with np.load(ROUND / "batch.npz") as file:
        batch = (file["x"], file["y"])
    found = package.scan(
        net, batch, update=ROUND / "grad.npz", batch_size=7, victims=1, controls="none", preset="quick", cache=False,
        defences=[f"clip=1,{noise},expected-batch=4,rate=0.0625,steps=200"], attacks=["ig"],
        settings={"ig": {"iterations": "3"}}, mean=list(nets.MEAN), std=list(nets.STD), input_shape=(3, 32, 32),
    )  # fmt: skip
    (entry,) = found.defences
    assert all(check.holds for check in entry.checks), entry.checks
    assert entry.accounting is not None
    assert entry.accounting.epsilon == pytest.approx(6.04, rel=0.01)
