"""A recorded round: a folder that `leakaudit.capture` wrote.

``before.safetensors`` must be the model under audit; ``round.json`` says what is known of the local training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from leakaudit.capture.record import FORMAT, SETTINGS, VERSION
from leakaudit.client.rounds.arrays import read_arrays
from leakaudit.client.rounds.files import RecordedUpdate, load_update
from leakaudit.client.rounds.kinds import Kind
from leakaudit.client.rounds.naming import payload
from leakaudit.errors import UpdateError, UsageError
from leakaudit.target.target import Target

FILES: Mapping[str, Kind] = {"after": "weights", "delta": "delta", "gradient": "gradient"}
LIMIT = 1 << 20
"""Largest round.json in bytes; chosen, a thousand times what a recorder writes."""
CLOSE = 1e-6
"""Relative difference within which weights are the same; about eight roundings of float32."""


def is_round(path: str | Path) -> bool:
    """Whether a folder is a recorded round."""
    return (Path(path) / "before.safetensors").is_file()


def read_settings(path: str | Path) -> dict[str, Any]:
    """What a round's document says of the training; nothing where there is no document.

    Raises:
        UsageError: The folder is no recorded round.
        UpdateError: The document is damaged, or of another version.
    """
    folder = Path(path)
    if not is_round(folder):
        raise UsageError(
            f"--round {folder}: no before.safetensors in it", "record it with leakaudit.capture, see docs/rounds.md"
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


def read_round(path: str | Path, target: Target) -> RecordedUpdate:
    """What the client of a recorded round sent.

    Args:
        path: Its folder.
        target: The model, which the round began with.

    Raises:
        UsageError: The folder is no recorded round.
        UpdateError: It is of another model, or damaged.
    """
    folder = Path(path)
    kind = kind_of(folder)
    _same_model(folder / "before.safetensors", target)
    found = load_update(folder / f"{kind}.safetensors", target, kind=FILES[kind], option="--round")
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


def _same_model(path: Path, target: Target) -> None:
    """Refuse a round that began with other weights; names the tensor that differs most.

    Raises:
        UpdateError: It did.
    """
    before = payload(read_arrays(path, "--round"), target, str(path)).tensors
    worst, most = "", CLOSE
    for name, own in target.parameters.items():
        if name not in before:
            raise UpdateError(f"{path} does not hold {name}", "record all weights that the client started from")
        difference = float((before[name] - own.detach().cpu()).norm() / own.detach().norm().cpu().clamp_min(1e-30))
        if not difference <= most:
            worst, most = name, difference
    if worst:
        raise UpdateError(
            f"the round did not begin with this model: {worst} differs by {most:.2g} of its norm",
            f"scan the weights in {path.name}, or the round of this model",
        )
