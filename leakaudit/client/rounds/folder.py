"""A recorded round: a folder that `leakaudit.capture` wrote, or a folder of such.

``before.safetensors`` must be the model under audit; ``round.json`` says what is known of the local training, and
``batch.npz`` may hold the samples.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from leakaudit.capture.record import FORMAT, SETTINGS, VERSION
from leakaudit.client.readers.npz import SAMPLE_KEYS
from leakaudit.client.rounds.arrays import read_arrays
from leakaudit.client.rounds.files import RecordedUpdate, load_update
from leakaudit.client.rounds.kinds import Kind
from leakaudit.client.rounds.naming import payload
from leakaudit.errors import UpdateError, UsageError
from leakaudit.safety.confined import confined
from leakaudit.target.target import Target

FILES: Mapping[str, Kind] = {"after": "weights", "delta": "delta", "gradient": "gradient"}
LIMIT = 1 << 20
"""Largest round.json in bytes; chosen, a thousand times what a recorder writes."""


def is_round(path: str | Path) -> bool:
    """Whether a folder is a recorded round."""
    return (Path(path) / "before.safetensors").is_file()


def rounds_in(path: str | Path) -> list[Path]:
    """The folders of recorded rounds: a round itself, or those in a folder, by number and client.

    Raises:
        UsageError: There is none.
    """
    folder = Path(path)
    if is_round(folder):
        return [folder]
    found = [file.parent for pattern in ("*", "*/*") for file in folder.glob(f"{pattern}/before.safetensors")]
    if not found:
        raise UsageError(
            f"--round {folder}: no before.safetensors in it",
            "record it with leakaudit.capture, see docs/local-training.md",
        )
    return sorted(found, key=_counted)


def _counted(path: Path) -> list[tuple[int, str]]:
    """A key under which 2 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]


def samples_of(folder: Path) -> Path | None:
    """The file of a round's own samples, or ``None``: it may hold the order of their visits alone.

    Raises:
        UpdateError: It is damaged.
    """
    file = folder / "batch.npz"
    if not file.is_file() or not zipfile.is_zipfile(file):
        return None
    names = set(confined(lambda: _names(file), str(file), UpdateError))
    return file if names & {*SAMPLE_KEYS} else None


def _names(file: Path) -> list[str]:
    """Names of the arrays in an archive.

    Raises:
        UpdateError: It is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UpdateError(f"{file} is a damaged .npz file ({error})", "record the round again") from error


def read_settings(path: str | Path) -> dict[str, Any]:
    """What a round's document says of the training; nothing where there is no document.

    Raises:
        UsageError: The folder is no recorded round.
        UpdateError: The document is damaged, or of another version.
    """
    folder = Path(path)
    if not is_round(folder):
        raise UsageError(
            f"--round {folder}: no before.safetensors in it",
            "record it with leakaudit.capture, see docs/local-training.md",
        )
    file = folder / "round.json"
    if not file.is_file():
        return {}
    try:
        if file.stat().st_size > LIMIT:
            raise ValueError(f"{file.stat().st_size} bytes")
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UpdateError(f"{file} is no JSON document ({error})", "record the round again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UpdateError(f"{file}: format is not {FORMAT}", "record the round with leakaudit.capture")
    if document.get("version") != VERSION:
        raise UpdateError(f"{file}: version {document.get('version')!r}, expected {VERSION}", "update leakaudit")
    return {name: value for name, value in document.items() if name in SETTINGS}


def read_shared(folder: Path, target: Target, weight_decay: float | None = None) -> RecordedUpdate:
    """What the client of a round sent, whatever model it began with.

    Args:
        folder: Of the round.
        target: That model.
        weight_decay: As of :func:`~leakaudit.client.rounds.files.load_update`.

    Raises:
        UpdateError: It does not fit the model.
    """
    kind = kind_of(folder)
    found = load_update(folder / f"{kind}.safetensors", target, weight_decay, kind=FILES[kind], option="--round")
    return replace(found, round=_number(read_settings(folder)))


def _number(settings: Mapping[str, Any]) -> int | None:
    """The round, counted from 1; NVFlare counts from 0, and Flower writes it as text."""
    try:
        return int(settings["round"]) + (settings.get("framework") == "nvflare")
    except (KeyError, TypeError, ValueError):
        return None


def kind_of(folder: Path) -> str:
    """Which of :data:`FILES` a round holds.

    Raises:
        UpdateError: None of them, or several.
    """
    sent = [name for name in FILES if (folder / f"{name}.safetensors").is_file()]
    if len(sent) != 1:
        got = ", ".join(sent) or "none of them"
        raise UpdateError(f"{folder} has {got}, expected one of {', '.join(FILES)}.safetensors", "record it again")
    return sent[0]


def shared_in(path: Path) -> list[Path]:
    """The files of what clients sent in the rounds of a folder."""
    return [folder / f"{kind_of(folder)}.safetensors" for folder in rounds_in(path)]


def began_with(folder: Path, target: Target) -> dict[str, Tensor]:
    """The weights and statistics that a round began with, by the model's names.

    Raises:
        UpdateError: They are not those of such a model; names the tensor.
    """
    return begun_with(folder / "before.safetensors", target, "--round")


def begun_with(path: Path, target: Target, option: str) -> dict[str, Tensor]:
    """The weights and statistics of a file, by the model's names.

    Args:
        path: As of :func:`leakaudit.client.rounds.arrays.read_arrays`.
        target: The model.
        option: Names the file in errors.

    Raises:
        UsageError: There is no such file.
        UpdateError: They are not those of such a model; names the tensor.
    """
    found = payload(read_arrays(path, option), target, str(path))
    for name in target.parameters:
        if name not in found.tensors:
            raise UpdateError(f"{path} does not hold {name}", "record all weights that the client started from")
    return {**found.tensors, **found.buffers}
