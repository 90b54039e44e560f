"""The machine that an audit runs on: device, threads, seeds, time and versions, so that a report can be repeated."""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import numpy as np
import torch

from leakaudit.errors import UsageError
from leakaudit.target.size import is_small
from leakaudit.target.target import Target

PACKAGES = ("torch", "torchvision", "onnx", "onnx2torch", "numpy", "scipy", "lpips")


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to run on.

    Raises:
        UsageError: ``cuda`` was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: no CUDA device is available", "use --device auto or --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def reproducible(target: Target, seed: int) -> Iterator[None]:
    """Deterministic cuDNN, a seeded global generator for whatever in a model still draws from it, and threads by size.

    On a small network threads cost more than they bring (twice the time on two cores). The choice goes by size, not by
    a measurement, because the number of threads changes the last bits of every sum.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        torch.manual_seed(seed)
        torch.set_num_threads(thread_count(target, threads))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def thread_count(target: Target, available: int) -> int:
    """Threads to use for this model: all that are available, or one where a forward is too little work to share."""
    return 1 if is_small(target) else available


def batches_well(target: Target) -> bool:
    """Whether several samples of this model in one step cost less than one after the other: on a GPU, or if small."""
    return next(iter(target.parameters.values())).is_cuda or is_small(target)


def seed_of(seed: int, purpose: str, number: int) -> int:
    """An independent seed for each purpose and victim."""
    state = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), number]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def timestamp() -> str:
    """Now in UTC, or ``SOURCE_DATE_EPOCH``, as ISO 8601.

    Raises:
        UsageError: That variable is no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now(timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {epoch!r}, expected seconds since 1970", "unset it, or set it to a whole number"
        ) from error
    return moment.isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the packages that decide the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
