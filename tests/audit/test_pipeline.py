"""The pipeline: what each attack is given, dropout on the client's side only, and a model that cannot be traced."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.attacks.registry import available, create
from leakaudit.audit.environment import seed_of
from leakaudit.audit.pipeline import audit
from leakaudit.audit.request import Request
from leakaudit.audit.victim import Victim
from leakaudit.client.batch import Batch
from leakaudit.client.observe import NoTraceError, observe, observe_step
from leakaudit.domains.images import Images
from leakaudit.errors import AuditError, BatchError, UsageError
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Reconstruction
from leakaudit.target.target import Target
from leakaudit.tasks.base import LabelGuess
from tests.audit.build import SHAPE, scan
from tests.conftest import make_target, small_mlp, smooth_images


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 64), nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 5))


def test_dropout_is_on_for_the_client_alone(space: Images, samples: Batch) -> None:
    target = leakaudit.load(with_dropout(), mode="train", image_shape=SHAPE)
    victim, protocol = samples.subset([0]), FedSGD(1, "train")
    first, masks = observe_step(target, victim, protocol, space, seed=1)
    again, _ = observe_step(target, victim, protocol, space, seed=1)
    other, _ = observe_step(target, victim, protocol, space, seed=2)
    ((mask,),) = (step.values() for step in masks)
    assert 0 < float(mask.mean()) < 1
    assert first.masks is None
    for name, gradient in first.update.items():
        assert torch.equal(gradient, again.update[name])
    assert any(not torch.equal(g, other.update[n]) for n, g in first.update.items())
    inputs = space.encode(victim.images)
    assert torch.equal(target.logits(inputs), target.logits(inputs))  # no dropout on the attacker's side


def test_the_masks_reach_only_the_declared_upper_bound() -> None:
    settings = {name: {"iterations": "20"} for name in ("ig", "wia")}
    report = scan(with_dropout(), mode="train", attacks=["ig", "wia"], settings=settings)
    given = {a.name: a.given["dropout_masks"] for a in report.attacks if a.status == "run"}
    assert given == {"ig": "none", "wia": "true masks"}
    assert [a.name for a in report.attacks if a.upper_bound] == ["wia"]
    assert report.protocol.mode == "train"


def test_attacks_that_do_not_apply_say_why() -> None:
    report = scan(small_mlp(), attacks=["wia", "ig"])
    (wia,) = [a for a in report.attacks if a.name == "wia"]
    assert wia.status == "not_applicable"
    assert "eval mode" in wia.reason


def test_an_update_without_a_trace_is_refused(space: Images, samples: Batch) -> None:
    module = small_mlp()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(float("inf"))
    with pytest.raises(AuditError, match="NaN or infinite"):
        observe(make_target(module, SHAPE, 5), samples.subset([0]), FedSGD(1), space)


class Untraceable(nn.Module):
    """Branches on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if float(x.detach().sum()) > -1e9 else -self.inner(x)


def test_a_model_that_branches_is_still_audited() -> None:
    report = scan(Untraceable())
    assert report.attacks[0].status == "run"


def test_seeds_are_independent() -> None:
    seeds = {seed_of(s, purpose, n) for s in range(3) for purpose in ("client", "ig") for n in range(3)}
    assert len(seeds) == 18
    assert all(0 <= s < 2**63 for s in seeds)


def test_too_few_samples() -> None:
    with pytest.raises(UsageError, match="need 20 samples"):
        scan(small_mlp(), batch_size=10, victims=2)


def test_auxiliary_images_reach_attacks_that_may_have_them_and_never_hold_the_answer(tmp_path: Path) -> None:
    np.savez(tmp_path / "public.npz", x=smooth_images(30, seed=9))
    settings = {"ig": {"iterations": "10"}, "gi-pip": {"iterations": "10", "training_steps": "5"}}
    report = scan(small_mlp(), attacks=["ig", "gi-pip"], settings=settings, auxiliary=tmp_path / "public.npz")
    assert {a.name: a.given["auxiliary_data"] for a in report.attacks if a.status == "run"} == {
        "ig": "none",
        "gi-pip": "30 public samples",
    }
    np.savez(tmp_path / "private.npz", x=smooth_images(12)[3:5])
    with pytest.raises(BatchError, match="2 of 12 private samples are among the auxiliary images, first sample 3"):
        scan(small_mlp(), auxiliary=tmp_path / "private.npz")


def test_attacks_that_were_not_asked_for_stay_in_the_ledger() -> None:
    report = scan(small_mlp())
    assert {a.name for a in report.attacks} == set(available())
    (dlg,) = [a for a in report.attacks if a.name == "dlg"]
    assert dlg.status == "not_run"
    assert "--attack dlg" in dlg.reason


def test_victims_without_a_trace_are_counted_not_attacked(samples: Batch, space: Images) -> None:
    module = small_mlp()
    with torch.no_grad():
        module[3].bias.copy_(torch.tensor([1e4, 0, 0, 0, 0]))  # type: ignore[index]
    target = make_target(module, SHAPE, 5)  # saturated: class 0 is certain, so samples of class 0 have gradient zero
    with pytest.raises(NoTraceError):
        observe(target, samples.subset([0]), FedSGD(1), space)
    report = scan(module, victims=12)
    assert report.batch.victims == len(report.attacks[0].results) == 9
    assert any("3 more victims" in note for note in report.batch.notes)


def test_an_incomplete_closed_form_result_is_where_optimisation_starts(space: Images, samples: Batch) -> None:
    target = make_target(small_mlp(), SHAPE, 5)
    observation = observe(target, samples.subset([0]), FedSGD(1), space)
    guess = LabelGuess(torch.tensor([0]), "test", True)
    victim = Victim(0, samples.subset([0]), observation, guess)
    found = Reconstruction(torch.ones(1, *SHAPE), torch.tensor([0]), match=0.1, residual=0.2)
    closed, search = create("linear", "quick"), create("ig", "quick")
    for useless in (replace(found, residual=0.9), replace(found, exact=True)):
        assert victim.after(closed, useless) is victim
    assert victim.after(search, found) is victim
    later = victim.after(closed, found).after(closed, replace(found, inputs=-found.inputs, residual=0.3))
    assert torch.equal(later.seen_by(search).start, found.inputs)  # type: ignore[arg-type]
    assert later.seen_by(closed).start is None
    assert victim.seen_by(search).start is None, "a victim does not grow: what is handed on is another value"


def test_an_attack_is_asked_for_every_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.attacks.ig import IG
    from leakaudit.reconstruction import NotApplicable

    answers = itertools.cycle([None, NotApplicable("this one is odd"), None])  # asked for the plan, too
    monkeypatch.setattr(IG, "applies", lambda *_: next(answers))
    ig = scan(small_mlp(), victims=3, controls="none").attacks[0]
    assert ig.status == "run"
    assert [r.victim for r in ig.results] == [0, 2]
    assert ig.reason == "victim 1: this one is odd"


def test_the_report_names_batchnorm_and_dropout_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(400, 5)
    )
    target = scan(net).target
    assert len(target.batchnorm_layers) == 1
    assert target.dropout_layers == ["4"]
    assert any("convolution" in layer for layer in target.layers)


def test_the_report_has_a_residual_for_every_tensor(target: Target, samples: Batch, space: Images) -> None:
    request = Request(victims=1, attacks=("linear",), controls="none")
    report = audit(replace(target, domain=space), samples, request)
    (entry,) = [a for a in report.attacks if a.results]
    residuals = entry.results[0].residuals
    assert set(residuals) == set(target.parameters)
    assert all(value is not None and value < 1e-3 for value in residuals.values())
