"""The recorders in the frameworks themselves, where they are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from leakaudit.capture import CaptureWarning, flower_mod, nvflare_filter, recording_strategy
from tests.cli.build import leakaudit
from tests.conftest import ROOT


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3))


def test_a_flower_client_records_what_it_sends(tmp_path: Path) -> None:
    flower = pytest.importorskip("flwr.app", reason="flwr is not installed (pip install leakaudit[flower])")
    from flwr.clientapp import ClientApp
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    app = ClientApp(mods=[flower_mod(tmp_path)])

    @app.train()
    def train(message: Any, context: Any) -> Any:
        module = network()
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(module.parameters(), lr=message.content["config"]["lr"])
        nn.functional.cross_entropy(module(torch.rand(4, 3, 2, 2)), torch.arange(4) % 3).backward()
        optimizer.step()
        arrays, metrics = flower.ArrayRecord(module.state_dict()), flower.MetricRecord({"num-examples": 4})
        return flower.Message(flower.RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    content = {"arrays": flower.ArrayRecord(network().state_dict()), "config": flower.ConfigRecord({"lr": 0.05})}
    message = flower.Message(flower.RecordDict(content), dst_node_id=7, message_type="train", group_id="3")
    own = {"run_config": {"local-epochs": 1}, "node_config": {}, "state": flower.RecordDict()}
    reply = app(message, flower.Context(run_id=1, node_id=7, **own))
    (place,) = tmp_path.iterdir()
    document = json.loads((place / "round.json").read_text(encoding="utf-8"))
    told = {"framework": "flower", "round": "3", "client": 7, "learning_rate": 0.05, "num_examples": 4}
    assert document.items() >= {**told, "local_epochs": 1, "kind": "after"}.items()
    sent = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    found = load_file(str(place / "after.safetensors"))
    assert found.keys() == sent.keys() == network().state_dict().keys()
    assert all(np.array_equal(found[name], array) for name, array in sent.items())
    before = load_file(str(place / "before.safetensors"))
    assert all(np.array_equal(before[name], tensor) for name, tensor in network().state_dict().items())


def test_an_nvflare_client_records_what_it_sends(tmp_path: Path) -> None:
    pytest.importorskip("nvflare", reason="nvflare is not installed (pip install leakaudit[nvflare])")
    from nvflare.apis.dxo import DXO, DataKind, MetaKey
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_constant import FLContextKey, ReservedKey
    from nvflare.apis.fl_context import FLContext
    from nvflare.app_common.app_constant import AppConstants

    weights, learnt = {"w": np.ones((2, 3), np.float32)}, {"w": np.full((2, 3), 0.1, np.float32)}
    task = DXO(DataKind.WEIGHTS, data=weights).to_shareable()
    task.set_header(AppConstants.CURRENT_ROUND, 3)
    result = DXO(DataKind.WEIGHT_DIFF, data=learnt, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 5}).to_shareable()
    context, recorder = FLContext(), nvflare_filter(tmp_path)
    context.set_prop(FLContextKey.TASK_DATA, task, private=True, sticky=False)
    recorder.handle_event(EventType.BEFORE_TASK_EXECUTION, context)
    weights["w"] += 1  # a training may change them in place
    context.set_prop(FLContextKey.TASK_DATA, None, private=True, sticky=False)  # as NVFlare's runner does
    context.set_prop(ReservedKey.IDENTITY_NAME, "site-1", private=False, sticky=False)
    assert recorder.process(result, context) is result
    (place,) = tmp_path.iterdir()
    document = json.loads((place / "round.json").read_text(encoding="utf-8"))
    told = {"framework": "nvflare", "round": 3, "client": "site-1", "local_steps": 5, "kind": "delta"}
    assert document.items() >= told.items()
    assert np.array_equal(load_file(str(place / "delta.safetensors"))["w"], learnt["w"])
    assert np.array_equal(load_file(str(place / "before.safetensors"))["w"], weights["w"] - 1)
    with pytest.warns(CaptureWarning, match="the task came without weights"):
        recorder.process(result, context)


class Replies:
    """Stands for a strategy: asks every node, and takes the mean of what comes back."""

    fraction = 0.5

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> list[Any]:
        return [grid(node) for node in (1, 2, 3)]

    def aggregate_train(self, server_round: int, replies: Any) -> int:
        return len(replies)

    def start(self, grid: Any, num_rounds: int = 1) -> int:
        asked = self.configure_train(1, None, None, grid)
        return self.aggregate_train(1, [message.answer for message in asked])


def message(node: int, arrays: dict[str, Any] | None, *, source: bool = False) -> Any:
    """What the recorder looks at of a message of Flower's."""
    tensors = [] if arrays is None else [{name: Numbers(array) for name, array in arrays.items()}]
    config = {"config": {"server-round": 4, "lr": 0.25}}
    content = SimpleNamespace(array_records=dict(enumerate(tensors)), config_records=config, metric_records={})
    ids = {"src_node_id": node} if source else {"dst_node_id": node, "group_id": "", "message_type": "train"}
    return SimpleNamespace(content=content, metadata=SimpleNamespace(**ids), has_content=lambda: bool(tensors))


@dataclass
class Numbers:
    """Flower's array."""

    own: Any

    def numpy(self) -> Any:
        return self.own


def test_a_strategy_records_every_reply_and_is_otherwise_the_given_one(tmp_path: Path) -> None:
    """A reply without arrays (an error, or secure aggregation) is a warning, and the round goes on."""

    def ask(node: int) -> Any:
        asked = message(node, {"w": np.zeros(3, np.float32)})
        asked.answer = message(node, None if node == 3 else {"w": np.full(3, node, np.float32)}, source=True)
        return asked

    strategy = recording_strategy(Replies(), tmp_path, momentum=0.9)
    with pytest.warns(CaptureWarning, match="the reply holds no arrays"):
        assert strategy.start(ask) == 3, "the strategy's own result"
    assert strategy.fraction == 0.5
    places = sorted(tmp_path.iterdir())
    assert [place.name for place in places] == ["round-4_client-1", "round-4_client-2"]
    for node, place in enumerate(places, 1):
        document = json.loads((place / "round.json").read_text(encoding="utf-8"))
        assert document.items() >= {"round": 4, "client": node, "learning_rate": 0.25, "momentum": 0.9}.items()
        assert load_file(str(place / "after.safetensors"))["w"].tolist() == [node] * 3
        assert load_file(str(place / "before.safetensors"))["w"].tolist() == [0] * 3


def test_a_recorder_that_fails_ends_no_round(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    def ask(node: int) -> Any:
        asked = message(node, {"w": np.zeros(3, np.float32)})
        asked.answer = message(node, {"w": np.array(["text"])}, source=True)
        return asked

    for out in (tmp_path / "file", tmp_path / "rounds"):
        with pytest.warns(CaptureWarning, match="round not recorded"):
            assert recording_strategy(Replies(), out).start(ask) == 3


@pytest.fixture
def flower_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run the Flower example in, whose modules can be imported."""
    pytest.importorskip("flwr.app", reason="flwr is not installed (pip install leakaudit[flower])")
    pytest.importorskip("skimage", reason="scikit-image is not installed (pip install leakaudit[examples])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "flower"))
    for name in ("task", "client_app", "server_app", "one_round"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("ROUNDS", str(tmp_path / "rounds"))
    monkeypatch.setenv("SERVER_ROUNDS", str(tmp_path / "server"))
    return tmp_path


COMMON = ("--input-shape", "3,32,32", "--attack", "sme", "--set", "sme.iterations=3", "--controls", "none")
QUIET = ("--format", "json", "-q", "--fail-on", "never")


def audited(place: Path, factory: str, *words: object, out: Path) -> dict[str, Any]:
    """The report of one command."""
    before = next(place.rglob("before.safetensors"))
    code, text, err = leakaudit(
        "scan", before, "--factory", factory, "--round", place, *COMMON, *QUIET, "--out", out, *words
    )
    assert code in (0, 5), text + err
    return dict(json.loads((out / "report.json").read_text()))


def test_the_flower_example_is_recorded_and_audited_with_one_command(flower_example: Path) -> None:
    """By its client app, and by a server that asks three clients through Flower's own strategy."""
    import one_round

    one_round.main()
    place = flower_example / "rounds" / "round-1_client-7"
    report = audited(place, "task:Net", out=flower_example / "without")
    assert report["protocol"]["settings"].items() >= {"local_steps": 2, "momentum": 0.9, "samples": 8}.items()
    assert report["verdict"]["code"] == "INCONCLUSIVE"
    labels = next(a for a in report["attacks"] if a["name"] == "sme")["results"][0]["labels"]
    assert len(labels["inferred"]) == 8
    assert labels["known"] is False
    samples = ("--batch", "client.npz", "--mean", 0.5, "--std", 0.5)
    report = audited(place, "task:Net", *samples, out=flower_example / "with")
    assert report["batch"]["samples"] == 8
    assert "LA501" not in [finding["id"] for finding in report["findings"]]


def test_a_flower_server_records_what_each_client_sent(flower_example: Path) -> None:
    import server_app
    from client_app import app
    from flwr.app import Context, RecordDict
    from flwr.serverapp import Grid
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    settings = {"local-epochs": 1, "batch-size": 4, "samples": 4, "num-server-rounds": 1, "learning-rate": 0.05}

    class Local(Grid):
        """Calls the client app in this process."""

        run = None

        def set_run(self, run: Any) -> None:
            """There is one."""

        def create_message(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

        def get_node_ids(self) -> list[int]:
            return [11, 12, 13]

        def push_messages(self, messages: Any) -> Any:
            raise NotImplementedError

        def pull_messages(self, message_ids: Any) -> Any:
            raise NotImplementedError

        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            return [app(own, self.context(own.metadata.dst_node_id)) for own in messages]

        def context(self, node: int) -> Any:
            partition = {"partition-id": node - 11}
            return Context(run_id=1, node_id=node, node_config=partition, state=RecordDict(), run_config=dict(settings))

    grid = Local()
    server_app.app(grid, grid.context(0))
    places = sorted((flower_example / "server").iterdir())
    assert [place.name for place in places] == [f"round-1_client-{node}" for node in (11, 12, 13)]
    assert len(list((flower_example / "rounds").iterdir())) == 3, "the clients' mod has recorded the same"
    report = audited(flower_example / "rounds", "task:Net", out=flower_example / "report")
    assert report["batch"]["victims"] == 3
    assert [entry["client"] for entry in report["protocol"]["rounds"]] == ["11", "12", "13"]


@pytest.mark.slow
def test_the_nvflare_example_is_recorded_and_audited_with_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In NVFlare's simulator, which takes a minute."""
    pytest.importorskip("nvflare", reason="nvflare is not installed (pip install leakaudit[nvflare])")
    pytest.importorskip("skimage", reason="scikit-image is not installed (pip install leakaudit[examples])")
    example = ROOT / "examples" / "nvflare"
    done = subprocess.run(
        [sys.executable, str(example / "job.py"), "rounds", "workspace"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (tmp_path / "rounds").is_dir(), done.stdout[-2000:] + done.stderr[-2000:]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(example))
    report = audited(tmp_path / "rounds", "net:SimpleNetwork", out=tmp_path / "report")
    assert report["batch"]["victims"] == 2
    assert report["protocol"]["settings"].items() >= {"local_steps": 2, "learning_rate": 0.05, "samples": 8}.items()
    assert sorted(entry["client"] for entry in report["protocol"]["rounds"]) == ["site-1", "site-2"]
