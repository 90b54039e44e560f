"""GradInversion uses BatchNorm statistics: those that the client shares, else those that the model holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.gradinversion import BASE, GradInversion
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.domains.images import Images
from leakaudit.matching.descent import Progress
from leakaudit.matching.engine import GradientMatching, solve
from leakaudit.matching.priors import BatchStatistics
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import NotApplicable, SilentMonitor
from leakaudit.target.target import Target
from tests.cli.build import export
from tests.cli.build import leakaudit as command
from tests.conftest import smooth_images
from tests.matching.build import psnr

SHORT = replace(BASE, iterations=150, restarts=2, tv_weight=1e-4)
SHAPE = (3, 12, 12)


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))


def sharing(samples: Batch, space: Images) -> tuple[Target, Observation]:
    target = leakaudit.load(network(), mode="train", image_shape=SHAPE, share_bn_statistics="batch")
    seen = observe(target, samples, FedSGD(len(samples), "train", shared_statistics="batch"), space)
    return target, replace(seen, labels=samples.labels, label_source="given", threat_model="E")


def test_statistics_bring_the_guess_nearer(samples: Batch, space: Images) -> None:
    victim = samples.subset([0, 3])
    target, observation = sharing(victim, space)

    def quality(weight: float) -> float:
        attack = GradInversion(replace(SHORT, statistics_weight=weight))
        return psnr(space, attack(target, observation, cpu_generator(0)).inputs, victim)

    assert quality(1e-2) > quality(0.0) + 1


def test_the_step_with_the_prior_is_the_same_in_all_modes(samples: Batch, space: Images) -> None:
    victim = samples.subset([0, 3])
    target, observation = sharing(victim, space)
    prior = BatchStatistics(target, observation.batch_statistics or {}, 1e-2)
    guesses = [{"inputs": torch.randn(2, *SHAPE, generator=cpu_generator(seed))} for seed in (0, 1)]

    def end(mode: str) -> torch.Tensor:
        settings = replace(SHORT, iterations=15, execution=mode)
        problem = GradientMatching(target, observation, victim.labels, settings, priors=[prior])
        solutions, facts = solve(problem, guesses, cpu_generator(0), Progress(SilentMonitor()))
        assert facts == ()
        return torch.stack([solution.values["inputs"] for solution in solutions])

    torch.testing.assert_close(end("traced"), end("eager"), rtol=1e-3, atol=1e-4)


def test_says_what_it_needs(samples: Batch, space: Images, target: Target) -> None:
    attack, victim = GradInversion(GradInversion.presets["quick"]), samples.subset([0])

    def reason(target: Target) -> str:
        refusal = attack.applies(target, observe(target, victim, FedSGD(1), space))
        return refusal.reason if isinstance(refusal, NotApplicable) else ""

    assert "no BatchNorm" in reason(target)
    module = network()
    assert "--share-bn-statistics" in reason(leakaudit.load(module, image_shape=SHAPE))
    module[1].running_mean.add_(0.1)  # type: ignore[index,union-attr,operator]
    assert reason(leakaudit.load(module, image_shape=SHAPE)) == ""


@pytest.mark.parametrize("shared", ["batch", "running", "none"])
def test_runs_from_the_command_line(shared: str, tmp_path: Path) -> None:
    module = network()
    module[1].running_mean.add_(0.1)  # type: ignore[index,union-attr,operator]
    model = export(module, tmp_path / "net.onnx")
    np.savez(tmp_path / "batch.npz", x=smooth_images(8), y=np.arange(8) % 5)
    code, _, err = command(
        "scan", model, "-b", tmp_path / "batch.npz", "-o", tmp_path / "r", "-f", "json", "--mode", "train",
        "--share-bn-statistics", shared, "--batch-size", 2, "--victims", 1, "--attack", "ig",
        "--attack", "gradinversion", "--set", "ig.iterations=5", "--set", "gradinversion.iterations=5",
        "--fail-on", "never", "--mean", 0.5, "--std", 0.25, "--preset", "quick", "--controls", "none",
    )  # fmt: skip
    assert code == 5, err  # five iterations show nothing
    document = json.loads((tmp_path / "r" / "report.json").read_text())
    ig, attack = document["attacks"][:2]
    assert document["protocol"]["shared_statistics"] == shared
    assert attack["status"] == "run", attack["reason"]
    assert attack["threat_model"] == ("B" if shared == "none" else "E")
    assert ("held by the model" if shared == "none" else "shared by the client") in attack["results"][0]["notes"][0]
    assert ("1 BatchNorm layer" in attack["given"]["batch_statistics"]) == (shared != "none")
    assert (ig["threat_model"], ig["given"]["batch_statistics"]) == ("B", "none")


def test_eval_mode_has_nothing_to_share(tmp_path: Path) -> None:
    model = export(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "batch.npz", x=smooth_images(8), y=np.arange(8) % 5)
    code, _, err = command("scan", model, "-b", tmp_path / "batch.npz", "--share-bn-statistics", "batch")
    assert code == 2
    assert "--mode train" in err


def test_the_train_config_may_say_so(tmp_path: Path) -> None:
    from leakaudit.target.train_config import read_train_config

    (tmp_path / "train.toml").write_text('mode = "train"\nshare_bn_statistics = "running"\n')
    target = leakaudit.load(network(), image_shape=SHAPE, **read_train_config(tmp_path / "train.toml"))
    assert target.shared_statistics == "running"
