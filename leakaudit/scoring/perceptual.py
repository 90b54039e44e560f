"""LPIPS without a download: the learned perceptual distance, from weights that are already on this machine.

``lpips.LPIPS`` fetches its trunk from the internet by default, and a random trunk would give meaningless numbers. Here
the trunk comes from a file, and its content is checked against the hash of the published SqueezeNet 1.1 features; when
it is missing or another, LPIPS is not computed and the reason is reported.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.errors import UsageError
from leakaudit.safety.files import ordinary

INSTALL = "pip install leakaudit[lpips]"
HUB_FILE = "squeezenet1_1-b8a52dc0.pth"
FEATURES_SHA256 = "8f728f13ffc4c9ed6b00faa9362ec13d7d3520652d0a8357047045aba9def764"
SMALLEST = 32
"""Images with a shorter side are enlarged to this first; the trunk needs 31 pixels by definition of its layers."""


def find_weights() -> Path | None:
    """The SqueezeNet 1.1 checkpoint in torch's hub cache, if it is there."""
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    candidate = Path(home).expanduser() / "hub" / "checkpoints" / HUB_FILE
    return candidate if candidate.is_file() else None


class PerceptualDistance:
    """LPIPS v0.1 with the SqueezeNet trunk.

    Args:
        path: torchvision's SqueezeNet 1.1 checkpoint, or its ``features`` alone.

    Raises:
        UsageError: Not readable, not those weights, or the package lpips is not installed.
    """

    def __init__(self, path: Path) -> None:
        features = _read_features(path)
        if features_hash(features) != FEATURES_SHA256:
            raise UsageError(
                f"{path}: not the published SqueezeNet 1.1 features that LPIPS was calibrated on",
                f"pass torchvision's {HUB_FILE} to --lpips-weights",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision with arguments that torchvision deprecates
            lpips = _package()
            self.network = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval().requires_grad_(False)
        by_number = {name.split(".", 1)[1]: name for name in self.network.net.state_dict()}  # slice2.3.… → 3.…
        self.network.net.load_state_dict({by_number[key]: value for key, value in features.items()}, strict=True)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance of two pixel images (1, C, H, W) in 0..1 with C 1 or 3; a scalar, 0 for equal images."""
        with torch.no_grad():
            distance: Tensor = self.network(_prepare(first), _prepare(second), normalize=True)
        return distance.squeeze()


def installed() -> bool:
    """Whether the package lpips, an extra, is there."""
    return find_spec("lpips") is not None


def _package() -> Any:
    try:
        import lpips
    except ImportError as error:
        raise UsageError("--lpips-weights needs the package lpips, which does not load", INSTALL) from error
    return lpips


def _prepare(image: Tensor) -> Tensor:
    image = image.float().expand(-1, 3, -1, -1)
    side = min(image.shape[-2:])
    if side >= SMALLEST:
        return image
    scale = SMALLEST / side
    return F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)


def _read_features(path: Path) -> dict[str, Tensor]:
    """The trunk's tensors by their number in ``features``."""
    try:
        state = torch.load(ordinary(path), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable checkpoint ({error})", f"pass torchvision's {HUB_FILE}") from error
    if not isinstance(state, Mapping):
        raise UsageError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    prefixed = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
    return prefixed or dict(state)


def features_hash(features: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and float32 bytes of the trunk's tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(features):
        digest.update(name.encode())
        digest.update(features[name].float().contiguous().numpy().tobytes())
    return digest.hexdigest()
