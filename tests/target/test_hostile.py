"""Files made to harm: refused, no code run, memory bounded."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from leakaudit.errors import LeakauditError, ModelError
from leakaudit.target import load
from leakaudit.target.onnx.read import MAX_NODES, read_model
from tests.target import build, zoo
from tests.target.graphs import GRAPHS
from tests.target.watch import compiled

LIMIT = 256 << 20
"""Bytes by which the peak of the process may grow."""


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)


def refused(path: Path, match: str, **options: object) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=match):
        load(path, **options)  # type: ignore[arg-type]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < LIMIT


def external(path: Path, location: str, **entries: str) -> Path:
    nodes, tensors = build.linear()
    weight = tensors[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.append(StringStringEntryProto(key=key, value=value))
    return build.write(path, nodes, tensors)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "link"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 192)
    (folder / "link").symlink_to(tmp_path / "secret")
    refused(external(folder / "m.onnx", location), "outside the model's folder")


def test_external_data_beyond_its_file(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 64)
    refused(external(tmp_path / "m.onnx", "w.bin", offset="0", length="192"), "wants bytes")
    refused(external(tmp_path / "m.onnx", "w.bin", offset="-8", length="8"), "wants bytes")
    refused(external(tmp_path / "m.onnx", "missing.bin"), "not there")
    (tmp_path / "w.bin").write_bytes(np.linspace(-1, 1, 48, dtype=np.float32).tobytes())
    assert load(external(tmp_path / "m.onnx", "w.bin")).parameters["weight"].numel() == 48


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Tile"])
def test_ten_gigabytes_in_a_small_file(tmp_path: Path, op: str) -> None:
    shape = numpy_helper.from_array(np.array([50_000, 50_000], dtype=np.int64), "shape")
    one = numpy_helper.from_array(np.ones((1, 1), dtype=np.float32), "one")
    inputs = ["shape"] if op == "ConstantOfShape" else ["one", "shape"]
    nodes = [helper.make_node(op, inputs, ["big"]), helper.make_node("MatMul", ["x", "big"], ["y"])]
    tensors = [shape, one, build.tensor("unused", 3)]
    path = build.write(tmp_path / "m.onnx", [*nodes[:1], helper.make_node("ReduceMax", ["big"], ["top"], keepdims=0),
                       helper.make_node("Mul", ["x", "top"], ["h"]), *build.linear(source="h")[0]],
                       [*tensors, *build.linear()[1]])  # fmt: skip
    assert path.stat().st_size < 2000
    refused(path, "more than the .* that the file justifies")


def test_shape_without_data(tmp_path: Path) -> None:
    nodes, tensors = build.linear()
    tensors[0].dims[0] = 5_000_000_000
    refused(build.write(tmp_path / "m.onnx", nodes, tensors), "cannot be read")


def test_cycle(tmp_path: Path) -> None:
    nodes, tensors = build.linear(source="b")
    nodes += [helper.make_node("Add", ["x", "c"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    refused(build.write(tmp_path / "m.onnx", nodes, tensors), "cycle")


def functions(path: Path, calls: dict[str, list[str]]) -> Path:
    """A model whose local functions call each other."""
    nodes, tensors = build.linear(source="h")
    nodes.insert(0, helper.make_node(next(iter(calls)), ["x"], ["h"], domain="local"))
    model = ModelProto.FromString(build.write(path, nodes, tensors).read_bytes())
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model.opset_import.append(opsets[1])
    for name, called in calls.items():
        chain = ["a", *[f"v{i}" for i in range(len(called) - 1)], "b"]
        body = [
            helper.make_node(op, [s], [t], domain="" if op == "Relu" else "local")
            for op, s, t in zip(called, chain[:-1], chain[1:], strict=True)
        ]
        model.functions.append(helper.make_function("local", name, ["a"], ["b"], body, opsets))
    path.write_bytes(model.SerializeToString())
    return path


def test_functions_that_never_end(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    refused(functions(path, {"f": ["f"]}), "calls itself")
    refused(functions(path, {"f": ["g"], "g": ["h"], "h": ["f"]}), "calls itself")
    laughs = {f"f{i}": [f"f{i + 1}"] * 10 for i in range(12)} | {"f12": ["Relu"]}
    refused(functions(path, laughs), "nodes, more than")
    assert load(functions(path, {"f": ["g", "g"], "g": ["Relu"]})).classes == 4


def test_more_nodes_than_any_classifier_has(tmp_path: Path) -> None:
    head, tensors = build.linear(source=f"v{MAX_NODES - 1}", width=12)
    names = ["x", *(f"v{i}" for i in range(MAX_NODES))]
    chain = [helper.make_node("Relu", [s], [t]) for s, t in itertools.pairwise(names)]
    refused(build.write(tmp_path / "m.onnx", [*chain, *head], tensors), f"nodes, more than {MAX_NODES}$")
    assert len(read_model(tmp_path / "m.onnx", trusted=True).graph.node) == MAX_NODES + 1


def test_a_graph_without_batch_norm_has_one_program_for_both_modes(tmp_path: Path) -> None:
    nodes, tensors = build.linear()
    module = load(build.write(tmp_path / "m.onnx", nodes, tensors)).module
    x = torch.rand(7, 12)
    programs = module._programs
    before = len(programs)
    module.eval()(x)
    module.train()(x)
    assert len(programs) == before + 1


def test_deep_functions_cost_no_stack(tmp_path: Path) -> None:
    deep = {f"f{i}": [f"f{i + 1}"] for i in range(5000)} | {"f5000": ["f0"]}
    refused(functions(tmp_path / "m.onnx", deep), "calls itself")


def test_pickles_run_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran_7f3a"
    torch.save(Payload(marker), tmp_path / "zip.pt")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Payload(marker)))
    torch.save({"weight": Payload(marker)}, tmp_path / "weights.pt")
    refused(tmp_path / "zip.pt", "pickle with code")
    refused(tmp_path / "raw.pkl", "pickle with code")
    refused(tmp_path / "weights.pt", "more than numbers", factory="torch.nn:Identity")
    assert not marker.exists()


def exported(path: Path) -> Path:
    program = torch.export.export(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)), (torch.rand(1, 3, 2, 2),)
    )
    torch.export.save(program, path)
    return path


def repacked(source: Path, target: Path, change: dict[str, bytes]) -> Path:
    """A copy of an archive with members replaced or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        names = {item.filename.partition("/")[2]: item.filename for item in old.infolist()}
        root = next(iter(names.values())).partition("/")[0]
        for inner, name in names.items():
            new.writestr(name, change.get(inner, old.read(name)))
        for inner, content in change.items():
            if inner not in names:
                new.writestr(f"{root}/{inner}", content)
    return target


def test_export_with_a_pickle_inside(tmp_path: Path) -> None:
    marker = tmp_path / "ran_7f3a"
    good = exported(tmp_path / "good.pt2")
    refused(good, "not made for hostile arguments")
    assert load(good, trust=True).classes == 4
    code = pickle.dumps(Payload(marker))
    saved = io.BytesIO()
    torch.save(Payload(marker), saved)
    flag = json.dumps({"config": {"weight": {"use_pickle": True}}}).encode()
    for change, reason in (
        ({"data/weights/weight_0": code}, "whole number|reaches beyond"),
        ({"data/weights/model.pt": saved.getvalue()}, "pickle"),
        ({"data/weights/hidden.pkl": b"anything"}, "pickle"),
        ({"data/weights/model_weights_config.json": flag}, "pickle"),
        ({"data/weights/model_weights_config.json": flag.replace(b"use_pickle", b"use\\u005fpickle")}, "pickle"),
        ({"data/constants/opaque_obj_0": pickle.dumps(Payload(marker), protocol=0)}, "pickle"),
        ({"data/aotinductor/model/model.so": b"\x7fELF"}, "compiled library"),
        ({"MODELS/model.json": b"{}"}, "two files of one name"),
        ({"data/Weights/model.pt": saved.getvalue()}, "no part of an exported program"),
    ):
        refused(repacked(good, tmp_path / "bad.pt2", change), reason, trust=True)
    samples = repacked(good, tmp_path / "bad.pt2", {"data/sample_inputs/model.pt": saved.getvalue()})
    assert load(samples, trust=True).classes == 4  # sample inputs are never opened
    assert not marker.exists()


def altered(good: Path, bad: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of an export whose graph was changed."""
    with zipfile.ZipFile(good) as archive:
        program = json.loads(archive.read("good/models/model.json"))
    change(program)
    return repacked(good, bad, {"models/model.json": json.dumps(program).encode()})


def test_export_that_calls_python(tmp_path: Path) -> None:
    good = exported(tmp_path / "good.pt2")
    for call in (
        "torch.os.mkdir", "_operator.methodcaller", "torch.ops.aten.from_file.default", "#x:y", "builtins.eval",
        "torch.ops.aten.\uff52elu.default", "torch.ops.aten.relu.__init__", "torch.ops.load_library",
        "torch.ops.aten.__class__",
    ):  # fmt: skip
        bad = altered(
            good, tmp_path / "bad.pt2", lambda p, c=call: p["graph_module"]["graph"]["nodes"][1].update(target=c)
        )
        refused(bad, "no tensor operator", trust=True)


def wide(text: str) -> str:
    """The text in full-width letters, which Python reads as the plain ones."""
    return "".join(chr(ord(letter) + 0xFEE0) for letter in text)


def in_sizes(program: dict[str, Any]) -> None:
    """A call in full-width letters in the place of a size."""
    for meta in program["graph_module"]["graph"]["tensor_values"].values():
        meta["sizes"][0] = {"as_expr": {"expr_str": f"{wide('open')}(ran_7f3a)", "hint": None}}


def in_trees(program: dict[str, Any]) -> None:
    """A tree specification whose context names a module."""
    context = json.dumps([{"__enum__": True, "fqn": "hostile_module:x", "name": "x"}])
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    protocol, tree = json.loads(signature["in_spec"])
    tree["children_spec"][1]["context"] = context
    signature["in_spec"] = json.dumps([protocol, tree])


HEADER = "x=open('ran_7f3a','w')):\r    pass\r'''\rdef g():#"
"""An argument with a default that ends the header of a function; the second time it stands there it ends a string."""


def in_names(program: dict[str, Any]) -> None:
    """An input of such a name."""
    (given,) = (s["user_input"]["arg"]["as_tensor"] for s in program["graph_module"]["signature"]["input_specs"]
                if "user_input" in s)  # fmt: skip
    old = given["name"]

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            named = value.get("name") == old and len(value) == 1
            return {(HEADER if k == old else k): HEADER if named else renamed(v) for k, v in value.items()}
        return [renamed(item) for item in value] if isinstance(value, list) else value

    program["graph_module"] = renamed(program["graph_module"])


def in_arguments(program: dict[str, Any]) -> None:
    """The name that the export gives to the argument of its forward."""
    program["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [HEADER]


def in_guards(program: dict[str, Any]) -> None:
    """Code that checks the input."""
    program["guards_code"] = ["open('ran_7f3a', 'w')"]


@pytest.mark.parametrize("change", [in_sizes, in_trees, in_names, in_arguments, in_guards])
def test_export_with_python_in_its_strings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hostile_module.py").write_text("open('ran_7f3a', 'w')")
    bad = altered(exported(tmp_path / "good.pt2"), tmp_path / "bad.pt2", change)
    with compiled("ran_7f3a") as found:
        assert load(bad, trust=True, image_shape=(3, 2, 2)).classes == 4
    assert not found
    assert not (tmp_path / "ran_7f3a").exists()


def test_graph_name_in_an_attribute(tmp_path: Path) -> None:
    marker = tmp_path / "ran_7f3a"
    nodes, tensors = build.linear(source="h")
    relu = helper.make_node("Relu", ["x"], ["h"])
    inner = helper.make_graph([], f"'))\ropen('{marker}','w')\rdef g():\r    pass #", [], [])
    relu.attribute.append(helper.make_attribute("consumed_inputs", inner))
    refused(build.write(tmp_path / "m.onnx", [relu, *nodes], tensors), "has type GRAPH, expected INT")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["encoder", "residual"])
def test_honest_exports_pass(tmp_path: Path, name: str) -> None:
    model, shape = zoo.build(name)
    batch = {0: torch.export.Dim("N", min=2, max=64)}
    program = torch.export.export(model, (torch.rand(2, *shape),), dynamic_shapes=(batch,))
    torch.export.save(program, tmp_path / "m.pt2")
    assert load(tmp_path / "m.pt2", trust=True).classes == 10


def test_zip_bomb(tmp_path: Path) -> None:
    good = exported(tmp_path / "good.pt2")
    bomb = repacked(good, tmp_path / "bomb.pt2", {"data/weights/zeros": b"\0" * (160 << 20)})
    assert bomb.stat().st_size < 1 << 20
    refused(bomb, "would unpack to", trust=True)


def test_torchscript_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); import torch; "
        "torch.jit.save(torch.jit.trace(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)), "
        "torch.rand(1, 3, 2, 2)), sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    refused(path, "can run code")
    target = load(path, trust=True, image_shape=(3, 2, 2))
    assert (target.format, target.classes, len(target.parameters)) == ("torchscript", 4, 2)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_never_crash(tmp_path: Path, seed: int) -> None:
    names = ("activations", "pad_constant_13", "resize_to_size", "scalars_and_where")
    random = np.random.default_rng(seed)
    for name in names:
        graph = GRAPHS[name]()
        path = build.write(tmp_path / "m.onnx", graph.nodes, graph.tensors, shape=graph.shape, opset=graph.opset)
        content = path.read_bytes()
        for _ in range(25):
            damaged = bytearray(content)
            damaged[int(random.integers(min(len(content), 400)))] = int(random.integers(256))
            path.write_bytes(damaged)
            with suppress(LeakauditError):
                load(path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = build.write(tmp_path / "m.onnx", *build.linear())
    path.write_bytes(path.read_bytes().replace(b"weight", b"wei\xffht"))
    refused(path, "not UTF-8")


def test_node_without_inputs(tmp_path: Path) -> None:
    nodes, tensors = build.linear(source="h")
    refused(build.write(tmp_path / "m.onnx", [helper.make_node("Identity", [], ["h"]), *nodes], tensors), "fewer than")


def test_enormous_resize(tmp_path: Path) -> None:
    sizes = numpy_helper.from_array(np.array([1, 3, 2, 10**9], dtype=np.int64), "sizes")
    nodes, tensors = build.linear(source="h")
    nodes.insert(0, helper.make_node("Resize", ["x", "", "", "sizes"], ["h"]))
    refused(build.write(tmp_path / "m.onnx", nodes, [*tensors, sizes], shape=(1, 3, 2, 2)), "a Resize node makes")


def test_torchscript_programs_can_write_files(tmp_path: Path) -> None:
    """What SECURITY.md says of --trust: the program of a TorchScript file can create files, while torch loads it."""
    marker = tmp_path / "ran"
    code = (
        "import sys, warnings; warnings.simplefilter('ignore'); import torch\nfrom typing import Tuple\n"
        "class Inner(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__(); self.w = torch.rand(4)\n"
        "    @torch.jit.export\n    def __getstate__(self) -> Tuple[torch.Tensor, bool]:\n"
        "        return (self.w, self.training)\n"
        "    @torch.jit.export\n    def __setstate__(self, s: Tuple[torch.Tensor, bool]):\n"
        f"        self.training = s[1]\n        self.w = torch.from_file({str(marker)!r}, True, 4)\n"
        "    def forward(self, x):\n        return x\n"
        "class M(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__(); self.f, self.h = torch.nn.Linear(12, 4), Inner()\n"
        "    def forward(self, x):\n        return self.f(self.h(x).flatten(1))\n"
    )
    (tmp_path / "make.py").write_text(code + f"torch.jit.save(torch.jit.script(M()), {str(tmp_path / 'm.bin')!r})\n")
    subprocess.run([sys.executable, str(tmp_path / "make.py")], check=True)
    refused(tmp_path / "m.bin", "can read and write files")
    assert not marker.exists()
    assert load(tmp_path / "m.bin", trust=True, image_shape=(3, 2, 2)).classes == 4
    assert marker.exists()


def test_list_of_numbers_is_no_module(tmp_path: Path) -> None:
    torch.save([torch.rand(2)], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "holds list")
