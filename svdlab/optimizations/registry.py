"""What an optimisation is. One idea a file beside this one; `svdlab.optimizations` lists them all.

To add one: write its file with an `Optimization` in it, and name it in `__init__.py`. `Setup` then accepts it,
`load` applies it and checks that it took hold, and the command line and the tests find it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

    from svdlab.request import Request

    Apply = Callable[[StableVideoDiffusionPipeline, "str | None"], None]
    Holds = Callable[[StableVideoDiffusionPipeline], bool]

Phase = Literal["weights", "placement", "graph"]
PHASES: tuple[Phase, ...] = ("weights", "placement", "graph")  # the only order in which they can be applied


class Weights(NamedTuple):
    """Bytes of one component's weights."""

    whole: int
    largest_leaf: int  # of its layers
    largest_block: int  # of its lists of blocks
    beside_blocks: int  # what is in no such list


# (stage, weights by component, value) -> bytes on the device at once, bytes brought there in each pass
Resident = Callable[[str, Mapping[str, Weights], "str | None"], tuple[int, int]]


def everything(stage: str, weights: Mapping[str, Weights], value: str | None) -> tuple[int, int]:
    """Without an offload all weights are on the device at all times."""
    return sum(part.whole for part in weights.values()), 0


@dataclass(frozen=True)
class Optimization:
    """One way to run the same model in less memory or time.

    `apply(pipeline, value)` changes a loaded pipeline; `holds(pipeline)` looks at the pipeline afterwards and says
    whether the change is really there: diffusers has switches that silently do nothing on this UNet.
    """

    name: str
    phase: Phase
    exact: bool  # the frames are those of the plain pipeline, rounding aside
    what: str  # one sentence: what it does, and what it costs
    apply: Apply
    holds: Holds
    values: str | None = None  # what may follow the name after "=", in words; None: nothing
    accepts: Callable[[str], bool] = lambda _: False  # whether a text is one of those values
    check_request: Callable[[str | None, Request], None] = lambda value, request: None  # raises where it cannot serve
    before_clip: Callable[[Any, str | None, Request], None] = lambda pipeline, value, request: None
    conflicts: dict[str, str] = field(default_factory=dict)  # name -> why not both
    accelerator: bool = False  # needs something other than the processor
    traced: Callable[[str | None], bool] = lambda _: True  # a prediction applies it to modules without values
    resident: Resident | None = None  # for a prediction, where it decides which weights are on the device when
