"""Damage: of bytes, of text, of JSON, of protobuf messages and of archives, reproducible by a random generator.

Structured mutation keeps a file readable for long: a field is left out, doubled, exchanged with another of its kind or
set to an extreme; random bytes alone mostly end in the first parser.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Draw = random.Random
WORDS = (
    "", "x", "²", "٣", "\0", "a" * 300, "::error::x", "\u202e", "../x", "/dev/zero", "NaN", "1e999", "-1", "0", "true",
    "[", "{", "None", "'", "é", "\ud800", "a.b.c", "weight", "model.safetensors",
)  # fmt: skip
"""Texts that readers have stumbled over."""
WHOLE = (0, 1, -1, 2, 3, 7, 9, 16, 100, 255, 256, 9999, 65536, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 63) - 1,
         -(1 << 31), -(1 << 63))  # fmt: skip
"""Whole numbers at the edges of types and sizes."""
REAL = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))


def damaged(content: bytes, draw: Draw) -> bytes:
    """Bytes with one to four flips, cuts, insertions or repetitions."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        if not changed:
            break
        place = draw.randrange(len(changed))
        way = draw.randrange(6)
        if way == 0:
            changed[place] ^= 1 << draw.randrange(8)
        elif way == 1:
            changed[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif way == 2:
            del changed[place : place + draw.choice((1, 4, 64, len(changed)))]
        elif way == 3:
            changed[place:place] = bytes(draw.randrange(256) for _ in range(draw.choice((1, 4, 16))))
        elif way == 4:
            changed[place:place] = changed[place : place + draw.choice((1, 8, 200))] * draw.choice((1, 3))
        else:
            size = draw.choice((4, 8))
            number = draw.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF))
            changed[place : place + size] = struct.pack("<I" if size == 4 else "<Q", number)
    return bytes(changed)


def changed_text(text: str, draw: Draw) -> str:
    """A text with a line, a value behind ``=`` or a piece exchanged."""
    lines = text.split("\n")
    place = draw.randrange(len(lines))
    way = draw.randrange(5)
    if way == 0:
        del lines[place]
    elif way == 1:
        lines.insert(draw.randrange(len(lines)), lines[place])
    elif way == 2 and "=" in lines[place]:
        key = lines[place].partition("=")[0]
        lines[place] = f"{key}= {_toml(draw)}"
    elif way == 3:
        lines.insert(place, draw.choice(("[x]", "[[x]]", "tool = 5", "x.y = 1", f"{draw.choice(WORDS)!r} = 1", "a = ")))
    else:
        return damaged(text.encode("utf-8", "surrogatepass"), draw).decode("utf-8", "replace")
    return "\n".join(lines)


def _toml(draw: Draw) -> str:
    return draw.choice(
        (
            "5", "-1", "1e400", "nan", "inf", "true", "[]", "{}", "[[1], 2]", "2027-03-31", "2027-03-31T00:00:00Z",
            "07:32:00", '""', '"x"', "[" * 200 + "]" * 200, '"\\u0000"', f'"{"a" * 300}"', "{a = {b = [1]}}",
            '["a", 1]', "9223372036854775808", '"²"', '"module:function"', "0x7f",
        )
    )  # fmt: skip


def changed_json(value: Any, draw: Draw) -> Any:
    """A JSON value with one to three changes anywhere in it."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = _changed_json(value, draw)
    return value


def _changed_json(value: Any, draw: Draw) -> Any:
    places = list(_places(value))
    if not places:
        return _any_json(draw)
    holder, key = draw.choice(places)
    way = draw.randrange(5)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), holder[key])
    elif way == 1 and isinstance(holder, dict):
        holder[draw.choice(WORDS).replace("\ud800", "")] = holder.pop(key)
    elif way == 2:
        other, name = draw.choice(places)
        holder[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
    else:
        holder[key] = _any_json(draw)
    return value


def _any_json(draw: Draw) -> Any:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    return draw.choice(
        (None, True, False, {}, [], [[]], {"": 0}, deep, *WORDS[:19], *WORDS[20:], *WHOLE, *(r for r in REAL if r == r))
    )


def _places(value: Any) -> Any:
    """Every holder with the key or index of a part."""
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            pending.append(holder[key])


def changed_message(message: Message, draw: Draw, times: int = 1) -> None:
    """A protobuf message with fields left out, doubled, exchanged or set to extremes, in place."""
    for _ in range(times):
        messages = list(_messages(message))
        chosen = draw.choice(messages)
        field = draw.choice(list(type(chosen).DESCRIPTOR.fields))
        with_peers = [other for other in messages if type(other) is type(chosen) and other is not chosen]
        try:
            _change_field(chosen, field, with_peers, draw)
        except (ValueError, TypeError, RecursionError):  # a value that the field does not take
            continue


def _messages(root: Message) -> Any:
    pending = [root]
    while pending:
        message = pending.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                pending.extend(list(value)[:200] if _repeated(field) else [value])


def _repeated(field: FieldDescriptor) -> bool:
    return bool(getattr(field, "is_repeated", None) or getattr(field, "label", 0) == 3)


def _change_field(message: Message, field: FieldDescriptor, peers: list[Message], draw: Draw) -> None:
    name = field.name
    if draw.random() < 0.15:
        message.ClearField(name)
        return
    if field.message_type is not None:
        _change_inner(message, field, peers, draw)
    elif _repeated(field):
        _change_list(getattr(message, name), field, draw)
    elif peers and draw.random() < 0.4:
        setattr(message, name, getattr(draw.choice(peers), name))
    else:
        setattr(message, name, _scalar(field, draw))


def _apart(message: Message) -> Message:
    """A copy: a message that is copied into one of its own parts never ends, and the process with it."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _change_inner(message: Message, field: FieldDescriptor, peers: list[Message], draw: Draw) -> None:
    inner = getattr(message, field.name)
    if not _repeated(field):
        if peers and draw.random() < 0.7:
            inner.CopyFrom(_apart(getattr(draw.choice(peers), field.name)))
        return
    way = draw.randrange(4)
    if way == 0 and len(inner):
        del inner[draw.randrange(len(inner))]
    elif way == 1 and len(inner):
        inner.add().CopyFrom(_apart(draw.choice(list(inner))))
    elif way == 2 and len(inner) > 1:
        first, second = draw.sample(range(len(inner)), 2)
        held = type(inner[0])()
        held.CopyFrom(inner[first])
        inner[first].CopyFrom(inner[second])
        inner[second].CopyFrom(held)
    elif peers:
        for item in [_apart(item) for item in getattr(draw.choice(peers), field.name)[:3]]:
            inner.add().CopyFrom(item)


def _change_list(values: Any, field: FieldDescriptor, draw: Draw) -> None:
    way = draw.randrange(4)
    if way == 0 and len(values):
        del values[draw.randrange(len(values))]
    elif way == 1 and len(values):
        values.append(draw.choice(list(values)))
    elif way == 2 and len(values):
        values[draw.randrange(len(values))] = _scalar(field, draw)
    else:
        values.append(_scalar(field, draw))


def _scalar(field: FieldDescriptor, draw: Draw) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw.choice(WORDS).replace("\ud800", "")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes(draw.randrange(256) for _ in range(draw.choice((0, 1, 4, 64))))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return draw.choice(REAL)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw.choice((*field.enum_type.values_by_number, 9999))
    return draw.choice(WHOLE)


def changed_archive(content: bytes, draw: Draw, member: Callable[[str, bytes, Draw], bytes]) -> bytes:
    """A zip archive with a member changed, left out, renamed, doubled or compressed, or with damaged bytes.

    Args:
        content: The archive.
        draw: Random numbers.
        member: Changes the content of a member, given its name.
    """
    if draw.random() < 0.25:
        return damaged(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(item.filename, archive.read(item)) for item in archive.infolist()]
    way, place = draw.randrange(8), draw.randrange(len(members))
    name, old = members[place]
    if way == 0:
        del members[place]
    elif way == 1:
        members[place] = (draw.choice((name + "x", name.upper(), draw.choice(WORDS).replace("\ud800", "") or "y")), old)
    elif way == 2:
        members.append((name, member(name, old, draw)))
    else:
        members[place] = (name, member(name, old, draw))
    stream = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if draw.random() < 0.4 else zipfile.ZIP_STORED
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", packing) as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for inner, data in members:
            archive.writestr(inner.replace("\0", "") or "y", data)
    packed = stream.getvalue()
    return damaged(packed, draw) if draw.random() < 0.1 else packed
