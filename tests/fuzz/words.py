"""Command lines that are fuzzed: the words behind a command, as a JSON list in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.fuzz.mutate import WORDS as TEXTS
from tests.fuzz.mutate import Draw
from tests.fuzz.subject import Files, Subject, written

VALUES = (
    *(text.replace("\0", "") for text in TEXTS if text != "\ud800"), "1e400", "-1", "nan", "inf", "-inf", "1e-400",
    "9" * 5000, "9" * 30, "9223372036854775808", "0x10", "1_000", "0.5", "=", ",", ":", "|", "+", "a=b", "1,2,3",
    "0,0,0", "-0", "1" + ",1" * 300, "true", "--", "\udcff",
)  # fmt: skip
"""What an option or a part of one may be given."""


def lines() -> Files:
    """Options of every kind that a scan takes, and changes that ``rank`` asks about."""
    told = (
        "--mode both --victims 2 --batch-size 2 --preset quick --seed 3 --attack ig --set ig.iterations=3 --mean 0.5"
        " --std 0.25,0.25,0.25 --input-shape 3,12,12 --threat-model B",
        "--defence clip=1.0,noise=0.01 --defence prune=0.9 --defence bits=8 --claim prune=0.5 --claim sign",
        "--defence multiplier=1.1,clip=1.0 --defence clients=3,examples=4|8|4",
        "--learning-rate 0.1 --local-epochs 2 --local-batch-size 4 --samples 8 --momentum 0.9 --weight-decay 0.01"
        " --optimizer sgd --frozen a.* --dropout /relu=0.5 --loss bce --pos-weight 1,2 --task multi-label"
        " --defence nvflare:SVTPrivacy",
        "--what-if width=conv1:3 --what-if stride=conv1:2 --what-if bias=conv1:on",
    )
    return [(f"line{number}.json", json.dumps(line.split()).encode()) for number, line in enumerate(told)]


def damage_line(name: str, content: bytes, draw: Draw, folder: Path) -> Path:
    """One to three words with another value, or a part of it; left out, or doubled."""
    words = json.loads(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        place, way = draw.randrange(len(words)), draw.randrange(6)
        if way < 3:
            parts = re.split(r"([=:,|.])", words[place])
            parts[draw.randrange(len(parts))] = draw.choice(VALUES)
            words[place] = "".join(parts)
        elif way == 3:
            words[place] = draw.choice(VALUES)
        elif way == 4 and len(words) > 1:
            del words[place]
        else:
            words.insert(place, words[draw.randrange(len(words))])
    return written(folder, name, json.dumps(words).encode())


def read_line(path: Path) -> None:
    """As a command takes them: options, the request, its defences, and what they make of the protocol."""
    import click

    from leakaudit.audit.intake import refuse_settings
    from leakaudit.audit.parameters import parameters
    from leakaudit.audit.request import Request
    from leakaudit.cli import cli
    from leakaudit.cli.scan import scan
    from leakaudit.defences.base import defended_protocol
    from leakaudit.risk.what_if import parse
    from tests.fuzz.samples import target

    words = json.loads(path.read_text())
    if path.name == "line4.json":
        for word in words[1::2]:
            parse(word)
        return
    with click.Context(cli, info_name="leakaudit") as parent:
        asked = scan.make_context("scan", ["m.onnx", "--batch", "b.npz", *words], parent=parent).params
    request = Request(model="m.onnx", **{p.name: asked[p.name] for p in parameters(Request).values() if p.option})
    request.claimed()
    refuse_settings(request)
    if not request.both_modes:
        defended_protocol(request.protocol_for(target()), request.defending())


LINES = (Subject("words", lines, damage_line, read_line, 1),)
"""What users type."""
