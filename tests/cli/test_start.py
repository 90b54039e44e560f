"""Help is fast: nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "onnx", "numpy", "scipy", "pydantic", "matplotlib", "weasyprint", "jinja2", "rich")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['leakaudit', '--help']\nfrom leakaudit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stdout
    assert "scan" in run.stdout


def test_scan_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['leakaudit', 'scan', '--help']\nfrom leakaudit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stdout
    assert "--fail-on" in run.stdout


def test_sweep_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['leakaudit', 'sweep', '--help']\nfrom leakaudit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stdout
    assert "--runner" in run.stdout
