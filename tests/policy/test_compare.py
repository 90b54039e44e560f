"""Reports of different protocols, defences or threat models are not compared unless that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leakaudit.audit.assemble import protocol_section
from leakaudit.audit.request import Request
from leakaudit.document.schema import DefenceEntry, Report
from leakaudit.errors import UsageError
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.compare import Setup, refuse_different
from leakaudit.policy.read import Policy
from tests.cli.build import leakaudit
from tests.report.builder import build

DEFENCE = DefenceEntry(name="pruning", title="Pruning", text="prune=0.5", evaluated=True)


def changed(report: Report, **changes: Any) -> Report:
    return report.model_copy(update=changes)


OTHERS = {
    "mode": lambda r: changed(r, protocol=r.protocol.model_copy(update={"mode": "train"})),
    "defences": lambda r: changed(r, defences=[DEFENCE]),
    "batch size": lambda r: changed(r, batch=r.batch.model_copy(update={"batch_size": 7})),
    "threat model": lambda r: changed(r, threat_model="B"),
    "protocol": lambda r: changed(r, protocol=r.protocol.model_copy(update={"steps": 5})),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_different_setup_is_an_error_that_names_it(what: str) -> None:
    report = changed(build(), threat_model="E", defences=[])
    other = OTHERS[what](report)
    with pytest.raises(UsageError, match=f"not of the same thing: {what} ") as error:
        apply_policy(report, Policy(), baseline=other)
    assert "--allow-different" in error.value.hint
    assert apply_policy(report, Policy(), baseline=other, allow_different=True).policy


def test_what_is_not_known_does_not_differ() -> None:
    report = build()
    apply_policy(changed(report, threat_model="B"), Policy(), baseline=changed(report, threat_model=None))
    setup = Setup.of(report)
    refuse_different(setup, replace(setup, protocol=None, threat_model=None))


LOCAL: dict[str, Any] = {"learning_rate": 0.1, "local_epochs": 2, "local_batch_size": 2, "samples": 4}


def trained(**settings: Any) -> Report:
    """A report of clients that train locally."""
    request = Request(model="m.onnx", batch="b.npz", **{**LOCAL, **settings})
    report = changed(build(), threat_model="E", defences=[])
    report = changed(report, batch=report.batch.model_copy(update={"batch_size": request.protocol.batch_size}))
    return changed(report, protocol=protocol_section(request.protocol))


OTHER_TRAINING: dict[str, dict[str, Any]] = {
    "learning_rate": {"learning_rate": 0.05},
    "local_epochs": {"local_epochs": 3},
    "local_batch_size": {"local_batch_size": 4},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight_decay": {"weight_decay": 5e-4},
    "optimizer": {"optimizer": "adam"},
}


@pytest.mark.parametrize("name", OTHER_TRAINING)
def test_another_local_training_is_an_error_that_names_the_setting(name: str) -> None:
    before, now = trained(), trained(**OTHER_TRAINING[name])
    with pytest.raises(UsageError, match=f"not of the same thing: protocol fedavg .*{name}"):
        apply_policy(now, Policy(), baseline=before)
    apply_policy(trained(), Policy(), baseline=before)
    asked = Request(model="m.onnx", batch="b.npz", **{**LOCAL, **OTHER_TRAINING[name]})
    with pytest.raises(UsageError, match="not of the same thing"):
        refuse_different(Setup.of(before), Setup.asked(asked, before))
    refuse_different(Setup.of(now), Setup.asked(asked, now))


def test_statistics_that_a_recorded_update_brings_are_no_other_setup() -> None:
    before = trained(share_bn_statistics="running", mode="train")
    asked = Request(model="m.onnx", update="u.npz", mode="train", **LOCAL)
    refuse_different(Setup.of(before), Setup.asked(asked, before))
    with pytest.raises(UsageError, match="statistics shared: running"):
        refuse_different(Setup.of(before), Setup.asked(replace(asked, update=None, batch="b.npz"), before))


def test_modes_of_variants_are_compared_as_a_set() -> None:
    setup = Setup.of(build())
    with pytest.raises(UsageError, match="mode eval before, eval and train now"):
        refuse_different(replace(setup, mode=("eval",)), replace(setup, mode=("eval", "train")))


def test_from_the_command_line(tmp_path: Path) -> None:
    report = changed(build(), threat_model="E", defences=[])
    (tmp_path / "a.json").write_text(report.to_json())
    (tmp_path / "b.json").write_text(OTHERS["defences"](OTHERS["mode"](report)).to_json())
    words = ("compare", tmp_path / "a.json", tmp_path / "b.json")
    code, out, err = leakaudit(*words)
    assert (code, out) == (2, "")
    assert "defences none before, prune=0.5 now" in err
    assert leakaudit(*words, "--allow-different")[0] in (0, 1)
    render = ("render", tmp_path / "a.json", "-o", tmp_path / "out", "-f", "json", "--baseline", tmp_path / "b.json")
    code, _, err = leakaudit(*render)
    assert code == 2
    assert "not of the same thing" in err
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_scan_says_so_before_the_audit(tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text(changed(build(), threat_model="E", defences=[]).to_json())
    (tmp_path / "m.onnx").write_bytes(b"")
    (tmp_path / "b.npz").write_bytes(b"")
    words = ("scan", tmp_path / "m.onnx", "-b", tmp_path / "b.npz", "-o", tmp_path / "out", "--defence", "prune=0.50")
    code, _, err = leakaudit(*words, "--baseline", tmp_path / "before.json")
    assert code == 2
    assert "prune=0.5 now" in err
