"""Modules around the client's own: what they add is taken off before the audit.

Opacus wraps a module to keep the gradient of each sample, ``DataParallel`` to spread batches, ``torch.compile`` to
compile it. All of them compute what the module inside computes, and all stand in the way of hooks or of second
derivatives. A ``ScriptModule`` is interpreted (`leakaudit.target.scripted`).

Source: class and attribute names of torch 2.15 and Opacus 1.5.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import nn

from leakaudit.target.scripted import from_script

PREFIXES = ("module.", "_orig_mod.", "_module.", "model.")
"""What wrappers put in front of all names of a state dict: parallel ones, a compiler, Opacus, Lightning."""
_INSIDE = {
    "DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod",
    "GradSampleModule": "_module", "GradSampleModuleFastGradientClipping": "_module",
    "GradSampleModuleExpandedWeights": "_module", "GradSampleModuleNoOp": "_module",
}  # fmt: skip
"""Where the module is, by the wrapper's class."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def unwrapped(module: nn.Module, label: str) -> nn.Module:
    """The module inside all wrappers.

    That of Opacus is copied, because its hooks must go and the user's own training is to go on.

    Raises:
        ModelError: A TorchScript program does what cannot be interpreted.
    """
    while isinstance(inside := _inside(module), nn.Module):
        module = inside
    if isinstance(module, torch.jit.ScriptModule):
        training = module.training
        module = from_script(module, label).train(training)
    return module


def _inside(module: nn.Module) -> Any:
    kind = type(module).__name__
    inside = getattr(module, _INSIDE[kind], None) if kind in _INSIDE else None
    if inside is None or not kind.startswith("GradSample"):
        return inside
    inside = copy.deepcopy(inside, {id(module): module})
    for child in inside.modules():
        for hooks in (getattr(child, name) for name in _HOOKS):
            for key in [key for key, hook in hooks.items() if _belongs(hook, module)]:
                del hooks[key]
    return inside


def _belongs(hook: Any, wrapper: nn.Module) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    return getattr(hook, "__self__", None) is wrapper or str(getattr(hook, "__module__", "")).startswith("opacus")
