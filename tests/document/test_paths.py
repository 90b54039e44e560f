"""No folder of the machine in a report, unless it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakaudit.document.paths import short_paths
from leakaudit.document.redact import file_name
from leakaudit.document.schema import PolicySection, Report, SettingEntry, VariantEntry
from leakaudit.report.formats.html import render_html
from leakaudit.report.write import write_report
from tests.report.builder import build


def with_paths(folder: Path) -> Report:
    """A report that names files below a folder in every place that a path can have."""
    report = build(victims=1, runs=1)
    model, batch = str(folder / "models" / "net.onnx"), str(folder / "patients" / "batch one.npz")
    settings = [
        SettingEntry(name="batch", value=batch, source="file"),
        SettingEntry(name="checkpoints", value=[model], source="command line"),
    ]
    attack = report.attacks[0].model_copy(update={"reason": f"could not read {batch}: no such file"})
    return report.model_copy(
        update={
            "command": ["leakaudit", "scan", model, f"--batch={batch}", f"-o{folder / 'out'}"],
            "target": report.target.model_copy(update={"path": model}),
            "batch": report.batch.model_copy(update={"path": batch}),
            "protocol": report.protocol.model_copy(update={"update_path": str(folder / "u.npz")}),
            "policy": PolicySection(settings=settings),
            "variants": [
                VariantEntry(
                    label="net", status="NOT APPLICABLE", code="NOT APPLICABLE", headline=f"{model}: bad", path=model
                )
            ],
            "attacks": [attack],
        }
    )


def test_folders_elsewhere_are_left_out_everywhere(tmp_path: Path) -> None:
    folder = tmp_path / "Jane Doe's project"
    report = with_paths(folder)
    short = short_paths(report)
    assert short.target.path == "net.onnx"
    assert short.batch.path == "batch one.npz"
    assert short.command == ["leakaudit", "scan", "net.onnx", "--batch=batch one.npz", "-oout"]
    assert short.attacks[0].reason == "could not read batch one.npz: no such file"
    for text in (short.to_json(), render_html(short)):
        assert "Jane Doe" not in text
        assert str(tmp_path) not in text
    assert "Jane Doe" in report.to_json()
    assert short_paths(short) == short


def test_paths_below_the_working_folder_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = short_paths(with_paths(tmp_path))
    assert short.target.path == "models/net.onnx"
    assert short.batch.path == "patients/batch one.npz"
    monkeypatch.chdir(tmp_path.parent)
    relative = short_paths(with_paths(Path("..") / "elsewhere"))
    assert relative.target.path == "net.onnx"
    assert "elsewhere" not in relative.to_json()


@pytest.mark.parametrize("home", ["/home/jane/w/", "/Users/jane/w/", "/" + "root/w/", "C:\\Users\\jane\\w\\"])
def test_the_home_of_another_machine_is_cut_off_too(home: str) -> None:
    report = build(victims=1, runs=1, partial=f"cannot load {home}weights.bin: damaged")
    assert short_paths(report).partial == "cannot load weights.bin: damaged"


def test_written_files_hold_short_paths_unless_asked(tmp_path: Path) -> None:
    report = with_paths(tmp_path / "secret-folder")
    formats = ("json", "html", "sarif", "junit", "markdown", "csv")
    for path in write_report(report, tmp_path / "a", formats):
        assert "secret-folder" not in path.read_text(), path.name
    (path,) = write_report(report, tmp_path / "b", ("json",), paths="full")
    assert "secret-folder" in path.read_text()


def test_the_last_part_of_any_path() -> None:
    assert [file_name(p) for p in (None, "a", "/x/y.onnx", "C:\\x\\y.onnx")] == [None, "a", "y.onnx", "y.onnx"]
