"""DLG finds the label and the sample together; iDLG is told the label by the update."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dlg import DESCENT, DLG
from leakaudit.attacks.idlg import IDLG
from leakaudit.client.batch import Batch
from leakaudit.domains.images import Images
from leakaudit.reconstruction import NotApplicable
from tests.matching.build import cnn, observation_of, psnr


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def test_finds_label_and_sample_without_being_told(samples: Batch, space: Images) -> None:
    net, victim = cnn(), samples.subset([3])
    observation = replace(observation_of(net, victim, space), labels=torch.tensor([0]), label_source="inferred")
    result = DLG(replace(DESCENT, iterations=400))(net, observation, cpu_generator(0))
    assert result.labels.tolist() == victim.labels.tolist()
    assert psnr(space, result.inputs, victim) > 35


def test_idlg_recovers_with_the_label(samples: Batch, space: Images) -> None:
    net, victim = cnn(), samples.subset([2])
    result = IDLG(replace(DESCENT, iterations=400))(net, observation_of(net, victim, space), cpu_generator(0))
    assert psnr(space, result.inputs, victim) > 35


def test_idlg_is_for_one_sample(samples: Batch, space: Images) -> None:
    net = cnn()
    observation = observation_of(net, samples.subset([0, 1]), space)
    refusal = IDLG(IDLG.presets["quick"]).applies(net, observation)
    assert isinstance(refusal, NotApplicable)
    assert "the batch size is 2" in refusal.reason
    assert DLG(DLG.presets["quick"]).applies(net, observation) is None
