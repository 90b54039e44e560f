"""Attacks that ran before are not run again: a killed audit continues where it was.

Every result of an attack on a victim is stored as soon as it is there (`leakaudit.audit.cache`), under a hash of all
that it depends on: the code, the torch version and the device, the model, the attack and its settings, the seed, the
time budget, and everything that the attacker sees, which includes the update and with it the batch and the protocol.
What ended early is not stored, nor what was planned shorter than its settings: how much time an attack had depends on
what ran before it.

A :class:`Memory` is made once for an audit, or for several that belong together, and handed down to whatever runs
attacks. It also holds what attacks ask it to (`leakaudit.reconstruction.Memory`), such as a trained prior. An
observation or a model without a hashable content (a closure, an attack defined in a shell) is simply attacked again.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.audit.cache import Cache, NotHashable, code_digest, digest
from leakaudit.audit.request import Request
from leakaudit.errors import UsageError
from leakaudit.observation import Observation
from leakaudit.reconstruction import LossPoint, Monitor, Reconstruction, Snapshot, TokenReading
from leakaudit.target.target import Target

HELD = 5
"""Objects that are held for attacks at a time: a few trained priors and one that is being trained; chosen."""


@dataclass(frozen=True, eq=False)
class Memory:
    """What an audit remembers.

    Args:
        cache: Where results of attacks are kept from run to run; ``None`` keeps none.
        asked: What a run depends on of the request of the audit, as `leakaudit.audit.request.Request.key` hashes it.
        objects: Held for attacks while this process lives, by the hash of their keys.
    """

    cache: Cache | None = None
    asked: str = ""
    objects: dict[str, Any] = field(default_factory=dict, repr=False)

    def within(self, request: Request) -> Memory:
        """The same memory for the audit of this request."""
        return dataclasses.replace(self, asked=request.key("run"))

    def held(self, *key: Any) -> Any:
        """The object that was held last under this key, or ``None``."""
        return self.objects.get(digest(*key))

    def hold(self, value: Any, *key: Any) -> None:
        """Keep an object, in place of the oldest where there are many; ``None`` lets it go."""
        name = digest(*key)
        self.objects.pop(name, None)
        if value is None:
            return
        while len(self.objects) >= HELD:
            self.objects.pop(next(iter(self.objects)))
        self.objects[name] = value

    def stored(self, *key: Any) -> Any:
        """The value that was stored under this key on disk, or ``None``."""
        return None if self.cache is None else self.cache.get(digest(*key))

    def store(self, value: Any, *key: Any) -> str:
        """Keep plain containers of tensors, numbers and text on disk; why that was not possible, or ""."""
        if self.cache is None:
            return ""
        try:
            self.cache.put(digest(*key), value)
        except UsageError as error:
            return error.message
        return ""


@dataclass(eq=False)
class _Remembering:
    """A run's monitor together with what the audit remembers."""

    monitor: Monitor
    memory: Memory

    def update(self, fraction: float, objective: float) -> None:
        self.monitor.update(fraction, objective)

    def should_stop(self) -> bool:
        return self.monitor.should_stop()

    def seconds_left(self) -> float | None:
        return self.monitor.seconds_left()

    def over(self) -> bool:
        return self.monitor.over()


def attack_once(
    attack: Attack, target: Target, observation: Observation, seed: int, monitor: Monitor, memory: Memory
) -> Reconstruction:
    """Run an attack, or take its result from the memory's cache.

    Args:
        attack: The attack.
        target: The model.
        observation: What the attacker sees.
        seed: Of this run; also of torch's global generator, for a model that draws from it.
        monitor: Progress.
        memory: Of the audit; the attack finds it as its monitor's.
    """

    def run() -> Reconstruction:
        torch.manual_seed(seed)
        return attack(target, observation, cpu_generator(seed), _Remembering(monitor, memory))

    if memory.cache is None:
        return run()
    key = run_key(attack, target, observation, seed, memory.asked)
    return run() if key is None else _recall(memory.cache, key, run, target)


def attack_together_once(
    attack: Attack,
    target: Target,
    observations: Sequence[Observation],
    seeds: Sequence[int],
    monitor: Monitor,
    memory: Memory,
) -> list[Reconstruction] | None:
    """As :func:`attack_once` on several victims at once; ``None`` where the attack wants them in turn.

    Whether a result came about alone or together is part of its key, since the two differ by rounding.
    """

    def run() -> list[Reconstruction] | None:
        torch.manual_seed(seeds[0])
        generators = [cpu_generator(seed) for seed in seeds]
        return attack.together(target, observations, generators, _Remembering(monitor, memory))

    cache = memory.cache
    if cache is None:
        return run()
    keys = [
        run_key(attack, target, o, seed, memory.asked, together=len(seeds))
        for o, seed in zip(observations, seeds, strict=True)
    ]
    device = next(iter(target.parameters.values())).device
    known = [None if key is None else _restored(cache.get(key), device) for key in keys]
    complete = [result for result in known if result is not None]
    if len(complete) == len(known):
        return complete
    results = run()
    for key, result in zip(keys, results or [], strict=False):
        if key is not None and not result.cuts:
            with suppress(UsageError):
                cache.put(key, _stored(result))
    return results


def _recall(cache: Cache, key: str, run: Callable[[], Reconstruction], target: Target) -> Reconstruction:
    known = _restored(cache.get(key), next(iter(target.parameters.values())).device)
    if known is not None:
        return known
    result = run()
    if not result.cuts:
        with suppress(UsageError):  # a full disk costs the memory, not the audit
            cache.put(key, _stored(result))
    return result


def run_key(
    attack: Attack, target: Target, observation: Observation, seed: int, asked: str, together: int = 1
) -> str | None:
    """The hash of everything that a result depends on, or ``None`` where something has no content to hash.

    Args:
        attack: The attack.
        target: The model.
        observation: What the attacker sees.
        seed: Of the run.
        asked: See :class:`Memory`.
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
            asked,
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
    return [
        target.sha256,
        target.mode,
        target.frozen,
        target.image_shape,
        repr(target.task),
        repr(target.module),
        printed,
    ]


# A reconstruction as plain containers, which torch.load reads without running code.


def _stored(result: Reconstruction) -> dict[str, Any]:
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    fields["history"] = [dataclasses.astuple(point) for point in result.history]
    fields["snapshots"] = [(s.fraction, s.inputs.cpu()) for s in result.snapshots]
    fields["masks"] = None if result.masks is None else [dict(step) for step in result.masks]
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
            "errors": None if fields["errors"] is None else fields["errors"].to(device),
            "history": tuple(LossPoint(*point) for point in fields["history"]),
            "snapshots": tuple(Snapshot(fraction, inputs.to(device)) for fraction, inputs in fields["snapshots"]),
            "masks": None
            if masks is None
            else tuple({n: mask.to(device) for n, mask in step.items()} for step in masks),
            "tokens": None if fields["tokens"] is None else TokenReading(*fields["tokens"]),
        }
    )
