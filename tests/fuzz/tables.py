"""Tables that are fuzzed: CSV, Parquet and the schema of their columns."""

from __future__ import annotations

import base64
import csv
import io
from functools import cache
from pathlib import Path

from leakaudit.target.target import Target
from tests.fuzz.mutate import WORDS, Draw, changed_text, damaged
from tests.fuzz.subject import Files, Subject, damage_text, written
from tests.tables import SCHEMA, table_target

CELLS = (*WORDS[:20], *WORDS[21:], "1e400", "-0", "1_000", "0x10", "True", '"', ",", ";", "\t", "\n", "9" * 5000)
"""Texts of cells that readers have stumbled over; without lone surrogates, which UTF-8 does not write."""


@cache
def target() -> Target:
    """The model that rows are read for."""
    return table_target(4)


def rows_of(separator: str) -> bytes:
    """Four rows with labels."""
    lines = [
        ("age", "sex", "work", "hours", "place", "gain", "label"), (31, "m", "own", 40, "town 1", 0.1, 0),
        (54, "f", "state", 20, "town 2", 0.2, 1), (23, "f", "none", 38, "town 1", 0.3, 1),
        (40, "m", "own", 60, "town 3", 0.4, 0),
    ]  # fmt: skip
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator).writerows(lines)
    return stream.getvalue().encode()


def csv_files() -> Files:
    """The same rows behind commas, semicolons and tabs."""
    return [("rows.csv", rows_of(",")), ("semi.csv", rows_of(";")), ("rows.tsv", rows_of("\t"))]


def damage_rows(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """Mostly a cell, a line or a column, sometimes bytes."""
    if draw.random() < 0.25:
        return written(folder, name, damaged(content, draw))
    separator = "\t" if name.endswith("tsv") else ";" if name.startswith("semi") else ","
    lines = [line.split(separator) for line in content.decode().splitlines()]
    for _ in range(draw.choice((1, 1, 2, 4))):
        _change_rows(lines, draw)
    text = "\r\n".join(separator.join(line) for line in lines)
    if draw.random() < 0.1:
        text = changed_text(text, draw)
    return written(folder, name, text.encode(draw.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "replace"))


def _change_rows(lines: list[list[str]], draw: Draw) -> None:
    """One change in place."""
    if not lines:
        lines.append([""])
    row = draw.choice(lines)
    place, way = draw.randrange(max(1, len(row))), draw.randrange(8)
    if way < 4:
        row[place : place + 1] = [draw.choice(CELLS)]
    elif way == 4:
        del row[place : place + 1]
    elif way == 5:
        lines.remove(row)
    elif way == 6:
        lines.insert(draw.randrange(len(lines)), list(row))
    else:
        for line in lines:
            line[place : place + 1] = draw.choice(([], [draw.choice(CELLS)], line[place : place + 1] * 2))


PARQUET = (
    "UEFSMRUAFUwVTCwVCBUAFQYVBhwAAAACAAAACAEAAAAAAAA/QAAAAAAAAEtAAAAAAAAAN0AAAAAAAABEQBUAFTQVNCwVCBUAFQYVBhwAAAAC"
    "AAAACAEBAAAAbQEAAABmAQAAAGYBAAAAbRUAFUoVSiwVCBUAFQYVBhwAAAACAAAACAEDAAAAb3duBQAAAHN0YXRlBAAAAG5vbmUDAAAAb3du"
    "FQAVTBVMLBUIFQAVBhUGHAAAAAIAAAAIASgAAAAAAAAAFAAAAAAAAAAmAAAAAAAAADwAAAAAAAAAFQAVXBVcLBUIFQAVBhUGHAAAAAIAAAAI"
    "AQYAAAB0b3duIDEGAAAAdG93biAyBgAAAHRvd24gMQYAAAB0b3duIDMVABVMFUwsFQgVABUGFQYcAAAAAgAAAAgBmpmZmZmZuT+amZmZmZnJ"
    "PzMzMzMzM9M/mpmZmZmZ2T8VABVMFUwsFQgVABUGFQYcAAAAAgAAAAgBAAAAAAAAAAABAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAVBBmMNQAY"
    "BnNjaGVtYRUOABUKJQIYA2FnZQAVDCUCGANzZXglAEwcAAAAFQwlAhgEd29yayUATBwAAAAVBCUCGAVob3VycwAVDCUCGAVwbGFjZSUATBwA"
    "AAAVCiUCGARnYWluABUEJQIYBWxhYmVsABYIGRwZfCYAHBUKGSUGABkYA2FnZRUAFggWchZyJghJHBUAFQAVAgA8KQYZJgAIAAAAJgAcFQwZ"
    "JQYAGRgDc2V4FQAWCBZaFlomekkcFQAVABUCADwWCBkGGSYACAAAACYAHBUMGSUGABkYBHdvcmsVABYIFnAWcCbUAUkcFQAVABUCADwWHhkG"
    "GSYACAAAACYAHBUEGSUGABkYBWhvdXJzFQAWCBZyFnImxAJJHBUAFQAVAgA8KQYZJgAIAAAAJgAcFQwZJQYAGRgFcGxhY2UVABYIFoIBFoIB"
    "JrYDSRwVABUAFQIAPBYwGQYZJgAIAAAAJgAcFQoZJQYAGRgEZ2FpbhUAFggWchZyJrgESRwVABUAFQIAPCkGGSYACAAAACYAHBUEGSUGABkY"
    "BWxhYmVsFQAWCBZyFnImqgVJHBUAFQAVAgA8KQYZJgAIAAAAFpQGFggmCBaUBgAoIHBhcnF1ZXQtY3BwLWFycm93IHZlcnNpb24gMjYuMC4x"
    "GXwcAAAcAAAcAAAcAAAcAAAcAAAcAAAABQIAAFBBUjE=",
    "UEFSMRUEFUAVNEwVCBUAEgAAIAAABQEEP0AFBwQASw0IJDdAAAAAAAAAREAVABUUFRgsFQgVEBUGFQYcAAAACiQCAAAACAECA+QAFQQVFBUY"
    "TBUEFQASAAAKJAEAAABtAQAAAGYVABUSFRYsFQgVEBUGFQYcAAAACSACAAAACAEBAwYVBBUwFTRMFQYVABIAABhcAwAAAG93bgUAAABzdGF0"
    "ZQQAAABub25lFQAVFBUYLBUIFRAVBhUGHAAAAAokAgAAAAgBAgMkABUEFUAVOEwVCBUAEgAAIAQoAAkBABQJB0AAJgAAAAAAAAA8AAAAAAAA"
    "ABUAFRQVGCwVCBUQFQYVBhwAAAAKJAIAAAAIAQID5AAVBBU8FTRMFQYVABIAAB4kBgAAAHRvd24gMRUKKDIGAAAAdG93biAzFQAVFBUYLBUI"
    "FRAVBhUGHAAAAAokAgAAAAgBAgOEABUEFUAVPEwVCBUAEgAAIASamQEBBLk/CQhEyT8zMzMzMzPTP5qZmZmZmdk/FQAVFBUYLBUIFRAVBhUG"
    "HAAAAAokAgAAAAgBAgPkABUEFSAVJEwVBBUAEgAAEDwAAAAAAAAAAAEAAAAAAAAAFQAVEhUWLBUIFRAVBhUGHAAAAAkgAgAAAAgBAQMGFQQZ"
    "jDUAGAZzY2hlbWEVDgAVCiUCGANhZ2UAFQwlAhgDc2V4JQBMHAAAABUMJQIYBHdvcmslAEwcAAAAFQQlAhgFaG91cnMAFQwlAhgFcGxhY2Ul"
    "AEwcAAAAFQolAhgEZ2FpbgAVBCUCGAVsYWJlbAAWCBkcGXwmABwVChk1AAYQGRgDYWdlFQIWCBaWARaOASZYJggpLBUEFQAVAgAVABUQFQIA"
    "PCkGGSYACAAAACYAHBUMGTUABhAZGANzZXgVAhYIFmgWcCbKASaWASksFQQVABUCABUAFRAVAgA8FggZBhkmAAgAAAAmABwVDBk1AAYQGRgE"
    "d29yaxUCFggWhgEWjgEm1gImhgIpLBUEFQAVAgAVABUQFQIAPBYeGQYZJgAIAAAAJgAcFQQZNQAGEBkYBWhvdXJzFQIWCBaWARaSASboAyaU"
    "AyksFQQVABUCABUAFRAVAgA8KQYZJgAIAAAAJgAcFQwZNQAGEBkYBXBsYWNlFQIWCBaSARaOASb2BCamBCksFQQVABUCABUAFRAVAgA8FjAZ"
    "BhkmAAgAAAAmABwVChk1AAYQGRgEZ2FpbhUCFggWlgEWlgEmjAYmtAUpLBUEFQAVAgAVABUQFQIAPCkGGSYACAAAACYAHBUEGTUABhAZGAVs"
    "YWJlbBUCFggWdBZ8JooHJsoGKSwVBBUAFQIAFQAVEBUCADwpBhkmAAgAAAAWtgcWCCYIFr4HACggcGFycXVldC1jcHAtYXJyb3cgdmVyc2lv"
    "biAyNi4wLjEZfBwAABwAABwAABwAABwAABwAABwAAABaAgAAUEFSMQ==",
)
"""The same rows as pyarrow 26 writes them, plain and with dictionaries and Snappy: making them takes no pyarrow."""


def parquet_files() -> Files:
    """Of two encodings."""
    return [(f"rows{number}.parquet", base64.b64decode(text)) for number, text in enumerate(PARQUET)]


def damage_bytes(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """Bytes; half of them in the description at the end."""
    if draw.random() < 0.5:
        return written(folder, name, damaged(content, draw))
    size = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - size
    return written(folder, name, content[:start] + damaged(content[start:-8], draw) + content[-8:])


def read_table(path: Path) -> None:
    """As a scan reads rows, with the schema beside them where there is one."""
    from leakaudit.audit.intake import read_case
    from leakaudit.audit.request import Request
    from leakaudit.observer import SilentObserver

    folder = path if path.is_dir() else path.parent
    schema = folder / "schema.toml"
    batch = folder / "rows.csv" if path == schema else path
    named = schema if schema.exists() else None
    read_case(Request(model="m.onnx", batch=batch, schema=named), target(), None, SilentObserver())


def schema_files() -> Files:
    """The columns of the rows."""
    return [("schema.toml", SCHEMA.encode())]


def damage_schema(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """By lines and values, beside honest rows."""
    written(folder, "rows.csv", rows_of(","))
    return damage_text(name, content, draw, folder)


def whole_schema(folder: Path) -> Path:
    """The honest schema and rows."""
    written(folder, "rows.csv", rows_of(","))
    return written(folder, "schema.toml", SCHEMA.encode())


TABLES = (
    Subject("csv", csv_files, damage_rows, read_table, 3),
    Subject("parquet", parquet_files, damage_bytes, read_table, 2),
    Subject("schema", schema_files, damage_schema, read_table, 1, whole_schema),
)
"""Rows of tables."""
