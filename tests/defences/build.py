"""One setting of every defence."""

from __future__ import annotations

EXAMPLES = (
    "clip=1", "noise=1", "prune=0.9", "sign", "bits=8", "accumulate=2", "clients=2", "share=*", "soteria=0.5",
    "precode=8", "dropout=0.5", "opacus:multiplier=0.01,clip=1",
    "nvflare:PercentilePrivacy(percentile=50,gamma=0.01)", "nvflare:ExcludeVars(exclude_vars=bias)",
    "nvflare:SVTPrivacy(gamma=0.01,tau=0.001,epsilon=5000,noise_var=50)",
    "flower:LocalDpMod(clipping_norm=1,sensitivity=1,epsilon=100,delta=1e-5)",
    "flower:fixedclipping(clipping_norm=1)", "flower:adaptiveclipping(clipping_norm=1)",
)  # fmt: skip
