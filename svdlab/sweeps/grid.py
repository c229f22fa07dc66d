"""A sweep is a list of trials: one setup and one complete request for each clip. `grid` builds that list.

Axes are fields of a request with several values. A grid holds every combination of them once. It is counted before it
is built, so that a slip of a few zeros costs no minutes and no memory.
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
from svdlab.optimizations.registry import check_request
from svdlab.request import Request, quiet_requests
from svdlab.setup import Setup

_FIELD_TYPES = {f.name: f.type for f in dataclasses.fields(Request) if f.name != "variant"}  # of all that can vary


@dataclass(frozen=True)
class Trial:
    """One clip to make: a setup and a complete request.

    Args:
        setup: How the model runs.
        request: What is asked of the clip. Open fields are filled in from the setup's variant.
        axes: The fields that vary in the sweep of this trial, slowest first; "setup" where setups vary.

    Example:
        >>> from svdlab import Request, Setup, Trial
        >>> trial = Trial(Setup("tiny"), Request(image="rocket", seed=3))
        >>> trial.request.num_frames
        14
        >>> print(trial)
        seed=3
    """

    setup: Setup
    request: Request
    axes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "request", self.request.filled(self.setup.variant))
        check_request(self.setup.parsed, self.request)

    def __str__(self) -> str:
        if self.axes == ("setup",):
            return self.setup.label
        return _describe({name: getattr(self.request, name) for name in self.axes or ("seed",) if name in _FIELD_TYPES})


def grid(
    setup: Setup | Iterable[Setup],
    request: Request,
    *,
    paired: Mapping[str, Any] | None = None,
    max_trials: int = 100_000,
    **axes: Any,
) -> list[Trial]:
    """One trial for every combination of the axes' values, the first axis changing slowest.

    Args:
        setup: One setup, or several, which then change slowest of all. The axis of several is called "setup".
        request: What is asked of every clip, apart from the axes.
        paired: Axes that move together, `{"fps": [6, 12], "motion_bucket_id": [60, 180]}`, slower than the others. Each
            has values as `axes` do, a range too; all need equally many.
        max_trials: The most trials that are built.
        **axes: Fields of `Request`. Each has a list of values, a single value, or a range,
            `{"start": 0, "stop": 240, "step": 60}`, which holds its stop if a step lands there: 0, 60, 120, 180, 240.
            A range of a whole-number field is rounded. A value that comes twice counts once. `focus=(0.2, 0.5)` is one
            point and `sigmas=(…)` one schedule; several stand in a list.

    Raises:
        ValueError: If an axis is no field of a request, or a trial cannot be, or there are more than `max_trials`.

    Example:
        >>> from svdlab import Request, Setup, grid
        >>> trials = grid(Setup("tiny"), Request(image="rocket"), motion_bucket_id=[30, 127, 220], seed=range(5))
        >>> len(trials), str(trials[0])
        (15, 'motion_bucket_id=30, seed=0')
    """
    setups = [setup] if isinstance(setup, Setup) else _distinct(list(setup))
    paired_values = {name: _values(name, value, max_trials) for name, value in (paired or {}).items()}
    crossed_values = {name: _distinct(_values(name, value, max_trials)) for name, value in axes.items()}
    if repeated := sorted(set(paired_values) & set(crossed_values)):
        raise ValueError(f"{repeated[0]} is both paired and an axis of its own: name it once.")
    if len({len(values) for values in paired_values.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(values)}" for name, values in paired_values.items())
        raise ValueError(f"Paired axes need equally many values, and {lengths}.")
    pairs = _distinct(list(zip(*paired_values.values(), strict=True))) or [()]
    count = len(setups) * len(pairs) * math.prod(map(len, crossed_values.values()))
    if count > max_trials:
        raise ValueError(f"This grid has {count:,} trials, over the {max_trials:,} that are built: see max_trials.")
    names = ["setup"] * (len(setups) > 1) + list(paired_values) * (len(pairs) > 1)
    names += [name for name, values in crossed_values.items() if len(values) > 1]
    trials, concerns = [], {}
    for each in setups:
        for pair, *values in itertools.product(pairs, *crossed_values.values()):
            fields = dict(zip([*paired_values, *crossed_values], [*pair, *values], strict=True))
            try:
                with quiet_requests():  # each concern is named once, below
                    complete = dataclasses.replace(with_image(request, "-"), **fields | {"image": "-"})
                    complete = with_image(complete.filled(each.variant), fields.get("image", request.image))
                    trials.append(Trial(each, complete, tuple(names)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"Trial {len(trials) + 1} ({_describe(fields) or each.variant}): {error}") from None
            concerns |= dict.fromkeys(trials[-1].request.concerns())
    for sentence in concerns:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    return trials


def with_image(request: Request, image: Any) -> Request:
    """A request for another picture, which is shared: `dataclasses.replace` would copy it, and warn again.

    Args:
        request: any.
        image: its new `image`, unchecked.
    """
    other = copy.copy(request)
    object.__setattr__(other, "image", image)
    return other


def _values(name: str, value: Any, limit: int) -> list[Any]:
    """The values of an axis; a single value is an axis of one."""
    if name not in _FIELD_TYPES:
        nearest = did_you_mean(name, _FIELD_TYPES) or f": expected one of {', '.join(_FIELD_TYPES)}."
        raise ValueError(f"{shorten(name)} is no field of a request{nearest}")
    if isinstance(value, Mapping):
        return _range(name, dict(value), limit)
    is_array = name == "image" and hasattr(value, "shape")
    several = isinstance(value, Iterable) and not isinstance(value, (str, bytes, os.PathLike)) and not is_array
    items: Any = value if several else [value]
    values: list[Any] = list(itertools.islice(items, limit + 1))
    _check_count(name, len(items) if hasattr(items, "__len__") else len(values), limit)
    if name in ("sigmas", "focus") and several and all(isinstance(v, (int, float)) for v in values):
        values = [tuple(values)]  # one schedule, one point
    if not values:
        raise ValueError(f"{name} has no values: give at least one.")
    return [Request(image=v).image for v in values] if name == "image" else values  # read here, shared by all trials


def _range(name: str, bounds: dict[str, Any], limit: int) -> list[float]:
    if set(bounds) != {"start", "stop", "step"} or _FIELD_TYPES[name] not in ("int", "float"):
        raise ValueError(
            f"{name}={shorten(bounds)} is no range: a field that is a number takes one, written as "
            '{"start": 0, "stop": 240, "step": 60}.'
        )
    start, stop, step = bounds["start"], bounds["stop"], bounds["step"]
    try:
        count = math.floor((stop - start) / step + 1e-9) + 1
        values = [start + i * step for i in range(count if count <= limit else 0)]
        values = [round(v) if _FIELD_TYPES[name] == "int" else float(f"{v:.12g}") for v in values]  # 0.3, not 0.300…04
    except (TypeError, ValueError, ArithmeticError):
        count, values = 0, []
    _check_count(name, count, limit)
    if not values:
        raise ValueError(f"{name}={shorten(bounds)} holds no number: a step leads from start to stop.")
    return values


def _check_count(name: str, count: int, limit: int) -> None:
    if count > limit:
        raise ValueError(f"{name} has {count:,} values or more: at most {limit:,} trials are built, see max_trials.")


def _distinct(values: list[Any]) -> list[Any]:
    try:
        return list(dict.fromkeys(values))
    except TypeError:  # a picture has no hash
        return [v for i, v in enumerate(values) if not any(v is other or v == other for other in values[:i])]


def _describe(fields: Mapping[str, Any]) -> str:
    texts = {name: value if isinstance(value, str) else repr(value) for name, value in fields.items()}
    return ", ".join(f"{name}={text if len(text) <= 60 else f'{text[:57]}…'}" for name, text in texts.items())
