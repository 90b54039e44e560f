"""DIA reads or finds the masks, and dropout protects against neither it nor WIA."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dia import DIA, DIASettings
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe_step
from leakaudit.defences.base import adapted
from leakaudit.defences.spec import parse_defence
from leakaudit.domains.images import Images
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import NotApplicable
from leakaudit.target.dropout import Dropout
from leakaudit.target.target import Target
from tests.attacks.dropout import dropout_net, dropped, linear_net, small_net
from tests.conftest import make_target
from tests.matching.build import StopAfter, psnr


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def test_with_all_masks_read_it_recovers_what_ig_does_not(samples: Batch, space: Images) -> None:
    target, victim = dropout_net(), samples.subset([3])
    observation = replace(dropped(target, victim, space), masks=None)
    settings = DIASettings(iterations=600, tolerance=1e-9, search=True)
    result = DIA(settings)(target, observation, cpu_generator(2))
    ignoring = IG(IGSettings(iterations=150, tv_weight=1e-5))(target, observation, cpu_generator(0))
    assert psnr(space, result.inputs, victim) > 35
    assert psnr(space, ignoring.inputs, victim) < 20
    assert result.notes[0] == "3 of 3 dropout masks read off the update, 0 optimised"


def test_without_reading_it_finds_masks_and_inputs_together(samples: Batch, space: Images) -> None:
    target, victim = linear_net(), samples.subset([3])
    observation = replace(dropped(target, victim, space), masks=None)
    settings = DIASettings(iterations=400, tv_weight=1e-5, read=False)
    result = DIA(settings)(target, observation, cpu_generator(0))
    plain = DIA(replace(settings, polish=False))(target, observation, cpu_generator(0))
    assert psnr(space, result.inputs, victim) > 30
    assert psnr(space, plain.inputs, victim) > 20
    assert result.match <= plain.match
    assert result.notes[0].startswith("0 of 1 dropout masks read off the update, 1 optimised")


def test_noise_that_hides_a_small_mask_does_not_make_it_known(samples: Batch, space: Images) -> None:
    target, victim = small_net(), samples.subset([3])
    given = dropped(target, victim, space)
    noise = {n: 1e-6 * torch.randn(g.shape, generator=cpu_generator(1)) for n, g in given.update.items()}
    observation = replace(given, update={n: g + noise[n] for n, g in given.update.items()}, masks=None)
    result = DIA(DIASettings(iterations=150, tv_weight=1e-5))(target, observation, cpu_generator(0))
    assert result.notes[0] == "0 of 1 dropout masks read off the update, 1 optimised"
    assert psnr(space, result.inputs, victim) > 60


def test_units_that_no_sample_keeps_are_left_out_of_the_search(samples: Batch, space: Images) -> None:
    target, victim = linear_net(), samples.subset([1, 3])
    given = dropped(target, victim, space)
    observation = replace(given, masks=None)
    settings = DIASettings(iterations=40, tv_weight=1e-5)
    result = DIA(settings)(target, observation, cpu_generator(0))
    plain = DIA(replace(settings, read=False, polish=False))(target, observation, cpu_generator(0))
    assert given.masks is not None
    nowhere = given.masks[0]["drop"].amax(0) == 0
    note = f"1 dropout masks optimised, {int(nowhere.sum())} units read off the update as dropped by all samples"
    assert result.notes[0] == note
    assert result.masks is not None
    assert plain.masks is not None
    assert not bool(result.masks[0]["drop"][:, nowhere].any())
    assert bool(plain.masks[0]["drop"][:, nowhere].any())


def test_all_iterations_are_counted(samples: Batch, space: Images) -> None:
    target = dropout_net()
    observation = replace(dropped(target, samples.subset([3, 4]), space), masks=None)
    settings = DIASettings(iterations=60, execution="eager", tolerance=0)
    one, two = (DIA(replace(settings, restarts=n))(target, observation, cpu_generator(0)).iterations for n in (1, 2))
    assert 55 <= one <= 60
    assert 1.5 * one <= two <= 120
    plain = replace(settings, restarts=3, polish=False, read=False)
    assert DIA(plain)(target, observation, cpu_generator(0)).iterations == 180


def map_net() -> Target:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 5, 2, 2), nn.GELU(), Dropout(0.25, label="map"), nn.Conv2d(8, 16, 5, 2, 2), nn.GELU()),
        *(nn.Flatten(), nn.Linear(144, 64), nn.GELU(), nn.Linear(64, 5)),
    )
    return make_target(net, (3, 12, 12), 5)


@pytest.mark.parametrize("steps", [1, 5, 6, 12, 30, 70, 85, 110])
def test_stopped_anywhere_it_returns_what_it_has_and_says_so(samples: Batch, space: Images, steps: int) -> None:
    target = map_net()
    observation = replace(dropped(target, samples.subset([3]), space), masks=None)
    settings = DIASettings(iterations=120, tv_weight=1e-5, execution="eager")
    result = DIA(settings)(target, observation, cpu_generator(0), StopAfter(steps))
    assert result.iterations == steps
    assert result.stopped == f"stopped after {steps} of 120 iterations"
    assert result.masks is not None
    assert float(result.masks[0]["map"].min()) >= 0
    assert float(result.masks[0]["map"].max()) <= 1


def test_stopped_in_the_second_trial_the_first_is_not_forgotten(samples: Batch, space: Images) -> None:
    target = map_net()
    observation = replace(dropped(target, samples.subset([3]), space), masks=None)
    settings = DIASettings(iterations=1000, tv_weight=1e-5, execution="eager")
    first, second = (DIA(settings)(target, observation, cpu_generator(0), StopAfter(n)) for n in (50, 51))
    assert torch.equal(first.inputs, second.inputs)
    assert second.match < 0.2


@pytest.mark.parametrize("iterations", [1, 2, 3, 9, 10, 25])
def test_does_no_more_than_asked(samples: Batch, space: Images, iterations: int) -> None:
    target = map_net()
    observation = replace(dropped(target, samples.subset([3]), space), masks=None)
    settings = DIASettings(iterations=iterations, execution="eager")
    result = DIA(settings)(target, observation, cpu_generator(0))
    assert 0.8 * iterations <= result.iterations <= iterations


def test_every_restart_is_used_by_l_bfgs_too(samples: Batch, space: Images) -> None:
    target = map_net()
    observation = replace(dropped(target, samples.subset([3]), space), masks=None)
    settings = DIASettings(iterations=400, tv_weight=1e-5, execution="eager", restarts=2)
    result = DIA(settings)(target, observation, cpu_generator(0))
    assert "L-BFGS matched better than signed Adam" in result.notes
    assert 650 < result.iterations <= 800


def test_of_signs_the_total_variation_holds_the_image_and_nothing_is_refined(samples: Batch, space: Images) -> None:
    target, sign = map_net(), parse_defence("sign")
    given = replace(dropped(target, samples.subset([3]), space), masks=None)
    observed = replace(given, update=sign.protect(given.update, None, None))
    knowing, seen = adapted(target, observed, [sign])
    result = DIA(DIASettings(iterations=150, tv_weight=1e-5))(knowing, seen, cpu_generator(0))
    assert any(note.startswith("total variation raised") for note in result.notes)
    assert not any("L-BFGS" in note or "refined" in note for note in result.notes)


def test_says_why_not(samples: Batch, space: Images, target: Target) -> None:
    with_dropout = dropout_net()
    observation = dropped(with_dropout, samples.subset([0]), space)
    attack = DIA(DIA.presets["quick"])
    assert attack.applies(with_dropout, observation) is None
    in_eval = replace(observation, protocol=FedSGD(1, "eval"))
    refusal = attack.applies(with_dropout, in_eval)
    assert refusal == NotApplicable("dropout is off in eval mode: audit the train mode with --mode train")
    assert attack.applies(target, observation) == NotApplicable("the model has no dropout")
    assert isinstance(attack.applies(replace(with_dropout, batch_sizes=(4,)), observation), NotApplicable)


def test_masks_of_a_map_follow_from_the_masked_activations(samples: Batch, space: Images) -> None:
    target, victim = map_net(), samples.subset([3])
    given = dropped(target, victim, space)
    observation = replace(given, masks=None)
    result = DIA(DIASettings(iterations=400, tv_weight=1e-5))(target, observation, cpu_generator(2))
    assert psnr(space, result.inputs, victim) > 19
    assert result.masks is not None
    assert given.masks is not None
    assert float((result.masks[0]["map"] == given.masks[0]["map"]).float().mean()) > 0.8
    assert result.iterations <= 400
    assert "L-BFGS matched better than signed Adam" in result.notes


def test_masks_of_every_step_are_found_with_the_inputs(samples: Batch, space: Images) -> None:
    """New masks in every local step: with unknown ones of its own for each, the sample comes out."""
    target, client = small_net(p=0.5), FedAvg(1, "train", local_epochs=2, learning_rate=0.1)
    observation, _ = observe_step(target, samples.subset([0]), client, space, seed=1)
    seen = replace(observation, labels=samples.labels[:1])
    found = DIA(DIASettings(iterations=300))(target, seen, cpu_generator(0))
    plain = IG(IGSettings(iterations=100))(target, seen, cpu_generator(0))
    assert found.masks is not None
    assert [set(step) for step in found.masks] == [{"drop"}, {"drop"}]
    errors = [float((space.decode(r.inputs) - samples.images[:1]).square().mean()) for r in (found, plain)]
    assert errors[0] < 0.2 * errors[1], errors
