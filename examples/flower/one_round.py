"""One round of one client without a server: calls the client app as Flower does, and keeps the samples beside it.

Writes ``rounds/round-1_client-7`` (or below $ROUNDS) and ``client.npz``, the samples, which no server ever sees.
"""

from __future__ import annotations

import numpy as np
import torch
from client_app import app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from task import Net, samples

SETTINGS = {"local-epochs": 1, "batch-size": 4, "samples": 8}


def main() -> None:
    """Send the initial weights to the client app, and take its reply."""
    torch.manual_seed(0)
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    content = {"arrays": ArrayRecord(Net().state_dict()), "config": ConfigRecord({"lr": 0.05})}
    message = Message(RecordDict(content), dst_node_id=7, message_type="train", group_id="1")
    context = Context(
        run_id=1, node_id=7, node_config={"partition-id": 0}, state=RecordDict(), run_config=dict(SETTINGS)
    )
    reply = app(message, context)
    images, labels = samples(0, SETTINGS["samples"])
    np.savez("client.npz", x=images, y=labels)
    print(f"the client sent {len(reply.content['arrays'])} arrays")


if __name__ == "__main__":
    main()
