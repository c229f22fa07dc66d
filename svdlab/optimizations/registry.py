"""What an optimisation is, which ones there are, and which cannot be had together.

An optimisation is one way to run the same model in less memory or time. A setup names it, `"forward-chunking"` or with
a value `"forward-chunking=5"`. To add one, write a file beside this one with an `Optimization` in it, and a line in
`tests/optimization_cases.py`. `Setup`, `load`, predictions, ladders, the command line and the tests find it; `make
readme` writes it into docs/.

It has to prove that it holds, since diffusers has switches that silently do nothing on this UNet. At load `holds` looks
at all that it was applied to (classes, processors, dtypes, hooks, layouts), never at a note that `apply` left. Its line
among the cases compares latents and frames with those of plain diffusers, which may differ as `affects` says.

The pipeline feeds the VAE's encoder and decoder in the type of `vae.dtype`, the encoder's. An `apply` that gives a part
another type casts what goes in: `decoder.to(dtype).register_forward_pre_hook(cast)`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from svdlab.messages import did_you_mean, shorten

if TYPE_CHECKING:
    from svdlab.request import Request

    Parsed = tuple[tuple["Optimization", str | None], ...]

Phase = Literal["weights", "placement", "graph"]
PHASES: tuple[Phase, ...] = ("weights", "placement", "graph")  # the only order in which they can be applied
Affects = Literal["nothing", "rounding", "latents", "frames"]


class WeightBytes(NamedTuple):
    """Bytes of one component's weights, for a prediction."""

    total: int
    largest_layer: int  # of its modules, without their children
    largest_block: int  # of its lists of blocks
    outside_blocks: int  # what is in no such list
    layer_traffic: int  # its layers' own bytes, each as often as the stage calls it
    block_traffic: int  # the same of its blocks, and what is outside of them at each call of the component itself


class Residence(NamedTuple):
    """Where the weights are in one stage of a clip, for a prediction."""

    device_bytes: int  # on the device at once
    moved_bytes: int | None = 0  # both ways, in one step or in all decode chunks; None: their time cannot be foreseen
    overlaps: bool = False  # whether they move while the device computes


# (a clip's stage, weights by component, value) -> where they are
FindResidence = Callable[[str, Mapping[str, WeightBytes], "str | None"], Residence]


@dataclass(frozen=True)
class Optimization:
    """One way to run the same model in less memory or time; `apply` gets the pipeline and the value after "="."""

    name: str  # as a setup names it
    phase: Phase  # when it is applied; a placement gets the pipeline on the processor, and brings it to the device
    affects: Affects  # "nothing": every bit stays; "rounding"; "latents": those and so the frames; "frames" alone
    what: str  # one sentence: what it does and what it costs
    apply: Callable[[Any, str | None], None]  # changes a loaded pipeline
    holds: Callable[[Any], bool]  # whether the change is in force; called after all are applied
    values: str = ""  # in words, what may follow the name and "="; empty where nothing may
    accepts: Callable[[str], bool] = lambda text: False  # whether a text is one of those values
    conflicts: Mapping[str, str] = field(default_factory=dict)  # names that it cannot be had with, and the reasons
    accelerator: bool = False  # whether it needs something other than the processor
    # Raises a `RuntimeError` where it cannot run on a device.
    check_device: Callable[[str | None, str], object] = lambda value, device: None
    # Raises a `ValueError` where it cannot serve a request.
    check_request: Callable[[str | None, Request], object] = lambda value, request: None
    # Makes a pipeline ready for the next clip.
    before_clip: Callable[[Any, str | None, Request], None] = lambda pipeline, value, request: None
    traced: Callable[[str | None], bool] = lambda value: True  # whether a prediction applies it to what it runs
    stages: tuple[str, ...] = ("encode", "denoise", "decode")  # of a clip, which it changes where it is traced
    residence: FindResidence | None = None  # of a placement: where the weights are in each stage, for a prediction

    @property
    def exact(self) -> bool:
        """Whether the frames are those of the plain pipeline, rounding aside."""
        return self.affects in ("nothing", "rounding")


@cache
def optimizations() -> dict[str, Optimization]:
    """All optimisations by name, in the order of their phases: those in the files of this folder."""
    files = pkgutil.iter_modules([str(Path(__file__).parent)])
    modules = [import_module(f"{__package__}.{file.name}") for file in files]
    every = [value for module in modules for value in vars(module).values() if isinstance(value, Optimization)]
    return {o.name: o for o in sorted(every, key=lambda o: (PHASES.index(o.phase), o.name))}


def parse(text: str) -> tuple[Optimization, str | None]:
    """The optimisation that a text names, and the value after "=": None where there is none.

    Args:
        text: such as `"model-offload"` or `"forward-chunking=5"`.

    Raises:
        ValueError: the name or the value is unknown.
    """
    (name, equals, value), known = text.partition("="), optimizations()
    if name not in known:
        hint = did_you_mean(name, known) or "."
        raise ValueError(f"Unknown optimisation {shorten(name)}: expected one of {', '.join(known)}{hint}")
    optimization = known[name]
    if equals and not optimization.accepts(value):
        raise ValueError(f"{shorten(text)} is not understood: {name} takes {optimization.values or 'no value'}.")
    return optimization, value or None


def only_approximate(texts: Iterable[str]) -> tuple[str, ...]:
    """Those of some optimisations that change the frames by more than rounding.

    Args:
        texts: as in `Setup.optimizations`.
    """
    return tuple(text for text in texts if not parse(text)[0].exact)


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
