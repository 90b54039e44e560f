"""Names, order and settings of the installed attacks."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leakaudit import scan
from leakaudit.attacks.registry import GROUP, PRESETS, available, create
from leakaudit.errors import UsageError
from tests.cli.build import export, leakaudit
from tests.conftest import small_cnn, small_mlp, smooth_images
from tests.plugins import Install


def test_names_presets_and_documentation() -> None:
    for name, attack in available().items():
        assert attack.name == name
        assert set(attack.presets) == set(PRESETS)
        assert attack.needs
        assert attack.reference
        assert attack.title
        assert inspect.getmodule(attack).__doc__, name  # type: ignore[union-attr]
        for settings in attack.presets.values():
            assert dataclasses.is_dataclass(settings)


def test_the_mission_is_covered_and_closed_forms_run_first() -> None:
    names = list(available())
    assert {"ig", "dia", "gi-pip", "rgap", "linear"} <= set(names)
    assert names.index("rgap") < names.index("ig")
    costs = [attack.cost for attack in available().values()]
    assert costs == sorted(costs)


def test_overrides_are_converted_to_the_type_of_the_preset() -> None:
    attack = create(
        "ig", "quick", {"iterations": "7", "tv_weight": "0.5", "signed": "false", "initialization": "zeros"}
    )
    settings = attack.settings
    assert (settings.iterations, settings.tv_weight, settings.signed) == (7, 0.5, False)
    assert settings.initialization == "zeros"


@pytest.mark.parametrize(
    ("name", "preset", "overrides"),
    [
        ("nope", "quick", {}),
        ("ig", "nope", {}),
        ("ig", "quick", {"nope": "1"}),
        ("ig", "quick", {"iterations": "x"}),
        ("ig", "quick", {"signed": "maybe"}),
        ("ig", "quick", {"initialization": "nope"}),
    ],
)
def test_what_is_refused(name: str, preset: str, overrides: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        create(name, preset, overrides)


def test_an_attack_of_another_package_works_from_the_command_line(
    install: Install, batch: Path, tmp_path: Path
) -> None:
    install(GROUP, division="tests.attacks.toy:Division")
    model = export(small_mlp(), tmp_path / "net.onnx")

    def scanned(smallest: str) -> tuple[int, Any]:
        code, _, err = leakaudit(
            *("scan", model, "--batch", batch, "--out", tmp_path / "r", "--victims", 1, "-f", "json", "--mean", "0.5"),
            *("--std", "0.25", "--attack", "division", "--set", f"division.smallest={smallest}"),
        )
        assert code in (0, 1, 5), err
        return code, json.loads((tmp_path / "r" / "report.json").read_text())

    code, document = scanned("1e-9")
    assert (code, document["verdict"]["status"]) == (1, "LEAKS (certified)")
    (entry,) = (attack for attack in document["attacks"] if attack["name"] == "division")
    assert entry["status"] == "run"
    assert entry["results"][0]["certified"]
    assert {"positive", "negative"} <= {c["kind"] for c in document["controls"] if c["passed"]}
    code, document = scanned("1e9")
    (entry,) = (attack for attack in document["attacks"] if attack["name"] == "division")
    assert (code != 1, entry["status"]) == (True, "not_applicable")
    assert "its gradient is too small" in entry["reason"]


def test_it_is_listed_beside_ours_and_says_where_it_does_not_apply(install: Install) -> None:
    install(GROUP, division="tests.attacks.toy:Division")
    assert available()["division"].cost == 5
    assert "Weight over bias" in leakaudit("attacks")[1]
    images = (smooth_images(4), np.arange(4) % 5)
    for module, size, reason in ((small_mlp(), 2, "2 samples are behind"), (small_cnn(), 1, "no linear layer")):
        report = scan(module, images, batch_size=size, attacks=["division"], input_shape=(3, 12, 12), controls="none")
        (entry,) = (attack for attack in report.attacks if attack.name == "division")
        assert entry.status == "not_applicable"
        assert reason in entry.reason


def test_an_attack_of_another_package_that_cannot_be_imported_is_named(install: Install) -> None:
    install(GROUP, mine="package_that_is_not_there:Mine")
    with pytest.raises(UsageError, match="'mine' of the package 'their_mine'") as caught:
        available()
    assert "ModuleNotFoundError" in caught.value.message
    assert caught.value.hint.startswith("repair")
