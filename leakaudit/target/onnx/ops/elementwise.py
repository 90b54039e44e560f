"""Element-wise ONNX operators, written so that each has a second derivative."""

# torch's own annotations of arithmetic and views are loose
# mypy: disable-error-code="no-any-return,no-untyped-call"

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.target.onnx.registry import Runner, operator

_PLAIN = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "IsNaN": torch.isnan,
    "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh,
    "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
    "Softplus": F.softplus, "Softsign": F.softsign, "Mish": F.mish,
}  # fmt: skip
for _name, _function in _PLAIN.items():
    operator(_name)(cast(Runner, _function))


@operator("Relu")
def relu(x: Tensor, *, consumed_inputs: Any = None) -> Tensor:
    """Rectifier."""
    return torch.relu(x)


@operator("Identity")
def identity(x: Tensor) -> Tensor:
    """The value itself."""
    return x


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01, consumed_inputs: Any = None) -> Tensor:
    """``x`` where positive, ``alpha * x`` elsewhere."""
    return F.leaky_relu(x, alpha)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x`` where above ``alpha``, else zero."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """``x`` moved towards zero by ``bias``, and zero between ``-lambd`` and ``lambd``."""
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@operator("PRelu", since=7)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """``x`` where positive, ``slope * x`` elsewhere."""
    return torch.where(x > 0, x, slope * x)


@operator("PRelu", since=1)
def prelu_channels(x: Tensor, slope: Tensor, *, consumed_inputs: Any = None) -> Tensor:
    """As `prelu`, with one slope per channel (axis 1) before opset 7."""
    return prelu(x, slope.reshape(-1, *(1,) * (x.dim() - 2)))


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0, consumed_inputs: Any = None) -> Tensor:
    """Exponential linear unit."""
    return F.elu(x, alpha)


@operator("Selu")
def selu(
    x: Tensor, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805, consumed_inputs: Any = None
) -> Tensor:
    """Scaled exponential linear unit."""
    return gamma * F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Continuously differentiable exponential linear unit."""
    return F.celu(x, alpha)


@operator("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit."""
    return F.gelu(x, approximate=approximate)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return x * torch.sigmoid(alpha * x)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5, consumed_inputs: Any = None) -> Tensor:
    """``clip(alpha x + beta, 0, 1)``; torch's own hardsigmoid has no second derivative."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@operator("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    """``x * clip(x / 6 + 1/2, 0, 1)``."""
    return x * torch.clamp(x / 6.0 + 0.5, 0.0, 1.0)


@operator("Clip", since=11, scalars=True)
def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Limit to ``low`` and ``high``, either of which may be missing."""
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Clip")
def clip_attributes(
    x: Tensor, *, min: float | None = None, max: float | None = None, consumed_inputs: Any = None
) -> Tensor:
    """As `clip`, with the limits as attributes before opset 11."""
    return clip(x, min, max)


@operator("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Where ``x`` is infinite, by sign."""
    return torch.isinf(x) & (((x < 0) & bool(detect_negative)) | ((x > 0) & bool(detect_positive)))


def _align(first: Any, second: Any, axis: int | None) -> Any:
    """Opset < 7: ``second``'s axes match ``first``'s from ``axis`` on, instead of from the right."""
    if axis is None or not isinstance(second, Tensor) or not isinstance(first, Tensor):
        return second
    axis %= first.dim()
    return second.reshape(*second.shape, *(1,) * (first.dim() - axis - second.dim()))


def _division(first: Any, second: Any) -> Any:
    floating = any(isinstance(v, float) or (isinstance(v, Tensor) and v.is_floating_point()) for v in (first, second))
    return torch.true_divide(first, second) if floating else torch.div(first, second, rounding_mode="trunc")


@operator("Add", scalars=True)
def add(first: Any, second: Any, *, axis: int | None = None, broadcast: int = 0, consumed_inputs: Any = None) -> Tensor:
    """Sum of two tensors."""
    return torch.add(first, _align(first, second, axis)) if isinstance(first, Tensor) else torch.add(second, first)


@operator("Sub", scalars=True)
def sub(first: Any, second: Any, *, axis: int | None = None, broadcast: int = 0, consumed_inputs: Any = None) -> Tensor:
    """Difference of two tensors."""
    result: Tensor = first - _align(first, second, axis)
    return result


@operator("Mul", scalars=True)
def mul(first: Any, second: Any, *, axis: int | None = None, broadcast: int = 0, consumed_inputs: Any = None) -> Tensor:
    """Product of two tensors."""
    result: Tensor = first * _align(first, second, axis)
    return result


@operator("Div", scalars=True)
def div(first: Any, second: Any, *, axis: int | None = None, broadcast: int = 0, consumed_inputs: Any = None) -> Tensor:
    """Quotient of two tensors; of integers, cut towards zero."""
    result: Tensor = _division(first, _align(first, second, axis))
    return result


@operator("Pow", scalars=True)
def power(first: Any, second: Any, *, axis: int | None = None, broadcast: int = 0) -> Tensor:
    """``first`` to the power of ``second``, in the type of ``first``."""
    result: Tensor = torch.pow(first, _align(first, second, axis))
    return result.to(first.dtype) if isinstance(first, Tensor) else result


@operator("Mod", scalars=True)
def modulo(first: Any, second: Any, *, fmod: int = 0) -> Tensor:
    """Remainder, with the sign of the divisor or (fmod) of the dividend."""
    result: Tensor = torch.fmod(first, second) if fmod else torch.remainder(first, second)
    return result


@operator("Sum")
def add_all(*tensors: Tensor, consumed_inputs: Any = None) -> Tensor:
    """Sum of any number of tensors."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


@operator("Mean")
def mean_all(*tensors: Tensor, consumed_inputs: Any = None) -> Tensor:
    """Mean of any number of tensors."""
    return add_all(*tensors) / len(tensors)


@operator("Max")
def max_all(*tensors: Tensor, consumed_inputs: Any = None) -> Tensor:
    """Element-wise maximum of any number of tensors."""
    result = tensors[0]
    for tensor in tensors[1:]:
        result = torch.maximum(result, tensor)
    return result


@operator("Min")
def min_all(*tensors: Tensor, consumed_inputs: Any = None) -> Tensor:
    """Element-wise minimum of any number of tensors."""
    result = tensors[0]
    for tensor in tensors[1:]:
        result = torch.minimum(result, tensor)
    return result


@operator("Where")
def where(condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``first`` where the condition holds, else ``second``."""
    return torch.where(condition, first, second)


def _comparison(name: str, compare: Any) -> None:
    def run(first: Any, second: Any, *, axis: int | None = None, broadcast: int = 0) -> Tensor:
        result: Tensor = compare(first, _align(first, second, axis))
        return result

    run.__name__ = f"compare_{name}"
    operator(name)(run)


for _name, _function in {
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
}.items():  # fmt: skip
    _comparison(_name, _function)
