"""The rank-against-attack measurement: it runs from end to end, stops politely, and its statistics are right."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import spearmanr

from tests.conftest import ROOT, smooth_images


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module, on twelve synthetic images in place of CIFAR-10."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("rank_vs_attack")
    (tmp_path / "images").mkdir()
    pixels = (smooth_images(12, side=32) * 255).astype(np.uint8)
    np.savez(tmp_path / "images" / "cifar10_test.npz", x=pixels, y=np.arange(12) % 10)
    monkeypatch.setattr(importlib.import_module("networks"), "DATA", tmp_path)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def narrow(bench: ModuleType) -> list[object]:
    """A full-rank chain, a deficient chain, and a pooled network with a biased head."""
    wide = bench.Conv(12, 4, 2, False, "leaky")
    thin = bench.Conv(2, 3, 2, False, "leaky")
    pooled = bench.Conv(4, 3, 2, True, "gelu", "max")
    return [
        bench.Architecture("chain", (wide,), 0, True),
        bench.Architecture("chain", (thin,), 0, True),
        bench.Architecture("mixed", (pooled,), 32, True),
    ]


def test_measures_three_architectures_and_writes_the_tables(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets = narrow(bench)
    monkeypatch.setattr(bench, "architectures", lambda count, seed: nets[:count])
    out, raw = tmp_path / "deep" / "table.md", tmp_path / "rows.jsonl"
    options = ["--architectures", "3", "--runs", "1", "--steps", "5", "--out", str(out), "--raw", str(raw)]
    result = CliRunner().invoke(bench.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    text = out.read_text(encoding="utf-8")
    assert "Partial" not in text
    assert all(str(net) in text for net in nets)
    full, deficient, pooled = (json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines())
    assert full["errors"]["R-GAP"][0] < 1e-9
    assert full["scores"]["1 − score (with RA_J)"] == 0
    assert deficient["errors"]["R-GAP"][0] > bench.LEAK
    assert deficient["scores"]["Σ deficit"] > 0
    assert pooled["errors"]["R-GAP"] == [None]
    assert pooled["errors"]["IG"][0] is not None


def test_an_interrupt_leaves_a_table_that_says_it_is_partial(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def measure(architecture: object, *rest: object) -> object:
        calls.append(architecture)
        if len(calls) == 2:
            raise KeyboardInterrupt
        errors = {"R-GAP": [1e-12], "IG": [0.1], "L-BFGS": [0.1]}
        names = ("1 − score (with RA_J)", "RA_prop", "RA_J", "Σ deficit", bench.BASELINE)
        return bench.Row(str(architecture), "chain", 100, False, dict.fromkeys(names, 0.0), errors)

    monkeypatch.setattr(bench, "measure", measure)
    out = tmp_path / "table.md"
    result = CliRunner().invoke(bench.main, ["--architectures", "4", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 130
    assert "Partial: interrupted after 1 of 4 architectures" in out.read_text(encoding="utf-8")


def test_architectures_follow_the_seed_and_have_both_families(bench: ModuleType) -> None:
    drawn = bench.architectures(12, 3)
    assert drawn == bench.architectures(12, 3)
    assert drawn != bench.architectures(12, 4)
    assert [net.family for net in drawn].count("mixed") == 4
    for net in drawn:
        target = net.build(0)
        assert target.logits(torch.zeros(1, *bench.SPACE.shape)).shape == (1, 10)


def test_correlations_agree_with_scipy_and_with_the_textbook_formula(bench: ModuleType) -> None:
    random = np.random.default_rng(0)
    x, y, z = random.integers(0, 12, size=(3, 50)).astype(float)
    expected = spearmanr(x, y).statistic
    assert bench.spearman(x, y) == pytest.approx(expected, abs=1e-12)
    xz, yz = spearmanr(x, z).statistic, spearmanr(y, z).statistic
    textbook = (expected - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5
    assert bench.partial(x, y, z) == pytest.approx(textbook, abs=1e-10)
    assert np.isnan(bench.spearman(np.ones(50), y))
    low, high = bench.interval(bench.spearman, x, y)
    assert low < expected < high


def test_auc_counts_ties_half(bench: ModuleType) -> None:
    leaked = np.array([True, True, False, False])
    assert bench.auc(np.array([0.0, 1.0, 1.0, 2.0]), leaked) == pytest.approx(3.5 / 4)
    assert np.isnan(bench.auc(np.zeros(4), np.ones(4, dtype=bool)))
