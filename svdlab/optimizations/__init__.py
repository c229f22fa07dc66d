"""Ways to run the same model in less memory or time: one idea a file, all of them found here.

A setup names them, `"forward-chunking"` or with a value `"forward-chunking=5"`. `registry` says what one is.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from itertools import combinations
from typing import TYPE_CHECKING

from svdlab.messages import did_you_mean, shorten
from svdlab.optimizations.registry import PHASES, Optimization

if TYPE_CHECKING:
    from svdlab.request import Request

    Parsed = tuple[tuple[Optimization, str | None], ...]


_modules = [import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
_every = (value for module in _modules for value in vars(module).values() if isinstance(value, Optimization))
OPTIMIZATIONS = {o.name: o for o in sorted(_every, key=lambda o: (PHASES.index(o.phase), o.name))}


def parse(text: str) -> tuple[Optimization, str | None]:
    """The optimisation that a text names, and the value after "=": None where there is none.

    Args:
        text: such as `"model-offload"` or `"forward-chunking=5"`.

    Raises:
        ValueError: the name or the value is unknown.
    """
    name, equals, value = text.partition("=")
    if name not in OPTIMIZATIONS:
        hint = did_you_mean(name, OPTIMIZATIONS) or "."
        raise ValueError(f"Unknown optimisation {shorten(name)}: expected one of {', '.join(OPTIMIZATIONS)}{hint}")
    optimization = OPTIMIZATIONS[name]
    if equals and not optimization.accepts(value):
        raise ValueError(f"{shorten(text)} is not understood: {name} takes {optimization.values or 'no value'}.")
    return optimization, value or None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of optimisations in the order of their phases, in which they can be applied; otherwise as given.

    Args:
        names: each with or without a value.

    Example:
        >>> in_order(["single-token", "model-offload"])
        ('model-offload', 'single-token')
    """
    return tuple(sorted(names, key=lambda text: PHASES.index(parse(text)[0].phase)))


def check(parsed: Parsed) -> None:
    """Check that optimisations can be had together, in this order.

    Args:
        parsed: each optimisation with its value.

    Raises:
        ValueError: two of them cannot, with the reason.
    """
    for (earlier, _), (later, _) in combinations(parsed, 2):
        if earlier is later:
            raise ValueError(f"{later.name!r} is named twice: name it once.")
        if reason := later.conflicts.get(earlier.name) or earlier.conflicts.get(later.name):
            raise ValueError(f"{earlier.name!r} and {later.name!r} cannot be had together: {reason}.")
        if PHASES.index(earlier.phase) > PHASES.index(later.phase):
            raise ValueError(
                f"{later.name!r} ({later.phase}) must come before {earlier.name!r} ({earlier.phase}): "
                f"the order is {', then '.join(PHASES)}."
            )


def check_request(parsed: Parsed, request: Request) -> None:
    """Check that optimisations can serve a request.

    Args:
        parsed: each optimisation with its value.
        request: what is asked, complete.

    Raises:
        ValueError: one of them cannot, with the reason.
    """
    for optimization, value in parsed:
        optimization.check_request(value, request)
