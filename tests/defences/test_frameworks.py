"""Filters of NVFlare and Flower: what they make of a difference of weights is what the frameworks' own code makes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from leakaudit.audit.victim import Knowledge, observe_victim
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.base import Defence, adapted, defended_protocol
from leakaudit.defences.frameworks.base import FrameworkFilter
from leakaudit.defences.frameworks.flower import LocalDp
from leakaudit.defences.frameworks.nvflare import PercentilePrivacy
from leakaudit.defences.frameworks.svt import SVTPrivacy
from leakaudit.defences.gaussian import Opacus
from leakaudit.defences.misuse import Practice
from leakaudit.defences.names import runs_code, settings_of
from leakaudit.defences.registry import available
from leakaudit.defences.spec import parse_defence
from leakaudit.defences.units import sent
from leakaudit.document.status import MisuseKind
from leakaudit.domains.images import Images
from leakaudit.errors import UsageError
from leakaudit.observation import Observation
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target
from tests.cli.build import leakaudit

Arrays = Mapping[str, Any]
SHAPES = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "fc.weight": (5, 36), "temperature": ()}
GOLDEN = {
    "nvflare:PercentilePrivacy(percentile=90,gamma=0.01)": (31, 0.3123022, 0.01230217),
    "nvflare:PercentilePrivacy()": (263, 2.324404, 0.01230217),
    "nvflare:PercentilePrivacy(percentile=50,gamma=0.001,steps=4)": (148, 0.6003022, 0.01230217),
    "nvflare:SVTPrivacy()": (29, 0.0194981, 0.01230217),
    "nvflare:SVTPrivacy(fraction=0.3,gamma=0.01,tau=0.001,epsilon=50,noise_var=20,steps=7)": (70, 1.331695, 0.07136224),
    "nvflare:SVTPrivacy(fraction=0.3,replace=False,epsilon_threshold=0.04)": (89, 0.0318396, 0.01230217),
    "nvflare:SVTPrivacy(epsilon_query=0.03,epsilon_release=5)": (29, 0.01595988, 0.01230217),
    "flower:LocalDpMod(clipping_norm=0.2,sensitivity=0.2,epsilon=2,delta=1e-05)": (293, 108.5846, 1.306834),
    "flower:fixedclipping(clipping_norm=0.2)": (293, 2.717832, 0.03341032),
}
"""Of what NVFlare 2.9 and Flower 1.42 make of `difference()`: entries that are not zero, sum and largest of
magnitudes."""


def arrays(scale: float, seed: int) -> dict[str, Any]:
    random = np.random.RandomState(seed)
    return {name: np.asarray(scale * random.normal(size=shape), dtype=np.float32) for name, shape in SHAPES.items()}


def difference() -> dict[str, Any]:
    return arrays(0.02, 3)


def ours(defence: Defence, given: Arrays) -> dict[str, Any]:
    own: Any = defence
    random = () if isinstance(defence, PercentilePrivacy) else (np.random.RandomState(11),)
    return dict(own.filtered(given, *random))


@pytest.mark.parametrize("text", GOLDEN)
def test_a_filter_makes_what_the_framework_makes(text: str) -> None:
    defence = parse_defence(text)
    found = np.concatenate([np.ravel(array) for array in ours(defence, difference()).values()]).astype(np.float64)
    count, total, largest = GOLDEN[text]
    assert np.count_nonzero(found) == count
    assert np.abs(found).sum() == pytest.approx(total, rel=1e-5)
    assert np.abs(found).max() == pytest.approx(largest, rel=1e-5)
    assert parse_defence(str(defence)) == defence


def nvflare(name: str, settings: Mapping[str, Any]) -> Arrays:
    """What NVFlare's own filter of this name makes of `difference()`."""
    module = {"PercentilePrivacy": "percentile_privacy", "SVTPrivacy": "svt_privacy", "ExcludeVars": "exclude_vars"}
    filters = pytest.importorskip(f"nvflare.app_common.filters.{module[name]}", reason="NVFlare is not installed")
    from nvflare.apis.dxo import DXO, DataKind, MetaKey
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.shareable import Shareable

    dxo = DXO(DataKind.WEIGHT_DIFF, difference())
    own = dict(settings)
    if "steps" in own:
        dxo.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, own.pop("steps"))
    np.random.seed(11)  # noqa: NPY002
    found: Arrays = getattr(filters, name)(**own).process_dxo(dxo, Shareable(), FLContext()).data
    return found


@pytest.mark.parametrize("text", [text for text in GOLDEN if "nvflare" in text])
def test_nvflare_itself_makes_the_same_to_the_last_bit(text: str) -> None:
    defence = parse_defence(text)
    changed = {f: v for f, v in defence.settings.items() if v != type(defence).__dataclass_fields__[f].default}
    if isinstance(defence, PercentilePrivacy):
        changed |= {"percentile": defence.percentile, "gamma": defence.gamma}
    theirs = nvflare(defence.name.partition(":")[2], changed)
    found = ours(defence, difference())
    assert set(theirs) == set(found)
    assert all(np.array_equal(theirs[name], found[name]) for name in theirs)


def test_nvflare_itself_excludes_the_same() -> None:
    for own, text in (("^conv", "^conv"), (["fc.weight", "temperature"], "[fc.weight,temperature]")):
        defence = parse_defence(f"nvflare:ExcludeVars(exclude_vars={text})")
        kept = [name for name in SHAPES if not defence.excludes(name)]  # type: ignore[attr-defined]
        assert kept == list(nvflare("ExcludeVars", {"exclude_vars": own}))


@pytest.mark.parametrize("text", [text for text in GOLDEN if "flower" in text])
def test_flower_itself_makes_the_same_but_for_one_rounding(text: str) -> None:
    """Through the mods; Flower adds the clipped difference to the weights before the noise, here after it."""
    flower = pytest.importorskip("flwr.app", reason="Flower is not installed")
    from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    before, defence = arrays(0.1, 4), parse_defence(text)
    after = {name: np.asarray(before[name] + array) for name, array in difference().items()}

    def record(values: Arrays) -> Any:
        return flower.ArrayRecord({name: flower.Array(value) for name, value in values.items()})

    def app(message: Any, context: Any) -> Any:
        metrics = flower.MetricRecord({"num-examples": 4})
        return flower.Message(flower.RecordDict({"arrays": record(after), "metrics": metrics}), reply_to=message)

    content = {"arrays": record(before), "config": flower.ConfigRecord({"clipping_norm": 0.2})}
    message = flower.Message(flower.RecordDict(content), dst_node_id=7, message_type="train", group_id="3")
    own = defence.settings
    mod = fixedclipping_mod
    if isinstance(defence, LocalDp):
        mod = LocalDpMod(own["clipping_norm"], own["sensitivity"], own["epsilon"], own["delta"])
    np.random.seed(11)  # noqa: NPY002
    (reply,) = mod(message, None, app).content.array_records.values()
    found = ours(defence, {name: np.asarray(after[name] - before[name]) for name in before})
    for name, array in reply.items():
        np.testing.assert_allclose(array.numpy(), before[name] + found[name], rtol=0, atol=3e-7)
    assert float(reply["temperature"].numpy()) == float(after["temperature"]), "single numbers pass as they are"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nvflare:PercentilePrivacy(percentile=101)", "expected 0 to 100"),
        ("nvflare:PercentilePrivacy(gamma=0)", "pass unfiltered"),
        ("nvflare:PercentilePrivacy(on=gradient)", "expected delta or weights"),
        ("nvflare:PercentilePrivacy(steps=0)", "expected at least 1"),
        ("nvflare:Percentile(gamma=1)", "no filter nvflare:Percentile"),
        ("nvflare:percentile=90", "no filter nvflare"),
        ("nvflare:SVTPrivacy(fraction=0)", "fraction is 0"),
        ("nvflare:SVTPrivacy(epsilon=1,epsilon_query=2)", "parts of epsilon"),
        ("nvflare:SVTPrivacy(epsilon=1,epsilon_query=0.2,epsilon_threshold=0.2)", "expected epsilon = 1"),
        ("nvflare:SVTPrivacy(noise_var=0)", "noise_var is 0"),
        ("nvflare:ExcludeVars(exclude_vars=()", "no regular expression"),
        ("nvflare:ExcludeVars()", "exclude_vars needs a value"),
        ("flower:LocalDpMod(clipping_norm=1)", "needs a value"),
        ("flower:LocalDpMod(clipping_norm=0,sensitivity=1,epsilon=1,delta=1e-5)", "clipping_norm is 0"),
        ("flower:LocalDpMod(clipping_norm=1,sensitivity=1,epsilon=0,delta=1e-5)", "epsilon is 0"),
        ("flower:LocalDpMod(clipping_norm=1,sensitivity=1,epsilon=1,delta=2)", "delta=2"),
        ("flower:fixedclipping(clipping_norm=1,noise_multiplier=1)", "say together"),
        ("flower:dp(clipping_norm=1)", "there are: flower:LocalDpMod"),
        ("opacus:clip=1", "noise multiplier"),
        ("opacus:multiplier=1,clip=1,per=update", "Opacus clips samples"),
        ("opacus:Engine(clip=1)", "no filter opacus:Engine"),
    ],
)
def test_a_filter_that_cannot_be_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--defence") as caught:
        parse_defence(text)
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_opacus_is_the_mechanism_in_its_units() -> None:
    found = parse_defence("opacus:multiplier=1.1,clip=1,expected-batch=8,rate=0.01,steps=1000")
    assert isinstance(found, Opacus)
    assert found == parse_defence(str(found)) == parse_defence(f"opacus:PrivacyEngine({str(found).partition(':')[2]})")
    same = parse_defence("clip=1,multiplier=1.1,expected-batch=8,rate=0.01,steps=1000")
    mine, theirs = found.guarantee(8, 0.01), same.guarantee(8, 0.01)
    assert mine is not None
    assert mine == theirs
    assert mine.epsilon == pytest.approx(1.5255, rel=0.01), "Opacus 1.6, PRV accountant"
    assert found.known_to(("dp",))


def test_they_are_listed_with_their_units() -> None:
    code, out, _ = leakaudit("defences")
    text = " ".join(out.split())
    assert code == 0
    for key in [key for key in available() if ":" in key]:
        assert key in out
    assert "gamma is a difference of weights per step" in text


FILTERS = (
    "nvflare:PercentilePrivacy(percentile=80,gamma=0.001)",
    "nvflare:PercentilePrivacy(percentile=80,gamma=0.2,on=weights)",
    "nvflare:SVTPrivacy(gamma=0.01,tau=0.001,epsilon=5000,noise_var=50)",
    "nvflare:ExcludeVars(exclude_vars=3)",
    "flower:LocalDpMod(clipping_norm=0.01,sensitivity=0.01,epsilon=100,delta=1e-5)",
    "flower:fixedclipping(clipping_norm=0.01)",
    "flower:adaptiveclipping(clipping_norm=0.01)",
)


def round_of(target: Target, samples: Batch, space: Images, text: str, **settings: Any) -> tuple[Observation, Any, Any]:
    """What a client under a filter shares, and the differences of weights with and without it."""
    defence = parse_defence(text)
    protocol = defended_protocol(FedAvg(4, local_epochs=2, learning_rate=0.1, **settings), [defence])
    before = {name: tensor.detach() for name, tensor in target.parameters.items()}
    raw = observe(target, samples.subset(range(4)), protocol, space).update
    seen = observe(target, samples.subset(range(4)), protocol, space, 0, [defence])
    return seen, sent(protocol, raw, before), sent(protocol, seen.update, before)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("text", FILTERS)
def test_it_acts_on_the_difference_of_weights(
    target: Target, samples: Batch, space: Images, text: str, decay: float
) -> None:
    """Whatever the learning rate divides it by: the same filter on the difference itself gives what is shared."""
    defence = parse_defence(text)
    _, raw, shared = round_of(target, samples, space, text, weight_decay=decay)
    generator = torch.Generator().manual_seed(0)
    step = type("Step", (), {"before": {n: t.detach() for n, t in target.parameters.items()}})()
    expected = defence.protect(raw, step, generator)
    assert set(expected) == set(shared)
    for name, tensor in expected.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-4, atol=2e-7)
    assert all(check.holds for check in defence.check(raw, shared))


@pytest.mark.parametrize("text", FILTERS)
def test_the_attacker_who_knows_it_regenerates_what_was_shared(
    target: Target, samples: Batch, space: Images, text: str
) -> None:
    """From the private samples the channel makes the shared update again, up to the noise that it is told of."""
    seen, _, _ = round_of(target, samples, space, text)
    protocol = seen.protocol
    _, known = adapted(target, seen, [parse_defence(text)])
    truth = observe(target, samples.subset(range(4)), protocol, space).update
    guess = known.shared(truth)
    plain = sum(float((truth[n] - g).square().sum()) for n, g in seen.update.items())
    rest = sum(float((guess[n] - g).square().sum()) for n, g in seen.update.items())
    entries = sum(g.numel() for g in seen.update.values())
    allowed = known.noise**2 * entries * 1.1 + 1e-3 * sum(float(g.square().sum()) for g in seen.update.values())
    assert rest <= allowed
    assert "Exclude" in text or rest < plain or known.noise


def test_a_gradient_has_no_difference_of_weights(target: Target, samples: Batch, space: Images) -> None:
    with pytest.raises(UsageError, match="acts on differences of weights") as caught:
        defended_protocol(FedSGD(1), [parse_defence("flower:fixedclipping(clipping_norm=1)")])
    assert "--learning-rate" in str(caught.value.hint)


def test_what_svt_promises_bounds_nothing() -> None:
    """Its own accountant's ε: threshold and queries share 0.1, and 0.1 goes to every shared entry."""
    defence = parse_defence("nvflare:SVTPrivacy()")
    assert isinstance(defence, SVTPrivacy)
    assert defence.shares(61706) == 6171
    assert sum(defence.budgets(6171)) == pytest.approx(0.1 + 617.1)
    assert "ε = 617.2" in defence.unbounded(61706)
    assert defence.scale(6171) == pytest.approx(2 * 1e-5 / 0.1)


@pytest.mark.parametrize(("epsilon", "kinds"), [(0.5, {"unaccounted"}), (8.0, {"unaccounted", "classic bound"})])
def test_the_classic_bound_is_told_apart(epsilon: float, kinds: set[str]) -> None:
    """σ = √(2 ln(1.25/δ))/ε, against the exact ε by Balle and Wang's condition in closed form."""
    defence = parse_defence(f"flower:LocalDpMod(clipping_norm=1,sensitivity=1,epsilon={epsilon},delta=1e-5)")
    assert isinstance(defence, LocalDp)
    found = list(defence.misuses(Practice(FedAvg(4))))
    assert {str(one.kind) for one in found} == kinds
    guarantee = defence.guaranteed(FedAvg(4), 0.01)
    assert guarantee is not None
    assert guarantee.unit == "client"
    assert delta_at(guarantee.epsilon, 1 / defence.level) == pytest.approx(1e-5, rel=1e-3)
    if epsilon > 1:
        (classic,) = [one for one in found if one.kind is MisuseKind.CLASSIC_BOUND]
        assert classic.grave == (guarantee.epsilon > epsilon)
        assert f"{guarantee.epsilon:.4g}" in classic.told


def delta_at(epsilon: float, mu: float) -> float:
    """δ(ε) of a Gaussian mechanism of sensitivity over deviation μ (Balle and Wang 2018, theorem 8)."""
    from scipy.stats import norm

    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


def test_every_filter_is_in_the_table_of_contracts() -> None:
    from tests.defences.build import EXAMPLES

    kinds = {type(parse_defence(text)) for text in EXAMPLES}
    assert {kind for kind in available().values() if issubclass(kind, FrameworkFilter)} <= kinds


def test_labels_are_inferred_through_a_filter(target: Target, samples: Batch, space: Images) -> None:
    """One sample, one step: pruned and cut as it is, the update still tells the label."""
    defence = parse_defence("nvflare:PercentilePrivacy(percentile=50,gamma=0.001)")
    protocol = FedAvg(1, learning_rate=0.1)
    knowledge = Knowledge(defences=(defence,))
    for number in range(5):
        private = samples.subset([number])
        victim = observe_victim(copy.copy(target), private, protocol, space, knowledge, number)
        assert victim.guess.labels.tolist() == private.labels.tolist()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nvflare:PercentilePrivacy(percentile=90,gamma=0.01)", False),
        ("nvflare:anything", False),
        ("flower:LocalDpMod", False),
        ("opacus:multiplier=1,clip=1", False),
        ("nvflare.evil:run", True),
        ("my_filters:apply", True),
        ("prune=0.9", False),
        ("share=a:b", False),
        ("clip=1,noise=0.1", False),
    ],
)
def test_a_framework_is_no_module_that_is_imported(text: str, code: bool) -> None:
    """So a policy that was found, not named, may name a filter, and still no function."""
    assert runs_code(text) is code


def test_settings_in_brackets_stay_together() -> None:
    assert settings_of("a=[x,y],b=(1,2),c") == ["a=[x,y]", "b=(1,2)", "c"]
    assert settings_of("clip=1,noise=2") == ["clip=1", "noise=2"]
