"""Weight decay in a recorded update is taken out where it is given or fitted, and named where it is neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.client.rounds.decay import without_decay
from leakaudit.document.schema import Report
from leakaudit.errors import UpdateError, UsageError
from tests.conftest import smooth_images

DECAY, RATE = 5e-4, 0.1


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(ids).mean(1))
        return logits


def relu_mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 64), nn.ReLU(), nn.Linear(64, 5))


def sent(module: nn.Module, inputs: Tensor, labels: Tensor, decay: float = DECAY) -> tuple[dict[str, Tensor], ...]:
    """What a client with SGD and weight decay sends, (θ₀ - θ₁)/η; the gradient; the weights before."""
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimiser = torch.optim.SGD(module.parameters(), lr=RATE, weight_decay=decay)
    nn.functional.cross_entropy(module(inputs), labels).backward()  # type: ignore[no-untyped-call]
    gradient = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    optimiser.step()
    update = {name: (before[name] - p.detach()) / RATE for name, p in module.named_parameters()}
    module.load_state_dict(before)
    return update, gradient, before


def image_case() -> tuple[nn.Module, Tensor, Tensor]:
    return relu_mlp(), torch.from_numpy(smooth_images(1)), torch.tensor([3])


@pytest.mark.parametrize("given", [None, DECAY])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_it_is_subtracted(kind: str, given: float | None) -> None:
    module, inputs, labels = image_case()
    if kind == "text":
        module, inputs = Text(), torch.tensor([[3, 7, 7, 12, 30]])
    update, gradient, before = sent(module, inputs, labels)
    found, decay = without_decay(update, before, given)
    assert decay is not None
    assert decay.rate == pytest.approx(DECAY, rel=1e-3)
    assert (decay.rows > 10) is (given is None)
    for name, tensor in gradient.items():
        torch.testing.assert_close(found[name], tensor, atol=5e-6, rtol=1e-3)
        rows = tensor.reshape(len(tensor), -1)
        if tensor.dim() > 1:
            assert torch.equal(found[name].reshape(rows.shape).any(1), rows.any(1)), "untouched rows are exactly zero"


def test_biases_that_do_not_decay_are_left_alone() -> None:
    module, inputs, labels = image_case()
    update, gradient, before = sent(module, inputs, labels)
    partly = {name: update[name] if tensor.dim() > 1 else tensor for name, tensor in gradient.items()}
    found, decay = without_decay(partly, before, None)
    assert decay is not None
    assert not decay.one_axis
    assert torch.equal(found["1.bias"], gradient["1.bias"])


def test_nothing_is_made_up() -> None:
    module, inputs, labels = image_case()
    for case, decay in (
        (module, 0.0),
        (nn.Sequential(nn.Flatten(), nn.Linear(432, 64), nn.GELU(), nn.Linear(64, 5)), DECAY),
    ):
        update, _, before = sent(case, inputs, labels, decay)
        found, taken = without_decay(update, before, None)
        assert taken is None, "no row stayed, or every row was touched"
        assert all(torch.equal(found[name], tensor) for name, tensor in update.items())
    update, _, before = sent(module, inputs, labels)
    assert without_decay(update, before, 0.0)[1] is None


def audit(folder: Path, module: nn.Module, update: dict[str, Tensor], **more: object) -> Report:
    np.savez(folder / "update.npz", **{name: tensor.numpy() for name, tensor in update.items()})
    return leakaudit.scan(
        module, (smooth_images(1), np.array([3])), update=folder / "update.npz", attacks=["linear"], controls="none",
        input_shape=(3, 12, 12), **more,
    )  # fmt: skip


def test_the_report_says_what_was_taken_out_and_the_leak_is_found(tmp_path: Path) -> None:
    module, inputs, labels = image_case()
    update, _, _ = sent(module, inputs, labels)
    report = audit(tmp_path, module, update)
    assert report.protocol.weight_decay == pytest.approx(DECAY, rel=1e-3)
    assert "rows that nothing else touched" in report.protocol.weight_decay_note
    assert "LA501" not in {finding.id for finding in report.findings}
    given = audit(tmp_path, module, update, weight_decay=DECAY)
    assert given.protocol.weight_decay_note == "weight decay of 0.0005 was subtracted (as given)"


def test_where_it_cannot_be_fitted_the_auditor_names_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 16), nn.GELU(), nn.Linear(16, 5))
    update, _, _ = sent(module, torch.from_numpy(smooth_images(1)), torch.tensor([3]), 0.02)
    report = audit(tmp_path, module, update)
    assert report.protocol.weight_decay is None
    assert any("pass --weight-decay 0.02" in check.measured for check in report.claims[0].checks)


def test_what_it_is_for_is_said(tmp_path: Path) -> None:
    module, inputs, labels = image_case()
    with pytest.raises(UsageError, match="--weight-decay is taken out of a recorded update, and there is none"):
        leakaudit.scan(module, (smooth_images(1), [3]), weight_decay=DECAY, input_shape=(3, 12, 12), attacks=["linear"])
    with pytest.raises(UsageError, match=r"weight.decay is -1, expected 0 or more"):
        leakaudit.scan(module, (smooth_images(1), [3]), weight_decay=-1, input_shape=(3, 12, 12))
    _, _, before = sent(module, inputs, labels)
    only = {name: DECAY * tensor for name, tensor in before.items()}
    with pytest.raises(UpdateError, match="holds nothing beside weight decay"):
        audit(tmp_path, module, only)
