"""One setting of every defence."""

from __future__ import annotations

EXAMPLES = (
    "clip=1", "noise=1", "prune=0.9", "sign", "bits=8", "accumulate=2", "clients=2", "share=*", "soteria=0.5",
    "precode=8", "dropout=0.5",
)  # fmt: skip
