"""Audits of models over several inputs: both parts are shown, a part alone is told as a part, and files are read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import Reading, reader_for
from leakaudit.document.redact import redact
from leakaudit.domains.several import several_of
from leakaudit.errors import BatchError, ModelError, UsageError
from leakaudit.reconstruction import Reconstruction
from leakaudit.report.formats.csv import render_csv
from leakaudit.report.formats.html import render_html
from leakaudit.scoring.base import measure_for
from leakaudit.target import load
from leakaudit.target.target import Target
from tests.several import SHAPE, Beside, arrays, picture_and_row, pictures, rows

COUNT = 40
QUICK: dict[str, Any] = {"victims": 1, "preset": "quick", "controls": "none"}


@pytest.fixture(scope="module")
def target() -> Target:
    return load(picture_and_row(), image_shape=SHAPE)


@pytest.fixture(scope="module")
def known(target: Target) -> tuple[Target, Batch]:
    return reader_for(target).fitted(arrays(pictures(COUNT)))


def scored(known: tuple[Target, Batch], inputs: Tensor, read: Tensor | None = None) -> Any:
    """The score of a reconstruction of the first sample."""
    target, samples = known
    measure = measure_for(target.domain, samples)
    batch = samples.subset([0])
    found = measure.recovered(target.domain, Reconstruction(inputs, batch.labels, 0.0, read=read))
    (score,) = measure.score(batch, found)
    return measure, score, measure.entry(batch, score, found)


def test_a_sample_leaks_as_a_whole_where_every_part_does(known: tuple[Target, Batch]) -> None:
    measure, score, entry = scored(known, known[0].domain.encode(known[1].images[:1]))
    assert (score.leaked, score.part, score.identification.identified) == (True, None, True)
    assert measure.told(score) == "image: exact; meta: all 5 cells right"
    assert (score.metrics["mse"], score.metrics["cell_accuracy"], score.metrics["row_exact"]) == (0.0, 1.0, 1.0)
    assert entry["table"]["right"] == 5
    assert entry["reconstruction_png"].startswith("data:image/png")
    assert entry["part"] is None


@pytest.mark.parametrize(("kept", "name", "entries"), [(0, "image", 144), (1, "meta", 6)])
def test_one_part_alone_is_told_as_a_part(known: tuple[Target, Batch], kept: int, name: str, entries: int) -> None:
    domain = several_of(known[0].domain)
    parts = domain.split(domain.encode(known[1].images[:1]))
    others = domain.split(domain.look_alikes(1, torch.Generator().manual_seed(3)))
    mixed = [part if place == kept else others[place] for place, part in enumerate(parts)]
    measure, score, _ = scored(known, domain.joined(mixed))
    assert score.leaked
    assert (score.part.name, score.part.entries, score.part.of) == (name, entries, 150)
    assert measure.told(score).startswith(f"{name}: ")
    assert "; " not in measure.told(score)
    assert measure.claim(score)


def test_another_sample_leaks_in_no_part(known: tuple[Target, Batch]) -> None:
    _, score, entry = scored(known, known[0].domain.encode(known[1].images[1:2]))
    assert not score.leaked
    assert "image: does not beat" in score.reason
    assert "meta: " in score.reason
    assert entry["part"] is None


def test_forty_mismatched_samples_leak_in_no_part(known: tuple[Target, Batch]) -> None:
    target, samples = known
    measure = measure_for(target.domain, samples)
    found = 0
    for place in range(40):
        batch, other = samples.subset([place]), samples.subset([(place + 1) % len(samples)])
        made = Reconstruction(target.domain.encode(other.images), other.labels, 0.0)
        found += sum(score.leaked for score in measure.score(batch, measure.recovered(target.domain, made)))
    assert found == 0


def test_a_few_columns_that_were_read_count_by_themselves(known: tuple[Target, Batch]) -> None:
    domain = several_of(known[0].domain)
    measure = measure_for(domain, known[1])
    none = torch.zeros(domain.shape, dtype=torch.bool)
    row = domain.joined([domain.split(none)[0], ~domain.split(none)[1]])
    assert (measure.enough(none), measure.enough(row)) == (False, True)


def test_a_linear_layer_on_the_row_gives_away_the_row_and_the_report_says_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "batch.npz", **arrays(pictures(COUNT)))
    report = leakaudit.scan(picture_and_row(), tmp_path / "batch.npz", input_shape=SHAPE, attacks=["linear"], **QUICK)
    (sample,) = [s for a in report.attacks for r in a.results for s in r.samples]
    assert sample.part is not None
    assert (sample.part.name, sample.table is not None and sample.table.right) == ("meta", 5)
    (finding,) = [f for f in report.findings if f.id.startswith("LA20")]
    assert (finding.id, finding.severity) == ("LA208", "high")
    assert "meta: all 5 cells right" in finding.message
    assert [(one.name, one.domain) for one in report.target.inputs] == [("image", "images"), ("meta", "table")]
    table = render_csv(report)
    assert all(name in table for name in ("psnr", "cell_accuracy", "skill"))
    page = render_html(report)
    assert all(
        text in page
        for text in (
            f"leaked in part: meta, {sample.part.entries} of {sample.part.of} entries",
            "original",
            "x5 to x6",
            "Input image",
        )
    )
    assert "data:image/png" in page


def test_what_is_hidden_is_hidden_of_both_parts(tmp_path: Path) -> None:
    report = leakaudit.scan(picture_and_row(), arrays(pictures(COUNT)), input_shape=SHAPE, attacks=["linear"], **QUICK)
    for level in ("blurred", "none"):
        hidden = redact(report, level)  # type: ignore[arg-type]
        samples = [s for a in hidden.attacks for r in a.results for s in r.samples]
        assert all(s.original_png is None and s.reconstruction_png is None for s in samples)
        assert all(s.table is not None and not s.table.original and not s.table.recovered for s in samples)


# Files and arrays


def test_a_batch_is_an_npz_a_mapping_or_inputs_in_their_order(target: Target, tmp_path: Path) -> None:
    held = arrays(pictures(8))
    np.savez(tmp_path / "batch.npz", **held)
    read = reader_for(target).fitted
    one = read(tmp_path / "batch.npz")
    expected = torch.cat([pictures(8).flatten(1), rows(8)], 1)[:, None, None]
    assert torch.allclose(one[1].images, expected)
    assert one[1].sha256
    for source in (held, ((held["image"], held["meta"]), held["y"])):
        assert torch.equal(read(source)[1].images, one[1].images)
    assert any(note.startswith("meta: rows of 4 numbers and 1 category") for note in one[1].notes)


def test_bytes_and_channels_last_are_read_as_of_any_picture(target: Target) -> None:
    held = arrays(pictures(8))
    stored = {**held, "image": np.round(held["image"] * 255).astype(np.uint8).transpose(0, 2, 3, 1)}
    _, batch = reader_for(target).fitted(stored)
    assert torch.allclose(batch.images[..., :144].flatten(1), pictures(8).flatten(1), atol=1 / 500)


FILES: dict[str, tuple[dict[str, Any], str]] = {
    "no row": ({"meta": None}, "no array 'meta'"),
    "nothing": ({"meta": None, "image": None}, "holds no array of the model's inputs, image, meta"),
    "unequal": ({"meta": rows(7).numpy(), "image": pictures(8).numpy()}, r"(?s)8.*7|7.*8"),
    "another width": ({"meta": rows(8).numpy()[:, :5]}, r"input 'meta': inputs have shape \(8, 5\)"),
    "another size": ({"image": pictures(8).numpy()[..., :9]}, r"input 'image': one sample has shape \(1, 12, 9\)"),
    "not finite": ({"meta": np.full((8, 6), np.nan)}, "input 'meta': numbers of row 0 are NaN"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_do_not_fit_are_refused_by_the_inputs_name(case: str, target: Target, tmp_path: Path) -> None:
    changed, why = FILES[case]
    held = {key: value for key, value in {**arrays(pictures(8)), **changed}.items() if value is not None}
    np.savez(tmp_path / "batch.npz", **held)
    with pytest.raises(BatchError, match=why):
        reader_for(target).fitted(tmp_path / "batch.npz")


def test_what_is_no_such_file_is_refused(target: Target, tmp_path: Path) -> None:
    read = reader_for(target).fitted
    (tmp_path / "batch.csv").write_text("a,b\n1,2\n")
    cases: list[tuple[Any, str]] = [
        (tmp_path / "none.npz", "no such batch file"),
        (tmp_path / "batch.csv", "no .npz file"),
        (tmp_path, "no .npz file"),
        ({"image": pictures(8)}, "no mapping with the inputs image, meta"),
    ]
    for source, why in cases:
        with pytest.raises(UsageError, match=why):
            read(source)
    with pytest.raises(UsageError, match="--auxiliary is for images"):
        reader_for(target).refuse({"--auxiliary": "folder", "--mean": (0.5,)})


def test_what_is_said_of_pixels_is_not_said_of_rows(target: Target) -> None:
    held = arrays(pictures(8))
    held["meta"] = 3 * held["meta"] - 1
    known, batch = reader_for(target, Reading(values="pixels")).fitted(held)
    assert torch.allclose(batch.images[..., 144:].flatten(1), torch.from_numpy(held["meta"]), atol=1e-5)
    assert "-1" in known.domain.assumption


# Models


class Swapped(Beside):
    """The row first."""

    def forward(self, meta: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image, meta)


class Raw(nn.Module):
    """The row beside the features, read by no layer of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside, self.head = nn.Conv2d(1, 2, 3, 2), nn.Linear(2 * 25 + width, 3)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        result: Tensor = self.head(torch.cat([self.inside(image).flatten(1), meta], 1))
        return result


def test_a_module_tells_how_many_numbers_go_with_its_picture() -> None:
    sample = torch.cat([pictures(3).flatten(1), rows(3)], 1)[:, None, None]
    plain = picture_and_row()
    for module in (plain, Raw(6)):
        expected = module(pictures(3), rows(3))
        target = load(module, image_shape=SHAPE)
        assert [m.domain.shape for m in several_of(target.domain).members] == [SHAPE, (1, 1, 6)]
        assert torch.equal(target.logits(sample), expected)
    assert several_of(load(Raw(1), image_shape=SHAPE).domain).members[1].domain.shape == (1, 1, 1)
    swapped = Swapped(plain.inside, 8 * 36)
    expected = swapped(rows(3), pictures(3))
    assert torch.equal(load(swapped, image_shape=SHAPE).logits(sample), expected)


class AnyWidth(nn.Module):
    """Takes the mean of whatever numbers there are."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(144 + 1, 3)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        result: Tensor = self.head(torch.cat([image.flatten(1), meta.mean(1, keepdim=True)], 1))
        return result


def test_a_module_that_does_not_tell_is_refused() -> None:
    with pytest.raises(ModelError, match=r"takes 2 inputs \(image, meta\), and no picture of 1×12×12"):
        load(AnyWidth(), image_shape=SHAPE)


def exported(module: nn.Module, given: tuple[Tensor, ...], names: list[str], path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), given, str(path), dynamo=False, opset_version=17, input_names=names,
            output_names=["logits"], dynamic_axes={name: {0: "N"} for name in names},
        )  # fmt: skip
    return path


class Ids(nn.Module):
    """A picture with channels behind, categories as integers, and a number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.table, self.head = nn.Conv2d(3, 4, 3, 2), nn.Embedding(5, 4), nn.Linear(4 * 9 + 4 + 1, 3)

    def forward(self, image: Tensor, code: Tensor, age: Tensor) -> Tensor:
        found = self.inside(image.permute(0, 3, 1, 2)).flatten(1)
        result: Tensor = self.head(torch.cat([found, self.table(code), age], 1))
        return result


def test_a_file_with_channels_last_and_integers_computes_the_same(tmp_path: Path) -> None:
    module = Ids()
    image = torch.rand((4, 8, 8, 3), generator=torch.Generator().manual_seed(0))
    code, age = torch.tensor([0, 4, 2, 1]), torch.rand((4, 1), generator=torch.Generator().manual_seed(1))
    path = exported(module, (image, code, age), ["image", "code", "age"], tmp_path / "net.onnx")
    target = load(path)
    held = {"image": image.numpy(), "code": code.numpy(), "age": age.numpy(), "y": np.arange(4) % 3}
    target, batch = reader_for(target).fitted(held)
    members = several_of(target.domain).members
    assert [(m.name, m.domain.shape, m.last) for m in members] == [
        ("image", (3, 8, 8), True),
        ("code, age", (1, 1, 6), False),
    ]
    assert torch.allclose(target.logits(target.domain.encode(batch.images)), module(image, code, age), atol=1e-5)
    assert target.domain.blocks == ((192, 197),)


def test_the_shape_of_a_picture_that_a_file_leaves_open_is_asked_for(tmp_path: Path) -> None:
    class Pooled(Raw):
        def forward(self, image: Tensor, meta: Tensor) -> Tensor:
            result: Tensor = self.head(torch.cat([self.inside(image).mean((2, 3)), meta], 1))
            return result

    module = Pooled(6)
    module.head = nn.Linear(2 + 6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (pictures(1), rows(1)), str(tmp_path / "net.onnx"), dynamo=False, opset_version=17,
            input_names=["image", "meta"], dynamic_axes={"image": {0: "N", 2: "H", 3: "W"}, "meta": {0: "N"}},
        )  # fmt: skip
    with pytest.raises(ModelError, match="leaves the size of its input 'image' open"):
        load(tmp_path / "net.onnx")
    target = load(tmp_path / "net.onnx", image_shape=(1, 16, 16))
    assert several_of(target.domain).members[0].domain.shape == (1, 16, 16)


def test_numbers_in_two_inputs_of_a_program_are_one_row(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, vitals: Tensor, sex: Tensor) -> Tensor:
            result: Tensor = self.first(vitals) + self.second(sex)
            return result

    module = Two().eval()
    given = (rows(4)[:, :4], rows(4)[:, 4:])
    names = ["vitals", "sex"]
    torch.export.save(torch.export.export(module, given), tmp_path / "net.pt2")
    for target in (
        load(exported(module, given, names, tmp_path / "net.onnx")), load(tmp_path / "net.pt2", trust=True)
    ):  # fmt: skip
        held = {"vitals": given[0].numpy(), "sex": given[1].numpy(), "y": np.arange(4) % 3}
        np.savez(tmp_path / "batch.npz", **held)
        fitted, batch = reader_for(target).fitted(tmp_path / "batch.npz")
        assert torch.allclose(fitted.logits(fitted.domain.encode(batch.images)), module(*given), atol=1e-5)


class Scaled(Beside):
    """Divides its pixels by 255."""

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().forward(image / 255, meta)


def test_a_division_of_the_picture_inside_the_model_is_found(tmp_path: Path) -> None:
    plain = picture_and_row()
    module = Scaled(plain.inside, 8 * 36)
    path = exported(module, (pictures(1), rows(1)), ["image", "meta"], tmp_path / "net.onnx")
    for target in (load(path), load(module, image_shape=SHAPE)):
        (note,) = [note for note in target.fidelity if note.id == "LA924"]
        assert "takes pixels in 0..255" in note.message
        image, row = several_of(target.domain.normalised((), ())).members
        assert float(image.domain.encode(torch.ones(1, *SHAPE)).max()) == pytest.approx(255)
        assert row.domain.shape == (1, 1, 6)
    assert not any(note.id == "LA924" for note in load(plain, image_shape=SHAPE).fidelity)
