"""A torch module as a Target: input shape, output, dropout layers, batch sizes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import nn

from leakaudit.domains.base import Domain
from leakaudit.domains.tokens import Tokens
from leakaudit.errors import ModelError, UsageError, first_line
from leakaudit.safety.confined import refuse_exhaustion
from leakaudit.target import layout as layouts
from leakaudit.target.composed import compose
from leakaudit.target.consumer import consumer
from leakaudit.target.dropout import Dropout, dropout_layers, replace_dropout
from leakaudit.target.exported.module import ExportedModule
from leakaudit.target.functional import capture_functional
from leakaudit.target.heads import with_one_output
from leakaudit.target.outputs import check_outputs, maps
from leakaudit.target.patterns import check_patterns, matched
from leakaudit.target.probabilities import refuse_probabilities, several_labels, without_probabilities
from leakaudit.target.probe import batch_sizes, double_backward_note, run
from leakaudit.target.probing import probed
from leakaudit.target.reach import reach_note
from leakaudit.target.scripted import ScriptedModule
from leakaudit.target.several import Inputs, checked, taking_rows, with_levels
from leakaudit.target.target import FidelityNote, Layout, Target
from leakaudit.target.tokens import LENGTHS, find_table
from leakaudit.target.wrappers import unwrapped
from leakaudit.tasks.choose import told_by

ImageShape = tuple[int, ...]
DEFAULT_SHAPES: tuple[ImageShape, ...] = ((3, 32, 32), (1, 28, 28), (3, 64, 64), (3, 224, 224), (1, 32, 32), (1, 8, 8))
"""Image shapes tried where nobody says what a module takes."""


def from_module(
    module: nn.Module,
    image_shape: ImageShape | None,
    frozen: Sequence[str],
    mode: Literal["eval", "train"],
    **origin: Any,
) -> Target:
    """Describe a torch module; its dropout layers are replaced by `Dropout`, everything else is left as it is.

    Args:
        module: Takes images (B, C, H, W), vectors (B, D) or token ids (B, L), and returns logits (B, K).
        image_shape: ``(C, H, W)``, for token ids ``(1, 1, L)``; common ones are tried where it is missing.
        frozen: Patterns of names that are not trained.
        mode: Mode the module is left in.
        **origin: Fields of `Target` that say where the module came from, ``dropout``, probabilities by module, and
            ``asked_shape``, the shape that the user named where `image_shape` is the file's own, and ``output``, which
            of several outputs is audited, or which are.

    Raises:
        ModelError: It has nothing trainable, takes none of the shapes tried, or is no classifier.
    """
    label = origin.setdefault("name", type(module).__name__)
    origin.setdefault("format", "module")
    module = unwrapped(module, label)
    _float_parameters(module, label)
    module.eval()
    asked = origin.pop("asked_shape", image_shape)
    exported, dropout = origin.pop("exported_batch", None), origin.pop("dropout", None)
    said = origin.pop("inputs", None)
    inputs, chosen = _several(module, image_shape, said, label, exported or 1), origin.pop("output", None)
    layout: Layout
    if inputs is not None:
        module, native, layout = taking_rows(module, inputs), inputs.native, "flat"
        domain, vocabulary = inputs.domain(module, exported or 1, asked, label), None
        notes = [] if asked or said or inputs.picture is None else [_assumed(inputs.picture.shape)]
    else:
        native, layout, notes, tokens = _native(module, image_shape, exported or 1, label)
        if tokens is None:
            layout = layouts.settled(layout, native, consumer(module, native, exported or 1), asked)
        domain, vocabulary = layouts.domain_of(layout, native, asked, tokens)
    told, heads = with_one_output(module, mode, chosen, label, exported or 1, native, 0, vocabulary)
    notes += told
    replace_dropout(module)
    _keep_statistics(module)
    returned = (
        _returned(module, exported or 1, native, label, domain)
        if heads is None
        else heads.checked(exported or 1, label, domain.sides, domain.ids)
    )
    rigid = origin.pop("rigid", False)
    captured = capture_functional(module, native, vocabulary, exported if rigid and exported else 2)
    module = compose(captured, exported or 1, native, vocabulary)
    if dropout:
        insert_dropout(module, dropout, label)
    notes += _recurrent_dropout(module)
    sizes = (exported,) if rigid else batch_sizes(module.eval(), exported, native, vocabulary)
    if sizes is not None:
        text = f"the model accepts batches of {', '.join(map(str, sizes))} only"
        notes.append(FidelityNote("LA920", text, "export with a dynamic batch axis"))
    ending: list[FidelityNote] = []
    if heads is not None:
        heads.refuse_probabilities(module, sizes, native, vocabulary, domain.sides, label)
    elif maps(returned, domain.sides):
        refuse_probabilities(module, sizes[0] if sizes else 2, native, vocabulary, returned, domain.sides, label)
    else:
        module, ending = without_probabilities(module, sizes, native, vocabulary)
    if ending:
        returned = _returned(module, exported or 1, native, label, domain)
    notes += [*ending, *origin.pop("notes", [])]
    notes += reach_note(module, sizes, native, vocabulary, label)
    notes += double_backward_note(module, sizes, native, vocabulary)
    if prod(returned) == 1 and not ending:
        text = "the model has one output; it is taken for a binary classifier's logit"
        notes.append(FidelityNote("LA922", text, "if it is a number, say --task regression"))
    if mode == "train":
        _check_train_mode(module, sizes[0] if sizes else 2, native, label, vocabulary)
    task, evidence = told_by(returned, sigmoid=several_labels(module), places=domain.sides, ids=domain.ids)
    module.train(mode == "train")
    if mode == "train":
        notes += _unrecorded_randomness(module, sizes[0] if sizes else 2, native, vocabulary)
    names = [name for name, _ in module.named_parameters()]
    check_patterns(frozen, names, label)
    excluded = tuple(name for name in names if matched(name, frozen))
    return Target(
        module=module,
        native_shape=native,
        layout=layout,
        domain=domain,
        task=task if heads is None else heads.over(task),
        task_evidence=evidence,
        fidelity=tuple(sorted(notes, key=lambda note: note.id)),
        batch_sizes=sizes,
        frozen=excluded,
        **origin,
    )


def _float_parameters(module: nn.Module, label: str) -> None:
    """Compute in float32; refuse a module without trainable tensors."""
    if not any(p.requires_grad for p in module.parameters()):
        raise ModelError(f"{label} has no trainable tensors", "set requires_grad on what the client trains")
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters()):
        module.float()


def _keep_statistics(module: nn.Module) -> None:
    """BatchNorm still normalises with the batch in train mode, but no longer updates its running statistics.

    The update has no influence on the gradient of the same step, and a forward must not change the model.
    """
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is not None:
            child.track_running_stats = False


def _native(
    module: nn.Module, image_shape: ImageShape | None, batch: int, label: str
) -> tuple[tuple[int, ...], Layout, list[FidelityNote], Tokens | None]:
    """The native input shape: the given image shape, or the first common one that works; image, vector or token ids."""
    errors: list[str] = []
    tries = _given(image_shape) if image_shape else _usual(module)
    for native, layout in tries:
        try:
            run(module, batch, native)
        except (RuntimeError, ValueError, TypeError, IndexError, ModelError) as error:
            refuse_exhaustion(error)
            errors.append(f"{native}: {first_line(error)}")
            continue
        if image_shape:
            return native, layout, [], None
        return native, layout, [_assumed(native)], None
    found = _token_input(module, image_shape, batch, label)
    if found is not None:
        return (found[0],), "tokens", [] if image_shape else [_assumed((found[0],))], found[1]
    raise ModelError(
        f"{label} accepts none of the input shapes tried; {errors[0]}",
        "pass the image shape as channels, height, width",
    )


def _several(
    module: nn.Module, image_shape: ImageShape | None, said: Inputs | None, label: str, batch: int
) -> Inputs | None:
    """What a module is called with that cannot do with one input; ``None`` where one does.

    Args:
        module: The client's.
        image_shape: Of the picture.
        said: The inputs, where its file says them.
        label: For messages.
        batch: How many samples it takes.

    Raises:
        ModelError: They are not a picture or integers beside numbers.
    """
    if said is not None:
        return with_levels(module, checked(said, label), batch, label)
    try:
        given = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # a module that is no Python, which says itself what it takes
        return None
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [one.name for one in given if one.kind in plain and one.default is inspect.Parameter.empty]
    if len(needed) < 2:
        return None
    if len(needed) > 2:
        raise ModelError(
            f"{label} takes {len(needed)} inputs ({', '.join(needed)}), expected one, or a picture beside numbers",
            "wrap it so that it takes these, or export it to ONNX, whose file says what each of several inputs is",
        )
    tries = _given(image_shape) if image_shape else _usual(module)
    found = probed(module, needed, [shape for shape, _ in tries if len(shape) > 1], label)
    return with_levels(module, found, batch, label)


def _given(shape: ImageShape) -> list[tuple[tuple[int, ...], Layout]]:
    """Native shapes and layouts of one sample whose shape is given, channels first."""
    first: Layout = {1: "flat", 2: "HW", 3: "NCHW"}.get(len(shape), "NCDHW")  # type: ignore[assignment]
    tries: list[tuple[tuple[int, ...], Layout]] = [(shape, first)]
    if len(shape) in (2, 4):
        tries.append(((*shape[1:], shape[0]), "NLC" if len(shape) == 2 else "NDHWC"))
    if len(shape) > 1:
        tries.append(((prod(shape),), "flat"))
    if len(shape) > 1 and shape[0] == 1:
        tries.append((shape[1:], "HW" if len(shape) == 3 else "L" if len(shape) == 2 else "DHW"))
    return tries


def _usual(module: nn.Module) -> list[tuple[tuple[int, ...], Layout]]:
    """Native shapes and layouts that are tried where nobody says one: those of the first layer, else of images."""
    flat, tries = _first_features(module), list[tuple[tuple[int, ...], Layout]]()
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d):
            tries += [((layer.in_channels, length), "NCL") for length in LENGTHS]
        elif isinstance(layer, nn.Conv3d):
            tries += [((layer.in_channels, *(side,) * 3), "NCDHW") for side in layouts.VOLUME_SIDES]
        elif isinstance(layer, nn.RNNBase) and layer.batch_first:
            tries += [((length, layer.input_size), "NLC") for length in LENGTHS]
        elif not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        break
    tries += [(shape, "NCHW") for shape in DEFAULT_SHAPES]
    if flat and isinstance(layer, nn.Linear) and flat not in map(prod, DEFAULT_SHAPES):
        return [((flat,), "flat"), *tries]  # it would also take each row of a picture for a sample
    return [*tries, ((flat,), "flat")] if flat else tries


def _assumed(native: tuple[int, ...]) -> FidelityNote:
    text = f"nothing says what the model takes; inputs of shape {native} work and are assumed"
    return FidelityNote("LA921", text, "pass the image shape as channels, height, width, or the number of tokens")


def _token_input(
    module: nn.Module, image_shape: ImageShape | None, batch: int, label: str
) -> tuple[int, Tokens] | None:
    """Length and meaning of the input of a module that takes token ids, or ``None`` if it takes none of any length."""
    working = []
    for length in (prod(image_shape),) if image_shape else LENGTHS:
        try:
            run(module, batch, (length,), vocabulary=1)
        except (RuntimeError, ValueError, TypeError, IndexError, ModelError) as error:
            refuse_exhaustion(error)
            continue
        working.append(length)
        if len(working) == 2:
            break
    if not working:
        return None
    table, vocabulary = find_table(module, working[0], batch, label)
    return working[0], Tokens.of(working[0], vocabulary, table, any_length=len(working) == 2)


def _first_features(module: nn.Module) -> int:
    return next((m.in_features for m in module.modules() if isinstance(m, nn.Linear)), 0)


def _returned(module: nn.Module, batch: int, native: tuple[int, ...], label: str, domain: Domain) -> tuple[int, ...]:
    """Shape of the logits of one sample, of a module that returns (B, K) or (B, K, *places)."""
    result: Any = run(module, batch, native, vocabulary=domain.ids or None)
    if not isinstance(result, torch.Tensor):
        kind = "a mapping" if isinstance(result, Mapping) else type(result).__name__
        raise ModelError(
            f"{label} returns {kind}, expected logits: detection and models with several heads are not supported yet",
            "it needs a classifier; if it is one, wrap it so that it returns the logits",
        )
    check_outputs(tuple(result.shape), batch, label, domain.sides, domain.ids)
    return tuple(result.shape[1:])


MOST_CLASSES = 10_000
"""Classes that a classifier may have without being asked: ImageNet-21k, the largest public set of images with classes,
has 10,450 in its current version; detectors flattened to one axis begin at about 20,000."""


def _check_train_mode(
    module: nn.Module, batch: int, native: tuple[int, ...], label: str, vocabulary: int | None = None
) -> None:
    """Refuse a module that cannot run in train mode or returns something else there (auxiliary heads)."""
    state = torch.get_rng_state()
    module.train()
    try:
        result: Any = run(module, batch, native, vocabulary=vocabulary)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{label} cannot run in train mode: {first_line(error)}",
            "audit larger images, or the eval mode with --mode eval",
        ) from error
    finally:
        torch.set_rng_state(state)
        module.eval()
    if not isinstance(result, torch.Tensor):
        raise ModelError(
            f"{label} returns {type(result).__name__} in train mode, expected logits (B, K): auxiliary heads are not "
            "supported yet",
            "build it without them (aux_logits=False), or audit the eval mode with --mode eval",
        )


def _recurrent_dropout(module: nn.Module) -> list[FidelityNote]:
    fused = [n for n, m in module.named_modules() if isinstance(m, nn.RNNBase) and m.dropout > 0 and m.num_layers > 1]
    if not fused:
        return []
    text = f"dropout inside {', '.join(fused)} is part of a fused layer; its masks cannot be recorded or injected"
    return [FidelityNote("LA912", text, "put nn.Dropout between single-layer recurrent modules")]


def _unrecorded_randomness(
    module: nn.Module, batch: int, native: tuple[int, ...], vocabulary: int | None
) -> list[FidelityNote]:
    """A note where a module in train mode still draws random numbers with all its dropout layers off.

    Such draws (a function of the module's own, DropBlock, noise) differ from client to attacker, and nobody says so.
    """
    layers = [layer for layer in dropout_layers(module).values() if layer.training]
    try:
        for layer in layers:
            layer.eval()
        found = []
        for seed in (0, 1):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                found.append(run(module, batch, native, vocabulary=vocabulary))
    finally:
        for layer in layers:
            layer.train()
    if torch.equal(found[0], found[1]):
        return []
    text = (
        "the model draws random numbers in train mode that are no dropout layer's; they cannot be recorded or injected"
    )
    return [FidelityNote("LA917", text, "put nn.Dropout or torchvision.ops.StochasticDepth in their place")]


def insert_dropout(module: nn.Module, dropout: Mapping[str, float], label: str) -> None:
    """Set the probability of dropout layers, or put dropout behind other modules, by name; parameter names stay."""
    known, layers = dict(module.named_modules()), dropout_layers(module)
    for name, p in dropout.items():
        if name in layers:
            layers[name].p = p
        elif name in known and name and not isinstance(module, torch.fx.GraphModule | ExportedModule | ScriptedModule):
            known[name].add_module("leakaudit_dropout", Dropout(p, label=name))
            known[name].register_forward_hook(lambda owner, _, output: owner.leakaudit_dropout(output))
        else:
            names = ", ".join([*layers, *(n for n in known if n and n not in layers)][:20])
            raise UsageError(f"{label} has no module {name!r} to put dropout behind", f"its modules are {names}")
