"""Ways to run the same model in less memory or time: one idea a file, listed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdlab.messages import did_you_mean, shorten
from svdlab.optimizations.attention import ATTENTION
from svdlab.optimizations.channels_last import CHANNELS_LAST
from svdlab.optimizations.compile import COMPILE_BLOCKS, COMPILE_UNET, COMPILE_VAE
from svdlab.optimizations.forward_chunking import FORWARD_CHUNKING
from svdlab.optimizations.fp8 import FP8
from svdlab.optimizations.lean_decode import LEAN_DECODE
from svdlab.optimizations.offload import GROUP_OFFLOAD, MODEL_OFFLOAD, SEQUENTIAL_OFFLOAD
from svdlab.optimizations.registry import PHASES, Optimization
from svdlab.optimizations.single_token import SINGLE_TOKEN
from svdlab.optimizations.split_guidance import SPLIT_GUIDANCE

if TYPE_CHECKING:
    from svdlab.request import Request

_ALL = (
    *(CHANNELS_LAST, FP8),
    *(MODEL_OFFLOAD, GROUP_OFFLOAD, SEQUENTIAL_OFFLOAD),
    *(
        FORWARD_CHUNKING,
        SPLIT_GUIDANCE,
        SINGLE_TOKEN,
        ATTENTION,
        LEAN_DECODE,
        COMPILE_UNET,
        COMPILE_BLOCKS,
        COMPILE_VAE,
    ),
)
OPTIMIZATIONS: dict[str, Optimization] = {o.name: o for o in _ALL}


def parse(text: str) -> tuple[Optimization, str | None]:
    """`"forward-chunking=5"` as the optimisation and its value; `"model-offload"` has the value None."""
    name, equals, value = text.partition("=")
    if name not in OPTIMIZATIONS:
        hint = did_you_mean(name, OPTIMIZATIONS) or "."
        raise ValueError(f"Unknown optimisation {shorten(name)}: expected one of {', '.join(OPTIMIZATIONS)}{hint}")
    optimization = OPTIMIZATIONS[name]
    if equals and not optimization.accepts(value):
        raise ValueError(f"{text!r} is not understood: {name} takes {optimization.values or 'no value'}.")
    return optimization, value or None


def check_request(names: tuple[str, ...], request: Request) -> None:
    """Raise a `ValueError` that says why these optimisations cannot serve `request`."""
    for optimization, value in map(parse, names):
        optimization.check_request(value, request)


def check(names: tuple[str, ...]) -> None:
    """Raise a `ValueError` that says why these optimisations cannot be had together, in this order."""
    chosen = [optimization for optimization, _ in map(parse, names)]
    for i, later in enumerate(chosen):
        for earlier in chosen[:i]:
            if earlier is later:
                raise ValueError(f"{later.name!r} is named twice: name it once.")
            reason = later.conflicts.get(earlier.name) or earlier.conflicts.get(later.name)
            if reason:
                raise ValueError(f"{earlier.name!r} and {later.name!r} cannot be had together: {reason}.")
            if PHASES.index(earlier.phase) > PHASES.index(later.phase):
                raise ValueError(
                    f"{later.name!r} ({later.phase}) must come before {earlier.name!r} ({earlier.phase}): "
                    f"the order is {', then '.join(PHASES)}."
                )
