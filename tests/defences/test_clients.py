"""Several clients behind one update: what each does before the sum, what is done after it, and whose data is summed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leakaudit.client.batch import Batch
from leakaudit.client.examine import examine
from leakaudit.client.observe import observe
from leakaudit.defences.base import Defence, adapted, arranged, defended_protocol
from leakaudit.defences.spec import parse_defences
from leakaudit.defences.units import sent
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.observation import Observation
from leakaudit.protocols.aggregated import Aggregated
from leakaudit.protocols.base import Play, Protocol
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target
from tests.cli.build import CLASSES, export, leakaudit
from tests.conftest import make_target, smooth_images


def flat(update: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in update.values()]).double()


def seen_of(
    target: Target, samples: Batch, space: Images, protocol: Protocol, *texts: str
) -> tuple[Observation, Sequence[Defence], Batch]:
    defences = arranged(parse_defences(texts))
    whole = defended_protocol(protocol, defences)
    batch = samples.subset(range(whole.batch_size))
    return observe(target, batch, whole, space, 0, defences), defences, batch


@pytest.mark.parametrize("protocol", [FedSGD(2), FedAvg(2, local_epochs=2, learning_rate=0.1)])
def test_noise_before_the_sum_is_averaged_and_noise_after_it_is_not(
    target: Target, samples: Batch, space: Images, protocol: Protocol
) -> None:
    """Ten clients, σ = 0.1 each: 0.0316 in the mean, where 0.0997 was left when all was done after it."""
    whole = defended_protocol(protocol, parse_defences(["clients=10"]))
    before = {name: tensor.detach() for name, tensor in target.parameters.items()}
    plain = flat(sent(whole, observe(target, samples.subset(range(20)), whole, space).update, before))
    for texts, level in ((("noise=0.1", "clients=10"), 0.0316), (("clients=10", "noise=0.1"), 0.1)):
        seen, defences, batch = seen_of(target, samples, space, protocol, *texts)
        rest = flat(sent(seen.protocol, seen.update, before)) - plain
        assert float(rest.std()) == pytest.approx(level, rel=0.03)
        _, known = adapted(target, seen, defences)
        noise = known.noise if isinstance(protocol, FedSGD) else known.noise * sum(seen.protocol.step_weights)
        assert noise == pytest.approx(level, rel=0.01)
        evidence = examine(target, batch, seen, 0, defences)
        assert all(check.holds for found in evidence for check in found.checks), evidence
        assert any("standard deviation of the noise" in check.what for found in evidence for check in found.checks)


def test_each_client_clips_its_own(target: Target, samples: Batch, space: Images) -> None:
    """per=update clipped the mean: now each of four clients of its own length is clipped, and then summed."""
    protocol = FedAvg(2, local_epochs=2, learning_rate=0.1)
    before = {name: tensor.detach() for name, tensor in target.parameters.items()}
    singles = []
    for number in range(4):
        batch = samples.subset([2 * number, 2 * number + 1])
        singles.append(flat(sent(protocol, observe(target, batch, protocol, space).update, before)))
    bound = float(torch.stack([s.norm() for s in singles]).median())
    expected = torch.stack([s * min(1.0, bound / float(s.norm())) for s in singles]).mean(0)
    seen, defences, batch = seen_of(target, samples, space, protocol, f"clip={bound},per=update", "clients=4")
    torch.testing.assert_close(flat(sent(seen.protocol, seen.update, before)), expected, rtol=1e-3, atol=1e-7)
    assert all(check.holds for found in examine(target, batch, seen, 0, defences) for check in found.checks)
    after, _, _ = seen_of(target, samples, space, protocol, "clients=4", f"clip={bound / 2},per=update")
    assert float(flat(sent(after.protocol, after.update, before)).norm()) == pytest.approx(bound / 2, rel=1e-4)


@pytest.mark.parametrize("weighted", [True, False])
def test_clients_of_different_sizes_are_weighted_or_not(
    target: Target, samples: Batch, space: Images, weighted: bool
) -> None:
    """By num_examples, as strategies do, or all alike; the mean of what each sends is what is shared."""
    protocol = FedAvg(1, local_epochs=2, local_batch_size=2, learning_rate=0.1, momentum=0.5, weight_decay=0.01)
    text = f"clients=3,examples=2|6|4{'' if weighted else ',weighted=false'}"
    seen, _, _ = seen_of(target, samples, space, protocol, text)
    assert isinstance(seen.protocol, Aggregated)
    before = {name: tensor.detach() for name, tensor in target.parameters.items()}
    order, begin, total = seen.protocol.order(torch.Generator().manual_seed(0), 12), 0, torch.zeros(())
    assert order is not None
    for size, weight in zip((2, 6, 4), (2 / 12, 6 / 12, 4 / 12) if weighted else (1 / 3,) * 3, strict=True):
        own = replace(protocol, batch_size=size)
        play = Play(
            space.encode(samples.images[begin : begin + size]),
            samples.labels[begin : begin + size],
            order[:, begin : begin + size] - begin,
        )
        total = total + weight * flat(sent(own, own.update(target, play), before))
        begin += size
    torch.testing.assert_close(flat(sent(seen.protocol, seen.update, before)), total, rtol=1e-3, atol=1e-7)


def test_a_guarantee_before_the_sum_is_of_one_client() -> None:
    first, _ = arranged(parse_defences(["clip=1,noise=0.5", "clients=10"]))
    assert str(first) == "clip=1,noise=0.5"
    found = first.guaranteed(FedSGD(40), 0.01)
    assert found is not None
    assert found.multiplier == pytest.approx(2.0), "σ n / C with the four samples of one client"
    assert "each of 10 clients does so before the sum" in found.reading
    after = arranged(parse_defences(["clients=10", "clip=1,noise=0.5"]))[1].guaranteed(FedSGD(40), 0.01)
    assert after is not None
    assert after.multiplier == pytest.approx(20.0)


def test_what_survives_a_sum_is_evaluated_and_nothing_else() -> None:
    for text, known in (("clip=1,noise=0.1", True), ("prune=0.9", False), ("sign", False)):
        first, _ = arranged(parse_defences([text, "clients=2"]))
        assert first.known_to(("*", "dp")) is known
        _, last = arranged(parse_defences(["clients=2", text]))
        assert last.known_to(("*", "dp"))


def test_clients_are_said_once() -> None:
    with pytest.raises(UsageError, match="given beside"):
        arranged(parse_defences(["clients=2", "clients=3"]))
    for text in ("clients=3,examples=2|4", "clients=2,examples=0|1", "clients=0"):
        with pytest.raises(UsageError, match="--defence"):
            parse_defences([text])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, samples of four clients, and the means that their server saw: of gradients, and of weights."""
    folder = tmp_path_factory.mktemp("clients")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.Tanh(), nn.Linear(24, CLASSES))
    images, labels = smooth_images(8), np.arange(8) % CLASSES
    inputs, classes = torch.from_numpy((images - 0.5) / 0.25), torch.from_numpy(labels)
    nn.functional.cross_entropy(net(inputs), classes).backward()
    np.savez(folder / "gradient.npz", **{n: p.grad.numpy() for n, p in net.named_parameters() if p.grad is not None})
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    after = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for client in range(4):
        net.load_state_dict(state)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            own = slice(2 * client, 2 * client + 2)
            nn.functional.cross_entropy(net(inputs[own]), classes[own]).backward()
            optimizer.step()
        for name, tensor in net.state_dict().items():
            after[name] += tensor / 4
    net.load_state_dict(state)
    np.savez(folder / "weights.npz", **{name: tensor.numpy() for name, tensor in after.items()})
    np.savez(folder / "batch.npz", x=images, y=labels)
    np.savez(folder / "odd.npz", x=images[:7], y=labels[:7])
    return {p.stem: p for p in folder.iterdir()} | {"model": export(net, folder / "net.onnx")}


@pytest.mark.parametrize("kind", ["gradient", "weights"])
def test_the_update_of_an_aggregate_is_audited_with_the_samples_behind_it(
    files: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """It asked for ten times as many samples, and with those for ten times as many again."""
    local = ("--learning-rate", 0.1, "--local-epochs", 2) if kind == "weights" else ()
    words = ("scan", files["model"], "--update", files[kind], "--defence", "clients=4", "--controls", "none", "-q")
    quick = (
        "--attack",
        "ig",
        "--set",
        "ig.iterations=5",
        "--mean",
        0.5,
        "--std",
        0.25,
        "-f",
        "json",
        "--out",
        tmp_path,
    )
    code, _, err = leakaudit(*words, *quick, *local, "--batch", files["batch"], "--fail-on", "never")
    assert code in (0, 5), err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"]["batch_size"] == 8
    assert report["defences"][0]["remains"]
    if kind == "weights":
        assert report["protocol"]["algorithm"] == "aggregated"
        assert report["protocol"]["settings"]["clients"] == 4
        assert "mean of 4 clients' updates" in report["protocol"]["assumption"]
    code, _, err = leakaudit(*words, *quick, *local, "--batch", files["odd"])
    assert code == 2
    assert "7 samples are behind the update, and 4 parts of it are summed" in " ".join(err.split())


def test_the_mean_of_weights_is_what_the_clients_would_have_shared(files: dict[str, Path], tmp_path: Path) -> None:
    words = (
        "scan",
        files["model"],
        "--update",
        files["weights"],
        "--batch",
        files["batch"],
        "--controls",
        "none",
        "-q",
    )
    how = ("--learning-rate", 0.1, "--local-epochs", 2, "--defence", "clients=4", "--claim", "noise=1e-9", "-f", "json")
    quick = ("--attack", "ig", "--set", "ig.iterations=3", "--mean", 0.5, "--std", 0.25, "--out", tmp_path)
    code, _, err = leakaudit(*words, *how, *quick, "--fail-on", "never")
    assert code in (0, 5), err
    (claim,) = json.loads((tmp_path / "report.json").read_text())["claims"]
    cosine = next(check for check in claim["checks"] if check["what"] == "cosine with the undefended update")
    assert float(cosine["measured"]) > 0.9999


def test_dropout_of_each_client_is_its_own(samples: Batch, space: Images) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.Tanh(), Dropout(0.5, label="drop"), nn.Linear(24, 5))
    target = make_target(net, (3, 12, 12), 5)
    protocol = FedAvg(2, "train", local_epochs=2, local_batch_size=1, learning_rate=0.1)
    defences = arranged(parse_defences(["clip=1e9,per=update", "clients=3"]))
    whole = defended_protocol(protocol, defences)
    batch = samples.subset(range(6))
    plain, clipped = (observe(target, batch, whole, space, 5, own).update for own in ((), defences))
    for name, tensor in plain.items():
        torch.testing.assert_close(clipped[name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("first", ["clip=1,noise=0.1", "clip=1,noise=0.1,per=update"])
@pytest.mark.parametrize("protocol", [FedSGD(40), FedAvg(40, learning_rate=0.1, local_epochs=2)], ids=lambda p: p.name)
def test_the_bound_is_that_of_the_client_that_is_protected_least(first: str, protocol: Any) -> None:
    """It holds for each of them, so the order in which they are named changes nothing."""

    def bound(examples: str) -> float:
        defences = arranged(parse_defences([first, f"clients=2,examples={examples}"]))
        found = defences[0].guaranteed(
            defended_protocol(replace(protocol, batch_size=int(examples.split("|")[0])), defences), 0.1
        )
        assert found is not None
        return found.epsilon

    alone = parse_defences([first])[0].guaranteed(replace(protocol, batch_size=4), 0.1)
    assert alone is not None
    assert bound("40|4") == bound("4|40") >= alone.epsilon


def test_what_each_client_does_is_done_once() -> None:
    chain = arranged(parse_defences(["prune=0.5", "clip=1,noise=0.1,per=update", "clients=2"]))
    assert [defence.last for defence in chain[:2]] == [False, True]
