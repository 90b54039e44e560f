"""A client is simulated in one place: no room but the protocols takes a gradient of a model's loss."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import leakaudit

PACKAGE = Path(leakaudit.__file__).parent
OWN = {
    "gradient": {"protocols": "makes updates", "target": "defines it"},
    "loss": {
        "protocols": "makes updates",
        "target": "defines it",
        "attacks/certificate.py": "asks the task for the error at outputs that are there; makes no update",
        "attacks/reading/confirm.py": "asks for a label's error at the bias of the first layer; makes no update",
        "attacks/labels/by_loss.py": "asks the task for the error at outputs that are there; makes no update",
        "attacks/labels/several.py": "asks the task for the error at outputs that are there; makes no update",
        "tasks": "defines it for outputs",
        "risk/measure.py": "asks the task for the loss of a recorded graph's logits; makes no update",
        "sweeps/utility.py": "evaluates a trained model on held-out samples; makes no update",
    },
    "injected_masks": {
        "protocols": "makes updates",
        "target": "defines it",
    },
}
"""Who may call what, and why."""


def calls(source: str) -> Iterator[str]:
    """Calls of a target's gradient or loss (inputs and labels), and of the injection of masks."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("gradient", "loss") and _two(node):
            yield node.func.attr
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "injected_masks":
            yield name


def _two(call: ast.Call) -> bool:
    """Inputs and labels, spelled out or starred."""
    return len(call.args) > 1 or any(isinstance(argument, ast.Starred) for argument in call.args)


def strangers() -> list[str]:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        place = str(file.relative_to(PACKAGE))
        for name in calls(file.read_text(encoding="utf-8")):
            if not any(place == own or place.startswith(f"{own}/") for own in OWN[name]):
                found.append(f"{place}: {name}")
    return found


def test_only_protocols_make_updates() -> None:
    assert strangers() == []


def test_the_check_can_fail() -> None:
    seen = "def f(t, x, y, o):\n  o.shared(t.gradient(x, y))\n  t.loss(*xy)\n  with injected_masks(t, m): pass\n"
    assert sorted(calls(seen)) == ["gradient", "injected_masks", "loss"]
    assert list(calls("reader.gradient(update)")) == []


def test_every_exception_is_still_needed() -> None:
    for name, places in OWN.items():
        for place in places:
            files = [PACKAGE / place] if place.endswith(".py") else sorted((PACKAGE / place).rglob("*.py"))
            assert any(name in file.read_text(encoding="utf-8") for file in files), (name, place)
