"""What a setup will need and take, predicted: no card, no weights, seconds.

The real modules run on tensors without values (`fake_run`), so every optimisation that changes what is computed counts
by construction. An offload is modelled by what it leaves on the device when. A card's time comes from its FLOP/s and
its bandwidth: the floor, which nothing can undercut, and an expectation, of which published times set the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from svdlab.optimizations import check_request
from svdlab.optimizations.registry import Residence
from svdlab.prediction.cards import Card
from svdlab.prediction.fake_run import trace
from svdlab.request import Request
from svdlab.setup import Setup

# The CUDA context takes about 0.5 GiB; workspaces and fragmentation, which nobody can trace, get a tenth more.
ALLOWANCE_BYTES = int(0.6 * 2**30)
# Of the sum over operations of what each takes at best. Published times of plain SVD-XT on an A100 are 39.9 to 50.9 s,
# and that sum is 21.4 s there: the middle gives this share. Other cards and versions reach more or less.
UTILISATION = 0.45
# Between the machine's memory and the card, unpinned, over PCIe 4.0 x16: assumed, not measured here.
LINK_BYTES = 8e9  # a second


@dataclass(frozen=True)
class Stage:
    """One of "encode", "denoise" and "decode". Counts are of all its steps, or of all its chunks."""

    weight_bytes: int  # weights on the device at once
    activation_bytes: int  # the most that lives beside the weights
    passes: int  # calls of the module: steps, or decode chunks
    moved_bytes: int  # weights brought to the device, over all passes
    operations: tuple[tuple[int, int, int], ...]  # (FLOP, bytes read and written, how often) of each kind

    @property
    def peak_bytes(self) -> int:
        """What PyTorch will have allocated at the highest moment of the stage."""
        return self.weight_bytes + self.activation_bytes

    @property
    def flops(self) -> int:
        """Floating-point operations; a multiplication and an addition count as two."""
        return sum(flops * times for flops, _, times in self.operations)

    @property
    def least_bytes(self) -> int:
        """What multiplications must read and write, with everything between them fused away."""
        return sum(size * times for flops, size, times in self.operations if flops)


class Seconds(NamedTuple):
    """How long a clip takes on a card, in seconds."""

    floor: float  # no program can be faster: all of the card's FLOP/s or all of its bandwidth, whichever takes longer
    expected: float  # each operation's own floor at `UTILISATION`, and the weights' way; compiled code counts as eager


@dataclass(frozen=True)
class Estimate:
    """What a setup will need for a request: `print` it for a sentence, compare it by `fits(bytes)` and `seconds(card)`.

    Attributes:
        setup: how the model runs.
        request: what is asked, complete.
        stages: a `Stage` for each of "encode", "denoise" and "decode".
        component_bytes: weights of "image_encoder", "unet" and "vae", wherever they wait.
        allowance_bytes: for what cannot be traced.
    """

    setup: Setup
    request: Request
    stages: dict[str, Stage]
    component_bytes: dict[str, int]
    allowance_bytes: int = ALLOWANCE_BYTES

    @property
    def peak_bytes(self) -> int:
        """What PyTorch will have allocated at the highest moment of the clip."""
        return max(stage.peak_bytes for stage in self.stages.values())

    @property
    def needed_bytes(self) -> int:
        """What the device must have: the peak and the allowance."""
        return self.peak_bytes + self.allowance_bytes

    @property
    def flops(self) -> int:
        """Floating-point operations of the clip; a multiplication and an addition count as two."""
        return sum(stage.flops for stage in self.stages.values())

    def fits(self, memory_bytes: int) -> bool:
        """Whether `needed_bytes` is no more than a device has.

        Args:
            memory_bytes: all of the device's memory.
        """
        return self.needed_bytes <= memory_bytes

    def seconds(self, card: Card) -> Seconds:
        """How long the clip takes on a card: the least possible, and what to expect.

        Args:
            card: from `find_card` or `this_card`.
        """
        floor = expected = 0.0
        for stage in self.stages.values():
            floor += max(stage.flops / card.flops, stage.least_bytes / card.bandwidth_bytes)
            each = (n * max(flops / card.flops, size / card.bandwidth_bytes) for flops, size, n in stage.operations)
            expected += sum(each) / UTILISATION + stage.moved_bytes / LINK_BYTES
        return Seconds(floor, expected)

    def __str__(self) -> str:
        verbs = {"encode": "encoding", "denoise": "denoising", "decode": "decoding"}
        highest = max(self.stages, key=lambda name: self.stages[name].peak_bytes)
        names = ", ".join((self.setup.variant, str(self.setup.resolved().dtype), *self.setup.optimizations))
        return f"{names}: {self.needed_bytes / 2**30:.1f} GiB needed, the most while {verbs[highest]}."


def estimate(setup: Setup, request: Request | None = None) -> Estimate:
    """Predict memory and time of a clip, without a card and without weights.

    A full-size one takes some seconds of one core the first time, and is remembered, on disk too. Of `setup.weights`
    only a folder makes a difference, by its configuration, and of `setup.device` the dtype that it implies.

    Args:
        setup: how the model runs.
        request: what is asked; left out, the variant's own size, frames and steps.

    Raises:
        ValueError: the setup cannot serve the request.

    Example:
        >>> from svdlab import Setup, estimate, find_card
        >>> prediction = estimate(Setup("tiny", dtype="fp32"))
        >>> print(prediction)
        tiny, fp32: 1.0 GiB needed, the most while decoding.
        >>> prediction.fits(2 * 2**30)
        True
        >>> 0 < prediction.seconds(find_card("RTX 3060")).floor < 1
        True
    """
    request = (request or Request(image="rocket")).filled(setup.variant)
    check_request(setup.parsed, request)
    find_residence, value = next(((o.residence, value) for o, value in setup.parsed if o.residence), (None, None))
    stages, component_bytes = {}, {}
    for name, stage in trace(setup, request).items():
        steps = request.num_inference_steps if name == "denoise" else 1  # of which a trace holds one
        component_bytes = {part: sizes.total for part, sizes in stage.weights.items()}  # the last stage's: as loaded
        residence = Residence(sum(component_bytes.values()), 0)  # without an offload
        if find_residence:
            residence = find_residence(name, stage.weights, value)
        stages[name] = Stage(
            residence.device_bytes,
            stage.activation_bytes,
            stage.passes * steps,
            residence.moved_bytes * stage.passes * steps,
            tuple((flops, size, times * steps) for flops, size, times in stage.operations),
        )
    return Estimate(setup, request, stages, component_bytes)
