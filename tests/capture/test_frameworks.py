"""The recorders in the frameworks themselves, where they are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from leakaudit.capture import flower_mod, nvflare_filter


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
    from nvflare.apis.fl_constant import FLContextKey, ReservedKey
    from nvflare.apis.fl_context import FLContext
    from nvflare.app_common.app_constant import AppConstants

    weights, learnt = {"w": np.ones((2, 3), np.float32)}, {"w": np.full((2, 3), 0.1, np.float32)}
    task = DXO(DataKind.WEIGHTS, data=weights).to_shareable()
    task.set_header(AppConstants.CURRENT_ROUND, 3)
    result = DXO(DataKind.WEIGHT_DIFF, data=learnt, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 5}).to_shareable()
    context = FLContext()
    context.set_prop(FLContextKey.TASK_DATA, task, private=True, sticky=False)
    context.set_prop(ReservedKey.IDENTITY_NAME, "site-1", private=False, sticky=False)
    assert nvflare_filter(tmp_path).process(result, context) is result
    (place,) = tmp_path.iterdir()
    document = json.loads((place / "round.json").read_text(encoding="utf-8"))
    told = {"framework": "nvflare", "round": 3, "client": "site-1", "local_steps": 5, "kind": "delta"}
    assert document.items() >= told.items()
    assert np.array_equal(load_file(str(place / "delta.safetensors"))["w"], learnt["w"])
    assert np.array_equal(load_file(str(place / "before.safetensors"))["w"], weights["w"])
