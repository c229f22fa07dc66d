"""JSON that is checked against the annotations of dataclasses.

A file that somebody else may have written is trusted in nothing: what a field is annotated with, it must hold.
`from_plain` builds the annotated type out of what `json.loads` gave, or says in one sentence which field is wrong.
Whole numbers fit into 64 bits, other numbers are finite, and text can be written as UTF-8.
`to_plain` is the way back; a number that is not finite becomes null, since JSON has no word for it.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}


def to_plain(value: Any) -> Any:
    """A value in the types of JSON: dataclasses as dicts, tuples and arrays as lists, NumPy's numbers as Python's.

    Args:
        value: dataclasses, dicts, lists, tuples, arrays, numbers, text, None, in one another.

    Returns:
        The same in dicts, lists, numbers, text and None; NaN and infinity as None.

    Example:
        >>> to_plain({"sigmas": (1.0, float("nan"))})
        {'sigmas': [1.0, None]}
    """
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): to_plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy's and torch's numbers and arrays
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(kind: Any, value: Any, name: str, refuse_unknown: bool = False) -> Any:
    """What JSON holds as the type that an annotation names.

    Args:
        kind: a dataclass, str, int, float, bool, Any, a Literal, a union, `tuple[X, ...]` or `dict[str, X]`.
        value: what `json.loads` gave.
        name: the field's name, for the message of an error.
        refuse_unknown: raise for a field that a dataclass does not have, rather than leave it out.

    Returns:
        A value of that type. A dataclass's field that is missing, or null, has its default. What is of a class already
        stays as it is.

    Raises:
        ValueError: something in it has another type; the sentence names the field.

    Example:
        >>> from_plain(tuple[float, ...], [1, 2.5], "seconds")
        (1, 2.5)
        >>> from_plain(dict[str, float], {"sample": "long"}, "timings")
        Traceback (most recent call last):
        ValueError: timings.sample is not a number
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _any_of(inner, value, name)
    if origin is Literal and isinstance(value, str) and value in inner:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(from_plain(inner[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {
            from_plain(str, key, f"a name in {name}"): from_plain(inner[1], item, f"{name}.{key}")
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, name, refuse_unknown)
    if kind is Any or _is_value_of(kind, value):
        return value
    expected = _TYPE_NAMES.get(kind) or (f"one of {', '.join(inner)}" if origin is Literal else "a group of fields")
    raise ValueError(f"{name} is not {'a list' if origin is tuple else expected}")


def _is_value_of(kind: Any, value: Any) -> bool:
    if kind is str and isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)  # a lone surrogate
    if kind in (int, float) and isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    if kind is float and isinstance(value, float):
        return math.isfinite(value)
    return isinstance(kind, type) and isinstance(value, kind)


def _any_of(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not NoneType]
    for kind in others:
        try:
            return from_plain(kind, value, name)
        except ValueError:
            continue
    return from_plain(last, value, name)


def _dataclass(kind: Any, value: dict[str, Any], name: str, refuse_unknown: bool) -> Any:
    hints, given = _hints(kind), {}
    if refuse_unknown and (unknown := value.keys() - hints.keys()):
        raise ValueError(f"{name} has the unknown field {min(unknown)[:80]!r}, of a newer svdlab: update this one")
    for field in dataclasses.fields(kind):
        has_default = not (field.default is field.default_factory is dataclasses.MISSING)
        if value.get(field.name) is not None or not has_default:
            given[field.name] = from_plain(hints[field.name], value.get(field.name), f"{name}.{field.name}")
    return kind(**given)


@lru_cache(maxsize=16)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
