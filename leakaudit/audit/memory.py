"""Attacks that ran before are not run again: a killed audit continues where it was.

Every result of an attack on a victim is stored as soon as it is there (`leakaudit.audit.cache`), under a hash of all
that it depends on: the code, the torch version and the device, the model, the attack and its settings, the seed, the
time budget, and everything that the attacker sees, which includes the update and with it the batch and the protocol.
What ended early is not stored, nor what was planned shorter than its settings: how much time an attack had depends on
what ran before it.

The cache is on inside :func:`remembering`. An observation or a model without a hashable content (a defence that is a
closure, an attack defined in a shell) is simply attacked again.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.audit.cache import Cache, NotHashable, code_digest, digest
from leakaudit.errors import UsageError
from leakaudit.notes import PLANNED
from leakaudit.observation import Observation
from leakaudit.reconstruction import LossPoint, Monitor, Reconstruction, Snapshot, TokenReading
from leakaudit.target.target import Target

_MEMORY: ContextVar[tuple[Cache, float | None] | None] = ContextVar("memory", default=None)


@contextmanager
def remembering(cache: Cache | None, time_budget: float | None = None) -> Iterator[None]:
    """Keep the results of attacks in a cache; ``None`` keeps nothing.

    Args:
        cache: Where.
        time_budget: Of the whole audit, in seconds; what an attack reaches depends on it.
    """
    token = _MEMORY.set(None if cache is None else (cache, time_budget))
    try:
        yield
    finally:
        _MEMORY.reset(token)


def attack_once(
    attack: Attack, target: Target, observation: Observation, seed: int, monitor: Monitor
) -> Reconstruction:
    """Run an attack, or take its result from the cache.

    Args:
        attack: The attack.
        target: The model.
        observation: What the attacker sees.
        seed: Of this run; also of torch's global generator, for a model that draws from it.
        monitor: Progress.
    """

    def run() -> Reconstruction:
        torch.manual_seed(seed)
        return attack(target, observation, cpu_generator(seed), monitor)

    memory = _MEMORY.get()
    if memory is None:
        return run()
    key = run_key(attack, target, observation, seed, memory[1])
    return run() if key is None else _recall(memory[0], key, run, target)


def attack_together_once(
    attack: Attack, target: Target, observations: Sequence[Observation], seeds: Sequence[int], monitor: Monitor
) -> list[Reconstruction] | None:
    """As :func:`attack_once` on several victims at once; ``None`` where the attack wants them in turn.

    Whether a result came about alone or together is part of its key, since the two differ by rounding.
    """

    def run() -> list[Reconstruction] | None:
        torch.manual_seed(seeds[0])
        return attack.together(target, observations, [cpu_generator(seed) for seed in seeds], monitor)

    memory = _MEMORY.get()
    if memory is None:
        return run()
    cache, time_budget = memory
    keys = [
        run_key(attack, target, o, seed, time_budget, together=len(seeds))
        for o, seed in zip(observations, seeds, strict=True)
    ]
    device = next(iter(target.parameters.values())).device
    known = [None if key is None else _restored(cache.get(key), device) for key in keys]
    complete = [result for result in known if result is not None]
    if len(complete) == len(known):
        return complete
    results = run()
    for key, result in zip(keys, results or [], strict=False):
        if key is not None and _complete(result):
            with suppress(UsageError):
                cache.put(key, _stored(result))
    return results


def _recall(cache: Cache, key: str, run: Callable[[], Reconstruction], target: Target) -> Reconstruction:
    known = _restored(cache.get(key), next(iter(target.parameters.values())).device)
    if known is not None:
        return known
    result = run()
    if _complete(result):
        with suppress(UsageError):  # a full disk costs the memory, not the audit
            cache.put(key, _stored(result))
    return result


def _complete(result: Reconstruction) -> bool:
    return not result.stopped and not any(note.startswith(PLANNED) for note in result.notes)


def run_key(
    attack: Attack, target: Target, observation: Observation, seed: int, time_budget: float | None, together: int = 1
) -> str | None:
    """The hash of everything that a result depends on, or ``None`` where something has no content to hash.

    Args:
        attack: The attack.
        target: The model.
        observation: What the attacker sees.
        seed: Of the run.
        time_budget: Of the audit.
        together: Victims in one optimisation.
    """
    try:
        return digest(
            code_digest(),
            torch.__version__,
            torch.get_num_threads(),
            _source(attack),
            attack.name,
            attack.settings,
            _architecture(target),
            {**dict(target.module.named_parameters()), **dict(target.module.named_buffers())},
            observation,
            str(next(iter(observation.update.values())).device),
            seed,
            time_budget,
            together,
        )
    except NotHashable:
        return None


def _source(attack: Attack) -> bytes:
    """The file that an attack is defined in, for attacks of other packages."""
    try:
        return Path(inspect.getfile(type(attack))).read_bytes()
    except (OSError, TypeError) as error:
        raise NotHashable(f"{attack.name} has no source file") from error


def _architecture(target: Target) -> list[Any]:
    """What beside its tensors makes a model: the graph where there is one, the printed module otherwise."""
    graph = getattr(target.module, "graph", None)
    printed = str(graph) if isinstance(graph, torch.fx.Graph) else ""
    return [target.sha256, target.mode, target.frozen, target.image_shape, target.binary, repr(target.module), printed]


# A reconstruction as plain containers, which torch.load reads without running code.


def _stored(result: Reconstruction) -> dict[str, Any]:
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    fields["history"] = [dataclasses.astuple(point) for point in result.history]
    fields["snapshots"] = [(s.fraction, s.inputs.cpu()) for s in result.snapshots]
    fields["masks"] = None if result.masks is None else dict(result.masks)
    fields["tokens"] = None if result.tokens is None else (result.tokens.found.cpu(), result.tokens.placed.cpu())
    return fields


def _restored(fields: Any, device: torch.device) -> Reconstruction | None:
    """The reconstruction of stored fields; ``None`` for anything else."""
    if not isinstance(fields, dict) or set(fields) != {f.name for f in dataclasses.fields(Reconstruction)}:
        return None
    masks = fields["masks"]
    return Reconstruction(
        **{
            **fields,
            "inputs": fields["inputs"].to(device),
            "labels": fields["labels"].to(device),
            "history": tuple(LossPoint(*point) for point in fields["history"]),
            "snapshots": tuple(Snapshot(fraction, inputs.to(device)) for fraction, inputs in fields["snapshots"]),
            "masks": None if masks is None else {name: mask.to(device) for name, mask in masks.items()},
            "tokens": None if fields["tokens"] is None else TokenReading(*fields["tokens"]),
        }
    )
