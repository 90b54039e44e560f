"""``--train-config FILE``: how the clients train, in TOML, for what a model file does not say.

::

    mode = "train"                  # or "eval"
    frozen = ["features.*"]         # tensors that clients do not train
    trained = ["prompt"]            # tensors at the input that they do train, of an ONNX file
    output = "logits"               # graph output to audit
    loss = "cross-entropy"          # or "bce", for a single logit or several classes; "mse", "l1", "huber" for numbers;
                                    # with settings, as "cross-entropy:smoothing=0.1"; no function of your own
    task = "single-label"           # or "multi-label", "regression"; told from outputs and labels where it is left out
    pos_weight = [2.0, 5.0]         # weights of the marked classes where a sample has several
    batchnorm = "running"           # or "batch"; follows the mode where it is left out
    share_bn_statistics = "batch"   # or "running": BatchNorm statistics that go with an update; "none"
    learning_rate = 0.01            # clients take local steps and share their weights; with it
    local_epochs = 1                # all of these
    local_batch_size = 32
    optimizer = "sgd"               # or "adam", "adamw", "rmsprop"
    momentum = 0.9
    nesterov = false
    weight_decay = 5e-4
    drop_last = false

    [dropout]                       # put back behind these nodes or modules
    "/relu/Relu" = 0.5

Every key is optional. A key or value that is not one of these is an error, never ignored: a typing mistake would audit
another training than the one that the file's author means.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from leakaudit.errors import UsageError
from leakaudit.safety.files import ordinary
from leakaudit.safety.toml import read_toml
from leakaudit.tasks.heads_text import FORM
from leakaudit.tasks.loss_text import parse_loss
from leakaudit.tasks.names import LOSSES, TASKS


def read_train_config(path: str | Path) -> dict[str, Any]:
    """The settings in a file, as keyword arguments of `leakaudit.target.load`; only those that it names.

    Raises:
        UsageError: The file is not there or is not TOML, or a key or value is none of those above.
    """
    file = Path(path)
    settings = {}
    for key, value in _parse(file).items():
        if key not in _KEYS:
            raise UsageError(f"{file}: unknown key {key!r}, expected one of {', '.join(_KEYS)}", _hint(key))
        expected, valid = _KEYS[key]
        if not valid(value):
            raise UsageError(f"{file}: {_offender(key, value)}, expected {expected}", "correct the file")
        settings[key] = {name: float(p) for name, p in value.items()} if key == "dropout" else value
    return settings


def _parse(file: Path) -> dict[str, Any]:
    if not ordinary(file).is_file():
        raise UsageError(f"--train-config {file} is not a file", "pass a TOML file")
    return read_toml(file, f"--train-config {file}", 'lines look like mode = "train", texts in quotes')


def _one_of(*choices: str) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(f'"{choice}"' for choice in choices), lambda value: value in choices


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _is_probabilities(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_probability(p) for p in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_loss(value: Any) -> bool:
    """Whether a value is a loss of ours: a file may come with a policy that was found, and cannot name code."""
    try:
        return isinstance(value, str) and parse_loss(value).name is not None
    except ValueError:
        return False


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(_is_number(item) and 0 < item < float("inf") for item in value)
    )


_POSITIVE = ("a number above 0", lambda value: _is_number(value) and 0 < value < float("inf"))
_COUNT = ("a whole number, 1 or more", lambda value: _is_number(value) and isinstance(value, int) and value > 0)
_YES_OR_NO = ("true or false", lambda value: isinstance(value, bool))

_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "mode": _one_of("eval", "train"),
    "frozen": ('a list of patterns, as ["features.*"]', _is_texts),
    "trained": ('a list of patterns, as ["prompt"]', _is_texts),
    "output": (f"a text: {FORM}", lambda value: isinstance(value, str) and bool(value)),
    "dropout": ('a table of NODE = P with P from 0 to below 1, as "/relu/Relu" = 0.5', _is_probabilities),
    "loss": (f"{', '.join(LOSSES)}, with their settings", lambda value: _is_loss(value)),
    "task": _one_of(*TASKS),
    "pos_weight": ("a list of numbers above 0, as [2.0, 5.0]", _is_weights),
    "batchnorm": _one_of("batch", "running"),
    "share_bn_statistics": _one_of("none", "batch", "running"),
    "learning_rate": _POSITIVE,
    "local_epochs": _COUNT,
    "local_batch_size": _COUNT,
    "optimizer": _one_of("sgd", "adam", "adamw", "rmsprop"),
    "momentum": _POSITIVE,
    "nesterov": _YES_OR_NO,
    "weight_decay": _POSITIVE,
    "drop_last": _YES_OR_NO,
}


def _offender(key: str, value: Any) -> str:
    """The setting as the user wrote it; of a table, the first entry that is wrong."""
    if key == "dropout" and isinstance(value, dict):
        node, p = next((node, p) for node, p in value.items() if not _is_probability(p))
        return f"[dropout] {node!r} = {p!r}"
    return f"{key} = {value!r}"


_OTHERWISE = {
    "algorithm": "clients that set learning_rate take local steps and share weights, others share one gradient",
    "local_steps": "the number of steps follows from local_epochs and local_batch_size",
    "lr": "write learning_rate",
    "batch_size": "write local_batch_size",
    "epochs": "write local_epochs",
    "reduction": "a sum over the batch is its mean times the batch size, which the server knows: leave the key out",
    "label_smoothing": 'write loss = "cross-entropy:smoothing=0.1"',
    "class_weights": 'write loss = "cross-entropy:weights=[1,2]"',
}
"""Keys that people write for what is said otherwise, or not at all."""


def _hint(key: str) -> str:
    if key in _OTHERWISE:
        return _OTHERWISE[key]
    return "node names with dots or slashes belong in quotes below [dropout]" if "." in key or "/" in key else ""
