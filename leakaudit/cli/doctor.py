"""``leakaudit doctor``: what this machine has, and what each part enables."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import click

from leakaudit.cli.output import say


class Check(NamedTuple):
    """One part of the machine.

    Args:
        what: Its name.
        found: Whether it is there.
        detail: What was found, or what would bring it.
        enables: What works with it.
        needed: Whether no audit works without it.
    """

    what: str
    found: bool
    detail: str
    enables: str
    needed: bool = False


@click.command()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def doctor(debug: bool) -> None:
    """Check what this machine has: torch, device, compiler, fonts, onnxruntime, LPIPS weights, cache.

    \b
    Exit codes: 0 an audit can run, 3 something is missing that every audit needs.
    """
    failed = False
    for check in checks():
        mark = "ok" if check.found else "MISSING" if check.needed else "without"
        say(f"{mark:<8}{check.what}: {check.detail}", f"{'':<8}  for: {check.enables}")
        failed |= check.needed and not check.found
    sys.exit(3 if failed else 0)


def checks() -> Iterator[Check]:
    """All parts, those first that every audit needs."""
    parts: tuple[Callable[[], Check], ...] = (
        _torch, _device, _onnx, _exporter, _compiler, _runtime, _pdf, _fonts, _perceptual, _cache, _frameworks,
        _messages, _tables, _cluster,
    )  # fmt: skip
    for part in parts:
        yield part()


def _installed(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _torch() -> Check:
    found = _installed("torch", "torchvision")
    detail = ", ".join(f"{name} {number}" for name, number in found.items()) or "pip install torch torchvision"
    return Check("torch", len(found) == 2, detail, "everything", needed=True)


def _device() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:  # a library of CUDA that is not there is an OSError
        return Check("device", False, f"torch cannot be imported: {error}", "attacks", needed=True)
    if torch.cuda.is_available():
        return Check("device", True, torch.cuda.get_device_name(0), "attacks on the GPU")
    return Check("device", True, f"CPU, {torch.get_num_threads()} threads; no CUDA device", "attacks on the CPU")


def _onnx() -> Check:
    found = _installed("onnx")
    return Check("onnx", bool(found), found.get("onnx", "pip install onnx"), "ONNX models", needed=True)


def _compiler() -> Check:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    detail = found or "none found; install g++ or clang"
    return Check("C++ compiler", found is not None, detail, "long optimisations run as one compiled step")


def _runtime() -> Check:
    found = _installed("onnxruntime")
    detail = found.get("onnxruntime", "pip install leakaudit[export]; the slower reference of onnx is used instead")
    return Check("onnxruntime", bool(found), detail, "fast check that a model was read as its file says")


def _exporter() -> Check:
    return _extra("onnxscript", ("onnxscript",), "export", "torch.onnx.export of your own model")


def _pdf() -> Check:
    from leakaudit.report.formats.base import FormatUnavailable
    from leakaudit.report.formats.registry import chosen

    try:
        for kind in chosen(("pdf",)):
            kind.needs()
    except FormatUnavailable as notice:
        return Check("PDF", False, " ".join(str(notice).split()), "report.pdf")
    return Check("PDF", True, "WeasyPrint and Pango", "report.pdf")


def _fonts() -> Check:
    listing = shutil.which("fc-list")
    detail = "fontconfig" if listing else "fontconfig is not installed"
    return Check("fonts", listing is not None, detail, "names in other scripts are drawn in report.pdf")


def _perceptual() -> Check:
    try:
        from leakaudit.scoring.perceptual import HUB_FILE, INSTALL, find_weights, installed
    except (ImportError, OSError) as error:
        return Check("LPIPS", False, str(error), "the metric LPIPS")
    if not installed():
        return Check("LPIPS", False, INSTALL, "the metric LPIPS")
    there = find_weights() is not None
    missing = f"{HUB_FILE} is not in torch's cache; pass --lpips-weights FILE, as nothing is downloaded"
    return Check("LPIPS", there, f"{HUB_FILE} in torch's cache" if there else missing, "the metric LPIPS")


def _cache() -> Check:
    try:
        from leakaudit.cli.options.cache import cache_usable

        usable = cache_usable()
    except ImportError as error:
        return Check("cache", False, str(error), "a killed audit goes on where it was")
    detail = "can be written" if usable else "cannot be written; set LEAKAUDIT_CACHE_DIR"
    return Check("cache", usable, detail, "a killed audit goes on where it was")


def _frameworks() -> Check:
    return _extra("frameworks", ("flwr", "nvflare"), "flower", "recording rounds of Flower and NVFlare")


def _tables() -> Check:
    return _extra("Parquet", ("pyarrow",), "tables", "tables in Parquet files, and sweep.parquet")


def _cluster() -> Check:
    return _extra("Ray", ("ray",), "ray", "sweeps on a cluster")


def _messages() -> Check:
    return _extra("MessagePack", ("msgpack",), "nvflare", "updates in NVFlare's .fobs files")


def _extra(what: str, packages: tuple[str, ...], extra: str, enables: str) -> Check:
    found = _installed(*packages)
    detail = ", ".join(f"{name} {number}" for name, number in found.items()) or f"pip install leakaudit[{extra}]"
    return Check(what, bool(found), detail, enables)
