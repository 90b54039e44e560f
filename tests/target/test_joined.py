"""A file with integers beside numbers becomes one over rows of a table: the same outputs, and the same gradients."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import leakaudit
from leakaudit.domains.table import Table
from leakaudit.errors import BatchError, ModelError, UsageError
from leakaudit.report.formats.html import render_html
from leakaudit.target import load
from leakaudit.target.onnx.columns import follow, integers_of
from tests.target.columns import CODES, LEVELS, NUMBERS, Embedded, Shared, Summed, drawn, rows_of


class Apart(nn.Module):
    """An input for each column."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Embedding(3, 4), nn.Embedding(5, 4)
        self.body = nn.Linear(8 + NUMBERS, 2)

    def forward(self, work: Tensor, state: Tensor, numbers: Tensor) -> Tensor:
        result: Tensor = self.body(torch.cat([self.first(work.squeeze(1)), self.second(state)[:, 0], numbers], 1))
        return result


def export(module: nn.Module, given: tuple[Tensor, ...], names: list[str], path: Path, opset: int = 17) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), given, str(path), dynamo=False, opset_version=opset, do_constant_folding=False,
            input_names=names, output_names=["logits"], dynamic_axes={n: {0: "N"} for n in [*names, "logits"]},
        )  # fmt: skip
    return path


@pytest.mark.parametrize("kind", [Embedded, Shared])
def test_outputs_and_gradients_are_those_of_the_file(kind: type[nn.Module], tmp_path: Path) -> None:
    module = kind()
    codes, numbers = drawn(6)
    target = load(export(module, (codes[:2], numbers[:2]), ["codes", "numbers"], tmp_path / "net.onnx"))
    assert isinstance(target.domain, Table)
    assert [(c.name, c.kind, c.width) for c in target.domain.columns] == [
        *((name, "category", count) for name, count in zip(CODES, LEVELS, strict=True)),
        ("numbers[0]", "number", 1), ("numbers[1]", "number", 1),
    ]  # fmt: skip
    labels = torch.arange(6) % 2
    expected = module(codes, numbers)
    found = target.logits(rows_of(codes, numbers))
    assert torch.allclose(found, expected, atol=1e-5)
    trained = dict(module.named_parameters())
    assert set(trained) <= {*target.parameters, *trained}
    wanted = torch.autograd.grad(cross_entropy(expected, labels), list(trained.values()))
    gradients = torch.autograd.grad(cross_entropy(found, labels), list(target.parameters.values()))
    of_file = dict(zip(target.parameters, gradients, strict=True))
    tables = [name for name in trained if "table" in name]
    for name, gradient in zip(trained, wanted, strict=True):
        if name in tables:
            assert torch.allclose(of_file[name], gradient, atol=1e-6), name
    total = sum(float(g.square().sum()) for g in gradients)
    assert total == pytest.approx(sum(float(g.square().sum()) for g in wanted), rel=1e-4)


def test_an_input_for_each_column(tmp_path: Path) -> None:
    module = Apart()
    codes, numbers = drawn(4, (3, 5))
    given = (codes[:, :1], codes[:, 1:], numbers)
    target = load(export(module, given, ["work", "state", "numbers"], tmp_path / "net.onnx"))
    assert isinstance(target.domain, Table)
    assert [part.name for part in target.domain.parts] == ["work", "state", "numbers"]
    assert "from the inputs work, state, numbers" in target.domain.told("flat", [10])
    assert torch.allclose(target.logits(rows_of(codes, numbers, (3, 5))), module(*given), atol=1e-5)


class WithPictures(nn.Module):
    """Two pictures beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3 * 64 + 16 + NUMBERS, 2)

    def forward(self, image: Tensor, other: Tensor, numbers: Tensor) -> Tensor:
        result: Tensor = self.body(torch.cat([image.flatten(1), other.flatten(1), numbers], 1))
        return result


REFUSED: dict[str, tuple[nn.Module, list[str], tuple[Tensor, ...], int, str]] = {
    "used otherwise": (Summed(), ["codes", "numbers"], drawn(2, (3, 4)), 17, r"\(Sin\) does not look up"),
    "old operators": (Embedded(), ["codes", "numbers"], drawn(2), 11, "in version 11 of the operators"),
    "two pictures": (
        WithPictures(),
        ["image", "other", "numbers"],
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 4, 4), drawn(2)[1]),
        17,
        "3 inputs .*2 of them pictures or signals, expected one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_joined_is_refused_by_name(case: str, tmp_path: Path) -> None:
    module, names, given, opset, why = REFUSED[case]
    with pytest.raises(ModelError, match=why):
        load(export(module, given, names, tmp_path / "net.onnx", opset))


def test_a_module_that_uses_its_integers_otherwise_is_refused_by_its_inputs() -> None:
    with pytest.raises(ModelError, match=r"Summed takes 2 inputs \(codes, numbers\), and no picture"):
        load(Summed())


def test_a_rewriting_that_changes_the_outputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(Embedded(), drawn(2), ["codes", "numbers"], tmp_path / "net.onnx")
    from leakaudit.target.onnx import joined

    monkeypatch.setattr(joined._Writer, "entries", _shifted(joined._Writer.entries))
    with pytest.raises(ModelError, match="with its inputs joined, 'logits' differs by"):
        load(path)


def _shifted(entries: Any) -> Any:
    """Takes the entries one place too early."""
    return lambda self, first, stop, output="": entries(
        self, max(0, first - 1), max(0, first - 1) + stop - first, output
    )


class TwoHeads(nn.Module):
    """A head that reads numbers alone, and one that takes integers in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(NUMBERS, 2)

    def forward(self, codes: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(numbers), codes.float().sin()


def test_an_input_of_another_head_does_not_count(tmp_path: Path) -> None:
    target = load(export(TwoHeads(), drawn(2), ["codes", "numbers"], tmp_path / "net.onnx"))
    assert target.image_shape == (1, 1, NUMBERS)
    (note,) = [note for note in target.fidelity if note.id == "LA911"]
    assert "without what only trains the others" in note.message


# A whole scan


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joined")
    codes, numbers = drawn(40, seed=3)
    export(Embedded(), (codes[:2], numbers[:2]), ["codes", "numbers"], folder / "net.onnx")
    np.savez(folder / "batch.npz", codes=codes.numpy(), numbers=numbers.numpy(), y=np.arange(40) % 2)
    return folder


def test_a_scan_reads_the_inputs_by_name_and_shows_both_kinds_of_columns(files: Path) -> None:
    report = leakaudit.scan(
        files / "net.onnx", files / "batch.npz", victims=1, preset="quick", controls="none", attacks=["ig", "linear"],
        settings={"ig": {"iterations": "60", "tv_weight": "0", "learning_rate": "0.06"}},
    )  # fmt: skip
    cells = [s.metrics["cell_accuracy"] for a in report.attacks for r in a.results for s in r.samples]
    assert max(value for value in cells if value is not None) == 1.0
    assert report.verdict.code.leaks
    page = render_html(report)
    assert all(name in page for name in (*CODES, "numbers[0]", "numbers[1]"))


def test_files_that_do_not_fit_are_refused(files: Path, tmp_path: Path) -> None:
    codes, numbers = (part.numpy() for part in drawn(8))
    labels = np.arange(8) % 2
    wrong = codes.copy()
    wrong[5, 1] = 5
    cases: list[tuple[dict[str, Any], str]] = [
        ({"codes": codes}, "no array 'numbers'"),
        ({"codes": codes[:, :2], "numbers": numbers}, r"'codes' has shape \(8, 2\), the model takes \(N, 3\)"),
        ({"codes": wrong, "numbers": numbers}, r"codes\[1\] of row 5 is 5, expected an integer from 0 to 4"),
        ({"codes": codes, "numbers": numbers[:4]}, "codes has 8, numbers has 4"),
    ]
    for arrays, why in cases:
        np.savez(tmp_path / "batch.npz", y=labels, **arrays)
        with pytest.raises(BatchError, match=why):
            leakaudit.scan(files / "net.onnx", tmp_path / "batch.npz", victims=1, attacks=["ig"])


def csv(path: Path, names: list[str], rows: list[list[Any]]) -> Path:
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


SCHEMA = "".join(
    f'[[column]]\nname = "{name}"\nkind = "category"\nlevels = {[f"{name}{n}" for n in range(count)]}\n'
    for name, count in zip("abc", LEVELS, strict=True)
) + "".join(f'[[column]]\nname = "{name}"\nkind = "number"\nlow = -9\nhigh = 9\n' for name in "de")


def test_cells_of_a_csv_file_as_integers_or_as_the_schema_names_them(files: Path, tmp_path: Path) -> None:
    codes, numbers = drawn(8)
    names = [*"abcde", "label"]
    plain = [[*c, *n, i % 2] for i, (c, n) in enumerate(zip(codes.tolist(), numbers.tolist(), strict=True))]
    texts = [[f"a{r[0]}", f"b{r[1]}", f"c{r[2]}", *r[3:]] for r in plain]
    (tmp_path / "schema.toml").write_text(SCHEMA)
    common: dict[str, Any] = {
        "victims": 1, "attacks": ["ig"], "settings": {"ig": {"iterations": "3"}}, "controls": "none"
    }  # fmt: skip
    one = leakaudit.scan(files / "net.onnx", csv(tmp_path / "codes.csv", names, plain), **common)
    two = leakaudit.scan(
        files / "net.onnx", csv(tmp_path / "texts.csv", names, texts), schema=tmp_path / "schema.toml", **common
    )
    residuals = [[r.residual for a in report.attacks for r in a.results] for report in (one, two)]
    assert one.batch.accuracy == two.batch.accuracy
    assert all(residuals)
    with pytest.raises(BatchError, match="texts among them"):
        leakaudit.scan(files / "net.onnx", tmp_path / "texts.csv", **common)
    (tmp_path / "other.toml").write_text(SCHEMA.replace("'a2'", "'a2', 'a3'").replace(", 'c3'", ""))
    with pytest.raises(UsageError, match="a: one of 4, where the model takes codes"):
        leakaudit.scan(files / "net.onnx", tmp_path / "texts.csv", schema=tmp_path / "other.toml", **common)


def test_the_file_itself_stays_as_it_was(files: Path) -> None:
    before = (files / "net.onnx").read_bytes()
    load(files / "net.onnx")
    assert (files / "net.onnx").read_bytes() == before
    assert [info.name for info in onnx.load(files / "net.onnx").graph.input] == ["codes", "numbers"]


def test_a_file_that_is_made_to_exhaust_is_not_followed() -> None:
    nodes = [onnx.helper.make_node("Identity", ["codes"], [f"copy{n}"]) for n in range(300)]
    found = follow(nodes, {"codes": integers_of("codes", (10_000,))}, {})
    assert len(found.lost) == 1
    pick = onnx.helper.make_node("Gather", ["codes", "places"], ["many"], axis=1)
    found = follow([pick], {"codes": integers_of("codes", (2,))}, {"places": np.zeros(1_000_000, dtype=np.int64)})
    assert found.lost == [pick]
