"""Thirty small architectures and every way of handing one to the auditor, for the oracle suite."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

SHAPE = (3, 8, 8)
CLASSES = 5


class Net(nn.Module):
    """Some layers, a linear head, and what is done to its logits (B, K)."""

    def __init__(self, body: nn.Module, width: int, end: nn.Module | None = None, classes: int = CLASSES) -> None:
        super().__init__()
        self.body, self.head, self.end = body, nn.Linear(width, classes), end or nn.Identity()

    def logits(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.head(self.body(x).flatten(1)))


def conv(*layers: nn.Module, bias: bool = True) -> nn.Sequential:
    """A convolution to 8 channels of 8 x 8, and layers behind it."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=bias), *layers)


def blocks(norm: Callable[[], nn.Module], count: int = 2) -> nn.Module:
    """Convolution, normalisation, ReLU, `count` times."""
    parts: list[nn.Module] = []
    for index in range(count):
        parts += [nn.Conv2d(8 if index else 3, 8, 3, padding=1), norm(), nn.ReLU()]
    return Net(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2)), 32)


class Tied(nn.Module):
    """One matrix forwards and, transposed, backwards; one layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(192, 16), nn.Linear(16, 16), nn.Linear(192, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.b(torch.tanh(self.b(torch.tanh(self.a(x.flatten(1)))))))
        return self.head(h @ self.a.weight)


class Scaled(nn.Module):
    """A temperature of rank 0, a ReZero scalar of shape (1,), a gain of rank 0 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(192, 10), nn.Linear(10, CLASSES)
        self.temperature, self.alpha = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.zeros(1))
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x.flatten(1)))
        h = h + self.alpha * torch.relu(h * self.gain)
        return self.head(h) * self.temperature.exp()


class Attention(nn.Module):
    """Patches, one transformer layer and a mean, as it is before training."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 4, 16) * 0.02)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patch(x).flatten(2).transpose(1, 2) + self.place).mean(1))


class Recurrent(nn.Module):
    """Rows of the image as a sequence."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = kind(24, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.cell(x.transpose(1, 2).flatten(2))
        return self.head(hidden[:, -1])


class Cosine(nn.Module):
    """A head of normalised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.w = nn.Linear(192, 10), nn.Parameter(torch.randn(CLASSES, 10))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.b(x.flatten(1)))
        return 5.0 * F.normalize(h, dim=1) @ F.normalize(self.w, dim=1).t()


class Prompt(nn.Module):
    """A trained affine map of the input and a trained prompt on it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.prompt = nn.Parameter(torch.ones(1, 3, 1, 1) * 1.1), nn.Parameter(torch.randn(1, *SHAPE) * 0.1)
        self.rest = Net(conv(nn.ReLU()), 512)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(x * self.gain + self.prompt)


class Normalised(nn.Module):
    """Mean and deviation of the data set in front, as buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1))
        self.rest = Net(conv(nn.ReLU()), 512)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest((x - self.mean) / self.std)


class LayerScale(nn.Module):
    """A ConvNeXt block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale, self.head = nn.Parameter(torch.ones(8, 1, 1) * 1e-1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return self.head((x + self.scale * h).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Gates of hard-sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        gate = F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head((x * gate).flatten(1))


class Residual(nn.Module):
    """BatchNorm in a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.two = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(self.stem(x)))
        return self.head(torch.relu(x + self.two(self.conv(x))).mean((2, 3)))


class Hand(nn.Module):
    """Softmax spelt out."""

    def forward(self, z: Tensor) -> Tensor:
        e = torch.exp(z)
        return e / e.sum(1, keepdim=True)


class Shifted(nn.Module):
    """Softmax spelt out, the largest logit taken off first."""

    def forward(self, z: Tensor) -> Tensor:
        e = torch.exp(z - z.amax(1, keepdim=True))
        return e / e.sum(1, keepdim=True)


class Clipped(nn.Module):
    """Softmax, and limits that keep its logarithm finite."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.softmax(z, 1).clamp(1e-7, 1 - 1e-7)


class Smoothed(nn.Module):
    """Softmax mixed with the uniform distribution."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.softmax(z, 1) * 0.9 + 0.02


class Pair(nn.Module):
    """Both probabilities of one logit."""

    def forward(self, z: Tensor) -> Tensor:
        p = torch.sigmoid(z)
        return torch.cat([1 - p, p], 1)


class Percent(nn.Module):
    """Softmax in per cent."""

    def forward(self, z: Tensor) -> Tensor:
        return 100.0 * torch.softmax(z, 1)


class LogProbabilities(nn.Module):
    """Log-softmax spelt out."""

    def forward(self, z: Tensor) -> Tensor:
        return z - torch.logsumexp(z, 1, keepdim=True)


def _mlp(end: nn.Module | None = None, classes: int = CLASSES) -> nn.Module:
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh()), 16, end, classes)


def _depthwise() -> nn.Module:
    body = conv(nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(), nn.Conv2d(8, 8, 1))
    return Net(body, 512)


def _bn1d() -> nn.Module:
    return Net(nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU()), 16)


def _preactivation() -> nn.Module:
    """BatchNorm before each layer, where no exporter can put it into one."""
    return Net(conv(nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)), 288)


def _weight_norm() -> nn.Module:
    body = conv(nn.ReLU())
    body[0] = parametrizations.weight_norm(body[0])
    return Net(body, 512)


def _transposed() -> nn.Module:
    return Net(conv(nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2), nn.PReLU(), nn.AvgPool2d(2)), 256)


def _softmax() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES), nn.Softmax(1))


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "lenet": lambda: Net(conv(nn.Sigmoid(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid()), 128),
    "batchnorm": lambda: blocks(lambda: nn.BatchNorm2d(8)),
    "batchnorm_no_affine": lambda: blocks(lambda: nn.BatchNorm2d(8, affine=False)),
    "batchnorm_1d": _bn1d,
    "batchnorm_first": _preactivation,
    "residual": Residual,
    "groupnorm": lambda: blocks(lambda: nn.GroupNorm(4, 8)),
    "groupnorm_no_affine": lambda: blocks(lambda: nn.GroupNorm(4, 8, affine=False)),
    "instancenorm": lambda: blocks(lambda: nn.InstanceNorm2d(8, affine=True)),
    "instancenorm_no_affine": lambda: blocks(lambda: nn.InstanceNorm2d(8)),
    "layernorm": lambda: blocks(lambda: nn.LayerNorm([8, 8, 8])),
    "weight_norm": _weight_norm,
    "cosine": Cosine,
    "tied": Tied,
    "attention": Attention,
    "scalars": Scaled,
    "one_logit": lambda: _mlp(classes=1),
    "softmax": _softmax,
    "softmax_hand": lambda: _mlp(Hand()),
    "softmax_shifted": lambda: _mlp(Shifted()),
    "softmax_clipped": lambda: _mlp(Clipped()),
    "softmax_smoothed": lambda: _mlp(Smoothed()),
    "softmax_percent": lambda: _mlp(Percent()),
    "sigmoid_pair": lambda: _mlp(Pair(), 1),
    "log_softmax": lambda: _mlp(LogProbabilities()),
    "depthwise": _depthwise,
    "hardswish": SqueezeExcite,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "transposed_prelu": _transposed,
    "prompt": Prompt,
    "normalised": Normalised,
    "layer_scale": LayerScale,
}
PROBABILITIES = (
    "softmax", "softmax_hand", "softmax_shifted", "softmax_clipped", "softmax_smoothed", "softmax_percent",
    "sigmoid_pair", "log_softmax",
)  # fmt: skip
"""Those that do not end in logits."""
WAYS = ("legacy", "legacy_faithful", "dynamo", "dynamo_unoptimised", "pt2", "torchscript", "traced", "module")


def build(name: str, trained: bool) -> nn.Module:
    """A model as it is before training, or with every tensor moved away from its initial value."""
    torch.manual_seed(len(name))
    model = ARCHITECTURES[name]()
    if trained:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
            for key, buffer in model.named_buffers():
                if key.endswith("running_mean"):
                    buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
                elif key.endswith("running_var"):
                    buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


def hand_over(model: nn.Module, way: str, folder: Path) -> Path | nn.Module:
    """What the user passes: a file written in one of `WAYS`, or the module itself."""
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "module":
            return model
        if way == "pt2":
            torch.export.save(torch.export.export(model, (x,)), folder / "m.pt2")
            return folder / "m.pt2"
        if way in ("torchscript", "traced"):
            script = torch.jit.script(model) if way == "torchscript" else torch.jit.trace(model, x)
            torch.jit.save(script, str(folder / "m.ts"))
            return folder / "m.ts"
        _onnx(model, x, way, folder / "m.onnx")
        return folder / "m.onnx"


def _onnx(model: nn.Module, x: Tensor, way: str, path: Path) -> None:
    if way.startswith("legacy"):
        options = {"do_constant_folding": False, "opset_version": 17} if way == "legacy_faithful" else {}
        buffer = io.BytesIO()
        torch.onnx.export(model, (x,), buffer, dynamo=False, input_names=["input"], **options)
        path.write_bytes(buffer.getvalue())
        return
    torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False, optimize=way == "dynamo")


def oracle(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Autograd's gradient of the loss on the module's logits."""
    run = getattr(model, "logits", None)
    if run is None:
        run = nn.Sequential(*list(model)[:-1]) if isinstance(model, nn.Sequential) else model
    z = run(x)
    loss = F.binary_cross_entropy_with_logits(z[:, 0], y.float()) if z.shape[1] == 1 else F.cross_entropy(z, y)
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, grads, strict=True))


def differences(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float = 1e-5) -> list[str]:
    """In what an update differs from the oracle's, tensor by tensor.

    A tensor under another name or with its entries in another order (transposed, gates of a recurrent cell, several
    tensors joined) is the same; the comparison is then of its sorted entries.
    """
    left = dict(found)
    missing: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, value in expected.items():
        other = left.get(name)
        if other is not None and other.shape == value.shape:
            del left[name]
            if _distance(other, value) > limit:
                wrong.append(f"{name} is off by {_distance(other, value):.2g}")
        else:
            missing[name] = value
    for name, value in list(missing.items()):
        match = next((n for n, v in left.items() if v.numel() == value.numel() and _sorted(v, value) <= limit), None)
        if match is not None:
            del left[match], missing[name]
    if missing and left:
        one, other = (torch.cat([v.flatten() for v in part.values()]) for part in (missing, left))
        if one.numel() == other.numel() and _sorted(other, one) <= limit:
            return wrong
    return [*wrong, *(f"{n} is not trained" for n in missing), *(f"{n} is trained beside" for n in left)]


def _distance(one: Tensor, other: Tensor) -> float:
    scale = max(float(other.norm()), 1e-3)
    return float((one - other).norm()) / scale


def _sorted(one: Tensor, other: Tensor) -> float:
    return _distance(one.flatten().sort().values, other.flatten().sort().values)
