"""What the document of a recorded round says of the client's training, for a request that does not say it itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from leakaudit.audit.protocol import LOCAL
from leakaudit.audit.request import Request
from leakaudit.client.rounds.folder import (
    kind_of,
    read_settings,
    rounds_in,
)
from leakaudit.errors import UpdateError, UsageError
from leakaudit.protocols.names import WITHHELD


def with_round(request: Request) -> Request:
    """The request with what the document of its round says of the client's training, where no keyword says so.

    Raises:
        UsageError: The folder is no recorded round.
        UpdateError: Its document is damaged, or a setting in it cannot be.
    """
    if request.round is None:
        return request
    if request.update is not None:
        raise UsageError("--update and --round were both given", "a round holds its update: leave out one of them")
    said: dict[str, Any] = {name: request.value_of(name) for name in LOCAL if request.says(name)}
    said |= {"mode": request.protocol.mode, "weight_decay": request.weight_decay, "samples": request.samples}
    said |= {"unknown": request.unknown} if request.unknown else {}
    said |= {} if request.local else {"batch_size": request.protocol.batch_size}
    known = told_beside({**said, "round": request.round})
    return replace(request, **known)


def told_beside(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """What the document of a round adds to the keywords of a request, which go before it.

    Of several rounds it is the first that decides; the others have to agree with it, but for the number of samples.
    Where no learning rate is told, it is unknown, and so is what else of the training is not told.

    Raises:
        UsageError: ``round`` is no recorded round.
        UpdateError: Its document is damaged.
    """
    if keywords.get("round") is None or not Path(keywords["round"]).is_dir():
        return {}
    folders = rounds_in(keywords["round"])
    told = read_settings(folders[0])
    known: dict[str, Any] = {}
    if told.get("mode") == "train" and keywords.get("mode") in (None, "eval"):
        known["mode"] = "train"
    number = told.get("num_examples") if len(folders) == 1 else None
    counts = isinstance(number, int) and number > 0 and keywords.get("samples") is None
    if kind_of(folders[0]) == "gradient":
        return known | ({"batch_size": number} if counts and keywords.get("batch_size") in (None, 1) else {})
    hidden = keywords.get("unknown") or ()
    for name in LOCAL:
        if told.get(name) not in (None, False, 0) and keywords.get(name) in (None, False) and name not in hidden:
            known[name] = told[name]
    missing = tuple(name for name in WITHHELD if (known.get(name) or keywords.get(name)) is None)
    if "learning_rate" in missing and not hidden:  # a document that tells no rate tells nothing of the training
        known["unknown"] = missing
    partly = bool(hidden or "unknown" in known)  # then what decay took off is fitted, it cannot be computed
    if told.get("weight_decay") and keywords.get("weight_decay") is None and not partly:
        known["weight_decay"] = told["weight_decay"]
    known |= {"samples": number} if counts else {}
    _refuse_impossible(folders[0], known, keywords)
    return known


def _refuse_impossible(folder: Path, known: Mapping[str, Any], keywords: Mapping[str, Any]) -> None:
    """Refuse settings of a document that cannot be, by its name.

    Raises:
        UpdateError: One cannot be.
    """
    merged: dict[str, Any] = {name: keywords.get(name) for name in (*LOCAL, "weight_decay", "samples")} | dict(known)
    if merged["learning_rate"] is None:
        return
    try:
        Request(**merged)
    except UsageError as error:
        raise UpdateError(f"{folder}/round.json: {error.message}", error.hint) from error
