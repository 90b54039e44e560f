"""What each recorded operator is: one handler per operator, from its arguments to kind, tensors and settings.

Each handler reads the arguments as PyTorch's ``native_functions.yaml`` documents them. Operators without a handler
become ``other``. Used by `leakaudit.target.layers`; the kinds are documented in `leakaudit.target.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, fx

from leakaudit.target import pointwise
from leakaudit.target.kinds import Kind
from leakaudit.target.trace import TensorUse, Trace, op_name

RESHAPES = {
    *("view", "reshape", "_unsafe_view", "flatten", "unsqueeze", "squeeze", "transpose", "permute", "t", "expand"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unflatten", "view_as"),
}
SLICES = {"select", "slice", "split", "split_with_sizes", "unbind", "chunk", "index_select", "narrow", "unfold"}
_ARITHMETIC = {"add", "sub", "mul", "div", "rsub"}


@dataclass
class Draft:
    """What a handler says about its operator."""

    kind: Kind
    data: tuple[Any, ...]
    weight: TensorUse | None = None
    bias: TensorUse | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def _argument(node: fx.Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _pair(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)
    return values * rank if len(values) == 1 else values


def _use(trace: Trace, node: Any, settings: dict[str, Any], key: str = "weight") -> TensorUse | None:
    """The tensor behind an argument; notes its shape, and that it is derived where it has no single name."""
    if not isinstance(node, fx.Node):
        return None
    use = trace.tensor_use(node)
    settings[f"{key}_shape"] = trace.shape(node)
    if use is None:
        settings[f"derived_{key}"] = True
    elif use.part:
        settings[f"{key}_part"] = True
    return use


def _convolution(trace: Trace, node: fx.Node) -> Draft:
    source, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args[:9]
    shape = trace.shape(weight)  # type: ignore[arg-type]
    rank = len(shape) - 2
    if trace.is_data(weight) or (bias is not None and trace.is_data(bias)):
        return other(trace, node)
    settings: dict[str, Any] = {
        "stride": _pair(stride, rank),
        "padding": _pair(padding, rank),
        "dilation": _pair(dilation, rank),
        "groups": int(groups),  # type: ignore[arg-type]
        "transposed": bool(transposed),
        "output_padding": _pair(output_padding, rank),
        "kernel": shape[2:],
        "in_channels": trace.shape(source)[1],  # type: ignore[arg-type]
        "out_channels": trace.shape(node)[1],
    }
    use = _use(trace, weight, settings)
    return Draft("convolution", (source,), use, _use(trace, bias, settings, "bias"), settings)


def _linear_draft(trace: Trace, source: Any, weight: Any, bias: Any = None) -> Draft:
    """z = x W (+ b) with x (rows, n) and W (n, F)."""
    settings: dict[str, Any] = {}
    use = _use(trace, weight, settings)
    features = trace.shape(weight)
    rows = trace.shape(source)
    settings |= {
        "in_features": features[-2],
        "out_features": features[-1],
        "tokens": max(1, prod(rows[:-1]) // trace.batch_size),
        "transposed": bool(use and not use.permuted),
    }
    return Draft("linear", (source,), use, _use(trace, bias, settings, "bias"), settings)


def _addmm(trace: Trace, node: fx.Node) -> Draft:
    bias, source, weight = node.args[:3]
    scaled = any(node.kwargs.get(k, 1) != 1 for k in ("alpha", "beta"))
    if scaled or trace.is_data(bias) or trace.is_data(weight) or not trace.is_data(source):
        return other(trace, node)
    return _linear_draft(trace, source, weight, bias)


def _linear(trace: Trace, node: fx.Node) -> Draft:
    source, weight = node.args[:2]
    if trace.is_data(weight):
        return other(trace, node)
    draft = _linear_draft(trace, source, weight, _argument(node, 2))
    shape = trace.shape(weight)  # type: ignore[arg-type]
    draft.settings |= {"in_features": shape[-1], "out_features": shape[-2], "transposed": False}
    return draft


def _matmul(trace: Trace, node: fx.Node) -> Draft:
    left, right = node.args[-2:]
    if trace.is_data(left) and trace.is_data(right):
        return Draft("matmul", (left, right))
    if trace.is_data(left) and (len(trace.shape(right)) == 2 or prod(trace.shape(right)[:-2]) == 1):  # type: ignore[arg-type]
        return _linear_draft(trace, left, right)
    return other(trace, node)


def _batch_norm(trace: Trace, node: fx.Node) -> Draft:
    name = op_name(node)
    source, weight, bias = node.args[:3]
    no_running = name == "_native_batch_norm_legit" and not isinstance(_argument(node, 3), fx.Node)
    if name == "_native_batch_norm_legit_no_training":
        training, epsilon = False, _argument(node, 6)
    elif no_running:
        training, epsilon = bool(_argument(node, 3)), _argument(node, 5)
    else:
        training, epsilon = bool(_argument(node, 5)), _argument(node, 7)
    settings: dict[str, Any] = {"batch_statistics": training, "epsilon": epsilon}
    if not no_running:
        for key, position in (("running_mean", 3), ("running_var", 4)):
            use = trace.tensor_use(_argument(node, position))
            settings[key] = use.name if use else None
    use = _use(trace, weight, settings)
    return Draft("batchnorm", (source,), use, _use(trace, bias, settings, "bias"), settings)


def _layer_norm(trace: Trace, node: fx.Node) -> Draft:
    source, shape, weight, bias, epsilon = node.args[:5]
    settings: dict[str, Any] = {"normalized_shape": tuple(shape), "epsilon": epsilon}  # type: ignore[arg-type]
    use = _use(trace, weight, settings)
    return Draft("layernorm", (source,), use, _use(trace, bias, settings, "bias"), settings)


def _group_norm(trace: Trace, node: fx.Node) -> Draft:
    source, weight, bias = node.args[:3]
    settings: dict[str, Any] = {"groups": _argument(node, 6), "epsilon": _argument(node, 7)}
    use = _use(trace, weight, settings)
    return Draft("groupnorm", (source,), use, _use(trace, bias, settings, "bias"), settings)


def _activation(trace: Trace, node: fx.Node) -> Draft:
    function, settings = pointwise.single(node)
    settings = {"function": function, **settings}
    slope = None
    if function in ("prelu", "rrelu") and len(node.args) > 1:
        slope = _use(trace, node.args[1], settings) if isinstance(node.args[1], fx.Node) else None
    return Draft("activation", (node.args[0],), slope, settings=settings)


def _pool(kind: Kind) -> Callable[[Trace, fx.Node], Draft]:
    def handler(trace: Trace, node: fx.Node) -> Draft:
        source = node.args[0]
        kernel = _argument(node, 1)
        rank = int(op_name(node).split("d")[0][-1]) if "pool" in op_name(node) else 2
        kernel = _pair(kernel, rank)
        stride = _pair(_argument(node, 2) or kernel, rank)
        ceil_at = 5 if kind == "max_pool" else 4
        settings = {
            "kernel": kernel,
            "stride": stride,
            "padding": _pair(_argument(node, 3, 0), rank),
            "ceil_mode": bool(_argument(node, ceil_at, False)),
        }
        if kernel == trace.shape(source)[2:]:  # type: ignore[arg-type]
            function = "max" if kind == "max_pool" else "mean"
            return Draft("global_pool", (source,), settings={"function": function, "axes": tuple(range(2, 2 + rank))})
        return Draft(kind, (source,), settings=settings)

    return handler


def _adaptive_pool(trace: Trace, node: fx.Node) -> Draft:
    function = "max" if "max" in op_name(node) else "mean"
    size = trace.shape(node)[2:]
    if prod(size) == 1:
        axes = tuple(range(2, len(trace.shape(node))))
        return Draft("global_pool", (node.args[0],), settings={"function": function, "axes": axes})
    kind: Kind = "max_pool" if function == "max" else "avg_pool"
    return Draft(kind, (node.args[0],), settings={"adaptive": True, "output_size": size})


def _reduction(trace: Trace, node: fx.Node) -> Draft:
    source = node.args[0]
    rank = len(trace.shape(source))  # type: ignore[arg-type]
    axes = _argument(node, 1)
    axes = (
        tuple(int(a) % rank for a in (axes if isinstance(axes, (list, tuple)) else [axes])) if axes is not None else ()
    )
    function = {"amax": "max", "mean": "mean", "sum": "sum", "max": "max"}[op_name(node)]
    if not axes or 0 in axes:
        return other(trace, node)
    return Draft("global_pool", (source,), settings={"function": function, "axes": axes})


def _softmax(trace: Trace, node: fx.Node) -> Draft:
    return Draft("softmax", (node.args[0],), settings={"axis": node.args[1], "log": "log" in op_name(node)})


def _embedding(trace: Trace, node: fx.Node) -> Draft:
    weight, source = node.args[:2]
    if not trace.is_data(source):
        return other(trace, node)
    settings: dict[str, Any] = {}
    return Draft("embedding", (source,), _use(trace, weight, settings), settings=settings)


def _pad(trace: Trace, node: fx.Node) -> Draft:
    name = op_name(node)
    mode = "constant" if name == "constant_pad_nd" else name.split("_")[0]
    value = _argument(node, 2, 0.0) if mode == "constant" else None
    return Draft("pad", (node.args[0],), settings={"pads": tuple(node.args[1]), "mode": mode, "value": value})  # type: ignore[arg-type]


def _concat(trace: Trace, node: fx.Node) -> Draft:
    parts = node.args[0]
    data = tuple(n for n in parts if trace.is_data(n))  # type: ignore[union-attr]
    uses = [trace.tensor_use(n) for n in parts if not trace.is_data(n)]  # type: ignore[union-attr]
    settings = {"axis": _argument(node, 1, 0), "tensors": tuple(u.name for u in uses if u)}
    return Draft("concat", data, settings=settings)


def _arithmetic(trace: Trace, node: fx.Node) -> Draft:
    """Two activations: residual or gate. One activation: a trainable tensor, a constant, or a dropout mask."""
    name = op_name(node)
    data = tuple(n for n in node.args[:2] if trace.is_data(n))
    if len(data) == 2:
        if name == "div":
            return other(trace, node)
        sign = {} if name in ("add", "mul") else {"sign": -1}
        return Draft("multiply" if name == "mul" else "add", data, settings=sign)
    operand = next(n for n in node.args[:2] if n is not data[0])
    probability = _dropout_probability(operand)
    if name == "mul" and probability is not None:
        return Draft("dropout", data, settings={"p": probability})
    use = trace.tensor_use(operand)
    settings: dict[str, Any] = {}
    if use is not None and not _is_buffer(trace, use):
        kind: Kind = "add" if name in ("add", "sub", "rsub") else "multiply"
        tensor = _use(trace, operand, settings, "bias" if kind == "add" else "weight")
        if name != kind[: len(name)] and name in ("sub", "rsub", "div"):
            settings["operation"] = name
        return Draft(kind, data, None if kind == "add" else tensor, tensor if kind == "add" else None, settings)
    value = trace.constant(operand)
    if value is None:
        return Draft("add" if name in ("add", "sub", "rsub") else "multiply", data, settings={"derived_weight": True})
    reverse = node.args[0] is operand
    return Draft("affine", data, settings={"operations": (_operation(name, value, reverse, use),)})


def _operation(name: str, value: Tensor, reverse: bool, use: TensorUse | None) -> tuple[str, Any]:
    """``("sub", 0.5)``: a scalar, or the tuple of a small tensor's values, or the name of a large buffer."""
    if reverse and name in ("sub", "div"):
        name = "r" + name
    if value.numel() == 1:
        return name, float(value)
    if value.numel() <= 64:
        return name, tuple(float(v) for v in value.flatten())
    return name, use.name if use else f"constant of shape {tuple(value.shape)}"


def _is_buffer(trace: Trace, use: TensorUse) -> bool:
    return not trace.values[use.name].is_floating_point() or use.name in trace.buffers


def _dropout_probability(node: Any) -> float | None:
    """p where a node is a Bernoulli mask: bernoulli(1 - p) / (1 - p)."""
    while isinstance(node, fx.Node):
        if op_name(node) == "bernoulli":
            keep = node.args[1] if len(node.args) > 1 else None
            return 1.0 - keep if isinstance(keep, float) else float("nan")
        node = node.args[0] if node.args else None
    return None


def _native_dropout(trace: Trace, node: fx.Node) -> Draft:
    return Draft("dropout", (node.args[0],), settings={"p": float(node.args[1])})  # type: ignore[arg-type]


def _reshape(trace: Trace, node: fx.Node) -> Draft:
    name = op_name(node)
    moved = name in ("transpose", "permute", "t", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
    return Draft("reshape", (node.args[0],), settings={"permutes": moved})


def _as_strided(trace: Trace, node: fx.Node) -> Draft:
    """A view of a whole tensor in its order, as exporters write it; anything else has no handler."""
    size, strides = node.args[1:3]
    expected = [prod(size[axis + 1 :]) for axis in range(len(size))]  # type: ignore[arg-type, index]
    ordered = all(n == 1 or a == b for n, a, b in zip(size, strides, expected, strict=True))  # type: ignore[arg-type]
    whole = prod(size) == prod(trace.shape(node.args[0]))  # type: ignore[arg-type]
    return _reshape(trace, node) if ordered and whole and not _argument(node, 3, 0) else other(trace, node)


def _slice(trace: Trace, node: fx.Node) -> Draft:
    return Draft("slice", (node.args[0],), settings={"arguments": tuple(node.args[1:])})


def _index_select(trace: Trace, node: fx.Node) -> Draft:
    """A slice, or a lookup: rows of a table at places that depend on the input."""
    table, places = node.args[0], node.args[2]
    if trace.is_data(table) or not trace.is_data(places):
        return _slice(trace, node)
    settings: dict[str, Any] = {}
    return Draft("embedding", (places,), _use(trace, table, settings), settings=settings)


def other(trace: Trace, node: fx.Node) -> Draft:
    """An operator without a handler, by its name."""
    data = tuple(n for n in node.all_input_nodes if trace.is_data(n))
    uses = [trace.tensor_use(n) for n in node.all_input_nodes if not trace.is_data(n)]
    return Draft("other", data, settings={"operator": op_name(node), "tensors": tuple(u.name for u in uses if u)})


HANDLERS: dict[str, Callable[[Trace, fx.Node], Draft]] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "addmm": _addmm,
    "linear": _linear,
    **dict.fromkeys(("mm", "bmm", "matmul"), _matmul),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
        _batch_norm,
    ),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(pointwise.ACTIVATIONS, _activation),
    **{f"max_pool{d}d_with_indices": _pool("max_pool") for d in (1, 2, 3)},
    **{f"max_pool{d}d": _pool("max_pool") for d in (1, 2, 3)},
    **{f"avg_pool{d}d": _pool("avg_pool") for d in (1, 2, 3)},
    **{f"{p}adaptive_avg_pool{d}d": _adaptive_pool for d in (1, 2, 3) for p in ("", "_")},
    **{f"adaptive_max_pool{d}d": _adaptive_pool for d in (1, 2, 3)},
    **dict.fromkeys(("mean", "amax", "sum"), _reduction),
    **dict.fromkeys(("_softmax", "softmax", "_safe_softmax", "_log_softmax", "log_softmax"), _softmax),
    "embedding": _embedding,
    **dict.fromkeys(
        ("constant_pad_nd", *(f"{m}_pad{d}d" for m in ("reflection", "replication") for d in (1, 2, 3))), _pad
    ),
    "cat": _concat,
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    "native_dropout": _native_dropout,
    **dict.fromkeys(RESHAPES, _reshape),
    "as_strided": _as_strided,
    **dict.fromkeys(SLICES, _slice),
    "index_select": _index_select,
}
