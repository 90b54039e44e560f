"""How many restarts fit into memory in one step, from one that is measured.

What a step holds at its worst is what autograd keeps of forward and backward until the backward of the backward has
used it. That is counted, not timed, so that it is the same in every run: on the CPU, ConvNet-64, ResNet-18 and LeNet
with 1 to 32 images in a step take 1.1 to 1.3 times the count (resident set, torch 2.15).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from leakaudit.matching.problem import GradientMatching

OVER_COUNT = 1.5
"""Peak of a step over what is counted; chosen, a margin over the 1.1 to 1.3 that were measured (see above)."""
SHARE = 0.8
"""Of the free memory, for all restarts of a step together; chosen."""
CGROUP = Path("/sys/fs/cgroup/memory.max")


def bytes_kept(problem: GradientMatching, guess: Mapping[str, Tensor]) -> int:
    """Bytes that autograd keeps in one evaluation of the objective at one guess, the model's own tensors left out."""
    own = {p.untyped_storage().data_ptr() for p in problem.parameters.values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # alive, so that no address is used twice
        return tensor

    leaves = {name: value.detach().requires_grad_(True) for name, value in guess.items()}
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        problem.objective(leaves)
    return sum(storage.nbytes() for storage in kept.values())


def free_bytes(device: torch.device) -> int:
    """What this process can still allocate: on a GPU with torch's own cache, on the CPU within its control group."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    import psutil  # a GPU is asked through torch alone

    free = int(psutil.virtual_memory().available)
    try:
        limit = int(CGROUP.read_text(encoding="ascii"))
    except (OSError, ValueError):  # none, or "max"
        return free
    return min(free, max(0, limit - int(psutil.Process().memory_info().rss)))


def restarts_that_fit(problem: GradientMatching, guess: Mapping[str, Tensor]) -> int:
    """Restarts that one step has memory for, at least 1."""
    device = next(iter(problem.parameters.values())).device
    return max(1, int(SHARE * free_bytes(device) / (OVER_COUNT * max(1, bytes_kept(problem, guess)))))
