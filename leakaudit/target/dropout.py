"""Dropout whose masks can be drawn once, recorded, injected and differentiated.

Every dropout of a model, whatever it was written as, is a `Dropout` here: ``y = x * m / (1 - p)`` with keep mask ``m``.
Stochastic depth is dropout of whole samples, ``m`` of shape (B, 1, …); alpha dropout puts the lowest value of SELU in
place of zero and keeps mean and variance.

A client draws ``m`` from a Bernoulli distribution; an attacker may inject any float mask, one per sample, and
differentiate with respect to it. Masks go by step and layer: every forward of the model draws its own.

Fails where dropout is buried in a fused kernel (``nn.LSTM(dropout=…)``): no module can stand in for it there.
References: Srivastava et al., "Dropout", JMLR 2014 (the scaled, "inverted" form that all frameworks use); Huang et al.,
"Deep Networks with Stochastic Depth", ECCV 2016; Klambauer et al., "Self-Normalizing Neural Networks", NeurIPS 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

Kind = Literal["element", "channel", "attention", "sample", "batch", "alpha", "channel alpha"]
Masks = Mapping[str, Tensor]
"""Keep masks (B, …) of one forward, by layer."""
LOWEST_SELU = -1.7580993408473766
"""The limit of SELU at minus infinity, -λα of Klambauer et al., equation 14."""
Steps = tuple[Masks, ...]
"""Keep masks of every local step of a client."""


class Dropout(nn.Module):
    """One dropout layer.

    Args:
        p: Probability that an entry is zeroed.
        kind: ``element``: every entry by itself; ``channel``: whole channels (axis 1); ``attention``: as ``element``,
            on attention weights; ``sample``: whole samples, as stochastic depth does; ``batch``: all samples together;
            ``alpha`` and ``channel alpha``: entries or channels, with the lowest value of SELU in place of zero.
        scaled: Whether what is kept is divided by 1 - p.
        label: Name in reports and of the mask; the module's own name where empty.
    """

    def __init__(self, p: float, kind: Kind = "element", label: str = "", scaled: bool = True) -> None:
        super().__init__()
        self.p = float(p)
        self.scaled = scaled
        self.kind: Kind = kind
        self.label = label
        self._calls = 0
        self._name = label
        self._masks: Mapping[str, Tensor] | None = None
        self._record: list[dict[str, Tensor]] | None = None
        self._generator: Generator | None = None

    def extra_repr(self) -> str:
        """Settings for `repr`."""
        return f"p={self.p}, kind={self.kind}"

    def mask_shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of the keep mask for an input."""
        if self.kind in ("channel", "channel alpha") and x.dim() > 2:
            return (*x.shape[:2], *(1,) * (x.dim() - 2))
        if self.kind in ("sample", "batch"):
            return (len(x) if self.kind == "sample" else 1, *(1,) * (x.dim() - 1))
        return tuple(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries in train mode, or wherever a mask is injected."""
        key = self._name if self._calls == 0 else f"{self._name}#{self._calls}"
        self._calls += 1
        mask = None if self._masks is None else self._masks.get(key)
        if mask is None:
            if not self.training or self.p == 0.0:
                return x
            mask = self._draw(x)
        if self._record is not None:
            self._record[-1][key] = mask.detach()
        if self.kind in ("alpha", "channel alpha"):
            return self._alpha(x, mask)
        scale = 1.0 / (1.0 - self.p) if self.p < 1.0 else 0.0
        return x * (mask * scale if self.scaled else mask)

    def _alpha(self, x: Tensor, mask: Tensor) -> Tensor:
        """Dropped entries become SELU's lowest value, and an affine map gives mean and variance back."""
        if self.p == 1.0:
            return x * 0.0
        scale = math.sqrt(1 / ((1 - self.p) * (1 + self.p * LOWEST_SELU**2)))
        return scale * (x * mask + LOWEST_SELU * (1 - mask)) - scale * LOWEST_SELU * self.p

    def _draw(self, x: Tensor) -> Tensor:
        shape = self.mask_shape(x)
        if self._generator is None:
            noise = torch.rand(shape, device=x.device)
        else:
            noise = torch.rand(shape, device=self._generator.device, generator=self._generator).to(x.device)
        return (noise >= self.p).to(x.dtype)


def dropout_layers(module: nn.Module) -> dict[str, Dropout]:
    """The dropout layers of a module by label (or module name where they have none)."""
    return {layer.label or name: layer for name, layer in module.named_modules() if isinstance(layer, Dropout)}


@contextmanager
def _session(module: nn.Module, **state: Any) -> Iterator[None]:
    """Set ``state`` on every dropout layer, and count calls anew at each forward of ``module``."""
    layers = dropout_layers(module)
    before = {name: {key: getattr(layer, key) for key in state} for name, layer in layers.items()}

    def restart(*_: Any) -> None:
        for layer in layers.values():
            layer._calls = 0

    def begin(*_: Any) -> None:
        restart()
        if state.get("_record") is not None:
            state["_record"].append({})

    for name, layer in layers.items():
        layer._name = name
        for key, value in state.items():
            setattr(layer, key, value)
    hook = module.register_forward_pre_hook(begin)
    try:
        restart()
        yield
    finally:
        hook.remove()
        restart()
        for name, layer in layers.items():
            for key, value in before[name].items():
                setattr(layer, key, value)


@contextmanager
def injected_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Use these keep masks instead of drawing any, also in eval mode.

    Args:
        module: Any module; only its `Dropout` layers matter.
        masks: Float masks (B, …) of one step by layer; a layer that is called again within one forward reads ``name#1``
            and so on. Layers without a mask behave as usual.
    """
    with _session(module, _masks=masks):
        yield


@contextmanager
def record(module: nn.Module, generator: Generator | None = None) -> Iterator[list[dict[str, Tensor]]]:
    """Collect the masks of the forwards inside, by forward and layer, drawn with ``generator`` if given."""
    recorded: list[dict[str, Tensor]] = []
    with _session(module, _record=recorded, _generator=generator):
        yield recorded


def drawn_shapes(module: nn.Module, forward: Callable[[], Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the masks that one forward draws with dropout on, by layer in order of execution.

    Args:
        module: Its layers are on inside only, and draw from a generator of their own.
        forward: Runs the module once.
    """
    layers = {name: layer for name, layer in dropout_layers(module).items() if layer.p > 0}
    if not layers:
        return {}
    before = {name: layer.training for name, layer in layers.items()}
    with torch.no_grad(), record(module, Generator()) as steps:
        try:
            for layer in layers.values():
                layer.train()
            forward()
        finally:
            for name, layer in layers.items():
                layer.train(before[name])
    return {name: tuple(mask.shape) for name, mask in steps[-1].items()}


def keyed(steps: Steps) -> dict[str, Tensor]:
    """Masks by ``step/layer`` in one mapping, for what treats all of them alike."""
    return {f"{number}/{name}": mask for number, step in enumerate(steps) for name, mask in step.items()}


def by_step(masks: Masks) -> Steps:
    """The inverse of :func:`keyed`; steps without a mask are empty, and nothing at all is no steps."""
    steps: list[dict[str, Tensor]] = []
    for key, mask in masks.items():
        number, _, name = key.partition("/")
        while len(steps) <= int(number):
            steps.append({})
        steps[int(number)][name] = mask
    return tuple(steps)


_CHANNEL = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def replace_dropout(module: nn.Module) -> list[str]:
    """Put a `Dropout` in the place of every dropout layer of a module, in place; names of those replaced.

    These are torch's own, torchvision's stochastic depth, and classes called ``…DropPath`` with a ``drop_prob``, as
    those of timm, MONAI and Hugging Face.
    """
    replaced = []
    for name, child in list(module.named_modules()):
        layer = _standing_in(child) if name else None
        if layer is None:
            continue
        parent, _, leaf = name.rpartition(".")
        layer.train(child.training)
        setattr(module.get_submodule(parent), leaf, layer)
        replaced.append(name)
    return replaced


def _standing_in(child: nn.Module) -> Dropout | None:
    """The layer for one of another make, or ``None`` if that is no dropout."""
    made: dict[type, Kind] = {
        nn.Dropout: "element",
        **dict.fromkeys(_CHANNEL, "channel"),
        nn.AlphaDropout: "alpha",
        nn.FeatureAlphaDropout: "channel alpha",
    }
    own: Any = child
    kind = made.get(type(child))
    if kind is not None:
        return Dropout(own.p, kind)
    name = type(child).__name__
    if name == "StochasticDepth" and getattr(child, "mode", "") in ("row", "batch"):
        return Dropout(own.p, "sample" if own.mode == "row" else "batch")
    if name.endswith("DropPath") and isinstance(probability := getattr(child, "drop_prob", None), float | int):
        return Dropout(probability, "sample", scaled=bool(getattr(child, "scale_by_keep", True)))
    return None
