"""The Target: a user's model as a differentiable function with named trainable tensors.

Whatever the file's own input layout (NCHW, NHWC, H×W without channels, a flat vector), a Target takes the model inputs
``(B, *shape)`` of its domain, and returns the outputs of its task: of images, ``(B, C, H, W)`` to logits ``(B, K)``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leakaudit.domains.base import Domain
from leakaudit.errors import ModelError
from leakaudit.tasks.base import Task

Layout = Literal["NCHW", "NHWC", "HW", "NCL", "NLC", "L", "NCDHW", "NDHWC", "DHW", "flat", "tokens"]
"""How a model arranges one sample, see `leakaudit.target.layout`."""
LAST = ("NHWC", "NLC", "NDHWC")
"""Layouts with the channels last."""
SharedStatistics = Literal["none", "batch", "running"]


@dataclass(frozen=True)
class FidelityNote:
    """One thing in which the audited network may differ from the one that the client trains.

    Args:
        id: Stable identifier, ``LA9xx``.
        message: One sentence.
        hint: The way out. May be empty.
    """

    id: str
    message: str
    hint: str = ""


@dataclass(frozen=True, eq=False)
class Target:
    """A model under audit.

    Args:
        module: Takes its native input ``(B, *native_shape)`` and returns logits ``(B, K)``, or ``(B, 1)`` when binary.
        name: Short name for reports, usually the file's stem.
        format: ``onnx``, ``exported``, ``torchscript``, ``factory`` or ``module``.
        native_shape: Shape of one sample as the module takes it, without the batch axis.
        layout: How ``native_shape`` is to be read.
        domain: What a sample is; its shape is how one is passed to the methods here.
        task: What a label is, and the loss.
        path: File that it came from, or ``None``.
        sha256: Hash of that file, or ``None``.
        fidelity: What the file format hid, most important first.
        batch_sizes: Batch sizes that the file accepts, or ``None`` for any.
        frozen: Names of tensors that are not trained, so never part of an update.
        producer: What wrote the file, for the report.
        shared_statistics: Statistics of BatchNorm that the client shares with an update: those of its batch, or the
            running ones after the step.
        task_evidence: What the task was told from, or what asked for it.
        task_asked: Whether the user asked for it, so that labels do not say another.
        window: Which of the module's numbers per sample :meth:`logits` returns, from the first to behind the last;
            ``None`` for all. One head of several is seen through it.
    """

    module: nn.Module
    name: str
    format: str
    native_shape: tuple[int, ...]
    layout: Layout
    domain: Domain
    task: Task
    path: str | None = None
    sha256: str | None = None
    fidelity: tuple[FidelityNote, ...] = ()
    batch_sizes: tuple[int, ...] | None = None
    frozen: tuple[str, ...] = ()
    producer: str = ""
    shared_statistics: SharedStatistics = "none"
    task_evidence: str = ""
    task_asked: bool = False
    window: tuple[int, int] | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one sample: ``(C, H, W)`` of images, ``(C, L)`` of signals, ``(1, 1, L)`` of token ids."""
        return self.domain.shape

    @property
    def classes(self) -> int:
        """Number of classes K; 0 where labels are no classes."""
        return self.task.classes

    @property
    def binary(self) -> bool:
        """Whether there is a single logit, for class 1; of several heads, in each."""
        return self.task.main.outputs == 1 and self.task.classes == 2

    @property
    def mode(self) -> Literal["eval", "train"]:
        """Mode that the client's model runs in."""
        return "train" if self.module.training else "eval"

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trainable tensors by name, in the module's order."""
        return {
            name: tensor
            for name, tensor in self.module.named_parameters()
            if tensor.requires_grad and name not in self.frozen
        }

    def to_native(self, inputs: Tensor) -> Tensor:
        """Inputs (B, *shape) to the module's own layout (B, *native_shape)."""
        if self.layout in LAST:
            inputs = inputs.movedim(1, -1)
        return self.domain.cast(inputs).reshape(inputs.shape[0], *self.native_shape)

    def random_inputs(self, batch: int, generator: Generator) -> Tensor:
        """Inputs (B, *shape) that the model accepts, see :meth:`leakaudit.domains.base.Domain.random_inputs`."""
        return self.domain.random_inputs(batch, generator)

    def to_images(self, native: Tensor) -> Tensor:
        """The inverse of :meth:`to_native`."""
        if self.layout in LAST:
            channels, *sides = self.image_shape
            return native.reshape(-1, *sides, channels).movedim(-1, 1)
        return native.reshape(-1, *self.image_shape)

    def logits(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits (B, K) of model inputs (B, *shape), with other parameter values if given.

        Attention runs through the math path, the only one that has a second derivative.

        Raises:
            ModelError: The module refuses these inputs, such as BatchNorm in train mode over a single value.
        """
        native = self.to_native(inputs)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                if parameters is None:
                    output = self.module(native)
                else:
                    named = untied(self.module, parameters)
                    output = torch.func.functional_call(self.module, named, (native,), tie_weights=False)
        except ValueError as error:  # torch: BatchNorm over a single value per channel
            raise ModelError(
                f"{self.name} cannot run a batch of {len(inputs)} in {self.mode} mode: {error}",
                "raise --batch-size, or audit with --mode eval",
            ) from error
        logits: Tensor = output.reshape(inputs.shape[0], -1)
        return logits if self.window is None else logits[:, slice(*self.window)]

    def loss(
        self,
        inputs: Tensor,
        labels: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        errors: Tensor | None = None,
    ) -> Tensor:
        """The task's mean loss of inputs (B, *shape) against labels, see `leakaudit.tasks.base.Task.loss`.

        With `errors` (B, outputs), what has the same gradient as a loss with these errors ∂ℓ/∂z of each sample,
        whatever the labels that make them: the mean of ⟨errors, outputs⟩.
        """
        outputs = self.logits(inputs, parameters)
        return self.task.loss(outputs, labels) if errors is None else (errors.to(outputs) * outputs).sum(1).mean()

    def at(self, weights: Mapping[str, Tensor]) -> Target:
        """The same model with other weights or buffers, by name; those that are not given stay."""
        module = copy.deepcopy(self.module)
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for name, tensor in weights.items():
                named[name].copy_(tensor)
        return replace(self, module=module)

    def gradient(
        self,
        inputs: Tensor,
        labels: Tensor,
        *,
        create_graph: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        errors: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Gradient of :meth:`loss` for every trainable tensor, by name; zeros for a tensor that the loss ignores."""
        values = self.parameters if parameters is None else dict(parameters)
        loss = self.loss(inputs, labels, parameters, errors)
        if not loss.requires_grad:
            return {name: torch.zeros_like(tensor) for name, tensor in values.items()}
        grads = torch.autograd.grad(
            loss, list(values.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
        return dict(zip(values, grads, strict=True))

    def to(self, device: torch.device | str) -> Target:
        """Move the module to a device, in place; returns self."""
        self.module.to(device)
        return self


def taken_for(target: Target) -> str:
    """What a model's samples and labels are taken for, by what evidence, and how to say otherwise: one line."""
    asked = target.task_evidence if target.task_asked else f"{target.task_evidence}; else say --task or --input-shape"
    sample = target.domain.told(target.layout, target.native_shape)
    return f"taken for {target.task.name} by {target.task.describe()} ({asked}) over {sample}"


def untied(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the name of every module that holds them, each module once.

    A tensor that two modules share is named once among a module's parameters. ``functional_call`` can find the other
    names, but a module registered twice then keeps the replacement for good.
    """
    names = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    found = dict(tensors)
    for prefix, part in module.named_modules():
        for attribute, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            first = names.get(id(tensor))
            if first is not None and first in tensors:
                found[f"{prefix}.{attribute}" if prefix else attribute] = tensors[first]
    return found
