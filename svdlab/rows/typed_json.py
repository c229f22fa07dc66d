"""JSON that is checked against the annotations of dataclasses.

A file that somebody else may have written is trusted in nothing: what a field is annotated with, it must hold.
Whole numbers fit into 64 bits, other numbers are finite, and text can be written as UTF-8.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
_hints = cache(get_type_hints)


def fields_of(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name; `dataclasses.asdict` would copy what is in them too."""
    return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}


def to_plain(value: Any) -> Any:
    """A value in the types of JSON: dicts, lists, text and numbers; NaN and infinity as None."""
    if dataclasses.is_dataclass(value):
        value = fields_of(value)
    if isinstance(value, dict):
        return {str(name): to_plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy's and torch's numbers and arrays
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(kind: Any, value: Any, name: str) -> Any:
    """What JSON holds as the type that an annotation names; a ValueError names the part that has another type.

    A dataclass's field that is missing, or null, has its default; one that is unknown is left out.

    Args:
        kind: a class, a Literal, a union, `tuple[X, ...]` or `dict[str, X]`.
        value: what `json.loads` gave. What is of class `kind` already stays as it is.
        name: as the error calls it: "timings.sample_seconds is not a number".
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        problems = []
        for each in inner:
            try:
                return from_plain(each, value, name)
            except ValueError as problem:
                problems.append(problem)
        raise problems[0]
    if origin is tuple and isinstance(value, list):
        return tuple(from_plain(inner[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        for key in value:
            from_plain(str, key, f"a name in {name}")
        return {key: from_plain(inner[1], item, f"{name}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        fields = {}
        for field in dataclasses.fields(kind):
            has_default = not (field.default is field.default_factory is dataclasses.MISSING)
            if value.get(field.name) is not None or not has_default:
                fields[field.name] = from_plain(_hints(kind)[field.name], value.get(field.name), f"{name}.{field.name}")
        return kind(**fields)  # pyright: ignore[reportCallIssue]
    if value in inner if origin is Literal else _is_value_of(kind, value):
        return value
    choices = (
        f"one of {', '.join(inner)}" if origin is Literal else "a list" if origin is tuple else "a group of fields"
    )
    raise ValueError(f"{name} is not {_TYPE_NAMES.get(kind, choices)}")


def _is_value_of(kind: Any, value: Any) -> bool:
    if kind is str and isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)  # a lone surrogate
    if kind in (int, float) and isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    if kind is float and isinstance(value, float):
        return math.isfinite(value)
    return isinstance(kind, type) and isinstance(value, kind)
