"""What deployed code does wrong with a defence: values that the rules LA504 to LA510 are told by.

A defence names them (`Defence.misuses`) from its settings, from the round that a client recorded, or from both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from leakaudit.document.status import MisuseKind
from leakaudit.protocols.base import Protocol

Sure = Literal["certified", "measured", "estimated"]
Quiet = tuple[Mapping[str, Tensor], float]
"""An update before its noise, and the noise's standard deviation."""


@dataclass(frozen=True, eq=False)
class Practice:
    """What is known of a client that has a defence, or believes to.

    Args:
        protocol: How it makes an update.
        raw: Its undefended update as it would be sent, where that can be computed; else ``None``.
        shared: What it shared, likewise.
        quiet: What a defence makes of the undefended update before its noise, with the noise's standard deviation; or
            ``None`` where that cannot be told.
        before: The trainable tensors that it started from, by name.
        buffers: What a recorded update holds beside trainable tensors, minus what it started from.
        kind: What a recorded update holds: ``weights``, ``delta``, ``gradient``; empty for a computed one.
        round: Number of the recorded round, counted from 1, or ``None``.
        entries: Of the trainable tensors.
        kept: Names of the buffers that the model has, which a state dict brings along.
        scalars: Names of trainable tensors that are single numbers.
        clients: Whose sum is shared.
    """

    protocol: Protocol
    raw: Mapping[str, Tensor] | None = None
    shared: Mapping[str, Tensor] | None = None
    quiet: Callable[[Any], Quiet | None] = lambda _: None
    before: Mapping[str, Tensor] = field(default_factory=dict)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    kind: str = ""
    round: int | None = None
    entries: int = 0
    kept: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    clients: int = 1


@dataclass(frozen=True)
class Misuse:
    """One thing that is wrong.

    Args:
        kind: What.
        told: One or two sentences with the numbers.
        sure: How sure that is: ``certified`` where the settings alone say so.
        grave: Whether the protection is void, and not merely less than stated.
    """

    kind: MisuseKind
    told: str
    sure: Sure
    grave: bool = True
