"""One count of labels everywhere: as members of the batch's multiset, and none where they were merely assumed."""

from __future__ import annotations

import numpy as np
import torch

import leakaudit
from leakaudit.audit.results import label_result
from leakaudit.report.views.facts import tiles
from leakaudit.tasks.base import LabelGuess
from leakaudit.tasks.single_label import SingleLabel
from tests.conftest import small_mlp, smooth_images

SHAPE = (3, 12, 12)


def scan(labels: list[int], frozen: tuple[str, ...] = ()) -> leakaudit.Report:
    target = leakaudit.load(small_mlp(), image_shape=SHAPE, frozen=frozen)
    return leakaudit.scan(
        target, (smooth_images(len(labels)), np.array(labels)), batch_size=len(labels), victims=1, attacks=["ig"],
        settings={"ig": {"iterations": "3", "search": "false"}}, controls="none", mean=[0.5], std=[0.25],
    )  # fmt: skip


def cover(report: leakaudit.Report) -> str:
    return next(fact.text for fact in tiles(report) if fact.term == "Labels inferred")


def test_cover_cards_and_json_count_alike() -> None:
    report = scan([4, 4, 0, 2])  # the order of labels is not in the update: by place hardly any would be right
    (result,) = report.attacks[0].results
    by_card = sum(bool(sample.label_right) for sample in result.samples)
    assert result.labels.correct == by_card > 0
    assert cover(report) == f"{by_card} of 4"
    (finding,) = [f for f in report.findings if f.id == "LA301"]
    assert finding.evidence["correct"] == by_card


def test_labels_that_were_assumed_are_none_that_were_inferred() -> None:
    frozen = tuple(name for name, _ in small_mlp().named_parameters())[-2:]
    report = scan([0, 1, 2], frozen)  # what is assumed where the last layer is not shared
    labels = report.attacks[0].results[0].labels
    assert (labels.true, labels.inferred) == ([0, 1, 2], [0, 1, 2])
    assert labels.assumed
    assert labels.correct == 0
    assert {sample.label_right for sample in report.attacks[0].results[0].samples} == {None}
    assert cover(report) == "–"
    assert not {"LA301", "LA302"} & {f.id for f in report.findings}


def test_labels_that_an_attack_found_itself_are_no_assumption() -> None:
    source = LabelGuess(torch.tensor([0, 1]), "assumed", exact=False, assumed=True)
    found = label_result(SingleLabel(5), torch.tensor([3, 0]), torch.tensor([0, 3]), source)
    assert (found.correct, found.assumed) == (2, False)
