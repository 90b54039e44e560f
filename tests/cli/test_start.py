"""Help is fast: nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "numpy", "scipy", "pydantic", "matplotlib", "weasyprint", "jinja2", "rich")


@pytest.mark.parametrize(
    ("words", "shown"), [((), "scan"), (("scan",), "--fail-on"), (("sweep",), "--runner")], ids=["all", "scan", "sweep"]
)
def test_help_imports_nothing_heavy(words: tuple[str, ...], shown: str) -> None:
    code = (
        f"import sys\nsys.argv = {['leakaudit', *words, '--help']}\nfrom leakaudit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stdout
    assert shown in run.stdout
