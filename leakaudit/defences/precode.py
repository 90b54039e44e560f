r"""PRECODE: a variational bottleneck before the last layer makes every update random (Scheliga et al. 2022).

.. math:: h \mapsto D(\mu + \epsilon \odot e^{\lambda/2}), \qquad (\mu, \lambda) = E h, \quad \epsilon \sim N(0, I)

Matching the update through a model that draws another ε fails, which is what the defence's evaluation shows.

The adaptive attacker does not need ε. For one sample the gradient of E's bias *is* the error δ that arrives at E's
output, drawn noise included, so everything in front of the bottleneck has the exact gradient of the deterministic loss
:math:`\langle \delta, E h(x) \rangle` with δ known: matching that, over E and the layers before it, is the undefended
problem again, with h itself in the gradient of E. For more samples the errors are mixed; the attacker then takes ε = 0
and leaves the layers behind the bottleneck out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from leakaudit.defences.base import Defence
from leakaudit.observation import Observation
from leakaudit.target.splice import INSERTED, last_linear, spliced
from leakaudit.target.target import Target


class VariationalBottleneck(nn.Module):
    """Encoder, random sample, decoder.

    Args:
        features: Size of its input and output.
        width: Size of the bottleneck.
        generator: Of the initial weights.
    """

    def __init__(self, features: int, width: int, generator: Generator) -> None:
        super().__init__()
        self.encoder = nn.utils.skip_init(nn.Linear, features, 2 * width)  # type: ignore[no-untyped-call]
        self.decoder = nn.utils.skip_init(nn.Linear, width, features)  # type: ignore[no-untyped-call]
        for layer in (self.encoder, self.decoder):
            bound = layer.in_features**-0.5
            for tensor in (layer.weight, layer.bias):
                tensor.data = (torch.rand(tensor.shape, generator=generator) * 2 - 1) * bound
        self.generator: Generator | None = None
        """Where the client draws from; ``None`` takes ε = 0."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) to (B, features)."""
        mean, logarithm = self.encoder(features).chunk(2, dim=1)
        if self.generator is None:
            return self.decoder(mean)  # type: ignore[no-any-return]
        noise = torch.randn(mean.shape, generator=self.generator).to(mean)
        return self.decoder(mean + noise * (0.5 * logarithm).exp())  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Precode(Defence):
    """Put a variational bottleneck before the last layer.

    Args:
        precode: Width of the bottleneck; chosen, as in `benchmarks/results/defences.md` (2 images).
    """

    precode: int = 256

    name: ClassVar[str] = "precode"
    title: ClassVar[str] = "PRECODE (variational bottleneck)"
    adaptive: ClassVar[str] = "reads the error at the bottleneck off its bias and matches what lies before it"
    reference: ClassVar[str] = "Scheliga et al., PRECODE, WACV 2022, arXiv 2108.04725"
    order: ClassVar[int] = 60

    def __post_init__(self) -> None:
        if self.precode < 1:
            raise ValueError(f"precode is {self.precode}, expected at least 1")

    def model(self, target: Target, generator: Generator) -> Target:
        """The model with the bottleneck.

        Raises:
            ModelError: It has no fully connected layer to put it before.
        """
        layer = last_linear(target)
        bottleneck = VariationalBottleneck(int(layer.settings["in_features"]), self.precode, generator)
        return spliced(target, layer, bottleneck)

    @contextmanager
    def drawing(self, target: Target, generator: Generator) -> Iterator[None]:
        """The client's ε comes from the generator; everybody else has ε = 0."""
        bottleneck: Any = target.module.get_submodule(INSERTED)
        bottleneck.generator = generator
        try:
            yield
        finally:
            bottleneck.generator = None

    def adapt(self, target: Target, observation: Observation) -> tuple[Target, Observation]:
        """The part of the model before the bottleneck's sample, with the error there as a known linear loss."""
        encoder = f"{INSERTED}.encoder."
        if encoder + "bias" not in observation.update:
            return target, observation
        behind = [f"{INSERTED}.decoder.", f"model.{_layer_name(target)}"]
        kept = {n: g for n, g in observation.update.items() if not n.startswith(tuple(behind))}
        seen = replace(observation, update=kept)
        if observation.batch_size > 1:
            return target, seen
        values = {f.name: getattr(target, f.name) for f in fields(Target)}
        return KnownErrorTarget(**values, error=observation.update[encoder + "bias"]), seen

    @classmethod
    def grid(cls, batch_size: int, samples: int) -> tuple[str, ...]:
        """A bottleneck of 64."""
        return ("precode=64",)


def _layer_name(target: Target) -> str:
    weight = str(last_linear(target).weight)
    return weight.removeprefix("model.").rpartition(".")[0] or weight.removeprefix("model.")


@dataclass(frozen=True, eq=False)
class KnownErrorTarget(Target):
    """A target with a bottleneck, its loss replaced by the known error at the encoder's output.

    Args:
        error: δ, (2 · width,).
    """

    error: Tensor = field(default_factory=lambda: torch.empty(0))

    def loss(
        self,
        inputs: Tensor,
        labels: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        errors: Tensor | None = None,
    ) -> Tensor:
        """⟨δ, E h(x)⟩ of normalised images (1, C, H, W); neither labels nor errors at the outputs matter."""
        encoded: list[Tensor] = []
        bottleneck: Any = self.module.get_submodule(INSERTED)
        hook = bottleneck.encoder.register_forward_hook(lambda _, __, output: encoded.append(output))
        try:
            self.logits(inputs, parameters)
        finally:
            hook.remove()
        return (encoded[0] * self.error).sum()
