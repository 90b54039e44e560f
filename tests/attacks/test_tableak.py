"""TabLeak: the relaxation, the pooling, and what it adds to gradient matching on a small table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.reading.levels import occurring
from leakaudit.attacks.tableak import TabLeak, TabLeakSettings, pool
from leakaudit.audit.victim import Knowledge, observe_victim
from leakaudit.matching.relaxed import Relaxation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.scoring.table import RowScore, TableMeasure
from tests.tables import TABLE, private, table_target


def test_a_relaxed_guess_is_one_of_the_domain() -> None:
    free = 5 * torch.randn((4, *TABLE.shape), generator=cpu_generator(0))
    guess = Relaxation(TABLE, free, 1.0)(free)
    low, high = TABLE.box(guess)
    assert bool(((guess >= low) & (guess <= high)).all())
    for start, stop in TABLE.blocks:
        assert torch.allclose(guess[..., start:stop], free[..., start:stop].softmax(-1), atol=1e-6)
    assert float(guess[0, 0, 0, 21]) == pytest.approx(float(torch.sigmoid(free[0, 0, 0, 21])), abs=1e-6)
    large = Relaxation(TABLE, free, 1.0)(1000 * free)
    assert bool(torch.isfinite(large).all())


def test_starts_are_matched_and_their_median_is_taken() -> None:
    truth = TABLE.encode(private().images[:4])
    wrong = truth.clone()
    wrong[..., 9:21] = wrong[..., 9:21].roll(1, -1)
    results = [truth, truth[[2, 0, 3, 1]], wrong[[3, 2, 1, 0]]]
    pooled, sure = pool(TABLE, results)
    assert torch.equal(pooled, truth)
    assert bool((sure[..., 9:21] < 0.9).all())
    assert bool((sure[..., :9] > 0.99).all())


def test_it_reads_most_cells_and_says_of_which_it_is_sure() -> None:
    target, file = table_target(), private()
    batch = file.subset(range(2))
    victim = observe_victim(target, batch, FedSGD(2, target.mode), TABLE, Knowledge(), 0)
    attack = TabLeak(TabLeakSettings(iterations=250, restarts=3, execution="traced"))
    found = attack(target, victim.observation, cpu_generator(0))
    assert torch.equal(TABLE.finish(found.inputs), found.inputs)
    assert found.confidence is not None
    assert found.confidence.shape == found.inputs.shape
    assert bool(((found.confidence >= 0) & (found.confidence <= 1)).all())
    measure = TableMeasure(file, TABLE)
    scores = measure.score(batch, measure.recovered(TABLE, found))
    share = sum(s.match.cell_accuracy for s in scores if isinstance(s, RowScore)) / 2
    floor = sum(max(f.cell_accuracy for f in s.floors.values()) for s in scores if isinstance(s, RowScore)) / 2
    assert share > floor + 0.15
    assert any("3 starts pooled" in note for note in found.notes)


def test_settings_that_cannot_be() -> None:
    for settings in ({"temperature": 0.0}, {"optimizer": "lbfgs"}):
        with pytest.raises(ValueError, match="must be"):
            TabLeakSettings(**settings)  # type: ignore[arg-type]


def test_levels_without_a_gradient_are_those_that_no_row_has() -> None:
    target, batch = table_target(), private().subset(range(4))
    victim = observe_victim(target, batch, FedSGD(4, target.mode), TABLE, Knowledge(), 0)
    found = occurring(target, victim.observation)
    assert found is not None
    entries = TABLE.encode(batch.images).flatten(1)
    for start, stop in TABLE.blocks:
        assert found[start:stop].tolist() == (entries[:, start:stop] == 1).any(0).tolist()
    guess = Relaxation(TABLE, entries, 1.0, found)(torch.zeros(4, *TABLE.shape))
    assert float(guess[..., ~found].abs().max()) == 0
    for start, stop in TABLE.blocks:
        assert torch.allclose(guess[..., start:stop].sum(-1), torch.ones(4, 1, 1))
    assert occurring(target, replace(victim.observation, noise=0.1)) is None
    assert occurring(target, replace(victim.observation, pruned=True)) is None
    settings = TabLeakSettings(iterations=3, restarts=1, execution="eager")
    absent = int((~found).sum())
    assert f"{absent} levels" in TabLeak(settings)(target, victim.observation, cpu_generator(0)).notes[-1]
    without = TabLeak(replace(settings, occurring=False))(target, victim.observation, cpu_generator(0))
    assert "levels" not in without.notes[-1]
