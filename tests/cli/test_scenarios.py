"""Scenarios with known truth, all through the command line: what leaks is said to leak, what does not is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import leakaudit
from leakaudit.attacks.ig import IG
from leakaudit.document.schema import Report
from leakaudit.reconstruction import Reconstruction
from tests.cli.build import CLASSES, export
from tests.cli.build import leakaudit as command
from tests.conftest import smooth_images
from tests.protocols.dishonest import OtherSamples

WITH_IG = ("--attack", "ig", "--set", "ig.iterations=250")
BOTH_KINDS = ("--attack", "linear", *WITH_IG)
COMMON = ("--preset", "quick", "--victims", 1, "--mean", "0.5", "--std", "0.25", "--format", "json")


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 32), nn.Sigmoid(), nn.Linear(32, CLASSES))
    return export(net, tmp_path_factory.mktemp("model") / "mlp.onnx")


def batch(path: Path, images: np.ndarray) -> Path:
    np.savez(path / "batch.npz", x=images, y=np.arange(len(images)) % CLASSES)
    return path / "batch.npz"


def scan(model: Path, images: np.ndarray, folder: Path, *options: object) -> tuple[int, str, Report]:
    code, out, err = command("scan", model, "-b", batch(folder, images), "-o", folder, *COMMON, *options)
    assert (folder / "report.json").exists(), err
    return code, out, Report.load(folder / "report.json")


def ids(report: Report) -> set[str]:
    return {finding.id for finding in report.findings}


def test_a_leaking_mlp_is_certified(leaking: Path, tmp_path: Path) -> None:
    code, out, report = scan(leaking, smooth_images(20), tmp_path, *BOTH_KINDS)
    assert code == 1
    assert out.startswith("LEAKS (certified)")
    assert {"LA203", "LA102", "LA103"} <= ids(report)
    assert {c.passed for c in report.controls} == {True}


def test_much_noise_shows_nothing_and_the_floors(leaking: Path, tmp_path: Path) -> None:
    code, out, report = scan(leaking, smooth_images(20), tmp_path, *WITH_IG, "--defence", "clip=1.0,noise=10")
    assert out.startswith(("NOT SHOWN (budget)", "BOUNDED"))
    assert code == 0
    assert not {i for i in ids(report) if i.startswith("LA2")}
    (sample,) = report.attacks[0].results[0].samples
    assert {"grey", "flat", "mean", "other"} <= set(sample.floors)
    assert sample.margin is not None
    assert sample.margin < 3
    assert [c.passed for c in report.controls] == [True]  # the attack works where there is no noise


def test_the_update_of_another_batch_is_no_finding(leaking: Path) -> None:
    report = leakaudit.scan(
        leaking, (smooth_images(20), np.arange(20) % CLASSES), protocol=OtherSamples(1), attacks=["linear", "ig"],
        settings={"ig": {"iterations": "250"}}, preset="quick", victims=1, mean=[0.5], std=[0.25],
    )  # fmt: skip
    assert report.verdict.status == "NOT SHOWN (budget)"
    assert not report.verdict.inconclusive
    assert not any(finding.fails for finding in report.findings)
    assert not {i for i in ids(report) if i.startswith("LA2")}


def test_a_broken_attack_is_inconclusive(leaking: Path, tmp_path: Path) -> None:
    idle = ("--set", "ig.iterations=50", "--set", "ig.learning_rate=1e-12", "--set", "ig.search=false")
    code, out, report = scan(leaking, smooth_images(20), tmp_path, "--attack", "ig", *idle)
    assert code == 5
    assert out.startswith("INCONCLUSIVE")
    assert "LA950" in ids(report)


def test_a_constant_image_is_no_leak_however_good_its_psnr(
    leaking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that returns the best constant, on images of hardly any contrast."""
    images = 0.3 + 0.01 * smooth_images(20) + np.linspace(0, 0.4, 20, dtype=np.float32)[:, None, None, None]

    def constant(self: IG, target: object, observation: object, generator: object, monitor: object) -> Reconstruction:
        order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
        colour = torch.from_numpy(images[int(order[0])]).mean((-2, -1), keepdim=True)
        return Reconstruction((colour.expand(3, 12, 12)[None] - 0.5) / 0.25, torch.tensor([0]), match=0.5)

    monkeypatch.setattr(IG, "run", constant)
    code, out, report = scan(leaking, images, tmp_path, "--attack", "ig")
    (sample,) = report.attacks[0].results[0].samples
    assert sample.psnr is not None
    assert sample.psnr > 40
    assert not sample.leaked
    assert not out.startswith("LEAKS")
    assert code == 5  # and it recovers no sample that is known to leak


def test_near_duplicates_are_said_so(leaking: Path, tmp_path: Path) -> None:
    """Frames of one scene: the update gives one of them away, and none in particular."""
    frames = smooth_images(1).repeat(20, 0) + 0.004 * np.random.default_rng(0).standard_normal((20, 3, 12, 12))
    code, out, report = scan(leaking, frames.clip(0, 1).astype(np.float32), tmp_path, "--attack", "linear")
    assert code == 1
    assert out.startswith("LEAKS (certified)")
    (sample,) = report.attacks[0].results[0].samples
    assert sample.near_duplicates == 19
    assert "up to 19 near-duplicate" in sample.reidentified_reason
    assert {"LA954", "LA956"} <= ids(report)


def test_a_weaker_threat_model_leaves_attacks_out_and_says_why(leaking: Path, tmp_path: Path) -> None:
    code, out, report = scan(leaking, smooth_images(20), tmp_path, "--threat-model", "A")
    assert code == 5
    assert out.startswith("NOT APPLICABLE (the threat model allows none")
    assert all("--threat-model A does not allow it" in a.reason for a in report.attacks)


def test_the_interval_and_given_distractors(leaking: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", x=smooth_images(130, seed=5))
    options = ("--attack", "linear", "--victims", 6, "--distractors", tmp_path / "more.npz")
    _, _, report = scan(leaking, smooth_images(20), tmp_path, *options)
    assert (report.verdict.samples_leaked, report.verdict.samples_attacked) == (6, 6)
    assert report.verdict.interval is not None
    assert report.verdict.interval[0] == pytest.approx(0.025 ** (1 / 6))
    (first, *_) = report.attacks[0].results
    assert (first.samples[0].rank_among, first.samples[0].augmented) == (150, 0)
    assert "LA954" not in ids(report)
