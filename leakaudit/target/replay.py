"""Re-evaluate a stretch of a recorded model in float64: what a parameter-free layer does to its input, measured.

Claim. Reshapes and axis permutations are found by sending entry numbers through them, additions and multiplications
by known tensors (normalisation constants, BatchNorm with running statistics) by sending 0 and 1 through them. Nothing
about the operator has to be known, and a layer that is neither is found out by a third probe.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from leakaudit.target.pointwise import out_of_place
from leakaudit.target.trace import Trace, op_name

_IDENTITY = {"_to_copy", "to", "detach", "clone", "alias", "contiguous", "lift_fresh", "lift_fresh_copy"}
_VIEWS = {"view", "_unsafe_view", "reshape"}


def replay(trace: Trace, source: fx.Node, output: fx.Node, value: Tensor) -> Tensor:
    """Value of ``output`` when ``source`` has this value; parameters and constants in float64 on the CPU.

    Args:
        trace: Recorded with batch size 1.
        source: Node whose value is given.
        output: Node that depends on the input through ``source`` alone.
        value: Float64, shaped as ``source`` with its batch axis.
    """
    known: dict[fx.Node, Any] = {source: value}
    stack = [output]
    while stack:
        node = stack[-1]
        missing = [n for n in node.all_input_nodes if n not in known] if node not in known else []
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if node not in known:
            known[node] = _evaluate(trace, node, known)
    result = known[output]
    assert isinstance(result, Tensor)
    return result


def _evaluate(trace: Trace, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    if node in trace.inputs:
        return _double(trace.values[trace.inputs[node]])
    if node is trace.input:  # of the images themselves nothing but the shape may matter
        return torch.full(trace.shape(node), float("nan"), dtype=torch.float64)
    if node.op == "get_attr":
        return _double(trace.constants[str(node.target)])
    arguments: Any = fx.node.map_arg(node.args, known.__getitem__)
    if op_name(node) in _IDENTITY:
        return arguments[0]
    if op_name(node) in _VIEWS:  # strides may differ from those of the recording
        return arguments[0].reshape(arguments[1])
    options: Any = fx.node.map_arg(node.kwargs, known.__getitem__)
    target: Any = node.target if op_name(node) == "getitem" else out_of_place(node)
    return target(*arguments, **options)


def _double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def entry_order(trace: Trace, source: fx.Node, output: fx.Node) -> Tensor | None:
    """For each output entry the number of the input entry that it copies, or ``None`` if it is not a reordering."""
    shape = trace.shape(source)
    numbers = torch.arange(prod(shape), dtype=torch.float64)
    order = replay(trace, source, output, numbers.reshape(shape)).flatten()
    if order.numel() != numbers.numel() or not torch.equal(order.sort().values, numbers):
        return None
    return order.long()


def scale_and_shift(trace: Trace, source: fx.Node, output: fx.Node) -> tuple[Tensor, Tensor] | None:
    """a and b of y = a∘x + b, shaped as one sample, or ``None`` if the stretch is not elementwise affine."""
    shape = trace.shape(source)
    zero, one, two = (
        replay(trace, source, output, torch.full(shape, value, dtype=torch.float64)) for value in (0.0, 1.0, 2.0)
    )
    scale = one - zero
    if zero.shape != shape or not torch.allclose(two - one, scale, rtol=1e-9, atol=1e-12):
        return None
    return scale[0], zero[0]
