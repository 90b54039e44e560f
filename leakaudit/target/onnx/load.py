"""An ONNX file as a Target, checked against an independent implementation of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Literal

import torch
from onnx import ModelProto, NodeProto

from leakaudit.domains.tokens import Tokens
from leakaudit.errors import ModelError, UsageError, first_line
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target import layout as layouts
from leakaudit.target.consumer import consumer
from leakaudit.target.hashing import hash_model
from leakaudit.target.heads import Heads
from leakaudit.target.onnx import fidelity, heads, selfcheck
from leakaudit.target.onnx.allowance import check_input
from leakaudit.target.onnx.joined import join_inputs
from leakaudit.target.onnx.module import OnnxModule
from leakaudit.target.onnx.prepare import prepare
from leakaudit.target.onnx.read import read_model
from leakaudit.target.onnx.source import Source, node_names
from leakaudit.target.onnx.weightless import without_weights
from leakaudit.target.outputs import check_outputs, maps
from leakaudit.target.probabilities import refuse_probabilities, several_labels, without_probabilities
from leakaudit.target.probe import batch_sizes, double_backward_note, run
from leakaudit.target.reach import reach, reach_note, silent_tensors
from leakaudit.target.rows import Input, beside_row
from leakaudit.target.target import FidelityNote, Target
from leakaudit.target.tokens import find_table
from leakaudit.tasks.choose import told_by

_CUTS = frozenset(
    {"ArgMax", "ArgMin", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "OneHot", "Hardmax", "IsNaN"}
)
"""Operators whose results have no derivative."""
_STEPS = frozenset({"Sign", "Round", "Floor", "Ceil"})


def from_onnx(
    path: Path,
    output: str | None,
    frozen: Sequence[str],
    image_shape: tuple[int, ...] | None,
    dropout: dict[str, float],
    mode: Literal["eval", "train"],
    trained: Sequence[str] = (),
    trusted: bool = False,
) -> Target:
    """Load, check and describe an ONNX file; see `leakaudit.target.load` for the arguments."""
    model = read_model(path, trusted)
    several = heads.join(model, output, str(path))
    output = output if several is None else several.output
    joined = join_inputs(model, str(path), output, image_shape, trusted)
    picture = None if joined is None else joined.picture
    source = prepare(model, str(path), output, frozen, trained, trusted)
    source = source if several is None else several.told(source)
    if not source.parameters:
        raise ModelError(f"{path} has no trainable tensors", "export the model with its weights; check --frozen")
    empty = [name for name, array in source.parameters.items() if array.size == 0]
    if empty:
        raise ModelError(
            f"{path}: the tensor {empty[0]!r} of shape {source.parameters[empty[0]].shape} has no values",
            "export the model with layers of at least one unit",
        )
    _check_names(dropout, source, path)
    model = without_weights(model, source)
    module = OnnxModule(source, dropout).eval()
    asked = image_shape if picture is None else None
    layout, candidates = layouts.infer(source.input_shape[1:], asked, str(path), tokens=source.integer is not None)
    native, notes = _native(module, source, candidates)
    tokens = None if source.integer is None else _tokens(module, source, native, path)
    if joined is not None and picture is not None:
        own = Input(picture.name, picture.native), picture.layout
        domain = beside_row(module, source.batch or 1, own, image_shape, joined.columns, joined.parts)
        vocabulary = None
    else:
        if tokens is None:
            layout = layouts.settled(layout, native, consumer(module, native, source.batch or 1), image_shape)
        row = None if joined is None else (joined.columns, joined.parts)
        domain, vocabulary = layouts.domain_of(layout, native, image_shape, tokens, row)
    others = source.outputs if len(source.outputs) > 1 else ()
    stated = None if several is None else _stated(several, module, source, native)
    if stated is None:
        check_outputs((1, *module.returned), 1, f"output {source.output_name!r}", domain.sides, domain.ids, others)
        returned = module.returned
    else:
        returned = stated.checked(1, str(path), domain.sides, domain.ids)
    mapped = maps(returned, domain.sides)
    check = selfcheck.compare(model, module, source, native, str(path), vocabulary)
    sizes = batch_sizes(module, source.batch, native, vocabulary)
    ending: list[FidelityNote] = []
    if stated is not None:
        stated.refuse_probabilities(module, sizes, native, vocabulary, domain.sides, str(path))
    elif mapped:
        refuse_probabilities(module, sizes[0] if sizes else 2, native, vocabulary, returned, domain.sides, str(path))
    else:
        _, ending = without_probabilities(module, sizes, native, vocabulary)
    if ending:
        returned = tuple(run(module, source.batch or 1, native, vocabulary=vocabulary).shape[1:])
    elif not mapped:
        returned = (prod(returned),)
    outputs = prod(returned)
    note = ending or _output_note(outputs, source)
    notes += [*note, *fidelity.notes(source, module, check, sizes, stated)]
    notes += _reached(module, source, sizes, native, vocabulary, path)
    notes += double_backward_note(module, sizes, native, vocabulary)
    module.train(mode == "train")
    task, evidence = told_by(
        returned,
        sigmoid=several_labels(module) or (outputs > 1 and source.head == "sigmoid"),
        places=domain.sides,
        ids=domain.ids,
    )
    return Target(
        module=module,
        name=path.stem,
        format="onnx",
        native_shape=native,
        layout=layout,
        domain=domain,
        task=task if stated is None else stated.over(task),
        task_evidence=evidence,
        path=str(path),
        sha256=hash_model(path),
        fidelity=tuple(sorted(notes, key=lambda n: n.id)),
        batch_sizes=sizes,
        frozen=tuple(frozen),
        producer=_producer(model),
    )


def _stated(several: heads.Joined, module: OnnxModule, source: Source, native: tuple[int, ...]) -> Heads:
    """The heads of a stated loss, with the shape of each."""
    kind = torch.float if source.integer is None else torch.long
    x = torch.empty(source.batch or 2, *native, dtype=kind, device="meta")
    return Heads(several.terms, tuple(module.shape_of(name, x) for name in several.logits(source)))


def _reached(
    module: OnnxModule,
    source: Source,
    sizes: tuple[int, ...] | None,
    native: tuple[int, ...],
    vocabulary: int | None,
    path: Path,
) -> list[FidelityNote]:
    """Notes on tensors and inputs that the update does not depend on; refuses where nothing trains the model."""
    where = _cut(source)
    found = reach(module, sizes, native, vocabulary)
    silent = silent_tensors(module, sizes, native, vocabulary, found.silent) if found.outputs and found.silent else []
    notes = _silent(source, silent, path)
    return notes + reach_note(module, sizes, native, vocabulary, str(path), where, found, silent)


def _cut(source: Source) -> str:
    """The last node that ends derivatives, or ""."""
    cuts = [(node, name) for node, name in zip(source.nodes, node_names(source.nodes), strict=True) if _ends(node)]
    return f"node {cuts[-1][1]!r} ({cuts[-1][0].op_type})" if cuts else ""


def _ends(node: NodeProto) -> bool:
    return node.op_type in _CUTS or node.op_type in _STEPS


def _tokens(module: OnnxModule, source: Source, native: tuple[int, ...], path: Path) -> Tokens:
    table, vocabulary = find_table(module, native[0], source.batch or 1, str(path))
    return Tokens.of(native[0], vocabulary, table, any_length=source.input_shape[1] is None)


def _producer(model: ModelProto) -> str:
    versions = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    return f"{model.producer_name or 'unknown'} {model.producer_version} (opset {versions})".replace("  ", " ")


def _check_names(dropout: dict[str, float], source: Source, path: Path) -> None:
    known = node_names(source.nodes)
    for name, p in dropout.items():
        if name not in known:
            raise UsageError(
                f"{path} has no node {name!r} to put dropout behind", f"its nodes are {', '.join(known[:20])}"
            )
        if not 0.0 <= p < 1.0:
            raise UsageError(f"dropout of {p} behind {name!r}, expected at least 0 and less than 1")


def _silent(source: Source, silent: list[str], path: Path) -> list[FidelityNote]:
    """Refuse a model that steps cut off from its loss; note tensors that random inputs do not reach."""
    if not silent:
        return []
    steps = [node for node in source.nodes if node.op_type in _STEPS]
    if steps:
        raise ModelError(
            f"{path}: {len(silent)} of {len(source.parameters)} trainable tensors have no gradient, cut off by "
            f"{len(steps)} {steps[0].op_type} nodes; its training used a surrogate gradient that the file lacks",
            "pass the training model with --factory package.module:function",
        )
    shown = ", ".join(silent[:5])
    text = f"{len(silent)} trainable tensors have a zero gradient on random inputs: {shown}"
    hint = "dead units, tensors that the loss does not depend on, or a last layer whose weights are zero as it begins"
    return [FidelityNote("LA931", text, hint)]


def _native(
    module: OnnxModule, source: Source, candidates: list[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[FidelityNote]]:
    """The first candidate shape that the graph accepts."""
    error: ModelError | None = None
    for native in candidates:
        check_input(native, source.batch or 1, source.input_name, source.trusted)
        try:
            run(module, source.batch or 1, native, vocabulary=None if source.integer is None else 1)
        except (ModelError, IndexError, RuntimeError, ValueError, TypeError) as refused:
            refuse_exhaustion(refused)
            error = error or _as_model_error(refused, native, source)
            continue
        if len(candidates) == 1:
            return native, []
        text = f"the file leaves the input size open; {native} is assumed"
        way = "pass the image shape as channels, height, width, or the number of tokens"
        return native, [FidelityNote("LA921", text, way)]
    assert error is not None
    raise error


def _as_model_error(error: Exception, native: tuple[int, ...], source: Source) -> ModelError:
    """The error itself; what the operators raise while the graph runs (more places than positions) becomes one."""
    if isinstance(error, ModelError):
        return error
    what = "reaches beyond a table" if isinstance(error, IndexError) else "does not run"
    reason = first_line(error, 200)
    return ModelError(
        f"input {source.input_name!r} of shape {list(native)} {what}: {reason}",
        "pass a smaller input shape" if isinstance(error, IndexError) else "check the input shape",
    )


def _output_note(outputs: int, source: Source) -> list[FidelityNote]:
    """What was assumed of a single output."""
    if outputs > 1 or source.head == "sigmoid":
        return []
    text = "the model has one output and no activation behind it; it is taken for a binary classifier's logit"
    return [FidelityNote("LA922", text, "if it is a number, say --task regression")]
