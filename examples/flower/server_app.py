"""The server: FedAvg, which records the reply of every client."""

from __future__ import annotations

import os

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from task import Net

from leakaudit.capture import recording_strategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Some rounds with all clients; what each sends is in the folder SERVER_ROUNDS."""
    torch.manual_seed(0)
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=2, min_train_nodes=2)
    recorder = recording_strategy(
        strategy, os.environ.get("SERVER_ROUNDS", "server-rounds"), momentum=0.9, mode="train"
    )
    recorder.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": float(context.run_config["learning-rate"])}),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
