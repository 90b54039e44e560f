"""Adapters: a gradient of zero that shows nothing, and a span test that holds below their rank."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leakaudit
from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dager import Dager, DagerSettings
from leakaudit.attacks.reading.spans import outside_share
from leakaudit.capture import record
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.observation import Observation
from leakaudit.protocols.fedavg import FedAvg
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.reconstruction import Reconstruction
from leakaudit.risk.resting import resting
from leakaudit.target.load import load
from leakaudit.target.target import Target
from tests.attacks.lora import CLASSES, VOCABULARY, Adapted, warmed

ATTACK = Dager(DagerSettings())
PEFT = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("peft", "transformers")),
    reason="peft and transformers are not installed",
)


def seen(target: Target, length: int, seed: int = 0, protocol: Any = None) -> tuple[Observation, Tensor]:
    ids = torch.randperm(VOCABULARY - 1, generator=cpu_generator(seed))[:length].reshape(1, 1, 1, length) + 1
    batch = Batch(ids, torch.tensor([1]), (0,))
    observation = observe(target, batch, protocol or FedSGD(1), target.domain)
    return replace(observation, labels=batch.labels, label_source="given"), ids.flatten()


def read(target: Target, observation: Observation) -> Reconstruction:
    assert ATTACK.refusal(target, observation) is None
    return ATTACK(target, observation, cpu_generator(0))


def adapted(length: int, warm: bool = False, causal: bool = False) -> Target:
    module: nn.Module = Adapted(length, causal)
    return load(warmed(module) if warm else module, image_shape=(1, 1, length))


@pytest.mark.parametrize("warm", [False, True], ids=["first step", "later"])
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("length", [3, 5, 7])
def test_every_token_is_found_below_the_rank_and_none_is_false(length: int, causal: bool, warm: bool) -> None:
    target = adapted(length, warm, causal)
    for seed in range(2):
        observation, ids = seen(target, length, seed)
        tokens = read(target, observation).tokens
        assert tokens is not None
        assert tokens.found.tolist() == sorted(ids.tolist())


@pytest.mark.parametrize("length", [8, 12])
def test_from_the_rank_on_it_is_undecided_and_never_a_list(length: int) -> None:
    target = adapted(length)
    observation, _ = seen(target, length)
    result = read(target, observation)
    assert result.tokens is not None
    assert not len(result.tokens.found)
    assert not result.exact
    assert "undecided" in result.notes[0]


def test_the_gradient_of_a_is_zero_at_first_and_that_is_said() -> None:
    target = adapted(5)
    observation, _ = seen(target, 5)
    silent = [name for name, gradient in observation.update.items() if not bool(gradient.any())]
    assert [name for name in silent if "lora_A" in name]
    assert set(resting(target)) == set(silent)
    assert resting(adapted(5, warm=True)) == ()


def test_the_first_place_of_a_causal_model_is_missing_in_the_queries() -> None:
    """A softmax over one key has no slope: only the values show every token."""
    target = adapted(6, causal=True)
    observation, _ = seen(target, 6)
    ranks = {
        name: int(torch.linalg.matrix_rank(gradient.double(), rtol=1e-6))
        for name, gradient in observation.update.items()
        if "layers.0" in name and "lora_B" in name
    }
    assert ranks == {"layers.0.q.lora_B.default.weight": 5, "layers.0.v.lora_B.default.weight": 6}


def test_after_local_steps_only_inputs_that_stay_are_tested() -> None:
    """A moves from step to step, so A x does too; x itself does not."""
    target = adapted(5, warm=True)
    observation, ids = seen(target, 5, protocol=FedAvg(1, local_epochs=3, learning_rate=0.05))
    result = read(target, observation)
    assert result.tokens is not None
    assert result.tokens.found.tolist() == sorted(ids.tolist())
    assert "lora_A" in result.notes[0]
    assert "lora_B" not in result.notes[0]


def test_an_input_of_zeros_is_no_token() -> None:
    """A padding token's embedding is zero, and lies in every span."""
    outside = torch.eye(3, dtype=torch.float64)[:, 1:2]
    assert outside_share(torch.zeros(1, 3), outside).tolist() == [[1.0]]


def transformer(kind: str, length: int) -> nn.Module:
    """A tiny model of transformers with random weights, adapted by peft."""
    import peft
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_labels": CLASSES}
    sizes["num_attention_heads"] = 4
    text = {**sizes, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "pad_token_id": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "llama":
            config: Any = transformers.LlamaConfig(num_key_value_heads=4, **text)
            net: Any = transformers.LlamaForSequenceClassification(config)
        elif kind == "bert":
            net = transformers.BertForSequenceClassification(transformers.BertConfig(**text))
        else:
            config = transformers.ViTConfig(image_size=12, patch_size=4, num_channels=3, **sizes)
            net = transformers.ViTForImageClassification(config)
        names = [
            name for name in ("q_proj", "v_proj", "query", "value") if any(name in n for n, _ in net.named_modules())
        ]
        task = {} if kind == "vit" else {"task_type": "SEQ_CLS"}
        kept = ["classifier"] if kind == "vit" else None
        settings = peft.LoraConfig(r=8, target_modules=names, modules_to_save=kept, **task)
        adapted: nn.Module = peft.get_peft_model(net, settings)
    return adapted


@PEFT
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("warm", [False, True], ids=["first step", "later"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("length", [5, 7])
def test_models_of_peft_are_read(length: int, kind: str, warm: bool) -> None:
    """Up to one token less than the rank, where a single dimension is outside the span and small gradients tilt it."""
    module = transformer(kind, length)
    target = load(warmed(module) if warm else module, image_shape=(1, 1, length))
    for seed in (0, 3):
        observation, ids = seen(target, length, seed)
        tokens = read(target, observation).tokens
        assert tokens is not None
        assert tokens.found.tolist() == sorted(ids.tolist())
    assert bool(resting(target)) != warm


@PEFT
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_adapted_vision_transformer_is_loaded_and_its_label_read() -> None:
    target = load(transformer("vit", 0), image_shape=(3, 12, 12))
    batch = Batch(torch.rand((1, 3, 12, 12), generator=cpu_generator(0)), torch.tensor([2]), (0,))
    observation = observe(target, batch, FedSGD(1), target.domain)
    guess = target.task.infer(target, observation, cpu_generator(0))
    assert guess.labels.tolist() == [2]
    assert guess.exact
    assert all("lora_A" in name for name in resting(target))


def saved_as_peft_does(module: nn.Module) -> dict[str, Tensor]:
    """Trained tensors under the names of ``get_peft_model_state_dict``, which name no adapter."""
    trained = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    return {f"base_model.model.{name.replace('.default', '')}": tensor for name, tensor in trained.items()}


def test_a_round_under_the_names_of_peft_is_read(tmp_path: Path) -> None:
    module, ids = warmed(Adapted(5)), torch.tensor([[4, 9, 2, 30, 17]])
    before = saved_as_peft_does(module)
    nn.functional.cross_entropy(module(ids), torch.tensor([1])).backward()
    torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1).step()
    settings: dict[str, Any] = {"learning_rate": 0.1, "local_epochs": 1, "num_examples": 1}
    record(before, saved_as_peft_does(module), out=tmp_path / "round", **settings)
    options: dict[str, Any] = {"attacks": ["dager"], "controls": "none", "input_shape": (1, 1, 5)}
    report = leakaudit.scan(warmed(Adapted(5)), round=tmp_path / "round", **options)
    assert {"prefix base_model.model. taken off the names", ".default put into the names"} <= {
        *report.protocol.update_notes
    }
    (result,) = next(entry for entry in report.attacks if entry.name == "dager").results
    assert "5 of 5 places unique" in " ".join(result.notes)
