"""The cache: keys follow content, entries are private and whole, a damaged one counts as absent."""

from __future__ import annotations

import functools
import os
import stat
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.audit.cache import Cache, NotHashable, cache_directory, digest
from leakaudit.audit.memory import Memory, attack_once, run_key
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe_step
from leakaudit.errors import UsageError
from leakaudit.observation import InputSpace, Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Reconstruction, SilentMonitor
from leakaudit.target.target import Target

SETTINGS = IGSettings(iterations=20, restarts=1)


@dataclass(frozen=True)
class Point:
    x: float
    tensor: torch.Tensor

    def move(self) -> None: ...


def test_digests_follow_content_not_identity() -> None:
    one = torch.arange(6.0).reshape(2, 3)
    assert digest(one.t()) == digest(one.t().contiguous())
    assert digest({"a": 1, "b": one}) == digest({"b": one.clone(), "a": 1})
    assert digest(Point(1.0, one)) == digest(Point(1.0, one.clone()))
    values = [1, 1.0, "1", True, None, (1,), [1], b"1", one, one.double(), one.reshape(3, 2), one + 1, Point(2.0, one)]
    assert len({digest(v) for v in values}) == len(values)
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(functools.partial(print_nothing, 1)) != digest(functools.partial(print_nothing, 2))
    assert digest(Point(1.0, one).move) != digest(Point(3.0, one).move)


def print_nothing(number: int) -> None: ...


def test_what_has_no_content_is_refused() -> None:
    with pytest.raises(NotHashable):
        digest(lambda: 1)
    with pytest.raises(NotHashable):
        digest(object())


def test_entries_are_whole_private_and_disposable(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.get("abcd") is None
    cache.put("abcd", {"tensor": torch.ones(2), "rest": [1, "x", None]})
    (entry,) = (tmp_path / "cache").glob("??/*")
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert cache.get("abcd")["rest"] == [1, "x", None]
    entry.write_bytes(entry.read_bytes()[:50])
    assert cache.get("abcd") is None
    old = time.time() - 3600
    os.utime(entry, (old, old))
    assert cache.remove_old(7200) == 0
    assert cache.remove_old(60) == 1


def test_nothing_is_executed_by_reading(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    path = tmp_path / "ab" / "cd"
    path.parent.mkdir()
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    assert cache.get("abcd") is None


def test_an_unwritable_cache_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the cache") as caught:
        Cache(tmp_path / "file" / "cache").put("abcd", 1)
    assert "--no-cache" in caught.value.hint


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEAKAUDIT_CACHE_DIR", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.delenv("LEAKAUDIT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "leakaudit"


@pytest.fixture
def observation(target: Target, samples: Batch, space: InputSpace) -> Observation:
    (batch,) = samples.draw(1, 1, 0)
    seen, _ = observe_step(target, batch, FedSGD(batch_size=1), space, 0)
    return replace(seen, labels=batch.labels, label_source="given")


def equal(one: Reconstruction, other: Reconstruction) -> bool:
    def tensors(r: Reconstruction) -> list[torch.Tensor]:
        return [r.inputs, r.labels, *(s.inputs for s in r.snapshots)]

    def numbers(r: Reconstruction) -> tuple[object, ...]:
        return r.match, r.residual, r.history, r.iterations, r.notes

    same = (torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    return numbers(one) == numbers(other) and all(same)


def test_a_result_is_made_once(target: Target, observation: Observation, tmp_path: Path) -> None:
    cache, attack = Cache(tmp_path), IG(SETTINGS)
    plain = attack(target, observation, cpu_generator(7))
    memory = Memory(cache)
    first = attack_once(attack, target, observation, 7, SilentMonitor(), memory)
    again = attack_once(attack, target, observation, 7, SilentMonitor(), memory)
    other = attack_once(attack, target, observation, 8, SilentMonitor(), memory)
    assert equal(plain, first)
    assert equal(first, again)
    assert first.seconds == again.seconds, "a run of its own would have taken another time"
    assert other.seconds != first.seconds
    outside = attack_once(attack, target, observation, 7, SilentMonitor(), Memory())
    assert equal(outside, first)
    assert outside.seconds != first.seconds


def test_whatever_a_result_depends_on_changes_its_key(target: Target, observation: Observation) -> None:
    known = run_key(IG(SETTINGS), target, observation, 7, None)
    name = next(iter(observation.update))
    nudged = {**observation.update, name: observation.update[name] * (1 + 1e-6)}
    others = [
        run_key(IG(replace(SETTINGS, iterations=21)), target, observation, 7, None),
        run_key(IG(SETTINGS), target, observation, 8, None),
        run_key(IG(SETTINGS), target, observation, 7, 60.0),
        run_key(IG(SETTINGS), target, replace(observation, update=nudged), 7, None),
        run_key(IG(SETTINGS), target, replace(observation, threat_model="D"), 7, None),
        run_key(IG(SETTINGS), replace(target, frozen=(name,)), observation, 7, None),
    ]
    with torch.no_grad():
        next(iter(target.parameters.values())).mul_(1 + 1e-6)
    others.append(run_key(IG(SETTINGS), target, observation, 7, None))
    assert known is not None
    assert len({known, *others}) == 1 + len(others)


class Impatient(SilentMonitor):
    def should_stop(self) -> bool:
        return True


class Hurried(SilentMonitor):
    def seconds_left(self) -> float | None:
        return 0.01


def test_what_was_planned_shorter_is_not_kept(target: Target, observation: Observation, tmp_path: Path) -> None:
    attack = IG(replace(SETTINGS, iterations=100_000))
    result = attack_once(attack, target, observation, 7, Hurried(), Memory(Cache(tmp_path), 60.0))
    assert result.iterations < 100_000
    assert not result.stopped
    assert not list(tmp_path.glob("??/*"))


def test_what_ended_early_is_not_kept(target: Target, observation: Observation, tmp_path: Path) -> None:
    assert attack_once(IG(SETTINGS), target, observation, 7, Impatient(), Memory(Cache(tmp_path))).stopped
    assert not list(tmp_path.glob("??/*"))
