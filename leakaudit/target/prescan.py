"""Looking at an archive before torch opens it: zip bombs, and whatever in a ``.pt2`` would run code.

Claim: after `scan` of a ``.pt2``, `torch.export.load` unpickles nothing but what ``weights_only=True`` has read before,
and loads no compiled library. What torch unpickles, or loads as a library, is told by names and settings inside the
archive, so everything that is not known to be read as plain numbers or JSON is refused:

- ``models/*.json`` and the payload settings, as JSON in which no ``use_pickle`` is set, no custom object is named,
  every called function is a tensor operator (torch resolves ``torch.os.system`` as well), and every size expression is
  plain arithmetic (torch hands them to `sympy.sympify`, which evaluates Python);
- raw numbers below ``data/weights`` and ``data/constants``, which torch reads so unless the settings say otherwise;
- files of `torch.save` (sample inputs, the old format's weights) that hold tensors only;
- the archive's own notes (``version``, ``byteorder``, …).

Fails against defects of torch's own readers of numbers. Not scanned: TorchScript, whose unpickler knows no Python code.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from leakaudit.errors import ModelError

MAX_ARCHIVE_BYTES = 8 << 30
MAX_MEMBERS = 100_000
MAX_RATIO = 200
"""A member that grows by more than this is a bomb; weights hardly compress at all."""
MAX_JSON_BYTES = 256 << 20
MAX_NUMBERS_BYTES = 256 << 20
"""Largest file of `torch.save` that is read beforehand."""
_NOTES = re.compile(
    r"(archive_format|archive_version|version|byteorder|\.format_version|\.storage_alignment|\.data/.*|extra/.*)"
)
_RAW = re.compile(r"data/(weights|constants)/(?!custom_obj|opaque_obj)[^/]*(?<!\.pt)(?<!\.pkl)(?<!\.pickle)")
_RESOLVED = ("torch", "_operator", "math", "#")
"""How the names begin that torch turns into functions."""
_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims?|torchvision)\.(?!from_file|save|load)\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|associative_scan|map_impl|wrap_with_(autocast|set_grad_enabled))"
    r"|torch\.(_sym_\w+|sym_\w+)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt|pow|log2)"
)
_ARITHMETIC = re.compile(r"[\w\s+\-*/%(),.<>=!&|~]*")
_LITERAL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)|Float\('[\d.e+-]+', precision=\d+\)")
"""What sympy writes with quotes."""
_FUNCTIONS = frozenset({
    "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "IntTrueDiv",
    "FloatTrueDiv", "TruncToInt", "TruncToFloat", "RoundToInt", "ToFloat", "CeilToInt", "FloorToInt", "PowByNatural",
    "FloatPow", "Pow", "Abs", "floor", "ceiling", "sqrt", "Add", "Mul", "Rational", "Integer", "Eq", "Ne", "Lt", "Le",
    "Gt", "Ge", "And", "Or", "Not", "Where", "Piecewise", "Identity", "LShift", "RShift", "Equality", "Unequality",
    "StrictLessThan", "StrictGreaterThan", "LessThan", "GreaterThan",
})  # fmt: skip
_SAVED = re.compile(r".*\.pt|serialized_(state_dict|constants|example_inputs)(\.pt|\.json)?")


def scan(path: Path, kind: str) -> None:
    """Look at an archive without unpacking it.

    Raises:
        ModelError: It would unpack to too much, or a ``.pt2`` holds something that would run code.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS or total > MAX_ARCHIVE_BYTES:
            raise ModelError(
                f"{path} would unpack to {total} bytes in {len(members)} files", "it is damaged or hostile"
            )
        for member in members:
            if member.file_size > 1 << 20 and member.file_size > MAX_RATIO * max(1, member.compress_size):
                raise ModelError(
                    f"{path}: {member.filename!r} grows from {member.compress_size} to {member.file_size} bytes",
                    "it is damaged or hostile",
                )
        if kind == "exported":
            _scan_members(archive, members, path)


def _scan_members(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], path: Path) -> None:
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ModelError(f"{path} holds two files of one name", "it is damaged or hostile")
    for member in members:
        inner = member.filename.partition("/")[2] or member.filename
        if _SAVED.fullmatch(inner):
            reason = "" if _only_numbers(archive, member) else "is a pickle of more than numbers"
        elif inner.endswith(".json"):
            reason = _settings(archive, member)
        elif _NOTES.fullmatch(inner) or member.is_dir():
            reason = ""
        elif _RAW.fullmatch(inner):
            reason = "is a pickle in the place of numbers" if _is_pickle(archive, member) else ""
        else:
            reason = "is no part of an exported program: a pickle, a compiled library or a custom object"
        if reason:
            raise ModelError(
                f"{path}: {member.filename!r} {reason}; opening it could run code",
                "export it again with torch.export.save, without custom objects",
            )


def _settings(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    """What in a JSON member would make torch unpickle, or ""."""
    if member.file_size > MAX_JSON_BYTES:
        return f"has {member.file_size} bytes, more than is read beforehand"
    try:
        content: Any = json.loads(archive.read(member))
    except (ValueError, RecursionError):
        return "is not JSON"
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            objection = next((text for key, item in value.items() if (text := _objection(key, item))), "")
            if objection:
                return objection
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return ""


def _objection(key: str, value: Any) -> str:
    """What is wrong with one setting, or ""."""
    if key == "use_pickle" and value:
        return "asks for pickled weights"
    if not isinstance(value, str):
        return ""
    if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\w+", value):
        return f"names the custom object {value[:80]!r}"
    if key == "target" and value.startswith(_RESOLVED) and not _OPERATORS.fullmatch(value):
        return f"calls {value[:80]!r}, which is no tensor operator"
    if key == "expr_str" and not _is_arithmetic(value):
        return f"has {value[:80]!r} in the place of a size"
    return ""


def _is_arithmetic(text: str) -> bool:
    """Whether an expression holds nothing but names, numbers, operators and known functions."""
    text = _LITERAL.sub("x", text)
    if not _ARITHMETIC.fullmatch(text) or "__" in text or re.search(r"\.\s*[A-Za-z_]|\)\s*\(", text):
        return False
    return all(name in _FUNCTIONS for name in re.findall(r"([A-Za-z_]\w*)\s*\(", text))


def _is_pickle(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Whether raw numbers begin like a pickle; torch would not unpickle them, but nobody exports such."""
    with archive.open(member) as file:
        head = file.read(64)
    nested = head[:4] == b"PK\x03\x04"
    opening = (b"c", b"}", b"]", b"(", b"\x95", b"\x8c")
    return nested or (len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[2:3] in opening)


def _only_numbers(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Whether a file that `torch.save` wrote inside the archive (sample inputs) holds nothing but tensors."""
    if member.file_size == 0:
        return True
    if member.file_size > MAX_NUMBERS_BYTES:
        return False
    content = archive.read(member)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            if sum(entry.file_size for entry in inner.infolist()) > 2 * len(content) + (1 << 20):
                return False
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # torch raises bare exceptions of many types for what it refuses; the answer is no
        return False
    return True
