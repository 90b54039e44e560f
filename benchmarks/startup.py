"""Start-up times in processor seconds: a given revision and the tree as it is, in turns.

    python benchmarks/startup.py --before REVISION                  # rounds that the results lack, then the page
    python benchmarks/startup.py --before REVISION --case inspect   # of one case
    python benchmarks/startup.py --table                            # only the page, from the rows that there are

Cases: ``import torch``, which is the floor under the others; ``inspect`` and ``rank`` of a LeNet as ONNX; ``scan`` of
the
quickstart example with preset quick. Given are user and system seconds of a process and its children, with one thread.
A turn of each version runs first to write byte code, as ``pip`` does. Every row is kept as it is measured, so an
interrupted run goes on. On a machine that does other things all times are longer, by the same factor for both.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real_size import add, rows

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "benchmarks" / "results" / "startup.jsonl"
WANTED = {"inspect": 2.5, "rank": 4.0, "scan": 20.0}
"""Seconds that a case should stay below."""
LEAKAUDIT = ["-m", "leakaudit"]
CASES = {
    "import torch": ["-c", "import torch"],
    "inspect": [*LEAKAUDIT, "inspect", "lenet.onnx"],
    "rank": [*LEAKAUDIT, "rank", "lenet.onnx"],
    "scan": shlex.split(
        "-m leakaudit scan model.onnx --batch batch.npz --mean 0.5 --std 0.25 --preset quick --seed 165 "
        "--fail-on never --no-cache --out report"
    ),
}


def unpack(revision: str, folder: Path) -> Path:
    """The package as it was at a revision."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision, "leakaudit", "report_templates"], check=True, capture_output=True
    ).stdout
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive, check=True)
    return folder


def write_models(folder: Path, example: bool) -> None:
    """``lenet.onnx``, and the quickstart example where it is asked for, which needs scikit-image."""
    import torch
    from networks import lenet

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            lenet().eval(), (torch.zeros(1, 3, 32, 32),), str(folder / "lenet.onnx"), dynamo=False,
            input_names=["input"], dynamic_axes={"input": {0: "N"}},
        )  # fmt: skip
    if not example:
        return
    script = folder / "make_example.py"
    script.write_bytes((ROOT / "examples" / "quickstart" / "make_example.py").read_bytes())
    subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.DEVNULL)


def processor_seconds(words: Sequence[str], package: Path, folder: Path) -> float:
    """User and system seconds of a command and the processes that it starts."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": "1", "LEAKAUDIT_CACHE": "0", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    environment["PYTHONPATH"] = str(package)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode not in (0, 1):
        raise SystemExit(f"{shlex.join(words)} ended with {ended.returncode}: {ended.stderr[-400:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(cases: Sequence[str], revision: str, rounds: int, path: Path) -> None:
    """The rounds of each case that the rows lack."""
    done = {case: sum((row["case"], row["revision"]) == (case, revision) for row in rows(path)) for case in cases}
    cases = [case for case in cases if done[case] < rounds]
    if not cases:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, "scan" in cases)
        packages = {"before": unpack(revision, folder / "old"), "after": ROOT}
        for case in cases:
            for package in packages.values():
                processor_seconds(CASES[case], package, folder)
            for _ in range(done[case], rounds):
                found = {key: round(processor_seconds(CASES[case], p, folder), 2) for key, p in packages.items()}
                add({"case": case, "revision": revision, **found, "load": round(os.getloadavg()[0], 1)}, path)


def page(found: Sequence[dict[str, Any]]) -> str:
    """The table: medians over the rounds."""
    lines = [
        "# Start-up", "",
        "Written by `benchmarks/startup.py`: processor seconds, children included, one thread; medians of the rounds. "
        "Before and after take turns. `import torch` is in each of the others, and imports nothing of leakaudit.", "",
        "| case | before | after | wanted | before ÷ after | rounds | load | revision before | date |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for case, revision in dict.fromkeys((row["case"], row["revision"]) for row in found):
        of = [row for row in found if (row["case"], row["revision"]) == (case, revision)]
        before, after, load = (statistics.median(row[key] for row in of) for key in ("before", "after", "load"))
        wanted = f"< {WANTED[case]:g}" if case in WANTED else ""
        cells = [case, f"{before:.2f}", f"{after:.2f}", wanted, f"{before / after:.1f}", len(of), f"{load:.1f}"]
        lines.append("| " + " | ".join(map(str, [*cells, revision, of[-1]["date"]])) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what the results lack, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", help="revision of git to compare with")
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeatable; all by default")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where the rows are kept; the page stands beside")
    parser.add_argument("--table", action="store_true", help="only write the page")
    asked = parser.parse_args()
    if not asked.table:
        if not asked.before:
            parser.error("--before names the revision to compare with")
        measure(asked.case or list(CASES), asked.before, asked.rounds, asked.rows)
    asked.rows.with_suffix(".md").write_text(page(rows(asked.rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
