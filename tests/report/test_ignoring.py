"""The next ``git add -A`` adds no report that shows private samples, and hides nothing of the user's."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from leakaudit.document.redact import redact
from leakaudit.document.schema import Report
from leakaudit.errors import AuditError
from leakaudit.report.formats.base import ReportWarning
from leakaudit.report.formats.failure import write_failure
from leakaudit.report.write import PARTIAL, write_report
from tests.report.builder import build

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture(scope="module")
def report() -> Report:
    return build(victims=1, runs=1)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "safe.directory=*", *words]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def added(folder: Path) -> set[str]:
    """What ``git add -A`` takes."""
    git(folder, "add", "-A")
    return set(git(folder, "ls-files").splitlines())


@pytest.mark.parametrize("level", ["full", "blurred"])
def test_a_folder_of_its_own_is_hidden_whole(report: Report, repository: Path, level: str) -> None:
    shown = report if level == "full" else redact(report, "blurred")
    write_report(shown, repository / "leakaudit-report", ("json", "html"))
    assert added(repository) == set()
    path = repository / "leakaudit-report" / ".gitignore"
    assert path.read_text().splitlines()[-1] == "*"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_report(shown, repository / "leakaudit-report", ("json", "html", "csv"))
    assert path.read_text().count("*") == 1


def test_a_folder_of_an_earlier_version_is_hidden_too(report: Report, repository: Path) -> None:
    write_report(report, repository / "out", ("json", "html"))
    (repository / "out" / ".gitignore").unlink()
    write_report(report, repository / "out", ("json",))
    assert added(repository) == set()


def test_in_a_folder_with_other_files_the_report_alone_is_hidden(report: Report, repository: Path) -> None:
    (repository / "train.py").write_text("")
    write_report(report, repository, ("json",))
    write_report(report, repository, ("json", "html"))
    write_report(report.model_copy(update={"partial": "interrupted"}), repository, ("json",))
    assert (repository / PARTIAL / "report.json").exists()
    assert added(repository) == {"train.py"}


def test_a_gitignore_of_the_user_stays_and_what_it_lets_through_is_said(report: Report, repository: Path) -> None:
    (repository / ".gitignore").write_text("*.html\n/partial/\n")
    with pytest.warns(ReportWarning, match=r"git adds report\.json of .* unless you ignore it: the \.gitignore"):
        write_report(report, repository, ("json", "html"))
    assert (repository / ".gitignore").read_text() == "*.html\n/partial/\n"
    (repository / ".gitignore").write_text("report.*\n")
    write_report(report, repository, ("json", "html"))  # without a warning, which would be an error here


def test_outside_of_a_repository_nothing_is_said(report: Report, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("")
    write_report(report, tmp_path, ("json",))
    assert (tmp_path / ".gitignore").read_text() == ""


def test_a_report_without_samples_may_be_kept(report: Report, repository: Path) -> None:
    write_report(redact(report, "none"), repository / "audits", ("json",))
    assert added(repository) == {"audits/report.json"}


def test_a_failure_is_hidden_and_a_partial_folder_goes_with_all_that_is_in_it(report: Report, repository: Path) -> None:
    out = repository / "out"
    write_report(report, out, ("sarif",))
    (out / ".gitignore").unlink()
    write_failure(out, ("sarif",), Path("m.onnx"), AuditError("label 7 is out of range"))
    assert (out / PARTIAL / "report.sarif").exists()
    assert added(repository) == {"out/report.sarif"}, "that is a view without samples, of which git was told"
    write_report(report, out, ("json",))
    assert not (out / PARTIAL).exists()


def test_a_link_is_not_followed(report: Report, repository: Path) -> None:
    (repository / "kept").write_text("mine\n")
    out = repository / "out"
    out.mkdir()
    (out / ".gitignore").symlink_to(repository / "kept")
    with pytest.warns(ReportWarning, match="git adds report.json"):
        write_report(report, out, ("json",))
    assert (repository / "kept").read_text() == "mine\n"
