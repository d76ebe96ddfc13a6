"""What every section of params.yaml is: frozen, unknown keys refused; the kinds of value that stand in several; and what is wrong with a file.

Owner of msgspec: every stage reads params.yaml, also one that finds nothing to do, so what reads it must be there at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta

from pipelines.core.errors import ParamsError

Fraction = Annotated[float, Meta(ge=0, le=1)]
OpenFraction = Annotated[float, Meta(gt=0, lt=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of params.yaml: frozen, unknown keys refused, no silent conversion of strings to numbers."""


Kind = TypeVar("Kind", bound=Section)


def section_from(value: Any, kind: type[Kind]) -> Kind:
    """A section from what YAML gives for it.

    Raises:
        ParamsError: one line that names every wrong, missing or unknown key.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ParamsError("; ".join(_problems(value, kind, ""))) from error


def plain(section: Section) -> dict[str, Any]:
    """A section as JSON has it."""
    values: dict[str, Any] = msgspec.to_builtins(section)
    return values


def replaced(section: Kind, **values: Any) -> Kind:
    """A copy with other values, which are not checked."""
    return msgspec.structs.replace(section, **values)


def _problems(value: Any, kind: Any, key: str) -> Iterator[str]:
    """What is wrong with the value of a key that is annotated as `kind`: one sentence for each key in it."""
    sections = {str(part.__struct_config__.tag): part for part in _parts(kind) if _is_section(part)}
    section = (sections.get(str(value.get("type"))) or sections.get("None")) if isinstance(value, dict) else None
    found: list[str] = []
    if section is not None:
        found = [*_problems_of_keys(value, section, f"{key}." if key else "")]
    elif sections and isinstance(value, list):
        found = [problem for place, item in enumerate(value) for problem in _problems(item, reduce(or_, sections.values()), f"{key}.{place}")]
    yield from found or _problem(value, section or kind, key)


def _problem(value: Any, kind: Any, key: str) -> Iterator[str]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at `")[0]
        if reason.startswith("Invalid"):
            reason += f", wanted one of {', '.join(_choices(kind))}"
        # what a section says of its values together names the keys itself
        yield reason if _is_section(kind) and isinstance(value, dict) else f"{key} = {value!r}: {reason}"


def _problems_of_keys(value: dict[Any, Any], section: type[Section], prefix: str) -> Iterator[str]:
    config, fields = section.__struct_config__, msgspec.structs.fields(section)
    for field in fields:
        if field.name in value:
            yield from _problems(value[field.name], field.type, f"{prefix}{field.name}")
        elif field.required:
            yield f"{prefix}{field.name} is missing: add it"
    for name in value:
        if name not in {config.tag_field, *(field.name for field in fields)}:
            yield f"{prefix}{name} is unknown: correct or remove it"


def _choices(kind: Any) -> Iterator[str]:
    for part in _parts(kind):
        if get_origin(part) is Literal:
            yield from map(str, get_args(part))
        elif _is_section(part):
            yield part.__struct_config__.tag


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _parts(kind: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)
