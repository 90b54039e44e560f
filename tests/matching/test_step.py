"""Eager, traced and batched steps give the same numbers, and what cannot be recorded stays eager and says so."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.matching import engine, objective, step
from leakaudit.matching.engine import GradientMatching, MatchSettings, minimize
from leakaudit.matching.priors import KeepRate
from leakaudit.matching.step import Mode, Step, choose_mode
from leakaudit.reconstruction import SilentMonitor
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target
from tests.conftest import make_target, small_cnn
from tests.matching.build import StopAfter, observation_of
from tests.target.watch import compiled


def problem_of(target: Target, samples: Batch, space: Images, settings: MatchSettings) -> GradientMatching:
    observation = observation_of(target, samples.subset([1, 2]), space)
    assert observation.labels is not None
    return GradientMatching(target, observation, observation.labels, settings)


def assert_same(a: Step, b: Step, values: list[torch.Tensor]) -> None:
    first, second = a(values), b(values)
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(first[1], second[1], rtol=1e-5, atol=1e-7)
    for x, y in zip(first[2], second[2], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("distance", ["cosine", "layerwise", "euclidean"])
def test_traced_equals_eager(samples: Batch, space: Images, restarts: int, distance: str) -> None:
    settings = MatchSettings(tv_weight=0.01, l2_weight=0.1, distance=distance)  # type: ignore[arg-type]
    problem = problem_of(make_target(small_cnn(), (3, 12, 12), 5), samples, space, settings)
    values = [torch.randn(restarts, 2, 3, 12, 12, generator=cpu_generator(0))]
    traced = Step(problem, ["inputs"], values, "traced")
    assert (traced.mode, traced.note) == ("traced", "")
    other = [torch.randn(restarts, 2, 3, 12, 12, generator=cpu_generator(1))]
    assert_same(Step(problem, ["inputs"], values), traced, other)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_step_of_a_large_model_is_traced_too(
    samples: Batch, space: Images, distance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What saves memory where a derivative is taken once reads numbers, which cannot be recorded."""
    monkeypatch.setattr(objective, "LARGE", 1)
    settings = MatchSettings(distance=distance)  # type: ignore[arg-type]
    problem = problem_of(make_target(small_cnn(), (3, 12, 12), 5), samples, space, settings)
    values = [torch.randn(1, 2, 3, 12, 12, generator=cpu_generator(0))]
    traced = Step(problem, ["inputs"], values, "traced")
    assert (traced.mode, traced.note) == ("traced", "")
    assert_same(Step(problem, ["inputs"], values), traced, values)


def test_labels_and_masks_are_traced_too(samples: Batch, space: Images) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.GELU(), Dropout(0.5, label="drop"), nn.Linear(16, 5))
    problem = problem_of(make_target(net, (3, 12, 12), 5), samples, space, MatchSettings())
    problem.priors = (KeepRate({"0/drop": 0.5}, 0.1),)
    names = ["inputs", "labels", "mask:0/drop"]

    def values(seed: int) -> list[torch.Tensor]:
        generator = cpu_generator(seed)
        shapes = ((2, 2, 3, 12, 12), (2, 2, 5), (2, 2, 16))
        return [torch.rand(shape, generator=generator) for shape in shapes]

    traced = Step(problem, names, values(0), "traced")
    assert traced.mode == "traced"
    eager = Step(problem, names, values(0))
    assert_same(eager, traced, values(1))
    assert all(bool(gradient.any()) for gradient in eager(values(1))[2])


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")


@pytest.fixture
def scalar_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inductor without vector instructions: on a fresh machine it compiles as long to find out which there are."""
    from torch._inductor import config, cpu_vec_isa

    monkeypatch.setattr(config.cpp, "vec_isa_ok", False)
    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    yield
    cpu_vec_isa.valid_vec_isa_list.cache_clear()


def assert_compiled_equals_eager(samples: Batch, space: Images, restarts: int) -> None:
    settings = MatchSettings(tv_weight=0.01)
    problem = problem_of(make_target(small_cnn(), (3, 12, 12), 5), samples, space, settings)
    values = [torch.randn(restarts, 2, 3, 12, 12, generator=cpu_generator(0))]
    compiled = Step(problem, ["inputs"], values, "compiled")
    assert (compiled.mode, compiled.note) == ("compiled", "")
    other = [torch.randn(restarts, 2, 3, 12, 12, generator=cpu_generator(1))]
    assert_same(Step(problem, ["inputs"], values), compiled, other)


@needs_compiler
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("scalar_code")
def test_compiled_equals_eager(samples: Batch, space: Images) -> None:
    assert_compiled_equals_eager(samples, space, 1)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("restarts", [1, 3])
def test_compiled_to_vector_code_equals_eager(samples: Batch, space: Images, restarts: int) -> None:
    assert_compiled_equals_eager(samples, space, restarts)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_without_a_compiler_a_run_is_traced_and_says_so(
    target: Target, samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    settings = MatchSettings(iterations=5, restarts=2, execution="compiled")
    observation = observation_of(target, samples.subset([1]), space)
    result = minimize(target, observation, settings, cpu_generator(0), SilentMonitor())
    assert result.iterations == 10
    assert any(note.startswith("step not compiled: ") for note in result.notes)


def test_a_failed_compilation_never_ends_a_run(
    target: Target, samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("internal compiler error\nand much more")

    monkeypatch.setattr(step, "_compiled", broken)
    observation = observation_of(target, samples.subset([1]), space)
    runs = [
        minimize(
            target,
            observation,
            MatchSettings(iterations=5, execution=mode),  # type: ignore[arg-type]
            cpu_generator(0),
            SilentMonitor(),
        )
        for mode in ("compiled", "traced")
    ]
    assert torch.equal(runs[0].inputs, runs[1].inputs)
    assert runs[0].notes == ("step not compiled: RuntimeError: internal compiler error",)


def test_a_compiled_run_says_so(target: Target, samples: Batch, space: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_compiled", lambda graph, example: graph)
    settings = MatchSettings(iterations=step.COMPILE_AFTER // 2, restarts=2)
    observation = observation_of(target, samples.subset([1]), space)
    result = minimize(target, observation, settings, cpu_generator(0), StopAfter(3))
    assert "steps compiled, restarts at once: 2" in result.notes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("mode", ["traced", "compiled"])
@pytest.mark.parametrize("restarts", [1, 3])
def test_cuda_graphs_equal_eager(samples: Batch, space: Images, restarts: int, mode: Mode) -> None:
    target = make_target(small_cnn().cuda(), (3, 12, 12), 5)
    on_device = Batch(samples.images.cuda(), samples.labels.cuda(), samples.indices)
    problem = problem_of(target, on_device, space, MatchSettings(tv_weight=0.01))

    def values(seed: int) -> list[torch.Tensor]:
        return [torch.randn(restarts, 2, 3, 12, 12, generator=cpu_generator(seed)).cuda()]

    recorded = Step(problem, ["inputs"], values(0), mode)
    assert (recorded.mode, recorded.note) == (mode, "")
    eager = Step(problem, ["inputs"], values(0))
    first = recorded(values(1))
    assert_same(eager, recorded, values(2))
    again = eager(values(1))  # a later replay must not overwrite what an earlier one returned
    torch.testing.assert_close(first[0], again[0], rtol=1e-5, atol=1e-6)


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(432, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.linear(x.flatten(1))
        return z if float(x.detach().sum()) > 1e9 else z.tanh()


def test_what_cannot_be_recorded_stays_eager(samples: Batch, space: Images) -> None:
    problem = problem_of(make_target(_Branching(), (3, 12, 12), 5), samples, space, MatchSettings())
    values = [torch.randn(2, 2, 3, 12, 12, generator=cpu_generator(0))]
    stays = Step(problem, ["inputs"], values, "traced")
    assert stays.mode == "eager"
    assert stays.note.startswith("step not traced: ")
    assert_same(Step(problem, ["inputs"], values), stays, values)


def test_a_whole_run_is_the_same_in_both_modes(target: Target, samples: Batch, space: Images) -> None:
    observation = observation_of(target, samples.subset([1]), space)
    results = [
        minimize(
            target,
            observation,
            MatchSettings(iterations=30, restarts=2, signed=False, execution=mode),  # type: ignore[arg-type]
            cpu_generator(0),
            SilentMonitor(),
        )
        for mode in ("eager", "traced")
    ]
    torch.testing.assert_close(results[0].inputs, results[1].inputs, rtol=1e-2, atol=1e-2)
    assert results[0].match == pytest.approx(results[1].match, rel=1e-2)
    assert results[0].iterations == results[1].iterations == 60


def test_recording_must_repay() -> None:
    assert [choose_mode(n) for n in (100, 5_000, 24_000)] == ["eager", "traced", "compiled"]
    assert [choose_mode(n, large=True) for n in (100, 1_500, 5_000)] == ["eager", "traced", "compiled"]
    assert [choose_mode(24_000, seconds) for seconds in (60.0, 3600.0)] == ["traced", "compiled"]


def test_a_single_restart_on_a_processor_is_not_traced(target: Target, samples: Batch, space: Images) -> None:
    assert [choose_mode(n, alone=True) for n in (100, 5_000, 24_000)] == ["eager", "eager", "compiled"]
    observation = observation_of(target, samples.subset([1]), space)
    asked: list[Mode] = []

    def noting(*arguments: Any) -> Step:
        asked.append(arguments[3])
        return Step(*arguments[:3])

    for restarts in (1, 2):
        settings = MatchSettings(iterations=1_000, restarts=restarts, signed=False, tolerance=1e9)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "Step", noting)
            minimize(target, observation, settings, cpu_generator(0), SilentMonitor())
    assert asked == ["eager", "traced"]


class _Kernels(nn.Module):
    """Says whether oneDNN may do its convolutions; ends in an error where it is told to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = nn.Sequential(nn.Conv2d(3, channels, 3), nn.Sigmoid(), nn.Flatten())
        self.last = nn.Linear(channels * 100, 5)
        self.seen: list[bool] = []
        self.fails = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(bool(torch.backends.mkldnn.enabled))
        if self.fails:
            raise RuntimeError("as it was told to")
        logits: torch.Tensor = self.last(self.channels(x))
        return logits


@pytest.mark.parametrize(("channels", "tiny"), [(8, True), (600, False)])
def test_only_an_eager_step_of_a_tiny_network_does_without_onednn(
    samples: Batch, space: Images, channels: int, tiny: bool
) -> None:
    network = _Kernels(channels)
    problem = problem_of(make_target(network, (3, 12, 12), 5), samples, space, MatchSettings())
    before = torch.backends.mkldnn.enabled
    values = [torch.randn(1, 2, 3, 12, 12, generator=cpu_generator(0))]
    run = Step(problem, ["inputs"], values)
    network.seen.clear()
    run(values)
    assert network.seen == [bool(before) and not tiny]
    network.fails = True
    with pytest.raises(RuntimeError, match="as it was told to"):
        run(values)
    assert torch.backends.mkldnn.enabled == before


class _Scoped(nn.Module):
    """Parameters, a buffer and dropout under names that are Python."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("x=open('ran_7f3a','w')", nn.Linear(432, 5))
        self.register_buffer("'+ran_7f3a+'", torch.ones(432))
        self.drop = Dropout(0.5, label="\nran_7f3a\n")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tensors = dict(self.named_buffers())
        result: torch.Tensor = self._modules["x=open('ran_7f3a','w')"](
            self.drop(x.flatten(1)) * tensors["'+ran_7f3a+'"]
        )
        return result


@pytest.mark.parametrize("restarts", [1, 3])
def test_only_counters_reach_the_source_of_a_recording(samples: Batch, space: Images, restarts: int) -> None:
    problem = problem_of(make_target(_Scoped(), (3, 12, 12), 5), samples, space, MatchSettings())
    names = ["inputs", "mask:0/\nran_7f3a\n"]
    values = [torch.rand(restarts, 2, 3, 12, 12), torch.rand(restarts, 2, 432)]
    with compiled("ran_7f3a") as found:
        traced = Step(problem, names, values, "traced")
    assert (traced.mode, traced.note, found) == ("traced", "", [])
    graph = traced._trace(values)
    assert "ran_7f3a" not in graph.code
    for node in graph.graph.nodes:
        assert re.fullmatch(r"[a-z_]+(_?\d+)*", node.name), node.name
        if node.op in ("placeholder", "get_attr"):
            assert re.fullmatch(r"arg\d+_1|_(tensor|param)_constant\d+", str(node.target)), node.target


@pytest.mark.slow
def test_only_counters_reach_the_source_of_a_compiled_step(samples: Batch, space: Images) -> None:
    if shutil.which("g++") is None:
        pytest.skip("Inductor needs a C++ compiler")
    problem = problem_of(make_target(_Scoped(), (3, 12, 12), 5), samples, space, MatchSettings())
    values = [torch.rand(2, 2, 3, 12, 12), torch.rand(2, 2, 432)]
    with compiled("ran_7f3a") as found:
        step_ = Step(problem, ["inputs", "mask:0/\nran_7f3a\n"], values, "compiled")
    assert (step_.mode, step_.note, found) == ("compiled", "", [])
