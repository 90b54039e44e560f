"""Compiled code is never taken from a folder that another user can write."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from leakaudit.matching.compiler_cache import secure_compiler_cache

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inductor's own folder, in a temporary folder that is empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "restored at the end")
    monkeypatch.delenv(VARIABLE)
    return Path(default_cache_dir())


def test_a_folder_of_ones_own_is_used(default: Path) -> None:
    secure_compiler_cache()
    assert VARIABLE not in os.environ
    assert stat.S_IMODE(default.stat().st_mode) == 0o700, "nobody else can make it now"


@pytest.mark.parametrize("way", ["writable", "link", "file", "owner"])
def test_a_folder_of_others_is_not_used(way: str, default: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "link":
        default.symlink_to(default.parent)
    elif way == "file":
        default.write_text("")
    else:
        default.mkdir()
        default.chmod(0o777 if way == "writable" else 0o755)
    if way == "owner":
        monkeypatch.setattr("leakaudit.safety.ownership._trusted_users", lambda: {os.geteuid() + 1})
    secure_compiler_cache()
    own = Path(os.environ[VARIABLE])
    assert own != default
    assert own.name.startswith("leakaudit-compiled-")
    assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_the_users_choice_stays(default: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/own")
    secure_compiler_cache()
    assert os.environ[VARIABLE] == "/own"
    assert not default.exists()


def test_compiling_looks_first(default: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import fx

    from leakaudit.matching import step

    default.mkdir()
    default.chmod(0o777)
    graph = fx.symbolic_trace(torch.nn.Identity())
    monkeypatch.setattr("torch._inductor.compile", lambda graph, example: lambda *values: values)
    step._compiled(graph, (torch.zeros(1),))
    assert Path(os.environ[VARIABLE]) != default
