"""Clipping and noise of clients that train locally: in which units, at which step, and what it guarantees."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy.stats import norm
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.client.examine import examine
from leakaudit.client.observe import observe
from leakaudit.defences.base import adapted, defended_protocol
from leakaudit.defences.spec import parse_defence
from leakaudit.defences.units import reach, sent
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.protocols.private import StepPrivacy, clipped
from leakaudit.target.target import Target
from tests.cli.build import leakaudit
from tests.conftest import smooth_images

LOCAL = FedAvg(4, local_epochs=3, local_batch_size=2, learning_rate=0.1, momentum=0.5)


def weights(target: Target) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in target.parameters.items()}


def flat(update: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in update.values()]).double()


def moved(target: Target, samples: Batch, space: Images, protocol: FedAvg, *texts: str) -> tuple[Tensor, Tensor]:
    """The difference of weights (d,) without and with these defences."""
    defences = [parse_defence(text) for text in texts]
    protocol = defended_protocol(protocol, defences)  # type: ignore[assignment]
    batch = samples.subset(range(protocol.batch_size))
    plain = observe(target, batch, replace(protocol, privacy=None), space).update
    seen = observe(target, batch, protocol, space, 0, defences).update
    return flat(sent(protocol, plain, weights(target))), flat(sent(protocol, seen, weights(target)))


def test_the_norm_is_that_of_the_difference_of_weights(target: Target, samples: Batch, space: Images) -> None:
    """It was taken of the update in units of a gradient: with a learning rate of 0.1 nothing was clipped to what was
    said."""
    raw, shared = moved(target, samples, space, LOCAL, "clip=0.01,per=update")
    assert float(raw.norm()) > 0.02
    assert float(shared.norm()) == pytest.approx(0.01, rel=1e-4)
    torch.testing.assert_close(shared / shared.norm(), raw / raw.norm(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("text", ["noise=0.05", "clip=0.01,noise=0.05,per=update", "clip=0.01,multiplier=5,per=update"])
def test_the_noise_is_on_the_difference_of_weights(target: Target, samples: Batch, space: Images, text: str) -> None:
    raw, shared = moved(target, samples, space, LOCAL, text)
    clean = raw if "clip" not in text else raw * 0.01 / raw.norm()
    assert float((shared - clean).std()) == pytest.approx(0.05, rel=0.02)


def test_the_attacker_is_told_the_noise_in_units_of_a_gradient(target: Target, samples: Batch, space: Images) -> None:
    defence = parse_defence("clip=0.01,noise=0.05,per=update")
    seen = observe(target, samples.subset(range(4)), LOCAL, space, 0, [defence])
    _, known = adapted(target, seen, [defence])
    assert known.noise == pytest.approx(0.05 / reach(LOCAL))
    raw = observe(target, samples.subset(range(4)), LOCAL, space).update
    rest = flat(known.shared(raw)) - flat(seen.update)
    assert float(rest.std()) == pytest.approx(known.noise, rel=0.02)


def test_the_report_gives_both_numbers() -> None:
    found = parse_defence("clip=0.5,noise=1,per=update").guaranteed(FedAvg(4, learning_rate=0.1, local_epochs=2), 0.01)
    assert found is not None
    assert (found.unit, found.multiplier) == ("client", 2.0)
    assert "standard deviation 1 on the difference of weights, whose norm is clipped to 0.5" in found.reading
    assert "of which it is 0.2 times, 5 and 2.5" in found.reading
    assert found.reconstruction == pytest.approx(norm.cdf(norm.ppf(0.01) + 0.5))


def test_every_step_clips_its_samples_and_adds_its_noise(target: Target, samples: Batch, space: Images) -> None:
    """Against a loop of one's own over samples and steps, with the noise of the same seeds."""
    privacy = StepPrivacy(0.05, 0.02, expected=3)
    protocol = replace(LOCAL, momentum=0.0, privacy=privacy)
    play = Play(space.encode(samples.images[:4]), samples.labels[:4], unknowns={"noise": torch.tensor([77])})
    made = sent(protocol, protocol.update(target, play), weights(target))
    now = {name: tensor.clone().requires_grad_() for name, tensor in weights(target).items()}
    for step in range(protocol.steps):
        total = {name: torch.zeros_like(tensor) for name, tensor in now.items()}
        for i in ((0, 1), (2, 3))[step % 2]:
            single = target.gradient(play.inputs[i : i + 1], play.labels[i : i + 1], parameters=now)
            size = math.sqrt(sum(float(g.square().sum()) for g in single.values()))
            total = {name: total[name] + g * min(1.0, 0.05 / size) for name, g in single.items()}
        generator = torch.Generator().manual_seed(77 + step)
        for name, tensor in now.items():
            noisy = total[name] / 3 + 0.02 * torch.randn(tensor.shape, generator=generator)
            now[name] = (tensor - 0.1 * noisy).detach().requires_grad_()
    for name, tensor in weights(target).items():
        torch.testing.assert_close(made[name], now[name].detach() - tensor, rtol=1e-4, atol=1e-7)


def test_one_private_step_is_the_mechanism_of_a_gradient(target: Target, samples: Batch, space: Images) -> None:
    """FedSGD in disguise: the same clipping, and noise of the same size."""
    batch, text = samples.subset(range(4)), "clip=0.05,multiplier=0.5,expected-batch=8"
    one = FedAvg(4, learning_rate=0.5)
    plain = observe(target, batch, FedSGD(4), space, 0, [parse_defence("clip=0.05,expected-batch=8")]).update
    for protocol in (one, FedSGD(4)):
        defence = parse_defence(text)
        private = defended_protocol(protocol, [defence])
        seen = observe(target, batch, private, space, 3, [defence])
        assert float((flat(seen.update) - flat(plain)).std()) == pytest.approx(0.05 * 0.5 / 8, rel=0.03)
        (evidence,) = examine(target, batch, seen, 3, [defence])
        assert len(evidence.checks) > 3
        assert all(check.holds for check in evidence.checks), evidence.checks
        _, known = adapted(target, seen, [defence])
        assert known.noise == pytest.approx(0.05 * 0.5 / 8)


def test_what_several_private_steps_did_is_not_judged(target: Target, samples: Batch, space: Images) -> None:
    defence = parse_defence("clip=0.05,multiplier=1")
    protocol = defended_protocol(LOCAL, [defence])
    seen = observe(target, samples.subset(range(4)), protocol, space, 0, [defence])
    (evidence,) = examine(target, samples.subset(range(4)), seen, 0, [defence])
    assert [check.what for check in evidence.checks] == ["cosine with the undefended update"]
    assert "every local step" in evidence.unchecked


def test_the_noise_of_the_steps_reaches_the_update_as_told(target: Target, samples: Batch, space: Images) -> None:
    """Where the weights hardly move, the level is that of independent noise weighted by the steps."""
    defence = parse_defence("clip=0.01,multiplier=20")
    protocol = defended_protocol(replace(LOCAL, learning_rate=1e-3), [defence])
    batch = samples.subset(range(4))
    seen = observe(target, batch, protocol, space, 0, [defence])
    _, known = adapted(target, seen, [defence])
    quiet = protocol.privately(StepPrivacy(0.01, 0.0))
    rest = flat(seen.update) - flat(observe(target, batch, quiet, space).update)
    assert float(rest.std()) == pytest.approx(known.noise, rel=0.03)
    assert getattr(known.protocol, "privacy", None) is None, "steps of two samples: a guess does not clip them"


def test_a_guess_of_single_samples_clips_as_the_client_does(target: Target, samples: Batch, space: Images) -> None:
    defence = parse_defence("clip=0.05,noise=1e-9")
    protocol = defended_protocol(replace(LOCAL, local_batch_size=1), [defence])
    seen = observe(target, samples.subset(range(4)), protocol, space, 0, [defence])
    order = protocol.order(torch.Generator().manual_seed(0), 4)
    play = Play(space.encode(samples.images[:4]), samples.labels[:4], order)
    _, known = adapted(target, seen, [defence])
    made = known.regenerate(target, play)
    for name, g in seen.update.items():
        torch.testing.assert_close(made[name], g, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "text", "events", "steps"),
    [
        ({"local_epochs": 3, "local_batch_size": 2}, "clip=1,multiplier=2", 3, 3),
        ({"local_epochs": 3, "local_batch_size": 2}, "clip=1,noise=1", 3, 3),  # z = σ n / C = 2
        ({"local_epochs": 3, "local_batch_size": 2}, "clip=1,multiplier=2,steps=30", 3, 30),
        ({"local_epochs": 1}, "clip=1,multiplier=2", 1, 1),
    ],
)
def test_an_update_costs_as_many_mechanisms_as_a_sample_has_visits(
    settings: dict[str, Any], text: str, events: int, steps: int
) -> None:
    """Against Rényi accounting of as many Gaussian events, which is above the exact ε and near it."""
    found = parse_defence(text).guaranteed(FedAvg(4, learning_rate=0.1, **settings), 0.01)
    assert found is not None
    assert (found.unit, found.update_steps, found.steps, found.multiplier) == ("sample", events, steps, 2.0)
    for composed, epsilon in ((events, found.epsilon_one_step), (steps, found.epsilon)):
        accountant = RdpAccountant(orders=[1 + x / 10 for x in range(1, 100)] + list(range(12, 64)))
        accountant.compose(SelfComposedDpEvent(GaussianDpEvent(2.0), composed))
        above = accountant.get_epsilon(1e-5)
        assert epsilon is not None
        assert above * 0.85 < epsilon <= above
    assert found.one_step == pytest.approx(norm.cdf(norm.ppf(0.01) + math.sqrt(events) / 2))


def test_a_stated_rate_is_that_of_opacus() -> None:
    """z 1.1, rate 0.01, 1000 steps of 10 an update: ε 1.5255 by Opacus 1.6's PRV accountant."""
    protocol = FedAvg(100, learning_rate=0.1, local_batch_size=10)
    found = parse_defence("opacus:multiplier=1.1,clip=1,expected-batch=10,rate=0.01,steps=1000").guaranteed(
        protocol, 0.01
    )
    assert found is not None
    assert found.epsilon == pytest.approx(1.5255, rel=0.01)
    assert found.update_steps == 10
    assert found.epsilon_one_step is not None
    assert found.epsilon_one_step < found.epsilon


@pytest.mark.parametrize(
    ("protocol", "text", "opacus"),
    [
        (FedAvg(4, local_epochs=3, local_batch_size=2), "clip=1,multiplier=2", 3.7188),
        (FedAvg(4, local_epochs=3, local_batch_size=2), "clip=1,multiplier=2,steps=30", 14.8406),
        (FedAvg(100, local_batch_size=10), "clip=1,multiplier=1.1,rate=0.1", 2.3605),
    ],
)
def test_local_steps_cost_what_opacus_says(protocol: FedAvg, text: str, opacus: float) -> None:
    """ε of 3 and 30 steps at rate 1 and of 10 at rate 0.1, by the PRV accountant of Opacus 1.6 (with its error of
    0.01)."""
    found = parse_defence(text).guaranteed(protocol, 0.01)
    assert found is not None
    assert found.epsilon == pytest.approx(opacus, rel=0.01)


def test_what_counts_samples_where_there_are_none_is_refused() -> None:
    with pytest.raises(UsageError, match="which is no mean"):
        defended_protocol(LOCAL, [parse_defence("noise=0.1,noise-on=sum")])
    with pytest.raises(UsageError, match="these train locally"):
        defended_protocol(LOCAL, [parse_defence("accumulate=2")])


def test_clipping_is_one_function() -> None:
    found = clipped({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}, 1.0)
    assert float(found["a"]) == pytest.approx(0.6)
    assert clipped(found, 2.0)["b"] == found["b"]


def scan(tmp_path: Path, *words: object) -> Any:
    np.savez(tmp_path / "local.npz", x=smooth_images(8), y=np.arange(8) % 5)
    common = ("--batch", tmp_path / "local.npz", "--controls", "none", "-f", "json", "-f", "markdown", "-q")
    quick = ("--mean", 0.5, "--std", 0.25, "--attack", "sme", "--set", "sme.iterations=3")
    code, _, err = leakaudit(words[0], words[1], *common, "--out", tmp_path / "out", *quick, *words[2:])
    assert code in (0, 1, 5), err
    return json.loads((tmp_path / "out" / "report.json").read_text())


def test_a_scan_of_private_local_training_says_whom_it_protects(model: Path, tmp_path: Path) -> None:
    words = ("--learning-rate", 0.1, "--local-epochs", 2, "--local-batch-size", 4, "--fail-on", "never")
    report = scan(tmp_path, "scan", model, *words, "--defence", "clip=1,multiplier=1")
    (entry,) = report["defences"]
    assert entry["evaluated_by"] == ["sme"]
    assert (entry["accounting"]["unit"], entry["accounting"]["update_steps"]) == ("sample", 2)
    assert "in every local step standard deviation 0.25" in entry["accounting"]["reading"]
    assert any(
        "clipped to 1, noise of standard deviation 0.25 in every step" in a for a in report["verdict"]["assumed"]
    )
    report = scan(
        tmp_path,
        "scan",
        model,
        *words,
        "--defence",
        "flower:LocalDpMod(clipping_norm=1,sensitivity=1,epsilon=8,delta=1e-5)",
    )
    (entry,) = report["defences"]
    assert entry["accounting"]["unit"] == "client"
    assert "for all samples of one client together" in report["verdict"]["at_most"]
    assert {"LA506", "LA507"} <= {finding["id"] for finding in report["findings"]}


def test_defend_over_local_training(model: Path, tmp_path: Path) -> None:
    grid = ("clip=0.1,noise=1,per=update", "clip=1,multiplier=1", "nvflare:SVTPrivacy()", "accumulate=2")
    defences = [word for text in grid for word in ("--defence", text)]
    words = (
        "--learning-rate",
        0.1,
        "--local-epochs",
        2,
        "--samples",
        2,
        "--victims",
        1,
        "--steps",
        2,
        "--preset",
        "quick",
    )
    report = scan(tmp_path, "defend", model, *words, *defences, "-f", "csv", "-f", "junit")
    trials = {trial["text"]: trial for trial in report["trials"]}
    assert [trial["status"] for trial in report["trials"]] == ["run"] * 4 + ["not_run"]
    assert "these train locally" in trials["accumulate=2"]["reason"]
    assert trials["clip=0.1,noise=1,per=update"]["accounting"]["unit"] == "client"
    assert trials["clip=1,multiplier=1"]["accounting"]["update_steps"] == 2
    losses = [trial["loss"] for trial in report["trials"][:4]]
    assert len(set(losses)) == 4, "each trains with what it shares"
    for name, words_of in {
        "report.md": "Settings measured",
        "scores.csv": "setting",
        "report.junit.xml": "leakaudit.defences",
    }.items():
        text = (tmp_path / "out" / name).read_text()
        assert words_of in text
        assert "clip=0.1" in text.replace("\\", "")
