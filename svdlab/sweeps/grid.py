"""Trials: what a sweep asks, one clip each, as every combination of the values of its axes.

>>> len(grid(Setup("tiny"), Request(image="rocket"), motion_bucket_id=[30, 127, 220], seed=range(5)))
15
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svdlab.messages import did_you_mean, shorten
from svdlab.optimizations import check_request
from svdlab.request import Request, quiet_requests
from svdlab.setup import Setup

_TYPES = {f.name: f.type for f in dataclasses.fields(Request) if f.name != "variant"}  # of all that can vary


@dataclass(frozen=True)
class Trial:
    """One clip to make: its request is complete. `axes` are the fields that its sweep varies, slowest first."""

    setup: Setup
    request: Request
    axes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "request", self.request.filled(self.setup.variant))
        check_request(self.setup.parsed, self.request)

    def __str__(self) -> str:
        if self.axes == ("setup",):
            return self.setup.label
        return _named({name: getattr(self.request, name) for name in self.axes or ("seed",) if name in _TYPES})


def grid(
    setup: Setup | Iterable[Setup], request: Request, *, paired: Mapping[str, Any] | None = None, **axes: Any
) -> list[Trial]:
    """Every combination of the axes' values, each once: the first axis changes slowest, several setups slower yet.

    An axis is a field of `Request` with a list of values, or a range as parameter files write it, both ends included:
    `{"start": 0, "stop": 240, "step": 60}` or `{"start": 0.02, "stop": 0.32, "num": 5, "log": True}`; a single value
    holds for all. `paired` axes move together, `{"fps": [6, 12], "motion_bucket_id": [60, 180]}`, slower than others.
    What comes twice counts once. A `ValueError` names the first trial that cannot be, and its field.
    """
    setups = [setup] if isinstance(setup, Setup) else _distinct(list(setup))
    together = {name: _values(name, value) for name, value in (paired or {}).items()}
    crossed = {name: _distinct(_values(name, value)) for name, value in axes.items()}
    if twice := sorted(set(together) & set(crossed)):
        raise ValueError(f"{twice[0]} is both paired and an axis of its own: name it once.")
    if len({len(values) for values in together.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(values)}" for name, values in together.items())
        raise ValueError(f"Paired axes need equally many values, and {lengths}.")
    pairs = _distinct(list(zip(*together.values(), strict=True))) or [()]
    names = ["setup"] * (len(setups) > 1) + list(together) * (len(pairs) > 1)
    names += [name for name, values in crossed.items() if len(values) > 1]
    trials, oddities = [], {}
    for one in setups:
        for pair, *values in itertools.product(pairs, *crossed.values()):
            fields = dict(zip([*together, *crossed], [*pair, *values], strict=True))
            try:
                with quiet_requests():  # each oddity is said once, below
                    trials.append(Trial(one, _filled(request, fields, one.variant), tuple(names)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"Trial {len(trials) + 1} ({_named(fields) or one.variant}): {error}") from None
            oddities |= dict.fromkeys(trials[-1].request.concerns())
    for sentence in oddities:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    return trials


def _values(name: str, value: Any) -> list[Any]:
    """What an axis runs through; a single value is an axis of one."""
    if name not in _TYPES:
        hint = did_you_mean(name, _TYPES) or f": expected one of {', '.join(_TYPES)}."
        raise ValueError(f"{shorten(name)} is no field of a request{hint}")
    if isinstance(value, Mapping):
        return _range(name, dict(value))
    picture = name == "image" and hasattr(value, "shape")  # an array
    several = isinstance(value, Iterable) and not isinstance(value, (str, bytes, os.PathLike)) and not picture
    values: list[Any] = list(value) if several else [value]
    if name in ("sigmas", "focus") and several and all(isinstance(v, (int, float)) for v in values):
        values = [tuple(values)]  # one schedule, one point
    if not values:
        raise ValueError(f"{name} has no values: give at least one.")
    return [Request(image=v).image for v in values] if name == "image" else values  # read here, shared by all trials


def _range(name: str, given: dict[str, Any]) -> list[float]:
    ends, ways = {"start", "stop"}, {"step", "num"}
    if not ends <= set(given) <= ends | ways | {"log"} or len(ways & set(given)) != 1 or _TYPES[name] not in _NUMBERS:
        raise ValueError(
            f"{name}={given} is no range: a field that is a number takes one, written as "
            '{"start": 0, "stop": 240, "step": 60} or {"start": 0.02, "stop": 0.32, "num": 5, "log": true}.'
        )
    start, stop, step = given["start"], given["stop"], given.get("step")
    try:
        count = given["num"] if step is None else math.floor((stop - start) / step + 1e-9) + 1
        if step is not None and not given.get("log"):
            values = [start + i * step for i in range(count)]
        elif given.get("log"):
            values = [start * (stop / start) ** (i / max(count - 1, 1)) for i in range(count if step is None else 0)]
        else:
            values = [start + (stop - start) * i / max(count - 1, 1) for i in range(count)]
        values = [round(v) if _TYPES[name] == "int" else float(f"{v:.12g}") for v in values]  # 0.3, not 0.300…04
    except (TypeError, ValueError, ArithmeticError):
        values = []
    if not values:
        raise ValueError(
            f"{name}={given} holds no number: a step must lead from start to stop, and log needs num and ends over 0."
        )
    return values


_NUMBERS = ("int", "float")


def _distinct(values: list[Any]) -> list[Any]:
    try:
        return list(dict.fromkeys(values))
    except TypeError:  # a picture has no hash
        return [v for i, v in enumerate(values) if not any(v is other or v == other for other in values[:i])]


def _filled(request: Request, fields: dict[str, Any], variant: str) -> Request:
    named = dataclasses.replace(with_image(request, "-"), **fields | {"image": "-"})
    return with_image(named.filled(variant), fields.get("image", request.image))


def with_image(request: Request, image: Any) -> Request:
    """`request` of another picture, which is shared: `dataclasses.replace` would copy it, and warn again."""
    other = copy.copy(request)
    object.__setattr__(other, "image", image)
    return other


def _named(fields: Mapping[str, Any]) -> str:
    texts = {name: value if isinstance(value, str) else repr(value) for name, value in fields.items()}
    return ", ".join(f"{name}={text if len(text) <= 60 else f'{text[:57]}…'}" for name, text in texts.items())
