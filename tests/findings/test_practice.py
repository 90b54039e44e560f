"""LA504 to LA510: each fault of deployed code is found where it is, and honest clients have none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leakaudit.capture import record
from leakaudit.defences.base import Defence
from leakaudit.defences.faults import counted_buffers
from leakaudit.defences.misuse import Misuse, Practice
from leakaudit.defences.spec import parse_defence
from leakaudit.document.schema import ClaimEntry, MisuseEntry
from leakaudit.document.status import MisuseKind
from leakaudit.findings import RULES, judge
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from tests.cli.build import CLASSES, export, leakaudit
from tests.conftest import smooth_images
from tests.defences.build import EXAMPLES
from tests.findings.build import evidence

IDS = {
    MisuseKind.BUFFERS_COUNTED: "LA504",
    MisuseKind.WRONG_DIVISOR: "LA505",
    MisuseKind.CLASSIC_BOUND: "LA506",
    MisuseKind.UNACCOUNTED: "LA507",
    MisuseKind.SERVER_SEES_RAW: "LA508",
    MisuseKind.WEIGHTS_FILTERED: "LA509",
    MisuseKind.PASSED_UNNOISED: "LA510",
}
LOCAL = FedAvg(4, learning_rate=0.1, local_epochs=2)


@pytest.mark.parametrize("kind", MisuseKind)
def test_every_kind_has_a_rule_of_its_own(kind: MisuseKind) -> None:
    for grave in (True, False):
        entry = MisuseEntry(kind=kind, told="what is wrong.", sure="measured", grave=grave)
        found = judge(evidence([], claims=[ClaimEntry(text="a claim", checks=[], misuses=[entry])]))
        (finding,) = [f for f in found if f.id.startswith("LA5")]
        assert finding.id == IDS[kind]
        assert finding.message == "a claim: what is wrong."
        assert finding.severity == ("high" if grave and RULES[finding.id].worst == "high" else "medium")


def update(seed: int = 0, scale: float = 0.02) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (10, 100), "fc.bias": (20,)}
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def noised(raw: Mapping[str, Tensor], level: float, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: t + level * torch.randn(t.shape, generator=generator) for name, t in raw.items()}


class Step:
    """What a defence that looks at no single sample asks of a client."""

    def __init__(self, protocol: Any) -> None:
        self.protocol, self.inputs = protocol, torch.zeros(protocol.batch_size)


def found(text: str, protocol: Any = LOCAL, **more: Any) -> list[Misuse]:
    step: Any = Step(protocol)
    if "raw" in more:
        more["quiet"] = lambda defence: defence.quiet(more["raw"], step)
    return list(parse_defence(text).misuses(Practice(protocol, **more)))


def kinds(text: str, protocol: Any = LOCAL, **more: Any) -> list[MisuseKind]:
    return [one.kind for one in found(text, protocol, **more)]


@pytest.mark.parametrize("text", ["noise=0.5", "clip=1,noise=0.5,per=update", "clip=0.1,noise=0.5,per=update"])
def test_an_honest_client_has_none(text: str) -> None:
    raw = update()
    size = float(torch.cat([t.flatten() for t in raw.values()]).norm())
    bound = getattr(parse_defence(text), "clip", 0.0) or size
    for seed in range(1, 101):  # 0 is that of the update itself, and noise along it is none
        shared = noised({n: t * min(1.0, bound / size) for n, t in raw.items()}, 0.5, seed)
        assert kinds(text, raw=raw, shared=shared) == []


def test_noise_for_the_sum_on_the_mean_and_the_reverse() -> None:
    raw = update()
    for factor, grave in ((8.0, False), (1 / 8, True)):
        shared = noised(raw, 0.5 * factor)
        (one,) = found("noise=0.5", FedSGD(8), raw=raw, shared=shared)
        assert (one.kind, one.grave) == (MisuseKind.WRONG_DIVISOR, grave)
        assert "8 times" in one.told


def test_tensors_that_pass_without_noise_are_named() -> None:
    raw = update()
    shared = {**noised(raw, 0.5), "fc.bias": raw["fc.bias"]}
    (one,) = found("clip=100,noise=0.5,per=update", raw=raw, shared=shared)
    assert one.kind is MisuseKind.PASSED_UNNOISED
    assert one.told.startswith("fc.bias passed")


def test_an_update_without_any_noise_is_seen_raw() -> None:
    """As a server sees it that noises the aggregate: recorded in front of it."""
    raw = update()
    (one,) = found("clip=100,noise=0.5,per=update", raw=raw, shared=raw)
    assert one.kind is MisuseKind.SERVER_SEES_RAW
    assert "no tensor has the noise" in one.told


def test_a_norm_that_counts_a_counter() -> None:
    """125 steps in num_batches_tracked: the weights are left with a hundredth of the bound."""
    raw = update()
    buffers = {"bn.num_batches_tracked": torch.tensor(125.0)}
    whole = float(torch.cat([*(t.flatten() for t in raw.values()), buffers["bn.num_batches_tracked"][None]]).norm())
    shared, sent = ({n: t / whole for n, t in part.items()} for part in (raw, buffers))
    (one,) = counted_buffers(Practice(LOCAL, raw=raw, shared=shared, buffers=sent), 1.0)
    assert one.kind is MisuseKind.BUFFERS_COUNTED
    size = float(torch.cat([t.flatten() for t in raw.values()]).norm())
    alone = {n: t / size for n, t in raw.items()}
    assert not list(counted_buffers(Practice(LOCAL, raw=raw, shared=alone, buffers=sent), 1.0))


@pytest.mark.parametrize(
    ("text", "round_number", "expected"),
    [
        ("clip=1,noise=1,per=update", 1, False),
        ("clip=1,noise=1,per=update", 7, True),
        ("clip=1,noise=1,per=update,steps=7", 7, False),
        ("clip=1,multiplier=1", 1, True),  # two visits an update, and one step accounted
        ("clip=1,multiplier=1,steps=14", 7, False),
    ],
)
def test_rounds_beyond_the_accountant(text: str, round_number: int, expected: bool) -> None:
    assert (MisuseKind.UNACCOUNTED in kinds(text, round=round_number)) is expected


def test_central_noise_is_none_against_the_server() -> None:
    text = "flower:fixedclipping(clipping_norm=1,noise_multiplier=1,num_sampled_clients=10)"
    assert kinds(text) == [MisuseKind.SERVER_SEES_RAW]
    assert kinds(text, clients=10) == []
    (one,) = found(text, clients=5)
    assert (one.kind, one.grave) == (MisuseKind.WRONG_DIVISOR, True)
    assert parse_defence(text).guaranteed(LOCAL, 0.01) is None
    assert "added by the server" in parse_defence(text).unbounded(100)
    assert kinds("flower:adaptiveclipping(clipping_norm=1)") == [MisuseKind.PASSED_UNNOISED]


def test_a_sensitivity_below_the_clipping_norm() -> None:
    text = "flower:LocalDpMod(clipping_norm=10,sensitivity=1,epsilon=0.9,delta=1e-5,rounds=2)"
    (one,) = found(text)
    assert one.kind is MisuseKind.WRONG_DIVISOR
    assert "up to the clipping norm 10" in one.told


def test_single_numbers_pass_filters_of_both_frameworks() -> None:
    for text in (
        "nvflare:SVTPrivacy()",
        "flower:LocalDpMod(clipping_norm=1,sensitivity=1,epsilon=0.5,delta=1e-5,rounds=3)",
    ):
        (one,) = found(text, scalars=("temperature",))
        assert one.kind is MisuseKind.PASSED_UNNOISED
        assert one.told.startswith("temperature")


@pytest.mark.parametrize("text", ["nvflare:PercentilePrivacy()", "nvflare:SVTPrivacy()"])
def test_weights_in_the_place_of_differences(text: str) -> None:
    assert kinds(text, kind="delta") == []
    before = {"w": torch.tensor([1.0, 1e-9])}
    (one,) = found(text, kind="weights", before=before)
    assert one.kind is MisuseKind.WEIGHTS_FILTERED
    assert "50% of the model's are larger" in one.told
    (set_so,) = found(text.replace("(", "(on=weights"))
    assert set_so.sure == "certified"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(576, CLASSES)
    )


def recorded(
    folder: Path, change: Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]], **more: Any
) -> Path:
    """A round of one client whose state dict went through a filter of its own."""
    images, labels = smooth_images(4), np.arange(4) % CLASSES
    np.savez(folder / "batch.npz", x=images, y=labels)
    module = net()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export(module, folder / "net.onnx")
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        inputs = torch.from_numpy((images - 0.5) / 0.25)
        nn.functional.cross_entropy(module(inputs), torch.from_numpy(labels)).backward()
        optimizer.step()
    after = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    settings = {"learning_rate": 0.1, "local_epochs": 2, "mode": "train", **more}
    done = record(before, change(before, after), out=folder / "round", **settings)
    assert done is not None
    torch.save(before, folder / "net.pt")
    return folder


def findings_of(folder: Path, claim: str) -> dict[str, Any]:
    code, _, err = leakaudit(
        *("scan", folder / "net.pt", "--factory", "tests.findings.test_practice:net", "--input-shape", "3,12,12"),
        *("--batch", folder / "batch.npz", "--round", folder / "round", "--claim", claim, "--controls", "none", "-q"),
        *("--attack", "sme", "--set", "sme.iterations=2", "--mean", 0.5, "--std", 0.25, "-f", "json"),
        *("--out", folder / "out", "--fail-on", "never"),
    )
    assert code in (0, 1, 5), err
    report = json.loads((folder / "out" / "report.json").read_text())
    return {finding["id"]: finding for finding in report["findings"]}


def flat_clip(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """As Flower's mods clip: by the norm over the whole state dict, counters included, which stay as they are."""
    moved = {name: after[name].double() - before[name].double() for name in after}
    norm = float(torch.cat([t.flatten() for t in moved.values()]).norm())
    scaled = {name: before[name].double() + t * 0.5 / norm for name, t in moved.items()}
    return {n: after[n] if before[n].dim() == 0 else t.to(before[n].dtype) for n, t in scaled.items()}


def test_a_recorded_round_tells_of_buffers_and_rounds(tmp_path: Path) -> None:
    folder = recorded(tmp_path, flat_clip, round=5, framework="flower")
    claim = "flower:LocalDpMod(clipping_norm=0.5,sensitivity=0.5,epsilon=4,delta=1e-5)"
    found_there = findings_of(folder, claim)
    assert {"LA504", "LA506", "LA507"} <= set(found_there)
    assert "number 5" in found_there["LA507"]["message"]
    assert found_there["LA507"]["severity"] == "high"
    found_there = findings_of(folder, "nvflare:PercentilePrivacy(percentile=50,gamma=0.01)")
    assert found_there["LA509"]["confidence"] == "measured"
    assert "LA504" not in found_there


def test_every_defence_can_be_asked() -> None:
    """Nothing known of the client: no defence fails on that, and one of ours has no fault by its settings."""
    for text in EXAMPLES:
        defence: Defence = parse_defence(text)
        assert list(defence.misuses(Practice(LOCAL))) == [] or ":" in text
