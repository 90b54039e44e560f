"""What wrote an ONNX file, and what that exporter says of the module behind it.

Torch's default exporter (``dynamo=True``) lists every parameter and buffer of the module in the file, names the module
that each node came from, and says what a tensor was computed from. Where a file has been stripped of that, and for all
other exporters, names are what is left: a name that no module has (``onnx::Conv_27``, ``val_93``) is a tensor that the
exporter computed.

Source: metadata properties as torch 2.5 to 2.15 and onnxscript 0.3 to 0.7 write them; they are no public format, so
whatever is missing or unreadable counts as not said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from onnx import ModelProto, NodeProto

Kind = Literal["torch-default", "torch-legacy", "other"]
DEFAULT_RECIPE = (
    'torch.onnx.export(model.eval(), (x,), "model.onnx", dynamo=True, optimize=False), which keeps every tensor and '
    "its name"
)
LEGACY_RECIPE = (
    'torch.onnx.export(model.eval(), (x,), "model.onnx", dynamo=False, opset_version=17, do_constant_folding=False)'
)
RECIPES: dict[Kind, str] = {
    "torch-default": f"export with {DEFAULT_RECIPE}",
    "torch-legacy": f"export with {DEFAULT_RECIPE}; before torch 2.5, with {LEGACY_RECIPE}",
    "other": "pass the training module, or its weights with --factory package.module:function; a torch module can be "
    f"exported with {DEFAULT_RECIPE}",
}
"""The way to a file that holds what clients train, by exporter."""
CALLED: dict[Kind, str] = {
    "torch-default": "torch's default exporter",
    "torch-legacy": "torch's legacy exporter (dynamo=False)",
    "other": "the exporter",
}
_AUTOMATIC = re.compile(r"onnx::\w+|val_\d+|\d+|.*_output_\d+|const_fold_opt__\d+|leakaudit/.*")
_LISTED = re.compile(r"^\S+: (PARAMETER|BUFFER|CONSTANT_TENSOR|CUSTOM_OBJ)\b.*?target='([^']*)'", re.MULTILINE)
_SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
_FOLDED = "pkg.onnxscript.optimizer.folded_from"
_SCOPES = "pkg.torch.onnx.name_scopes"
_RULE = "pkg.onnxscript.rewriter.rule_name"


@dataclass(frozen=True)
class Exporter:
    """What is known of a file's origin.

    Args:
        kind: The program that wrote it.
        parameters: Names of the module's parameters, in its order; empty where the file does not list them.
        others: Names of its buffers and constants.
        sources: Of each tensor that the exporter computed, what it was computed from.
    """

    kind: Kind = "other"
    parameters: tuple[str, ...] = ()
    others: frozenset[str] = frozenset()
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def lists(self) -> bool:
        """Whether the file lists the module's parameters."""
        return bool(self.parameters)

    def computed(self, name: str) -> bool:
        """Whether a tensor is one that the exporter made, not one of the module's."""
        if self.lists:
            return name not in self.parameters and name not in self.others
        return name in self.sources or automatic(name)

    def parameter(self, name: str) -> bool:
        """Whether a tensor of any size is a parameter: listed as one, or kept by torch under a module's name."""
        return name in self.parameters if self.lists else self.kind != "other" and not self.computed(name)

    def fixed(self, name: str) -> bool:
        """Whether a tensor is known not to be trained: a listed buffer, or made of no parameter."""
        if not self.lists:
            return False
        return name in self.others or (self.computed(name) and not set(self.sources.get(name, ())) & {*self.parameters})


def automatic(name: str) -> bool:
    """Whether a name was made up by an exporter: no module has a tensor of that name."""
    return _AUTOMATIC.fullmatch(name) is not None


def recognise(model: ModelProto) -> Exporter:
    """The origin of a model, from its metadata and names; to be called before they are dropped."""
    said = {entry.key: entry.value for entry in model.graph.metadata_props}
    listed = _LISTED.findall(said.get(_SIGNATURE, "").partition("# outputs")[0])
    sources = {
        info.name: _names(entry.value)
        for info in model.graph.value_info
        for entry in info.metadata_props
        if entry.key == _FOLDED
    }
    kind: Kind = "other"
    if model.producer_name == "pytorch":
        named = any(node.name.startswith("node_") for node in model.graph.node)
        kind = "torch-default" if listed or sources or named else "torch-legacy"
    parameters = tuple(dict.fromkeys(name for role, name in listed if role == "PARAMETER"))
    return Exporter(kind, parameters, frozenset(name for role, name in listed if role != "PARAMETER"), sources)


def _names(text: str) -> tuple[str, ...]:
    """The names in a list that the file holds as text, as Python prints it."""
    return tuple(re.findall(r"'([^']*)'", text))


def scopes(node: NodeProto) -> tuple[str, ...]:
    """Modules that a node came from, the innermost last; nothing where the file does not say."""
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    return _names(text)[:-1]


def operation(node: NodeProto) -> str:
    """The call of the module's forward that a node came from: ``linear_2``; "" where the file does not say."""
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    return (_names(text) or ("",))[-1]


def fused(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Nodes into which torch's default exporter has put a BatchNorm.

    It says so; a file that was stripped still has the name of BatchNorm's first result, ``getitem``, where the node's
    own would be.
    """
    return [
        node
        for node in nodes
        if any(entry.key == _RULE and "BatchNorm" in entry.value for entry in node.metadata_props)
        or (node.op_type in ("Conv", "ConvTranspose", "Gemm") and re.fullmatch(r"getitem(_\d+)?", node.output[0]))
    ]
