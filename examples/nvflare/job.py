"""One round of two clients in NVFlare's simulator, recorded by a filter of what the clients send.

Writes ``rounds/round-0_client-site-1`` and the same of site-2, and ``client.npz``, the samples of site-1, which no
server ever sees. Arguments: the folder of the rounds, and the simulator's workspace.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from client import BATCH_SIZE, EPOCHS, RATE, SAMPLES
from net import SimpleNetwork, samples
from nvflare import FilterType
from nvflare.app_opt.pt.job_config.fed_avg import FedAvgJob
from nvflare.job_config.script_runner import ScriptRunner

from leakaudit.capture import nvflare_filter

HERE = Path(__file__).resolve().parent
SETTINGS = {
    "learning_rate": RATE,
    "momentum": 0.9,
    "local_epochs": EPOCHS,
    "local_batch_size": BATCH_SIZE,
    "num_examples": SAMPLES,
    "mode": "train",
}


def main(rounds: Path, workspace: Path) -> None:
    """Run the job."""
    torch.manual_seed(0)
    job = FedAvgJob(initial_model=SimpleNetwork(), n_clients=2, num_rounds=1, name="leakaudit-example")
    for site in ("site-1", "site-2"):
        job.to(ScriptRunner(script=str(HERE / "client.py")), site)
        job.to(str(HERE / "net.py"), site)
        recorder = nvflare_filter(rounds.resolve(), **SETTINGS)
        job.to(recorder, site, tasks=["train"], filter_type=FilterType.TASK_RESULT)
    job.simulator_run(str(workspace), log_config="concise")
    images, labels = samples(1, SAMPLES)
    np.savez("client.npz", x=images, y=labels)


if __name__ == "__main__":
    own = [Path(word) for word in sys.argv[1:]]
    main(*own if len(own) == 2 else (Path("rounds"), Path("workspace")))
