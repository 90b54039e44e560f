"""The client: Flower's Message API, with leakaudit's mod in front of all others."""

from __future__ import annotations

import os

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import Net, train

from leakaudit.capture import flower_mod

ROUNDS = os.environ.get("ROUNDS", "rounds")
app = ClientApp(mods=[flower_mod(ROUNDS, momentum=0.9, mode="train")])


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Train the global weights on the client's own photographs, and send the new weights."""
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    config = message.content["config"]
    count = train(
        net,
        int(context.node_config.get("partition-id", 0)),
        epochs=int(context.run_config["local-epochs"]),
        rate=float(config["lr"]),
        batch_size=int(context.run_config["batch-size"]),
        count=int(context.run_config["samples"]),
    )
    arrays, metrics = ArrayRecord(net.state_dict()), MetricRecord({"num-examples": count})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
