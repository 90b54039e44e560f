"""Controls: each can fail, what failed takes claims back, and they keep to the budget and to Ctrl-C."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator

import leakaudit
from leakaudit.attacks.ig import IG
from leakaudit.attacks.registry import create
from leakaudit.audit.budget import Budget
from leakaudit.audit.controls import NEGATIVE_FAILED, control, without_information
from leakaudit.audit.memory import Memory
from leakaudit.audit.scene import Run, Scene
from leakaudit.audit.victim import Knowledge, attack_victim, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.document.schema import ControlEntry, Report
from leakaudit.domains.images import Images
from leakaudit.observation import Observation
from leakaudit.observer import SilentObserver
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Monitor, Reconstruction
from leakaudit.scoring.images import ImageMeasure
from leakaudit.target.target import Target
from tests.conftest import make_target, small_mlp, smooth_images

SHAPE = (3, 12, 12)


def scan(count: int = 20, images: np.ndarray | None = None, **options: object) -> Report:
    defaults: dict[str, object] = {
        "attacks": ["ig"], "settings": {"ig": {"iterations": "150", "search": "false"}}, "victims": 2, "mean": [0.5],
        "std": [0.25], "input_shape": SHAPE, "preset": "quick",
    }  # fmt: skip
    data = smooth_images(count) if images is None else images
    return leakaudit.scan(small_mlp(), (data, np.arange(len(data)) % 5), **{**defaults, **options})  # type: ignore[arg-type]


def by_kind(report: Report) -> dict[str, ControlEntry]:
    return {c.kind: c for c in report.controls}


def test_a_leak_passes_all_three_and_the_numbers_are_in_the_report() -> None:
    report = scan()
    assert report.verdict.status == "LEAKS (measured)"
    assert report.verdict.confidence == "measured"
    assert {c.kind: c.passed for c in report.controls} == {"positive": True, "negative": True, "prior_only": True}
    found = by_kind(report)
    assert found["positive"].numbers["reference"] == "mlp"
    assert found["positive"].numbers["margin"] > 10
    assert found["negative"].numbers == {"cases": 2, "passing_as_leak": 0, **{
        key: found["negative"].numbers[key] for key in ("psnr", "margin")
    }}  # fmt: skip
    assert found["negative"].numbers["margin"] < 3
    (sample,) = report.attacks[0].results[0].samples
    assert sample.floors["prior_only"].psnr is not None
    assert sample.psnr is not None
    assert sample.psnr > sample.floors["prior_only"].psnr + 10


def test_one_victim_gets_an_update_of_other_samples_or_of_generated_images() -> None:
    assert "the update of other samples" in by_kind(scan(victims=1))["negative"].detail
    assert "the update of generated images" in by_kind(scan(count=1, victims=1))["negative"].detail


def test_levels() -> None:
    report = scan(controls="none")
    assert report.controls == []
    assert report.attacks[0].results[0].samples[0].leaked
    assert report.verdict.confidence == "estimated"
    assert "LA957" in {f.id for f in report.findings}
    weak = scan(settings={"ig": {"iterations": "2", "search": "false"}})
    assert [c.kind for c in weak.controls] == ["positive"]  # nothing is claimed, so only whether it works is asked
    full = scan(settings={"ig": {"iterations": "2", "search": "false"}}, controls="full")
    assert [c.kind for c in full.controls] == ["negative", "prior_only", "positive"]


def test_an_attack_that_cannot_work_makes_the_verdict_inconclusive() -> None:
    report = scan(settings={"ig": {"learning_rate": "1e-12", "iterations": "50", "search": "false"}})
    assert report.verdict.status == "INCONCLUSIVE"
    assert by_kind(report)["positive"].passed is False
    assert "LA950" in {f.id for f in report.findings}


class Parrot(IG):
    """Always makes the same image, whatever the update says: a prior that knows the answer."""

    name = "ig"
    answer: torch.Tensor

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        return Reconstruction(self.answer.clone(), torch.tensor([0]), match=1.0)


@pytest.fixture
def scene(space: Images, samples: Batch) -> Scene:
    target = make_target(small_mlp(), SHAPE, 5)
    budget = Budget.of(SilentObserver(), None)
    return Scene(target, samples, space, ImageMeasure(samples), FedSGD(1), Knowledge(), budget, Memory(), "quick")


def parrot_run(scene: Scene, answer: int, victims: tuple[int, ...]) -> Run:
    attack = Parrot(create("ig", "quick").settings)
    attack.answer = scene.domain.encode(scene.samples.images[[answer]]) + 0.01
    monitor = scene.budget.share(1)
    observed = [
        observe_victim(scene.target, scene.samples.subset([i]), scene.protocol, scene.domain, Knowledge(), number)
        for number, i in enumerate(victims)
    ]
    return Run(attack, [attack_victim(attack, scene.target, v, scene.measure, 0, monitor, Memory()) for v in observed])


def test_what_the_prior_knows_is_no_leak(scene: Scene) -> None:
    run = parrot_run(scene, 3, (3,))
    assert run.claims
    (judged,), entries = control([run], scene)
    passed = {e.kind: e.passed for e in entries}
    assert passed == {"negative": False, "prior_only": False, "positive": False}
    assert not judged.claims
    assert judged.outcomes[0].scores[0].reason == NEGATIVE_FAILED


def test_the_prior_only_floor_alone_takes_the_claim_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.audit import controls

    monkeypatch.setattr(controls, "_take_back", lambda run: run)
    (judged,), _ = control([parrot_run(scene, 3, (3,))], scene)
    assert not judged.claims
    assert "margin" in judged.outcomes[0].scores[0].reason


def test_near_duplicates_are_no_wrong_batch(scene: Scene) -> None:
    """Two frames of one scene: what is made of one passes for the other, and that says nothing against the attack."""
    frames = scene.samples.images[[3]].repeat(6, 1, 1, 1)
    twins = Batch(torch.cat([scene.samples.images, frames]), torch.zeros(26, dtype=torch.long), tuple(range(26)))
    alike = replace(scene, samples=twins, measure=ImageMeasure(twins))
    run = parrot_run(alike, 3, (20, 21))
    _, entries = control([run], alike)
    assert "another victim's update" not in next(e.detail for e in entries if e.kind == "negative")


def test_noise_in_place_of_the_update_keeps_its_size_alone(scene: Scene) -> None:
    victim = observe_victim(scene.target, scene.samples.subset([0]), scene.protocol, scene.domain, Knowledge(), 0)
    seen = replace(victim.observation, start=torch.ones(1, *SHAPE))
    blind = without_information(seen, torch.Generator().manual_seed(0))
    assert blind.start is None
    for name, tensor in seen.update.items():
        assert float(blind.update[name].norm()) == pytest.approx(float(tensor.norm()), rel=1e-5)
        cosine = torch.nn.functional.cosine_similarity(blind.update[name].flatten(), tensor.flatten(), dim=0)
        assert abs(float(cosine)) < 0.9 if tensor.numel() < 100 else abs(float(cosine)) < 0.1


class Impatient(SilentObserver):
    """Interrupts as soon as the controls begin."""

    stop = False

    def stage(self, message: str) -> None:
        self.stop = self.stop or message == "controls"

    def interrupted(self) -> bool:
        return self.stop


def test_ctrl_c_ends_the_controls_and_caps_the_confidence() -> None:
    report = scan(observer=Impatient())
    assert {c.passed for c in report.controls} == {None}
    assert "interrupted" in report.controls[0].detail
    assert report.partial
    assert report.verdict.confidence == "estimated"


def test_a_spent_budget_ends_the_controls(scene: Scene) -> None:
    late = replace(scene, budget=Budget.of(SilentObserver(), 0.0))
    _, entries = control([parrot_run(scene, 3, (3,))], late)
    assert {e.detail for e in entries} == {"not run: time budget spent"}


def test_a_control_that_cannot_be_afforded_is_not_run(scene: Scene) -> None:
    """Neither a failure of the positive control for want of time, nor a pass of the prior-only one."""
    run = parrot_run(scene, 3, (3,))
    long = [replace(o, reconstruction=replace(o.reconstruction, seconds=50.0)) for o in run.outcomes]
    hurried = replace(scene, budget=Budget.of(SilentObserver(), 40.0))
    _, entries = control([replace(run, outcomes=long)], hurried)
    short = {e.kind: e.detail for e in entries if e.passed is None}
    assert short["prior_only"].startswith("not run: it takes about 50.0 s, and the time budget leaves 3")
