"""Damaged files end in a typed error, in time and in memory, and run nothing: a short campaign, and all known cases."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuzz.campaign import Finding, made, run, whole
from tests.fuzz.corpus import CASES, Case
from tests.fuzz.runner import Outcome, here, once, outcome
from tests.fuzz.subject import Subject
from tests.fuzz.subjects import SUBJECTS

ROOT = Path(__file__).parents[2]
READ = {subject.name: subject.read for subject in SUBJECTS}
LONG = int(os.environ.get("LEAKAUDIT_FUZZ", "20000"))
"""Inputs of the long campaign."""


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_failed_once(case: Case, tmp_path: Path) -> None:
    found = here(READ[case.subject], case.write(tmp_path))
    assert found.memory < 1 << 30
    assert not found.fails, f"{found.kind}: {found.text}\n{found.trace}"
    if case.refused:
        assert found.kind == "refused", "it was read"
        assert re.search(case.refused, found.text), found.text
    else:
        assert found.kind == "read", found.text


def told(findings: list[Finding]) -> str:
    return "\n".join(f"{f.subject}:{f.number} {f.outcome.kind} {f.outcome.text}\n{f.outcome.trace}" for f in findings)


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_a_few_damaged_files_of_each_kind(subject: Subject) -> None:
    few = max(4, 24 * subject.share // 100)
    result = run(5, [(subject, number) for number in range(few)], apart=False)
    assert not result.findings, told(result.findings)
    assert sum(result.counts.values()) == few


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_an_honest_file_of_each_kind_is_read(subject: Subject, tmp_path: Path) -> None:
    if subject.name == "parquet":
        pytest.importorskip("pyarrow")
    for number, (name, content) in enumerate(subject.honest()[:3]):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = here(subject.read, whole(subject, name, content, folder))
        assert found.kind == "read", f"{name}: {found.text}\n{found.trace}"


@pytest.mark.slow
def test_a_campaign_of_twenty_thousand() -> None:
    words = ["-m", "tests.fuzz.campaign", "--count", str(LONG), "--seed", "7"]
    ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{LONG} inputs of seed 7: 0 defects" in ended.stdout


def test_an_input_is_the_same_every_time(tmp_path: Path) -> None:
    for subject in SUBJECTS:
        contents = []
        for turn in ("a", "b"):
            folder = tmp_path / subject.name / turn
            folder.mkdir(parents=True)
            made(subject, 3, 4, folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
            contents.append([(path.relative_to(folder), path.read_bytes()) for path in files])
        assert contents[0] == contents[1]


def internal(path: Path) -> None:
    raise KeyError("a defect")


def crash(path: Path) -> None:
    ctypes.string_at(0)


def endless(path: Path) -> None:
    time.sleep(60)


def patient(path: Path) -> None:
    for _ in range(2):
        with suppress(Exception):
            time.sleep(60)


def greedy(path: Path) -> None:
    bytearray(300 << 20)


def running(path: Path) -> None:
    os.system("true")


def test_no_reader_swallows_the_end_of_its_time(tmp_path: Path) -> None:
    found = here(patient, tmp_path, seconds=0.2)
    assert found.kind == "hang"
    assert found.seconds < 5


@pytest.mark.parametrize("subject", [internal, crash, endless, greedy, running])
def test_the_runner_tells_every_defect(subject: object, tmp_path: Path) -> None:
    found: Outcome = once(subject, tmp_path, seconds=1.5, memory=200 << 20)  # type: ignore[arg-type]
    expected = {"internal": "internal", "crash": "crash", "endless": "hang", "greedy": "memory", "running": "code"}
    assert found.kind == expected[subject.__name__]  # type: ignore[attr-defined]
    assert found.fails
    assert not outcome(lambda path: None, tmp_path).fails
