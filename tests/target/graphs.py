"""Hand-made ONNX graphs, each with something that an importer may get wrong. All take ``x`` and give logits ``y``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from leakaudit.target import Target
from tests.target.build import tensor

node = helper.make_node


@dataclass
class Graph:
    """What `build.write` takes, and the tensors that a client trains."""

    nodes: list[NodeProto]
    tensors: list[TensorProto]
    trained: set[str]
    shape: Sequence[int | str] = ("N", 3, 8, 8)
    opset: int = 17
    sample: tuple[int, ...] = (3, 8, 8)
    options: dict[str, Any] = field(default_factory=dict)
    twin: Graph | None = None
    """The same for newer operators, where no implementation of the old ones is at hand."""


def values(name: str, data: Any, kind: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(data, dtype=kind), name)


def ints(name: str, *data: int) -> TensorProto:
    return values(name, data, np.int64)


def kernel(name: str, *shape: int) -> TensorProto:
    return tensor(name, *shape, seed=3)


GRAPHS: dict[str, Callable[[], Graph]] = {}


def graph(make: Callable[[], Graph]) -> Callable[[], Graph]:
    """Register a graph under the function's name."""
    GRAPHS[make.__name__] = make
    return make


def classified(
    nodes: list[NodeProto], width: int, tensors: Sequence[TensorProto] = (), trained: Sequence[str] = (), **options: Any
) -> Graph:
    """``nodes`` from ``x`` to ``h`` (N, …) with ``width`` numbers per sample, and a linear layer behind them."""
    head = [node("Flatten", ["h"], ["flat"]), node("Gemm", ["flat", "w", "b"], ["y"], "head")]
    return Graph([*nodes, *head], [*tensors, kernel("w", width, 5), kernel("b", 5)], {*trained, "w", "b"}, **options)


@graph
def shared_between_conv_and_add() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("ReduceMean", ["k"], ["m"], axes=[2, 3], keepdims=1),
        node("ReduceSum", ["m", "axis"], ["s"], keepdims=0),
        node("Reshape", ["s", "to"], ["r"]),
        node("Add", ["c", "r"], ["h"]),
    ]
    return classified(nodes, 256, [kernel("k", 4, 3, 3, 3), ints("axis", 1), ints("to", 1, 4, 1, 1)], ["k"])


@graph
def one_matrix_in_matmul_and_gemm() -> Graph:
    nodes = [
        node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "m"], ["a"]), node("Tanh", ["a"], ["t"]),
        node("Gemm", ["t", "m"], ["g"], transB=1), node("Softsign", ["g"], ["h"]),
    ]  # fmt: skip
    return classified(nodes, 12, [kernel("m", 12, 6)], ["m"], shape=("N", 3, 2, 2), sample=(3, 2, 2))


@graph
def reshape_with_zero_and_minus_one() -> Graph:
    nodes = [node("Reshape", ["x", "to"], ["r"]), node("MatMul", ["r", "m"], ["h"])]
    return classified(nodes, 3 * 16 * 6, [ints("to", 0, 0, -1, 4), kernel("m", 4, 6)], ["m"])


@graph
def gemm_alpha_beta_transposed() -> Graph:
    nodes = [
        node("Flatten", ["x"], ["f"]), node("Transpose", ["f"], ["t"]),
        node("Gemm", ["t", "m", "c"], ["h"], alpha=0.5, beta=2.0, transA=1, transB=1),
    ]  # fmt: skip
    tensors = [kernel("m", 6, 12), kernel("c", 1, 6)]
    return classified(nodes, 6, tensors, ["m", "c"], shape=("N", 3, 2, 2), sample=(3, 2, 2))


@graph
def gemm_scalar_bias() -> Graph:
    nodes = [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "m", "c"], ["h"], transB=1)]
    return classified(
        nodes, 6, [kernel("m", 6, 12), kernel("c", 1)], ["m", "c"], shape=("N", 3, 2, 2), sample=(3, 2, 2)
    )


@graph
def matmul_with_batch_axes() -> Graph:
    nodes = [node("MatMul", ["m", "x"], ["p"]), node("Add", ["p", "c"], ["h"])]
    return classified(nodes, 3 * 5 * 8, [kernel("m", 1, 3, 5, 8), kernel("c", 5, 1)], ["m", "c"])


def _padded(mode: str, opset: int) -> Callable[[], Graph]:
    def make() -> Graph:
        widths = [0, 0, 1, 2, 0, 0, 3, 1]
        if opset < 11:
            pad = node("Pad", ["x"], ["p"], mode=mode, pads=widths, **({"value": 0.3} if mode == "constant" else {}))
            tensors = []
        else:
            given = ["x", "pads", "fill"] if mode == "constant" else ["x", "pads"]
            pad, tensors = node("Pad", given, ["p"], mode=mode), [ints("pads", *widths), values("fill", 0.3)]
        nodes = [pad, node("Conv", ["p", "k"], ["h"])]
        return classified(nodes, 4 * 10 * 9, [*tensors, kernel("k", 4, 3, 3, 3)], ["k"], opset=opset)

    return make


for _mode, _opset in [
    ("constant", 9), ("constant", 13), ("reflect", 9), ("reflect", 13), ("edge", 9), ("edge", 18), ("wrap", 19),
]:  # fmt: skip
    GRAPHS[f"pad_{_mode}_{_opset}"] = _padded(_mode, _opset)


@graph
def pad_two_axes_by_name() -> Graph:
    nodes = [node("Pad", ["x", "pads", "", "axes"], ["p"], mode="reflect"), node("Conv", ["p", "k"], ["h"])]
    tensors = [ints("pads", 1, 2, 2, 1), ints("axes", -1, 2), kernel("k", 4, 3, 3, 3)]
    return classified(nodes, 4 * 9 * 9, tensors, ["k"], opset=19)


@graph
def pad_that_cuts() -> Graph:
    nodes = [node("Pad", ["x", "pads"], ["p"]), node("Conv", ["p", "k"], ["h"])]
    return classified(nodes, 4 * 4 * 6, [ints("pads", 0, 0, -1, 0, 0, 0, -1, 0), kernel("k", 4, 3, 3, 3)], ["k"])


def _pool(op: str, width: int, opset: int = 17, **settings: Any) -> Callable[[], Graph]:
    def make() -> Graph:
        nodes = [node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]), node(op, ["c"], ["h"], **settings)]
        return classified(nodes, width, [kernel("k", 4, 3, 3, 3)], ["k"], opset=opset)

    return make


GRAPHS |= {
    "average_pool_without_padding": _pool("AveragePool", 100, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 2, 2]),
    "average_pool_with_padding": _pool(
        "AveragePool", 100, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 2, 2], count_include_pad=1
    ),
    "average_pool_ceil": _pool("AveragePool", 64, opset=19, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average_pool_ceil_padded": _pool(
        "AveragePool", 100, opset=19, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1
    ),
    "average_pool_same_lower": _pool("AveragePool", 64, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    "max_pool_ceil": _pool("MaxPool", 64, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max_pool_dilated": _pool("MaxPool", 100, kernel_shape=[2, 2], dilations=[3, 3], strides=[1, 1]),
    "max_pool_lopsided": _pool("MaxPool", 80, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 2, 2, 1]),
    "max_pool_same_upper": _pool("MaxPool", 64, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    "global_max_pool": _pool("GlobalMaxPool", 4),
    "global_average_pool": _pool("GlobalAveragePool", 4, opset=9),
    "global_lp_pool": _pool("GlobalLpPool", 4, p=2),
    "lp_pool": _pool("LpPool", 64, kernel_shape=[2, 2], strides=[2, 2], p=2),
}


def _conv(shape: tuple[int, ...], width: int, op: str = "Conv", bias: int = 0, **settings: Any) -> Callable[[], Graph]:
    def make() -> Graph:
        tensors = [kernel("k", *shape), *([kernel("c", bias)] if bias else [])]
        names = [t.name for t in tensors]
        return classified([node(op, ["x", *names], ["h"], **settings)], width, tensors, names)

    return make


GRAPHS |= {
    "conv_same_upper": _conv((4, 3, 3, 3), 64, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv_same_lower_even": _conv((4, 3, 2, 4), 256, auto_pad="SAME_LOWER"),
    "conv_valid": _conv((4, 3, 3, 3), 144, auto_pad="VALID", bias=4),
    "conv_lopsided": _conv((4, 3, 3, 3), 4 * 9 * 7, pads=[0, 1, 3, 0], bias=4),
    "conv_grouped_dilated": _conv((6, 1, 3, 3), 6 * 16, group=3, dilations=[2, 2], bias=6),
    "transposed": _conv((3, 4, 3, 3), 4 * 15 * 15, "ConvTranspose", 4, strides=[2, 2], pads=[1, 1, 1, 1]),
    "transposed_output_padding": _conv(
        (3, 4, 3, 3), 4 * 16 * 16, "ConvTranspose", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]
    ),
    "transposed_output_shape": _conv(
        (3, 4, 3, 3), 4 * 16 * 16, "ConvTranspose", strides=[2, 2], output_shape=[16, 16], auto_pad="SAME_UPPER"
    ),
    "transposed_grouped": _conv((3, 2, 2, 2), 6 * 9 * 9, "ConvTranspose", 6, group=3),
}  # fmt: skip


def _batch_norm(opset: int, **settings: Any) -> Callable[[], Graph]:
    def make() -> Graph:
        stats = [values(n, np.linspace(low, low + 1, 3)) for n, low in zip("sbmv", (0.5, -1, -0.2, 0.5), strict=True)]
        nodes = [node("BatchNormalization", ["x", *"sbmv"], ["n"], **settings), node("Tanh", ["n"], ["h"])]
        tensors = [*stats[:1], values("beta", np.linspace(-1, 0, 3)), *stats[2:]]
        nodes[0].input[2] = "beta"
        return classified(nodes, 192, tensors, ["s", "beta"], opset=opset)

    return make


GRAPHS |= {
    "batch_norm_7": _batch_norm(7, epsilon=1e-3),
    "batch_norm_7_spatial": _batch_norm(7, spatial=1),
    "batch_norm_9": _batch_norm(9, momentum=0.8),
    "batch_norm_15": _batch_norm(15),
}


@graph
def slice_split_concat() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Split", ["c", "parts"], ["p", "q", "r"], axis=1),
        node("Slice", ["q", "from", "to", "on", "by"], ["s"]), node("Concat", ["r", "s", "p"], ["h"], axis=-3),
    ]  # fmt: skip
    tensors = [ints("parts", 2, 3, 1), ints("from", -1, 0), ints("to", -10, 6), ints("on", 2, -1), ints("by", -1, 1)]
    return classified(nodes, 6 * 36, [*tensors, kernel("k", 6, 3, 3, 3)], ["k"])


@graph
def slice_and_split_by_attribute() -> Graph:
    nodes = [
        node("Slice", ["x"], ["s"], starts=[1, -7], ends=[7, 9223372036854775807], axes=[2, 3]),
        node("Split", ["s"], ["p", "q"], axis=2), node("Mul", ["p", "q"], ["h"]),
    ]  # fmt: skip
    return classified(nodes, 63, opset=9)


@graph
def split_into_unequal_parts() -> Graph:
    nodes = [node("Split", ["x"], ["p", "q", "r"], axis=2, num_outputs=3), node("Concat", ["r", "p"], ["h"], axis=2)]
    return classified(nodes, 3 * 5 * 8, opset=18)


def _resize(opset: int, inputs: list[str], tensors: list[TensorProto], width: int, **settings: Any) -> Any:
    def make() -> Graph:
        nodes = [node("Conv", ["x", "k"], ["c"]), node("Resize", ["c", *inputs], ["h"], **settings)]
        batch = 2 if "sizes" in inputs else "N"
        tensors_of_all = [*tensors, kernel("k", 2, 3, 3, 3)]
        return classified(nodes, width, tensors_of_all, ["k"], opset=opset, shape=(batch, 3, 8, 8))

    return make


_twice, _larger = values("scales", [1, 1, 2, 2]), ints("sizes", 2, 2, 9, 12)
GRAPHS |= {
    "resize_nearest": _resize(13, ["", "scales"], [_twice], 288, mode="nearest", nearest_mode="floor",
                              coordinate_transformation_mode="asymmetric"),
    "resize_linear": _resize(11, ["roi", "scales"], [values("roi", []), _twice], 288, mode="linear",
                             coordinate_transformation_mode="half_pixel"),
    "resize_corners": _resize(13, ["", "scales"], [_twice], 288, mode="linear",
                              coordinate_transformation_mode="align_corners"),
    "resize_to_size": _resize(13, ["", "", "sizes"], [_larger], 216, mode="linear",
                              coordinate_transformation_mode="pytorch_half_pixel"),
    "resize_10": _resize(10, ["scales"], [_twice], 288, mode="nearest"),
    "resize_smaller": _resize(13, ["", "scales"], [values("scales", [1, 1, 0.6, 0.5])], 18, mode="nearest"),
    "resize_excluding": _resize(11, ["roi", "scales"], [values("roi", []), _twice], 288, mode="cubic",
                                exclude_outside=1),
    "resize_axes": _resize(18, ["", "", "sizes"], [ints("sizes", 9, 7)], 126, mode="linear", axes=[3, 2]),
    "resize_cubic": _resize(18, ["", "scales"], [_twice], 288, mode="cubic", cubic_coeff_a=-0.75),
}  # fmt: skip


@graph
def upsample_9() -> Graph:
    nodes = [node("Conv", ["x", "k"], ["c"]), node("Upsample", ["c", "scales"], ["h"], mode="nearest")]
    return classified(nodes, 288, [_twice, kernel("k", 2, 3, 3, 3)], ["k"], opset=9)


@graph
def reduce_with_axes_as_input() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("ReduceMean", ["c", "axes"], ["m"], keepdims=0),
        node("ReduceL2", ["c", "axes"], ["l"], keepdims=0), node("ReduceLogSumExp", ["c", "axes"], ["e"], keepdims=0),
        node("Concat", ["m", "l", "e"], ["h"], axis=1),
    ]  # fmt: skip
    return classified(nodes, 12, [ints("axes", -1, 2), kernel("k", 4, 3, 3, 3)], ["k"], opset=18)


def _softmax(opset: int, **settings: Any) -> Callable[[], Graph]:
    def make() -> Graph:
        nodes = [node("Conv", ["x", "k"], ["c"]), node("Softmax", ["c"], ["h"], **settings)]
        return classified(nodes, 144, [kernel("k", 4, 3, 3, 3)], ["k"], opset=opset)

    return make


GRAPHS |= {"softmax_rows_11": _softmax(11), "softmax_rows_axis": _softmax(11, axis=2), "softmax_13": _softmax(13)}


@graph
def log_softmax_and_squeeze() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("GlobalAveragePool", ["c"], ["g"]),
        node("LogSoftmax", ["g"], ["l"], axis=1), node("Squeeze", ["l"], ["y"], axes=[2, 3]),
    ]  # fmt: skip
    return Graph(nodes, [kernel("k", 5, 3, 3, 3)], {"k"}, opset=11)


@graph
def scalars_and_where() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Constant", [], ["two"], value=values("", 2.0)),
        node("Constant", [], ["half"], value_float=0.5), node("Mul", ["two", "c"], ["d"]),
        node("Sub", ["half", "d"], ["e"]), node("Greater", ["e", "half"], ["g"]), node("Shape", ["e"], ["s"]),
        node("Expand", ["one", "s"], ["ones"]), node("Where", ["g", "e", "ones"], ["f"]),
        node("Div", ["two", "z"], ["r"]), node("Pow", ["f", "two"], ["q"]), node("Add", ["q", "r"], ["h"]),
    ]  # fmt: skip
    tensors = [kernel("k", 4, 3, 3, 3), values("one", [0.7]), values("z", np.linspace(1, 2, 4).reshape(4, 1, 1))]
    return classified(nodes, 144, tensors, ["k", "z"], opset=13)


@graph
def relu6_in_three_ways() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Clip", ["c", "low", "six"], ["d"]),
        node("Clip", ["d", "", "six"], ["e"]), node("Min", ["e", "six"], ["f"]), node("Max", ["f", "low"], ["h"]),
    ]  # fmt: skip
    return classified(nodes, 144, [kernel("k", 4, 3, 3, 3), values("low", 0.0), values("six", 0.6)], ["k"])


def _clipped(opset: int, given: list[str], **settings: Any) -> Graph:
    nodes = [node("Conv", ["x", "k"], ["c"]), node("Clip", ["c", *given], ["h"], **settings)]
    tensors = [kernel("k", 4, 3, 3, 3), values("low", 0.0), values("top", 0.6)]
    return classified(nodes, 144, tensors, ["k"], opset=opset)


@graph
def clip_by_attribute() -> Graph:
    old = _clipped(6, [], max=0.6, min=0.0)
    old.twin = _clipped(13, ["low", "top"])
    return old


@graph
def activations() -> Graph:
    ops = [("HardSigmoid", {"alpha": 0.3}), ("HardSwish", {}), ("Selu", {}), ("Celu", {"alpha": 0.7}), ("Elu", {}),
           ("Mish", {}), ("Softplus", {}), ("LeakyRelu", {"alpha": 0.2}), ("ThresholdedRelu", {"alpha": 0.1}),
           ("Shrink", {"lambd": 0.01, "bias": 0.02})]  # fmt: skip
    chain = ["c", *(f"a{i}" for i in range(len(ops) - 1)), "h"]
    nodes = [node("Conv", ["x", "k"], ["c"])]
    nodes += [node(op, [a], [b], **s) for (op, s), a, b in zip(ops, chain[:-1], chain[1:], strict=True)]
    return classified(nodes, 144, [kernel("k", 4, 3, 3, 3)], ["k"], opset=18)


@graph
def prelu_per_channel() -> Graph:
    nodes = [node("Conv", ["x", "k"], ["c"]), node("PRelu", ["c", "slope"], ["h"])]
    return classified(nodes, 144, [kernel("k", 4, 3, 3, 3), kernel("slope", 4, 1, 1)], ["k", "slope"])


@graph
def instance_norm_and_lrn() -> Graph:
    nodes = [
        node("InstanceNormalization", ["x", "s", "t"], ["n"], epsilon=1e-3), node("Conv", ["n", "k"], ["c"]),
        node("LRN", ["c"], ["h"], size=3, alpha=0.2, beta=0.6, bias=1.5),
    ]  # fmt: skip
    return classified(nodes, 144, [kernel("s", 3), kernel("t", 3), kernel("k", 4, 3, 3, 3)], ["s", "t", "k"])


@graph
def group_and_layer_norm() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("GroupNormalization", ["c", "s", "t"], ["g"], num_groups=2),
        node("LayerNormalization", ["g", "ls", "lt"], ["h"], axis=-2),
    ]  # fmt: skip
    tensors = [kernel("k", 4, 3, 3, 3), kernel("s", 4), kernel("t", 4), kernel("ls", 6, 6), kernel("lt", 6, 6)]
    return classified(nodes, 144, tensors, ["k", "s", "t", "ls", "lt"], opset=21)


def _dropout(opset: int) -> Callable[[], Graph]:
    def make() -> Graph:
        given = ["c", "ratio"] if opset >= 12 else ["c"]
        settings = {"is_test": 1} if opset < 7 else {}
        settings = settings | ({} if opset >= 12 else {"ratio": 0.3})
        nodes = [node("Conv", ["x", "k"], ["c"]), node("Dropout", given, ["d", "mask"], "drop", **settings)]
        nodes += [node("Identity", ["d"], ["i"]), node("Identity", ["i"], ["h"])]
        made = classified(nodes, 144, [kernel("k", 4, 3, 3, 3), values("ratio", 0.3)], ["k"], opset=opset)
        made.twin = _dropout(7)() if opset < 7 else None
        return made

    return make


GRAPHS |= {f"dropout_{opset}": _dropout(opset) for opset in (6, 7, 10, 12, 22)}


@graph
def double_weights() -> Graph:
    numbers = np.random.default_rng(1)
    v, w = (values(n, numbers.standard_normal(shape), np.float64) for n, shape in (("v", (192, 6)), ("w", (6, 5))))
    nodes = [
        node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "v"], ["m"]), node("Tanh", ["m"], ["t"]),
        node("MatMul", ["t", "w"], ["y"]),
    ]  # fmt: skip
    return Graph(nodes, [v, w], {"v", "w"}, options={"kind": TensorProto.DOUBLE})


@graph
def resize_by_computed_scale() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Shape", ["c"], ["s"]), node("Cast", ["s"], ["sf"], to=1),
        node("Slice", ["sf", "two", "four"], ["hw"]), node("Div", ["target", "hw"], ["ratio"]),
        node("Concat", ["ones", "ratio"], ["scales"], axis=0),
        node("Resize", ["c", "", "scales"], ["h"], mode="linear"),
    ]  # fmt: skip
    tensors = [ints("two", 2), ints("four", 4), values("target", [9.0, 3.0]), values("ones", [1.0, 1.0])]
    return classified(nodes, 54, [*tensors, kernel("k", 2, 3, 3, 3)], ["k"], opset=13)


@graph
def half_weights_cast_to_float() -> Graph:
    half = values("k16", np.random.default_rng(1).standard_normal((4, 3, 3, 3)) * 0.3, np.float16)
    nodes = [node("Cast", ["k16"], ["k"], to=TensorProto.FLOAT), node("Conv", ["x", "k"], ["h"])]
    return classified(nodes, 144, [half], ["k16"])


@graph
def bfloat_weights_cast_to_float() -> Graph:
    numbers = np.random.default_rng(1).standard_normal(108).astype(np.float32)
    raw = helper.make_tensor("k16", TensorProto.BFLOAT16, [4, 3, 3, 3], numbers.tolist())
    nodes = [node("Cast", ["k16"], ["k"], to=TensorProto.FLOAT), node("Conv", ["x", "k"], ["h"])]
    return classified(nodes, 144, [raw], ["k16"])


@graph
def unused_initialisers() -> Graph:
    nodes = [node("Conv", ["x", "k"], ["h"]), node("MatMul", ["h", "other"], ["nowhere"])]
    return classified(nodes, 144, [kernel("k", 4, 3, 3, 3), kernel("other", 6, 6), kernel("never", 7)], ["k"])


@graph
def open_height_and_width() -> Graph:
    nodes = [node("Conv", ["x", "k"], ["c"], strides=[2, 2]), node("GlobalAveragePool", ["c"], ["h"])]
    return classified(nodes, 4, [kernel("k", 4, 3, 3, 3)], ["k"], shape=("N", 3, "H", "W"), sample=(3, 32, 32))


@graph
def flatten_by_computed_shape() -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Shape", ["c"], ["s"]), node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "first"], ["n1"]), node("Concat", ["n1", "rest"], ["to"], axis=0),
        node("Reshape", ["c", "to"], ["h"]),
    ]  # fmt: skip
    tensors = [kernel("k", 4, 3, 3, 3), values("zero", 0, np.int64), ints("first", 0), ints("rest", -1)]
    return classified(nodes, 144, tensors, ["k"], opset=13)


@graph
def depth_and_space() -> Graph:
    nodes = [
        node("SpaceToDepth", ["x"], ["s"], blocksize=2), node("Conv", ["s", "k"], ["c"]),
        node("DepthToSpace", ["c"], ["d"], blocksize=2, mode="CRD"), node("DepthToSpace", ["d"], ["h"], blocksize=1),
    ]  # fmt: skip
    return classified(nodes, 4 * 16, [kernel("k", 4, 12, 1, 1)], ["k"], opset=13)


@graph
def einsum_and_tile() -> Graph:
    nodes = [
        node("Einsum", ["x", "m"], ["e"], equation="nchw,cd->ndhw"), node("Tile", ["e", "times"], ["t"]),
        node("CumSum", ["t", "axis"], ["h"], exclusive=1, reverse=1),
    ]  # fmt: skip
    return classified(nodes, 4 * 64 * 2, [kernel("m", 3, 4), ints("times", 1, 1, 2, 1), ints("axis", 2)], ["m"])


def _biased(opset: int, shape: tuple[int, ...], **settings: Any) -> Graph:
    nodes = [
        node("Conv", ["x", "k"], ["c"]), node("Add", ["c", "a"], ["d"], **settings),
        node("Mul", ["d", "m"], ["h"], **settings),
    ]  # fmt: skip
    tensors = [kernel("k", 4, 3, 3, 3), kernel("a", *shape), kernel("m", *shape)]
    return classified(nodes, 144, tensors, ["k", "a", "m"], opset=opset)


@graph
def broadcast_of_opset_6() -> Graph:
    old = _biased(6, (4,), axis=1, broadcast=1)
    old.twin = _biased(13, (4, 1, 1))
    return old


@graph
def gru_both_ways() -> Graph:
    nodes = [
        node("Reshape", ["x", "to"], ["seq"]), node("Transpose", ["seq"], ["time"], perm=[1, 0, 2]),
        node("GRU", ["time", "wi", "wr", "wb"], ["all", "last"], hidden_size=4, direction="bidirectional",
             linear_before_reset=1),
        node("Transpose", ["last"], ["h"], perm=[1, 0, 2]),
    ]  # fmt: skip
    tensors = [ints("to", 0, -1, 24), kernel("wi", 2, 12, 24), kernel("wr", 2, 12, 4), kernel("wb", 2, 24)]
    return classified(nodes, 8, tensors, ["wi", "wr", "wb"], opset=14)


@graph
def attention_spelled_out() -> Graph:
    nodes = [
        node("Reshape", ["x", "to"], ["seq"]), node("MatMul", ["seq", "wq"], ["q"]),
        node("MatMul", ["seq", "wk"], ["k"]), node("MatMul", ["seq", "wv"], ["v"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]), node("MatMul", ["q", "kt"], ["qk"]),
        node("Div", ["qk", "root"], ["scaled"]), node("Add", ["scaled", "causal"], ["masked"]),
        node("Softmax", ["masked"], ["p"], axis=-1), node("MatMul", ["p", "v"], ["o"]),
        node("LayerNormalization", ["o", "s", "t"], ["h"]),
    ]  # fmt: skip
    causal = values("causal", np.triu(np.full((8, 8), -1e9), 1))
    names = ("wq", "wk", "wv")
    tensors = [ints("to", 0, 8, 24), values("root", 2.0), causal, *(kernel(n, 24, 6) for n in names)]
    tensors += [kernel("s", 6), kernel("t", 6)]
    return classified(nodes, 48, tensors, [*names, "s", "t"])


def second_derivative_error(target: Target, x: torch.Tensor) -> float:
    """Relative error of d/dx of the squared gradient norm along a random direction, against central differences."""
    target.module.double()
    labels = torch.arange(len(x)) % target.classes

    def squared(inputs: torch.Tensor) -> torch.Tensor:
        grads = target.gradient(inputs, labels, create_graph=True)
        return torch.stack([g.square().sum() for g in grads.values()]).sum()

    x = x.double().requires_grad_()
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    (slope,) = torch.autograd.grad(squared(x), x)
    exact, step = float((slope * direction).sum()), 1e-6
    measured = float((squared(x + step * direction) - squared(x - step * direction)).detach()) / (2 * step)
    return abs(exact - measured) / max(abs(exact), 1e-6)
