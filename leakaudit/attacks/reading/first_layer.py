"""Which tensors read the model's input directly: the layers that every exact reading of an update starts from.

Claim: a weight whose operand is the input itself, up to pixel order and an affine change of each value (flatten, NHWC,
a normalisation inside the model), is found by running the model and watching the operators that use it. With the
operand ``u``, the image ``x`` and constants per entry,

.. math:: u_i = s_i \\, x_{\\pi(i)} + c_i

follow from three probes (zeros, ones, the pixel numbers), and a random probe refutes everything that is not of this
form (a convolution or an activation in between). Neither names nor module classes are looked at.

Fails, by finding nothing, where the weight is computed from several tensors (weight norm) or used more than once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import gradient_of
from leakaudit.target.dispatch import DispatchMode
from leakaudit.target.dropout import dropout_layers
from leakaudit.target.target import Target
from leakaudit.target.trace import unfused_attention

Kind = Literal["linear", "convolution"]
PRODUCTS = {"addmm": 1, "mm": 0, "bmm": 0, "baddbmm": 1, "convolution": 0, "embedding": 1, "index_select": 2}
"""Operators that apply a weight, and the position of the operand among their arguments, by definition of PyTorch's
operators."""
WEIGHT_POSITION = {"addmm": 2, "mm": 1, "bmm": 1, "baddbmm": 2, "convolution": 1, "embedding": 0, "index_select": 0}
"""Position of the weight among the same operators' arguments, by definition of PyTorch's operators."""
LOOKUPS = ("embedding", "index_select")
BIAS_TOLERANCE = 1e-4
"""Relative misfit of ``∂ℓ/∂W = δ uᵀ`` on the probe up to which δ is the bias's gradient; chosen, 840 times float32's
precision."""


@dataclass(frozen=True, eq=False)
class Use:
    """One use of a weight: the operator, its arguments, and the operand.

    Args:
        operator: Name of the aten operator.
        operand: What the weight was applied to, batch axis first.
        transposed: Whether the parameter is stored as (in, out).
        arguments: Further arguments of the operator.
    """

    operator: str
    operand: Tensor
    transposed: bool
    arguments: tuple[Any, ...]


class _Watch(DispatchMode):
    """Records the operand of every product with a named parameter."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {tensor.untyped_storage().data_ptr(): name for name, tensor in parameters.items()}
        self.parameters = parameters
        self.uses: dict[str, list[Use]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = func.overloadpacket.__name__
        if operator in PRODUCTS:
            weight, operand = args[WEIGHT_POSITION[operator]], args[PRODUCTS[operator]]
            name = self.names.get(weight.untyped_storage().data_ptr())
            if name is not None:
                transposed = operator in ("addmm", "mm") and weight.stride() == self.parameters[name].stride()
                use = Use(operator, operand.detach().clone(), transposed, tuple(args))
                self.uses.setdefault(name, []).append(use)
        return func(*args, **(kwargs or {}))


def watch(target: Target, inputs: Tensor) -> dict[str, list[Use]]:
    """The uses of every weight, frozen ones included, on inputs (B, C, H, W), by the name of parameter or buffer."""
    tensors = {**dict(target.module.named_buffers()), **dict(target.module.named_parameters())}
    recorder = _Watch(tensors)
    with torch.no_grad(), unfused_attention(), recorder:
        target.logits(inputs)
    return recorder.uses


@dataclass(frozen=True, eq=False)
class InputMap:
    """How a layer's operand comes from the image: ``operand = scale * image[index] + shift``, entry by entry.

    Args:
        index: Pixel number (row-major over C, H, W) of each operand entry (n,).
        scale: (n,), not zero.
        shift: (n,).
        shape: Shape of one sample's operand.
        image_shape: Of one sample, ``(C, H, W)`` of images.
    """

    index: Tensor
    scale: Tensor
    shift: Tensor
    shape: tuple[int, ...]
    image_shape: tuple[int, ...]

    @property
    def known(self) -> Tensor:
        """Pixels (C, H, W) that reach the layer, as booleans."""
        mask = torch.zeros(prod(self.image_shape), dtype=torch.bool, device=self.index.device)
        mask[self.index] = True
        return mask.view(self.image_shape)

    def images(self, operands: Tensor, fill: Tensor) -> Tensor:
        """Images (B, C, H, W) from operands (B, ...); pixels that do not reach the layer come from `fill` (C, H, W)."""
        values = (operands.reshape(len(operands), -1) - self.shift) / self.scale
        flat = fill.to(values).reshape(1, -1).repeat(len(operands), 1)
        flat[:, self.index] = values
        return flat.view(-1, *self.image_shape)

    def operands(self, images: Tensor) -> Tensor:
        """Operands (B, n) of images (B, C, H, W)."""
        return images.reshape(len(images), -1)[:, self.index] * self.scale + self.shift


@dataclass(frozen=True, eq=False)
class Entry:
    """A layer that reads the model's input.

    Args:
        weight: Name of its weight.
        bias: Name of its bias (linear layers of one token only), or ``None``.
        kind: Of layer.
        transposed: Whether the weight is stored as (in, out).
        map: From images to its operand.
        arguments: Further arguments of its operator (stride, padding, … of a convolution).
    """

    weight: str
    bias: str | None
    kind: Kind
    transposed: bool
    map: InputMap
    arguments: tuple[Any, ...]

    def rows(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The weight, or its gradient, as (out, in)."""
        tensor = tensors[self.weight]
        return tensor.T if self.transposed else tensor


def probe_batch(target: Target, image: Tensor) -> Tensor:
    """One image (C, H, W) repeated to the smallest batch that the model takes."""
    size = min(target.batch_sizes) if target.batch_sizes else 1
    return image.unsqueeze(0).repeat(size, *(1,) * image.dim())


def like(target: Target) -> Tensor:
    """A trainable tensor, for its device and floating-point type."""
    return next(t for t in target.parameters.values() if t.is_floating_point())


def token_table(target: Target) -> str | None:
    """Name of the embedding table that the input indexes, or ``None`` for a model of real-valued inputs."""
    if target.domain.table is not None:
        return target.domain.table
    probe = probe_batch(target, like(target).new_zeros(target.image_shape))
    for name, uses in watch(target, probe).items():
        if any(u.operator in LOOKUPS and u.operand.numel() == probe.numel() for u in uses):
            return name
    return None


def find_entries(target: Target, generator: Generator) -> tuple[Entry, ...]:
    """The linear and convolution layers that read the input itself, in the order of the parameters; none for tokens."""
    if token_table(target) is not None:
        return ()
    reference, pixels = like(target), prod(target.image_shape)
    noise = torch.randn(target.image_shape, generator=generator).to(reference)
    probes = [torch.zeros_like(noise), torch.ones_like(noise), torch.arange(pixels).to(noise).view_as(noise), noise]
    uses = [watch(target, probe_batch(target, probe)) for probe in probes]
    entries = []
    for name, (use, *others) in uses[3].items():
        if others or use.operator in LOOKUPS or name not in target.parameters:
            continue
        operands = [recorded[name][0].operand for recorded in uses]
        mapping = _input_map(target, operands, noise, len(probe_batch(target, noise)))
        if mapping is not None:
            kind: Kind = "convolution" if use.operator == "convolution" else "linear"
            arguments = use.arguments if kind == "convolution" else ()
            bias = _bias_of(target, name, use, mapping, noise) if kind == "linear" else None
            entries.append(Entry(name, bias, kind, use.transposed, mapping, arguments))
    return tuple(entries)


def find_linears(target: Target) -> tuple[Entry, ...]:
    """The linear layers of one token per sample that read the input or a part of it, those with a bias first."""
    entries = find_entries(target, torch.Generator().manual_seed(0))
    found = [e for e in entries if e.kind == "linear" and len(e.map.shape) == 1]
    return tuple(sorted(found, key=lambda entry: entry.bias is None))


def together(entries: Sequence[Entry]) -> Tensor:
    """Entries of the input (C, H, W) that at least one of the layers reads, as booleans."""
    return torch.stack([entry.map.known for entry in entries]).any(0)


def _input_map(target: Target, operands: list[Tensor], noise: Tensor, batch: int) -> InputMap | None:
    zeros, ones, numbers, random = (operand.reshape(batch, -1)[0] for operand in operands)
    shift, scale = zeros, ones - zeros
    if not bool(scale.all()) or not bool(torch.isfinite(numbers).all()):
        return None
    index = ((numbers - shift) / scale).round().long()
    if int(index.min()) < 0 or int(index.max()) >= noise.numel():
        return None
    expected = noise.reshape(-1)[index] * scale + shift
    if not torch.allclose(expected, random, rtol=1e-4, atol=1e-4 * float(random.abs().max())):
        return None
    shape = tuple(operands[0].shape)
    if shape[0] != batch:  # tokens folded into the batch axis
        return InputMap(index, scale, shift, (shape[0] // batch, *shape[1:]), target.image_shape)
    return InputMap(index, scale, shift, shape[1:], target.image_shape)


def _bias_of(target: Target, name: str, use: Use, mapping: InputMap, noise: Tensor) -> str | None:
    """The tensor whose gradient δ satisfies ∂ℓ/∂W = δ uᵀ on a probe: the bias, wherever it is added."""
    if len(mapping.shape) != 1:
        return None
    inputs = probe_batch(target, noise)
    label = target.task.probes(1).repeat_interleave(len(inputs), 0).to(inputs.device)
    gradients = gradient_of(target, inputs, label)
    weight = gradients[name].T if use.transposed else gradients[name]
    operand = mapping.operands(inputs[:1])[0]
    for other, gradient in gradients.items():
        if gradient.numel() != len(weight) or other == name:
            continue
        difference = weight - gradient.reshape(-1, 1) * operand
        if float(difference.norm()) <= BIAS_TOLERANCE * float(weight.norm()):
            return other
    return None


def masks_unknown(target: Target, observation: Observation) -> bool:
    """Whether the client's dropout was on, so that the update cannot be regenerated from inputs and labels alone."""
    active = any(layer.p > 0 for layer in dropout_layers(target.module).values())
    return observation.protocol.mode == "train" and active


def mid_grey(observation: Observation, reference: Tensor) -> Tensor:
    """Where nothing is known: an earlier attack's partial reconstruction, else mid-grey; (B, C, H, W)."""
    size = observation.batch_size
    if observation.start is not None and len(observation.start) == size:
        return observation.start.to(reference)
    low, high = observation.domain.box(reference)
    shape = observation.domain.shape
    return ((low + high) / 2).expand(shape).repeat(size, *(1,) * len(shape)).contiguous()
