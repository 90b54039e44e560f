"""The cache: keys follow content, entries are private and whole, a damaged one counts as absent."""

from __future__ import annotations

import functools
import importlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import leakaudit
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.audit.cache import Cache, NotHashable, cache_directory, digest
from leakaudit.audit.memory import HELD, Memory, attack_once, run_key
from leakaudit.audit.request import Request
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe_step
from leakaudit.defences.clipping import Clipping
from leakaudit.defences.custom import UserChannel
from leakaudit.defences.frameworks.flower import FlatClipping
from leakaudit.defences.quantisation import SignMargin
from leakaudit.defences.survivors import Cut, DeadZone, LargestShare, Shifted, Support
from leakaudit.defences.units import Sent
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.observation import Chained, Channel, Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Reconstruction, SilentMonitor
from leakaudit.target.target import Target
from tests.conftest import small_mlp, smooth_images

KEY = digest("a value")
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
    assert cache.get(KEY) is None
    cache.put(KEY, {"tensor": torch.ones(2), "rest": [1, "x", None]})
    (entry,) = (tmp_path / "cache").glob("leakaudit-cache/*")
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE(entry.parent.stat().st_mode) == 0o700
    assert cache.get(KEY)["rest"] == [1, "x", None]
    entry.write_bytes(entry.read_bytes()[:50])
    assert cache.get(KEY) is None
    old = time.time() - 3600
    os.utime(entry, (old, old))
    assert cache.remove_old(7200) == 0
    assert cache.remove_old(60) == 1


def test_nothing_is_executed_by_reading(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, 1)
    assert cache.get(KEY) == 1
    entry = tmp_path / "leakaudit-cache" / f"{KEY}.entry"
    torch.save({"model": torch.nn.Linear(1, 1)}, entry)
    assert cache.get(KEY) is None
    torch.save(1, entry)
    assert cache.get(KEY) is None, "no pickle is an entry, whatever is in it"


def test_any_flipped_bit_makes_an_entry_absent(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    value = {"a": torch.arange(3.0), "b": [1, "x", None, (2.5, float("inf"))], 3: np.arange(2)}
    cache.put(KEY, value)
    (entry,) = tmp_path.glob("leakaudit-cache/*")
    whole = entry.read_bytes()
    for place in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        entry.write_bytes(changed)
        assert cache.get(KEY) is None, place
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert cache.get(KEY) is None, length
    entry.write_bytes(whole)
    found = cache.get(KEY)
    assert found["b"] == value["b"]
    assert torch.equal(found["a"], value["a"])


def test_an_entry_that_others_can_write_or_that_is_no_file_is_absent(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, 1)
    entry = cache.folder / f"{KEY}.entry"
    entry.chmod(0o666)
    assert cache.get(KEY) is None
    entry.chmod(0o600)
    assert cache.get(KEY) == 1
    entry.unlink()
    os.mkfifo(entry)
    assert cache.get(KEY) is None
    entry.unlink()
    entry.mkdir()
    assert cache.get(KEY) is None


def test_what_is_no_plain_value_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, {"model": torch.nn.Linear(1, 1)})
    assert list(tmp_path.rglob("*.entry")) == []


def test_an_unwritable_cache_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the cache") as caught:
        Cache(tmp_path / "file" / "cache").put(KEY, 1)
    assert "--no-cache" in caught.value.hint


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEAKAUDIT_CACHE_DIR", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.delenv("LEAKAUDIT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "leakaudit"


LONG_AGO = time.time() - 60 * 24 * 3600


def aged(path: Path, content: bytes = b"mine") -> Path:
    """A file that nobody touched for two months."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def test_only_entries_are_ever_removed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home").chmod(0o755)
    mine = [
        aged(tmp_path / "home" / place)
        for place in (
            "ab/thesis.txt", f"ab/{KEY[2:]}", f"{KEY}.pt", f"{KEY[:2]}/{KEY}.pt", f"leakaudit-cache/{KEY[:8]}.pt",
            "leakaudit-cache/notes.pt", f"leakaudit-cache/{KEY.upper()}.pt", f"leakaudit-cache/ab/{KEY}.pt",
            f"leakaudit-cache/.{KEY}.entry", "leakaudit-cache/unfinished-/x.part",
        )
    ]  # fmt: skip
    (tmp_path / "home" / "leakaudit-cache").chmod(0o750)
    cache = Cache(tmp_path / "home")
    cache.put(KEY, 1)
    names = (f"{digest(2)}.entry", f"{digest(3)}.pt", "unfinished-a1_b2.part")
    old = [tmp_path / "home/leakaudit-cache" / name for name in names]
    assert [aged(path).exists() for path in old] == [True, True, True]
    assert cache.remove_old() == 3
    assert [path.exists() for path in old] == [False, False, False]
    assert [path for path in mine if path.read_bytes() != b"mine"] == []
    assert cache.get(KEY) == 1
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "home/leakaudit-cache").stat().st_mode) == 0o750, "it was there before"


def test_a_scan_leaves_the_named_folder_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.cli.options.cache import cache_usable

    tmp_path.chmod(0o755)
    kept = [aged(tmp_path / "ab" / "thesis.txt"), aged(tmp_path / KEY[:2] / KEY[2:])]
    monkeypatch.setenv("LEAKAUDIT_CACHE_DIR", str(tmp_path))
    assert cache_usable()
    assert all(path.exists() for path in kept)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert (tmp_path / "leakaudit-cache").is_dir()


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = aged(tmp_path / "outside" / f"{KEY}.entry")
    os.utime(outside, (LONG_AGO, LONG_AGO))
    cache = Cache(tmp_path / "home")
    cache.put(digest("other"), 1)
    link = tmp_path / "home" / "leakaudit-cache" / f"{KEY}.entry"
    link.symlink_to(outside)
    os.utime(link, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    assert cache.get(KEY) is None, "a link is no entry"
    assert cache.remove_old() == 0
    assert link.is_symlink()
    cache.put(KEY, 2)
    assert outside.read_bytes() == b"mine", "the link was replaced, not written through"
    assert outside.stat().st_mtime == pytest.approx(LONG_AGO)


def test_a_folder_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    old = aged(tmp_path / "outside" / f"{KEY}.entry")
    (tmp_path / "leakaudit-cache").symlink_to(tmp_path / "outside")
    cache = Cache(tmp_path)
    with pytest.raises(UsageError, match="leakaudit-cache is a link or no folder"):
        cache.put(KEY, 1)
    assert cache.get(KEY) is None
    assert cache.remove_old() == 0
    assert old.read_bytes() == b"mine"


@pytest.mark.parametrize("way", ["mode", "owner"])
def test_a_folder_that_others_can_write_is_not_used(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from leakaudit.cli.options.cache import cache_usable

    cache = Cache(tmp_path)
    cache.put(KEY, 1)
    old = aged(cache.folder / f"{digest(2)}.entry")
    if way == "mode":
        cache.folder.chmod(0o777)
    else:
        monkeypatch.setattr("leakaudit.safety.ownership._trusted_users", lambda: {os.geteuid() + 1})
    assert cache.get(KEY) is None
    assert cache.remove_old() == 0
    with pytest.raises(UsageError, match="every user" if way == "mode" else "belongs to another user"):
        cache.put(KEY, 1)
    monkeypatch.setenv("LEAKAUDIT_CACHE_DIR", str(tmp_path))
    assert not cache_usable()
    shown = capsys.readouterr().err
    assert shown.startswith("Warning: nothing is cached, the cache's folder")
    assert shown.count("\n") == 1
    assert old.exists()
    assert stat.S_IMODE(cache.folder.stat().st_mode) == (0o777 if way == "mode" else 0o700)


@pytest.mark.parametrize("key", ["", "abcd", "../" * 20 + "x", KEY + "0", KEY.upper()])
def test_a_key_is_a_hash(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no hash"):
        Cache(tmp_path).put(key, 1)


@pytest.fixture
def observation(target: Target, samples: Batch, space: Images) -> Observation:
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
    asked = Request().key("run")
    known = run_key(IG(SETTINGS), target, observation, 7, asked)
    name = next(iter(observation.update))
    nudged = {**observation.update, name: observation.update[name] * (1 + 1e-6)}
    others = [
        run_key(IG(replace(SETTINGS, iterations=21)), target, observation, 7, asked),
        run_key(IG(SETTINGS), target, observation, 8, asked),
        run_key(IG(SETTINGS), target, observation, 7, Request(time_budget=60.0).key("run")),
        run_key(IG(SETTINGS), target, replace(observation, update=nudged), 7, asked),
        run_key(IG(SETTINGS), target, replace(observation, threat_model="D"), 7, asked),
        run_key(IG(SETTINGS), replace(target, frozen=(name,)), observation, 7, asked),
    ]
    with torch.no_grad():
        next(iter(target.parameters.values())).mul_(1 + 1e-6)
    others.append(run_key(IG(SETTINGS), target, observation, 7, asked))
    assert known is not None
    assert len({known, *others}) == 1 + len(others)


@pytest.mark.parametrize(
    "texts", [("clip=1.0,noise=0.01",), ("clip=0.01",), ("prune=0.9",), ("sign",), ("clip=0.01", "prune=0.5")]
)
def test_a_defended_client_is_attacked_once(
    texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What an attacker knows of a defence has a content, so its results are found again."""
    monkeypatch.setenv("LEAKAUDIT_CACHE_DIR", str(tmp_path))

    def scan() -> object:
        report = leakaudit.scan(
            small_mlp(),
            (smooth_images(6), np.arange(6) % 5),
            attacks=["ig"],
            settings={"ig": {"iterations": "15"}},
            preset="quick",
            victims=1,
            defences=texts,
            input_shape=(3, 12, 12),
            cache=True,
        )
        (entry,) = [attack for attack in report.attacks if attack.results]
        return entry.results

    first = scan()
    monkeypatch.setattr(IG, "run", attacked_again)
    assert scan() == first


def attacked_again(*_: object) -> Reconstruction:
    raise AssertionError("it is attacked again")


def test_every_channel_has_a_content() -> None:
    """A closure in the place of one would silently take the cache away."""
    update = {"w": torch.tensor([1.0, 0.0])}
    user = UserChannel("json:loads", json.loads)
    channels = [Clipping(1.0), Clipping(2.0), DeadZone.of(update), Support.of(update), SignMargin(update), user]
    channels += [Chained(channels[0], channels[1]), Cut(3.0), Shifted(Cut(3.0), update), LargestShare.of(update, 3.0)]
    channels += [Sent(Clipping(1.0), 0.5, update), FlatClipping(1.0)]
    ours = {kind for kind in every(Channel) if kind.__module__.startswith("leakaudit.")}
    assert {type(channel) for channel in channels} == ours
    assert len({digest(channel) for channel in channels}) == len(channels)
    assert digest(Clipping(1.0)) == digest(Clipping(1.0))
    assert all(isinstance(hash(channel), int) for channel in channels)


def every(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from every(child)


def test_a_users_function_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for factor in (1, 2):
        (tmp_path / "own_defence.py").write_text(f"def adapt(gradients):\n    return {factor}, gradients\n")
        sys.modules.pop("own_defence", None)
        importlib.invalidate_caches()
        found.append(digest(UserChannel("own_defence:defend", importlib.import_module("own_defence").adapt)))
    assert found[0] != found[1]


def test_a_memory_holds_few_objects_and_the_newest(tmp_path: Path) -> None:
    memory = Memory(Cache(tmp_path))
    for number in range(HELD + 2):
        memory.hold(number, "n", number)
    assert [memory.held("n", number) for number in range(HELD + 2)] == [None, None, *range(2, HELD + 2)]
    memory.hold(None, "n", 3)
    assert memory.held("n", 3) is None
    assert memory.within(Request(time_budget=5.0)).held("n", 4) == 4, "audits of one caller share what is held"
    assert Memory().store(1, "x") == ""
    assert memory.store({"a": 1}, "x") == ""
    assert Memory(Cache(tmp_path)).stored("x") == {"a": 1}


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
    assert not list(tmp_path.glob("leakaudit-cache/*"))


def test_what_ended_early_is_not_kept(target: Target, observation: Observation, tmp_path: Path) -> None:
    assert attack_once(IG(SETTINGS), target, observation, 7, Impatient(), Memory(Cache(tmp_path))).stopped
    assert not list(tmp_path.glob("leakaudit-cache/*"))
