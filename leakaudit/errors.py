"""The errors that a user can cause, and the exit code each one leads to.

::

    LeakauditError                      exit code
    ├── UsageError                      2   the command line: an option, a path that does not exist, --out not writable
    │   └── OwnCodeError                    a function of the user's own raised, on samples perhaps
    └── AuditError                      3   the content of a file: it cannot be audited as it is
        ├── ModelError                      not a model, damaged, unsupported, nothing trainable
        ├── BatchError                      wrong shape, dtype, labels, not-a-number values, pickled objects
        └── UpdateError                     a recorded update with other names or shapes than the model's

Each says in one line *what* is wrong, *where*, and what was *expected*; ``hint`` names the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

LONGEST = 1000
"""Letters of a message; chosen: names in files may have megabytes."""


def _line(text: str) -> str:
    """One line, without its middle where it is too long."""
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST // 2]} … {flat[-LONGEST // 2 :]}"


class LeakauditError(Exception):
    """Base of every error that a user can cause.

    Args:
        message: One line: the thing, its value, what was expected.
        hint: One line: the way out. May be empty.
    """

    exit_code: ClassVar[int] = 3
    quotes_samples: ClassVar[bool] = False
    """Whether the message may hold values, names or paths of private samples."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = _line(message)
        self.hint = _line(hint)

    @property
    def discreet(self) -> str:
        """The message, or in place of one that may quote private samples what kind of error it is."""
        return str(type(self).__doc__).splitlines()[0] if self.quotes_samples else self.message


class UsageError(LeakauditError):
    """The command line is wrong: an option's value, a path that is not there, an output folder not writable."""

    exit_code = 2


class OwnCodeError(UsageError):
    """A function of the user's own raised."""

    quotes_samples: ClassVar[bool] = True


class AuditError(LeakauditError):
    """A file was read but cannot be audited."""

    exit_code = 3


class ModelError(AuditError):
    """The model file is damaged, unsupported, or has nothing to train."""


class BatchError(AuditError):
    """The sample file does not hold samples that this model takes."""

    quotes_samples: ClassVar[bool] = True


class UpdateError(AuditError):
    """The recorded update is not one of this model."""

    quotes_samples: ClassVar[bool] = True


def first_line(error: BaseException, longest: int = LONGEST) -> str:
    """What an error of another library says, in one line; its kind where it says nothing.

    Args:
        error: A message of any number of lines, or none, as of a ``MemoryError``.
        longest: Letters.
    """
    lines = str(error).strip().splitlines()
    return lines[0][:longest] if lines else type(error).__name__


def kinds() -> dict[str, type[LeakauditError]]:
    """All errors by the names of their classes, so that one can be made again that another process has told of."""
    found: dict[str, type[LeakauditError]] = {}
    pending: list[type[LeakauditError]] = [LeakauditError]
    while pending:
        kind = pending.pop()
        found[kind.__name__] = kind
        pending.extend(kind.__subclasses__())
    return found


def nearest(name: str, known: Iterable[str], otherwise: str, meant: str = "{}") -> str:
    """A hint about a name that there is not: the most similar that there is.

    Args:
        name: As it was given.
        known: Names that there are.
        otherwise: The hint where none is similar.
        meant: How the name is written, with ``{}`` in its place.
    """
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {meant.format(close[0])}?" if close else otherwise
