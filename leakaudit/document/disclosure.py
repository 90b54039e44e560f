"""What a field of the report document may show below ``--evidence full``, declared field by field.

Redaction works by allow-list: a field is kept only where its declaration says so, and one without a declaration counts
as private, so a new field is hidden until somebody decides about it.

================  ==========================================================  ===================================
declaration       what the field may hold                                     below ``full``
================  ==========================================================  ===================================
``Public``        scores, counts, settings, program text, names of the model  kept; sections go on field by field
``Private``       samples, labels, words, class names, files of the batch     emptied
``Picture``       PNG data URIs of samples or reconstructions                 a mosaic if large, or emptied
``FileName``      the path of a model file                                    its last part
``Limited(...)``  a mapping with free keys                                    the listed keys
``OptionValue``   the value of an option                                      kept for options without a path
``CommandLine``   the words of a command                                      placeholders for what is not listed
================  ==========================================================  ===================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic.fields import FieldInfo

Kind = Literal["public", "private", "picture", "file name", "limited", "option", "command"]
T = TypeVar("T")


@dataclass(frozen=True)
class Disclosure:
    """How a field appears below ``full``.

    Args:
        kind: See the table above.
        keys: Of a mapping, those that are kept.
    """

    kind: Kind
    keys: frozenset[str] = frozenset()


Public = Annotated[T, Disclosure("public")]
Private = Annotated[T, Disclosure("private")]
Picture = Annotated[T, Disclosure("picture")]
FileName = Annotated[T, Disclosure("file name")]
OptionValue = Annotated[T, Disclosure("option")]
CommandLine = Annotated[T, Disclosure("command")]


def limited(*keys: str) -> Disclosure:
    """The declaration of a mapping of which these keys are kept."""
    return Disclosure("limited", frozenset(keys))


def declarations(field: FieldInfo) -> list[Disclosure]:
    """What is declared of a field: one declaration, if its author decided."""
    return [item for item in field.metadata if isinstance(item, Disclosure)]


def disclosure_of(field: FieldInfo) -> Disclosure:
    """What holds for a field; private where it is declared not at all, or twice."""
    found = declarations(field)
    return found[0] if len(found) == 1 else Disclosure("private")
