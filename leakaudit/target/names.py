"""A file's tensor names as torch parameter names, exactly where torch allows it, reversibly otherwise.

A parameter ``conv1.weight`` lives in a submodule ``conv1`` under the name ``weight``, so that `named_parameters` gives
back the file's name. Where torch forbids that (an empty component, a component that is already an attribute of
`torch.nn.Module`, a name that is also the prefix of another), the offending character is percent-encoded;
`urllib.parse.unquote` is always the inverse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import Tensor, nn

_RESERVED = frozenset(dir(nn.Module()))


def torch_names(names: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Map a file's names to torch parameter names; equal wherever torch allows it.

    Args:
        names: Of the tensors.
        taken: Attributes of the module itself, which only the first component of a name can meet.
    """
    chosen: dict[str, str] = {}
    leaves: set[str] = set()
    for name in sorted(set(names), key=lambda n: (n.count("."), n)):
        encoded = _encode(name, taken)
        while any(prefix in leaves for prefix in _prefixes(encoded)):
            head, _, tail = encoded.rpartition(".")
            encoded = f"{head}%2E{tail}"
        leaves.add(encoded)
        chosen[name] = encoded
    return chosen


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _encode(name: str, taken: Collection[str]) -> str:
    """Percent-encode what cannot be a component of a torch name."""
    escaped = name.replace("%", "%25")
    if "" in escaped.split("."):
        escaped = escaped.replace(".", "%2E") or "%00"
    return ".".join(_component(part, taken if index == 0 else ()) for index, part in enumerate(escaped.split(".")))


def _component(part: str, taken: Collection[str]) -> str:
    return f"%{ord(part[0]):02X}{part[1:]}" if part in _RESERVED or part in taken else part


def register(module: nn.Module, name: str, tensor: Tensor) -> tuple[nn.Module, str]:
    """Put a tensor into a module under a name of `torch_names`: a parameter as one, anything else as a buffer.

    Returns:
        The module that holds it, and its attribute there.
    """
    *path, leaf = name.split(".")
    holder = module
    for part in path:
        if part not in holder._modules:
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        holder.register_parameter(leaf, tensor)
    else:
        holder.register_buffer(leaf, tensor)
    return holder, leaf
