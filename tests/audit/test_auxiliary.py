"""An attacker of threat model D learns from what is at hand, never from a victim's samples; the report says what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.attacks.base import Attack
from leakaudit.attacks.gi_pip import GIPIP, LARGEST, LIGHT_STEPS, GIPIPSettings
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.attacks.registry import available, create
from leakaudit.audit.attacks import chosen_attacks
from leakaudit.audit.auxiliary import FEWEST, GENERATED, with_auxiliary
from leakaudit.audit.budget import IN_PASSING, worth
from leakaudit.audit.request import Request
from leakaudit.audit.victim import Knowledge
from leakaudit.client.batch import Batch, unlike
from leakaudit.document.schema import AttackEntry, AuxiliaryEntry
from leakaudit.document.status import AuxiliarySource
from leakaudit.domains.images import Images
from leakaudit.domains.signals import Signals
from leakaudit.domains.volumes import Volumes
from leakaudit.findings import judge
from leakaudit.findings.effort import efforts
from leakaudit.findings.verdict import conclude
from leakaudit.report.views.view import build_view
from tests.conftest import smooth_images
from tests.findings.build import CONTROLS, entry, evidence, sample
from tests.tables import TABLE

SHAPE = (3, 12, 12)
SPACE = Images(SHAPE, (0.5,) * 3, (0.25,) * 3)
ATTACKS = [attack(attack.presets["quick"]) for attack in available().values()]


def batch_of(values: Tensor) -> Batch:
    return Batch(values, torch.zeros(len(values), dtype=torch.long), tuple(range(len(values))))


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(smooth_images(count, seed=seed))


def learnt(samples: Batch, victims: list[Batch], domain: Any = SPACE, attacks: list[Attack] = ATTACKS) -> Knowledge:
    return with_auxiliary(Knowledge(), domain, samples, victims, attacks)


def test_the_rest_of_the_batch_file_stands_for_the_attackers_data_without_copies_of_a_victims_samples() -> None:
    values = pictures(FEWEST + 8)
    values[10] = values[0]
    values[1] = (values[1] * 255).round() / 255
    values[11] = values[1] + 0.2 / 255  # the same at 8 bits
    values[13] = values[12]
    samples = batch_of(values.clamp(0, 1))
    victims = [samples.subset([0, 1]), samples.subset([2])]
    known = learnt(samples, victims)
    assert known.auxiliary is not None
    kept = [n for n in range(3, FEWEST + 8) if n not in (10, 11, 13)]
    assert torch.equal(known.auxiliary, samples.images[kept])
    assert known.origin == AuxiliaryEntry(
        source=AuxiliarySource.BATCH_FILE, samples=len(kept), share=len(kept) / len(samples)
    )


def test_signals_are_compared_exactly() -> None:
    apart = torch.tensor([[[256.0, 0.001]], [[512.0, 0.002]], [[0.0, 0.001]]])
    assert len(unlike(apart, [apart[:1]])) == 2
    assert len(unlike(apart, [apart])) == 0


@pytest.mark.parametrize("few", [True, False])
def test_a_generic_set_where_the_file_has_too_few_or_nobody_knows_the_victims(few: bool) -> None:
    samples = batch_of(pictures(FEWEST if few else 2 * FEWEST))
    victims = [samples.subset([0]) if few else Batch.unknown(SHAPE, (0,))]
    known = learnt(samples, victims)
    assert known.origin == AuxiliaryEntry(source=AuxiliarySource.GENERATED, samples=GENERATED)
    assert known.auxiliary is not None
    assert known.auxiliary.shape == (GENERATED, *SHAPE)
    again = learnt(samples, victims).auxiliary
    assert again is not None
    assert torch.equal(known.auxiliary, again)


def test_nothing_is_made_where_nobody_learns_from_it() -> None:
    samples = batch_of(pictures(100))
    assert learnt(samples, [samples.subset([0])], attacks=[IG(IG.presets["quick"])]).auxiliary is None
    assert learnt(samples, [], TABLE).auxiliary is None
    large = Images.plain((1, 1, LARGEST + 1))
    assert learnt(samples, [], large).auxiliary is None
    own = replace(Knowledge(), auxiliary=samples.images[:9])
    assert with_auxiliary(own, SPACE, samples, [], ATTACKS) is own
    assert own.learnt_from == AuxiliaryEntry(source=AuxiliarySource.GIVEN, samples=9)


def test_signals_and_volumes_have_a_generic_set_as_well() -> None:
    for domain in (Signals.plain((2, 40)), Volumes.plain((1, 6, 8, 8))):
        made = learnt(batch_of(torch.zeros(1, *domain.shape)), [], domain).auxiliary
        assert made is not None
        assert made.shape == (GENERATED, *domain.shape)


# A plain scan


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets of a few steps."""
    monkeypatch.setitem(GIPIP.presets, "quick", GIPIPSettings(iterations=30, training_steps=4, anomaly_weight=0.3))
    monkeypatch.setitem(IG.presets, "quick", IGSettings(iterations=30))


def plain_scan(count: int, **options: Any) -> leakaudit.Report:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
    common: dict[str, Any] = {
        "preset": "quick", "victims": 2, "mean": [0.5], "std": [0.25], "input_shape": SHAPE, "controls": "none"
    }  # fmt: skip
    return leakaudit.scan(nn.Sequential(*layers), (smooth_images(count), np.arange(count) % 5), **{**common, **options})


def entry_of(report: leakaudit.Report, name: str = "gi-pip") -> AttackEntry:
    return next(attack for attack in report.attacks if attack.name == name)


def test_a_leak_of_the_comparison_is_in_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where GI-PIP alone was asked for, and did not get as far as IG beside it."""
    monkeypatch.setitem(GIPIP.presets, "quick", GIPIPSettings(iterations=2, training_steps=2))
    monkeypatch.setattr(GIPIP, "rival", lambda self, sides: create("ig", "quick", {"iterations": "250"}))
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 32), nn.Sigmoid(), nn.Linear(32, 5))
    report = leakaudit.scan(
        module, (smooth_images(80), np.arange(80) % 5), attacks=["gi-pip"], victims=1, preset="quick", mean=[0.5],
        std=[0.25], input_shape=SHAPE,
    )  # fmt: skip
    own, compared = entry_of(report), entry_of(report, "ig")
    assert not any(sample.leaked for result in own.results for sample in result.samples)
    assert compared.status == "run"
    assert "not asked for" in compared.reason
    assert report.verdict.code.leaks
    assert {control.kind for control in report.controls if control.attack == "ig"} >= {"negative", "prior_only"}


@pytest.mark.usefixtures("brief")
def test_a_plain_scan_tries_gi_pip_in_passing_and_says_whether_it_helped() -> None:
    report = plain_scan(70)
    tried, ig = entry_of(report), entry_of(report, "ig")
    assert tried.status == "run"
    assert tried.in_passing
    assert tried.planned == 30 // LIGHT_STEPS
    assert tried.threat_model == "D"
    assert tried.auxiliary == AuxiliaryEntry(source=AuxiliarySource.BATCH_FILE, samples=68, share=68 / 70)
    assert "68 samples of the batch file (97% of it) that no victim holds" in tried.given["auxiliary_data"]
    assert ig.auxiliary is None
    assert ig.given["auxiliary_data"] == "none"
    assert tried.beside is not None
    assert tried.beside.in_ledger
    assert [r.seconds for r in tried.beside.results] == [r.seconds for r in ig.results], "IG is not run again"
    ours, theirs = ([s.psnr for r in a.results for s in r.samples] for a in (tried, ig))
    gain = sum(a - b for a, b in zip(ours, theirs, strict=True)) / 2  # type: ignore[operator]
    assert tried.beside.gain == pytest.approx(gain)
    (row,) = [row for row in build_view(report).ledger if row.name == "gi-pip"]
    assert (
        f"{abs(gain):.1f} dB over IG (Inverting Gradients) in the median, tried in passing" in dict(row.given)["beside"]
    )
    assert any("68 samples of the batch file" in line for line in report.verdict.assumed)


@pytest.mark.usefixtures("brief")
def test_few_samples_are_replaced_by_generated_ones_and_named_so() -> None:
    tried = entry_of(plain_scan(12))
    assert tried.auxiliary == AuxiliaryEntry(source=AuxiliarySource.GENERATED, samples=GENERATED)
    assert "nobody's" in tried.given["auxiliary_data"]


@pytest.mark.parametrize(
    "asked", [{"attacks": ["gi-pip"]}, {"auxiliary": "public.npz"}, {"settings": {"gi-pip": {"iterations": "30"}}}]
)
def test_whoever_asks_for_it_gets_all_of_it(asked: dict[str, Any]) -> None:
    (plain,) = (attack for attack in chosen_attacks(Request(preset="standard")) if attack.name == "gi-pip")
    (full,) = (attack for attack in chosen_attacks(Request(preset="standard", **asked)) if attack.name == "gi-pip")
    assert (plain.in_passing, plain.planned) == (True, GIPIP.presets["standard"].iterations // LIGHT_STEPS)
    assert not full.in_passing
    assert full.planned == (30 if "settings" in asked else GIPIP.presets["standard"].iterations)


# What it means


def test_its_failure_in_passing_is_no_evidence_and_its_time_is_little() -> None:
    whole = entry(sample(False))
    passing = entry(sample(False), name="gi-pip", title="GI-PIP", in_passing=True)
    found = evidence([whole, passing], controls=CONTROLS)
    assert [effort.attack.name for effort in efforts(found)] == ["ig"]
    assert conclude(found, judge(found), "quick").status == "NOT SHOWN (budget)"
    full = GIPIP(GIPIP.presets["quick"])
    assert worth(full.tried_in_passing(), recovered=False) == IN_PASSING * worth(full, recovered=False)
    assert not full.in_passing, "the attack itself stays as it was"


BATCH_FILE = AuxiliaryEntry(source=AuxiliarySource.BATCH_FILE, samples=96, share=0.96)
NOBODYS = AuxiliaryEntry(source=AuxiliarySource.GENERATED, samples=256)


@pytest.mark.parametrize(
    ("alone", "auxiliary", "armed"), [(False, BATCH_FILE, True), (True, BATCH_FILE, False), (False, NOBODYS, False)]
)
def test_the_verdict_says_which_attacker_it_is_about(alone: bool, auxiliary: AuxiliaryEntry, armed: bool) -> None:
    ours = entry(sample(True), name="gi-pip", title="GI-PIP", threat_model="D", auxiliary=auxiliary)
    found = evidence([entry(sample(alone)), ours], controls=CONTROLS)
    verdict = conclude(found, judge(found), "standard")
    assert (", by an attacker who also holds 96 samples of the batch file" in verdict.headline) == armed
    assert ("only to an attacker who also holds 96 samples" in verdict.at_least) == armed
    assert ("the batch size alone" in verdict.at_least) != armed
    assert any(auxiliary.told in line for line in verdict.assumed)
