"""A context manager around one's own PyTorch training loop, which records the round that it makes.

Beside the weights it logs what a server never sees and only an upper bound may use: the order of the samples and the
dropout masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from leakaudit.capture.record import record, safely


@contextmanager
def pytorch_hook(
    module: Any,
    out: str | Path,
    *,
    optimizer: Any = None,
    loader: Any = None,
    masks: bool = True,
    **settings: Any,
) -> Iterator[None]:
    """Record the weights at entry and exit, and what can be seen of the training between them.

    Args:
        module: The ``torch.nn.Module`` that is trained inside.
        out: Folder of the round.
        optimizer: Its ``torch.optim.Optimizer``: tells kind, rate, momentum, weight decay and the number of steps.
        loader: Its ``DataLoader``: tells batch size and the order in which samples are drawn.
        masks: Keep the masks of ``nn.Dropout`` layers, by step.
        settings: As of :func:`leakaudit.capture.record`; they go before what is seen.
    """
    seen = _Seen(module, optimizer, loader)
    before = safely(lambda: _state(module))
    with ExitStack() as stack:
        safely(lambda: seen.begin(stack, masks))
        yield  # an exception of the training goes through, and no round is recorded
    if before is not None:
        safely(lambda: seen.save(before, out, settings))


def _state(module: Any) -> dict[str, Any]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


class _Order:
    """A sampler that yields what the given one does and keeps it, a list per pass."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.passes: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        own: list[int] = []
        self.passes.append(own)
        for index in self.sampler:
            safely(lambda index=index: own.append(int(index)))  # type: ignore[misc]
            yield index


class _Seen:
    """What the hooks note of one training."""

    def __init__(self, module: Any, optimizer: Any, loader: Any) -> None:
        self.module, self.optimizer, self.loader = module, optimizer, loader
        self.order: _Order | None = None
        self.sizes: list[int] = []
        self.masks: dict[str, Any] = {}
        self.steps = 0
        self.calls: dict[str, int] = {}
        self.mode = "eval"

    def begin(self, stack: ExitStack, masks: bool) -> None:
        """Hook onto module, optimizer and loader, for as long as the stack is open."""
        stack.callback(self.module.register_forward_pre_hook(self._forward).remove)
        if self.optimizer is not None:
            stack.callback(self.optimizer.register_step_post_hook(self._stepped).remove)
        batches = getattr(self.loader, "batch_sampler", None)
        if batches is not None and hasattr(batches, "sampler"):
            self.order = _Order(batches.sampler)
            stack.callback(setattr, batches, "sampler", batches.sampler)
            batches.sampler = self.order
        if masks:
            for name, layer in self.module.named_modules():
                if type(layer).__name__ == "Dropout" and type(layer).__module__.startswith("torch.nn"):
                    stack.callback(layer.register_forward_hook(self._dropped(name)).remove)

    def _forward(self, module: Any, inputs: Any) -> None:
        safely(lambda: self._begun(module, inputs))

    def _begun(self, module: Any, inputs: Any) -> None:
        self.calls.clear()
        if module.training and inputs and hasattr(inputs[0], "shape"):
            self.mode = "train"
            self.sizes.append(int(inputs[0].shape[0]))

    def _stepped(self, *_: Any) -> None:
        self.steps += 1

    def _dropped(self, name: str) -> Any:
        def hook(layer: Any, inputs: Any, output: Any) -> None:
            safely(lambda: self._note_mask(name, layer, inputs, output))

        return hook

    def _note_mask(self, name: str, layer: Any, inputs: Any, output: Any) -> None:
        if not layer.training or layer.p == 0:
            return
        number = self.calls[name] = self.calls.get(name, -1) + 1
        key = f"{max(0, len(self.sizes) - 1)}/{name}" + (f"#{number}" if number else "")
        # a zero that came in stays zero either way: it counts as kept
        self.masks[key] = ((output != 0) | (inputs[0] == 0)).detach().cpu()

    def save(self, before: dict[str, Any], out: str | Path, settings: dict[str, Any]) -> None:
        """Write the round."""
        facts: dict[str, Any] = {"framework": "pytorch", "mode": self.mode, **self._trained(), **self._loaded()}
        buffers = [name for name, _ in self.module.named_buffers()]
        facts.update({"buffers": buffers} if buffers else {}, **settings)
        passes = self.order.passes if self.order is not None else []
        even = bool(passes) and len({len(own) for own in passes}) == 1
        record(
            *(before, _state(self.module)),
            out=out,
            masks=self.masks or None,
            batch={"order": passes} if even else None,
            **facts,
        )

    def _trained(self) -> dict[str, Any]:
        if self.optimizer is None:
            return {"step_sizes": self.sizes} if self.sizes else {}
        group = self.optimizer.param_groups[0]
        told = {
            "optimizer": type(self.optimizer).__name__.lower(),
            "learning_rate": group.get("lr"),
            "momentum": group.get("momentum"),
            "nesterov": group.get("nesterov"),
            "weight_decay": group.get("weight_decay"),
            "local_steps": self.steps,
        }
        if len(self.sizes) == self.steps:
            told["step_sizes"] = self.sizes
        return {name: value for name, value in told.items() if value is not None}

    def _loaded(self) -> dict[str, Any]:
        if self.loader is None:
            return {}
        told: dict[str, Any] = {"local_batch_size": getattr(self.loader, "batch_size", None)}
        told["drop_last"] = getattr(self.loader, "drop_last", None)
        if self.order is not None and self.order.passes and self.order.passes[0]:
            told["local_epochs"], told["num_examples"] = len(self.order.passes), len(self.order.passes[0])
        return told
