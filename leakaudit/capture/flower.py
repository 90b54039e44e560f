"""Flower: a client mod, and a wrapper of a strategy, that record rounds (Flower's Message API, 1.2x and later).

A client app takes the mod first, so that it sees what is sent after all others: ``ClientApp(mods=[flower_mod(out)])``;
placed last it sees the update before the others defend it. A server wraps its strategy, ``recording_strategy(strategy,
out)``, and records the reply of every client. With secure aggregation no reply holds arrays, and none is recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from leakaudit.capture.record import CaptureWarning, folder_name, record, safely

_RATES = ("lr", "learning-rate", "learning_rate")
_KEYS = {
    "learning_rate": _RATES,
    "local_epochs": ("local-epochs", "local_epochs", "epochs"),
    "local_batch_size": ("local-batch-size", "batch-size", "batch_size", "local_batch_size"),
    "momentum": ("momentum",),
    "weight_decay": ("weight-decay", "weight_decay"),
}
"""Keys under which a message's or a run's configuration may tell of the local training."""


def flower_mod(out: str | Path, *called: Any, **settings: Any) -> Any:
    """A mod that records what a client sends, into a folder per round and client.

    Args:
        out: Folder of the rounds.
        *called: Nothing; a mod that was passed on without being made (``mods=[flower_mod]``) is called with a message,
            warns, and records nothing.
        **settings: As of :func:`leakaudit.capture.record`, beside what the message and the run's configuration tell.

    Returns:
        The mod: a function of message, context and what comes next.
    """
    if called:
        warnings.warn(
            "round not recorded: write mods=[flower_mod('rounds')], not mods=[flower_mod]", CaptureWarning, stacklevel=2
        )
        context, call_next = called
        return call_next(out, context)

    def leakaudit_mod(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        before = safely(lambda: _arrays(message)) if _trains(message) else None
        reply = call_next(message, context)
        if before:
            safely(lambda: _save(Path(out), message, reply, before, _configured(message, context), settings))
        return reply

    return leakaudit_mod


def recording_strategy(strategy: Any, out: str | Path, **settings: Any) -> FlowerRecorder:
    """A strategy that records every client's reply and is otherwise the given one.

    Args:
        strategy: Of Flower's Message API: ``configure_train`` and ``aggregate_train``.
        out: Folder of the rounds.
        settings: As of :func:`leakaudit.capture.record`.
    """
    return FlowerRecorder(strategy, Path(out), settings)


class FlowerRecorder:
    """Stands for a strategy; see :func:`recording_strategy`."""

    def __init__(self, strategy: Any, out: Path, settings: dict[str, Any]) -> None:
        self._strategy, self._out, self._settings = strategy, out, settings
        self._asked: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """The strategy's messages, remembered by the node that they go to."""
        messages = list(self._strategy.configure_train(server_round, arrays, config, grid))
        self._asked = {message.metadata.dst_node_id: message for message in messages}
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> Any:
        """The strategy's aggregate, after each reply has been recorded."""
        found = list(replies)
        for reply in found:
            safely(lambda reply=reply: self._record(reply))  # type: ignore[misc]
        return self._strategy.aggregate_train(server_round, found)

    def start(self, *arguments: Any, **keywords: Any) -> Any:
        """The strategy's own loop, with the two methods above in place of its own."""
        return type(self._strategy).start(self, *arguments, **keywords)

    def _record(self, reply: Any) -> None:
        asked = self._asked.get(reply.metadata.src_node_id)
        before = None if asked is None else _arrays(asked)
        if before:
            _save(self._out, asked, reply, before, _configured(asked, None), self._settings)


def _trains(message: Any) -> bool:
    kind = safely(lambda: str(message.metadata.message_type))
    return kind is not None and kind.split(".")[0] == "train"


def _arrays(message: Any) -> dict[str, Any] | None:
    """The single record of arrays of a message; the key is the user's, and an aggregate has none."""
    if not message.has_content():
        return None
    records = list(message.content.array_records.values())
    if not records:
        return None
    if len(records) > 1:
        warnings.warn(
            f"{len(records)} records of arrays in one message: recorded is the first", CaptureWarning, stacklevel=2
        )
    return {str(name): array.numpy() for name, array in records[0].items()}


def _save(
    out: Path, message: Any, reply: Any, before: dict[str, Any], known: dict[str, Any], settings: dict[str, Any]
) -> None:
    sent = _arrays(reply)
    if sent is None:
        warnings.warn(
            "the reply holds no arrays (an error, or secure aggregation): not recorded", CaptureWarning, stacklevel=2
        )
        return
    number, client = _round(message), message.metadata.dst_node_id
    facts: dict[str, Any] = {"framework": "flower", "round": number, "client": client, **known}
    facts.update(_version(), **_counted(reply), **settings)
    record(before, sent, out=out / folder_name(number, client), **facts)


def _round(message: Any) -> Any:
    """The number of the round: strategies put it into the configuration, servers of one's own into the group."""
    for own in message.content.config_records.values():
        if "server-round" in own:
            return own["server-round"]
    return message.metadata.group_id


def _version() -> dict[str, str]:
    try:
        return {"framework_version": version("flwr")}
    except PackageNotFoundError:
        return {}


def _counted(reply: Any) -> dict[str, Any]:
    for metrics in reply.content.metric_records.values():
        for key in ("num-examples", "num_examples"):
            if key in metrics:
                return {"num_examples": metrics[key]}
    return {}


def _configured(message: Any, context: Any) -> dict[str, Any]:
    """What the message, or else the run's configuration, says of the local training."""
    sources = [dict(own) for own in message.content.config_records.values()]
    if context is not None:
        sources.append(dict(context.run_config))
    return {
        name: source[key]
        for name, keys in _KEYS.items()
        for source in reversed(sources)
        for key in keys
        if key in source and isinstance(source[key], int | float)
    }
