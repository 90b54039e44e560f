"""Models over token ids: what is read off the file, what is filled in, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from onnx import TensorProto
from safetensors.torch import save_file
from torch import Tensor, nn

from leakaudit.domains.tokens import Tokens
from leakaudit.errors import ModelError, UsageError
from leakaudit.risk.rank import rank_analysis
from leakaudit.risk.what_if import parse, smallest_changes, what_if
from leakaudit.target import load
from leakaudit.target.inventory import inventory
from leakaudit.target.target import Target
from leakaudit.target.tokens import with_length
from tests.texts import CLASSES, LENGTH, VOCABULARY, TextClassifier, export_text, masked_graph


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_text(TextClassifier(), tmp_path_factory.mktemp("text") / "text.onnx")


def agree(target: Target, module: nn.Module) -> bool:
    ids = target.random_inputs(3, torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.allclose(target.logits(ids), module.eval()(ids.flatten(1)), atol=1e-5)


def test_onnx_file(file: Path) -> None:
    target = load(file)
    assert isinstance(target.domain, Tokens)
    assert (target.domain.table, target.domain.vocabulary, target.domain.any_length) == (
        "table.weight",
        VOCABULARY,
        False,
    )
    assert (target.layout, target.image_shape, target.classes) == ("tokens", (1, 1, LENGTH), CLASSES)
    assert target.batch_sizes is None
    assert agree(target, TextClassifier())
    notes = {note.id: note.message for note in target.fidelity}
    assert "agree" in notes["LA940"]
    assert "LA930" not in notes


def test_inventory_names_the_table(file: Path) -> None:
    tables = [layer.weight for layer in inventory(load(file)) if layer.kind == "embedding"]
    assert tables == ["table.weight"]


def test_open_length_is_taken_from_the_batch(tmp_path: Path) -> None:
    target = load(masked_graph(tmp_path / "m.onnx"))
    assert isinstance(target.domain, Tokens)
    assert target.domain.any_length
    assert "LA921" in {note.id for note in target.fidelity}
    shorter = with_length(target, 5)
    assert shorter.image_shape == (1, 1, 5)
    assert shorter.logits(shorter.random_inputs(2, torch.Generator().manual_seed(0))).shape == (2, CLASSES)
    assert "LA921" not in {note.id for note in shorter.fidelity}


def test_a_length_that_the_file_does_not_run(tmp_path: Path) -> None:
    path = export_text(
        TextClassifier(), tmp_path / "m.onnx", open_length=True
    )  # attention's shapes are constants in it
    with pytest.raises(ModelError, match="does not run on sequences of 5 tokens"):
        with_length(load(path, image_shape=(1, 1, LENGTH)), 5)


def test_a_fixed_length_stays(file: Path) -> None:
    target = load(file)
    assert with_length(target, 5) is target
    with pytest.raises(ModelError, match="sequences of 8 tokens, but the input shape asks for 5"):
        load(file, image_shape=(1, 1, 5))


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_masks_and_segments_are_filled(tmp_path: Path, kind: int) -> None:
    names = ("attention_mask", "token_type_ids")
    target = load(masked_graph(tmp_path / "m.onnx", *names, kind=kind), image_shape=(1, 1, 5))
    plain = load(masked_graph(tmp_path / "p.onnx", kind=kind), image_shape=(1, 1, 5))
    ids = target.random_inputs(2, torch.Generator().manual_seed(0))
    assert torch.allclose(target.logits(ids), plain.logits(ids), atol=1e-6)
    notes = [note.message for note in target.fidelity if note.id == "LA923"]
    assert "'attention_mask' is filled with ones" in notes[0]
    assert "'token_type_ids' is filled with zeros" in notes[1]
    assert any(note.id == "LA940" for note in target.fidelity)


def test_other_inputs_are_refused_by_name(tmp_path: Path) -> None:
    path = masked_graph(tmp_path / "m.onnx", "attention_mask", "decoder_ids")
    with pytest.raises(ModelError, match="'input_ids', 'attention_mask', 'decoder_ids'"):
        load(path)


def test_integers_without_a_table_are_refused(tmp_path: Path) -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(LENGTH, 3)

        def forward(self, ids: Tensor) -> Tensor:
            logits: Tensor = self.head(ids.float())
            return logits

    with pytest.raises(ModelError, match="indexes no embedding table"):
        load(export_text(Counted(), tmp_path / "m.onnx"))


def test_module() -> None:
    target = load(TextClassifier(), image_shape=(1, 1, LENGTH))
    assert isinstance(target.domain, Tokens)
    assert (target.domain.table, target.domain.vocabulary) == ("table.weight", VOCABULARY)
    assert (target.layout, target.native_shape) == ("tokens", (LENGTH,))
    assert agree(target, TextClassifier())


def test_module_of_any_length() -> None:
    module = nn.Sequential(nn.EmbeddingBag(VOCABULARY, 6), nn.Linear(6, 3))
    with pytest.raises(ModelError):  # no lookup to be seen: a bag is one fused operator
        load(module)
    target = load(Bag())
    assert isinstance(target.domain, Tokens)
    assert target.domain.any_length
    assert with_length(target, 5).native_shape == (5,)


class Bag(nn.Module):
    """The mean of the embeddings, blind to order."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(VOCABULARY, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(ids).mean(1))
        return logits


def test_factory(tmp_path: Path) -> None:
    save_file(TextClassifier().state_dict(), tmp_path / "w.safetensors")
    target = load(tmp_path / "w.safetensors", factory="tests.texts:TextClassifier", image_shape=(1, 1, LENGTH))
    assert isinstance(target.domain, Tokens)
    assert agree(target, TextClassifier())


def test_exported_program(tmp_path: Path) -> None:
    ids = torch.zeros(2, LENGTH, dtype=torch.long)
    program = torch.export.export(TextClassifier().eval(), (ids,), dynamic_shapes=({0: torch.export.Dim("N")},))
    torch.export.save(program, tmp_path / "m.pt2")
    target = load(tmp_path / "m.pt2", trust=True)
    assert isinstance(target.domain, Tokens)
    assert (target.domain.vocabulary, target.native_shape) == (VOCABULARY, (LENGTH,))
    assert agree(target, TextClassifier())


def test_rank_analysis_says_why_not() -> None:
    target = load(Bag())
    report = rank_analysis(target)
    assert (report.level, report.risk, report.score) == ("counts unavailable", "unknown", None)
    assert "token ids" in report.score_reason
    assert "table.weight" in report.notes[0]
    assert smallest_changes(target) == ()
    with pytest.raises(UsageError, match="token ids"):
        what_if(target, (parse("width=head:2"),))


DATA = os.environ.get("LEAKAUDIT_DATA")


@pytest.mark.skipif(not DATA, reason="LEAKAUDIT_DATA is not set: no real models")
def test_tinybert() -> None:
    """A real encoder with three inputs: it has no class head, but its pooled output loads, checked and faithful."""
    path = Path(str(DATA)) / "onnx" / "tinybert_pt18_op11.onnx"
    if not path.exists():
        pytest.skip(f"{path.name} is not in the data folder")
    with pytest.raises(ModelError, match="one score per class") as refused:
        load(path)
    assert "output_0, output_1" in refused.value.hint
    target = load(path, output="output_1")
    assert isinstance(target.domain, Tokens)
    assert (target.domain.table, target.domain.vocabulary) == ("embeddings.word_embeddings.weight", 1656)
    assert target.domain.any_length
    assert sum(note.id == "LA923" for note in target.fidelity) == 2
    assert with_length(target, 33).native_shape == (33,)
