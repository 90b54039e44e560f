"""The one writer of recorded rounds: a folder of numbers, without pickle.

``before.safetensors`` and one of ``after``, ``delta`` or ``gradient`` hold arrays by name, and ``round.json`` what is
known of the round. ``batch.npz`` and ``masks.safetensors`` are there where the caller's own code had them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

SETTINGS = (
    "framework",
    "framework_version",
    "round",
    "client",
    "num_examples",
    "learning_rate",
    "optimizer",
    "momentum",
    "nesterov",
    "weight_decay",
    "schedule",
    "local_epochs",
    "local_batch_size",
    "drop_last",
    "local_steps",
    "step_sizes",
    "shuffle",
    "mode",
    "filters",
    "dtype",
    "masked",
    "buffers",
)
"""What ``round.json`` may say of a round; all of it optional."""
FORMAT = "leakaudit-round"
VERSION = 1
Arrays = Mapping[str, Any] | Sequence[Any]
"""Arrays or tensors by name, or in the order of a state dict."""
Result = TypeVar("Result")


class CaptureWarning(UserWarning):
    """A round could not be recorded, wholly or in part; the training is not affected."""


def record(
    before: Arrays,
    after: Arrays | None = None,
    *,
    out: str | os.PathLike[str],
    delta: Arrays | None = None,
    gradient: Arrays | None = None,
    batch: Mapping[str, Any] | None = None,
    masks: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path | None:
    """Write one round of one client.

    Args:
        before: Weights that the client started from: arrays or tensors by name, or a list in the order of the state
            dict.
        after: Weights that it sent.
        out: Folder of the round. One that holds a round already is kept, and ``-2`` and so on is appended.
        delta: What it sent instead: weights after minus weights before.
        gradient: Or a gradient.
        batch: Its samples, where they may be kept: ``inputs`` and ``labels``, and ``order`` (epochs, samples).
        masks: Dropout keep masks by ``step/layer``.
        settings: Of :data:`SETTINGS`, such as ``learning_rate=0.05, local_epochs=2``.

    Returns:
        The folder, or ``None`` where it could not be written, with a :class:`CaptureWarning`.
    """
    sent = {"after": after, "delta": delta, "gradient": gradient}
    return safely(lambda: _write(before, sent, Path(out), batch, masks, settings))


def safely(action: Callable[[], Result]) -> Result | None:
    """Run it; whatever goes wrong becomes a warning."""
    try:
        return action()
    except Exception as error:  # a recorder must not end a training
        warnings.warn(f"round not recorded: {type(error).__name__}: {error}", CaptureWarning, stacklevel=3)
        return None


def _write(
    before: Arrays,
    sent: Mapping[str, Arrays | None],
    out: Path,
    batch: Mapping[str, Any] | None,
    masks: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
) -> Path:
    from safetensors.numpy import save_file

    given = [kind for kind, arrays in sent.items() if arrays is not None]
    if len(given) != 1:
        raise ValueError(f"pass one of after, delta and gradient, got {', '.join(given) or 'none'}")
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown:
        warnings.warn(f"{unknown[0]} is left out: known are {', '.join(SETTINGS)}", CaptureWarning, stacklevel=4)
    facts = {name: value for name, value in settings.items() if name in SETTINGS and value is not None}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # only its owner can read it
    try:
        save_file(arrays_of(before), str(part / "before.safetensors"))
        save_file(arrays_of(sent[given[0]] or {}), str(part / f"{given[0]}.safetensors"))
        if masks:
            save_file(arrays_of(masks), str(part / "masks.safetensors"))
        if batch:
            import numpy as np

            arrays: dict[str, Any] = arrays_of(batch)
            np.savez(part / "batch.npz", **arrays)
        document = {"format": FORMAT, "version": VERSION, "kind": given[0], **facts}
        (part / "round.json").write_text(json.dumps(document, indent=2, default=_plain), encoding="utf-8")
        return _moved(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _moved(part: Path, out: Path) -> Path:
    """The finished folder under its name, or the next that is free: nothing is overwritten."""
    number = 1
    while True:
        place = out if number == 1 else out.with_name(f"{out.name}-{number}")
        if not place.exists():
            part.rename(place)
            return place
        number += 1


def arrays_of(values: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of numbers by name; those of a list are ``arr_0``, ``arr_1``, … in its order.

    Raises:
        TypeError: Something in it is no array of numbers.
    """
    if not isinstance(values, Mapping):
        values = {f"arr_{number}": value for number, value in enumerate(values)}
    return {str(name): _array(str(name), value) for name, value in values.items()}


def _array(name: str, value: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    if hasattr(value, "detach"):  # a torch tensor; bfloat16 has no counterpart in numpy, float32 holds it exactly
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    found: np.ndarray[Any, Any] = np.ascontiguousarray(value).reshape(np.shape(value))
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{name} holds {found.dtype}, expected numbers")
    return found


def _plain(value: Any) -> Any:
    """Numbers of numpy and alike as JSON's own; everything else as text."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else str(value)


def folder_name(number: Any, client: Any) -> str:
    """The folder of one client's round within the recorder's folder."""
    words = (f"round-{number}", *(() if client in (None, "") else (f"client-{client}",)))
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word) for word in words)
