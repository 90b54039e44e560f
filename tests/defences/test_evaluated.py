"""Whether a defence was evaluated follows from the attacks that ran, and what was not is never recommended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import leakaudit
from leakaudit.attacks.registry import available as attacks
from leakaudit.defences.base import Defence
from leakaudit.defences.registry import available
from leakaudit.defences.spec import parse_defence
from leakaudit.document.schema import Report
from tests.attacks.exact import dropout_mlp, relu_mlp
from tests.conftest import smooth_images
from tests.defences.build import EXAMPLES
from tests.texts import TextClassifier, export_text, write_texts

PIXELS = {"mean": [0.5], "std": [0.25], "input_shape": (3, 12, 12)}


def ignored(update: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A defence without a counterpart: enough noise that no attack can see through."""
    return {name: g + 10 * torch.randn(g.shape, generator=generator) for name, g in update.items()}


def scan(*defences: str, attack: str = "linear", module: torch.nn.Module | None = None, **more: object) -> Report:
    images = (smooth_images(8), np.arange(8) % 5)
    return leakaudit.scan(
        module or relu_mlp(64), images, attacks=[attack], defences=defences, victims=1, controls="none", preset="quick",
        cache=False, **PIXELS, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("text")
    return export_text(TextClassifier(), folder / "text.onnx"), write_texts(folder / "texts.npz")


def test_a_noisy_text_is_read_and_says_so(text: tuple[Path, Path]) -> None:
    report = leakaudit.scan(*text, defences=["noise=1e-4"], victims=3, preset="quick", cache=False)
    assert report.verdict.status.startswith("LEAKS")
    assert report.verdict.samples_leaked == 3
    (entry,) = report.defences
    assert entry.evaluated
    assert entry.evaluated_by == ["embedding", "dager"]
    assert {f.id for f in report.findings} >= {"LA207", "LA502"}


@pytest.mark.parametrize("goal", ["leaked=0"])
def test_defend_on_text_recommends_no_noise_that_is_read_and_nothing_unevaluated(
    text: tuple[Path, Path], goal: str
) -> None:
    unknown = f"{__name__}:ignored"
    report = leakaudit.defend(
        *text, goal=goal, grid=("noise=1e-4", unknown, "noise=1"), steps=2, victims=2, preset="quick", cache=False
    )
    base, weak, custom, strong = report.trials
    assert base.leaked == 2
    assert (weak.evaluated, weak.leaked, weak.meets, weak.recommended) == (True, 2, False, False)
    assert (custom.evaluated, custom.meets, custom.recommended) == (False, False, False)
    assert custom.leaked == 0
    assert (strong.evaluated, strong.leaked, strong.meets, strong.recommended) == (True, 0, True, True)
    assert report.recommendation.startswith("noise=1 is the cheapest")


def test_a_defence_that_text_cannot_have_is_not_run(text: tuple[Path, Path]) -> None:
    report = leakaudit.defend(
        *text, goal="leaked=0", grid=("soteria=0.5",), steps=2, victims=1, preset="quick", cache=False
    )
    assert report.trials[1].status == "not_run"
    assert "takes token ids" in report.trials[1].reason


def test_an_attack_that_was_refused_evaluates_nothing() -> None:
    report = scan("sign")
    (entry,) = report.defences
    assert not entry.evaluated
    assert entry.evaluated_by == []
    (finding,) = [f for f in report.findings if f.id == "LA503"]
    assert "no attack that ran works through" in finding.message


def test_an_attack_that_works_through_one_of_two_defences_evaluates_neither() -> None:
    through_both = scan("noise=1e-4", "prune=0.5")
    assert [d.evaluated for d in through_both.defences] == [True, True]
    through_one = scan("noise=1e-4", f"{__name__}:ignored")
    assert [d.evaluated for d in through_one.defences] == [False, False]
    given = next(a for a in through_one.attacks if a.name == "linear").given["defences"]
    assert given == f"noise=0.0001; ignores {__name__}:ignored"


def test_what_no_attacker_has_evaluates_nothing() -> None:
    short = {"wia": {"iterations": "3"}, "dia": {"iterations": "3"}}
    common = {"module": dropout_mlp(0.5), "mode": "train", "settings": short}
    assert not scan("clip=1", attack="wia", **common).defences[0].evaluated
    assert scan("clip=1", attack="dia", **common).defences[0].evaluated_by == ["dia"]


def test_dropout_is_evaluated_by_who_finds_masks_only() -> None:
    assert scan("dropout=0.5", attack="ig", settings={"ig": {"iterations": "3"}}).defences[0].evaluated is False
    assert scan("dropout=0.5", attack="dia", settings={"dia": {"iterations": "3"}}).defences[0].evaluated is True


def test_names_that_attacks_adapt_to_are_names_of_defences() -> None:
    known = {kind.name for kind in available().values()} | {leakaudit.observation.HANDED}
    for name, attack in attacks().items():
        assert set(attack.adapts) <= known, name
        assert attack.adapts, f"{name} works through no defence"


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_defence_of_ours_has_an_attack_that_works_through_it(text: str) -> None:
    defence = parse_defence(text)
    assert any(defence.known_to(a.adapts) for a in attacks().values() if not a.upper_bound)
    assert not defence.known_to(())
    assert {type(parse_defence(t)) for t in EXAMPLES} == set(available().values())


def test_a_kind_without_counterpart_is_known_to_nobody() -> None:
    class Odd(Defence):
        """Nothing."""

        name = "odd"
        title = "Odd"

    assert not any(Odd().known_to(a.adapts) for a in attacks().values())
    assert Odd().known_to(("odd",))
