"""Formats of other packages: one value and one entry point make one work everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leakaudit import Format, UsageError
from leakaudit.plugins import names
from leakaudit.report.formats import registry
from leakaudit.report.formats.base import FormatUnavailable, Rendering, ReportWarning
from leakaudit.report.formats.failure import write_failure
from leakaudit.report.formats.registry import GROUP, available, chosen
from leakaudit.report.write import write_report
from tests.cli.build import leakaudit
from tests.plugins import Install
from tests.report.builder import build
from tests.report.toy import render


def missing(rendering: Rendering) -> bytes:
    raise FormatUnavailable("report.odd not written: no library")


SAME_FILE = Format(name="double", file="report.json", title="another", render=render)
WRONG_NAME = Format(name="other", file="x.txt", title="another", render=render)
FOLDER = Format(name="folder", file="../x.txt", title="another", render=render)
BYTES = Format(name="bytes", file="x.bin", title="says bytes, gives text", render=render, binary=True)
MISSING = Format(name="missing", file="report.odd", title="needs a library", render=missing, binary=True)


def test_the_help_names_those_that_are_written_by_default() -> None:
    """It is a text, since the help loads no renderer."""
    told = " ".join(leakaudit("render", "--help")[1].split()).split("Repeatable; default ")[1].split(", and what")[0]
    assert set(told.split(", ")) == {kind.name for kind in chosen(())}


def test_ours_are_complete_and_the_document_comes_last() -> None:
    assert set(available()) == {"json", "html", "pdf", "sarif", "junit", "markdown", "csv"} == set(names(GROUP))
    assert list(available())[-1] == "json"
    assert {f.name for f in chosen(())} == {"html", "pdf", "json"}
    assert [f.name for f in chosen(("json", "csv"))] == ["csv", "json"]
    assert {f.name for f in available().values() if f.failure} == {"sarif", "junit", "markdown"}
    assert {f.name for f in available().values() if f.pictures} == {"html", "pdf", "json"}
    assert all(f.title for f in available().values())


def test_a_format_of_another_package_works_from_the_command_line(install: Install, tmp_path: Path) -> None:
    install(GROUP, plain="tests.report.toy:FORMAT")
    report = build(victims=1, runs=1)
    write_report(report, tmp_path, ("json",))
    code, out, err = leakaudit("render", tmp_path / "report.json", "-o", tmp_path / "new", "-f", "plain")
    assert code in (0, 1), err
    assert (tmp_path / "new" / "report.txt").read_text() == f"{report.verdict.status}\n"
    assert "report.txt" in out
    assert "plain" in {f.name for f in chosen(())}


def test_it_can_say_that_an_audit_failed(install: Install, tmp_path: Path) -> None:
    install(GROUP, plain="tests.report.toy:FORMAT")
    assert write_failure(tmp_path, ("plain", "csv"), Path("m.onnx"), ValueError("broken")) == [tmp_path / "report.txt"]
    assert (tmp_path / "report.txt").read_text() == "m.onnx: broken"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("double", "SAME_FILE", "both write report.json"), ("mine", "WRONG_NAME", "no Format of that name")],
)
def test_formats_that_do_not_fit_are_named(install: Install, name: str, value: str, message: str) -> None:
    install(GROUP, **{name: f"{__name__}:{value}"})
    with pytest.raises(UsageError, match=message):
        available()


def test_a_file_outside_the_folder_is_refused(install: Install) -> None:
    install(GROUP, folder=f"{__name__}:FOLDER")
    with pytest.raises(UsageError, match="expected a file name without a folder"):
        available()


def test_a_renderer_must_keep_its_word(install: Install, tmp_path: Path) -> None:
    install(GROUP, bytes=f"{__name__}:BYTES")
    with pytest.raises(TypeError, match="returned str, declared is bytes"):
        write_report(build(victims=1, runs=1), tmp_path, ("bytes",))
    assert not list(tmp_path.iterdir())


def test_a_missing_library_costs_one_file(install: Install, tmp_path: Path) -> None:
    install(GROUP, missing=f"{__name__}:MISSING")
    with pytest.warns(ReportWarning, match="no library"):
        written = write_report(build(victims=1, runs=1), tmp_path, ("missing", "json"))
    assert [path.name for path in written] == ["report.json"]
    assert json.loads(written[0].read_text())["schema_version"] == 1


def test_an_unknown_name_lists_what_there_is() -> None:
    code, _, err = leakaudit("render", "report.json", "-f", "docx")
    assert code == 2
    assert "'docx' is not one of csv, html, json, junit, markdown, pdf, sarif" in " ".join(err.split())
    with pytest.raises(UsageError, match="unknown report format docx"):
        registry.chosen(("docx",))
