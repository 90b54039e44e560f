"""Closed forms through known noise: they read what is there, stop where it ends, and never read noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from leakaudit.attacks.april import solve_patches
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.labels.infer import LabelGuess, infer_labels
from leakaudit.attacks.reading import noise as noise_module
from leakaudit.attacks.reading.noise import FALSE_ALARM, live_rows, noise_share, rank_limit, row_limit
from leakaudit.attacks.reading.rank_one import complete, leading
from leakaudit.attacks.reading.spans import span_rank, span_tilt
from leakaudit.attacks.registry import create
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.base import adapted, defended_model, defended_protocol
from leakaudit.defences.spec import parse_defence
from leakaudit.domains.images import Images
from leakaudit.domains.tokens import Tokens
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import NotApplicable, Reconstruction
from leakaudit.target.target import Target
from tests.attacks.exact import relu_mlp
from tests.conftest import make_target, smooth_images
from tests.texts import LENGTH, VOCABULARY, TextClassifier, random_ids, text_target

TEXTS = torch.tensor(random_ids(20, seed=3))[:, None, None, :]
IMAGES = torch.as_tensor(smooth_images(20)).float()


def known(
    target: Target, batch: Batch, space: Images, texts: tuple[str, ...], seed: int = 0
) -> tuple[Target, Observation, LabelGuess]:
    """What an attacker who knows the defences has: model, observation with inferred labels, and how they were read."""
    defences = [parse_defence(text) for text in texts]
    model = defended_model(target, defences, 3)
    protocol = defended_protocol(FedSGD(len(batch)), defences)
    raw = observe(model, batch, protocol, space, seed, defences)
    guess = infer_labels(model, replace(adapted(model, raw, defences)[1], update=raw.update), cpu_generator(1))
    model, seen = adapted(model, replace(raw, labels=guess.labels, label_source="inferred"), defences)
    return model, seen, guess


def text(index: int, *texts: str, positions: bool = True, seed: int = 0) -> tuple[Target, Batch, Observation]:
    batch = Batch(TEXTS[index : index + 1], torch.tensor([index % 4]), (index,))
    target = text_target(TextClassifier(positions=positions))
    model, seen, _ = known(target, batch, Tokens.of(LENGTH, VOCABULARY), texts, seed)
    return model, batch, seen


def attack(name: str, target: Target, seen: Observation) -> Reconstruction:
    chosen = create(name, "quick")
    refusal = chosen.refusal(target, seen)
    assert refusal is None, refusal
    return chosen(target, seen, cpu_generator(0))


def sets(name: str, *texts: str) -> tuple[int, int, int]:
    """Over all texts: token sets read in full, tokens read that are there, tokens read that are not."""
    full = right = wrong = 0
    for index in range(len(TEXTS)):
        target, batch, seen = text(index, *texts)
        reading = attack(name, target, seen).tokens
        assert reading is not None
        truth, found = set(batch.images.flatten().tolist()), set(reading.found.tolist())
        full, right, wrong = full + (truth == found), right + len(truth & found), wrong + len(found - truth)
    return full, right, wrong


@pytest.mark.parametrize("name", ["embedding", "dager"])
def test_noise_that_hides_no_row_hides_no_token(name: str) -> None:
    """The texts of the issue: rows of zeros are gone at any noise, and the longer rows tell all the same."""
    full, _, wrong = sets(name, "noise=1e-4")
    assert (full, wrong) == (20, 0)


def test_the_noise_at_which_token_sets_end() -> None:
    full, some, wrong = sets("embedding", "noise=1e-2")
    assert (full, wrong) == (0, 0)
    assert 0 < some < 40
    assert sets("embedding", "noise=0.1") == (0, 0, 0)


@pytest.mark.parametrize("texts", [("prune=0.9",), ("sign",), ("bits=8",), ("noise=1e-4", "prune=0.5")])
def test_other_defences_leave_the_rows_of_the_table(texts: tuple[str, ...]) -> None:
    full, _, wrong = sets("embedding", *texts)
    assert (full, wrong) == (20, 0)


def test_signs_of_a_noisy_update_tell_no_row() -> None:
    target, _, seen = text(0, "noise=1e-6", "sign")
    for name in ("embedding", "dager"):
        refusal = create(name, "quick").refusal(target, seen)
        assert isinstance(refusal, NotApplicable)
        assert "signs of a noisy update" in refusal.reason


def test_large_noise_is_never_read() -> None:
    """200 updates under noise that hides every row: not one token, by rows, by positions or by the span."""
    for seed in range(200):
        target, _, seen = text(seed % 20, "noise=1", seed=seed, positions=seed % 2 == 0)
        for name in ("embedding", "dager") if seed < 40 else ("embedding",):
            reading = attack(name, target, seen).tokens
            assert reading is not None
            assert len(reading.found) == 0, f"{name}, seed {seed}"
            assert not bool(reading.placed.any())


@pytest.mark.parametrize(("noise", "least"), [("noise=1e-6", 140), ("noise=1e-3", 100)])
def test_places_are_read_through_noise_and_none_is_wrong(noise: str, least: int) -> None:
    placed = 0
    for index in range(len(TEXTS)):
        target, batch, seen = text(index, noise)
        result = attack("dager", target, seen)
        assert result.tokens is not None
        read = result.tokens.placed[0]
        assert torch.equal(result.inputs.flatten()[read], batch.images.flatten()[read])
        placed += int(read.sum())
    assert placed >= least


def test_signs_place_no_token() -> None:
    for index in range(len(TEXTS)):
        target, _, seen = text(index, "sign")
        reading = attack("dager", target, seen).tokens
        assert reading is not None
        assert not bool(reading.placed.any())


def test_row_limits_hold_their_error_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a probability that can be seen, a row of noise passes as often as stated; at ours, none of a million does."""
    noise = 0.3 * torch.randn((100_000, 8), generator=cpu_generator(0))
    assert len(live_rows(noise, 0.3)) == 0
    assert FALSE_ALARM <= 1e-6
    assert row_limit(60, 8, 0.0) == 0
    assert row_limit(60, 8, 0.1, step=0.1) > row_limit(60, 8, 0.1)
    monkeypatch.setattr(noise_module, "FALSE_ALARM", 0.01)
    assert 900 < int((noise.norm(dim=1) > row_limit(1, 8, 0.3)).sum()) < 1100
    alarms = sum(len(live_rows(rows, 0.3)) > 0 for rows in noise.split(50))
    assert 5 < alarms < 35  # 20 of 2000 expected


def test_rank_limits_are_above_noise_and_below_a_signal_twice_as_large() -> None:
    limit = rank_limit(40, 60)
    for seed in range(200):
        noise = torch.randn((40, 60), generator=cpu_generator(seed), dtype=torch.float64)
        assert float(torch.linalg.matrix_norm(noise, 2)) < limit
    outer = torch.outer(torch.ones(40), torch.ones(60)).double() / (40 * 60) ** 0.5
    assert span_rank(noise + 2 * limit * outer, 1.0) == 1
    assert span_rank(noise, 1.0) == 0
    assert span_tilt(noise, 1.0) == 1.0
    assert 0.3 < span_tilt(noise + 2 * limit * outer, 1.0) < 0.7


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_ranks_through_noise(rank: int) -> None:
    generator = cpu_generator(rank)
    product = torch.randn((50, rank), generator=generator) @ torch.randn((rank, 30), generator=generator)
    noisy = product + 1e-3 * torch.randn((50, 30), generator=generator)
    assert span_rank(noisy) == 30  # what it is without knowing of the noise
    assert span_rank(noisy, 1e-3) == rank


def test_patches_are_solved_in_the_directions_that_are_more_than_noise() -> None:
    generator = cpu_generator(4)
    errors = torch.randn((64, 9), generator=generator).double()
    errors[:, 8] = errors[:, 7]  # rank 8
    patches = torch.randn((9, 12), generator=generator).double()
    noisy = errors + 1e-4 * torch.randn((64, 9), generator=generator)
    limit = 1e-4 * rank_limit(64, 9) / float(torch.linalg.matrix_norm(errors, 2))
    _, rank, _, _ = solve_patches(noisy, errors @ patches, 1e-6)
    assert rank == 9
    found, rank, _, misfit = solve_patches(noisy, errors @ patches, limit)
    assert rank == 8
    assert misfit < 1e-3
    assert float((found[:7] - patches[:7]).abs().max()) < 1e-2


def images(
    index: int, count: int, space: Images, *texts: str, module: nn.Module | None = None
) -> tuple[Target, Batch, Observation, LabelGuess]:
    rows = list(range(index, index + count))
    batch = Batch(IMAGES[rows], torch.tensor([i % 5 for i in rows]), tuple(rows))
    target = make_target(module or relu_mlp(64), (3, 12, 12), 5)
    model, seen, guess = known(target, batch, space, texts, index)
    return model, batch, seen, guess


def decibels(result: Reconstruction, batch: Batch, space: Images) -> list[float]:
    """PSNR of the row that is nearest to each sample."""
    pixels = space.decode(result.inputs).flatten(1)
    errors = torch.cdist(batch.images.flatten(1), pixels).square() / pixels.shape[1]
    return (-10 * errors.clamp_min(1e-12).log10()).max(1).values.tolist()


@pytest.mark.parametrize(
    ("texts", "bias", "least"),
    [
        (("noise=1e-3",), True, 55), (("noise=0.03",), True, 28), (("noise=1e-3",), False, 55),
        (("clip=0.1,noise=1e-4",), True, 40), (("bits=8",), True, 60), (("bits=4",), True, 33),
        (("prune=0.5",), True, 60), (("prune=0.9",), True, 22), (("share=*.weight",), True, 100),
        (("noise=1e-3", "share=*.weight"), True, 55), (("precode=8",), True, 100), (("clip=0.1",), True, 100),
    ],
)  # fmt: skip
def test_one_sample_is_read_off_the_first_layer_through(
    space: Images, texts: tuple[str, ...], bias: bool, least: float
) -> None:
    for index in range(3):
        target, batch, seen, _ = images(index, 1, space, *texts, module=relu_mlp(64, bias=bias))
        result = attack("linear", target, seen)
        assert min(decibels(result, batch, space)) > least
        if "noise" in "".join(texts):
            assert not result.exact
            assert result.notes[0].startswith("0 of 1 samples recovered exactly")


@pytest.mark.parametrize("text", ["noise=1", "clip=0.1,noise=0.1"])
def test_a_first_layer_that_is_no_more_than_noise_is_not_read(space: Images, text: str) -> None:
    for index in range(20):
        target, _, seen, _ = images(index, 1, space, text)
        result = attack("linear", target, seen)
        assert "is not told from its noise" in result.notes[0]
        assert bool((result.inputs == result.inputs.flatten()[0]).all())  # grey


@pytest.mark.parametrize(
    ("name", "text", "least"),
    [
        ("spear", "noise=1e-3", 40), ("spear", "noise=1e-5", 75), ("linear", "noise=1e-5", 60), ("spear", "bits=8", 50),
        ("spear", "clip=0.1", 100), ("linear", "clip=0.1", 100), ("spear", "clip=0.1,noise=1e-5", 40),
    ],
)  # fmt: skip
def test_batches_are_read_off_the_first_layer_through(space: Images, name: str, text: str, least: float) -> None:
    target, batch, seen, _ = images(0, 4, space, text)
    result = attack(name, target, seen)
    assert sorted(decibels(result, batch, space))[1] > least  # of one of the four there may be no unit alone


def test_batches_that_are_no_more_than_noise_are_not_read(space: Images) -> None:
    for index in range(10):
        target, _, seen, _ = images(index, 4, space, "noise=1")
        assert "has rank 0 for 4 samples" in attack("spear", target, seen).notes[0]
        assert "no unit of 1.weight is active for one sample alone" in attack("linear", target, seen).notes[0]


@pytest.mark.parametrize(
    ("name", "size", "text", "why"),
    [
        ("linear", 1, "sign", "only the signs"), ("spear", 1, "sign", "only the signs"), ("rgap", 1, "sign", "signed"),
        ("linear", 2, "prune=0.9", "pruned"), ("spear", 2, "prune=0.9", "pruned"), ("rgap", 1, "prune=0.9", "pruned"),
    ],
)  # fmt: skip
def test_algebra_that_a_defence_ends_is_refused(space: Images, name: str, size: int, text: str, why: str) -> None:
    target, _, seen, _ = images(0, size, space, text)
    refusal = create(name, "quick").refusal(target, seen)
    assert refusal is not None
    assert why in refusal.reason


@pytest.mark.parametrize("text", ["noise=0.02", "clip=0.1", "clip=0.1,noise=1e-3", "prune=0.9", "sign", "bits=4"])
def test_labels_through_a_defence_are_read_and_never_soft(space: Images, text: str) -> None:
    for index in range(10):
        _, batch, _, guess = images(index, 1, space, text)
        assert torch.equal(guess.labels, batch.labels)
        assert guess.soft is None
        assert guess.exact == ("noise" not in text)


def test_a_noisy_label_uses_the_whole_last_layer(space: Images) -> None:
    """The bias alone is one number a class; with features of some size it is right for fewer."""
    module = relu_mlp(64)
    module[1].weight.data.mul_(30)  # type: ignore[index, union-attr, operator]
    module[3].weight.data.div_(30)  # type: ignore[index, union-attr, operator]
    right = by_bias = 0
    for index in range(20):
        _, batch, seen, guess = images(index, 1, space, "noise=2", module=module)
        right += int(guess.labels[0] == batch.labels[0])
        by_bias += int(seen.update["3.bias"].argmin() == batch.labels[0])
    assert right == 20
    assert by_bias < 12


def test_a_label_whose_layer_is_no_more_than_noise_is_read_off_the_bias(space: Images) -> None:
    _, _, seen, guess = images(0, 1, space, "noise=0.5")
    assert guess.labels[0] == seen.update["3.bias"].argmin()
    assert guess.method == "sign of the last layer's noisy gradient"


def test_two_classes_are_told_by_the_bias_sign(space: Images) -> None:
    batch = Batch(IMAGES[:1], torch.tensor([1]), (0,))
    target = make_target(relu_mlp(64, classes=2), (3, 12, 12), 2)
    _, _, guess = known(target, batch, space, ("noise=1e-3",))
    assert guess.labels.tolist() == [1]


def outer() -> tuple[Tensor, Tensor, Tensor]:
    generator = cpu_generator(2)
    left, right = (1 + torch.rand(size, generator=generator, dtype=torch.float64) for size in (20, 30))
    left[::3] *= -1
    return torch.outer(left, right), left, right


def test_a_matrix_of_rank_one_is_completed_from_what_is_left_of_it() -> None:
    rows, bias, operand = outer()
    kept = torch.rand(rows.shape, generator=cpu_generator(5)) < 0.3
    whole, told = complete(rows * kept, bias * (bias.abs() > 1.5))
    assert torch.allclose(whole, rows, atol=1e-8)
    assert told is not None
    assert torch.allclose(told, bias, atol=1e-8)
    found = leading(whole, told, 0.0, 0.0)
    assert found.operand is not None
    assert torch.allclose(found.operand, operand, atol=1e-8)


def test_the_leading_direction_has_no_scale_where_the_bias_is_noise() -> None:
    rows, bias, operand = outer()
    drowned = leading(rows, bias + 1000 * torch.randn(20, generator=cpu_generator(3)), 1e-3, 1000.0)
    assert drowned.operand is None
    assert abs(float(drowned.direction @ operand) / float(operand.norm())) > 0.999
    assert leading(rows, None, 0.0, 0.0).operand is None


def test_the_residual_that_noise_leaves(space: Images) -> None:
    target, batch, seen, _ = images(0, 1, space, "noise=1e-2")
    regenerated = target.gradient(space.encode(batch.images), batch.labels)
    rest = sum(float((regenerated[n] - g).square().sum()) for n, g in seen.update.items()) ** 0.5
    whole = sum(float(g.square().sum()) for g in seen.update.values()) ** 0.5
    assert noise_share(seen) == pytest.approx(rest / whole, rel=0.05)
    assert noise_share(images(0, 1, space)[2]) == 0
