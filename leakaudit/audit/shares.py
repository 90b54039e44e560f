"""Which part of the samples behind an update is a client's own, where a defence puts several parts behind it."""

from __future__ import annotations

from dataclasses import replace

from leakaudit.audit.request import Request
from leakaudit.defences.base import defended_protocol
from leakaudit.errors import UsageError


def own_share(request: Request, count: int) -> int:
    """Samples of one client, or of one accumulated batch, of so many behind an update.

    Args:
        request: Its defences may sum over clients, or accumulate batches.
        count: Samples of all of them.

    Raises:
        UsageError: The samples behind a recorded update do not fit the number of parts.
    """
    counts = next((d.members for d in request.defending() if any(d.members)), ())
    if counts:
        if request.recorded and sum(counts) != count:
            raise UsageError(
                f"the clients are said to have {sum(counts)} samples, the batch file holds {count}",
                "it must hold exactly the samples behind the update, client by client",
            )
        return counts[0]
    parts = _parts(request)
    if request.recorded and count % parts:
        raise UsageError(
            f"{count} samples are behind the update, and {parts} parts of it are summed",
            "give a batch file of all parts, as many samples each; or say how many each client has: examples=4|8|4",
        )
    return max(1, count // parts)


def _parts(request: Request) -> int:
    """How many times a client's own samples are behind an update."""
    if request.local:
        return max((len(defence.members) for defence in request.defending()), default=1) or 1
    return defended_protocol(replace(request.protocol, batch_size=1), request.defending()).batch_size
