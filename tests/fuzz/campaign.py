"""Many damaged files, one after the other, each in a process of its own.

::

    python -m tests.fuzz.campaign --count 20000 --seed 7 --kept FOLDER

prints a line per defect, and at the end how many inputs of each kind were read and refused. Input `number` of `seed` is
always the same: ``--only KIND:NUMBER`` makes that one again, and reads it in this process.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from leakaudit.safety import confined as confined_module
from tests.fuzz.runner import Outcome, attempt, here, outcome
from tests.fuzz.subject import Subject
from tests.fuzz.subjects import SUBJECTS

TOLD = 500
"""Inputs between two lines that say how far a campaign is."""
AS_COMMANDS = 8
"""One of so many inputs is read as commands read it, in a child of the process that reads the others."""
UNFORESEEN = "cannot be opened ("
"""In the message of an error that no reader has foreseen: typed, but it could say more."""


def say(*lines: object) -> None:
    """Lines on standard output, at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


@dataclass(frozen=True)
class Finding:
    """A defect: where it came from, and what came of it."""

    subject: str
    number: int
    outcome: Outcome


def made(subject: Subject, seed: int, number: int, folder: Path) -> Path:
    """Input `number` of a seed, written into an empty folder."""
    draw = random.Random(f"{subject.name}:{seed}:{number}")
    files = subject.honest()
    name, content = files[draw.randrange(len(files))]
    return subject.damage(name, content, draw, folder)


def order(seed: int, count: int) -> Iterator[tuple[Subject, int]]:
    """Subjects by their share, in an order of the seed's, each with its own numbers."""
    draw, numbers = random.Random(seed), Counter[str]()
    weights = [subject.share for subject in SUBJECTS]
    for _ in range(count):
        (subject,) = draw.choices(SUBJECTS, weights)
        yield subject, numbers[subject.name]
        numbers[subject.name] += 1


@dataclass
class Result:
    """What a campaign came to.

    Args:
        findings: Defects.
        counts: Inputs by kind of input and what came of them.
        longest: Seconds of the slowest.
        largest: Bytes of growth of the largest.
    """

    findings: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    longest: float = 0.0
    largest: int = 0

    def add(self, subject: Subject, number: int, found: Outcome) -> None:
        """Count an outcome, and tell of one that is a defect or could be told better."""
        unforeseen = UNFORESEEN in found.text
        self.counts[subject.name, "unforeseen" if unforeseen and not found.fails else found.kind] += 1
        self.longest, self.largest = max(self.longest, found.seconds), max(self.largest, found.memory)
        if unforeseen:
            say(f"{subject.name}:{number} unforeseen: {found.text[-200:]}")
        if found.fails:
            self.findings.append(Finding(subject.name, number, found))
            say(f"{subject.name}:{number} {found.kind}: {found.text}", *found.trace.strip().splitlines()[-4:])


def run(seed: int, inputs: Iterable[tuple[Subject, int]], *, kept: Path | None = None, apart: bool = True) -> Result:
    """Run a campaign.

    Args:
        seed: Of the inputs.
        inputs: Which, as subject and number.
        kept: Folder for the files of defects.
        apart: Whether each input is read in a process of its own.
    """
    result = Result()
    for subject, number in inputs:
        with tempfile.TemporaryDirectory() as folder:
            path = made(subject, seed, number, Path(folder))
            children = number % AS_COMMANDS == 0
            found = outcome(subject.read, path, children=children) if apart else here(subject.read, path)
            result.add(subject, number, found)
            if sum(result.counts.values()) % TOLD == 0:
                say(f"so far {sum(result.counts.values())} inputs, {len(result.findings)} defects")
            if found.fails and kept is not None:
                _keep(Path(folder), kept / f"{subject.name}-{number}")
    return result


def _keep(folder: Path, place: Path) -> None:
    def pipes(inside: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(inside, name).is_fifo()]

    shutil.copytree(folder, place, symlinks=True, dirs_exist_ok=True, ignore=pipes)


def warm() -> None:
    """Import what the inputs need, so that forked processes find it.

    Nothing is run here: after a first derivative, torch computes none in forked processes. So children run, and tell
    what they have imported.
    """
    for subject in SUBJECTS:
        subject.honest()
        for name in _imported(subject):
            if name not in sys.modules and name.partition(".")[0] not in ("tests", "__main__"):
                with suppress(Exception):
                    importlib.import_module(name)


def _imported(subject: Subject) -> list[str]:
    """Names of the modules that reading an input takes."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            confined_module._State.enabled = False
            with tempfile.TemporaryDirectory() as place:
                name, content = subject.honest()[0]
                attempt(subject.read, whole(subject, name, content, Path(place)))
            with os.fdopen(write, "w") as stream:
                stream.write("\n".join(sys.modules))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        names = stream.read().split("\n")
    os.waitpid(child, 0)
    return names


def whole(subject: Subject, name: str, content: bytes, folder: Path) -> Path:
    """An input as the honest files make it; of kinds that are folders, the folder."""
    if subject.whole is not None:
        return subject.whole(folder)
    (folder / name).write_bytes(content)
    return folder / name


def main() -> int:
    """The command; 1 where anything is a defect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    if asked.only:
        name, _, number = asked.only.partition(":")
        subject = next(s for s in SUBJECTS if s.name == name)
        with tempfile.TemporaryDirectory() as place:
            path = made(subject, asked.seed, int(number), Path(place))
            say(path, *attempt(subject.read, path))
        return 0
    warm()
    kinds = frozenset(asked.kinds.split(",")) - {""}
    chosen = islice(order(asked.seed, asked.count), asked.first, None)
    inputs = (pair for pair in chosen if not kinds or pair[0].name in kinds)
    found = run(asked.seed, inputs, kept=asked.kept)
    say(*(f"{name:10} {kind:10} {number}" for (name, kind), number in sorted(found.counts.items())))
    say(
        f"{sum(found.counts.values())} inputs of seed {asked.seed}: {len(found.findings)} defects; longest "
        f"{found.longest:.1f} s; largest growth {found.largest / 2**20:.0f} MiB"
    )
    return 1 if found.findings else 0


if __name__ == "__main__":
    sys.exit(main())
