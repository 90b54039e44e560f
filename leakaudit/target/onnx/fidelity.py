"""What an ONNX file may hide: each difference from the network that the client trains is one LA9xx note."""

from __future__ import annotations

import re

from leakaudit.document.counting import count
from leakaudit.target.heads import Heads
from leakaudit.target.onnx.exporter import CALLED, RECIPES, automatic, fused
from leakaudit.target.onnx.module import OnnxModule
from leakaudit.target.onnx.roles import RAW, SPELT
from leakaudit.target.onnx.selfcheck import Check
from leakaudit.target.onnx.source import Source
from leakaudit.target.onnx.values import attributes
from leakaudit.target.onnx.vanished import vanished
from leakaudit.target.target import FidelityNote
from leakaudit.tasks.heads_text import FORM

_FUSED = re.compile("fused|bn_fold|fold_bn")
_MANY, _MOST = 5, 0.8
"""Convolutions that a network without BatchNorm seldom has, and the share of them that feeds an activation."""
_ADAPTER = re.compile(r"(^|[./])lora_(A|B|embedding_A|embedding_B)\b")
_WITH_DROPOUT = frozenset({"Softmax", "Attention", "Gelu", "Erf"})
"""Operators of attention and of the perceptrons beside it."""
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Elu", "Sigmoid", "Gelu", "PRelu"})


def notes(
    source: Source,
    module: OnnxModule,
    check: Check,
    sizes: tuple[int, ...] | None,
    stated: Heads | None = None,
) -> list[FidelityNote]:
    """All notes about a file, whose loss may be over several outputs."""
    found: list[FidelityNote] = []
    found += _folded(source) or _other_tensors(source)
    found += _dropout(source, module)
    found += _training(source)
    found += _tensors(source)
    found += _head(source, stated)
    found += [
        FidelityNote("LA923", f"input {name!r} is filled with {fill}: sequences without padding, one segment")
        for name, fill in source.filled.items()
    ]
    found += _checked(check)
    if sizes is not None:
        text = f"the file accepts batches of {', '.join(map(str, sizes))} only"
        found.append(FidelityNote("LA920", text, "export with a dynamic batch axis"))
    return found


def _folded(source: Source) -> list[FidelityNote]:
    """BatchNorm that the exporter has folded: by what the file says, by names, or by the look of a larger network."""
    evidence = _folding_named(source) or _folding_looks(source)
    if not evidence:
        return []
    lost = _lost(source)
    text = f"{CALLED[source.exporter.kind]} has folded BatchNorm, or may have: {evidence}; clients then train other "
    text += "tensors"
    text += f" ({len(lost)} of them are not in the file: {_names(lost)})" if lost else ""
    return [FidelityNote("LA901", text, RECIPES[source.exporter.kind])]


def _folding_named(source: Source) -> str:
    """Evidence of folded BatchNorm in names: rewritten nodes, weights without a module's name, a mean that is left."""
    rewritten = fused(source.nodes) if source.exporter.kind == "torch-default" else []
    if rewritten:
        return f"it rewrote {count(len(rewritten), 'layer')} ({_names(tuple(n.name or n.op_type for n in rewritten))})"
    weights = tuple(
        dict.fromkeys(
            node.input[1]
            for node in source.nodes
            if node.op_type in ("Conv", "ConvTranspose")
            and node.input[1] in {*source.parameters, *source.buffers}
            and (automatic(node.input[1]) or _FUSED.search(node.input[1]))
        )
    )
    if weights:
        return f"it computed the weights of {count(len(weights), 'convolution')} ({_names(weights)})"
    spelt = tuple(name for name, why in source.excluded.items() if why == SPELT)
    return (
        f"a moving mean is subtracted in arithmetic ({_names(spelt)}), scaled by a tensor that it made" if spelt else ""
    )


def _folding_looks(source: Source) -> str:
    """Convolutions directly in front of an activation or a sum, in a graph without any normalisation."""
    readers: dict[str, list[str]] = {}
    for node in source.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    convolutions = [node for node in source.nodes if node.op_type == "Conv"]
    if any("Normalization" in node.op_type for node in source.nodes) or len(convolutions) < _MANY:
        return ""
    if source.exporter.lists and not any(name.endswith("running_mean") for name in source.exporter.others):
        return ""  # the module has none
    direct = [n for n in convolutions if set(readers.get(n.output[0], ())) & (_ACTIVATIONS | {"Add"})]
    if len(direct) < _MOST * len(convolutions):
        return ""
    biased = sum(len(node.input) == 3 for node in direct)
    return (
        f"{len(direct)} of {len(convolutions)} convolutions ({biased} with a bias) feed an activation or sum directly "
        "and nothing is normalised"
    )


def _lost(source: Source) -> tuple[str, ...]:
    """Parameters of the module that the file does not hold, but for those whose entries a recurrent node has."""
    held = {*source.parameters, *source.buffers, *source.host}
    held.update(origin for name in _recurrent(source) for origin in source.exporter.sources.get(name, ()))
    return tuple(name for name in source.exporter.parameters if name not in held)


def _recurrent(source: Source) -> set[str]:
    """Tensors of recurrent nodes: an exporter must put their gates in another order, which changes no gradient."""
    return {name for node in source.nodes if node.op_type in ("LSTM", "GRU", "RNN") for name in node.input if name}


def _other_tensors(source: Source) -> list[FidelityNote]:
    """Trained tensors that the exporter computed from the client's, and those of the client that are gone."""
    lost, recurrent = _lost(source), _recurrent(source)
    made = tuple(n for n in source.parameters if source.exporter.computed(n) and n not in recurrent and "#" not in n)
    if source.exporter.kind == "other" or not (lost or made):
        return []
    parts = [f"{count(len(lost), 'tensor')} that clients train gone ({_names(lost)})"] if lost else []
    parts += [f"{count(len(made), 'tensor')} that it computed trained instead ({_names(made)})"] if made else []
    text = (
        f"{CALLED[source.exporter.kind]} has changed what is trained: {', '.join(parts)}; merged, folded or transposed"
    )
    return [FidelityNote("LA900", text, RECIPES[source.exporter.kind])]


def _dropout(source: Source, module: OnnxModule) -> list[FidelityNote]:
    kinds = {node.op_type for node in source.nodes}
    result = []
    if "RandomUniformLike" in kinds or "Bernoulli" in kinds:
        text = "the file draws random numbers (stochastic depth or dropout), in eval mode too"
        result.append(FidelityNote("LA904", text, "export with model.eval()"))
    if not module._dropouts and (text := _no_dropout(source)):
        result.append(FidelityNote("LA902", text, "if the model has dropout, put it back with --dropout NODE=P"))
    return result


def _no_dropout(source: Source) -> str:
    """Why there may have been dropout; "" where the file tells its modules, and none is missing that trains with it."""
    gone = vanished(source)
    if gone is None or (gone and _folded(source)):  # a BatchNorm that was folded leaves a gap, too
        return "the file has no dropout; an export in eval mode removes it, but the client may train with it"
    if gone:
        return (
            f"the file has no dropout and holds nothing of {_names(gone)}: an export in eval mode removes dropout, but "
            "the client may train with it"
        )
    usual = {node.op_type for node in source.nodes} & _WITH_DROPOUT
    if not usual:
        return ""
    return (
        f"the file has no dropout; networks with {' and '.join(sorted(usual))} are usually trained with dropout or "
        "stochastic depth, and an export in eval mode removes it"
    )


def _training(source: Source) -> list[FidelityNote]:
    trained = [n for n in source.nodes if n.op_type == "BatchNormalization" and attributes(n).get("training_mode")]
    if not trained:
        return []
    text = (
        f"exported in train mode: {count(len(trained), 'BatchNormalization node')}, whose statistics the export has "
        "altered"
    )
    return [FidelityNote("LA903", text, "export with model.eval() and audit with --mode train")]


def _names(values: tuple[str, ...]) -> str:
    shown = ", ".join(values[:5])
    return f"{shown} and {len(values) - 5} more" if len(values) > 5 else shown


def _tensors(source: Source) -> list[FidelityNote]:
    result = []
    if source.promoted:
        text = f"{count(len(source.promoted), 'constant')} taken as trained: {_names(source.promoted)}"
        result.append(FidelityNote("LA905", text, "exclude those that are not with --frozen PATTERN"))
    adapters = {name for name in source.parameters if _ADAPTER.search(name)}
    adapted = len(source.parameters) - len(adapters)
    if adapted > len(adapters) and (adapters or any(_ADAPTER.search(node.name) for node in source.nodes)):
        text = (
            f"the file holds adapters (lora_A, lora_B) and does not say what clients train: {len(source.parameters)} "
            "tensors were taken as trained, but such clients train and send the adapters alone"
        )
        result.append(FidelityNote("LA918", text, "pass --frozen '!*lora_*', or name what they do not train"))
    if source.shared:
        text = f"{count(len(source.shared), 'tensor')} audited as shared by several nodes: {_names(source.shared)}"
        result.append(FidelityNote("LA906", text, "an exporter may have merged tensors of equal value"))
    if source.copied:
        text = (
            f"{count(len(source.copied), 'tensor')} that the exporter merged with others of equal value, trained apart"
        )
        result.append(FidelityNote("LA907", f"{text}: {_names(source.copied)}"))
    odd = tuple(n for n, why in source.excluded.items() if "never trained" not in why)
    if odd:
        text = f"{count(len(odd), 'tensor')} taken as not trained: " + _names(
            tuple(f"{n} ({source.excluded[n]})" for n in odd)
        )
        result.append(FidelityNote("LA908", text, "name those that clients train with --trained PATTERN"))
    open_ = tuple(n for n, why in source.excluded.items() if why == RAW and n not in source.constants)
    if open_:
        text = f"the file does not say whether clients train {_names(open_)}: tensors at the input, taken as its "
        result.append(FidelityNote("LA914", f"{text}normalisation", "if they do, pass --trained PATTERN"))
    if source.scalars:
        text = f"{count(len(source.scalars), 'single number')} taken as trained: {_names(source.scalars)}"
        result.append(FidelityNote("LA915", text, "exclude those that are not with --frozen PATTERN"))
    if source.half:
        result.append(FidelityNote("LA909", "the file holds half precision numbers; they are computed in float32"))
    return result


def _head(source: Source, stated: Heads | None) -> list[FidelityNote]:
    result = []
    if source.head:
        text = f"the file ends in {source.head}; the loss uses the logits in front of it"
        result.append(FidelityNote("LA910", text))
    if stated is not None:
        trained = {term.name for term in stated.terms}
        result.append(stated.note([name for name in source.outputs if name not in trained], "the file"))
    elif len(source.outputs) > 1:
        text = (
            f"the file has {len(source.outputs)} outputs: {_names(source.outputs)}; {source.output_name} is audited, "
        )
        text += "and the update is that of its loss alone, without what only trains the others"
        result.append(FidelityNote("LA911", text, f"choose with --output {FORM}"))
    return result


def _checked(check: Check) -> list[FidelityNote]:
    if check.difference is None:
        text = f"the import could not be compared with another implementation: {check.reason}"
        return [FidelityNote("LA941", text, "install onnxruntime, or export with a newer operator set")]
    text = (
        f"logits agree with {check.reference} to {check.difference:.2g} ({check.relative:.2g} relative), random inputs"
    )
    return [FidelityNote("LA940", text)]
