"""Every input that once ended in an internal error, a hang, too much memory or a wrong value, made by a few lines.

Each case writes its files into an empty folder and says which subject reads which path.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.fuzz import documents, models, samples
from tests.fuzz.samples import npz
from tests.fuzz.subject import written
from tests.target import build

node = helper.make_node


@dataclass(frozen=True)
class Case:
    """An input that failed once.

    Args:
        name: What is wrong with it.
        subject: Name of the subject that reads it.
        write: Writes it and gives its path.
        refused: Words of the refusal; "" where it is read.
    """

    name: str
    subject: str
    write: Callable[[Path], Path]
    refused: str


CASES: list[Case] = []


def case(subject: str, refused: str = "") -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    """Register a writer under its name."""

    def register(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
        CASES.append(Case(write.__name__, subject, write, refused))
        return write

    return register


# ------------------------------------------------------------------------------------------------------------- ONNX


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model(path: Path, nodes: Sequence[NodeProto] = (), tensors: Sequence[TensorProto] = (), **options: Any) -> Path:
    """A linear layer behind some nodes from ``x`` to ``h``."""
    head, weights = build.linear(source="h" if nodes else "x", width=options.pop("width", 12))
    return build.write(path / "m.onnx", [*nodes, *head], [*tensors, *weights], **options)


def edited(path: Path, change: Callable[[ModelProto], object], nodes: Sequence[NodeProto] = ()) -> Path:
    """A model changed as a message."""
    file = model(path, nodes)
    proto = ModelProto.FromString(file.read_bytes())
    change(proto)
    file.write_bytes(proto.SerializeToString())
    return file


@case("onnx", "made twice")
def two_producers_of_one_value(path: Path) -> Path:
    return model(path, [node("Relu", ["x"], ["h"]), node("Neg", ["h"], ["a"]), node("Neg", ["a"], ["h"])])


@case("onnx", "made twice")
def a_node_that_makes_an_initializer(path: Path) -> Path:
    return model(path, [node("Relu", ["x"], ["h"]), node("Neg", ["x"], ["bias"])])


@case("onnx", "has no")
def if_without_else(path: Path) -> Path:
    inner = helper.make_graph(
        [node("Relu", ["x"], ["i"])], "then", [], [helper.make_tensor_value_info("i", TensorProto.FLOAT, None)]
    )
    false = numpy_helper.from_array(np.array(False), "condition")
    return model(path, [node("If", ["condition"], ["h"], then_branch=inner)], [false])


@case("onnx", "in steps of 0")
def range_of_step_zero(path: Path) -> Path:
    scalars = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("from", 0), ("to", 5), ("step", 0))]
    nodes = [node("Range", ["from", "to", "step"], ["r"]), node("Reshape", ["x", "r"], ["h"])]
    return model(path, nodes, scalars)


@case("onnx", "which there are not")
def a_version_of_operators_beyond_32_bits(path: Path) -> Path:
    return edited(path, lambda m: setattr(m.opset_import[0], "version", 1 << 40))


@case("onnx", "which there are not")
def opsets_of_foreign_domains(path: Path) -> Path:
    return edited(path, lambda m: m.opset_import.add(domain="no.such.domain", version=-5))


@case("onnx", "not supported")
def a_node_of_a_foreign_domain(path: Path) -> Path:
    return model(path, [node("Relu", ["x"], ["h"], domain="no.such.domain")])


def _input_type(kind: int) -> Callable[[Path], Path]:
    def change(proto: ModelProto) -> None:
        proto.graph.input[0].type.tensor_type.elem_type = kind

    return lambda path: edited(path, change)


@case("onnx", "takes")
def an_input_of_element_type_9999(path: Path) -> Path:
    return _input_type(9999)(path)


@case("onnx", "cannot be read")
def a_tensor_of_element_type_9999(path: Path) -> Path:
    def change(proto: ModelProto) -> None:
        proto.graph.initializer[0].data_type = 9999

    return edited(path, change)


@case("onnx", "stands in none")
def an_attribute_that_refers_to_a_function(path: Path) -> Path:
    return edited(path, lambda m: setattr(m.graph.node[0].attribute[0], "ref_attr_name", "a"))


@case("onnx", "of one name")
def overloads_that_share_a_key(path: Path) -> Path:
    """Each of them calls the one before it ten times; only the last was counted."""
    file = model(path, [node("f", ["x"], ["h"], domain="local")])
    proto = ModelProto.FromString(file.read_bytes())
    proto.opset_import.add(domain="local", version=1)
    for _ in range(2):
        body = [node("Relu", ["a"], ["b"])]
        proto.functions.append(
            helper.make_function("local", "f", ["a"], ["b"], body, list(proto.opset_import)),
        )
    file.write_bytes(proto.SerializeToString())
    return file


@case("onnx", "nodes, more than")
def overloads_that_expand(path: Path) -> Path:
    file = model(path, [node("f", ["x"], ["h"], domain="local", overload="9")])
    proto = ModelProto.FromString(file.read_bytes())
    proto.opset_import.add(domain="local", version=1)
    for level in range(10):
        called = ("f", "local", str(level - 1)) if level else ("Relu", "", "")
        chain = ["a", *(f"v{i}" for i in range(9)), "b"]
        body = []
        for source, target in itertools.pairwise(chain):
            inner = node(called[0], [source], [target], domain=called[1])
            inner.overload = called[2]
            body.append(inner)
        function = helper.make_function("local", "f", ["a"], ["b"], body, list(proto.opset_import))
        function.overload = str(level)
        proto.functions.append(function)
    proto.graph.node[0].overload = "9"
    file.write_bytes(proto.SerializeToString())
    return file


JUSTIFIED = "more than the"


def _grown(*nodes: NodeProto, tensors: Sequence[TensorProto] = (), **options: Any) -> Callable[[Path], Path]:
    """A model whose nodes make something large of ``x``, and then one number of it per sample."""
    behind = [node("ReduceMax", ["g"], ["top"], keepdims=0), node("Add", ["x", "top"], ["h"])]
    return lambda path: model(path, [*nodes, *behind], tensors, **options)


@case("onnx", JUSTIFIED)
def tile_of_the_input(path: Path) -> Path:
    return _grown(node("Tile", ["x", "n"], ["t"]), node("Relu", ["t"], ["g"]), tensors=[ints("n", 1, 1 << 28)])(path)


@case("onnx", JUSTIFIED)
def expand_of_the_input(path: Path) -> Path:
    nodes = [node("Unsqueeze", ["x", "a"], ["u"]), node("Expand", ["u", "s"], ["e"]), node("Relu", ["e"], ["g"])]
    return _grown(*nodes, tensors=[ints("a", 1), ints("s", 1, 1 << 28, 12)])(path)


@case("onnx", JUSTIFIED)
def pad_of_the_input(path: Path) -> Path:
    return _grown(node("Pad", ["x", "p"], ["g"]), tensors=[ints("p", 0, 0, 0, 1 << 32)])(path)


@case("onnx", JUSTIFIED)
def convolution_with_huge_padding(path: Path) -> Path:
    nodes = [node("Conv", ["x", "k"], ["c"], pads=[30_000] * 4), node("GlobalMaxPool", ["c"], ["p"]),
             node("Flatten", ["p"], ["h"])]  # fmt: skip
    return model(path, nodes, [build.tensor("k", 12, 3, 1, 1)], shape=("N", 3, 4, 4))


@case("onnx", JUSTIFIED)
def transposed_convolution_with_huge_strides(path: Path) -> Path:
    nodes = [node("ConvTranspose", ["x", "k"], ["c"], strides=[30_000] * 2), node("GlobalMaxPool", ["c"], ["p"]),
             node("Flatten", ["p"], ["h"])]  # fmt: skip
    return model(path, nodes, [build.tensor("k", 3, 12, 1, 1)], shape=("N", 3, 4, 4))


@case("onnx", JUSTIFIED)
def a_declared_input_of_gigabytes(path: Path) -> Path:
    nodes = [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["h"])]
    return model(path, nodes, width=3, shape=(1, 3, 40_000, 40_000))


@case("onnx", JUSTIFIED)
def many_constants_that_fit_alone(path: Path) -> Path:
    nodes = [node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(8)]
    nodes.append(node("Sum", [f"c{i}" for i in range(8)], ["sum"]))
    nodes += [node("ReduceMax", ["sum"], ["top"], keepdims=0), node("Add", ["x", "top"], ["h"])]
    return model(path, nodes, [ints("s", 5000, 5000)])


@case("onnx", "numbers of")
def resize_of_one_axis(path: Path) -> Path:
    nodes = [
        node("Resize", ["x", "", "", "s"], ["r"]),
        node("GlobalMaxPool", ["r"], ["p"]),
        node("Flatten", ["p"], ["h"]),
    ]
    return model(path, nodes, [ints("s", 1, 3, 4, 10**8)], width=3, shape=(1, 3, 4, 4))


@case("onnx", "more than it holds|takes more than")
def external_data_that_is_read_over_and_over(path: Path) -> Path:
    (path / "w.bin").write_bytes(bytes(1 << 20))

    def change(proto: ModelProto) -> None:
        for number in range(60):
            tensor = proto.graph.initializer.add(name=f"t{number}", data_type=TensorProto.FLOAT, dims=[1 << 18])
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="w.bin")

    return edited(path, change)


@case("onnx")
def average_pooling_that_counts_its_entries(path: Path) -> Path:
    """A valid file: R-GAP's replay met the images themselves, of which only the shape mattered."""
    return written(path, "pool.onnx", dict(models.onnx_files())["average_pool_without_padding.onnx"])


@case("onnx")
def one_bias_for_several_units(path: Path) -> Path:
    """A valid file: the recursion took the bias for one of each unit."""
    return written(path, "bias.onnx", dict(models.onnx_files())["gemm_scalar_bias.onnx"])


# ------------------------------------------------------------------------------------------------ archives and arrays


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


@case("npz", "damaged")
def a_flipped_bit_in_a_compressed_archive(path: Path) -> Path:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.random.default_rng(0).random((4, 3, 12, 12), np.float32), y=np.arange(4))
    return written(path, "b.npz", flipped(stream.getvalue(), 300))


@case("npz", "would unpack to")
def an_archive_that_unpacks_a_thousandfold(path: Path) -> Path:
    with zipfile.ZipFile(path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as stream:
        head = {"descr": "|u1", "fortran_order": False, "shape": (1 << 24, 18)}
        np.lib.format.write_array_header_1_0(stream, head)
        for _ in range(18):
            stream.write(bytes(1 << 24))
    return path / "b.npz"


def archive_of(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path / "b.npz", "w") as archive:
        archive.writestr(name, content)
        archive.writestr("y.npy", _array(np.arange(4)))
    return path / "b.npz"


def _array(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _head(text: str) -> bytes:
    head = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


@case("npz", "asks for")
def a_shape_of_terabytes(path: Path) -> Path:
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}"
    return archive_of(path, "x.npy", _head(head) + bytes(64))


@case("npz", "no readable shape")
def a_description_that_is_no_literal(path: Path) -> Path:
    return archive_of(path, "x.npy", _head("{'descr': '<f4', 'shape': (4") + bytes(64))


@case("npz", "no text")
def names_of_classes_beyond_unicode(path: Path) -> Path:
    names = np.array(["a", "b"]).view(np.uint32)
    names[0] = 0x7FFFFFFF
    return written(path, "b.npz", npz(x=np.zeros((4, 432), np.float32), y=np.arange(4), class_names=names.view("U1")))


@case("npz", "dtype")
def arrays_of_dates(path: Path) -> Path:
    return written(path, "b.npz", npz(x=np.zeros((4, 432), "M8[s]"), y=np.arange(4)))


def _weights(path: Path, value: Any) -> Path:
    torch.save(value, path / "w.pt")
    return path / "w.pt"


@case("weights", "no name in text")
def keys_that_are_no_text(path: Path) -> Path:
    return _weights(path, {1: torch.ones(2), (2, 3): torch.ones(2)})


@case("update", "no name in text")
def an_update_whose_keys_are_no_text(path: Path) -> Path:
    return _weights(path, {1: torch.ones(2)})


@case("weights", "sparse")
def sparse_tensors(path: Path) -> Path:
    return _weights(path, {"1.weight": torch.eye(4).to_sparse()})


@case("pt2", "damaged")
def a_bad_checksum_in_an_export(path: Path) -> Path:
    content = dict(models.exported_files())["mlp.pt2"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith("model.json"))
    return written(path, "m.pt2", flipped(content, member.header_offset + 200))


# ---------------------------------------------------------------------------------------------- documents and folders


@case("pictures")
def a_folder_named_with_a_superscript(path: Path) -> Path:
    place = samples.whole_pictures(path)
    (place / "p").rename(place / "²")
    return place


@case("pictures")
def a_folder_named_with_thirty_digits(path: Path) -> Path:
    place = path / "batch"
    for name in ("1" * 30, "2"):
        (place / name).mkdir(parents=True)
        (place / name / "p.png").write_bytes(dict(samples.picture_files())["p.png"])
    return place


@case("pictures", "named pipe|a device")
def a_pipe_in_a_folder_of_pictures(path: Path) -> Path:
    place = path / "batch"
    (place / "0").mkdir(parents=True)
    os.mkfifo(place / "0" / "p.png")
    return place


def _toml(text: str, name: str = "leakaudit.toml") -> Callable[[Path], Path]:
    return lambda path: written(path, name, text.encode())


@case("toml")
def a_shared_file_whose_tool_is_a_number(path: Path) -> Path:
    return _toml("tool = 5\n", "pyproject.toml")(path)


@case("toml", "expected a path")
def a_path_that_is_a_number(path: Path) -> Path:
    return _toml("baseline = nan\n")(path)


@case("toml", "not a valid integer")
def a_number_that_is_a_date(path: Path) -> Path:
    return _toml("seed = 2027-03-31\n")(path)


@case("toml", "not a valid integer")
def a_number_that_is_infinite(path: Path) -> Path:
    return _toml("victims = inf\n")(path)


@case("toml", "is not a table")
def a_shared_file_whose_table_is_a_number(path: Path) -> Path:
    return _toml("[tool]\nleakaudit = 5\n", "pyproject.toml")(path)


@case("toml", "not TOML")
def nested_arrays_in_a_policy(path: Path) -> Path:
    return _toml(f"seed = {'[' * 5000}{']' * 5000}\n")(path)


@case("toml", "not TOML")
def a_number_of_five_thousand_digits(path: Path) -> Path:
    return _toml(f"seed = {'1' * 5000}\n")(path)


@case("toml", "short TOML")
def a_policy_without_end(path: Path) -> Path:
    return _toml("# nothing\n" * 200_000)(path)


@case("report", "not JSON")
def nested_arrays_in_a_report(path: Path) -> Path:
    return written(path, "report.json", b"[" * 100_000)


@case("round", "no JSON document")
def nested_arrays_in_a_round(path: Path) -> Path:
    place = samples.whole_round(path)
    (place / "round.json").write_text("[" * 100_000)
    return place


@case("round", "cannot be|expected|not a")
def settings_of_a_round_of_other_types(path: Path) -> Path:
    place = samples.whole_round(path)
    document = json.loads((place / "round.json").read_text())
    (place / "round.json").write_text(json.dumps({**document, "learning_rate": [1], "local_epochs": {"a": None}}))
    return place


@case("round", "at most")
def settings_of_a_round_that_would_fill_the_memory(path: Path) -> Path:
    return _with_settings(path, local_epochs=1 << 40)


@case("round", "at most")
def a_round_of_a_trillion_samples(path: Path) -> Path:
    return _with_settings(path, num_examples=1 << 40)


@case("round")
def a_round_of_many_steps(path: Path) -> Path:
    """What each step weighs took a time that grew with the square of their number."""
    place = _with_settings(path, num_examples=65_536, local_batch_size=4, local_epochs=2, momentum=0.9)
    (place / "batch.npz").unlink()
    return place


def _with_settings(path: Path, **settings: Any) -> Path:
    place = samples.whole_round(path)
    document = json.loads((place / "round.json").read_text())
    (place / "round.json").write_text(json.dumps({**document, **settings}))
    return place


@case("round")
def a_round_of_many_samples_beside_another(path: Path) -> Path:
    place = path / "rounds"
    place.mkdir()
    samples.whole_round(place).rename(place / "1")
    (_with_settings(place, num_examples=1 << 40) / "batch.npz").unlink()
    return place


@case("round", "damaged .npz|not an .npz")
def a_round_whose_samples_are_damaged(path: Path) -> Path:
    place = samples.whole_round(path)
    content = (place / "batch.npz").read_bytes()
    start = content.rfind(b"PK\x01\x02")
    (place / "batch.npz").write_bytes(content[:start] + b"PK\x01\x03" + content[start + 4 :])
    return place


@case("update", "no trainable tensor")
def a_list_whose_numbers_have_five_thousand_digits(path: Path) -> Path:
    return _weights(path, {"9" * 5000: torch.ones(2, 2)})


@case("update", "nested too deeply|no readable|needs msgpack|no arrays")
def a_nested_fobs_file(path: Path) -> Path:
    body = b"\xdc\x00\x01" * 505 + b"\x00"
    return written(path, "u.fobs", b"\x64\x00" + len(body).to_bytes(8, "big") + body)


@case("npz", "encrypted")
def an_archive_that_says_it_is_encrypted(path: Path) -> Path:
    content = bytearray(dict(samples.batch_files())["images.npz"])
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    return written(path, "images.npz", bytes(content))


@case("pictures", "not a readable image")
def a_picture_without_dimensions(path: Path) -> Path:
    place = path / "batch" / "0"
    place.mkdir(parents=True)
    content = dict(samples.picture_files())["p.tiff"]
    for kind in (3, 4):  # the width, under another number
        content = content.replace(bytes((0, 1, kind, 0)), bytes((0xF0, 1, kind, 0)))
    (place / "p.tiff").write_bytes(content)
    return place.parent


def _line(name: str, *words: str) -> Callable[[Path], Path]:
    return lambda path: written(path, name, json.dumps(words).encode())


@case("words", "is not CHANGE")
def a_change_of_five_thousand_digits(path: Path) -> Path:
    return _line("line4.json", "--what-if", f"width=conv1:{'9' * 5000}")(path)


@case("words", "expected 1 to")
def a_defence_of_a_trillion_clients(path: Path) -> Path:
    return _line("line1.json", "--defence", f"clients={1 << 40}")(path)


@case("words", "expected at most")
def a_seed_beyond_64_bits(path: Path) -> Path:
    return _line("line0.json", "--seed", str(1 << 64))(path)


@case("csv", "more memory")
def a_table_with_one_long_cell(path: Path) -> Path:
    """NumPy would give every cell the room of the longest."""
    lines = ["age,label", f"{'9' * 130_000},0", *(f"{n % 10},0" for n in range(50_000))]
    return written(path, "rows.csv", "\n".join(lines).encode())


@case("parquet", "Parquet")
def a_parquet_file_of_another_type(path: Path) -> Path:
    return written(path, "rows.parquet", b"PAR1" + bytes(40) + b"PAR1")


@case("pt2", "without a name")
def a_member_without_a_name(path: Path) -> Path:
    stream = io.BytesIO(dict(models.exported_files())["mlp.pt2"])
    with zipfile.ZipFile(stream, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = ""
        archive.writestr(info, b"")
    return written(path, "m.pt2", stream.getvalue())


@case("cache")
def a_flipped_bit_of_a_cached_tensor(path: Path) -> Path:
    ((name, content),) = documents.cache_files()
    (path / "leakaudit-cache").mkdir(mode=0o700)
    return written(path / "leakaudit-cache", name, flipped(content, len(content) - 40))


@case("cache")
def a_cached_pickle(path: Path) -> Path:
    ((name, _),) = documents.cache_files()
    (path / "leakaudit-cache").mkdir(mode=0o700)
    stream = io.BytesIO()
    torch.save({"y": 1}, stream)
    return written(path / "leakaudit-cache", name, stream.getvalue())


def _stored(kind: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A store in whose place for a result something else stands."""

    def write(path: Path) -> Path:
        name, _ = documents.stored_files()[0]
        place = path / "results" / name[:2]
        place.mkdir(mode=0o700, parents=True)
        kind(place / name)
        return place / name

    return write


@case("store")
def a_pipe_in_place_of_a_stored_result(path: Path) -> Path:
    return _stored(os.mkfifo)(path)


@case("store")
def a_stored_result_without_end(path: Path) -> Path:
    return _stored(lambda place: place.symlink_to("/dev/zero"))(path)
