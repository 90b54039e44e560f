"""The filter that NVFlare loads by its path; importing it needs NVFlare."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import DataKind, MetaKey, from_shareable
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.fl_constant import FLContextKey
from nvflare.app_common.app_constant import AppConstants

from leakaudit.capture.record import CaptureWarning, folder_name, record, safely

_KINDS = {DataKind.WEIGHTS: "after", DataKind.WEIGHT_DIFF: "delta"}


class RoundRecorder(DXOFilter):  # type: ignore[misc]
    """Records the weights, or their difference, that leave the client; lets them pass unchanged.

    Args:
        out: Folder of the rounds.
        settings: As of :func:`leakaudit.capture.record`.
    """

    def __init__(self, out: str, settings: dict[str, Any] | None = None) -> None:
        super().__init__(supported_data_kinds=list(_KINDS), data_kinds_to_filter=list(_KINDS))
        self.out, self.settings = out, dict(settings or {})

    def process_dxo(self, dxo: Any, shareable: Any, fl_ctx: Any) -> None:
        """Record; nothing is returned, so the result goes on as it is."""
        safely(lambda: self._record(dxo, fl_ctx))

    def _record(self, dxo: Any, fl_ctx: Any) -> None:
        task = fl_ctx.get_prop(FLContextKey.TASK_DATA)
        if task is None:
            warnings.warn("the task's weights are not in the context: round not recorded", CaptureWarning, stacklevel=2)
            return
        before = dict(from_shareable(task).data)
        number, client = task.get_header(AppConstants.CURRENT_ROUND), fl_ctx.get_identity_name()
        facts = {
            "framework": "nvflare",
            "framework_version": version("nvflare"),
            "round": number,
            "client": client,
            "local_steps": dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND),
            "filters": [str(own) for own in dxo.get_filter_history() or []],
            **self.settings,
        }
        sent: dict[str, Any] = {_KINDS[dxo.data_kind]: dict(dxo.data)}
        record(before, out=Path(self.out) / folder_name(number, client), **sent, **facts)
