"""The protocol of a request: how clients make an update, by what was said of their training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from leakaudit.audit.kinds import Kind, Whole
from leakaudit.errors import UsageError

if TYPE_CHECKING:
    from leakaudit.protocols.base import Protocol


ADOPTED = {"batch_size": "batch_size", "mode": "mode", "share_bn_statistics": "shared_statistics"}
"""Keywords that set a field of every protocol, and the field."""
LOCAL = (
    "local_epochs",
    "local_batch_size",
    "learning_rate",
    "momentum",
    "nesterov",
    "optimizer",
    "drop_last",
)
"""Keywords that set a field of the same name of FedAvg, and ask for it."""
UNKNOWN_EPOCHS = 2
"""Local epochs of the clients that stand for one of unknown epochs where the answer is known; chosen, the least that
moves the weights between the visits of a sample."""


def default_protocol() -> Protocol:
    """What clients do unless something else is asked for: FedSGD with one sample in eval mode."""
    from leakaudit.protocols.fedsgd import FedSGD

    return FedSGD(1)


class ProtocolValue(Kind):
    """A protocol."""

    def take(self, value: Any) -> Protocol:
        """The protocol, of at least one sample."""
        from leakaudit.protocols.base import Protocol

        if not isinstance(value, Protocol):
            raise ValueError("expected a protocol, as FedSGD(4)")
        Whole(least=1).take(value.batch_size)
        return value


def settled_protocol(
    protocol: Protocol,
    given: Mapping[str, Any],
    samples: int | None,
    weight_decay: float | None,
    unknown: tuple[str, ...],
) -> Protocol:
    """The protocol with what the keywords say of it.

    Raises:
        UsageError: They do not go together.
    """
    from leakaudit.protocols.fedavg import FedAvg

    changes = {field: given[name] for name, field in ADOPTED.items() if given[name] is not None}
    local = {name: given[name] for name in LOCAL if given[name] is not None}
    for name in unknown:
        if name in local:
            raise UsageError(f"{name} is {local[name]!r}, and said to be unknown", "leave out one of them")
    trains = isinstance(protocol, FedAvg)
    if weight_decay is not None and (local or trains):
        local["weight_decay"] = weight_decay
    if not (local or unknown or trains):
        if samples is not None:
            raise UsageError(
                f"samples is {samples}, but clients share one gradient", "use --batch-size, or add --learning-rate"
            )
        return replace(protocol, **changes)
    if not trains and "learning_rate" not in (*local, *unknown):
        first = next(iter(local), "unknown")
        raise UsageError(
            f"{first} was given without a learning rate", "add --learning-rate, as 0.1, or --unknown learning-rate"
        )
    if unknown:
        local |= {"untold": unknown} | ({"local_epochs": UNKNOWN_EPOCHS} if "local_epochs" in unknown else {})
    if changes.pop("batch_size", 1) != 1:  # 1 is what the command line says where nothing is said
        raise UsageError(
            "batch_size was given beside local training", "a client has --samples, a local step --local-batch-size"
        )
    if trains:
        size = protocol.batch_size if samples is None else samples
        return replace(protocol, batch_size=size, **changes, **local)
    # until the batch is read: all its samples, which are at least those of a step
    size = samples or local.get("local_batch_size", 1)
    facts = {"mode": protocol.mode, "shared_statistics": protocol.shared_statistics, **changes}
    return FedAvg(size, **facts, **local)


def local_value(protocol: Protocol, name: str) -> Any:
    """A setting of local training; ``None`` where it is the default, or there is none. The rate is always said."""
    from leakaudit.protocols.fedavg import FedAvg

    if not isinstance(protocol, FedAvg):
        return None
    if name in protocol.untold:
        return None
    value = getattr(protocol, name)
    usual = FedAvg.__dataclass_fields__[name].default
    return None if value == usual and name != "learning_rate" else value
