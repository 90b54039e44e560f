"""Which tensor of the model an array of a framework's payload is.

Frameworks prefix names, send lists without names, mix buffers with parameters, and add counters of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakaudit.client.rounds.arrays import NAMELESS
from leakaudit.errors import UpdateError
from leakaudit.target.target import Target

PREFIXES = ("_module.", "module.", "_orig_mod.", "base_model.model.")
"""Put before every name by Opacus, data-parallel wrappers, torch.compile and peft."""
INFIXES = ("default", "modules_to_save")
"""Put into names by peft, for the adapter of that name and layers that are trained whole; what it saves has none."""
QUANTISED = {torch.uint8, torch.int8}
COUNTER = "num_batches_tracked"
CLOSE = 1e-6
"""Relative difference within which weights are the same; about eight roundings of float32."""


@dataclass(frozen=True, eq=False)
class Payload:
    """What a client or server sent, by the names of the model.

    Args:
        tensors: Of trainable tensors, in their types.
        buffers: Of others that the model keeps, such as running statistics.
        notes: What was left out or renamed, one sentence each.
    """

    tensors: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def payload(arrays: Mapping[str, Tensor], target: Target, source: str) -> Payload:
    """Arrays by the model's names; every one that has no place is named.

    Args:
        arrays: As they were read, those of a list in its order.
        target: The model.
        source: Where they come from, for errors.

    Raises:
        UpdateError: One fits no tensor of the model, or holds no finite real numbers.
    """
    notes: list[str] = []
    if all(NAMELESS.fullmatch(name) for name in arrays):
        arrays = _in_order(list(arrays.values()), target, source)
        notes.append(f"arrays without names, taken in the order of the model's {len(arrays)} tensors")
    else:
        arrays, renamed = _renamed(arrays, target)
        notes += renamed
    trained, kept = target.parameters, _kept(target)
    tensors: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    frozen = 0
    for name, array in arrays.items():
        if name in trained:
            tensors[name] = _checked(name, array, trained[name], source)
        elif name in kept:
            buffers[name] = _beside(name, array, kept[name], source)
            frozen += name in dict(target.module.named_parameters())
        elif name.rpartition(".")[2] != COUNTER and array.numel() > 1:
            raise UpdateError(
                f"{source} has {name!r}, which is no trainable tensor of the model", f"name the arrays {_some(trained)}"
            )
        elif name.rpartition(".")[2] != COUNTER:
            notes.append(f"{name} is a single number that the model does not have: left out")
    if frozen:
        notes.append(f"{frozen} tensors that are not trained left out")
    if not tensors:
        raise UpdateError(f"{source} holds no trainable tensor of the model", f"name the arrays {_some(trained)}")
    if missing := [name for name in trained if name not in tensors]:
        notes.append(f"{missing[0]} is not in it" + (f", nor are {len(missing) - 1} more" if missing[1:] else ""))
    return Payload({name: tensors[name] for name in trained if name in tensors}, buffers, tuple(notes))


def _kept(target: Target) -> dict[str, Tensor]:
    """What the module has beside its trainable tensors."""
    trained = target.parameters
    found = {**dict(target.module.named_parameters()), **dict(target.module.named_buffers())}
    return {name: tensor for name, tensor in found.items() if name not in trained}


def _in_order(arrays: list[Tensor], target: Target, source: str) -> dict[str, Tensor]:
    """Arrays of a list by the names of the tensors in whose order they come: of a state dict, or of parameters only.

    Raises:
        UpdateError: Neither has so many, or a shape differs.
    """
    state = dict(target.module.state_dict())
    whole = {name: state[name] for name in state}
    counted = {name: tensor for name, tensor in whole.items() if not name.endswith(COUNTER)}
    orders = (whole, counted, dict(target.module.named_parameters()), target.parameters)
    fitting = next((order for order in orders if len(order) == len(arrays)), None)
    if fitting is None:
        counts = " or ".join(map(str, dict.fromkeys(len(order) for order in orders)))
        raise UpdateError(
            f"{source} holds {len(arrays)} arrays without names, expected {counts}", "save them under the model's names"
        )
    for number, (array, (name, tensor)) in enumerate(zip(arrays, fitting.items(), strict=True)):
        if array.shape != tensor.shape:
            got, expected = tuple(array.shape), tuple(tensor.shape)
            raise UpdateError(
                f"{source}: array {number} has shape {got}, expected {expected} for {name}, its place in the model",
                "save the arrays in the order of the state dict, or under the model's names",
            )
    return dict(zip(fitting, arrays, strict=True))


def _renamed(arrays: Mapping[str, Tensor], target: Target) -> tuple[dict[str, Tensor], list[str]]:
    """Arrays by the model's names, where these differ only by what wrappers put there; and what differed, in words."""
    known = {*target.parameters, *_kept(target)}
    alike: dict[str, list[str]] = {}
    for name in known:
        alike.setdefault(_bare(name)[0], []).append(name)
    notes: dict[str, None] = {}
    found: dict[str, Tensor] = {}
    for name, array in arrays.items():
        bare, taken = _bare(name)
        own = alike.get(bare, [])
        if name in known or len(own) != 1 or own[0] in arrays:
            found[name] = array
            continue
        found[own[0]] = array
        there = _bare(own[0])[1]
        notes |= dict.fromkeys(f"prefix {part} taken off the names" for part in taken if part not in there)
        notes |= dict.fromkeys(f"{part} put into the names" for part in there if part not in taken)
    return found, list(notes)


def _bare(name: str) -> tuple[str, list[str]]:
    """A name without what wrappers put there, and what that was."""
    taken: list[str] = []
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
        taken.append(prefix)
    parts = name.split(".")
    taken += [f".{part}" for part in parts if part in INFIXES]
    return ".".join(part for part in parts if part not in INFIXES), taken


def _checked(name: str, array: Tensor, like: Tensor, source: str) -> Tensor:
    """An array in the type of its tensor.

    Raises:
        UpdateError: It has another shape, or holds no finite real numbers.
    """
    if array.dtype in QUANTISED:  # asked first, as two numbers of four bits in one byte have another shape
        raise UpdateError(
            f"{source}: {name} holds {str(array.dtype).removeprefix('torch.')}: a quantised payload",
            "record it before the filter that quantises, or undo that with the filter's own scale",
        )
    if array.shape != like.shape:
        got, expected = tuple(array.shape), tuple(like.shape)
        raise UpdateError(f"{source}: {name} has shape {got}, expected {expected}", "save it as the model has it")
    if not array.is_floating_point() or not bool(torch.isfinite(array).all()):
        raise UpdateError(
            f"{source}: {name} holds values that are not finite real numbers", "record what the client sent, undamaged"
        )
    return array.to(like.dtype)


def _beside(name: str, array: Tensor, like: Tensor, source: str) -> Tensor:
    """An array that the client does not train, in the shape of the model's tensor; counters come as lists of one.

    Raises:
        UpdateError: It has another shape, or holds other than finite real numbers.
    """
    if array.numel() == like.numel() == 1:
        array = array.reshape(like.shape)
    if array.is_floating_point() and not bool(torch.isfinite(array).all()):
        raise UpdateError(
            f"{source}: {name} holds values that are not finite", "record what the client sent, undamaged"
        )
    if array.shape != like.shape or array.is_complex():
        got = f"{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}"
        raise UpdateError(
            f"{source}: {name}, which is not trained, is {got}, expected numbers {tuple(like.shape)}",
            "save it as the model has it, or leave it out",
        )
    return array


def _some(names: Mapping[str, Tensor]) -> str:
    own = list(names)
    return ", ".join(own[:3]) + (f", … ({len(own)} in all)" if len(own) > 3 else "")


def differing(weights: Mapping[str, Tensor], target: Target) -> tuple[str, str] | None:
    """In which tensor weights differ most from those of a model, as an error's message and way out; ``None`` if equal.

    Args:
        weights: Of parameters and buffers, by the model's names.
        target: The model.
    """
    module = target.module
    state = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    worst, most = "", CLOSE
    for name, tensor in weights.items():
        own = state[name].detach().cpu()
        if not own.is_floating_point():
            continue
        difference = float((tensor.to(own) - own).norm() / own.norm().clamp_min(1e-30))
        if not difference <= most:
            worst, most = name, difference
    if not worst:
        return None
    return (
        f"the round did not begin with this model: {worst} differs by {most:.2g} of its norm",
        "scan the weights in before.safetensors, or the round of this model",
    )
