"""Loading a model file that nobody vouches for: first in a process of its own with limits, then here.

The child loads the file as `leakaudit.target.load` would, runs the network, and tells what it has found out
(`leakaudit.target.answers`) and the hash of what it read. Here the same bytes then pass the same code without running
the network again. A file that kills the child is never opened here.

What is not done twice: the function of ``--factory`` and what ``--unsafe-pickle`` unpickles are the user's own code and
run here alone, and so is the function of ``--loss``; of the first the weights are read in the child.

After a first derivative, torch computes none in forked processes (its engine keeps threads). Where this process has
computed one, as from the second model of a session on, the child tells what it found out before the first derivative,
and the rest is asked here.

Fails where a file changes between both readings and back again.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from leakaudit.errors import ModelError, UsageError
from leakaudit.safety.confined import Limits, confined, grant, refuse_exhaustion
from leakaudit.safety.files import ordinary
from leakaudit.target.answers import giving, recording
from leakaudit.target.hashing import hash_model
from leakaudit.target.load import load
from leakaudit.target.parts import keep_little
from leakaudit.target.readers import reader_of
from leakaudit.target.target import Target
from leakaudit.tasks.loss_text import loss_runs_code

BYTES_PER_SECOND = 2 << 20
"""Size of a file that allows a second more; chosen: ResNet-50 of 98 MB loads in less than a third of its time."""
GROWTH = 12
"""Bytes of memory that a byte of a file allows: weights, three gradients, what is kept for the second one; chosen."""


def load_isolated(path: str | Path, **options: Any) -> Target:
    """As `leakaudit.target.load` with a path, whatever is in the file.

    Raises:
        ModelError: The content cannot be audited, or opening it takes more time or memory than it justifies.
        UsageError: The file does not exist, or an argument does not fit the model.
    """
    file = ordinary(Path(path))
    if not file.is_file():
        raise UsageError(f"{file} is not a file", "pass the path of a model file")
    size = file.stat().st_size
    limits = Limits(seconds=Limits.seconds + size // BYTES_PER_SECOND)
    if options.get("unsafe_pickle"):
        return load(file, **options)
    if options.get("factory"):
        confined(lambda: _weights(file, size), str(file), ModelError, limits)
        return load(file, **options)
    _import_what_both_need()
    looked = {**options, "loss": None} if loss_runs_code(options.get("loss") or "") else options
    found = confined(lambda: _looked_at(file, size, looked), str(file), ModelError, limits)
    with giving(found["answers"]):
        target = load(file, **options)
    if target.sha256 != found["sha256"]:
        raise ModelError(f"{file} changed while it was read", "scan a file that nobody writes to")
    return target


def _import_what_both_need() -> None:
    """Import before the fork: what a child imports, its parent would import once more."""
    import leakaudit.target.modules
    import leakaudit.target.onnx.load  # noqa: F401


def _weights(file: Path, size: int) -> int:
    """How many tensors a file of weights holds."""
    grant(GROWTH * size)
    reader = reader_of(file)
    return 0 if reader.weights is None else len(reader.weights(file))


def _looked_at(file: Path, size: int, options: dict[str, Any]) -> dict[str, Any]:
    """In the child: the hash of the file, and what running it answered."""
    grant(GROWTH * size)
    keep_little()
    sha256 = hash_model(file)  # before anything is read: who replaces the file meanwhile is found out
    if not _differentiates():
        torch.autograd.grad = torch.autograd.backward = _no_derivative
    with recording() as answers, suppress(_NoDerivative):
        load(file, **options)
    return {"sha256": sha256, "answers": answers}


class _NoDerivative(BaseException):
    """Torch computes no derivative in this process; no reader may take that for a trait of the model."""


def _no_derivative(*_: Any, **__: Any) -> Any:
    raise _NoDerivative


def _differentiates() -> bool:
    """Whether torch computes derivatives in this process."""
    x = torch.ones((), requires_grad=True)
    try:
        torch.autograd.grad(x * x, x)
    except RuntimeError as error:
        refuse_exhaustion(error)
        return False
    return True
