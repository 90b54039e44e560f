"""LSTM, GRU and RNN layers of ONNX, unrolled so that each step has a second derivative on every device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from leakaudit.errors import ModelError
from leakaudit.target.onnx.registry import operator

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}
Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _functions(names: Sequence[str] | None, default: Sequence[str], direction: int) -> list[Callable[[Tensor], Tensor]]:
    chosen = list(names)[direction * len(default) : (direction + 1) * len(default)] if names else list(default)
    unknown = [name for name in chosen if name.lower() not in _ACTIVATIONS]
    if unknown:
        raise ModelError(f"a recurrent layer uses the activation {unknown[0]!r}", "use Sigmoid, Tanh or Relu")
    return [_ACTIVATIONS[name.lower()] for name in chosen]


def _unroll(x: Tensor, state: tuple[Tensor, ...], step: Cell, reverse: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All hidden states (T, N, H) and the last state of a cell that reads ``x`` (T, N, …)."""
    order = range(x.shape[0] - 1, -1, -1) if reverse else range(x.shape[0])
    outputs = []
    for time in order:
        state = step(x[time], state)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _initial(value: Tensor | None, direction: int, x: Tensor, hidden: int) -> Tensor:
    if value is not None:
        return value[direction].expand(x.shape[1], hidden)
    return torch.zeros(x.shape[1], hidden, dtype=x.dtype, device=x.device)


def _run(
    x: Tensor,
    direction: str,
    layout: int,
    states: Sequence[Tensor | None],
    cell: Callable[[int], tuple[Tensor, Cell]],
    hidden: int,
) -> tuple[Tensor, ...]:
    """Run every direction; ``cell(d)`` gives the inputs' share of the gates (T, N, G) and the step."""
    if layout:
        states = [None if s is None else s.transpose(0, 1) for s in states]
    sequences, finals = [], []
    for index in range(2 if direction == "bidirectional" else 1):
        gates, step = cell(index)
        start = tuple(_initial(state, index, x, hidden) for state in states)
        sequence, last = _unroll(gates, start, step, direction == "reverse" or index == 1)
        sequences.append(sequence)
        finals.append(last)
    y = torch.stack(sequences, 1)  # (T, D, N, H)
    ends = tuple(torch.stack([last[i] for last in finals]) for i in range(len(states)))
    return (y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)) if layout else (y, *ends)


def _refuse(lengths: Any, clip: float | None, peephole: Any = None) -> None:
    if lengths is not None or clip is not None or peephole is not None:
        raise ModelError(
            "a recurrent layer uses sequence lengths, clipping or peepholes, which are not supported",
            "export with a fixed sequence length",
        )


def _bias(b: Tensor | None, index: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    if b is None:
        zero = torch.zeros(size, dtype=like.dtype, device=like.device)
        return zero, zero
    return b[index][:size], b[index][size:]


@operator("LSTM")
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    input_forget: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, ...]:
    """Long short-term memory; gates in ONNX order: input, output, forget, cell."""
    _refuse(None, clip, p)
    x = x.transpose(0, 1) if layout else x
    hidden = r.shape[-1]

    def cell(index: int) -> tuple[Tensor, Cell]:
        gate, squash, out = _functions(activations, ("Sigmoid", "Tanh", "Tanh"), index)
        wb, rb = _bias(b, index, 4 * hidden, x)

        def step(share: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            h, c = state
            i, o, f, g = (share + h @ r[index].t() + rb).chunk(4, dim=-1)
            keep = 1 - gate(i) if input_forget else gate(f)
            c = keep * c + gate(i) * squash(g)
            return gate(o) * out(c), c

        return x @ w[index].t() + wb, step

    return _run(x, direction, layout, (initial_h, initial_c), cell, hidden)


@operator("GRU")
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
    linear_before_reset: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit; gates in ONNX order: update, reset, hidden."""
    _refuse(None, clip)
    x = x.transpose(0, 1) if layout else x
    hidden = r.shape[-1]

    def cell(index: int) -> tuple[Tensor, Cell]:
        gate, squash = _functions(activations, ("Sigmoid", "Tanh"), index)
        wb, rb = _bias(b, index, 3 * hidden, x)
        recurrent, offset = r[index], rb[2 * hidden :]

        def step(share: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (h,) = state
            z_in, r_in, h_in = share.chunk(3, dim=-1)
            z_h, r_h = (h @ recurrent[: 2 * hidden].t() + rb[: 2 * hidden]).chunk(2, dim=-1)
            z, reset = gate(z_in + z_h), gate(r_in + r_h)
            if linear_before_reset:
                new = squash(h_in + reset * (h @ recurrent[2 * hidden :].t() + offset))
            else:
                new = squash(h_in + (reset * h) @ recurrent[2 * hidden :].t() + offset)
            return ((1 - z) * new + z * h,)

        return x @ w[index].t() + wb, step

    return _run(x, direction, layout, (initial_h,), cell, hidden)


@operator("RNN")
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int = 0,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, ...]:
    """Plain recurrent layer."""
    _refuse(None, clip)
    x = x.transpose(0, 1) if layout else x
    hidden = r.shape[-1]

    def cell(index: int) -> tuple[Tensor, Cell]:
        (squash,) = _functions(activations, ("Tanh",), index)
        wb, rb = _bias(b, index, hidden, x)
        return x @ w[index].t() + wb, lambda share, state: (squash(share + state[0] @ r[index].t() + rb),)

    return _run(x, direction, layout, (initial_h,), cell, hidden)
