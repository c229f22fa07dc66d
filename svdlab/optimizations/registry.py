"""What an optimisation is: one way to run the same model in less memory or time.

To add one, write a file beside this one with an `Optimization` in it, and a line in `tests/optimization_cases.py`.
Nothing else: `Setup` accepts its name, `load` applies it, and predictions, ladders, the command line, the generic tests
and the README's table (`make readme`) find it.

It has to prove that it holds, since diffusers has switches that silently do nothing on this UNet. The proof has two
halves. **Structure, at load:** `holds` looks at the modules as they are (classes, processors, dtypes, hooks, layouts),
at all that it was applied to, and never at a note that `apply` left. It is False on a plain pipeline and after somebody
undid the change. **Behaviour, after the first clip:** its line among the cases, by which the tests compare latents and
frames with those of plain diffusers on the same weights, and see that they change as `affects` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from svdlab.request import Request

Phase = Literal["weights", "placement", "graph"]
PHASES: tuple[Phase, ...] = ("weights", "placement", "graph")  # the only order in which they can be applied
Affects = Literal["nothing", "rounding", "latents", "frames"]


class WeightBytes(NamedTuple):
    """Bytes of one component's weights, for a prediction."""

    total: int
    largest_layer: int  # of its modules, without their children
    largest_block: int  # of its lists of blocks
    outside_blocks: int  # what is in no such list


class Residence(NamedTuple):
    """Where the weights are in one stage of a clip, for a prediction."""

    device_bytes: int  # on the device at once
    moved_bytes: int  # brought there in each pass


# (a clip's stage, weights by component, value) -> where they are
FindResidence = Callable[[str, Mapping[str, WeightBytes], "str | None"], Residence]


@dataclass(frozen=True)
class Optimization:
    """One way to run the same model in less memory or time.

    Attributes:
        name: as a setup names it.
        phase: "weights", "placement" or "graph": when it is applied.
        affects: "nothing", where every bit stays; "rounding"; "latents", which become others, and so do the frames; or
            "frames" alone, where the latents keep every bit.
        what: one sentence: what it does and what it costs.
        apply: changes a loaded pipeline; called with the pipeline and the value.
        holds: whether the change is really there; called with the pipeline after all are applied.
        values: in words, what may follow the name and "="; empty where nothing may.
        accepts: whether a text is one of those values.
        conflicts: names of others that it cannot be had with, each with the reason.
        accelerator: whether it needs something other than the processor.
        check_request: raises a `ValueError` where it cannot serve a request; called with the value and the request.
        before_clip: makes a pipeline ready for the next clip; called with the pipeline, the value and the request.
        traced: whether a prediction applies it to the modules that it runs; called with the value.
        residence: for a prediction, where the weights are; None leaves that to others.
    """

    name: str
    phase: Phase
    affects: Affects
    what: str
    apply: Callable[[Any, str | None], None]
    holds: Callable[[Any], bool]
    values: str = ""
    accepts: Callable[[str], bool] = lambda text: False
    conflicts: Mapping[str, str] = field(default_factory=dict)
    accelerator: bool = False
    check_request: Callable[[str | None, Request], None] = lambda value, request: None
    before_clip: Callable[[Any, str | None, Request], None] = lambda pipeline, value, request: None
    traced: Callable[[str | None], bool] = lambda value: True
    residence: FindResidence | None = None

    @property
    def exact(self) -> bool:
        """Whether the frames are those of the plain pipeline, rounding aside."""
        return self.affects in ("nothing", "rounding")
