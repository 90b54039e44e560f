"""Private samples of several inputs: an ``.npz`` with an array for each input of the model by its name, and labels.

Each array is read as the reader of its domain reads it, and the parts are put together to one row a sample. Where
several inputs of the model hold the columns of a table, each has an array of its own: integers, or numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leakaudit.client.batch import Batch
from leakaudit.client.readers.base import Reader, Reading, Source, reader_for
from leakaudit.client.readers.memory import array_of
from leakaudit.client.readers.npz import LABEL_KEYS, Arrays, Named, hash_files, read_named
from leakaudit.client.readers.parts import rows_of_parts
from leakaudit.domains.base import Domain
from leakaudit.domains.several import Member, Several, several_of
from leakaudit.domains.table import Table
from leakaudit.errors import BatchError, UsageError
from leakaudit.target.target import Target


@dataclass(frozen=True, eq=False)
class SeveralReader(Reader):
    """Reads samples for a model over several inputs."""

    def read(self, source: Source) -> Batch:
        """The samples."""
        return self.fitted(source)[1]

    def fitted(self, source: Source) -> tuple[Target, Batch]:
        """The samples, and the model with what their parts say of ranges and columns."""
        source = self.gathered(source)
        if isinstance(source, Batch):
            return self.target, source
        domain = several_of(self.target.domain)
        path = None if isinstance(source, Named) else _existing(Path(source), domain)
        where = "batch" if path is None else str(path)
        named = source if isinstance(source, Named) else read_named(Path(source), names_of(domain))
        if not named.inputs:
            raise _nothing(where, domain)
        parts = [self._part(member, named, where) for member in domain.members]
        _refuse_unequal({m.name: len(batch) for m, (_, batch) in zip(domain.members, parts, strict=True)}, where)
        found = domain.with_members([own for own, _ in parts])
        values = found.joined([batch.images.float() for _, batch in parts])
        first = parts[0][1]
        notes = [
            f"{m.name}: {note}" for m, (_, b) in zip(domain.members, parts, strict=True) for note in b.notes
            if note not in first.notes or b is first
        ]  # fmt: skip
        batch = replace(
            first,
            images=values,
            notes=tuple(notes),
            class_names=named.class_names,
            path=None if path is None else where,
            sha256=None if path is None else hash_files([path]),
        )
        return replace(self.target, domain=found), batch

    def gathered(self, source: Any) -> Source:
        """Arrays by the names of the inputs."""
        known = isinstance(source, str | Path | Batch | Named)
        return source if known else _in_memory(source, several_of(self.target.domain))

    def _part(self, member: Member, named: Named, where: str) -> tuple[Domain, Batch]:
        """The domain of a part and its samples."""
        domain, array = member.domain, named.inputs.get(member.name)
        if isinstance(domain, Table) and domain.parts:
            array = rows_of_parts(named.inputs, domain, where)
        if array is None:
            raise BatchError(f"{where}: no array {member.name!r}", "give an array for each input of the model")
        target = replace(
            self.target,
            domain=domain,
            layout="NHWC" if member.last else "NCHW",
            native_shape=domain.shape,
        )
        arrays = Arrays(array, named.labels, named.class_names, ())
        try:
            found, batch = reader_for(target, _reading(domain, self.reading)).fitted(arrays)
        except BatchError as error:
            said = error.message.removeprefix("batch: ")
            raise BatchError(f"{where}, input {member.name!r}: {said}", error.hint) from error
        return found.domain, batch

    def refuse(self, given: Mapping[str, object]) -> None:
        """Only what needs folders of pictures, or samples of one kind."""
        super().refuse({name: value for name, value in given.items() if name not in ("--mean", "--std")})


def names_of(domain: Several) -> list[str]:
    """Names of the arrays that a sample is made of."""
    names: list[str] = []
    for member in domain.members:
        parts = member.domain.parts if isinstance(member.domain, Table) else ()
        names += [part.name for part in parts] or [member.name]
    return names


def _reading(domain: Domain, reading: Reading) -> Reading:
    """How a part is read: what is said of pixels is not said of rows."""
    return replace(reading, values="auto", layout="auto") if isinstance(domain, Table) else reading


def _existing(path: Path, domain: Several) -> Path:
    way = f"pass --batch FILE.npz with the arrays {', '.join(names_of(domain))} and labels"
    if not path.exists():
        raise UsageError(f"no such batch file: {path}", way)
    if path.is_dir() or path.suffix.lower() != ".npz":
        raise UsageError(f"{path} is no .npz file, which holds an array for each of several inputs", way)
    return path


def _in_memory(source: Any, domain: Several) -> Named:
    """Arrays by name of a mapping, or of ``((first, second), labels)`` in the order of the model's inputs."""
    names = names_of(domain)
    if isinstance(source, Mapping):
        labels = next((source[key] for key in LABEL_KEYS if key in source), None)
        given = {name: source[name] for name in names if name in source}
    elif isinstance(source, tuple) and len(source) == 2 and _are_inputs(source[0], len(names)):
        given, labels = dict(zip(names, source[0], strict=True)), source[1]
    else:
        given, labels = {}, None
    if labels is None or len(given) < len(names):
        raise UsageError(
            f"the batch is no mapping with the inputs {', '.join(names)} and labels",
            "pass {" + ", ".join(f"'{name}': …" for name in names) + ", 'labels': …}, or an .npz file",
        )
    return Named({name: array_of(value) for name, value in given.items()}, array_of(labels), ())


def _are_inputs(given: Any, count: int) -> bool:
    """Whether these are as many arrays as the model has inputs; a list of samples is none."""
    return isinstance(given, tuple | list) and len(given) == count


def _nothing(where: str, domain: Several) -> BatchError:
    names = names_of(domain)
    return BatchError(
        f"{where}: holds no array of the model's inputs, {', '.join(names)}",
        f"write it with numpy.savez(path, {', '.join(f'{name}=…' for name in names)}, y=labels)",
    )


def _refuse_unequal(counts: Mapping[str, int], where: str) -> None:
    """Refuse parts of different numbers of samples."""
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise BatchError(f"{where}: the inputs hold different numbers of samples: {told}", "give one of each a sample")
