"""From whatever the user has to a `Target`: the file's content decides, never its suffix.

Claim: the Target computes what the file computes (checked where there is a reference), and every difference between
the file and the network that the client trains is stated as a `FidelityNote`. Nothing in a file is executed unless the
caller says that it may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from leakaudit.errors import ModelError, UsageError
from leakaudit.target.hashing import hash_model
from leakaudit.target.readers import Asked, reader_of
from leakaudit.target.target import FidelityNote, SharedStatistics, Target
from leakaudit.tasks.base import Task
from leakaudit.tasks.choose import asked_for
from leakaudit.tasks.heads import check_heads
from leakaudit.tasks.names import TaskName
from leakaudit.tasks.own_loss import lacks

ImageShape = tuple[int, ...]


def load(
    path: str | Path | nn.Module,
    *,
    mode: Literal["eval", "train"] = "eval",
    output: str | None = None,
    frozen: Sequence[str] = (),
    factory: str | None = None,
    trust: bool = False,
    unsafe_pickle: bool = False,
    image_shape: ImageShape | None = None,
    dropout: Mapping[str, float] | None = None,
    loss: str | None = None,
    batchnorm: Literal["batch", "running"] | None = None,
    share_bn_statistics: SharedStatistics = "none",
    trained: Sequence[str] = (),
    task: TaskName | None = None,
    pos_weight: Sequence[float] = (),
) -> Target:
    """Load a model.

    Args:
        path: A model file, or a module of your own.
        mode: ``eval`` or ``train``: how the client runs it (dropout, BatchNorm).
        output: Name of the output to audit, for models with several; of a module also its position. Or the outputs
            that the client's loss is over, with their weights, the main one first: ``logits+0.3*aux1+0.3*aux2``.
        frozen: Patterns (``conv1.*``) of tensors that the client does not train.
        factory: ``package.module:function`` that returns the module whose weights ``path`` holds.
        trust: Open ``.pt2`` files, which can call torch's tensor operators and nothing else, and TorchScript files,
            whose programs torch runs: they can read and write files.
        unsafe_pickle: Open pickled modules, which run code.
        image_shape: ``(C, H, W)`` where the file leaves the input size open.
        dropout: Probability by node or module name: dropout to put back where an export has lost it.
        loss: Loss of the client; by default that of the task: ``cross-entropy``, ``bce`` for a single logit and for
            several classes, or ``mse`` (else ``l1`` or ``huber``) for numbers. With settings, as
            ``cross-entropy:smoothing=0.1,weights=[1,2]``, ``focal:gamma=2``; or ``module:function`` of your own, which
            takes outputs and labels and returns a scalar.
        batchnorm: Whether BatchNorm uses statistics of the batch or the running ones; by default those of `mode`.
        share_bn_statistics: Statistics of BatchNorm that clients share with their updates: ``batch``, mean and variance
            of every layer over the batch, or ``running``, the running statistics after the step.
        trained: Patterns of tensors of an ONNX file that the client trains although they look like anything else, such
            as a prompt at the input.
        task: What labels are; by default told from the outputs, and from the labels once there are samples.
        pos_weight: Weight of the marked classes, one or one each, where a sample has several.

    Returns:
        The model, in the requested mode.

    Raises:
        ModelError: The content cannot be audited; says why and what to do.
        UsageError: The file does not exist, or an argument does not fit the model.
    """
    from leakaudit.target import archives, modules
    from leakaudit.target.modules import MOST_CLASSES

    if mode not in ("eval", "train"):
        raise UsageError(f"mode is {mode!r}, expected eval or train", "only leakaudit scan compares both")
    from leakaudit.target.batchnorm import set_batchnorm, sharing
    from leakaudit.target.rescaling import with_own_rescaling

    if isinstance(path, nn.Module):
        _check_trained(trained, "a module: requires_grad decides there")
        target = modules.from_module(path, image_shape, frozen, mode, dropout=dropout, output=output)
    else:
        file = Path(path)
        if not file.is_file():
            raise UsageError(f"{file} is not a file", "pass the path of a model file")
        reader = reader_of(file)
        asked = Asked(
            mode=mode,
            output=output,
            frozen=frozen,
            trained=trained,
            trust=trust,
            unsafe_pickle=unsafe_pickle,
            image_shape=image_shape,
            dropout=dict(dropout or {}),
        )
        if reader.kind != "onnx":
            _check_trained(trained, f"{reader.called}: it says itself what is trained")
        target = reader.read(file, asked) if factory is None else archives.from_factory(file, reader, factory, asked)
        target = target if target.sha256 else replace(target, sha256=hash_model(file))
    if not target.parameters:
        raise ModelError(f"{target.name} has no trainable tensors", "check --frozen and that weights are in the file")
    asked_task = asked_for(target.task.main, task, loss, pos_weight, target.name)
    known = None if asked_task is None else (target.task.over(asked_task[0]), asked_task[1])
    check_heads(target.task if known is None else known[0], target.name)
    if known is None and target.task.places and target.task.labelled and target.domain.ids:
        _refuse_hidden(target)
    if known is None and not target.task.places and target.classes > MOST_CLASSES:
        raise ModelError(
            f"{target.name} returns {target.classes} numbers per sample, more than a classifier is expected to have: "
            "a detector or a map, flattened?",
            'if they are classes, say loss = "cross-entropy" in a --train-config file',
        )
    if batchnorm is not None:
        set_batchnorm(target.module, batchnorm, target.name)
    target = with_own_rescaling(sharing(target, share_bn_statistics))
    if known is None:
        return target
    fidelity = tuple(note for note in target.fidelity if note.id != "LA922")  # a single output is no assumption now
    fidelity += tuple(_derivatives(known[0]))
    return replace(target, task=known[0], task_evidence=known[1], task_asked=True, fidelity=fidelity)


def _refuse_hidden(target: Target) -> None:
    """Refuse numbers at each token that nobody calls classes: of an encoder they are hidden states.

    Raises:
        ModelError: Always.
    """
    others = [note.message for note in target.fidelity if note.id == "LA911"]
    raise ModelError(
        f"{target.name} returns {target.task.classes} numbers at each of {target.task.places[0]} tokens, expected one "
        "score per class and sample: hidden states, or a class for each token?",
        "; ".join(["if they are classes, say --task segmentation; else choose another output with --output", *others]),
    )


def _derivatives(task: Task) -> list[FidelityNote]:
    """Try a loss of the user's own, and note where it lacks the second derivative that gradient matching needs.

    Raises:
        UsageError: It fails, or has no first derivative.
    """
    if task.own is None:
        return []
    outputs = torch.rand((2, task.outputs), generator=torch.Generator().manual_seed(0))
    why = lacks(task.loss, outputs, task.probes(2))
    if not why:
        return []
    text = f"the loss {task.own.path} has no second derivative ({why}); only closed-form attacks can run"
    return [FidelityNote("LA930", text, "write it with torch's own operators")]


def _check_trained(trained: Sequence[str], of: str) -> None:
    """Refuse patterns of trained tensors where they would be ignored."""
    if trained:
        raise UsageError(f"--trained is for ONNX files, not for {of}", "leave it out")
