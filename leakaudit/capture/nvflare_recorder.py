"""The filter that NVFlare loads by its path; importing it needs NVFlare."""

from __future__ import annotations

import copy
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import DataKind, MetaKey, from_shareable
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.shareable import ReservedHeaderKey
from nvflare.app_common.app_constant import AppConstants

from leakaudit.capture.record import CaptureWarning, folder_name, record, safely

_KINDS = {DataKind.WEIGHTS: "after", DataKind.WEIGHT_DIFF: "delta"}


class RoundRecorder(DXOFilter):  # type: ignore[misc]
    """Records the weights, or their difference, that leave the client; lets them pass unchanged.

    NVFlare takes the task's weights out of the context before it filters the result, so they are kept when the task
    begins: NVFlare tells its filters, like all components, of every event.

    Args:
        out: Folder of the rounds.
        settings: As of :func:`leakaudit.capture.record`.
    """

    def __init__(self, out: str, settings: dict[str, Any] | None = None) -> None:
        super().__init__(supported_data_kinds=list(_KINDS), data_kinds_to_filter=list(_KINDS))
        self.out, self.settings = out, dict(settings or {})
        self.begun: tuple[dict[str, Any], Any] | None = None

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Keep what the task hands to the training."""
        if event_type == EventType.BEFORE_TASK_EXECUTION:
            self.begun = safely(lambda: _handed(fl_ctx))

    def process_dxo(self, dxo: Any, shareable: Any, fl_ctx: Any) -> None:
        """Record; nothing is returned, so the result goes on as it is."""
        safely(lambda: self._record(dxo, fl_ctx))

    def _record(self, dxo: Any, fl_ctx: Any) -> None:
        if self.begun is None:
            warnings.warn("the task came without weights: round not recorded", CaptureWarning, stacklevel=2)
            return
        (before, number), self.begun = self.begun, None
        client = fl_ctx.get_identity_name()
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


def _handed(fl_ctx: Any) -> tuple[dict[str, Any], Any] | None:
    """A copy of a task's weights, which a training may change in place, and the round; ``None`` without weights."""
    task = fl_ctx.get_prop(FLContextKey.TASK_DATA)
    if task is None or task.get_header(ReservedHeaderKey.CONTENT_TYPE) != "DXO":
        return None
    found = from_shareable(task)
    if found.data_kind != DataKind.WEIGHTS:
        return None
    return copy.deepcopy(dict(found.data)), task.get_header(AppConstants.CURRENT_ROUND)
