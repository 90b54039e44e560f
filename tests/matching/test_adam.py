"""Steps of Adam and AdamW against torch's own classes."""

from __future__ import annotations

import pytest
import torch

from leakaudit.matching.adam import Adam
from tests.matching.build import imports_compiler


@pytest.mark.parametrize(("decoupled", "reference"), [(False, torch.optim.Adam), (True, torch.optim.AdamW)])
def test_steps_are_those_of_torch(decoupled: bool, reference: type[torch.optim.Optimizer]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in ((3, 4), (5,))]
    others = [value.clone().requires_grad_(True) for value in values]
    own, theirs = Adam(values, decoupled=decoupled), reference(others)  # type: ignore[call-arg]
    for number in range(10):
        gradients = [torch.randn(value.shape, generator=generator) for value in values]
        rate = 0.1 * 0.8**number
        for other, gradient in zip(others, gradients, strict=True):
            other.grad = gradient.clone()
        for group in theirs.param_groups:
            group["lr"] = rate
        own.step(gradients, rate)
        theirs.step()
    for value, other in zip(values, others, strict=True):
        assert torch.equal(value, other.detach())


def test_a_step_does_not_import_the_compiler() -> None:
    assert not imports_compiler(
        "from leakaudit.matching.adam import Adam", "Adam([torch.zeros(2)]).step([torch.ones(2)], 0.1)"
    )
    assert imports_compiler("torch.optim.Adam([torch.zeros(2)])")
