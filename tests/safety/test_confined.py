"""Work in a process of its own: its value or its error comes back, and every way of dying is one sentence."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leakaudit.errors import BatchError, ModelError
from leakaudit.safety import confined as module
from leakaudit.safety.confined import Limits, RemoteTraceback, confined, grant, out_of_memory

pytestmark = pytest.mark.skipif(not module.SUPPORTED, reason="children are forked on Linux only")
SHORT = Limits(seconds=1)


def ended(work: Callable[[], Any], limits: Limits | None = None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        confined(work, "the file x", ModelError, limits)
    return caught.value


def test_values_come_back_and_nothing_else_changes() -> None:
    seen: list[int] = []

    def work() -> Any:
        seen.append(os.getpid())
        return {"pid": os.getpid(), "tensor": torch.ones(2, 3), "array": np.arange(3), "rest": [None, (1, "a")]}

    found = confined(work, "the file x", ModelError)
    assert found["pid"] != os.getpid()
    assert torch.equal(found["tensor"], torch.ones(2, 3))
    assert found["array"].tolist() == [0, 1, 2]
    assert found["rest"] == [None, (1, "a")]
    assert seen == [], "what the child holds stays there"


def test_large_answers_come_whole() -> None:
    assert torch.equal(confined(lambda: torch.arange(5_000_000), "x", ModelError), torch.arange(5_000_000))


def test_errors_of_ours_come_back_as_they_are() -> None:
    def work() -> None:
        raise BatchError("what is wrong", "the way out")

    with pytest.raises(BatchError, match="what is wrong") as caught:
        confined(work, "the file x", ModelError)
    assert caught.value.hint == "the way out"


def test_other_errors_are_one_line_with_the_traceback_for_debugging() -> None:
    error = ended(lambda: [][1])
    assert error.message == "the file x cannot be opened (IndexError: list index out of range)"
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "test_confined.py" in str(error.__cause__)


def crash() -> None:
    ctypes.string_at(0)


DEATHS: list[tuple[str, Callable[[], Any], str]] = [
    ("segmentation fault", crash, r"crashes the library that opens it \(SIGSEGV\)"),
    ("abort", os.abort, r"crashes the library that opens it \(SIGABRT\)"),
    ("killed", lambda: os.kill(os.getpid(), signal.SIGKILL), "the system ran out of memory"),
    ("busy", lambda: sum(iter(int, 1)), "more than 1 s of processor time"),
    ("too much memory", lambda: bytearray(8 << 30), "more memory than its content justifies"),
    ("too much for torch", lambda: torch.empty(2 << 30).sum().item(), "more memory than its content justifies"),
    ("exit", lambda: os._exit(0), "ends the program"),
    ("no plain value", lambda: object(), "cannot be opened"),
    ("system exit", sys.exit, "cannot be opened"),
]  # fmt: skip


@pytest.mark.parametrize(("work", "match"), [d[1:] for d in DEATHS], ids=[d[0] for d in DEATHS])
def test_every_way_of_dying_is_a_sentence(work: Callable[[], Any], match: str) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match=match):
        confined(work, "the file x", ModelError, SHORT)
    assert time.monotonic() - began < 20


def test_waiting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 1.0)
    monkeypatch.setattr(module, "_TICK", 0.2)
    began = time.monotonic()
    assert "waits for something that does not come" in ended(lambda: time.sleep(60)).message
    assert time.monotonic() - began < 20


def test_who_works_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 1.5)
    monkeypatch.setattr(module, "_TICK", 0.2)

    def work() -> int:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            sum(range(1000))
        return 7

    assert confined(work, "x", ModelError) == 7


def test_what_the_content_justifies_can_be_granted() -> None:
    limits = Limits(memory=128 << 20)

    def work(more: int) -> int:
        grant(more)
        return len(bytearray(512 << 20))

    assert confined(lambda: work(1 << 30), "x", ModelError, limits) == 512 << 20
    assert "memory" in ended(lambda: work(0), limits).message
    before = resource.getrlimit(resource.RLIMIT_DATA)
    grant(1 << 30)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before, "nothing changes outside a child"


def test_it_writes_to_no_file_and_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> str:
        os.write(1, b"to the terminal")
        sys.stderr.write("and so")
        sys.stderr.flush()
        try:
            (tmp_path / "written").write_bytes(b"content")
        except OSError as error:
            return str(error.strerror)
        return "written"

    assert confined(work, "x", ModelError) == "File too large"
    assert capfd.readouterr() == ("", "")


def test_inside_a_child_there_is_no_second_one() -> None:
    def work() -> list[int]:
        return [os.getpid(), confined(os.getpid, "x", ModelError)]

    outer, inner = confined(work, "x", ModelError)
    assert outer == inner != os.getpid()


def test_it_works_beside_threads_and_after_their_pools_ran() -> None:
    torch.set_num_threads(2)
    try:
        (torch.rand(400, 400) @ torch.rand(400, 400)).sum()
        stop = threading.Event()
        threads = [threading.Thread(target=stop.wait) for _ in range(3)]
        for thread in threads:
            thread.start()

        def work() -> float:
            weight = torch.rand(300, 300)
            return float((weight @ weight).relu().isfinite().all())

        for _ in range(5):
            assert confined(work, "x", ModelError) == 1.0
        stop.set()
    finally:
        torch.set_num_threads(1)


def test_no_child_is_left() -> None:
    confined(lambda: 1, "x", ModelError)
    ended(crash)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_failed_allocations_are_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
