"""Watching the operators that torch runs, without torch's compiler."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode whose ``__torch_dispatch__`` is no subject of ``torch.compile``: nothing of ours is compiled inside one.

    Torch wraps that method of other modes so that its compiler would leave it alone, and imports the compiler for that
    when the first operator runs: two seconds, whether or not anything is ever compiled.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
