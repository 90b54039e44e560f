"""What frameworks send, in every form that was seen: read right, or refused with the name of what is wrong."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.client.rounds.arrays import read_sent
from leakaudit.client.rounds.files import load_update
from leakaudit.client.rounds.folder import began_with
from leakaudit.client.rounds.given import Given
from leakaudit.errors import UpdateError, UsageError
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.target import Target, load

RATE = 0.1


class Net(nn.Module):
    """A convolution, BatchNorm, and two layers of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.one, self.two, self.head = nn.Linear(144, 12), nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(self.bn(self.conv(x)).flatten(1))))))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def target(net: nn.Module) -> Target:
    return load(copy.deepcopy(net), image_shape=(1, 8, 8), mode="train")


@pytest.fixture(scope="module")
def gradient(net: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    own = copy.deepcopy(net).train()
    loss = nn.functional.cross_entropy(own(torch.rand(4, 1, 8, 8, generator=generator)), torch.arange(4))
    return dict(zip(dict(own.named_parameters()), torch.autograd.grad(loss, list(own.parameters())), strict=True))


@pytest.fixture(scope="module")
def after(net: nn.Module, gradient: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state after one step of SGD in train mode."""
    generator = torch.Generator().manual_seed(1)
    own = copy.deepcopy(net).train()
    optimizer = torch.optim.SGD(own.parameters(), RATE)
    nn.functional.cross_entropy(own(torch.rand(4, 1, 8, 8, generator=generator)), torch.arange(4)).backward()
    optimizer.step()
    return copy.deepcopy(dict(own.state_dict()))


State = Mapping[str, Tensor]
Form = Callable[[State, State], Any]
"""From the states before and after to what is saved."""


def parameters(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if "running" not in name and "tracked" not in name}


def delta(before: State, after: State) -> dict[str, Tensor]:
    return {name: tensor - before[name] for name, tensor in parameters(after).items()}


def swapped(after: State, one: str, other: str) -> list[Tensor]:
    """A list in which two tensors have changed places."""
    names = [{one: other, other: one}.get(name, name) for name in after]
    return [after[name] for name in names]


RIGHT: dict[str, Form] = {
    "a state dict": lambda before, after: dict(after),
    "a list in its order": lambda before, after: list(after.values()),
    "a list without counters": lambda before, after: [t for n, t in after.items() if "tracked" not in n],
    "a list of parameters": lambda before, after: list(parameters(after).values()),
    "a difference": delta,
    "Opacus' names": lambda before, after: {f"_module.{name}": tensor for name, tensor in after.items()},
    "names of data-parallel wrappers": lambda before, after: {f"module.{name}": t for name, t in after.items()},
    "names of torch.compile": lambda before, after: {f"_orig_mod.{name}": t for name, t in after.items()},
    "names of peft": lambda before, after: {f"base_model.model.{name}": t for name, t in after.items()},
    "extra scalars": lambda before, after: {**after, "round": torch.tensor(3), "num_examples": torch.tensor(4.0)},
    "counters as lists of one": lambda before, after: {
        n: t.reshape(-1) if t.dim() == 0 else t for n, t in after.items()
    },
    "a difference in float16": lambda before, after: {n: t.half() for n, t in delta(before, after).items()},
}
WRONG: dict[str, tuple[Form, str]] = {
    "weights in float16": (
        lambda before, after: {n: (before[n] + 0.02 * t).half() for n, t in delta(before, after).items()},
        r"weights in float16: their rounding alone is \d+% of what they moved",
    ),
    "int8": (
        lambda before, after: {n: (127 * t / t.abs().max()).to(torch.int8) for n, t in delta(before, after).items()},
        "conv.weight holds int8: a quantised payload",
    ),
    "blockwise, two numbers in a byte": (
        lambda before, after: {n: t.flatten()[::2].byte() for n, t in delta(before, after).items()},
        "conv.weight holds uint8: a quantised payload",
    ),
    "an order of other shapes": (
        lambda before, after: swapped(after, "conv.weight", "head.weight"),
        r"array 0 has shape \(12, 12\), expected \(4, 1, 3, 3\) for conv.weight",
    ),
    "an order that shapes do not show": (
        lambda before, after: swapped(after, "two.weight", "head.weight"),
        "two.weight looks like the model's head.weight: the arrays are in another order",
    ),
    "a list without a tensor": (
        lambda before, after: list(after.values())[1:],
        r"array 0 has shape \(4,\), expected \(4, 1, 3, 3\)",
    ),
    "weights of another model": (
        lambda before, after: {**after, "head.weight": torch.zeros(13, 12)},
        r"head.weight has shape \(13, 12\), expected \(12, 12\)",
    ),
    "a tensor of nobody": (
        lambda before, after: {**after, "neck.weight": torch.zeros(3, 3)},
        "'neck.weight', which is no trainable tensor of the model",
    ),
    "statistics of another model": (
        lambda before, after: {**after, "bn.running_mean": torch.zeros(3)},
        r"bn.running_mean, which is not trained, is float32 \(3,\), expected numbers \(4,\)",
    ),
    "statistics that would be spread": (
        lambda before, after: {**after, "bn.running_var": torch.zeros(2, 4)},
        r"bn.running_var, which is not trained, is float32 \(2, 4\), expected numbers \(4,\)",
    ),
    "statistics that are not a number": (
        lambda before, after: {**after, "bn.num_batches_tracked": torch.tensor(float("nan"))},
        "bn.num_batches_tracked holds values that are not finite",
    ),
    "complex statistics": (
        lambda before, after: {**after, "bn.running_var": torch.zeros(4, dtype=torch.complex64)},
        "bn.running_var, which is not trained, is complex64",
    ),
    "not a number": (
        lambda before, after: {**after, "one.bias": torch.full((12,), float("nan"))},
        "one.bias holds values that are not finite real numbers",
    ),
    "complex numbers": (
        lambda before, after: {**after, "one.bias": torch.zeros(12, dtype=torch.complex64)},
        "one.bias holds values that are not finite real numbers",
    ),
    "what the client began with": (lambda before, after: dict(before), "own weights: the client learnt nothing"),
}


def saved(content: Any, path: Path) -> Path:
    if isinstance(content, list):
        np.savez(path.with_suffix(".npz"), *(tensor.numpy() for tensor in content))
        return path.with_suffix(".npz")
    torch.save(content, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


@pytest.mark.parametrize("name", RIGHT)
def test_what_frameworks_send_is_the_gradient(
    name: str, net: nn.Module, target: Target, after: dict[str, Tensor], gradient: dict[str, Tensor], tmp_path: Path
) -> None:
    content = RIGHT[name](net.state_dict(), after)
    for source in (saved(content, tmp_path / "sent"), Given.of(content)):
        found = load_update(source, target, local=True)
        shares: Any = "weights" if found.kind == "weights" else "delta"
        read = FedAvg(4, "train", learning_rate=RATE, shares=shares).from_shared(found.tensors, target.parameters)
        for own, tensor in gradient.items():
            torch.testing.assert_close(read[own], tensor, rtol=2e-3, atol=2e-6 if "float16" not in name else 2e-4)
        if "running" in "".join(content if isinstance(content, dict) else ()):
            assert "bn.running_mean" in "".join(found.buffers)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(
    name: str, net: nn.Module, target: Target, after: dict[str, Tensor], tmp_path: Path
) -> None:
    form, words = WRONG[name]
    content = form(net.state_dict(), after)
    for source in (saved(content, tmp_path / "sent"), Given.of(content)):
        with pytest.raises(UpdateError, match=words) as caught:
            load_update(source, target, local=True)
        assert caught.value.hint


def test_a_missing_tensor_is_named_in_the_notes(target: Target, after: dict[str, Tensor]) -> None:
    found = load_update(Given.of({n: t for n, t in after.items() if n != "two.bias"}), target, local=True)
    assert "two.bias is not in it" in found.notes
    assert "two.bias" not in found.tensors


def test_weights_before_and_after_must_begin_with_the_model(
    net: nn.Module, target: Target, after: dict[str, Tensor]
) -> None:
    before = dict(net.state_dict())
    assert load_update(Given.of((before, after)), target, local=True).kind == "weights"
    assert load_update(Given.of((list(before.values()), list(after.values()))), target, local=True).kind == "weights"
    with pytest.raises(UpdateError, match=r"did not begin with this model: \S+ differs by"):
        load_update(Given.of((after, before)), target, local=True)


def test_a_round_that_began_with_statistics_of_another_shape_is_refused(
    target: Target, after: dict[str, Tensor], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file({**after, "bn.running_mean": torch.zeros(3)}, tmp_path / "before.safetensors")
    with pytest.raises(UpdateError, match=r"bn.running_mean, which is not trained"):
        began_with(tmp_path, target)


def test_peft_names_its_adapter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.ModuleDict({"q": nn.ModuleDict({"lora_A": nn.Linear(6, 2), "lora_B": nn.Linear(2, 3)})})

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = module

        def forward(self, x: Tensor) -> Tensor:
            return self.layers["q"]["lora_B"](self.layers["q"]["lora_A"](x.flatten(1)))

    target = load(Adapted(), image_shape=(1, 2, 3))
    sent = {
        f"base_model.model.{name}".replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): t + 0.01
        for name, t in target.parameters.items()
    }
    found = load_update(Given.of(sent), target, local=True)
    assert found.tensors.keys() == target.parameters.keys()
    assert {"prefix base_model.model. taken off the names", "prefix .default taken off the names"} <= set(found.notes)


@pytest.mark.parametrize(
    "value",
    [3, "", b"update", np.zeros(3), torch.zeros(3), [1.0, 2.0], {}, [], {"w": object()}, [torch.zeros(2), None]],
    ids=lambda value: f"{type(value).__name__} {str(value)[:12]}",
)
def test_what_is_no_update_is_one_line(value: Any) -> None:
    with pytest.raises(UsageError, match=r"update is .*, expected"):
        leakaudit.Request(model="m.onnx", update=value)


def test_a_request_with_arrays_is_a_value(after: dict[str, Tensor]) -> None:
    one, same = (leakaudit.Request(model="m.onnx", batch="b.npz", update=dict(after), learning_rate=0.1) for _ in "12")
    other = leakaudit.Request(model="m.onnx", batch="b.npz", update=dict(list(after.items())[1:]), learning_rate=0.1)
    assert one == same
    assert one.key() == same.key() != other.key()
    assert one.command() == [], "no command line can say it"


# NVFlare's files


def fobs(arrays: dict[str, Any], meta: dict[str, Any] | None = None, kind: str = "WEIGHT_DIFF") -> bytes:
    """A file as NVFlare writes it, from its description in `leakaudit.client.rounds.fobs`."""
    msgpack = pytest.importorskip("msgpack", reason="msgpack is not installed (pip install leakaudit[nvflare])")

    def thing(name: str, content: Any) -> dict[str, Any]:
        return {"__fobs_type__": name, "__fobs_data__": content, "__fobs_dc__": f"{name}Decomposer"}

    packed = {name: thing("numpy.ndarray", value) for name, value in arrays.items()}
    dxo = thing("tuple", [thing("nvflare.apis.dxo.DataKind", kind), meta or {}, packed])
    body = msgpack.packb(thing("nvflare.apis.dxo.DXO", dxo))
    return struct.pack(">BBQ", 100, 0, len(body)) + body


def npy(tensor: Tensor) -> dict[str, Any]:
    import io

    stream = io.BytesIO()
    np.save(stream, tensor.numpy())
    return {"type": "native", "data": stream.getvalue()}


def test_a_fobs_file_is_read_for_what_it_says(
    net: nn.Module, target: Target, after: dict[str, Tensor], tmp_path: Path
) -> None:
    change = delta(net.state_dict(), after)
    (tmp_path / "sent.fobs").write_bytes(fobs({n: npy(t) for n, t in change.items()}, {"NUM_STEPS_CURRENT_ROUND": 1}))
    found = load_update(tmp_path / "sent.fobs", target)
    assert found.kind == "delta", "the file says so, whatever the options say"
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in change.items())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"nothing", "is no readable .fobs"),
        (lambda: b"", "is no readable .fobs"),
        (lambda: struct.pack(">BBQ", 100, 0, 3) + b"\xc1\xc1\xc1", "is no readable .fobs"),
        (lambda: fobs({"w": {"type": "ref", "data": "abc"}}), "w is a placeholder of a lazy transfer, no array"),
        (lambda: fobs({"w": {"type": "native", "data": b"\x93NUMPY"}}), "w is no readable array"),
        (lambda: fobs({"w": npy(torch.zeros(2))}, {"quantization_type": "float16"}), "ModelQuantizer .*float16"),
        (lambda: fobs({}), "holds no arrays"),
    ],
)
def test_fobs_files_that_hold_no_arrays_are_refused(content: Callable[[], bytes], words: str, tmp_path: Path) -> None:
    pytest.importorskip("msgpack", reason="msgpack is not installed (pip install leakaudit[nvflare])")
    (tmp_path / "sent.fobs").write_bytes(content())
    with pytest.raises(UpdateError, match=words):
        read_sent(tmp_path / "sent.fobs")


def test_a_fobs_file_runs_nothing(tmp_path: Path) -> None:
    """An array of objects would be unpickled: it is refused, and no class that a file names is looked up."""
    import io
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    pickle.dumps(Evil())
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / "sent.fobs").write_bytes(fobs({"w": {"type": "native", "data": stream.getvalue()}}))
    with pytest.raises(UpdateError, match="w is no readable array"):
        read_sent(tmp_path / "sent.fobs")
    assert not (tmp_path / "ran").exists()


def test_without_msgpack_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "msgpack", None)
    (tmp_path / "sent.fobs").write_bytes(b"d")
    with pytest.raises(UsageError, match="needs msgpack") as caught:
        read_sent(tmp_path / "sent.fobs")
    assert "leakaudit[nvflare]" in caught.value.hint
