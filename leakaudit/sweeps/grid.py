"""What a sweep is to audit, read from TOML: every combination of lists, and single cells beside them.

::

    [scan]                                    # what all cells share: options of leakaudit scan
    batch = "batch.npz"
    preset = "quick"

    [grid]                                    # every combination of these
    model = ["zoo/*.onnx", "other.onnx"]      # a pattern stands for the files that it matches
    mode = ["eval", "train"]
    defence = ["", "prune=0.9", ["clip=1.0", "sign"]]   # none, one, and two after each other
    seed = [0, 1]

    [[cell]]                                  # a single one
    model = "late.onnx"
    seed = 7

Keys are the options of ``leakaudit scan`` without their dashes, or the fields of `leakaudit.Request`; ``model`` is its
argument. An option that is repeated on the command line takes a text or a list of texts. Paths are relative to the
file. What is not known is refused, with what was probably meant.
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakaudit.audit.kinds import File, Files, Numbers, Shape
from leakaudit.audit.parameters import Parameter, parameters
from leakaudit.audit.protocol import LOCAL
from leakaudit.audit.request import Request
from leakaudit.errors import UsageError, nearest
from leakaudit.safety.toml import read_toml
from leakaudit.sweeps.names import distinct_names

SECTIONS = ("scan", "grid", "cell")
ALWAYS = ("model", "mode", "defences", "seed")
"""Parameters that every cell is labelled by, whether or not they vary."""
TITLES = {"defences": "defence"}
"""Names of axes that are not those of their parameters."""
NO_VALUE = "–"
UNDEFENDED = "none"
_CONFIG = "train_config"


@dataclass(frozen=True)
class Cell:
    """One audit of a sweep.

    Args:
        number: Place in the sweep, from 1.
        request: What is audited.
        labels: What tells it from the others, by the name of the axis.
    """

    number: int
    request: Request
    labels: Mapping[str, str]

    @property
    def title(self) -> str:
        """The labels in one line."""
        return ", ".join(text for text in self.labels.values() if text != NO_VALUE)


@dataclass(frozen=True)
class Plan:
    """All cells of a sweep.

    Args:
        cells: In their order.
        axes: Values of every axis in their order, by its name; those of model, mode, defence and seed first.
        base: Folder that paths of the requests are told relative to.
        name: Of the file, or what else it is called.
    """

    cells: tuple[Cell, ...]
    axes: Mapping[str, tuple[str, ...]]
    base: Path
    name: str = "sweep"


def read_plan(path: Path) -> Plan:
    """The cells of a file.

    Raises:
        UsageError: It is not there, not TOML, has an unknown section or key, a value that cannot be, or no cell.
    """
    document = _document(path)
    known = _Keys(path)
    shared = known.settings(_table(path, document, "scan"), "[scan]")
    axes = known.lists(_table(path, document, "grid"))
    single = document.get("cell", [])
    if not isinstance(single, list) or not all(isinstance(entry, dict) for entry in single):
        raise UsageError(f"{path}: [[cell]] is not a list of tables", "write [[cell]] above each")
    values = [{**shared, **dict(zip(axes, combination, strict=True))} for combination in _product(axes)]
    values += [{**shared, **known.settings(entry, f"[[cell]] {n}")} for n, entry in enumerate(single, 1)]
    if not values:
        raise UsageError(f"{path} has no cell: neither [grid] nor [[cell]]", 'add [grid] with model = ["model.onnx"]')
    return plan_of([_request(path, one) for one in values], path.parent, path.name)


def plan_of(requests: Iterable[Request], base: Path, name: str = "sweep") -> Plan:
    """The plan of these audits, each once.

    Args:
        requests: What to audit; all must name files, also that of a recorded update.
        base: Folder that their paths are told relative to.
        name: What the sweep is called.

    Raises:
        UsageError: There is none, or one names no model or batch, or holds an update in memory.
    """
    different = list(dict.fromkeys(requests))
    for request in different:
        if not request.files or (request.batch is None and not request.recorded):
            what = "batch" if request.files else "model"
            raise UsageError(f"{name}: a cell has no {what}", f'add {what} = "…" to [scan], [grid] or the [[cell]]')
        if request.update is not None and not isinstance(request.update, Path):
            raise UsageError(f"{name}: the update of a cell is in memory", "write it to a file, and name that")
    if not different:
        raise UsageError(f"{name}: no cell", "give at least one request")
    names = _axes(different)
    rows = _labelled(different, names)
    cells = tuple(Cell(n, request, row) for n, (request, row) in enumerate(zip(different, rows, strict=True), 1))
    return Plan(cells, {axis: tuple(dict.fromkeys(row[axis] for row in rows)) for axis in rows[0]}, base, name)


def _document(path: Path) -> dict[str, Any]:
    document = read_toml(path, f"the sweep {path}", 'lines look like seed = [0, 1], texts in "quotes"')
    for name in document:
        if name not in SECTIONS:
            expected = "[scan], [grid] and [[cell]]"
            raise UsageError(f"{path}: unknown section {name!r}, expected {expected}", _meant(name, SECTIONS))
    return document


def _table(path: Path, document: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: [{name}] is not a table", f"write [{name}] on a line of its own")
    return table


def _meant(name: str, known: Sequence[str]) -> str:
    return nearest(name, known, f"there are: {', '.join(known)}", "{!r}")


def _product(axes: Mapping[str, Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """Every combination; none where there is no axis."""
    return itertools.product(*axes.values()) if axes else iter(())


class _Keys:
    """The keys that a file may use, and how their values are read.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        known = parameters(Request)
        self.parameters = {name: p for name, p in known.items() if p.option or name == "model"}
        self.names = {name: name for name in (*self.parameters, _CONFIG)}
        self.names |= {p.option.strip("-").replace("-", "_"): name for name, p in self.parameters.items() if p.option}

    def settings(self, table: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Keywords of a request, from a table of single values."""
        found: dict[str, Any] = {}
        for key, value in table.items():
            self._once(found, key, where)
            found[self._name(key, where)] = self._value(key, value, where)
        return found

    def lists(self, table: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Lists of values of keywords."""
        found: dict[str, list[Any]] = {}
        for key, value in table.items():
            name = self._name(key, "[grid]")
            self._once(found, key, "[grid]")
            if not isinstance(value, list) or not value:
                raise UsageError(
                    f"{self.path}: [grid] {key} is {value!r}, expected a list", "one value for all belongs into [scan]"
                )
            items = [path for item in value for path in self._matching(item)] if name == "model" else value
            found[name] = [self._value(key, item, "[grid]") for item in items]
        return found

    def _name(self, key: str, where: str) -> str:
        name = key.replace("-", "_")
        if name not in self.names:
            shown = sorted({n.replace("_", "-") for n in self.names})
            raise UsageError(f"{self.path}: {where} has unknown key {key!r}", _meant(key, shown))
        return self.names[name]

    def _once(self, found: Mapping[str, Any], key: str, where: str) -> None:
        if self._name(key, where) in found:
            raise UsageError(f"{self.path}: {where} says {key!r} twice, under two names", "leave out one of them")

    def _value(self, key: str, value: Any, where: str) -> Any:
        name = self._name(key, where)
        if name == _CONFIG:
            return self.path.parent / str(value)
        parameter = self.parameters[name]
        try:
            return _located(parameter, _read(parameter, value), self.path.parent)
        except ValueError as error:
            raise UsageError(f"{self.path}: {where} {key} is {value!r}, {error}", "leakaudit scan --help") from error

    def _matching(self, item: Any) -> list[Any]:
        """The files that a pattern stands for, or the item itself."""
        if not isinstance(item, str) or not glob.has_magic(item) or (self.path.parent / item).exists():
            return [item]
        found = sorted(glob.glob(str(self.path.parent / item)))
        if not found:
            raise UsageError(f"{self.path}: no file matches model {item!r}", "patterns are relative to the sweep file")
        here = str(self.path.parent)
        return [str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path for path in found]


def _read(parameter: Parameter, value: Any) -> Any:
    """A value of TOML as the request takes it.

    Raises:
        ValueError: It cannot be.
    """
    kind = parameter.kind
    if kind.several and not isinstance(value, Mapping):
        words = value if isinstance(value, list) else [value] if value != "" else []
        if not all(isinstance(word, str) and word for word in words):
            raise ValueError("expected a text or a list of texts")
        return kind.read(words)
    if isinstance(kind, Numbers | Shape) and isinstance(value, str):
        return kind.read(value)
    return kind.take(value)


def _located(parameter: Parameter, value: Any, folder: Path) -> Any:
    """Paths below the folder that they are relative to."""
    if isinstance(parameter.kind, Files):
        return tuple(folder / path for path in value)
    return folder / value if isinstance(parameter.kind, File) else value


def _request(path: Path, values: Mapping[str, Any]) -> Request:
    """The request of these settings, those of a ``train-config`` file below its own."""
    own = dict(values)
    if (config := own.pop(_CONFIG, None)) is not None:
        from leakaudit.target.train_config import read_train_config

        below = read_train_config(config)
        own = {**below, **own, "dropout": {**below.get("dropout", {}), **own.get("dropout", {})}}
    try:
        return Request(**own)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error


def _axes(requests: Sequence[Request]) -> list[str]:
    """Parameters that label the cells: the usual ones, and what else differs between any two."""
    first = requests[0]
    others = [name for name in parameters(Request) if name not in ALWAYS]
    varying = [
        name
        for name in others
        if any(r.value_of(name) != first.value_of(name) for r in requests) and name != "both_modes"
    ]
    return [*ALWAYS, *(name for name in varying if name != "protocol" or len(varying) == 1)]


def _done(request: Request, name: str) -> Any:
    """What clients do by a parameter, whether or not it was asked for."""
    untold = getattr(request.protocol, "untold", ())
    own = request.local and name in (*LOCAL, "weight_decay") and name not in untold
    return getattr(request.protocol, name) if own else request.value_of(name)


def _labelled(requests: Sequence[Request], names: Sequence[str]) -> list[dict[str, str]]:
    """The labels of every request; files by as many parts of their paths as it takes to tell them apart.

    A setting of local training has its own value also where that is the default, which a request leaves unsaid.
    """
    known = parameters(Request)
    columns: dict[str, list[str]] = {}
    for name in names:
        values = [_done(request, name) for request in requests]
        if isinstance(known[name].kind, File):
            different = list(dict.fromkeys(value for value in values if value is not None))
            short = dict(zip(different, distinct_names(different) if different else [], strict=True))
            columns[name] = [NO_VALUE if value is None else short[value] for value in values]
        else:
            columns[name] = [_label(known[name], value) for value in values]
    return [{TITLES.get(name, name): columns[name][row] for name in names} for row in range(len(requests))]


def _label(parameter: Parameter, value: Any) -> str:
    if value in (None, (), {}):
        return UNDEFENDED if parameter.name == "defences" else NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    words = parameter.kind.words(value)
    if isinstance(parameter.kind, Files):
        return ", ".join(Path(word).name for word in words)
    return " + ".join(words)
