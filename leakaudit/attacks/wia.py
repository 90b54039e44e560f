"""WIA, the well-informed attacker: IG that knows the client's dropout masks (Scheliga et al. 2022, arXiv 2208.06163).

No server has this knowledge. The attack measures an upper bound of what hiding the masks protects: where DIA comes near
it, dropout protects nothing; where WIA itself fails, something else does.

The bound is on what the masks hide, under one descent: the preset quick descends as IG does, while DIA's also refines
by L-BFGS, and comes out above it where that pays (39 against 31 dB on a LeNet).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from leakaudit.attacks.ig import IG, IGSettings, refuse_batch_size
from leakaudit.attacks.reading.masks import masked_layers
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import NotApplicable
from leakaudit.target.dropout import keyed
from leakaudit.target.target import Target


class WIA(IG):
    """IG with the client's own dropout masks."""

    name: ClassVar[str] = "wia"
    title: ClassVar[str] = "WIA (well-informed: the client's dropout masks are given)"
    threat_model: ClassVar[ThreatModel] = "E"
    finding: ClassVar[str] = "LA205"
    needs: ClassVar[str] = "dropout in train mode, and the client's masks: an upper bound, not a threat"
    reference: ClassVar[str] = "Scheliga et al., Dropout is not all you need, AAAI 2023, arXiv 2208.06163"
    cost: ClassVar[int] = 55
    upper_bound: ClassVar[bool] = True
    # paper: the authors' shipped configuration (λ_tv 1e-5, 20,000 steps, plateau 800, stop after 4,000 or below 1e-5).
    presets: ClassVar[dict[str, IGSettings]] = {
        "quick": IGSettings(iterations=600, tolerance=1e-9, search=True),
        "standard": IGSettings(iterations=6000, tolerance=1e-9, search=True),
        "paper": IGSettings(iterations=20_000, tv_weight=1e-5, schedule="plateau", patience=4000, tolerance=1e-5),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs dropout in train mode and its masks."""
        layers = masked_layers(target, observation)
        if not layers:
            return NotApplicable(no_dropout(observation))
        missing = [layer.name for layer in layers if layer.key not in keyed(observation.masks or ())]
        if missing:
            return NotApplicable(f"the client's dropout masks are not given: {missing[0]}")
        return refuse_batch_size(target, observation)

    def given_masks(self, observation: Observation) -> Mapping[str, Tensor]:
        """The client's own."""
        return keyed(observation.masks or ())


def no_dropout(observation: Observation) -> str:
    """Why there are no masks to find."""
    if observation.protocol.mode != "train":
        return "dropout is off in eval mode: audit the train mode with --mode train"
    return "the model has no dropout"
