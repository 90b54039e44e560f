"""What each defence does to an update, and that its adaptive attacker sees the truth through it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator, relative_residual
from leakaudit.attacks.dlg import DESCENT, DLG
from leakaudit.attacks.ig import IG
from leakaudit.client.batch import Batch
from leakaudit.client.examine import examine
from leakaudit.client.observe import observe
from leakaudit.defences.base import Defence, adapted, defended_model, defended_protocol
from leakaudit.defences.quantisation import SignQuantisation
from leakaudit.defences.registry import available
from leakaudit.defences.spec import parse_defence
from leakaudit.domains.images import Images
from leakaudit.errors import ModelError, UsageError
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.protocols.private import clipped
from leakaudit.target import load
from leakaudit.target.splice import last_linear, layer_input, spliced
from leakaudit.target.target import Target
from tests.cli.build import export
from tests.conftest import make_target, small_cnn, small_mlp


def observed(target: Target, batch: Batch, space: Images, *texts: str) -> tuple[Target, Observation]:
    """The defended model and what it shares for a batch."""
    defences = tuple(parse_defence(text) for text in texts)
    model = defended_model(target, defences, seed=3)
    protocol = defended_protocol(FedSGD(len(batch)), defences)
    seen = observe(model, batch, protocol, space, 0, defences)
    return model, replace(seen, labels=batch.labels, label_source="given")


def norm(update: dict[str, Tensor]) -> float:
    return float(torch.cat([g.flatten() for g in update.values()]).norm())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic=1", "no defence begins with 'magic'"),
        ("prune=1.5", "expected at least 0 and less than 1"),
        ("prune=many", "expected float"),
        ("prune=0.9,bits=8", "prune has no setting 'bits'"),
        ("noise=0", "expected one of them above 0"),
        ("clip=1,per=batch", "expected sample or update"),
        ("clients=0", "expected 1 to 1000000"),
        ("share", "share needs a value: share=…"),
        ("prune", "prune needs a value: prune=…"),
        ("no_such_module:f", "No module named"),
        ("math:pi", "expected a function"),
    ],
)
def test_bad_text_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--defence") as caught:
        parse_defence(text)
    assert message in caught.value.message


@pytest.mark.parametrize("text", ["clip=1,noise=0.01", "prune=0.9", "sign", "bits=4", "clients=3", "share=*.weight"])
def test_a_defence_prints_as_it_was_written(text: str) -> None:
    assert str(parse_defence(str(parse_defence(text)))) == str(parse_defence(text))


def test_clipping_and_noise(target: Target, samples: Batch, space: Images) -> None:
    batch = samples.subset([0, 1, 2])
    raw = dict(observe(target, batch, FedSGD(3), space).update)
    _, by_update = observed(target, batch, space, "clip=0.01,per=update")
    assert norm(dict(by_update.update)) == pytest.approx(0.01, rel=1e-5)
    _, by_sample = observed(target, batch, space, "clip=0.01")
    single = [clipped(observe(target, samples.subset([i]), FedSGD(1), space).update, 0.01) for i in range(3)]
    for name, gradient in by_sample.update.items():
        assert torch.allclose(gradient, sum(s[name] for s in single) / 3, atol=1e-8)
    _, noisy = observed(target, batch, space, "noise=0.1")
    rest = torch.cat([(noisy.update[n] - raw[n]).flatten() for n in raw])
    assert float(rest.std()) == pytest.approx(0.1, rel=0.03)
    _, again = observed(target, batch, space, "noise=0.1")
    assert all(torch.equal(noisy.update[n], again.update[n]) for n in raw)


def test_pruning_signs_and_integers(target: Target, samples: Batch, space: Images) -> None:
    batch = samples.subset([0])
    raw = observe(target, batch, FedSGD(1), space).update
    for text in ("prune=0.9", "prune=0.9,scope=update"):
        _, pruned = observed(target, batch, space, text)
        flat = torch.cat([g.flatten() for g in pruned.update.values()])
        assert 0.89 < float((flat == 0).float().mean()) < 0.91
        assert all(torch.equal(g[g != 0], raw[n][g != 0]) for n, g in pruned.update.items())
    _, signs = observed(target, batch, space, "sign")
    assert all(len(g[g != 0].abs().unique()) <= 1 for g in signs.update.values())
    assert all(torch.equal(g.sign(), raw[n].sign()) for n, g in signs.update.items())
    _, integers = observed(target, batch, space, "bits=3")
    assert all(len(g.unique()) <= 8 for g in integers.update.values())


@pytest.mark.parametrize(
    ("text", "residual"),
    [("prune=0.9", 1e-6), ("clip=0.01", 1e-5), ("share=1.*", 1e-6), ("soteria=0.3", 1e-6), ("bits=16", 1e-3)],
)
def test_the_attacker_who_knows_sees_the_truth_fit(
    target: Target, samples: Batch, space: Images, text: str, residual: float
) -> None:
    batch = samples.subset([0])
    model, seen = observed(target, batch, space, text)
    knowing = adapted(model, seen, [parse_defence(text)])
    inputs = space.encode(batch.images)
    assert relative_residual(*knowing, Play(inputs, batch.labels)) < residual
    wrong = space.encode(samples.subset([5]).images)
    assert relative_residual(*knowing, Play(wrong, batch.labels)) > 0.1
    if text not in ("share=1.*", "bits=16"):
        assert relative_residual(model, seen, Play(inputs, batch.labels)) > 10 * residual


def test_channels_compose_last_defence_first(target: Target, samples: Batch, space: Images) -> None:
    texts = ("clip=0.01", "prune=0.5")
    batch = samples.subset([0])
    model, seen = observed(target, batch, space, *texts)
    knowing = adapted(model, seen, [parse_defence(t) for t in texts])
    assert relative_residual(*knowing, Play(space.encode(batch.images), batch.labels)) < 1e-5


def test_soteria_touches_columns_of_the_last_layer_only(target: Target, samples: Batch, space: Images) -> None:
    batch = samples.subset([0])
    raw = observe(target, batch, FedSGD(1), space).update
    _, seen = observed(target, batch, space, "soteria=0.5")
    assert torch.equal(seen.update["1.weight"], raw["1.weight"])
    hidden = (seen.update["3.weight"] == 0).all(0)
    assert int(hidden.sum()) == 16
    assert torch.equal(seen.update["3.weight"][:, ~hidden], raw["3.weight"][:, ~hidden])


@pytest.mark.parametrize("build", [small_mlp, small_cnn])
def test_precode_is_random_for_the_ignorant_and_exact_for_the_knowing(
    samples: Batch, space: Images, build: type[nn.Module]
) -> None:
    target, batch = make_target(build(), (3, 12, 12), 5), samples.subset([0])
    model, seen = observed(target, batch, space, "precode=8")
    inputs = space.encode(batch.images)
    assert relative_residual(model, seen, Play(inputs, batch.labels)) > 0.05
    knowing = adapted(model, seen, [parse_defence("precode=8")])
    assert relative_residual(*knowing, Play(inputs, batch.labels)) < 1e-5


def test_precode_leaves_dlg_no_label_to_find_and_no_error(samples: Batch, space: Images) -> None:
    target = make_target(small_cnn(), (3, 12, 12), 5)
    model, seen = observed(target, samples.subset([0]), space, "precode=8")
    knowing = adapted(model, seen, [parse_defence("precode=8")])
    result = DLG(replace(DESCENT, iterations=20, restarts=1))(*knowing, cpu_generator(0))
    assert result.match < 0.9


def test_precode_falls_to_the_attacker_who_knows_it(samples: Batch, space: Images) -> None:
    target, batch = make_target(small_cnn(), (3, 12, 12), 5), samples.subset([0])
    model, seen = observed(target, batch, space, "precode=8")
    attack = IG(replace(IG.presets["standard"], iterations=600))
    errors = []
    for model_, seen_ in ((model, seen), adapted(model, seen, [parse_defence("precode=8")])):
        found = attack(model_, seen_, cpu_generator(0))
        errors.append(float((space.decode(found.inputs) - batch.images).square().mean()))
    assert errors[1] < 1e-4 < errors[0]


def test_dropout_before_the_last_layer_of_an_onnx_file(tmp_path: Path, samples: Batch, space: Images) -> None:
    target = load(export(small_cnn(), tmp_path / "net.onnx"))
    model, seen = observed(target, samples.subset([0]), space, "dropout=0.5")
    assert seen.protocol.mode == "train"
    weight = str(last_linear(model).weight)
    dropped = (seen.update[weight] == 0).all(0)
    assert 0.4 < float(dropped.float().mean()) < 0.6
    plain = target.logits(space.encode(samples.images))
    assert torch.allclose(model.logits(space.encode(samples.images)), plain, atol=1e-6)


def test_a_module_spliced_in_front_of_a_layer(tmp_path: Path, samples: Batch, space: Images) -> None:
    target = load(export(small_cnn(), tmp_path / "net.onnx"))
    inputs, layer = space.encode(samples.images), last_linear(target)
    features = layer_input(target, layer, inputs)
    assert features.shape == (20, 1152)
    halved = spliced(target, layer, nn.Hardtanh(-0.01, 0.01))
    weight = target.parameters[str(layer.weight)]
    bias = target.parameters[str(layer.bias)]
    matrix = weight if weight.shape[0] == 5 else weight.T
    assert torch.allclose(halved.logits(inputs), features.clamp(-0.01, 0.01) @ matrix.T + bias, atol=1e-6)
    with pytest.raises(ModelError, match="no trainable fully connected layer"):
        last_linear(make_target(nn.Sequential(nn.Conv2d(3, 5, 12), nn.Flatten()), (3, 12, 12), 5))


def test_aggregation_multiplies_the_batch() -> None:
    defences = [parse_defence("clients=3"), parse_defence("accumulate=2")]
    assert defended_protocol(FedSGD(4), defences).batch_size == 24


def test_partial_sharing_of_nothing_is_refused(target: Target, samples: Batch, space: Images) -> None:
    with pytest.raises(UsageError, match="matches no shared tensor"):
        observed(target, samples.subset([0]), space, "share=conv*")


def halve(update: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    return {name: g / 2 for name, g in update.items()}


def broken(update: dict[str, Tensor], generator: torch.Generator) -> list[Tensor]:
    return list(update.values())


def test_a_users_own_defence(target: Target, samples: Batch, space: Images) -> None:
    batch, here = samples.subset([0]), "tests.defences.test_defences"
    raw = observe(target, batch, FedSGD(1), space).update
    _, seen = observed(target, batch, space, f"{here}:halve")
    assert all(torch.equal(g, raw[n] / 2) for n, g in seen.update.items())
    assert parse_defence(f"{here}:halve").adaptive == ""
    with pytest.raises(UsageError, match="returned list"):
        observed(target, batch, space, f"{here}:broken")


@pytest.mark.parametrize("text", ["clip=0.01,noise=0.001", "noise=0.01", "clip=0.01", "prune=0.9", "sign", "bits=8"])
def test_claims_hold_for_what_was_applied_and_fail_for_what_was_not(
    target: Target, samples: Batch, space: Images, text: str
) -> None:
    batch, defence = samples.subset([0]), parse_defence(text)
    _, seen = observed(target, batch, space, text)
    (evidence,) = examine(target, batch, seen, 0, [defence])
    assert all(check.holds for check in evidence.checks)
    assert (evidence.mse is not None) == (text == "clip=0.01,noise=0.001")
    raw = observe(target, batch, FedSGD(1), space)
    (unapplied,) = examine(target, batch, raw, 0, [defence])
    assert not all(check.holds for check in unapplied.checks)


def test_every_defence_of_the_command_line_has_a_title_a_reference_and_a_counterpart() -> None:
    for kind in available().values():
        assert issubclass(kind, Defence)
        assert all((kind.title, kind.reference, kind.adaptive))


def test_what_signs_ask_for(target: Target, samples: Batch, space: Images) -> None:
    batch = samples.subset([0])
    raw = observe(target, batch, FedSGD(1), space)
    _, seen = observed(target, batch, space, "sign")
    _, known = SignQuantisation().adapt(target, seen)
    assert known.one_bit
    gradients = {n: g.clone() for n, g in raw.update.items()}
    beyond = known.shared({n: 3 * g for n, g in seen.update.items()})
    assert all(torch.equal(beyond[n], g) for n, g in seen.update.items())
    wrong = {n: (-g).requires_grad_() for n, g in gradients.items()}
    error = sum(((known.shared(wrong)[n] - seen.update[n]).square().sum() for n in wrong), torch.zeros(()))
    pushes = torch.autograd.grad(error, list(wrong.values()))
    for (name, value), push in zip(wrong.items(), pushes, strict=True):
        entries = value.detach() != 0
        assert bool((push[entries] * value.detach()[entries] > 0).all()), f"{name}: a wrong sign is not pushed back"


def test_signs_are_met_with_a_heavier_prior_without_a_search(target: Target, samples: Batch, space: Images) -> None:
    _, seen = observed(target, samples.subset([0]), space, "sign")
    settings = replace(IG.presets["quick"], iterations=3, tv_weight=1e-4, search=False)
    signs = replace(SignQuantisation().adapt(target, seen)[1], labels=samples.labels[:1])
    assert any("total variation raised to 0.03" in note for note in IG(settings)(target, signs, cpu_generator(0)).notes)
    plain = replace(observe(target, samples.subset([0]), FedSGD(1), space), labels=samples.labels[:1])
    assert not IG(settings)(target, plain, cpu_generator(0)).notes
