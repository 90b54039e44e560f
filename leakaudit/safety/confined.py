"""Opening what nobody vouches for in a process of its own, with limits; whatever way it dies is one sentence.

Claim: a file that crashes its reader, makes it run for ever or asks for more memory than it may costs the caller one
:class:`leakaudit.errors.LeakauditError`. The child gives back plain values (`leakaudit.safety.plain`), so nothing that
it holds is run by the parent. It prints nothing, writes to no file, and ends with its parent's patience.

How: ``fork`` without importing anything again, which takes milliseconds. A forked process must not use thread pools
that its parent has started, so torch computes with one thread there. The limits are ``RLIMIT_DATA``, ``RLIMIT_CPU``,
``RLIMIT_FSIZE`` and an alarm.

Fails to be a sandbox: the child is the same user, and code that a file brought to run there could do what that user
can. It bounds time and memory, and turns crashes of libraries into errors. Systems other than Linux have no such fork
that is safe; there the work is done in the process itself.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from leakaudit.errors import LeakauditError, kinds
from leakaudit.safety.plain import packed, unpacked

if sys.platform == "linux":
    import resource

T = TypeVar("T")
SUPPORTED = sys.platform == "linux"
_CHUNK = 1 << 20
WAITING = 60.0
"""Seconds after which a child that uses no processor time is given up: it waits for what never comes; chosen."""
_TICK = 2.0
"""Seconds between two looks at a child's processor time; chosen."""
_WAY_OUT = "the file is damaged or hostile: make it again"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What opening a file may cost.

    Args:
        memory: Bytes of memory beyond those that the process has already; more can be granted, see :func:`grant`.
        seconds: Of processor time.
    """

    memory: int = 3 << 29
    seconds: int = 50


ORPHANED = 3600
"""Seconds after which a child ends whatever it does, as its parent may be gone; chosen."""


class _State:
    """Whether this process is such a child, and whether children are made at all."""

    inside = False
    enabled = True


class RemoteTraceback(Exception):
    """The traceback of an error in a child, as a text."""


def confined(work: Callable[[], T], what: str, error: type[LeakauditError], limits: Limits | None = None) -> T:
    """The plain value that a function gives in a process of its own.

    Args:
        work: Opens a file and gives plain values; see `leakaudit.safety.plain`.
        what: The file, for messages.
        error: Kind of the error where the child dies, or raises what is no error of leakaudit.
        limits: Of the child.

    Raises:
        LeakauditError: The one that the function raised, or `error` where it was ended or failed otherwise.
    """
    if _State.inside or not (_State.enabled and SUPPORTED):
        return _here(work, what, error)
    limits = limits or Limits()
    tempfile.gettempdir()  # it tries whether files can be written; not in a child, where none can
    read, write = os.pipe()
    child = _fork()
    if child == 0:
        _run(work, read, write, limits)
    os.close(write)
    try:
        content = _received(read, child)
    finally:
        os.close(read)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it has answered, or is given up
        _, status = os.waitpid(child, 0)
    if content is None:
        raise error(f"{what} waits for something that does not come, for {WAITING:.0f} s", _WAY_OUT)
    result: T = _answer(content, status, what, error, limits)
    return result


def grant(memory: int) -> None:
    """In a child, allow more bytes, because what the file really holds justifies them; nothing elsewhere."""
    if _State.inside and sys.platform == "linux":
        now, most = resource.getrlimit(resource.RLIMIT_DATA)
        if now != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_DATA, (now + memory, most))


_EXHAUSTED = ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc", "bad allocation")
"""What errors say that are no `MemoryError`: those of torch for a card and for a processor, and of C++."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had; torch and C++ raise bare ones for that."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _EXHAUSTED)


def refuse_exhaustion(error: BaseException) -> None:
    """Where memory could not be had, nothing follows about what was computed.

    Raises:
        MemoryError: So it is.
    """
    if out_of_memory(error):
        raise MemoryError(str(error)) from error


def _here(work: Callable[[], T], what: str, error: type[LeakauditError]) -> T:
    """In this process; errors are the same as from a child."""
    try:
        return work()
    except LeakauditError:
        raise
    except Exception as failed:
        raise _unforeseen(_reason(failed), out_of_memory(failed), what, error) from failed


def _reason(failed: BaseException) -> str:
    lines = str(failed).strip().splitlines()
    return f"{type(failed).__name__}: {lines[0][:300]}" if lines else type(failed).__name__


def _unforeseen(reason: str, memory: bool, what: str, error: type[LeakauditError]) -> LeakauditError:
    """The error for what no reader has foreseen."""
    if memory:
        return error(f"{what} asks for more memory than its content justifies", _WAY_OUT)
    return error(f"{what} cannot be opened ({reason})", _WAY_OUT)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, none of which the child uses
        return os.fork()


def _run(work: Callable[[], Any], read: int, write: int, limits: Limits) -> NoReturn:
    """The child: work, answer, end; nothing of the parent's is finished or flushed."""
    try:
        _State.inside = True
        os.close(read)
        _restrict(limits)
        content = _attempted(work)
        with os.fdopen(write, "wb") as stream:
            stream.write(content)
    finally:
        os._exit(0)


def _restrict(limits: Limits) -> None:
    for number in (signal.SIGINT, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; a write fails instead
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    silent = os.fdopen(null, "w", encoding="utf-8")
    for name in ("stdout", "stderr"):
        setattr(sys, name, silent)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CPU, int(time.process_time()) + limits.seconds)
    _limit(resource.RLIMIT_DATA, _held() + limits.memory)
    signal.alarm(ORPHANED)
    faulthandler.disable()  # it would tell of a crash on the parent's terminal
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _held() -> int:
    """Bytes of data that the process has mapped."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        pages = int(stream.read().split()[5])
    return pages * resource.getpagesize()


def _attempted(work: Callable[[], Any]) -> bytes:
    """The answer: a value, an error of ours by its name, or what else was raised."""
    try:
        return packed({"value": work()})
    except LeakauditError as error:
        return packed({"error": type(error).__name__, "message": error.message, "hint": error.hint})
    except BaseException as error:
        told = "".join(traceback.format_exception(error))[-20_000:]
        return packed({"failed": _reason(error), "memory": out_of_memory(error), "traceback": told})


def _received(read: int, child: int) -> bytes | None:
    """All that the child writes, or ``None`` when it does nothing any more.

    A child that computes too much is ended by its limit; on a busy machine that may take any time on the clock.
    """
    parts: list[bytes] = []
    used, since = 0.0, time.monotonic()
    while time.monotonic() - since < WAITING:
        ready, _, _ = select.select([read], [], [], _TICK)
        if not ready:
            now = _processor_time(child)
            used, since = (now, time.monotonic()) if now > used else (used, since)
            continue
        part = os.read(read, _CHUNK)
        if not part:
            return b"".join(parts)
        parts.append(part)
        since = time.monotonic()
    return None


def _processor_time(child: int) -> float:
    """Seconds of processor time that a process has used."""
    try:
        with open(f"/proc/{child}/stat", encoding="ascii", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _answer(content: bytes, status: int, what: str, error: type[LeakauditError], limits: Limits) -> Any:
    """The value in an answer, or the error that it stands for."""
    try:
        found = unpacked(content)
    except ValueError:
        raise error(f"{what} {_death(status, limits)}", _WAY_OUT) from None
    if "value" in found:
        return found["value"]
    if "error" in found:
        raise kinds().get(found["error"], error)(found["message"], found["hint"])
    cause = RemoteTraceback(found["traceback"])
    raise _unforeseen(found["failed"], found["memory"], what, error) from cause


def _death(status: int, limits: Limits) -> str:
    """How a child ended that gave no answer."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in (signal.SIGXCPU, signal.SIGALRM):
        return f"takes more than {limits.seconds} s of processor time to open"
    if number == signal.SIGKILL:
        return "was given up while it was opened: the system ran out of memory"
    if number:
        return f"crashes the library that opens it ({signal.Signals(number).name})"
    return "asks for more memory than its content justifies, or ends the program that opens it"
