"""``leakaudit doctor``, and names that are nearly right."""

from __future__ import annotations

import pytest

from leakaudit.cli import doctor
from tests.cli.build import leakaudit


def test_every_part_is_named_with_what_it_enables(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("LEAKAUDIT_CACHE_DIR", str(tmp_path))
    code, out, _ = leakaudit("doctor")
    assert code == 0, out
    lines = out.splitlines()
    assert len(lines) == 2 * len(list(doctor.checks()))
    assert lines[0].startswith("ok      torch: torch ")
    assert all(line.strip().startswith("for: ") for line in lines[1::2])


def test_a_missing_part_is_said_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = {check.what: check for check in doctor.checks()}
    assert not found["C++ compiler"].found
    assert "g++" in found["C++ compiler"].detail
    assert not found["C++ compiler"].needed


def test_what_every_audit_needs_decides_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = doctor.Check("onnx", False, "pip install onnx", "ONNX models", needed=True)
    monkeypatch.setattr(doctor, "checks", lambda: iter([lacking]))
    code, out, _ = leakaudit("doctor")
    assert code == 3
    assert out.startswith("MISSING onnx: pip install onnx")


def test_a_command_that_is_nearly_right_is_named() -> None:
    code, _, err = leakaudit("scna")
    assert code == 2
    assert err.splitlines() == ["Error: no command named 'scna'", "Hint:  did you mean 'leakaudit scan'?"]
    assert leakaudit("zzz")[2].splitlines()[1] == "Hint:  leakaudit --help lists the commands"


def test_an_attack_that_is_nearly_right_is_named(tmp_path: object) -> None:
    from leakaudit.attacks.registry import create
    from leakaudit.errors import UsageError

    with pytest.raises(UsageError, match="no attack named 'gipip'") as caught:
        create("gipip", "quick")
    assert caught.value.hint == "did you mean gi-pip?"
