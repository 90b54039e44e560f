"""A loss over several outputs: the update is that of the training loop, from a module, an ONNX file and a program."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakaudit.errors import ModelError, UsageError
from leakaudit.target import load
from leakaudit.target.splice import last_linear
from leakaudit.target.target import Target, taken_for
from leakaudit.target.tokens import with_length
from leakaudit.target.train_config import read_train_config
from leakaudit.tasks.heads import SeveralHeads
from leakaudit.tasks.heads_text import HeadTerm, parse_heads
from tests.target.head_networks import (
    CLASSES,
    SHAPE,
    STATED,
    InTraining,
    Likely,
    Maps,
    Pair,
    SharedClassifier,
    Third,
    TwoHeads,
    coarse,
    margin,
    onnx_of,
    program_of,
    samples,
    trained,
)

HERE = "tests.target.head_networks"


def assert_same(target: Target, x: Tensor, labels: Tensor, expected: list[Tensor]) -> None:
    found = target.gradient(x, labels)
    assert len(found) == len(expected)
    for got, wanted in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_the_update_of_a_module_is_that_of_the_training_loop() -> None:
    x, labels = samples(3)
    for module, stated, weights in (
        (TwoHeads(), STATED, (1.0, 0.3)),
        (Pair(), "0 + 0.3*1", (1.0, 0.3)),
        (TwoHeads(), "0.5*logits+.5*aux", (0.5, 0.5)),
        (SharedClassifier(), STATED, (1.0, 0.3)),
        (Third(), STATED, (1.0, 0.3)),
    ):
        target = load(type(module)(), image_shape=SHAPE, output=stated)
        assert_same(target, x, labels, trained(module, x, labels, weights=weights))
        assert target.task.outputs == 2 * CLASSES
        assert target.classes == CLASSES
        assert pickle.loads(pickle.dumps(target.task)) == target.task
    target = load(TwoHeads(), image_shape=SHAPE, output="aux + 2*logits")
    flipped = [2.0, 1.0]
    assert_same(target, x, labels, trained(TwoHeads(), x, labels, weights=flipped))
    aux = TwoHeads()(x)["aux"]
    right = target.task.correct(target.logits(x), labels)
    assert right is not None
    assert torch.equal(right, (aux.argmax(1) == labels).float())


def test_the_update_of_an_onnx_file_and_of_a_program_is_that_of_the_training_loop(tmp_path: Path) -> None:
    x, labels = samples(3)
    expected = trained(TwoHeads(), x, labels)
    file = onnx_of(TwoHeads(), tmp_path / "net.onnx")
    assert_same(load(file, output=STATED), x, labels, expected)
    assert_same(load(file, output="0+0.3*1"), x, labels, expected)
    for module, stated in ((Pair(), "0+0.3*1"), (TwoHeads(), STATED)):
        program = program_of(module, tmp_path / f"{type(module).__name__}.pt2")
        assert_same(load(program, output=stated, trust=True), x, labels, expected)


def test_a_file_whose_heads_end_in_softmax_is_trained_on_their_logits(tmp_path: Path) -> None:
    x, labels = samples(3)
    file = onnx_of(Likely(), tmp_path / "net.onnx")
    assert_same(load(file, output=STATED), x, labels, trained(TwoHeads(), x, labels))
    with pytest.raises(ModelError, match="output 'aux' of Likely holds probabilities, expected logits"):
        load(Likely(), image_shape=SHAPE, output=STATED)


def test_heads_of_train_mode_alone() -> None:
    x, labels = samples(3)
    target = load(InTraining(), image_shape=SHAPE, output="0+0.3*1", mode="train")
    assert_same(target, x, labels, trained(InTraining().train(), x, labels))
    with pytest.raises(UsageError, match=r"returns one tensor, and no output '0\+0\.3\*1'") as told:
        load(InTraining(), image_shape=SHAPE, output="0+0.3*1")
    assert "train mode" in told.value.hint


@pytest.mark.parametrize(
    ("task", "loss", "own", "labels"),
    [
        ("multi-label", None, F.binary_cross_entropy_with_logits, torch.eye(CLASSES)[:3]),
        ("regression", "huber", F.huber_loss, torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(1))),
        ("single-label", f"{HERE}:margin", margin, torch.tensor([0, 4, 2])),
    ],
)
def test_other_losses_are_summed_alike(
    task: str, loss: str | None, own: Callable[[Tensor, Tensor], Tensor], labels: Tensor
) -> None:
    x, _ = samples(3)
    target = load(TwoHeads(), image_shape=SHAPE, output=STATED, task=task, loss=loss)  # type: ignore[arg-type]
    assert_same(target, x, labels, trained(TwoHeads(), x, labels, own))


def test_a_class_per_pixel_at_two_heads(tmp_path: Path) -> None:
    x, _ = samples(2)
    labels = torch.randint(CLASSES, (2, 12, 12), generator=torch.Generator().manual_seed(1))
    for target in (
        load(Maps(), image_shape=SHAPE, output=STATED),
        load(onnx_of(Maps(), tmp_path / "net.onnx"), output=STATED),
    ):
        assert target.task.kind == "segmentation"
        assert_same(target, x, labels, trained(Maps(), x, labels))


def test_heads_of_different_widths_need_a_loss_that_takes_both(tmp_path: Path) -> None:
    x, labels = samples(3)
    module = TwoHeads(side=2)
    outputs = module(x)
    expected = list(torch.autograd.grad(coarse(outputs, labels), list(module.parameters())))
    own = {"task": "single-label", "loss": f"{HERE}:coarse"}
    file = onnx_of(TwoHeads(side=2), tmp_path / "net.onnx")
    for target in (
        load(TwoHeads(side=2), image_shape=SHAPE, output="logits+aux", **own),  # type: ignore[arg-type]
        load(file, output="logits+aux", **own),  # type: ignore[arg-type]
    ):
        assert_same(target, x, labels, expected)
        assert target.task.describe() == f"the user's own {HERE}:coarse of logits and aux"
        assert not target.task.takes_shares
    with pytest.raises(UsageError, match=r"differ in shape \(logits \[5\], aux \[2\]\), expected one shape"):
        load(TwoHeads(side=2), image_shape=SHAPE, output=STATED)
    with pytest.raises(UsageError, match="which the loss of your own takes as a dict"):
        load(file, output=STATED, **own)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ("logits+0.3*auxx", "has no output 'auxx'; it has logits, aux"),
        ("logits+2", "has no output '2'; it has logits, aux"),
        ("logits+", "has no output ''; it has logits, aux"),
        ("logits+0*aux", "the weight '0' in '0*aux' is no finite number above 0"),
        ("logits+-1*aux", "the weight '-1' in '-1*aux' is no finite number above 0"),
        ("logits+nan*aux", "the weight 'nan' in 'nan*aux' is no finite number above 0"),
        ("logits+1e999*aux", "the weight '1e999' in '1e999*aux' is no finite number above 0"),
        ("logits+aux*0.3", "the weight 'aux' in 'aux*0.3' is no finite number above 0"),
        ("logits+0.3*logits", "names the output 'logits' twice"),
        ("logits+0.3*0", "names the output 'logits' twice"),
    ],
)
def test_what_is_no_sum_of_outputs_is_one_clear_line(stated: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as module:
        load(TwoHeads(), image_shape=SHAPE, output=stated)
    with pytest.raises(UsageError) as file:
        load(onnx_of(TwoHeads(), tmp_path / "net.onnx"), output=stated)
    for error in (module.value, file.value):
        assert told in str(error)
        assert "\n" not in str(error)
        assert error.hint


def test_a_name_with_signs_is_a_name() -> None:
    assert parse_heads("a+b", ["a+b", "a", "b"], "net") is None
    assert parse_heads("logits", ["logits", "aux"], "net") is None
    assert parse_heads("x*y + 2 * a", ["a", "x*y"], "net") == (HeadTerm("x*y"), HeadTerm("a", 2.0))


def test_what_is_trained_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    target = load(Third(), image_shape=SHAPE, output=STATED)
    (note,) = [note for note in target.fidelity if note.id == "LA911"]
    assert note.message == (
        "the model has 3 outputs; the loss is over logits + 0.3 × aux, trained together; features is left out"
    )
    file = load(onnx_of(TwoHeads(), tmp_path / "net.onnx"), output=STATED)
    (note,) = [note for note in file.fidelity if note.id == "LA911"]
    assert note.message == "the file has 2 outputs; the loss is over logits + 0.3 × aux, trained together"
    assert "one class of K by cross-entropy of logits + 0.3 × aux (5 outputs" in taken_for(file)
    with pytest.raises(ModelError, match=r"no one last layer: its loss is over several heads \(logits, aux\)"):
        last_linear(file)


def test_an_output_that_holds_no_numbers_for_each_sample_is_refused() -> None:
    class Mean(TwoHeads):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {**super().forward(x), "mean": x.mean()}

    with pytest.raises(UsageError, match=r"output 'mean' of Mean has shape \[\] of torch.float32 for 1 samples"):
        load(Mean(), image_shape=SHAPE, output="logits+mean")


class Told(TwoHeads):
    """Beside its scores, the class that the model predicts."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = super().forward(x)
        return {**outputs, "told": (outputs["logits"] > 0).long()}


def test_an_output_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    file = onnx_of(Told(), tmp_path / "net.onnx", ("logits", "aux", "told"))
    for model, shape, held in ((Told(), SHAPE, "shape [1, 5] of torch.int64"), (file, None, "INT64 values")):
        with pytest.raises(UsageError, match=r"output 'told' of .* expected real numbers for each sample") as error:
            load(model, image_shape=shape, output="logits+told")
        assert held in str(error.value)
    x, labels = samples(2)
    assert_same(load(file, output=STATED), x, labels, trained(TwoHeads(), x, labels))


class NextTwice(nn.Module):
    """A language model with a head behind each of two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.first, self.second = nn.Embedding(20, 8), nn.Linear(8, 20), nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.table(ids)
        return self.first(hidden), self.second(hidden.sigmoid())


def test_next_tokens_at_two_heads_of_any_length() -> None:
    target = with_length(load(NextTwice(), output="0+0.3*1"), 7)
    ids = torch.randint(20, (2, 1, 1, 7), generator=torch.Generator().manual_seed(0)).float()
    labels = target.task.of_inputs(ids)
    assert labels is not None

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), wanted.flatten())

    assert_same(target, ids, labels, trained(NextTwice(), ids.long().flatten(1), labels, loss))
    assert target.task.outputs == 2 * 7 * 20


class Beside(nn.Module):
    """A picture and numbers beside it, two heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.side = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(147, CLASSES), nn.Linear(144, CLASSES)

    def forward(self, image: Tensor, meta: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(image).sigmoid().flatten(1)
        return self.head(torch.cat([hidden, meta], 1)), self.side(hidden)


def test_two_heads_over_two_inputs(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    image, meta = samples(3)[0], torch.rand((3, 3), generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Beside().eval(), (image, meta), str(path), dynamo=False, opset_version=17, input_names=["image", "meta"],
            output_names=["logits", "aux"], dynamic_axes={n: {0: "N"} for n in ("image", "meta", "logits", "aux")},
        )  # fmt: skip
    module, labels = Beside(), torch.tensor([1, 4, 2])
    logits, aux = module(image, meta)
    total = F.cross_entropy(logits, labels) + 0.3 * F.cross_entropy(aux, labels)
    expected = list(torch.autograd.grad(total, list(module.parameters())))
    rows = torch.cat([image.flatten(1), meta], 1)
    target = load(path, output=STATED)
    assert_same(target, target.to_images(rows), labels, expected)


def test_training_settings_may_state_the_loss(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(f'output = "{STATED}"\n', encoding="utf-8")
    assert read_train_config(path)["output"] == STATED


@pytest.mark.slow
def test_googlenet_in_train_mode_is_trained_with_both_auxiliary_heads() -> None:
    """Szegedy et al. 2015: the loss is that of the logits and 0.3 times that of each auxiliary head."""
    torchvision = pytest.importorskip("torchvision")

    def build() -> nn.Module:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a slow initialisation
            net: nn.Module = torchvision.models.googlenet(
                weights=None, num_classes=10, aux_logits=True, init_weights=False, dropout=0.0, dropout_aux=0.0
            )
        return net

    module, shape = build().train(), (3, 64, 64)
    x = torch.rand((2, *shape), generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 7])
    out = module(x)
    loss = F.cross_entropy(out.logits, labels) + 0.3 * (
        F.cross_entropy(out.aux_logits1, labels) + F.cross_entropy(out.aux_logits2, labels)
    )
    expected = torch.autograd.grad(loss, list(module.parameters()))
    stated = "logits+0.3*aux_logits1+0.3*aux_logits2"
    target = load(build(), image_shape=shape, output=stated, mode="train")
    assert isinstance(target.task, SeveralHeads)
    for got, wanted in zip(target.gradient(x, labels).values(), expected, strict=True):
        assert float((got - wanted).norm()) <= 1e-3 * float(wanted.norm()) + 1e-6
