"""Every command line of the README and of docs/ runs, on tiny files under the names that the page uses."""

from __future__ import annotations

import functools
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import leakaudit as package
from tests import prepared
from tests.cli.build import leakaudit
from tests.conftest import ROOT
from tests.pages import PAGES, TUTORIALS, calls

MADE: dict[str, tuple[Callable[[Path], None], ...]] = {
    "tables.md": (prepared.table,),
    "texts.md": (prepared.text,),
    "several-inputs.md": (prepared.several,),
    "generators.md": (prepared.images, prepared.priors),
}
"""What lies in the folder of a page; elsewhere images and reports."""
OWN: dict[str, Callable[[Path], None]] = {"--round rounds/mine": prepared.adapter_round}
"""What lies in the folder of a line that holds this, and of no other."""
QUICK = {
    "GRID": "prune=0.9", "STEPS": "2", "ATTACKS": "linear", "VICTIMS": "1", "CONTROLS": "none", "FORMATS": "json",
    "PRESET": "quick", "CACHE": "false",
}  # fmt: skip
"""What ``defend`` finds in the environment, since it reads no policy and would try a grid."""
ELSEWHERE = {"--runner ray": "needs a running Ray cluster; tests/sweeps/test_ray.py runs that runner"}
OTHER = {
    "make": "installs an environment and runs everything; the workflow does",
    "pip": "installs; the newcomer's environment of the workflow does",
}
"""Other programs that the pages call, and why they are not run here."""
FINE = {"scan": (0, 1, 5), "defend": (0, 1, 5), "compare": (0, 1), "render": (0, 1), "sweep": (0, 1, 5)}
"""Exit codes of a command that did what it should: what leaks is a matter of the tiny files."""


def here() -> list[tuple[str, str]]:
    return [
        (page, line) for page, line in calls() if page not in TUTORIALS and not any(part in line for part in ELSEWHERE)
    ]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The folder of a line, made once."""
    made: dict[str, Path] = {}

    def of(page: str, line: str) -> Path:
        own = next((part for part in OWN if part in line), "")
        makers = (OWN[own],) if own else MADE.get(page, (prepared.images, prepared.reports))
        key = own or (page if page in MADE else "")
        if key not in made:
            made[key] = tmp_path_factory.mktemp("page")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for maker in makers:
                    maker(made[key])
        return made[key]

    return of


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "GITHUB_STEP_SUMMARY", "LEAKAUDIT_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), here(), ids=lambda value: value[:70])
def test_it_runs(page: str, line: str, folders: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)[1:]
    folder = folders(page, line)
    (folder / "leakaudit.toml").write_text(prepared.POLICY, encoding="utf-8")
    if words[0] == "defend":
        for name, value in QUICK.items():
            monkeypatch.setenv(f"LEAKAUDIT_{name}", value)
    if words[0] == "init":
        (folder / "leakaudit.toml").unlink()
    monkeypatch.chdir(folder)
    code, out, err = leakaudit(*words)
    assert code in FINE.get(words[0], (0,)), f"{page}: {line}\n{out}\n{err}"
    assert "Error:" not in err


def test_what_is_not_run_here_is_there_and_has_a_reason() -> None:
    lines = [line for _, line in calls()]
    for part in ELSEWHERE:
        assert any(part in line for line in lines), part
    others = {
        found[1]
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if (found := re.match(r"(?:    |\$ )(make|pip|python|git|docker|npm|uv|sudo)\b", line))
    }
    assert others == set(OTHER), "another program: run it here, or say why not"


# The three steps of the README


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.M)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy
    import torch

    export, scan = blocks("python")
    monkeypatch.chdir(tmp_path)
    images, labels = prepared.smooth_images(8), numpy.arange(8) % 5
    space = {
        "torch": torch, "numpy": numpy, "model": prepared.mlp(), "x": torch.zeros(2, 3, 12, 12), "images": images,
        "labels": labels,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(export, space)
    short = functools.partial(package.scan, victims=1, attacks=["linear"], controls="none")
    monkeypatch.setattr(package, "scan", short)
    exec(scan, space)
    assert (tmp_path / "leakaudit-report" / "report.html").is_file()
    assert str(space["report"].verdict.status)  # type: ignore[attr-defined]
