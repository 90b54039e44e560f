"""The parameters of a request: what is known of each beside its value, as metadata of the request's fields.

The command line makes an option of every parameter from this table (`leakaudit.cli.options.request`), and a request the
words that reproduce it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from leakaudit.audit.kinds import Flag, Kind

Group = Literal["intake", "samples", "effort"]
Decides = Literal["run", "audit", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a request.

    Args:
        name: As a keyword.
        kind: What it may hold.
        option: On the command line, such as ``--batch-size``; "" where only other options reach it.
        short: Its one-letter form.
        off: For a flag that is on by default, the option that turns it off.
        usual: Default on the command line.
        optional: Whether ``None`` stands for nothing.
        group: What it is about.
        decides: Whether a result depends on it: that of a single run of an attack beyond what the attacker sees and
            the attack's settings, that of the audit, or none.
    """

    name: str
    kind: Kind
    option: str = ""
    short: str = ""
    off: str = ""
    usual: Any = None
    optional: bool = False
    group: Group = "effort"
    decides: Decides = "audit"


def asked(kind: Kind, default: Any = None, option: str = "", **facts: Any) -> Any:
    """A field of a request.

    Args:
        kind: What it may hold.
        default: As a keyword; or a function that makes it.
        option: See :class:`Parameter`, as for the rest.
        **facts: As there.
    """
    made = callable(default)
    metadata = {
        "asked": {
            "kind": kind,
            "option": option,
            "usual": None if made else default,
            "optional": default is None,
            **facts,
        }
    }
    return field(default_factory=default, metadata=metadata) if made else field(default=default, metadata=metadata)


def parameters(request: type) -> dict[str, Parameter]:
    """The parameters of a kind of request by name, in their order."""
    fields: Mapping[str, Any] = request.__dataclass_fields__  # type: ignore[attr-defined]
    own = {name: entry.metadata["asked"] for name, entry in fields.items() if "asked" in entry.metadata}
    return {name: Parameter(name=name, **facts) for name, facts in own.items()}


def command_words(values: Mapping[str, Any], known: Sequence[Parameter]) -> list[str]:
    """The options that say these values, where they are not the command line's defaults."""
    words: list[str] = []
    for parameter in known:
        value = values[parameter.name]
        if not parameter.option or value in (parameter.usual, None, (), {}):
            continue
        if isinstance(parameter.kind, Flag):
            words.append(parameter.option if value else parameter.off)
            continue
        words += [word for text in parameter.kind.words(value) for word in (parameter.option, text)]
    return words


def shared_words(words: Sequence[str], own: Sequence[Parameter], other: Sequence[Parameter]) -> list[str]:
    """A command's words without the options that another kind of request lacks; what is no option, as a model, stays.

    Args:
        words: Options as :func:`command_words` writes them, and others.
        own: The parameters that they were written of.
        other: Those of the other kind.
    """
    said = {word: parameter for parameter in own for word in (parameter.option, parameter.off) if word}
    known = {parameter.option for parameter in other}
    kept: list[str] = []
    rest = list(words)
    while rest:
        parameter = said.get(rest[0])
        width = 2 if parameter is not None and not isinstance(parameter.kind, Flag) else 1
        kept += rest[:width] if parameter is None or parameter.option in known else []
        rest = rest[width:]
    return kept
