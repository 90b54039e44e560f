"""A module put in front of a linear layer of any Target, whatever file it came from.

The layer is found by its weight: while the model runs, the first operator that combines this tensor, or a view of it,
with another value gets that value through the inserted module first. So it works for torch modules, ONNX graphs and
exported programs alike, under ``functional_call`` and under ``vmap``.

Fails (`ModelError`) where the weight is never used that way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from leakaudit.errors import ModelError
from leakaudit.target.inventory import inventory
from leakaudit.target.kinds import Layer
from leakaudit.target.target import Target
from leakaudit.tasks.heads import SeveralHeads

INNER = "model"
INSERTED = "inserted"


class _Interceptor(TorchFunctionMode):
    """Passes the value that first meets a weight through a function."""

    def __init__(self, weight: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.views, self.function, self.done = [weight], function, False

    def _is_view(self, value: Any) -> bool:
        return any(value is view for view in self.views)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator; called by torch."""
        options = dict(kwargs or {})
        if self.done:
            return func(*args, **options)
        leaves, spec = tree_flatten((args, options))
        if not any(self._is_view(leaf) for leaf in leaves):
            return func(*args, **options)
        # the data is the only batched operand of a linear layer: its bias has fewer axes
        data = [i for i, leaf in enumerate(leaves) if _is_data(leaf) and not self._is_view(leaf)]
        if not data:
            result = func(*args, **options)
            if isinstance(result, Tensor):
                self.views.append(result)
            return result
        self.done = True
        leaves[data[0]] = self.function(leaves[data[0]])
        args, options = tree_unflatten(leaves, spec)
        return func(*args, **options)


def _is_data(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() >= 2 and leaf.is_floating_point()


class Splice(nn.Module):
    """A model with a module in front of one of its linear layers.

    Args:
        model: The model.
        weight: Name of the layer's weight in it.
        inserted: Takes and returns the layer's input (B, features).
    """

    def __init__(self, model: nn.Module, weight: str, inserted: nn.Module) -> None:
        super().__init__()
        self.model, self.inserted, self._weight = model, inserted, weight
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """The model's own input and output.

        Raises:
            ModelError: The layer was not met.
        """
        holder: Any = self.model
        for part in self._weight.split("."):
            holder = getattr(holder, part)
        with _Interceptor(holder, self.inserted) as interceptor:
            result: Tensor = self.model(x)
        if not interceptor.done:
            raise ModelError(f"the model does not use {self._weight} as the weight of a linear layer")
        return result


def last_linear(target: Target) -> Layer:
    """The last fully connected layer.

    Raises:
        ModelError: There is none with a trainable weight of its own, or the loss is over several heads with one each.
    """
    if isinstance(target.task, SeveralHeads):
        names = ", ".join(head.name for head in target.task.heads)
        raise ModelError(
            f"{target.name} has no one last layer: its loss is over several heads ({names})",
            "audit one of them with --output NAME, or choose a defence that changes no layer",
        )
    layers = [layer for layer in inventory(target) if layer.kind == "linear" and layer.weight in target.parameters]
    if not layers:
        raise ModelError(f"{target.name} has no trainable fully connected layer")
    return layers[-1]


def spliced(target: Target, layer: Layer, inserted: nn.Module) -> Target:
    """The target with a module in front of a layer; tensors of the model are then named ``model.…``."""
    like = next(iter(target.parameters.values()))
    module = Splice(target.module, str(layer.weight), inserted.to(like))
    frozen = tuple(f"{INNER}.{name}" for name in target.frozen)
    return replace(target, module=module, frozen=frozen, domain=target.domain.inside(INNER))


def layer_input(target: Target, layer: Layer, inputs: Tensor) -> Tensor:
    """What a layer receives when the model sees normalised images (B, C, H, W); differentiable.

    Raises:
        ModelError: The layer was not met.
    """
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    with _Interceptor(target.parameters[str(layer.weight)], keep):
        target.logits(inputs)
    if not seen:
        raise ModelError(f"{target.name} does not use {layer.weight} as the weight of a linear layer")
    return seen[0]
