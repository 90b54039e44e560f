"""NVFlare: a filter of task results that records what a client sends.

Registered last among a client's output filters of the task ``train`` it sees what leaves the client, after all others:
``job.to(nvflare_filter(out), "site-1", tasks=["train"], filter_type=FilterType.TASK_RESULT)``. In a configuration file
its path is ``leakaudit.capture.nvflare_recorder.RoundRecorder``, with the argument ``out``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def nvflare_filter(out: str | Path, **settings: Any) -> Any:
    """The filter, a ``DXOFilter`` of the installed NVFlare.

    Args:
        out: Folder of the rounds.
        settings: As of :func:`leakaudit.capture.record`.

    Raises:
        ImportError: NVFlare is not installed.
    """
    from leakaudit.capture.nvflare_recorder import RoundRecorder

    return RoundRecorder(str(out), settings)
