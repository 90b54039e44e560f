"""One value says what an audit was asked for, whichever way it was said."""

from __future__ import annotations

import inspect
import pickle
import re
import shlex
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import leakaudit
from leakaudit.audit.parameters import parameters
from leakaudit.audit.protocol import default_protocol
from leakaudit.audit.request import Request
from leakaudit.cli import cli
from leakaudit.cli.options.request import described
from leakaudit.errors import UsageError
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.sweeps.request import DefendRequest
from tests.audit.build import scan
from tests.conftest import small_mlp
from tests.protocols.two_steps import TwoSteps

FOLDER = Path("/data")
VALUES: dict[str, Any] = {
    "checkpoints": (FOLDER / "a.onnx", FOLDER / "b.onnx"),
    "batch": FOLDER / "other.npz",
    "defences": ("clip=1.0,noise=0.01", "prune=0.5"),
    "claims": ("sign",),
    "update": FOLDER / "-update.npz",
    "round": FOLDER / "round-1",
    "before": FOLDER / "before.npz",
    "weight_decay": 0.0005,
    "batch_size": 4,
    "victims": 3,
    "attacks": ("linear", "ig"),
    "preset": "paper",
    "settings": {"ig": {"iterations": "600", "learning_rate": "0.1"}, "dia": {"iterations": "2"}},
    "time_budget": 12.5,
    "controls": "none",
    "distractors": FOLDER / "others.npz",
    "distractors_needed": 7,
    "psnr_margin": 2.25,
    "lpips_margin": 0.3,
    "threat_model": "B",
    "seed": 11,
    "device": "cpu",
    "mean": (0.1234567890123, -0.5, 1e-9),
    "std": (0.25,),
    "layout": "NHWC",
    "values": "pixels",
    "resize": True,
    "schema": FOLDER / "schema.toml",
    "auxiliary": FOLDER / "public",
    "generator": "package.module:faces",
    "lpips_weights": FOLDER / "squeezenet.pth",
    "cache": False,
    "mode": "train",
    "share_bn_statistics": "running",
    "output": "logits",
    "frozen": ("conv1.*", "head"),
    "trained": ("norm.*",),
    "dropout": {"/relu/Relu": 0.5, "a=b": 0.25},
    "loss": "focal:gamma=2.0,weights=[1,2]",
    "task": "multi-label",
    "pos_weight": (2.0, 0.5),
    "batchnorm": "running",
    "input_shape": (3, 12, 12),
    "factory": "package.module:build",
    "trust": True,
    "unsafe_pickle": True,
}
"""Another value than the default for every parameter that has an option."""
DEFENDING = {
    "goal": "PSNR<15",
    "grid": ("prune=0.9", "sign"),
    "utility_data": FOLDER / "more.npz",
    "steps": 7,
    "utility_rate": 0.0123,
}
LOCAL: dict[str, Any] = {
    "samples": 24,
    "local_epochs": 2,
    "local_batch_size": 8,
    "learning_rate": 0.0123,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "optimizer": "rmsprop",
    "drop_last": True,
    "unknown": ("local_epochs", "local_batch_size"),
}
"""The same for local training, which most of them need a learning rate for."""
NOT_DECIDING = {"cache", "trust", "unsafe_pickle"}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Request]:
    """What the command line asks for; files need not be there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEAKAUDIT_CACHE", raising=False)
    for command in ("scan", "defend"):
        monkeypatch.setattr(f"leakaudit.cli.{command}.refuse_absent", lambda request: None)
    asked: list[Request] = []

    def take(request: Request, observer: object, **_: object) -> None:
        asked.append(request)
        raise click.Abort

    monkeypatch.setattr("leakaudit.api.scan", take)
    monkeypatch.setattr("leakaudit.api.defend", take)

    def run(*words: object, **environment: str) -> Request:
        result = CliRunner().invoke(cli, [str(word) for word in words], env=environment)
        assert asked, result.output
        return asked.pop()

    return run


def test_every_parameter_is_tried() -> None:
    unsaid = {"model", "protocol", "both_modes"}
    assert set(VALUES) | set(LOCAL) == set(parameters(Request)) - unsaid
    assert set(DEFENDING) == set(parameters(DefendRequest)) - set(parameters(Request))
    assert unsaid == {name for name, parameter in parameters(Request).items() if not parameter.option}


def words_of(name: str, value: Any, kind: type[Request] = Request) -> list[str]:
    parameter = parameters(kind)[name]
    if isinstance(value, bool):
        return [parameter.option if value else parameter.off]
    return [word for text in parameter.kind.words(value) for word in (parameter.option, text)]


def toml_of(name: str, value: Any, kind: type[Request] = Request) -> str:
    parameter = parameters(kind)[name]
    texts = parameter.kind.words(value)
    written = "[" + ", ".join(f"'{text}'" for text in texts) + "]" if parameter.kind.several else f"'{texts[0]}'"
    if isinstance(value, bool | int | float):
        written = str(value).lower()
    return f"{parameter.option.lstrip('-')} = {written}\n"


@pytest.mark.parametrize("name", VALUES)
def test_every_parameter_is_a_keyword_an_option_and_a_key(
    name: str, told: Callable[..., Request], tmp_path: Path
) -> None:
    value = VALUES[name]
    if name == "share_bn_statistics":
        assert Request(share_bn_statistics=value).protocol.shared_statistics == value
    common: dict[str, Any] = {"model": Path("model.onnx"), "batch": Path("batch.npz"), "cache": True}
    by_keyword = Request(**{**common, name: value})
    assert by_keyword.value_of(name) == value
    assert by_keyword != Request(**common)
    (tmp_path / "named.toml").write_text(toml_of(name, value))
    rest = [] if name == "batch" else ["--batch", "batch.npz"]
    assert told("scan", "model.onnx", *rest, *words_of(name, value)) == by_keyword
    assert told("scan", "model.onnx", *rest, "--policy", "named.toml") == by_keyword


def local_keywords(name: str) -> dict[str, Any]:
    """A setting of local training with those that it needs."""
    needed = {"learning_rate": 0.1, **({"momentum": 0.5} if name == "nesterov" else {})}
    return {**needed, name: LOCAL[name]}


@pytest.mark.parametrize("name", LOCAL)
def test_local_training_is_keywords_options_and_keys(name: str, told: Callable[..., Request], tmp_path: Path) -> None:
    keywords = local_keywords(name)
    common: dict[str, Any] = {"model": Path("model.onnx"), "batch": Path("batch.npz"), "cache": True}
    by_keyword = Request(**common, **keywords)
    assert isinstance(by_keyword.protocol, FedAvg)
    assert by_keyword.value_of(name) == LOCAL[name]
    assert (by_keyword.key() == Request(**common, learning_rate=0.1).key()) is False
    (tmp_path / "named.toml").write_text("".join(toml_of(own, value) for own, value in keywords.items()))
    words = [word for own, value in keywords.items() for word in words_of(own, value)]
    assert told("scan", "model.onnx", "--batch", "batch.npz", *words) == by_keyword
    assert told("scan", "model.onnx", "--batch", "batch.npz", "--policy", "named.toml") == by_keyword
    assert told(*by_keyword.command()[1:]) == by_keyword
    if name not in ("samples", "unknown"):
        told_by_file = "".join(f"{own} = {_toml(value)}\n" for own, value in keywords.items())
        (tmp_path / "clients.toml").write_text(told_by_file)
        assert told("scan", "model.onnx", "-b", "batch.npz", "--train-config", "clients.toml") == by_keyword


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def test_all_of_local_training_at_once(told: Callable[..., Request]) -> None:
    rest = {name: value for name, value in LOCAL.items() if name not in ("nesterov", "momentum", "unknown")}
    request = Request(model=Path("m.onnx"), batch=Path("b.npz"), cache=True, mode="train", momentum=0.5, **rest)
    assert request.protocol == FedAvg(24, "train", "none", 2, 8, 0.0123, 0.5, False, 5e-4, "rmsprop", True)
    assert told(*request.command()[1:]) == request
    assert pickle.loads(pickle.dumps(request)) == request
    assert replace(request, seed=1).protocol == request.protocol
    assert replace(request, local_epochs=3).protocol == replace(request.protocol, local_epochs=3)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"local_epochs": 2}, "local_epochs was given without a learning rate"),
        ({"optimizer": "adam"}, "optimizer was given without a learning rate"),
        ({"samples": 4}, "samples is 4, but clients share one gradient"),
        ({"learning_rate": 0.1, "batch_size": 4}, "batch_size was given beside local training"),
        ({"learning_rate": 0.1, "nesterov": True}, "nesterov True: expected only with sgd and a momentum"),
        ({"learning_rate": 0.1, "optimizer": "adam", "momentum": 0.9}, "momentum 0.9: expected none with adam"),
    ],
)
def test_settings_of_local_training_that_do_not_go_together(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Request(**keywords)


@pytest.mark.parametrize("name", DEFENDING)
def test_what_defend_adds_is_a_keyword_and_an_option(name: str, told: Callable[..., Request]) -> None:
    value = DEFENDING[name]
    common: dict[str, Any] = {"model": Path("model.onnx"), "batch": Path("batch.npz"), "cache": True}
    by_keyword = DefendRequest(**{**common, name: value, "preset": "quick"})
    assert by_keyword.value_of(name) == value
    said = told("defend", "model.onnx", "--batch", "batch.npz", *words_of(name, value, DefendRequest))
    assert said == by_keyword
    assert told(*by_keyword.command()[1:]) == by_keyword


def everything(told: Callable[..., Request], without: set[str]) -> list[str]:
    return [word for name, value in VALUES.items() if name not in without for word in words_of(name, value)]


@pytest.mark.parametrize(
    "words",
    [
        ("scan", "model.onnx", "--batch", "batch.npz"),
        ("scan", "-b", "batch.npz", "--checkpoints", "a.onnx", "b.onnx", "--mode", "both", "--no-cache"),
        ("scan", "model.onnx", "-b", "batch.npz", "--train-config", "clients.toml", "--mode", "eval"),
        ("scan", "model.onnx", "-b", "-batch.npz", "--mean=-0.5,0.1,1e-7", "--set", "ig.tv_weight=1e-4"),
        ("defend", "model.onnx", "-b", "batch.npz", "--target", "SSIM<0.5", "--preset", "standard"),
        ("scan", "model.onnx", *(word for name, value in VALUES.items() for word in words_of(name, value))),
    ],
    ids=range(6),
)
def test_the_way_to_reproduce_asks_for_the_same(
    words: tuple[str, ...], told: Callable[..., Request], tmp_path: Path
) -> None:
    (tmp_path / "clients.toml").write_text('mode = "train"\nloss = "bce"\nfrozen = ["a b"]\n[dropout]\n"/x" = 0.5\n')
    asked = told(*words)
    command = asked.command()
    assert command[:2] == ["leakaudit", words[0]]
    assert told(*shlex.split(shlex.join(command))[1:]) == asked
    assert told(*command[1:]).command() == command


def test_what_the_policy_and_the_environment_say_is_reproduced(told: Callable[..., Request], tmp_path: Path) -> None:
    (tmp_path / "leakaudit.toml").write_text('batch = "batch.npz"\nvictims = 2\nattack = ["linear"]\nfail-on = "low"\n')
    asked = told("scan", "model.onnx", LEAKAUDIT_SEED="7", LEAKAUDIT_INPUT_SHAPE="3,12,12")
    assert (asked.victims, asked.seed, asked.attacks, asked.input_shape) == (2, 7, ("linear",), (3, 12, 12))
    (tmp_path / "leakaudit.toml").unlink()
    assert told(*asked.command()[1:]) == asked


def test_a_request_is_a_frozen_value() -> None:
    request = Request(**VALUES)
    again = pickle.loads(pickle.dumps(request))
    assert again == request
    assert hash(again) == hash(request)
    assert pickle.loads(pickle.dumps(DefendRequest(**DEFENDING))) == DefendRequest(**DEFENDING)
    for field in fields(Request):
        with pytest.raises(FrozenInstanceError):
            setattr(request, field.name, None)


@pytest.mark.parametrize("name", VALUES)
def test_what_decides_a_result_changes_the_key(name: str) -> None:
    changed = Request(**{name: VALUES[name]} if name != "cache" else {"cache": True})
    assert changed != Request()
    assert (changed.key() == Request().key()) is (name in NOT_DECIDING)
    assert (changed.key("run") == Request().key("run")) is (name != "time_budget")


def test_the_protocol_decides_and_its_fields_can_be_asked_for() -> None:
    assert Request().protocol == default_protocol() == FedSGD(1)
    assert Request(batch_size=4, mode="train", share_bn_statistics="batch").protocol == FedSGD(4, "train", "batch")
    assert Request(protocol=FedSGD(4, "train")) == Request(batch_size=4, mode="train")
    slow = Request(protocol=Slow(4, rate=0.5))
    assert replace(slow, batch_size=1).protocol == Slow(1, rate=0.5)
    assert replace(slow, mode="both").modes == ("eval", "train")
    assert replace(replace(slow, mode="both"), mode="train").modes == ("train",)
    assert replace(replace(slow, mode="both"), seed=1).modes == ("eval", "train")
    assert len({slow.key(), Request(batch_size=4).key(), Request(protocol=Slow(4, rate=0.25)).key()}) == 3
    assert Request(learning_rate=0.1, weight_decay=0).value_of("weight_decay") == 0, "asked for, unlike nothing"
    assert Request(learning_rate=0.1).value_of("weight_decay") is None
    assert replace(slow, model="m.onnx", batch="b.npz").command() == [], "no option says such a protocol"


@dataclass(frozen=True)
class Slow(FedSGD):
    """A protocol with a setting of its own."""

    rate: float = 1.0


def test_equal_defences_have_one_key() -> None:
    assert Request(defences=["clip=1"]).key() == Request(defences=["clip=1.0"]).key()
    assert Request(defences=["clip=1", "sign"]).key() != Request(defences=["sign", "clip=1"]).key()


def test_presentation_is_no_part_of_a_request(told: Callable[..., Request]) -> None:
    common = ("scan", "model.onnx", "-b", "batch.npz", "--cache")
    shown = ("--out", "elsewhere", "-f", "csv", "-q", "--evidence", "none", "--fail-on", "never", "--paths", "full")
    assert told(*common) == told(*common, *shown)
    assert told(*common).key() == told(*common, *shown).key() != told(*common, "--seed", "1").key()


WRONG = {
    "batch_size": (0, "at least 1"),
    "victims": (1.5, "a whole number"),
    "attacks": ("ig", "a list of texts"),
    "defences": ([1], "a list of texts"),
    "preset": ("fast", "quick, standard or paper"),
    "settings": ({"ig": 3}, "settings by attack"),
    "time_budget": (0.0, "more than 0"),
    "psnr_margin": (float("nan"), "a number"),
    "seed": (-1, "at least 0"),
    "seed ": (True, "a whole number"),
    "mean": ("0.5", "a list of numbers"),
    "resize": (1, "True or False"),
    "auxiliary": (3, "a path"),
    "checkpoints": ("a.onnx", "a list of paths"),
    "mode": ("test", "eval, train or both"),
    "dropout": ({"a": 1.0}, "probabilities"),
    "input_shape": ((3, 0, 12), "sizes of one sample"),
    "output": ("", "a text"),
    "protocol": ("fedsgd", "a protocol"),
    "controls": (None, "quick, full or none"),
    "loss": ("hinge", "or module:function"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_cannot_be_is_one_line_with_its_keyword(name: str) -> None:
    value, expected = WRONG[name]
    keywords: dict[str, Any] = {name.strip(): value}
    with pytest.raises(UsageError) as caught:
        leakaudit.scan("model.onnx", "batch.npz", **keywords)
    assert caught.value.message.startswith(f"{name.strip()} is {value!r}, expected ")
    assert expected in caught.value.message
    with pytest.raises(UsageError):
        Request(**keywords)


@pytest.mark.parametrize("command", ["inspect", "rank"])
def test_a_command_of_one_model_takes_one_mode(command: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    result = CliRunner().invoke(cli, [command, str(tmp_path / "model.onnx"), "--mode", "both"])
    assert result.exit_code == 2
    assert "mode is 'both', expected eval or train" in result.output


@pytest.mark.parametrize(("function", "name", "meant"), [
    (leakaudit.scan, "batchsize", "batch_size"),
    (leakaudit.scan, "defenses", "defences"),
    (leakaudit.defend, "learnin_rate", "learning_rate"),
    (leakaudit.defend, "utility_rat", "utility_rate"),
])  # fmt: skip
def test_a_misspelt_keyword_is_one_line(function: Any, name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"no keyword named '{name}'") as caught:
        function("model.onnx", "batch.npz", **{name: 1})
    assert caught.value.hint == f"did you mean {meant}?"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"igg": {"iterations": "5"}}, "--set igg.iterations: no attack named 'igg'"),
        ({"ig": {"iteration": "5"}}, "--set ig.iteration: no such setting"),
        ({"dia": {"iterations": "x"}}, "--set dia.iterations=x: expected"),
    ],
)
def test_settings_of_what_is_not_there_are_refused_before_anything_is_read(
    settings: dict[str, dict[str, str]], message: str
) -> None:
    """Also those of an attack that is not run."""
    for function in (leakaudit.scan, leakaudit.defend):
        with pytest.raises(UsageError) as caught:
            function("absent.onnx", "absent.npz", attacks=["linear"], settings=settings)
        assert caught.value.message.startswith(message)


def test_on_the_command_line_they_are_a_usage_error(tmp_path: Path) -> None:
    for name in ("model.onnx", "batch.npz"):
        (tmp_path / name).touch()
    files = [str(tmp_path / "model.onnx"), "--batch", str(tmp_path / "batch.npz"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, ["scan", *files, "--set", "igg.iterations=5"])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert lines[-2] == "Error: --set igg.iterations: no attack named 'igg'"
    assert lines[-1] == "Hint:  did you mean ig?"
    assert len([line for line in lines if line.startswith(("Error", "Hint"))]) == 2


def test_help_shows_every_parameter() -> None:
    for function, kind in ((leakaudit.scan, Request), (leakaudit.defend, DefendRequest)):
        shown = inspect.signature(function).parameters
        assert set(shown) == {"observer", "running", "store", *parameters(kind)}
        assert set(parameters(kind)) <= set(described(kind)), "each has an entry in the docstring"


def test_what_a_model_in_memory_was_read_with_is_not_asked_for_again() -> None:
    target = leakaudit.load(small_mlp(), image_shape=(3, 12, 12))
    with pytest.raises(UsageError, match="frozen was given, but the Target was read before"):
        leakaudit.scan(target, ([], []), frozen=["1.*"])
    with pytest.raises(UsageError, match="factory was given, but the model is a module in memory"):
        leakaudit.scan(small_mlp(), ([], []), factory="package.module:build", input_shape=(3, 12, 12))
    with pytest.raises(UsageError, match="no batch"):
        leakaudit.scan(target)
    with pytest.raises(UsageError, match="no model"):
        leakaudit.scan(Request(batch="batch.npz"))
    with pytest.raises(UsageError, match="seed was given beside a request"):
        leakaudit.scan(Request(), seed=3)
    with pytest.raises(UsageError, match="a DefendRequest was given, expected a Request"):
        leakaudit.scan(DefendRequest())
    with pytest.raises(UsageError, match="a Request was given, expected a DefendRequest"):
        leakaudit.defend(Request())


def test_defend_takes_one_model_and_its_own_grid() -> None:
    for keywords in ({"mode": "both"}, {"checkpoints": ["a.onnx"]}, {"defences": ["sign"]}, {"update": "u.npz"}):
        with pytest.raises(UsageError):
            DefendRequest(**keywords)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--target 'PSNR'"):
        DefendRequest(goal="PSNR")
    each = DefendRequest(goal="PSNR<15", seed=3, protocol=Slow(4)).scanning()
    assert type(each) is Request
    assert each == Request(seed=3, protocol=Slow(4))


def test_an_audit_follows_the_protocol_that_it_is_asked_for() -> None:
    report = scan(small_mlp(), protocol=TwoSteps(2, rate=0.3), attacks=["ig", "rgap"], controls="none")
    assert (report.protocol.algorithm, report.protocol.steps, report.batch.batch_size) == ("two-steps", 2, 2)
    assert report.protocol.settings == {"rate": 0.3}
    status = {attack.name: attack.status for attack in report.attacks}
    assert (status["ig"], status["rgap"]) == ("run", "not_applicable")
    assert scan(small_mlp(), protocol=TwoSteps(2), batch_size=3, controls="none").batch.batch_size == 3


def test_one_place_decides_what_clients_do_by_default() -> None:
    package = Path(leakaudit.__file__).parent
    makes = re.compile(r"\bFedSGD\(\w")
    assert {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if makes.search(path.read_text(encoding="utf-8"))
    } == {"audit/protocol.py", "protocols/fedsgd.py"}
