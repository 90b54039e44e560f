"""What the machine-readable formats say when an audit could not be done: an error, never an empty success."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakaudit.report.formats.registry import chosen
from leakaudit.report.wording import clip
from leakaudit.report.write import replace_files


def write_failure(directory: Path, formats: Sequence[str], model: Path, error: Exception) -> list[Path]:
    """Write those of these formats that can say it; an older report.json and its views stay."""
    message = clip(str(error) or type(error).__name__, 900)
    files = [(f.file, f.failure(model.name, message).encode()) for f in chosen(formats) if f.failure is not None]
    return replace_files(directory, files) if files else []
