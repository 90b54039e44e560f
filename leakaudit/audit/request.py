"""Everything that one audit was asked for, as one value.

A :class:`Request` is made once, from keywords, from a command line or from TOML, and handed on; nobody repeats its
fields. It says how to reproduce the audit (:meth:`Request.command`), what results depend on (:meth:`Request.key`), and
what two audits must have in common to be compared (`leakaudit.policy.compare.Setup`). Importing it loads nothing heavy,
so that the command line can take its options from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from leakaudit.audit.kinds import (
    LARGEST_SEED,
    Arrays,
    Chances,
    File,
    Files,
    Flag,
    Kind,
    LossOf,
    Names,
    NotNegative,
    Numbers,
    OneOf,
    Positive,
    Settings,
    Shape,
    Texts,
    Whole,
    path_word,
)
from leakaudit.audit.parameters import Decides, Parameter, asked, command_words, parameters
from leakaudit.audit.protocol import ADOPTED, LOCAL, ProtocolValue, default_protocol, local_value, settled_protocol
from leakaudit.errors import UsageError
from leakaudit.protocols.names import WITHHELD
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.tasks.names import TASKS, TaskName

if TYPE_CHECKING:
    from leakaudit.client.readers.base import DataLayout, ValueRange
    from leakaudit.defences.base import Defence
    from leakaudit.observation import ThreatModel
    from leakaudit.protocols.base import Mode, Protocol
    from leakaudit.target.target import SharedStatistics, Target

Update = Any
"""A path, or one of the forms of `leakaudit.client.rounds.given.Given`."""
Device = Literal["auto", "cpu", "cuda"]
Level = Literal["quick", "full", "none"]
"""Which controls are run, see `leakaudit.audit.controls`."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to audit, what the attacker knows, and how hard to try.

    Args:
        model: Model file; none for a model in memory.
        checkpoints: Stages of the training, as init.onnx early.onnx late.onnx, compared in one report; beside the model
            or instead.
        batch: .npz with inputs and labels, or a folder with one sub-folder of images per class. Of a recorded update it
            holds exactly the samples behind it; without them, only what proves itself counts as read.
        defences: What clients do to their updates, in this order, as clip=1.0,noise=0.01 or prune=0.9 (see leakaudit
            defences; noise is a standard deviation on the mean gradient, multiplier the noise multiplier of Opacus);
            what stands before clients=N is done by each of them, what stands after it to their mean.
        claims: What clients believe is done to their updates; compared with what they share under the defences.
        update: Update that a real client shared: .npz, .safetensors, .fobs or a state dict of torch. Attacked in place
            of a computed one, and where the batch is given compared with it and with defences or claims. As a keyword
            also arrays by name, a list in the order of the state dict, or (before, after).
        round: Folder of a round that leakaudit.capture recorded: what the client sent, and how it trained where no
            option says so. Or a folder of rounds, each a victim of one report.
        before: Weights that the client of the update started from, where they are not the model's own; a file of the
            same kinds.
        weight_decay: Weight decay of the local optimizer. Of a recorded gradient, what its client added, which is
            subtracted, or 0; by default it is fitted where rows that nothing else touched show it.
        protocol: How a client makes an update; by default FedSGD with one sample in eval mode.
        batch_size: Samples behind one shared update; sets that of the protocol.
        samples: Samples of one client that trains locally; default all of the batch file.
        local_epochs: Passes over a client's samples before it shares its weights. This or any other option of the local
            training makes clients share weights after local steps (FedAvg) instead of one gradient.
        local_batch_size: Samples of a local step; default all of the client's.
        learning_rate: Of the local optimizer.
        momentum: Of sgd or rmsprop.
        nesterov: Nesterov's form of the momentum.
        optimizer: Local optimizer, with torch's defaults for what is not asked for; default sgd.
        drop_last: Leave out a last local step of fewer samples.
        unknown: What is not known of the client's local training, learning-rate, local-epochs or local-batch-size.
            Attacks that must be told are refused by name, the others run.
        victims: Independent batches to attack, drawn by the seed; default up to 4.
        attacks: Attacks to run; default all (see leakaudit attacks).
        preset: How hard to try.
        settings: Override settings of an attack, as ig.iterations=600; as a keyword {"ig": {"iterations": "600"}}.
        time_budget: For all attacks and controls together.
        controls: Run the attacks where the answer is known, too; none caps the confidence.
        distractors: Images of the same kind (.npz or folder) that a reconstruction's sample must be told from.
        distractors_needed: How many images a sample must be told from, at least.
        psnr_margin: dB above its best floor at which a sample leaks.
        lpips_margin: LPIPS below its best floor that does as well.
        threat_model: Run only attacks that need no stronger attacker than this letter.
        seed: Decides victims, starts and probes; the same seed gives the same numbers.
        device: Where to compute; auto takes a CUDA device where there is one.
        mean: Mean that the client subtracts per channel, in pixel units 0..1 or the unit of a signal; one value serves
            all channels.
        std: Standard deviation that it divides by; 0.00392157 for a model that takes 0..255.
        layout: Axis order of the batch's arrays.
        values: What the batch's numbers are: pixels of the whole range 0..1, 0..255 or 0..65535, or normalised.
        resize: Scale and centre-crop a folder's images to the model's size.
        schema: TOML file that describes the columns of a table, a [[column]] each with name, kind (number or category),
            low, high, mean, std, levels; guessed from the batch, and said, where it is left out.
        auxiliary: Public images of a similar kind (.npz or folder), for attacks that learn from them.
        generator: Your function of nothing that returns a generator of similar samples, a torch module with an
            attribute latent: from latents (B, *latent) to samples (B, *shape) as the batch file has them, pixels in
            0..1. It runs your code.
        lpips_weights: torchvision's squeezenet1_1 checkpoint; default torch's hub cache.
        cache: Keep results for two weeks, readable by you only, so that a killed audit goes on where it was. The
            command line does so unless told otherwise, below --evidence full only where --cache is given.
        mode: Mode of the client's model; scan takes both, and compares them. Sets that of the protocol.
        both_modes: Whether both modes are compared; mode says so.
        share_bn_statistics: BatchNorm statistics that clients send with an update: mean and variance over the batch, or
            the running statistics after the step (as who sends the whole state dict). Needs train mode. Sets those of
            the protocol.
        output: Output to audit, for models with several, by its name, of a module or a program also by its position; or
            the outputs that the client's loss is over, with their weights, the main one first, as logits+0.3*aux1.
        frozen: Tensors that clients do not train, by patterns as conv1.*; all but some as !*lora_*.
        trained: Tensors of an ONNX file that clients do train although they are taken for something else, such as a
            prompt at the input, by patterns.
        dropout: Put back dropout that the export has lost, behind this node, as /relu/Relu=0.5; as a keyword
            {"/relu/Relu": 0.5}.
        loss: Loss of the client; default that of the task, which is bce for a single logit and for several classes, mse
            for numbers, and cross-entropy otherwise.
        task: What labels are, one class, several classes (multi-label), or numbers (regression); default told from the
            model's outputs and the batch's labels.
        pos_weight: Weights of the marked classes where a sample has several, one for all or one each.
        batchnorm: Whether BatchNorm uses statistics of the batch or the running ones; default those of the mode.
        input_shape: Shape of one sample, channels first (C,H,W; of signals C,L; of volumes C,D,H,W), or its number of
            tokens, where the model leaves sizes open.
        factory: Your function that builds the module of a weights file.
        trust: Open .pt2 files, of which torch's operators are all that runs, and TorchScript files, whose programs can
            read and write files.
        unsafe_pickle: Open pickled modules, which run code.

    Raises:
        UsageError: A value that cannot be; names the keyword and what was expected.
    """

    model: str | Path | None = asked(File(), group="intake")
    checkpoints: Sequence[str | Path] = asked(Files("FILE..."), (), "--checkpoints", group="samples")
    batch: str | Path | None = asked(File(), None, "--batch", short="-b", group="samples")
    defences: Sequence[str] = asked(Texts("SPEC"), (), "--defence", group="samples")
    claims: Sequence[str] = asked(Texts("SPEC"), (), "--claim", group="samples")
    update: Update | None = asked(Arrays("FILE"), None, "--update", group="samples")
    round: str | Path | None = asked(File("DIR"), None, "--round", group="samples")
    before: str | Path | None = asked(File("FILE"), None, "--before", group="samples")
    weight_decay: float | None = asked(NotNegative("RATE"), None, "--weight-decay", group="samples")
    protocol: Protocol = asked(ProtocolValue(), default_protocol)
    batch_size: InitVar[int | None] = asked(Whole(least=1), None, "--batch-size", usual=1)
    samples: int | None = asked(Whole(least=1), None, "--samples")
    local_epochs: InitVar[int | None] = asked(Whole(least=1), None, "--local-epochs")
    local_batch_size: InitVar[int | None] = asked(Whole(least=1), None, "--local-batch-size")
    learning_rate: InitVar[float | None] = asked(Positive(), None, "--learning-rate")
    momentum: InitVar[float | None] = asked(Positive(), None, "--momentum")
    nesterov: InitVar[bool | None] = asked(Flag(), None, "--nesterov")
    optimizer: InitVar[str | None] = asked(OneOf(choices=("sgd", "adam", "adamw", "rmsprop")), None, "--optimizer")
    drop_last: InitVar[bool | None] = asked(Flag(), None, "--drop-last")
    unknown: Sequence[str] = asked(Names("SETTING", choices=WITHHELD), (), "--unknown")
    victims: int | None = asked(Whole(least=1), None, "--victims")
    attacks: Sequence[str] = asked(Texts("NAME"), (), "--attack")
    preset: str = asked(OneOf(choices=("quick", "standard", "paper")), "standard", "--preset")
    settings: Mapping[str, Mapping[str, str]] = asked(Settings("ATTACK.KEY=VALUE"), dict, "--set")
    time_budget: float | None = asked(Positive("SECONDS"), None, "--time-budget", decides="run")
    controls: Level = asked(OneOf(choices=("quick", "full", "none")), "quick", "--controls")
    distractors: str | Path | None = asked(File(), None, "--distractors")
    distractors_needed: int = asked(Whole(least=1), LeakCriterion.distractors, "--distractors-needed")
    psnr_margin: float = asked(Positive(), LeakCriterion.psnr_margin, "--psnr-margin")
    lpips_margin: float = asked(Positive(), LeakCriterion.lpips_margin, "--lpips-margin")
    threat_model: ThreatModel = asked(OneOf(choices=tuple("ABCDE")), "E", "--threat-model")
    seed: int = asked(Whole(most=LARGEST_SEED), 0, "--seed")
    device: Device = asked(OneOf(choices=("auto", "cpu", "cuda")), "auto", "--device")
    mean: Sequence[float] = asked(Numbers("A,B,C"), (), "--mean")
    std: Sequence[float] = asked(Numbers("A,B,C"), (), "--std")
    layout: DataLayout = asked(OneOf(choices=("auto", "NCHW", "NHWC")), "auto", "--layout")
    values: ValueRange = asked(OneOf(choices=("auto", "pixels", "normalized")), "auto", "--values")
    resize: bool = asked(Flag(), False, "--resize")
    schema: str | Path | None = asked(File("FILE"), None, "--schema")
    auxiliary: str | Path | None = asked(File(), None, "--auxiliary")
    generator: str | None = asked(Kind("PACKAGE.MODULE:FUNCTION"), None, "--generator")
    lpips_weights: str | Path | None = asked(File(), None, "--lpips-weights")
    cache: bool = asked(Flag(), False, "--cache", off="--no-cache", usual=True, decides="nothing")
    mode: InitVar[Mode | Literal["both"] | None] = asked(
        OneOf(choices=("eval", "train", "both")), None, "--mode", usual="eval", group="intake"
    )
    both_modes: bool = asked(Flag(), False, group="intake")
    share_bn_statistics: InitVar[SharedStatistics | None] = asked(
        OneOf(choices=("none", "batch", "running")), None, "--share-bn-statistics", usual="none", group="intake"
    )
    output: str | None = asked(Kind("NAME"), None, "--output", group="intake")
    frozen: Sequence[str] = asked(Texts("PATTERN"), (), "--frozen", group="intake")
    trained: Sequence[str] = asked(Texts("PATTERN"), (), "--trained", group="intake")
    dropout: Mapping[str, float] = asked(Chances("NODE=P"), dict, "--dropout", group="intake")
    loss: str | None = asked(LossOf("LOSS"), None, "--loss", group="intake")
    task: TaskName | None = asked(OneOf(choices=TASKS), None, "--task", group="intake")
    pos_weight: Sequence[float] = asked(Numbers("A,B,C"), (), "--pos-weight", group="intake")
    batchnorm: Literal["batch", "running"] | None = asked(
        OneOf(choices=("batch", "running")), None, "--batchnorm", group="intake"
    )
    input_shape: tuple[int, ...] | None = asked(Shape("C,H,W"), None, "--input-shape", group="intake")
    factory: str | None = asked(Kind("PACKAGE.MODULE:FUNCTION"), None, "--factory", group="intake")
    trust: bool = asked(Flag(), False, "--trust", group="intake", decides="nothing")
    unsafe_pickle: bool = asked(Flag(), False, "--unsafe-pickle", group="intake", decides="nothing")

    verb: ClassVar[str] = "scan"
    """The command that takes such a request."""

    def __post_init__(self, *initial: Any) -> None:
        """Check every value, and put those of the protocol into it; `initial` are the ``InitVar``s, in their order."""
        given = dict(zip(_initial(type(self)), initial, strict=True))
        for name, parameter in parameters(type(self)).items():
            value = given[name] if name in given else getattr(self, name)
            if value is None and parameter.optional:
                continue
            found = taken(parameter, value)
            if name in given:
                given[name] = found
            else:
                object.__setattr__(self, name, found)
        if given["mode"] is not None:
            object.__setattr__(self, "both_modes", given["mode"] == "both")
            given["mode"] = "eval" if given["mode"] == "both" else given["mode"]
        protocol = settled_protocol(self.protocol, given, self.samples, self.weight_decay, tuple(self.unknown))
        object.__setattr__(self, "protocol", protocol)
        self.defending()
        self.claimed()

    def __hash__(self) -> int:
        return hash(self.key())

    @property
    def recorded(self) -> bool:
        """Whether the update is one that a real client shared."""
        return self.update is not None or self.round is not None

    @property
    def local(self) -> bool:
        """Whether clients train locally and share weights."""
        from leakaudit.protocols.fedavg import FedAvg

        return isinstance(self.protocol, FedAvg)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Modes of the clients that are audited."""
        return ("eval", "train") if self.both_modes else (self.protocol.mode,)

    @property
    def criterion(self) -> LeakCriterion:
        """When a sample counts as leaked."""
        return LeakCriterion(
            psnr_margin=self.psnr_margin, lpips_margin=self.lpips_margin, distractors=self.distractors_needed
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """All model files."""
        return tuple(map(Path, ([] if self.model is None else [self.model]) + [*self.checkpoints]))

    def defending(self) -> tuple[Defence, ...]:
        """The defences, parsed.

        Raises:
            UsageError: One cannot be.
        """
        from leakaudit.defences.base import arranged

        return arranged(_parsed(self.defences))

    def claimed(self) -> tuple[Defence, ...]:
        """The claims, parsed.

        Raises:
            UsageError: One cannot be.
        """
        return _parsed(self.claims)

    def protocol_for(self, target: Target) -> Protocol:
        """How clients make an update of a model, undefended: mode and statistics are those that it was read with."""
        return replace(self.protocol, mode=target.mode, shared_statistics=target.shared_statistics)

    def says(self, name: str) -> bool:
        """Whether a setting of local training was asked for, or differs from its default."""
        return self.local and self.value_of(name) is not None

    def value_of(self, name: str) -> Any:
        """What a parameter says, also one that only sets a field of the protocol."""
        if name == "mode" and self.both_modes:
            return "both"
        if name in LOCAL:
            return local_value(self.protocol, name)
        if name == "unknown":
            return getattr(self.protocol, "untold", ())
        if name == "weight_decay" and self.local and self.weight_decay is None:
            return local_value(self.protocol, name)
        if name == "batch_size" and self.local:
            return None  # the samples of a client are another keyword
        return getattr(self.protocol, ADOPTED[name]) if name in ADOPTED else getattr(self, name)

    def key(self, scope: Decides = "audit") -> str:
        """A hash of what decides results; what a file that is named holds is no part of it.

        Args:
            scope: ``audit`` for all of them, ``run`` for what decides a single run of an attack beside the attacker's
                observation and the attack's settings.
        """
        from leakaudit.audit.cache import digest

        known = parameters(type(self))
        names = [n for n, p in known.items() if p.decides == "run" or (scope == "audit" and p.decides == "audit")]
        parsed = {"defences": self.defending, "claims": self.claimed}
        values = {n: [(d.name, d.settings) for d in parsed[n]()] if n in parsed else self.value_of(n) for n in names}
        return digest(values)

    def command(self) -> list[str]:
        """The words of a command line that asks for the same; none for what is in memory only."""
        in_files = self.files and (self.batch is not None or self.recorded)
        in_files = in_files and (self.update is None or isinstance(self.update, str | Path))
        if not in_files or not self._said():
            return []
        values = {name: self.value_of(name) for name in parameters(type(self))}
        model = [] if self.model is None else [path_word(self.model)]
        return ["leakaudit", self.verb, *model, *command_words(values, list(parameters(type(self)).values()))]

    def _said(self) -> bool:
        """Whether keywords can say the whole protocol."""
        if self.local:
            return True
        return self.protocol == replace(
            default_protocol(), **{own: getattr(self.protocol, own) for own in ADOPTED.values()}
        )


def _initial(kind: type[Request]) -> list[str]:
    """Names of the ``InitVar``s of a request, in the order in which they are passed on."""
    plain = {field.name for field in fields(kind)}
    return [name for name in parameters(kind) if name not in plain]


def taken(parameter: Parameter, value: Any) -> Any:
    """A value of a parameter as a request holds it.

    Raises:
        UsageError: It cannot be; names the keyword and what was expected.
    """
    try:
        return parameter.kind.take(value)
    except ValueError as error:
        raise UsageError(f"{parameter.name} is {_shown(value)}, {error}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _parsed(texts: Sequence[str]) -> tuple[Defence, ...]:
    if not texts:
        return ()
    from leakaudit.defences.spec import parse_defences

    return parse_defences(texts)
