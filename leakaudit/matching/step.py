"""One evaluation of the objective and its gradient, for a group of restarts at once: eager, traced or compiled.

* **eager**: autograd, one restart after the other. Always works; the reference of the other two.
* **traced**: forward, backward and backward of the backward are recorded once as a graph of plain operators
  (``make_fx``), batched over the restarts by ``vmap``, and replayed without autograd.
* **compiled**: the traced graph through Inductor, which takes from ten seconds to two minutes once.

On a GPU the last two replay as one CUDA graph. On a processor, an eager step of a tiny network does without oneDNN: it
hands over a convolution in more time than that takes.

A recording is checked at a point other than the one it was made at. Where it cannot be made, or differs, the step is
eager and `Step.note` says why. All modes agree to float rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, fx
from torch.backends import mkldnn
from torch.fx.experimental.proxy_tensor import make_fx

from leakaudit.errors import first_line
from leakaudit.matching.compiler_cache import secure_compiler_cache
from leakaudit.matching.problem import Case, GradientMatching
from leakaudit.target.size import is_tiny

Mode = Literal["eager", "traced", "compiled"]
Values = Sequence[Tensor]
Evaluation = tuple[Tensor, Tensor, tuple[Tensor, ...]]
"""Objective (R,), match (R,), and the objective's gradient for every unknown (R, …)."""
Flat = Callable[..., Sequence[Tensor]]
"""An evaluation as a recording makes it: all in one sequence."""

TRACE_AFTER = 1_000
"""Planned steps from which tracing repays (0.4 to 0.8 s on a LeNet) on a GPU, and of several restarts on a processor;
chosen from times like those of `benchmarks/results/speed.md`. A single restart on a processor is not traced: autograd
differentiates the distance as it is written out, and a recorded step then takes 1.1 times as long on a LeNet, a small
CNN and a ResNet-18, 2.3 times on an MLP, and only on ConvNet-64 less, 0.86 times. Steps, not seconds: a decision by the
clock would make the numbers of a report depend on the machine's load."""
COMPILE_AFTER = 10_000
"""Planned steps from which compiling repays (4 to 30 s on a LeNet, 2.4 times faster); chosen from the same times."""
COMPILE_LARGE_AFTER = 2_000
"""The same where the network is not small (15 s for 0.24 s a step on ConvNet-64, 26 s for 21 ms on a small ViT); chosen
from times like those of `benchmarks/results/speed.md`."""
COMPILE_BUDGET = 600
"""Seconds of a time budget below which nothing is compiled; chosen: that took up to 133 s
(`benchmarks/results/speed.md`)."""
TOLERANCE = 1e-3
"""Difference from the eager step, relative to it, above which a recording is wrong; chosen, 8,400 times float32's
precision."""


def choose_mode(
    planned_steps: int, seconds_left: float | None = None, *, large: bool = False, alone: bool = False
) -> Mode:
    """Mode that repays itself within a number of planned steps (restarts times iterations) and fits the time left.

    Args:
        planned_steps: Restarts times iterations.
        seconds_left: Of a time budget.
        large: The network is not small (`leakaudit.target.size`).
        alone: It is one restart at a time, on a processor.
    """
    enough = planned_steps >= (COMPILE_LARGE_AFTER if large else COMPILE_AFTER)
    if enough and (seconds_left is None or seconds_left >= COMPILE_BUDGET):
        return "compiled"
    return "traced" if planned_steps >= TRACE_AFTER and not alone else "eager"


class Step:
    """Evaluates the objective of a group of restarts.

    Args:
        problem: The objective.
        names: Names of the unknowns.
        example: Values of the unknowns, each (R, …); a recording works for this R only.
        mode: Wanted mode.
        cases: The victim of each of the R, where they are not all the one of `problem`.

    Attributes:
        mode: Mode in use.
        note: Why it is not the wanted one, or "".
    """

    def __init__(
        self,
        problem: GradientMatching,
        names: Sequence[str],
        example: Values,
        mode: Mode = "eager",
        cases: Sequence[Case] = (),
    ) -> None:
        self.problem, self.names, self.cases = problem, tuple(names), tuple(cases)
        self.mode: Mode = "eager"
        self.note = ""
        self._plain = not example[0].is_cuda and is_tiny(problem.target, problem.observation.batch_size)
        self._run: Callable[[Values], Evaluation] = self._eager
        if mode != "eager":
            self._record([value.detach() for value in example], mode)

    def __call__(self, values: Values) -> Evaluation:
        """Objective, match and gradients at (R, …) values; detached."""
        return self._run([value.detach() for value in values])

    def _eager(self, values: Values) -> Evaluation:
        restarts = range(values[0].shape[0])
        cases = self.cases or [None for _ in restarts]
        with _own_kernels() if self._plain else nullcontext():
            results = [self._single([value[r] for value in values], cases[r], once=True) for r in restarts]
        objectives, matches, gradients = zip(*results, strict=True)
        return (
            torch.stack(objectives),
            torch.stack(matches),
            tuple(torch.stack(g) for g in zip(*gradients, strict=True)),
        )

    def _single(self, values: Values, case: Case | None = None, *, once: bool = False) -> Evaluation:
        """At one restart's values; what is differentiated once only saves memory, and cannot be recorded."""
        with torch.enable_grad():
            leaves = [value.detach().requires_grad_(True) for value in values]
            variables = dict(zip(self.names, leaves, strict=True))
            objective, match = self.problem.objective(variables, once=once, case=case)
            gradients = torch.autograd.grad(objective, leaves, materialize_grads=True)
        return objective.detach(), match.detach(), tuple(gradients)

    def _record(self, example: Values, mode: Mode) -> None:
        """Trace, compile where wanted, check; stay eager with a note where that fails."""
        try:
            fixed = [torch.stack(parts) for parts in zip(*(case.tensors() for case in self.cases), strict=True)]
            graph = self._trace([*example, *fixed])
            run: Flat = graph
            if mode == "compiled":
                run = _compiled(graph, [*example, *fixed])
            if fixed:
                run = _bound(run, fixed)
            if example[0].is_cuda:
                run = _captured(run, example)
            replay = _without_autograd(run)
            self._check(replay, example)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if mode == "compiled":
                self._record(example, "traced")
            self.note = f"step not {mode}: {type(error).__name__}: {first_line(error, 160)}"
            return
        self._run, self.mode = replay, mode

    def _trace(self, example: Values) -> fx.GraphModule:
        alone = example[0].shape[0] == 1 and not self.cases
        function = self._stacked_single if alone else torch.func.vmap(self._functional)

        def flat(*values: Tensor) -> tuple[Tensor, ...]:
            objective, match, gradients = function(*values)
            return objective, match, *gradients

        graph = make_fx(flat)(*example)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph

    def _stacked_single(self, *values: Tensor) -> Evaluation:
        objective, match, gradients = self._single([value[0] for value in values])
        return objective[None], match[None], tuple(g[None] for g in gradients)

    def _functional(self, *values: Tensor) -> Evaluation:
        unknowns = len(self.names)
        case = self.cases[0].like(values[unknowns:]) if self.cases else None

        def objective(*leaves: Tensor) -> tuple[Tensor, Tensor]:
            return self.problem.objective(dict(zip(self.names, leaves, strict=True)), functional=True, case=case)

        gradients, (value, match) = torch.func.grad_and_value(objective, argnums=tuple(range(unknowns)), has_aux=True)(
            *values[:unknowns]
        )
        return value, match, gradients

    def _check(self, replay: Callable[[Values], Evaluation], example: Values) -> None:
        """Compare with the eager step at another point than the traced one.

        Raises:
            RuntimeError: They differ: the model branches on its input or draws random numbers.
        """
        other = [value.roll(1, dims=-1) * 0.9 + 0.01 for value in example]
        expected, got = self._eager(other), replay(other)
        for a, b in zip((*expected[:2], *expected[2]), (*got[:2], *got[2]), strict=True):
            scale = float(a.abs().max()) + 1e-12
            if not bool((a - b).abs().max() <= TOLERANCE * scale):
                raise RuntimeError("the recorded step differs from the eager one")


@contextmanager
def _own_kernels() -> Iterator[None]:
    """Inside, torch does convolutions on a processor by its own code instead of oneDNN's."""
    before = bool(mkldnn.enabled)
    mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        mkldnn.enabled = before  # type: ignore[assignment]


def _bound(run: Flat, fixed: Values) -> Flat:
    """The recording with the victims' gradients and labels in place."""

    def bound(*values: Tensor) -> Sequence[Tensor]:
        return run(*values, *fixed)

    return bound


def _without_autograd(run: Flat) -> Callable[[Values], Evaluation]:
    def replay(values: Values) -> Evaluation:
        with torch.no_grad():
            objective, match, *gradients = run(*values)
        return objective, match, tuple(gradients)

    return replay


def _compiled(graph: fx.GraphModule, example: Values) -> Flat:
    """The graph compiled by Inductor itself: Dynamo would only read again, at every call, what is recorded already."""
    from torch import _inductor  # seconds, which only a compilation should cost

    secure_compiler_cache()
    with torch.no_grad():
        compiled: Flat = _inductor.compile(graph, list(example))
        compiled(*example)
    return compiled


def _captured(run: Flat, example: Values) -> Flat:
    """The recording as one CUDA graph: no launch overhead. Inputs are copied in, outputs copied out."""
    static = [value.clone() for value in example]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            run(*static)
    torch.cuda.current_stream().wait_stream(side)
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording), torch.no_grad():
        outputs = run(*static)

    def replay(*values: Tensor) -> tuple[Tensor, ...]:
        for place, value in zip(static, values, strict=True):
            place.copy_(value)
        recording.replay()
        return tuple(output.clone() for output in outputs)

    return replay
