"""What stands in the report's folder: nothing of killed runs, nothing that shows more, no complete report lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leakaudit.document.redact import redact
from leakaudit.errors import AuditError, BatchError, UsageError
from leakaudit.report.files import OLD_SECONDS, replace_files
from leakaudit.report.formats.base import ReportWarning
from leakaudit.report.formats.failure import write_failure
from leakaudit.report.formats.registry import available
from leakaudit.report.saving import Report
from leakaudit.report.write import PARTIAL, write_report
from tests.conftest import ROOT
from tests.report.conftest import Printed
from tests.report.printing import needs_pdf

TEXTS = ("json", "html", "sarif", "junit", "markdown", "csv")


@pytest.fixture
def report(small_report: Report) -> Report:
    return small_report


@pytest.fixture
def interrupted(report: Report) -> Report:
    return report.model_copy(update={"partial": "interrupted by the user", "seed": 1})


def names(folder: Path) -> list[str]:
    """What stands there beside the ``.gitignore``, of which tests/report/test_ignoring.py says when there is one."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".gitignore")


def killed(folder: Path, where: str, *formats: str) -> None:
    """Write a report in a process that is killed at a function."""
    module, _, name = where.rpartition(".")
    script = (
        f"import importlib, os, signal\nfrom pathlib import Path\nfrom tests.report.builder import build\n"
        f"from leakaudit.report.write import write_report\nreport = build(victims=1, runs=1)\n"
        f"module = importlib.import_module({module!r})\n"
        f"module.{name} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_report(report, Path({str(folder)!r}), {formats!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_kill_while_rendering_leaves_nothing(tmp_path: Path) -> None:
    killed(tmp_path, "leakaudit.report.formats.pdf.render_pdf", "html", "pdf", "json")
    assert names(tmp_path) == []


def test_a_kill_while_renaming_leaves_what_the_next_run_removes(report: Report, tmp_path: Path) -> None:
    killed(tmp_path, "os.replace", "html", "json")
    assert len(names(tmp_path)) > 1
    assert all(name.startswith(".leakaudit-") for name in names(tmp_path))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    write_report(report, tmp_path, ("json",))
    assert names(tmp_path) == ["report.json"]


def test_old_files_are_put_back_where_no_file_has_two_names(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    old, new = ({name: f"{name} {turn}".encode() for name in ("a", "b", "c")} for turn in (1, 2))
    replace_files(tmp_path, old)
    honest, done = os.replace, []

    def refused(source: Path, target: Path) -> None:
        if target.name == "c" and not done:
            done.append(target)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        honest(source, target)

    monkeypatch.setattr(os, "link", no_links)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        with pytest.raises(UsageError, match="cannot write the report"):
            replace_files(tmp_path, new)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old
    replace_files(tmp_path, new)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == new


def test_what_a_living_run_writes_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom leakaudit.report import files\n"
        "def wait(*_):\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        f"os.replace = wait\nfiles.replace_files(Path({str(tmp_path)!r}), {{'other': b'content'}})\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "waiting\n"
        (theirs,) = names(tmp_path)
        replace_files(tmp_path, {"ours": b""})
        assert names(tmp_path) == [theirs, "ours"]
    finally:
        writer.kill()
        writer.communicate()
    replace_files(tmp_path, {"ours": b""})
    assert names(tmp_path) == ["ours"]


def test_only_rests_of_leakaudit_are_removed(tmp_path: Path) -> None:
    """Folders that earlier versions rendered in, an hour old; nothing that somebody else named alike."""
    for name, entry in ((".leakaudit-abcd1234", "report.html"), (".leakaudit-other123", "thesis.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / entry).write_text("content")
    (tmp_path / ".leakaudit-notes").write_text("mine")
    (tmp_path / ".leakaudit-0123456789abcdef").symlink_to(tmp_path / ".leakaudit-notes")
    replace_files(tmp_path, {"ours": b""})
    assert ".leakaudit-abcd1234" in names(tmp_path), "it may be in use"
    before = time.time() - OLD_SECONDS - 10
    for path in tmp_path.iterdir():
        os.utime(path, (before, before), follow_symlinks=False)
    replace_files(tmp_path, {"ours": b""})
    assert names(tmp_path) == [".leakaudit-0123456789abcdef", ".leakaudit-notes", ".leakaudit-other123", "ours"]


# What shows more


def test_a_redacted_report_removes_older_views_that_show_more(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path, TEXTS)
    with pytest.warns(ReportWarning, match=r"removed scores\.csv, report\.html, .* of an earlier audit"):
        written = write_report(redact(report, "none"), tmp_path, ("json",))
    assert [path.name for path in written] == names(tmp_path) == ["report.json"]


@needs_pdf
@pytest.mark.parametrize("variant", ["pdf/ua-1", "pdf/a-3u"])
def test_so_it_does_with_a_pdf(report: Report, printed: Callable[[str], Printed], tmp_path: Path, variant: str) -> None:
    (tmp_path / "report.pdf").write_bytes(printed(variant).content)
    with pytest.warns(ReportWarning, match=r"removed report\.pdf"):
        write_report(redact(report, "blurred"), tmp_path, ("json",))
    assert names(tmp_path) == ["report.json"]


def test_files_of_others_stay_and_are_named(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7 the annual report")
    (tmp_path / "scores.csv").write_text("team,score\na,1\n")
    with pytest.warns(ReportWarning, match="does not look like a report of leakaudit"):
        write_report(redact(report, "none"), tmp_path, ("json",))
    assert names(tmp_path) == ["report.json", "report.pdf", "scores.csv"]


def test_a_full_report_leaves_other_formats_as_they_are(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path, ("json", "html"))
    write_report(report, tmp_path, ("json",))
    assert names(tmp_path) == ["report.html", "report.json"]


# What is lost


def test_a_partial_report_goes_beside_a_complete_one(report: Report, interrupted: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path, ("json", "html"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(2):
        written = write_report(redact(interrupted, "none"), tmp_path, ("json",))
        assert written == [tmp_path / PARTIAL / "report.json"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    write_report(report, tmp_path, ("json", "html"))
    assert names(tmp_path) == ["report.html", "report.json"], "a complete report removes the partial one"


def test_a_partial_report_replaces_a_partial_one_or_none(report: Report, interrupted: Report, tmp_path: Path) -> None:
    for _ in range(2):
        assert write_report(interrupted, tmp_path, ("json",)) == [tmp_path / "report.json"]
    assert names(tmp_path) == ["report.json"]
    write_report(report, tmp_path, ("json",))
    assert not Report.load(tmp_path / "report.json").partial


def test_a_partial_report_replaces_nothing_that_it_cannot_read(interrupted: Report, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("an older page")
    assert write_report(interrupted, tmp_path, ("json", "html"))[-1].parent == tmp_path / PARTIAL
    assert (tmp_path / "report.html").read_text() == "an older page"


def test_a_failure_replaces_no_report(report: Report, tmp_path: Path) -> None:
    error = AuditError("the model cannot be audited")
    formats = ("sarif", "junit", "json")
    first = write_failure(tmp_path, formats, Path("m.onnx"), error)
    assert {path.parent for path in first} == {tmp_path}
    assert write_failure(tmp_path, formats, Path("m.onnx"), error) == first, "a failure replaces a failure"
    write_report(report, tmp_path, formats)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = write_failure(tmp_path, formats, Path("m.onnx"), error)
    assert {path.parent for path in second} == {tmp_path / PARTIAL}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_failure_names_no_folder_and_below_full_no_sample(tmp_path: Path) -> None:
    batch = tmp_path / "jane doe" / "batch.npz"
    error = BatchError(f"{batch}: label 4391 of sample 3 is out of range")
    (full,) = write_failure(tmp_path, ("sarif",), Path("m.onnx"), error, [str(batch)])
    assert "batch.npz: label 4391" in full.read_text()
    assert "jane doe" not in full.read_text()
    for kind in (error, RuntimeError(f"{batch}: 4391")):
        (hidden,) = write_failure(tmp_path, ("junit",), Path("m.onnx"), kind, [str(batch)], discreet=True)
        assert "4391" not in hidden.read_text()
        assert "batch.npz" not in hidden.read_text()
    assert {kind.file for kind in available().values()} >= set(names(tmp_path))
