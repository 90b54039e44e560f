"""Names, order and settings of the installed attacks."""

from __future__ import annotations

import dataclasses
import inspect
from importlib.metadata import EntryPoint

import pytest

from leakaudit import plugins
from leakaudit.attacks import registry
from leakaudit.attacks.registry import PRESETS, available, create
from leakaudit.errors import UsageError


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


def test_an_attack_of_another_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("mine", "package_that_is_not_there:Mine", registry.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [broken])
    with pytest.raises(UsageError, match="'mine' of the package 'package_that_is_not_there") as caught:
        available()
    assert "ModuleNotFoundError" in caught.value.message
    assert caught.value.hint.startswith("repair")
