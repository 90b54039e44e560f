"""The Python interface: `scan` a model and a batch, get a Report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from leakaudit.audit.cache import Cache
from leakaudit.audit.controls import Level
from leakaudit.audit.memory import Memory
from leakaudit.audit.pipeline import audit
from leakaudit.audit.request import AuditOptions
from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import DataLayout, Reading, ValueRange, reader_for
from leakaudit.client.rounds.files import load_update
from leakaudit.defences.spec import parse_defences
from leakaudit.domains.base import Domain
from leakaudit.errors import UsageError
from leakaudit.observation import ThreatModel
from leakaudit.observer import Observer, SilentObserver
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.read import Policy
from leakaudit.protocols.base import Mode
from leakaudit.report.saving import Report
from leakaudit.scoring.base import LeakCriterion, specs_of
from leakaudit.sweep.goal import parse_goal
from leakaudit.sweep.utility import TrainingPlan
from leakaudit.sweep.variants import Variant, audit_variants, name_variants
from leakaudit.target import Target, load
from leakaudit.target.target import SharedStatistics


def scan(
    model: str | Path | nn.Module | Target | Sequence[Variant],
    batch: str | Path | tuple[Any, Any] | Batch,
    *,
    batch_size: int = 1,
    victims: int | None = None,
    attacks: Sequence[str] = (),
    preset: str = "standard",
    settings: Mapping[str, Mapping[str, str]] | None = None,
    time_budget: float | None = None,
    controls: Level = "quick",
    criterion: LeakCriterion | None = None,
    distractors: str | Path | None = None,
    threat_model: ThreatModel = "E",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    mode: Mode | Literal["both"] = "eval",
    checkpoints: Sequence[str | Path] = (),
    share_bn_statistics: SharedStatistics = "none",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    layout: DataLayout = "auto",
    values: ValueRange = "auto",
    resize: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    auxiliary: str | Path | None = None,
    defences: Sequence[str] = (),
    claims: Sequence[str] = (),
    update: str | Path | None = None,
    lpips_weights: str | Path | None = None,
    cache: bool = False,
    observer: Observer | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Audit what one shared update of a model gives away about a batch. Prints nothing.

    Findings are judged by the default policy (high and above fail); `leakaudit.policy.apply.apply_policy` applies
    another.

    Args:
        model: Model file, ``torch.nn.Module`` or Target.
        batch: ``.npz`` file, folder of images, ``(inputs, labels)`` arrays, or Batch; token ids are integers (N, L).
        batch_size: Samples per update.
        victims: Independent batches to attack, drawn by `seed`; default up to 4.
        attacks: Names (see ``leakaudit attacks``); default all.
        preset: ``quick``, ``standard`` or ``paper``.
        settings: Overrides per attack, as text: ``{"ig": {"iterations": "600"}}``.
        time_budget: Seconds for all attacks and controls together.
        controls: ``quick``, ``full`` or ``none``: the same attacks where the answer is known.
        criterion: When a sample counts as leaked.
        distractors: ``.npz`` or folder of images of the same kind, which a sample must be told from.
        threat_model: Letter A to E; attacks that need a stronger attacker are not run.
        seed: Decides victims, starts and probes; the same seed gives the same numbers.
        device: ``auto`` takes a CUDA device where there is one.
        mode: Mode of the client's model, or ``both`` to compare them; a Target brings its own.
        checkpoints: Further model files, such as later stages of the training; one report compares all.
        share_bn_statistics: BatchNorm statistics that come with an update in train mode (``batch`` or ``running``); a
            Target brings its own.
        mean: Per-channel mean that the client subtracts, in pixel units 0..1; one value serves all channels.
        std: Per-channel standard deviation that it divides by.
        layout: Axis order of the batch's arrays.
        values: Whether the batch holds pixels or already normalised values.
        resize: Resize and crop the images of a folder.
        input_shape: ``(C, H, W)`` of one sample, where the model leaves it open (a module, a file with free sizes);
            ``(1, 1, L)`` for L tokens.
        auxiliary: ``.npz`` or folder of public images, for attacks of threat model D.
        defences: What clients do to their updates, as text: ``["clip=1.0,noise=0.01"]``; see ``leakaudit defences``.
        claims: What clients believe is done to their updates, as text; compared with what they share.
        update: ``.npz`` or safetensors file with the update that a real client shared for exactly these samples; it is
            attacked in place of the one computed here, which it is compared with.
        lpips_weights: SqueezeNet 1.1 checkpoint for LPIPS.
        cache: Keep results of attacks on disk (see `leakaudit.audit.cache`): a killed scan goes on where it was.
        observer: Told the progress.
        command: For the report's *how to reproduce*.

    Raises:
        UsageError: An argument that cannot be.
        ModelError: A model that cannot be audited.
        BatchError: Samples that do not fit the model.
    """
    observer = observer or SilentObserver()
    memory = Memory(Cache() if cache else None)

    def audit_one(target: Target) -> Report:
        prepared = _prepare(
            target,
            batch,
            observer,
            batch_size=batch_size,
            victims=victims,
            attacks=attacks,
            preset=preset,
            settings=settings,
            time_budget=None if time_budget is None else time_budget / len(variants),
            controls=controls,
            criterion=criterion,
            distractors=distractors,
            threat_model=threat_model,
            seed=seed,
            device=device,
            mean=mean,
            std=std,
            layout=layout,
            values=values,
            resize=resize,
            auxiliary=auxiliary,
            defences=defences,
            claims=claims,
            update=update,
            lpips_weights=lpips_weights,
            cache=cache,
        )
        return audit(
            *(prepared.target, prepared.samples, prepared.domain, prepared.options),
            observer=observer,
            memory=memory,
            command=command,
        )

    reading = {"image_shape": input_shape, "share_bn_statistics": share_bn_statistics}
    variants = _variants(model, checkpoints, mode, reading)
    if len(variants) > 1:
        if update is not None:
            raise UsageError("a recorded update is of one model in one mode", "scan the variants without --update")
        return apply_policy(audit_variants(variants, audit_one, observer), Policy())
    observer.stage("loading the model")
    return apply_policy(audit_one(variants[0].load()), Policy())


def _variants(
    model: str | Path | nn.Module | Target | Sequence[Variant],
    checkpoints: Sequence[str | Path],
    mode: Mode | Literal["both"],
    reading: dict[str, Any],
) -> list[Variant]:
    """What is to be audited, each with the way to read it.

    Raises:
        UsageError: Several variants of what is already in memory.
    """
    modes: tuple[Mode, ...] = ("eval", "train") if mode == "both" else (mode,)
    if isinstance(model, str | Path):
        named = name_variants([Path(model), *map(Path, checkpoints)], modes)
        return [Variant(label, partial(load, path, mode=one, **reading)) for label, path, one in named]
    if checkpoints:
        raise UsageError("checkpoints need the model as a file, not in memory", "give the path of each")
    if isinstance(model, Target):
        if mode == "both":
            raise UsageError("mode 'both' needs a model file or a module; a Target has its mode")
        return [Variant(model.name, lambda: model)]
    if isinstance(model, nn.Module):
        return [Variant(f"{one} mode", partial(load, copy.deepcopy(model), mode=one, **reading)) for one in modes]
    return list(model)


def defend(
    model: str | Path | nn.Module | Target,
    batch: str | Path | tuple[Any, Any] | Batch,
    *,
    goal: str = "leaked=0",
    grid: Sequence[str] = (),
    utility_data: str | Path | tuple[Any, Any] | Batch | None = None,
    steps: int = 30,
    learning_rate: float = 0.05,
    observer: Observer | None = None,
    command: Sequence[str] = (),
    **scanning: Any,
) -> Report:
    """Attack and train with every setting of a grid of defences, and name the cheapest that meets a goal.

    Args:
        model: As for :func:`scan`.
        batch: As for :func:`scan`.
        goal: ``leaked=0``, ``reidentified=0``, or a limit on a metric of the model's domain: ``PSNR<15``, ``SSIM<0.5``
            for images, ``accuracy<0.2`` for texts.
        grid: Settings as text; default one over all kinds of defence.
        utility_data: Samples to train and evaluate with; default those of `batch`.
        steps: Training steps.
        learning_rate: Of these.
        observer: Told the progress.
        command: For the report's *how to reproduce*.
        **scanning: Further arguments of :func:`scan`.

    Raises:
        UsageError: An argument that cannot be.
        ModelError: A model that cannot be audited.
        BatchError: Samples that do not fit the model.
    """
    from leakaudit.sweep.defend import DefendOptions
    from leakaudit.sweep.defend import defend as run

    observer = observer or SilentObserver()
    wanted = parse_goal(goal)
    prepared = _prepare(model, batch, observer, **scanning)
    options = DefendOptions(
        goal=wanted.among(specs_of(prepared.domain)),
        grid=tuple(grid),
        plan=TrainingPlan(steps=steps, learning_rate=learning_rate),
        utility=None if utility_data is None else prepared.read(utility_data),
    )
    report = run(
        *(prepared.target, prepared.samples, prepared.domain, prepared.options, options),
        observer=observer,
        command=command,
    )
    return apply_policy(report, Policy())


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What an audit takes, loaded; `read` loads further samples alike."""

    target: Target
    samples: Batch
    domain: Domain
    options: AuditOptions
    read: Callable[[str | Path | tuple[Any, Any] | Batch], Batch]


def _prepare(
    model: str | Path | nn.Module | Target,
    batch: str | Path | tuple[Any, Any] | Batch,
    observer: Observer,
    *,
    batch_size: int = 1,
    victims: int | None = None,
    attacks: Sequence[str] = (),
    preset: str = "standard",
    settings: Mapping[str, Mapping[str, str]] | None = None,
    time_budget: float | None = None,
    controls: Level = "quick",
    criterion: LeakCriterion | None = None,
    distractors: str | Path | None = None,
    threat_model: ThreatModel = "E",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    mode: Mode = "eval",
    share_bn_statistics: SharedStatistics = "none",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    layout: DataLayout = "auto",
    values: ValueRange = "auto",
    resize: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    auxiliary: str | Path | None = None,
    defences: Sequence[str] = (),
    claims: Sequence[str] = (),
    update: str | Path | None = None,
    lpips_weights: str | Path | None = None,
    cache: bool = False,
) -> _Prepared:
    """Load and validate everything; the arguments are those of :func:`scan`."""
    if not isinstance(model, Target):
        observer.stage("loading the model")
    target = (
        model
        if isinstance(model, Target)
        else load(model, mode=mode, image_shape=input_shape, share_bn_statistics=share_bn_statistics)
    )
    pixels = {"--mean": mean, "--std": std, "--auxiliary": auxiliary, "--resize": resize, "--distractors": distractors}
    reader_for(target).refuse(pixels)
    target = replace(target, domain=target.domain.normalised(mean, std))
    reader = reader_for(target, Reading(layout=layout, values=values, resize=resize))
    options = AuditOptions(
        batch_size=batch_size,
        victims=victims,
        attacks=tuple(attacks),
        preset=preset,
        settings=settings or {},
        cache=Cache() if cache else None,
        time_budget=time_budget,
        controls=controls,
        criterion=criterion or LeakCriterion(),
        distractors=reader.public(distractors) if distractors else None,
        threat_model=threat_model,
        seed=seed,
        device=device,
        auxiliary=reader.public(auxiliary) if auxiliary else None,
        lpips_weights=Path(lpips_weights) if lpips_weights else None,
        defences=parse_defences(defences),
        claims=parse_defences(claims),
    )
    observer.stage("reading the batch")
    target, samples = reader.fitted(batch)
    options = _with_update(options, target, samples, update)
    return _Prepared(target, samples, target.domain, options, replace(reader, target=target).read)


def _with_update(options: AuditOptions, target: Target, samples: Batch, update: str | Path | None) -> AuditOptions:
    """The options for a recorded update: one victim, and all samples are behind it."""
    if update is None:
        return options
    for name, value, only in (("--batch-size", options.batch_size, len(samples)), ("--victims", options.victims, 1)):
        if value not in (None, 1, only):
            raise UsageError(
                f"{name} is {value}, with a recorded update it is {only}",
                "the batch file must hold exactly the samples behind the update, and no others",
            )
    return replace(options, batch_size=len(samples), victims=1, recorded=load_update(update, target))
