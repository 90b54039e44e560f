"""Derivatives of weighted outputs."""

from __future__ import annotations

import subprocess
import sys

import torch

from leakaudit.target.pullback import pullback


def test_it_is_what_autograd_gives() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    outputs = lambda: [x.sin() * 2, x.sum(1).square(), x.prod()]  # noqa: E731
    weights = [torch.rand_like(output) for output in outputs()]
    (expected,) = torch.autograd.grad(outputs(), x, weights)
    found = pullback(outputs(), x, weights)
    assert found is not None
    assert torch.equal(found, expected)
    other = torch.ones(2, requires_grad=True)
    assert pullback([other * 2], x, [torch.ones(2)]) is None


def test_it_does_not_import_what_torch_would() -> None:
    code = (
        "import sys, torch; from leakaudit.target.pullback import pullback; x = torch.ones(2, requires_grad=True); "
        "pullback([x * 2], x, [torch.ones(2)]); print('sympy' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False"]
