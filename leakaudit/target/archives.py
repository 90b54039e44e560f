"""Weights with a factory, ``.pt2``, TorchScript and pickled modules.

What may run code is opened only when the caller says so; sizes are held against zip bombs first.

| content | opened | what it can do |
|---|---|---|
| safetensors, state dict | always, as numbers; needs a factory | nothing; the factory is your code |
| ``.pt2`` (torch.export) | with ``trust``, by our own reader | call torch's tensor operators, nothing else |
| TorchScript | with ``trust``, by torch | run its program: operators of torch, some of which read and write files |
| pickled module | with ``unsafe_pickle``, by torch | run any code |
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from leakaudit.errors import LeakauditError, ModelError, first_line
from leakaudit.safety.archives import check_unpacked
from leakaudit.safety.importing import user_function
from leakaudit.safety.npz import arrays_of
from leakaudit.target.hashing import hash_model
from leakaudit.target.modules import from_module
from leakaudit.target.readers import Asked, Content, Reader
from leakaudit.target.target import Target
from leakaudit.target.wrappers import PREFIXES

LISTED = re.compile(r"arr_\d{1,9}")
"""Names that numpy gives to arrays of a list, as Flower's clients and servers keep them."""


def from_factory(path: Path, reader: Reader, factory: str, asked: Asked) -> Target:
    """The module that ``factory`` builds, with the weights in ``path``."""
    if reader.weights is None:
        raise ModelError(
            f"{path} is {reader.called}, not a file of weights", "leave out --factory to audit it as it is"
        )
    weights = reader.weights(path)
    module = _build(factory)
    _fill(module, weights, path, factory)
    return _described(module, _origin(path, "factory", f"factory {factory}"), asked)


def _described(module: nn.Module, origin: dict[str, Any], asked: Asked) -> Target:
    shape = origin.pop("image_shape", None)
    own = {**origin, "asked_shape": asked.image_shape, "dropout": asked.dropout, "output": asked.output}
    return from_module(module, asked.image_shape or shape, asked.frozen, asked.mode, **own)


def _trusted(path: Path, reader: Reader, asked: Asked) -> None:
    """Refuse a file that can run code when opened, unless it is trusted; hostile archives are refused even then."""
    check_unpacked(path, ModelError)
    if not asked.trust:
        raise ModelError(f"{path} is {reader.called}, {reader.risk}", "pass --trust if you made it")


def _needs_factory(path: Path) -> ModelError:
    return ModelError(
        f"{path} holds weights without the architecture",
        "pass --factory package.module:function that returns the module",
    )


def _origin(path: Path, kind: str, producer: str) -> dict[str, Any]:
    return {
        "name": path.stem, "format": kind, "path": str(path), "sha256": hash_model(path), "producer": producer,
    }  # fmt: skip


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name; the format has nothing else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(path)))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is a damaged safetensors file ({error})", "copy it again") from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name, read as numbers only."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises bare exceptions of many types for what it refuses or cannot read
        raise ModelError(
            f"{path} holds more than numbers, or is damaged ({type(error).__name__})",
            "save it with torch.save(model.state_dict(), path), or pass --unsafe-pickle if you trust who made it",
        ) from error
    if isinstance(content, Mapping):
        for key in ("state_dict", "model_state_dict", "model", "net"):
            inner = content.get(key)
            if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
                content = inner
                break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    odd = [name for name, tensor in tensors.items() if not isinstance(name, str) or tensor.layout is not torch.strided]
    if odd or not tensors:
        what = f"the tensor {odd[0]!r}, which is sparse or has no name in text" if odd else "no state dict"
        raise ModelError(f"{path} holds {what}", "save it with torch.save(model.state_dict(), path)")
    return tensors


def scanned_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a zip archive by name, after a look at its sizes."""
    check_unpacked(path, ModelError)
    return _state_dict(path)


def _npz(path: Path) -> dict[str, Tensor]:
    """Arrays by name, as `numpy.savez` writes them."""
    try:
        return arrays_of(path)
    except ValueError as error:
        raise ModelError(f"{path} is a damaged .npz file ({error})", "write it again") from error


def _build(factory: str) -> nn.Module:
    """Call ``package.module:function``, also from the working directory.

    Raises:
        UsageError: There is no such function.
        ModelError: It fails, or returns no module.
    """
    function = user_function("--factory", factory, "give package.module:function that returns the module")
    try:
        module = function()
    except (LeakauditError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code; whatever it raises, the way out is the same
        raise ModelError(
            f"factory {factory!r} failed: {type(error).__name__}: {error}", "it must work without arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"factory {factory!r} returned {type(module).__name__}, expected a torch.nn.Module")
    return module


def _fill(module: nn.Module, weights: dict[str, Tensor], path: Path, factory: str) -> None:
    """Load weights strictly; a prefix that `DataParallel` or a compiler added to all names is taken off."""
    for prefix in PREFIXES:
        if (
            weights
            and all(name.startswith(prefix) for name in weights)
            and not any(n.startswith(prefix) for n in module.state_dict())
        ):
            weights = {name[len(prefix) :]: value for name, value in weights.items()}
    wanted = module.state_dict()
    if weights and all(LISTED.fullmatch(name) for name in weights) and len(weights) == len(wanted):
        inside = sorted(weights, key=lambda name: int(name.removeprefix("arr_")))
        weights = {own: weights[listed] for own, listed in zip(wanted, inside, strict=True)}
    missing, extra = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    wrong = [n for n in wanted.keys() & weights.keys() if wanted[n].shape != weights[n].shape]
    if missing or extra or wrong:
        first = (
            f"{len(missing)} tensors are missing (such as {missing[0]!r})" if missing
            else f"{len(extra)} do not belong to it (such as {extra[0]!r})" if extra
            else f"{wrong[0]!r} has shape {list(weights[wrong[0]].shape)} instead of {list(wanted[wrong[0]].shape)}"
        )  # fmt: skip
        raise ModelError(
            f"{path} does not fit the module of {factory!r}: {first}", "use the factory that it was trained with"
        )
    module.load_state_dict(weights)


def _exported(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    from leakaudit.target.exported import from_exported

    found = from_exported(path)
    traits: dict[str, Any] = {"image_shape": found.image_shape, "exported_batch": found.batch, "rigid": found.rigid}
    if found.inputs is not None:
        traits["inputs"] = found.inputs
    return found.module, {**_origin(path, "exported", "torch.export"), **traits}


def _script(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            script: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, IndexError) as error:  # the last of a name that the archive lacks
        raise ModelError(f"{path} cannot be loaded: {first_line(error)}", "export it again") from error
    return cast(nn.Module, script), _origin(path, "torchscript", "torch.jit")


def _pickled(path: Path, unsafe_pickle: bool) -> nn.Module:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch refuses pickled classes with exceptions of several types
        if not unsafe_pickle:
            raise ModelError(
                f"{path} is a pickle with code in it, or is damaged ({type(error).__name__})",
                "save a state dict and pass --factory package.module:function, or --unsafe-pickle if you made the file",
            ) from error
    else:
        if isinstance(content, Mapping):
            raise _needs_factory(path)
        raise _no_module(path, content)
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs foreign code
        raise ModelError(
            f"{path} cannot be unpickled: {type(error).__name__}: {error}", "run where its classes are"
        ) from error
    if not isinstance(module, nn.Module):
        raise _no_module(path, module)
    return module


def _no_module(path: Path, content: Any) -> ModelError:
    return ModelError(
        f"{path} holds {type(content).__name__}, expected a torch.nn.Module", "pass a state dict and --factory"
    )


def _read_exported(path: Path, asked: Asked) -> Target:
    _trusted(path, EXPORTED, asked)
    return _described(*_exported(path), asked)


def _read_script(path: Path, asked: Asked) -> Target:
    _trusted(path, TORCHSCRIPT, asked)
    return _described(*_script(path), asked)


def _read_weights(path: Path, asked: Asked) -> Target:
    raise _needs_factory(path)


def _read_pickle(path: Path, asked: Asked) -> Target:
    return _described(_pickled(path, asked.unsafe_pickle), _origin(path, "module", "pickle"), asked)


def _read_checkpoint(path: Path, asked: Asked) -> Target:
    check_unpacked(path, ModelError)
    return _read_pickle(path, asked)


def _is_exported(content: Content) -> bool:
    graphs = any(name.startswith("models/") and name.endswith(".json") for name in content.inner)
    return graphs or "serialized_exported_program.json" in (content.members or ())


def _is_script(content: Content) -> bool:
    return "constants.pkl" in content.inner or any(name.startswith("code/") for name in content.inner)


def _is_checkpoint(content: Content) -> bool:
    return "data.pkl" in content.inner


def _is_npz(content: Content) -> bool:
    return bool(content.members) and all(name.endswith(".npy") for name in content.members or ())


def _is_safetensors(content: Content) -> bool:
    head = content.head
    return len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= content.size


def _is_pickle(content: Content) -> bool:
    return len(content.head) >= 2 and content.head[0] == 0x80 and 2 <= content.head[1] <= 5


# An exported program and a TorchScript archive may also hold what a checkpoint does, so they are asked before it.
EXPORTED = Reader(
    kind="exported",
    called="a torch.export program (.pt2)",
    risk="a program of torch's operators, whose kernels are not made for hostile arguments",
    recognises=_is_exported,
    read=_read_exported,
    order=50,
)
TORCHSCRIPT = Reader(
    kind="torchscript",
    called="a TorchScript archive",
    risk="a format that can run code when opened: its program can read and write files",
    recognises=_is_script,
    read=_read_script,
    order=51,
)
CHECKPOINT = Reader(
    kind="checkpoint",
    called="a torch.save file",
    recognises=_is_checkpoint,
    read=_read_checkpoint,
    weights=scanned_state_dict,
    order=52,
)
NPZ = Reader(
    kind="npz",
    called="an .npz file of weights",
    recognises=_is_npz,
    read=_read_weights,
    weights=_npz,
    order=52,
)
SAFETENSORS = Reader(
    kind="safetensors",
    called="a safetensors file",
    recognises=_is_safetensors,
    read=_read_weights,
    weights=_safetensors,
    order=53,
)
PICKLE = Reader(
    kind="pickle", called="a pickle", recognises=_is_pickle, read=_read_pickle, weights=_state_dict, order=54
)
