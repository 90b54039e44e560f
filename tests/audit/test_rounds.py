"""Recorded rounds, with their samples and without, one or a folder of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import leakaudit
from leakaudit.audit.draw import make_victims
from leakaudit.audit.intake import Material
from leakaudit.audit.request import Request
from leakaudit.audit.round_settings import with_round
from leakaudit.audit.rounds import read_recorded
from leakaudit.capture import record
from leakaudit.client.batch import Batch
from leakaudit.document.redact import redact
from leakaudit.document.status import VerdictStatus
from leakaudit.errors import UpdateError, UsageError
from leakaudit.protocols.aggregated import Aggregated
from tests.audit.rounds import MEAN, SHAPE, STD, mlp, pixels, recorded, train
from tests.cli.build import export
from tests.cli.build import leakaudit as run

COMMON: dict[str, Any] = {"mean": [MEAN], "std": [STD], "input_shape": SHAPE, "controls": "none"}
READER: dict[str, Any] = {**COMMON, "attacks": ["linear"]}
SEARCH: dict[str, Any] = {**COMMON, "attacks": ["ig"], "settings": {"ig": {"iterations": "3"}}}


def rounds_of(folder: Path, clients: int, **settings: Any) -> Path:
    for number in range(clients):
        recorded(mlp(), [number], folder / f"round-1_client-{number}", client=f"site-{number}", round=1, **settings)
    return folder


def test_without_samples_what_proves_itself_leaks(tmp_path: Path) -> None:
    report = leakaudit.scan(mlp(), round=recorded(mlp(), [2], tmp_path / "r"), **READER)
    assert report.verdict.code is VerdictStatus.LEAKS_CERTIFIED
    (sample,) = report.attacks[[a.name for a in report.attacks].index("linear")].results[0].samples
    assert (sample.leaked, sample.proved, sample.scored) == (True, True, False)
    assert sample.psnr is None
    assert "nobody has the private samples" in sample.psnr_reason
    assert sample.original_png is None
    assert sample.reconstruction_png
    assert {"LA203", "LA301", "LA101"} <= {finding.id for finding in report.findings}
    assert next(f for f in report.findings if f.id == "LA301").confidence == "estimated"
    assert report.batch.samples == 0
    assert "nobody" in report.batch.accuracy_reason


def test_what_it_shows_is_the_sample(tmp_path: Path) -> None:
    """The proof is right: with the sample at hand the same reading is exact."""
    place = recorded(mlp(), [2], tmp_path / "r", samples=True)
    report = leakaudit.scan(mlp(), round=place, **READER)
    (sample,) = next(a for a in report.attacks if a.name == "linear").results[0].samples
    assert sample.scored
    assert (sample.psnr or 200.0) > 60
    assert report.batch.samples == 1


def test_without_samples_a_search_proves_nothing(tmp_path: Path) -> None:
    report = leakaudit.scan(mlp(), round=recorded(mlp(), [0, 1], tmp_path / "r"), **SEARCH)
    assert report.verdict.code is VerdictStatus.INCONCLUSIVE
    assert "2 of 2 samples are nobody's to compare with" in report.verdict.headline
    assert "could not be compared" in report.verdict.at_least
    assert not any(s.leaked for a in report.attacks for v in a.results for s in v.samples)
    assert report.protocol.batch_size == 2, "the round tells how many samples are behind it"


def test_every_view_shows_a_report_without_samples(tmp_path: Path) -> None:
    report = leakaudit.scan(mlp(), round=rounds_of(tmp_path / "rounds", 2), **READER)
    for name, shown in (("full", report), ("none", redact(report, "none"))):
        files = shown.save(tmp_path / name, formats=["json", "html", "csv", "markdown", "junit", "sarif"])
        assert all(file.stat().st_size for file in files)
        text = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        assert "nobody has the private samples" in text
        assert ("site-1" in text) == (name == "full"), "who the clients are is private"
        assert ("data:image/png" in text) == (name == "full")


def test_how_many_samples_there_are_must_be_known(tmp_path: Path) -> None:
    place = recorded(mlp(), [0, 1], tmp_path / "r", num_examples=None)
    with pytest.raises(UsageError, match="how many samples are behind the recorded update is not known") as caught:
        leakaudit.scan(mlp(), round=place, **READER)
    assert "--samples" in caught.value.hint
    assert leakaudit.scan(mlp(), round=place, samples=2, **READER).protocol.batch_size == 2


def test_a_folder_of_rounds_is_one_report_with_a_victim_each(tmp_path: Path) -> None:
    folder = rounds_of(tmp_path, 6)
    report = leakaudit.scan(mlp(), round=folder, **READER)
    assert report.batch.victims == 6
    assert [entry.label for entry in report.protocol.rounds] == [f"round-1_client-{n}" for n in range(6)]
    assert (report.verdict.clients_leaked, report.verdict.clients_attacked) == (6, 6)
    assert report.verdict.clients_interval == pytest.approx([0.5407, 1.0], abs=1e-4), "Clopper and Pearson, 6 of 6"
    assert "Of 6 rounds 6 leak a sample" in report.verdict.at_least
    assert (report.verdict.samples_leaked, report.verdict.samples_attacked) == (6, 6)


def test_some_rounds_may_have_their_samples(tmp_path: Path) -> None:
    """Each is scored against its own."""
    recorded(mlp(), [0], tmp_path / "round-1_client-0", client=0, round=1)
    recorded(mlp(), [3, 4], tmp_path / "round-1_client-1", client=1, round=1, samples=True)
    recorded(mlp(), [5], tmp_path / "round-1_client-2", client=2, round=1, samples=True)
    report = leakaudit.scan(mlp(), round=tmp_path, **READER)
    results = next(a for a in report.attacks if a.name == "linear").results
    assert [[s.scored for s in result.samples] for result in results] == [[False], [True, True], [True]]
    assert [[s.index for s in result.samples] for result in results] == [[3], [0, 1], [2]]
    assert (results[2].samples[0].psnr or 200.0) > 60
    assert [entry.samples for entry in report.protocol.rounds] == [1, 2, 1]
    assert report.batch.samples == 3
    assert [claim.text for claim in report.claims] == ["no defence (victim 1)", "no defence (victim 2)"]
    assert all(check.holds for claim in report.claims for check in claim.checks)


def test_clients_of_other_sizes_are_attacked_in_turn(tmp_path: Path) -> None:
    """An optimisation of several victims at once takes them to be alike."""
    for number, own in enumerate(([0], [1, 2], [3])):
        recorded(mlp(), own, tmp_path / f"round-1_client-{number}", client=number, round=1, samples=True)
    report = leakaudit.scan(mlp(), round=tmp_path, **SEARCH)
    results = next(a for a in report.attacks if a.name == "ig").results
    assert [len(result.samples) for result in results] == [1, 2, 1]
    assert report.verdict.samples_attacked == 4


def test_a_later_round_is_attacked_at_its_own_weights(tmp_path: Path) -> None:
    later = mlp()
    train(later, [6, 7], rate=0.5)
    recorded(mlp(), [0], tmp_path / "round-1_client-0", client=0, round=1)
    recorded(later, [1], tmp_path / "round-2_client-0", client=0, round=2, samples=True)
    report = leakaudit.scan(mlp(), round=tmp_path, **READER)
    assert [entry.own_weights for entry in report.protocol.rounds] == [False, True]
    sample = next(a for a in report.attacks if a.name == "linear").results[1].samples[0]
    assert (sample.psnr or 200.0) > 60
    assert all(check.holds for claim in report.claims for check in claim.checks)


def test_rounds_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    rounds_of(tmp_path, 2)
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(432, 23), nn.ReLU(), nn.Linear(23, 5))
    recorded(narrow, [0], tmp_path / "round-1_client-7", client=7, round=1)
    recorded(mlp(), [0], tmp_path / "round-1_client-8", client=8, round=1, learning_rate=0.5)
    (tmp_path / "round-1_client-1" / "after.safetensors").write_bytes(b"nothing")
    report = leakaudit.scan(mlp(), round=tmp_path, **READER)
    reasons = {entry.label: entry.reason for entry in report.protocol.left_out}
    assert reasons.keys() == {"round-1_client-1", "round-1_client-7", "round-1_client-8"}
    assert "no readable .safetensors" in reasons["round-1_client-1"]
    assert "1.bias has shape (23,), expected (24,)" in reasons["round-1_client-7"]
    assert "learning_rate is 0.5, the first round has 0.1" in reasons["round-1_client-8"]
    finding = next(f for f in report.findings if f.id == "LA959")
    assert finding.message == "3 of 4 recorded rounds were not audited."


def test_a_folder_of_rounds_of_another_model_is_refused(tmp_path: Path) -> None:
    rounds_of(tmp_path, 2)
    other = mlp()
    train(other, [3])
    with pytest.raises(UpdateError, match=r"the round did not begin with this model: .* differs by"):
        leakaudit.scan(other, round=tmp_path, **READER)


def test_one_batch_for_several_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="beside a folder of 2 rounds: whose samples are these"):
        leakaudit.scan(mlp(), (pixels(2), np.arange(2)), round=rounds_of(tmp_path, 2), **READER)


def test_a_round_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    place = recorded(mlp(), [0, 1, 2, 3], tmp_path / "r", local_steps=5, samples=True)
    with pytest.raises(UpdateError, match=r"says 5 local steps, its settings make 1 of 4 samples") as caught:
        leakaudit.scan(mlp(), round=place, **READER)
    assert "--local-epochs" in caught.value.hint


def test_tokens_are_read_without_the_texts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(50, 12), nn.Flatten(), nn.Linear(6 * 12, 3))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tokens = torch.tensor([[3, 9, 9, 41, 7, 2]])
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    nn.functional.cross_entropy(module(tokens), torch.tensor([1])).backward()
    optimizer.step()
    place = record(before, dict(module.state_dict()), out=tmp_path / "r", learning_rate=0.1, num_examples=1)
    module.load_state_dict(before)
    report = leakaudit.scan(module, round=place, input_shape=(6,), attacks=["embedding"], controls="none")
    (sample,) = next(a for a in report.attacks if a.name == "embedding").results[0].samples
    assert sample.found == [2, 3, 7, 9, 41]
    assert sample.proved
    assert report.verdict.code is VerdictStatus.LEAKS_CERTIFIED
    assert "without their order" in next(f for f in report.findings if f.id == "LA207").message
    report.save(tmp_path / "out", formats=["html"])
    assert "5 tokens of the batch named, in no order: 2, 3, 7, 9, 41" in (tmp_path / "out" / "report.html").read_text()
    assert redact(report, "blurred").attacks[0].results[0].samples[0].found == []


def test_a_round_of_a_gradient_without_samples(tmp_path: Path) -> None:
    module = mlp()
    inputs = torch.from_numpy((pixels(1) - MEAN) / STD).float()
    nn.functional.cross_entropy(module(inputs), torch.tensor([0])).backward()
    gradient = {name: parameter.grad for name, parameter in module.named_parameters()}
    place = record(dict(module.state_dict()), gradient=gradient, out=tmp_path / "r", num_examples=1)
    report = leakaudit.scan(module, round=place, **READER)
    assert report.verdict.code is VerdictStatus.LEAKS_CERTIFIED
    assert report.protocol.algorithm == "fedsgd"


def test_controls_have_nothing_to_score_without_samples(tmp_path: Path) -> None:
    """Those of a bundled network still run; a certified claim needs no other."""
    quick = {**READER, "controls": "full"}
    report = leakaudit.scan(mlp(), round=recorded(mlp(), [2], tmp_path / "r"), **quick)
    assert {control.kind for control in report.controls} == {"positive"}
    assert "LA957" not in {finding.id for finding in report.findings}


def test_statistics_that_came_with_an_update_are_used(tmp_path: Path) -> None:
    """After one step they are the batch's own, after several a mean over batches, and each is told for what it is."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    attack: dict[str, Any] = {
        **COMMON,
        "attacks": ["gradinversion"],
        "settings": {"gradinversion": {"iterations": "2"}},
    }
    place = recorded(module, [0, 1, 2], tmp_path / "one", mode="train", samples=True)
    report = leakaudit.scan(module, round=place, **attack)
    assert report.protocol.statistics_sent == ["1"]
    assert report.protocol.shared_statistics == "running"
    entry = next(a for a in report.attacks if a.name == "gradinversion")
    assert entry.given["batch_statistics"].startswith("mean and variance over the batch of 1 BatchNorm layers")
    finding = next(f for f in report.findings if f.id == "LA402")
    assert (finding.confidence, "the update comes with them" in finding.message) == ("certified", True)
    place = recorded(module, [0, 1, 2, 3], tmp_path / "two", mode="train", local_batch_size=2, samples=True)
    report = leakaudit.scan(module, round=place, **attack)
    finding = next(f for f in report.findings if f.id == "LA402")
    assert "weighted mean over the batches of 2 local steps" in finding.message
    _drop_buffers(place)
    report = leakaudit.scan(module, round=place, **attack)
    finding = next(f for f in report.findings if f.id == "LA402")
    assert (finding.confidence, report.protocol.statistics_sent) == ("estimated", [])
    with pytest.raises(UpdateError, match=r"has no 1\.running_mean, though running statistics are said to be shared"):
        leakaudit.scan(module, round=place, share_bn_statistics="running", **attack)


def _drop_buffers(place: Path) -> None:
    """Rewrite what a round sent without buffers."""
    kept = {n: t for n, t in load_file(place / "after.safetensors").items() if "running" not in n and "num" not in n}
    save_file(kept, place / "after.safetensors")


def test_the_command_line_takes_a_round_without_a_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.ReLU(), nn.Linear(24, 5))
    model = export(module, tmp_path / "m.onnx")
    place = recorded(module, [2], tmp_path / "r")
    words = ("scan", model, "--mean", MEAN, "--std", STD, "--attack", "linear", "--controls", "none", "-q")
    code, out, err = run(*words, "--round", place, "--out", tmp_path / "out", "--format", "json")
    assert code == 1, err
    assert "LEAKS (certified)" in out + err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "--round" in report["command"]
    code, _, err = run(*words, "--out", tmp_path / "none")
    assert (code, "--batch is missing" in err) == (2, True)


def test_rounds_of_a_table_are_read_by_one_schema(tmp_path: Path) -> None:
    """The columns are guessed from the rows of all rounds: one alone would show a category of two levels as numbers."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
    rows = np.array([[4.5, -2, 1, 0, 0], [3.5, 7, 0, 1, 0], [9.5, 1, 0, 0, 1]], np.float32)
    for number, row in enumerate(rows):
        client, inputs = copy.deepcopy(network), torch.from_numpy(row[None])
        before = copy.deepcopy(dict(client.state_dict()))
        nn.functional.cross_entropy(client(inputs), torch.tensor([number % 2])).backward()
        torch.optim.SGD(client.parameters(), 0.01).step()
        samples = {"x": row[None], "y": np.array([number % 2])}
        told = {"learning_rate": 0.01, "local_epochs": 1, "num_examples": 1, "client": number, "round": 1}
        record(before, client.state_dict(), out=tmp_path / f"client-{number}", batch=samples, **told)
    report = leakaudit.scan(network, round=tmp_path, attacks=["linear"], controls="none")
    assert report.target.domain == "table"
    assert report.batch.samples == 3
    assert "2 numbers and 1 category" in " ".join(report.batch.notes)
    results = next(a for a in report.attacks if a.name == "linear").results
    assert [s.metrics["cell_accuracy"] for result in results for s in result.samples] == [1.0, 1.0, 1.0]


def test_samples_stay_with_their_round_where_another_is_damaged(tmp_path: Path) -> None:
    for number in range(3):
        recorded(mlp(), [number + 2], tmp_path / f"round-1_client-{number}", client=number, round=1, samples=True)
    (tmp_path / "round-1_client-1" / "round.json").write_text("[")
    report = leakaudit.scan(mlp(), round=tmp_path, **READER)
    assert [entry.label for entry in report.protocol.left_out] == ["round-1_client-1"]
    results = next(a for a in report.attacks if a.name == "linear").results
    assert [(result.samples[0].index, result.samples[0].leaked) for result in results] == [(0, True), (2, True)]


@pytest.mark.parametrize(("outputs", "task"), [(5, "multi-label"), (1, "regression")])
def test_labels_that_are_rows_are_shown_without_samples(outputs: int, task: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.ReLU(), nn.Linear(24, outputs))
    client, before = copy.deepcopy(network), copy.deepcopy(dict(network.state_dict()))
    inputs = torch.from_numpy((pixels()[:1] - MEAN) / STD).float()
    wanted = torch.tensor([[1.0, 0, 1, 0, 0][:outputs]])
    loss = nn.functional.mse_loss if outputs == 1 else nn.functional.binary_cross_entropy_with_logits
    loss(client(inputs), wanted).backward()
    torch.optim.SGD(client.parameters(), 0.1).step()
    told = {"learning_rate": 0.1, "local_epochs": 1, "num_examples": 1}
    record(before, client.state_dict(), out=tmp_path / "round", **told)
    report = leakaudit.scan(network, round=tmp_path / "round", task=task, **READER)
    (sample,) = next(a for a in report.attacks if a.name == "linear").results[0].samples
    assert sample.inferred_label is None
    assert len(sample.inferred_row or []) == outputs


def test_weight_decay_is_taken_out_of_a_recorded_gradient(tmp_path: Path) -> None:
    """Otherwise every row is a mixture of the sample and the weights."""
    network = mlp()
    client = copy.deepcopy(network)
    inputs = torch.from_numpy((pixels()[:1] - MEAN) / STD).float()
    nn.functional.cross_entropy(client(inputs), torch.tensor([0])).backward()
    sent = {name: p.grad + 0.05 * p.detach() for name, p in client.named_parameters() if p.grad is not None}
    record(
        network.state_dict(), gradient=sent, out=tmp_path / "round", batch={"x": pixels()[:1], "y": np.zeros(1, int)}
    )
    report = leakaudit.scan(network, round=tmp_path / "round", weight_decay=0.05, **READER)
    assert report.protocol.weight_decay == 0.05
    assert "as given" in report.protocol.weight_decay_note
    assert all(check.holds for claim in report.claims for check in claim.checks)


def test_decay_that_was_fitted_holds_for_every_client_of_a_sum(tmp_path: Path) -> None:
    """The protocol of a sum is that of its clients; what an attack replays decays as theirs."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(432, 24), nn.ReLU(), nn.Linear(24, 5))
    with torch.no_grad():
        network[1].bias[:8] = -50.0  # units that no sample reaches
    client, before = copy.deepcopy(network), copy.deepcopy(dict(network.state_dict()))
    optimizer = torch.optim.SGD(client.parameters(), 0.05, weight_decay=5e-3)
    after = train(client, [0, 1], batch=1, optimizer=optimizer)
    told = {"learning_rate": 0.05, "local_epochs": 1, "local_batch_size": 1, "num_examples": 2}
    record(before, after, out=tmp_path / "round", **told)
    request = with_round(Request(round=str(tmp_path / "round"), defences=("clients=2",)))
    target = leakaudit.load(network, image_shape=SHAPE)
    nobody = Batch.unknown(SHAPE)
    material = Material(recorded=read_recorded(request, target, nobody))
    (victim,), _ = make_victims(target, nobody, request, material)
    protocol = victim.observation.protocol
    assert isinstance(protocol, Aggregated)
    assert [getattr(member, "weight_decay", None) for member in protocol.members] == pytest.approx([5e-3] * 2, rel=0.01)
