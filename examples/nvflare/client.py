"""The client's training script: NVFlare's client API."""

from __future__ import annotations

import nvflare.client as flare
import torch
import torch.nn.functional as F
from net import MEAN, STD, SimpleNetwork, samples
from torch.utils.data import DataLoader, TensorDataset

SAMPLES, BATCH_SIZE, RATE, EPOCHS = 8, 4, 0.05, 1


def main() -> None:
    """Train the global weights on the client's own photographs, and send the new weights."""
    flare.init()
    images, labels = samples(int(flare.get_site_name().rpartition("-")[2]), SAMPLES)
    inputs = torch.from_numpy((images - MEAN) / STD)
    loader = DataLoader(TensorDataset(inputs, torch.from_numpy(labels)), batch_size=BATCH_SIZE, shuffle=True)
    net = SimpleNetwork()
    while flare.is_running():
        received = flare.receive()
        net.load_state_dict({name: torch.as_tensor(array) for name, array in received.params.items()})
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)
        net.train()
        for _ in range(EPOCHS):
            for some, classes in loader:
                optimizer.zero_grad()
                F.cross_entropy(net(some), classes).backward()
                optimizer.step()
        weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        meta = {"NUM_STEPS_CURRENT_ROUND": EPOCHS * len(loader)}
        flare.send(flare.FLModel(params=weights, metrics={"accuracy": 0.0}, meta=meta))


if __name__ == "__main__":
    main()
