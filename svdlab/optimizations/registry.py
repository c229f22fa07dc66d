"""What an optimisation is. One idea a file beside this one; `svdlab.optimizations` lists them all.

To add one: write its file with an `Optimization` in it, and name it in `__init__.py`. `Setup` then accepts it,
`load` applies it and checks that it took hold, and the command line and the tests find it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from svdlab.variants import Variant

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

    Apply = Callable[[StableVideoDiffusionPipeline, "str | None"], None]
    Holds = Callable[[StableVideoDiffusionPipeline], bool]

Stage = Literal["weights", "placement", "graph"]
STAGES: tuple[Stage, ...] = ("weights", "placement", "graph")  # the only order in which they can be applied


@dataclass(frozen=True)
class Optimization:
    """One way to run the same model in less memory or time.

    `apply(pipeline, value)` changes a loaded pipeline; `holds(pipeline)` looks at the pipeline afterwards and says
    whether the change is really there: diffusers has switches that silently do nothing on this UNet.
    """

    name: str
    stage: Stage
    exact: bool  # the frames are those of the plain pipeline, rounding aside
    what: str  # one sentence: what it does, and what it costs
    apply: Apply
    holds: Holds
    values: str | None = None  # what may follow the name after "=", in words; None: nothing
    expected: Callable[[Variant], tuple[str, ...]] = lambda _: ()  # those values, for a variant
    conflicts: dict[str, str] = field(default_factory=dict)  # name -> why not both
    accelerator: bool = False  # needs something other than the processor
