"""Functional dropout (``F.dropout`` in a forward, attention dropout) as `Dropout` layers that can be injected.

The module's class is exchanged for a subclass whose forward runs under a `TorchFunctionMode`, as
`torch.nn.utils.parametrize` exchanges classes; parameter names stay. The n-th dropout call of a forward is served by
the n-th layer, so the order of the calls must not depend on the data.

`F.scaled_dot_product_attention` with dropout is spelled out (softmax, dropout, product); inside
`F.multi_head_attention_forward`, which hides its calls, the two functions are exchanged while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target.dropout import Dropout, Kind
from leakaudit.target.probe import sample

_CALLS: dict[Any, Kind] = {
    F.dropout: "element",
    torch.dropout: "element",
    F.dropout1d: "channel",
    F.dropout2d: "channel",
    F.dropout3d: "channel",
    F.alpha_dropout: "alpha",
    torch.alpha_dropout: "alpha",
    F.feature_alpha_dropout: "channel alpha",
    torch.feature_alpha_dropout: "channel alpha",
}
HOLDER = "leakaudit_functional"


class _Redirect(TorchFunctionMode):
    """Serves dropout calls from ``layer_for``; counts from zero each time it is entered."""

    def __init__(self, layer_for: Callable[[int, float, Kind], Dropout]) -> None:
        super().__init__()
        self.layer_for = layer_for
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _CALLS:
            return self.dropout(_CALLS[function], *args, **kwargs)
        if function is F.scaled_dot_product_attention:
            return self.attention(*args, **kwargs)
        if function is F.multi_head_attention_forward:
            with _exchanged(self):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    def dropout(
        self,
        kind: Kind,
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        train: bool = True,
    ) -> Tensor:
        """One dropout call."""
        if p == 0.0:
            return input
        layer = self.layer_for(self.count, p, kind)
        self.count += 1
        layer.train(training and train)
        result: Tensor = layer(input)
        return result

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention with dropout on its weights, spelled out."""
        if dropout_p == 0.0 or enable_gqa:
            with sdpa_kernel(SDPBackend.MATH):
                return F.scaled_dot_product_attention(
                    query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
                )
        scores = query @ key.transpose(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, float("-inf")) if boolean else scores + attn_mask
        return self.dropout("attention", torch.softmax(scores, -1), dropout_p) @ value


@contextmanager
def _exchanged(mode: _Redirect) -> Iterator[None]:
    """Exchange the dropout functions that `F.multi_head_attention_forward` calls."""

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return mode.dropout("attention", input, p, training)

    module: Any = F
    before = F.dropout, F.scaled_dot_product_attention
    original = F.scaled_dot_product_attention

    def attention(*args: Any, **kwargs: Any) -> Tensor:
        module.scaled_dot_product_attention = original
        try:
            return mode.attention(*args, **kwargs)
        finally:
            module.scaled_dot_product_attention = attention

    module.dropout, module.scaled_dot_product_attention = dropout, attention
    try:
        yield
    finally:
        module.dropout, module.scaled_dot_product_attention = before


class _Captured:
    """Mixed into the class of a module with functional dropout."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, its dropout calls served by the layers of `HOLDER`."""
        holder: nn.ModuleList = getattr(self, HOLDER)

        def layer_for(index: int, p: float, kind: Kind) -> Dropout:
            while len(holder) <= index:
                holder.append(Dropout(p, kind, f"functional_dropout{len(holder)}"))
            layer = holder[index]
            assert isinstance(layer, Dropout)
            return layer

        with _Redirect(layer_for):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


def capture_functional(
    module: nn.Module, native: tuple[int, ...], vocabulary: int | None = None, batch: int = 2
) -> nn.Module:
    """Make functional dropout of a module injectable; the module itself, its class exchanged if it has any.

    A forward in train mode on a copy of the calls finds the layers, so that they exist before the first use. Its
    effect on running statistics is undone. It takes `batch` samples: some programs must not be run with others.
    """
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    original = type(module)
    module.__class__ = type(original.__name__, (_Captured, original), {"__module__": original.__module__})
    module.add_module(HOLDER, nn.ModuleList())
    state = torch.get_rng_state()
    module.train()
    try:
        with torch.no_grad():
            module(sample(batch, native, vocabulary=vocabulary))
    except (RuntimeError, ValueError) as error:  # not every model takes two samples or a 1x1 map in train mode
        refuse_exhaustion(error)
        getattr(module, HOLDER)._modules.clear()
    finally:
        torch.set_rng_state(state)
        module.eval()
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in before:
                    buffer.copy_(before[name])
    if not len(getattr(module, HOLDER)):
        delattr(module, HOLDER)
        module.__class__ = original
    return module
