"""Documents and settings that are fuzzed: reports, policies, entries of caches and of a sweep's store."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.mutate import Draw, changed_archive, changed_json, damaged
from tests.fuzz.subject import Files, Subject, damage_text, no_file, written


@cache
def report_files() -> Files:
    """The document of an audit, and one with every field filled."""
    from tests.report.builder import build as report

    return [("report.json", report().to_json().encode())]


def damage_report(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """Mostly its values, sometimes its bytes."""
    if draw.random() < 0.15:
        return written(folder, name, damaged(content, draw))
    text = json.dumps(changed_json(json.loads(content), draw), ensure_ascii=draw.random() < 0.5)
    return written(folder, name, text.encode("utf-8", "replace"))


def read_report(path: Path) -> None:
    """As ``render``, ``compare`` and ``verify`` do."""
    from leakaudit.document.redact import redact
    from leakaudit.document.verify import check_self
    from leakaudit.policy.compare import Setup, compare_findings, differences
    from leakaudit.report.saving import Report

    check_self(path)
    report = Report.load(path)
    Setup.of(report).differs(Setup.of(report))
    compare_findings(report.findings, report.findings)
    differences(report, report)
    out = path.parent / "out"
    for level in ("full", "blurred", "none"):
        shown = redact(report, level)  # type: ignore[arg-type]
        for kind in ("sarif", "junit", "markdown", "csv", *(("html",) if level == "none" else ())):
            _rendered(shown, kind, out)


def _rendered(report: Any, name: str, out: Path) -> None:
    from leakaudit.document.paths import short_paths
    from leakaudit.report.formats.base import Rendering
    from leakaudit.report.formats.registry import chosen

    for kind in chosen((name,)):
        kind.content(Rendering(short_paths(report), None, "pdf/ua-1"))


@cache
def policy_files() -> Files:
    """Policies and settings of clients, in TOML."""
    from leakaudit.cli.init import TEMPLATE

    written = re.compile(r"# (?=[\w-]+ = |\[\[)")
    whole = "\n".join(written.sub("", line) for line in TEMPLATE.split("\n"))
    train = (
        'mode = "train"\nfrozen = ["a.*"]\nloss = "bce"\nlearning_rate = 0.1\nlocal_epochs = 2\nnesterov = true\n'
        'optimizer = "sgd"\n[dropout]\n"/relu" = 0.5\n'
    )
    shared = "[tool.leakaudit]\nfail-on = 'low'\n[tool.leakaudit.rules]\nLA301 = 'never'\n[tool.other]\nx = 1\n"
    return [
        ("leakaudit.toml", TEMPLATE.encode()), ("leakaudit.toml", whole.encode()), ("pyproject.toml", shared.encode()),
        ("train.toml", train.encode()),
    ]  # fmt: skip


def read_settings(path: Path) -> None:
    """As ``--policy`` and ``--train-config`` do, the first also where it was found and not named."""
    import click

    from leakaudit.cli import cli
    from leakaudit.cli.scan import scan
    from leakaudit.policy.read import find_policy, read_policy
    from leakaudit.target.train_config import read_train_config

    if path.name == "train.toml":
        read_train_config(path)
        return
    find_policy(path.parent)
    read_policy(path)
    with click.Context(cli, info_name="leakaudit") as parent:
        scan.make_context("scan", ["m.onnx", "--batch", "b.npz", "--policy", str(path)], parent=parent)


@cache
def cache_files() -> Files:
    """An entry of a cache."""
    import tempfile

    from leakaudit.audit.cache import Cache

    with tempfile.TemporaryDirectory() as place:
        store = Cache(Path(place))
        store.put("0" * 64, {"x": torch.arange(4.0), "y": [1, "a", (2, None)]})
        (entry,) = store.folder.iterdir()
        return [(entry.name, entry.read_bytes())]


def damage_entry(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By bytes, in the folder of a cache."""
    (folder / "leakaudit-cache").mkdir(mode=0o700)
    return written(folder / "leakaudit-cache", name, damaged(content, draw))


def read_entry(path: Path) -> None:
    """As a scan does; what comes back is the value or nothing."""
    from leakaudit.audit.cache import Cache

    value = Cache(path.parents[1]).get("0" * 64)
    assert value is None or value["y"] == [1, "a", (2, None)]


@cache
def sweep_files() -> Files:
    """Sweeps of small grids."""
    one = (
        '[scan]\nbatch = "b.npz"\npreset = "quick"\n[grid]\nmodel = ["*.onnx", "a.onnx"]\nmode = ["eval", "train"]\n'
        'defence = ["", "prune=0.9", ["clip=1.0", "sign"]]\nseed = [0, 1]\n[[cell]]\nmodel = "late.onnx"\nseed = 7\n'
    )
    two = (
        '[scan]\nmodel = "a.onnx"\nbatch = "b.npz"\nlearning-rate = 0.1\ntrain-config = "train.toml"\n'
        'mean = [0.5, 0.5, 0.5]\nset = ["ig.steps=3"]\n[grid]\nlocal-epochs = [1, 2]\n'
        'attack = [["ig", "dlg"], "linear"]\n'
    )
    return [("one.toml", one.encode()), ("two.toml", two.encode())]


def damage_sweep(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By lines and values, beside files that it may name."""
    written(folder, "a.onnx", b"")
    written(folder, "train.toml", b'mode = "train"\n')
    return damage_text(name, content, draw, folder)


def whole_sweep(folder: Path) -> Path:
    """An honest sweep beside the files that it names."""
    written(folder, "a.onnx", b"")
    return written(folder, *sweep_files()[0])


def read_sweep(path: Path) -> None:
    """As ``leakaudit sweep`` reads it, and looks for its results."""
    from leakaudit.sweeps.contents import Contents
    from leakaudit.sweeps.grid import read_plan

    contents = Contents(path.parent)
    for cell in read_plan(path).cells[:4]:
        contents.key(cell.request)


@cache
def stored_files() -> Files:
    """A result of a sweep."""
    from leakaudit.document.status import CellStatus
    from leakaudit.sweeps.results import Facts, Result

    facts = Facts(verdict="LEAKS (measured)", severity="high", inconclusive=False, failing=("LA201",), leaked=1)
    (_, report), *_ = report_files()
    whole = Result(key=KEY, status=CellStatus.DONE, seconds=1.5, policy="p", facts=facts, files={"report.json": report})
    bare = Result(key=KEY, status=CellStatus.TIME, reason="ended after 3 s")
    return [(f"{KEY}.zip", whole.pack()), (f"{KEY}.zip", bare.pack())]


KEY = "ab" * 32


def damage_stored(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By its members, in the folder of a store."""
    place = folder / "results" / name[:2]
    place.mkdir(parents=True)

    def member(inner: str, data: bytes, draw: Draw) -> bytes:
        if inner == "cell.json" and draw.random() < 0.9:
            return json.dumps(changed_json(json.loads(data), draw)).encode("utf-8", "replace")
        return damaged(data, draw)

    if draw.random() < 0.05:
        no_file(place / name, draw)
        return place / name
    return written(place, name, changed_archive(content, draw, member))


def whole_stored(folder: Path) -> Path:
    """A store with one result."""
    (folder / "results" / KEY[:2]).mkdir(parents=True)
    return written(folder / "results" / KEY[:2], *stored_files()[0])


def read_stored(path: Path) -> None:
    """As a sweep does that goes on: the result or nothing."""
    from leakaudit.sweeps.places import Folder
    from leakaudit.sweeps.store import Store

    place = Folder.__new__(Folder)  # making one writes into it: a store that is there
    place.path = path.parents[2]
    store = Store(place)
    try:
        store.finished()
        for head_only in (True, False):
            found = store.get(KEY, head_only=head_only)
            assert found is None or found.key == KEY
    finally:
        store.close()


def read_baseline(path: Path) -> None:
    """As ``--baseline`` does: read, held against the request, and the new report judged by it."""
    from leakaudit.audit.request import Request
    from leakaudit.errors import UsageError
    from leakaudit.policy.apply import apply_policy
    from leakaudit.policy.compare import Setup, refuse_different
    from leakaudit.policy.read import Policy
    from leakaudit.report.saving import Report

    earlier = Report.load(path)
    with suppress(UsageError):  # of another setup: then with --allow-different
        refuse_different(Setup.of(earlier), Setup.asked(Request(model="m.onnx", batch="b.npz"), earlier))
    apply_policy(_own_report(), Policy(), baseline=earlier, baseline_path=path, allow_different=True)


@cache
def _own_report() -> Any:
    from tests.report.builder import build as report

    return report()


DOCUMENTS = (
    Subject("report", report_files, damage_report, read_report, 3),
    Subject("baseline", report_files, damage_report, read_baseline, 2),
    Subject("toml", policy_files, damage_text, read_settings, 2),
    Subject("sweep", sweep_files, damage_sweep, read_sweep, 1, whole_sweep),
    Subject("store", stored_files, damage_stored, read_stored, 1, whole_stored),
    Subject("cache", cache_files, damage_entry, read_entry, 1),
)
"""What leakaudit writes itself, and what users set."""
