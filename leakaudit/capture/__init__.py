"""Recording rounds in one's own federated-learning code, for `leakaudit scan model --round DIR`.

Everything here only looks: it changes nothing that is sent, and what goes wrong in it is a warning, never an error of
the training. Importing it loads neither torch nor a framework.
"""

from leakaudit.capture.flower import FlowerRecorder, flower_mod, recording_strategy
from leakaudit.capture.nvflare import nvflare_filter
from leakaudit.capture.record import CaptureWarning, record
from leakaudit.capture.training import pytorch_hook

__all__ = [
    "CaptureWarning",
    "FlowerRecorder",
    "flower_mod",
    "nvflare_filter",
    "pytorch_hook",
    "record",
    "recording_strategy",
]
