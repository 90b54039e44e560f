"""One input in a process of its own: what came of it, how long it took, how much memory, and whether it ran code."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakaudit.safety import confined

SECONDS = 60.0
"""Longest time that any input may take."""
MEMORY = 2 << 30
"""Bytes by which an input may exceed the honest file that it was made from."""
CEILING = 8 << 30
"""Bytes that a run may map at all; a guard for the machine, above what counts as too much."""
CALLS = frozenset(
    {
        "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.mkdir", "os.rename",
        "os.remove", "os.rmdir", "shutil.rmtree", "os.symlink", "os.link", "pickle.find_class", "ctypes.dlopen",
    }
)  # fmt: skip
"""Events of Python that no reader of a foreign file has a reason for."""


@dataclass(frozen=True)
class Outcome:
    """What came of an input.

    Args:
        kind: ``read``, ``refused`` with a typed error, ``internal`` error, ``crash``, ``hang``, ``memory`` or ``code``.
        text: The error or the death.
        seconds: On the clock.
        memory: Bytes of growth at the peak, of the process or of a child of it.
        trace: Traceback of an internal error.
    """

    kind: str
    text: str = ""
    seconds: float = 0.0
    memory: int = 0
    trace: str = ""

    @property
    def fails(self) -> bool:
        """Whether it is a defect."""
        return self.kind not in ("read", "refused")


class Expired(BaseException):
    """The time of an input is over; no reader's ``except Exception`` takes it for a defect of the file."""


def outcome(subject: Callable[[Path], object], path: Path, *, children: bool = False) -> Outcome:
    """What comes of a file, unless asked without the children in which leakaudit opens files: that takes half the time.

    What would be their limits' to end there (a crash, too much time or memory) is read once more with them.
    """
    found = once(subject, path, children=children)
    return once(subject, path) if found.kind in ("crash", "hang", "memory") else found


def here(subject: Callable[[Path], object], path: Path, seconds: float = SECONDS) -> Outcome:
    """The same in this process, without children: quick, for files that are not expected to be defects.

    Memory is told from the peak of the process, so growth below an earlier peak does not show.
    """

    def over(number: int, frame: object) -> None:
        raise Expired

    before, began = _peak(), time.monotonic()
    previous, enabled = signal.signal(signal.SIGALRM, over), confined._State.enabled
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again and again: a reader may catch it
    confined._State.enabled = False
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (confined._held() + 2 * MEMORY, limits[1]))
    try:
        kind, text, trace = attempt(subject, path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.signal(signal.SIGALRM, previous)
        confined._State.enabled = enabled
    growth, took = max(0, _peak() - before), time.monotonic() - began
    if took > seconds:
        return Outcome("hang", f"more than {seconds:.0f} s", took, growth, trace)
    return Outcome("memory" if growth > MEMORY and kind != "internal" else kind, text, took, growth, trace)


def once(
    subject: Callable[[Path], object],
    path: Path,
    seconds: float = SECONDS,
    memory: int = MEMORY,
    *,
    children: bool = True,
) -> Outcome:
    """Give a file to a subject in a forked process.

    Args:
        subject: Reads the file, as a command would.
        path: The file or folder.
        seconds: After which it is ended.
        memory: Bytes of growth above which it counts as too much.
        children: Whether files are opened in children of that process, as commands do.
    """
    read, write = os.pipe()
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(read)
        confined._State.enabled = children
        _child(subject, path, write, seconds)
    os.close(write)
    content = _received(read, began + seconds)
    os.close(read)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    took = time.monotonic() - began
    if content is None:
        return Outcome("hang", f"more than {seconds:.0f} s", took)
    if not content:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return Outcome("crash", signal.Signals(number).name if number else "no answer", took)
    found = json.loads(content)
    kind = "memory" if found["memory"] > memory and found["kind"] in ("read", "refused") else found["kind"]
    return Outcome(kind, found["text"], took, found["memory"], found["trace"])


def _received(read: int, deadline: float) -> bytes | None:
    parts = []
    while (left := deadline - time.monotonic()) > 0 and select.select([read], [], [], left)[0]:
        part = os.read(read, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def _child(subject: Callable[[Path], object], path: Path, write: int, seconds: float) -> None:
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(seconds) + 5)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (CEILING, CEILING))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        before = _peak()
        ran = watch()
        kind, text, trace = attempt(subject, path)
        if ran:
            kind, text = "code", ", ".join(sorted(ran))
        answer = {"kind": kind, "text": text, "trace": trace, "memory": max(0, _peak() - before)}
        os.write(write, json.dumps(answer).encode()[: 1 << 16])
    finally:
        os._exit(0)


def attempt(subject: Callable[[Path], object], path: Path) -> tuple[str, str, str]:
    """Kind, text and traceback of what came of it in this process."""
    import click

    from leakaudit.errors import LeakauditError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject(path)
    except LeakauditError as error:
        return "refused", error.message[:2000], ""
    except (click.ClickException, click.Abort) as error:
        return "refused", str(error)[:2000], ""
    except BaseException as error:
        text = f"{type(error).__name__}: {str(error)[:300]}"
        return "internal", text, "".join(traceback.format_exception(error))[-6000:]
    return "read", "", ""


def watch() -> set[str]:
    """Events of :data:`CALLS` from now on, and files opened for writing; this cannot be undone in a process."""
    found: set[str] = set()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "ctypes.dlopen" and "site-packages" in str(arguments[0]):
            return  # an installed library that is imported late
        if event == "os.mkdir" and Path(str(arguments[0])).name.startswith("torchinductor"):
            return  # torch's own folder for compiled code
        if event in CALLS:
            found.add(f"{event} {str(arguments[:2])[:80]}")
        elif event == "open" and _writes(arguments):
            found.add(f"open {arguments[0]} to write")

    sys.addaudithook(hook)
    return found


def _writes(arguments: tuple[Any, ...]) -> bool:
    """Whether an ``open`` is of a file by its name, and for writing."""
    to_write = isinstance(arguments[1], str) and bool(set(arguments[1]) & set("wax+"))
    return to_write and not isinstance(arguments[0], int) and str(arguments[0]) != os.devnull


def _peak() -> int:
    """Bytes at the peak of this process, or of a child of it."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024
