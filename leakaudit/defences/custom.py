"""A user's own defence: a Python function, trusted as any module that is imported.

``--defence module:function``, where the function takes the update (a dict of tensors by name) and a
``torch.Generator`` and returns what the client shares. If it has an attribute ``adapt``, a function from gradients by
name to gradients by name, attacks compare through that; otherwise the defence is reported as not evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.defences.base import ClientStep, Defence, Update
from leakaudit.errors import LeakauditError, UsageError
from leakaudit.observation import Channel, Observation
from leakaudit.safety.importing import raised_by, user_function


@dataclass(frozen=True, kw_only=True)
class CustomDefence(Defence):
    """A function of the user's.

    Args:
        path: ``module:function``.
        function: It.
    """

    path: str
    function: Callable[..., Any] = field(repr=False, compare=False)

    pure: ClassVar[bool] = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """The path."""
        return self.path

    @property
    def title(self) -> str:  # type: ignore[override]
        """The path."""
        return self.path

    @property
    def adaptive(self) -> str:  # type: ignore[override]
        """Its own counterpart, if it brings one."""
        return "compares through the defence's own adapt()" if hasattr(self.function, "adapt") else ""

    @property
    def settings(self) -> dict[str, Any]:
        """The path only."""
        return {"path": self.path}

    def __str__(self) -> str:
        return self.path

    def protect(self, update: Update, step: ClientStep, generator: Generator) -> Update:
        """Call the function.

        Raises:
            UsageError: It returned something else than a dict of tensors of the update's shapes.
        """
        shared = _called(self.path, self.function, dict(update), generator)
        fits = isinstance(shared, dict) and all(
            name in update and isinstance(g, Tensor) and g.shape == update[name].shape for name, g in shared.items()
        )
        if not (fits and shared):
            raise UsageError(
                f"--defence {self.path} returned {type(shared).__name__}, expected a dict of tensors as it was given"
            )
        return {name: g.detach() for name, g in shared.items()}

    def channel(self, observation: Observation) -> Channel | None:
        """The function's own counterpart."""
        function = getattr(self.function, "adapt", None)
        return None if function is None else UserChannel(self.path, function)

    @property
    def hands_over(self) -> bool:
        """Whether the function brings a counterpart."""
        return hasattr(self.function, "adapt")


@dataclass(frozen=True)
class UserChannel(Channel):
    """The counterpart that a user's defence brings.

    Args:
        path: ``module:function`` of the defence.
        function: From gradients by name to gradients by name.
    """

    path: str
    function: Callable[..., Any] = field(repr=False)

    def __call__(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Call the function."""
        found: Mapping[str, Tensor] = _called(f"{self.path}.adapt", self.function, gradients)
        return found


def _called(path: str, function: Callable[..., Any], *given: Any) -> Any:
    """What a user's function returns.

    Raises:
        UsageError: It raised; says what, and in which line of the user's file.
    """
    try:
        return function(*given)
    except (LeakauditError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's own code, whatever it raises
        raise raised_by("--defence", path, error) from error


def load_custom(path: str) -> CustomDefence:
    """Import ``module:function``, also from the current folder.

    Raises:
        UsageError: There is no such module or function.
    """
    function = user_function("--defence", path, "give module:function of something that Python can import")
    return CustomDefence(path=path, function=function)
