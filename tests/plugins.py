"""Packages that extend leakaudit, as pip would have installed them: metadata with entry points on the import path."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Install(Protocol):
    """Install a package with entry points, by name and value, of one group until the end of the test."""

    def __call__(self, group: str, /, **points: str) -> None:
        """As ``pip install`` would have done it."""


def write_package(folder: Path, group: str, points: dict[str, str]) -> None:
    """Write the metadata of a package that is named after its first entry point.

    Args:
        folder: Where packages are, on the import path.
        group: Of the entry points: ``leakaudit.attacks``.
        points: The value of each by its name: ``{"toy": "tests.attacks.toy:Toy"}``.
    """
    package = f"their_{next(iter(points))}"
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
