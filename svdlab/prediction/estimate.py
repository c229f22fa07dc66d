"""What a setup will need and take, predicted: no card, no weights, seconds.

The real modules run on tensors without values (`fake_run`), so every optimisation that changes what is computed counts
by construction. An offload is modelled by what it leaves on the device when, and by what it moves. A card's time is a
range, of what published programs reach of its FLOP/s and its bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from svdlab.optimizations.registry import Residence, check_request, in_order
from svdlab.prediction.cards import CONTEXT_BYTES, Card
from svdlab.prediction.fake_run import trace
from svdlab.request import Request
from svdlab.setup import Setup

# What PyTorch keeps beside the tensors, with CUDA's context. On top, cuDNN may copy a convolution's input and output
# into another layout: 0.2 GiB for each frame of 576x1024 that is decoded plainly, little elsewhere.
LEAST_ALLOWANCE_BYTES = int(0.6 * 2**30)
# What published runs of eager code reach of a card's rates, operation by operation. Cards without bf16 of their own
# have no flash attention in PyTorch, and a T4 cannot hold its clock: about 10 minutes on Colab are 17 %.
UTILISATION, UTILISATION_OF_OLD_CARDS = (0.30, 0.75), (0.15, 0.75)
# Between the machine's memory and the card, unpinned, over PCIe 3.0 and 4.0 x16: assumed, not measured here.
LINK_BYTES = (4e9, 12e9)  # a second


@dataclass(frozen=True)
class Stage:
    """One of "encode", "denoise" and "decode". Counts are of all its steps, or of all its chunks."""

    weight_bytes: int  # weights on the device at once
    activation_bytes: int  # the most that lives beside the weights
    workspace_bytes: int  # more, that cuDNN may take for a moment
    moved_bytes: int | None  # weights that come to the device and go; None: how fast cannot be foreseen
    overlaps: bool  # whether they move while the device computes
    operations: tuple[tuple[int, int, int], ...]  # (FLOP, bytes read and written, how often) of each kind

    @property
    def peak_bytes(self) -> int:
        """What PyTorch will have allocated at the highest moment of the stage."""
        return self.weight_bytes + self.activation_bytes

    @property
    def needed_bytes(self) -> int:
        """The peak, and an allowance for what cannot be traced."""
        return self.peak_bytes + max(LEAST_ALLOWANCE_BYTES, CONTEXT_BYTES + self.workspace_bytes)

    @property
    def flops(self) -> int:
        """Floating-point operations; a multiplication and an addition count as two."""
        return sum(flops * times for flops, _, times in self.operations)


class Seconds(NamedTuple):
    """How long a clip takes on a card, in seconds: between `low` and `high`; `str` gives "4 to 10 minutes"."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """The geometric mean, to compare setups by; no promise."""
        return (self.low * self.high) ** 0.5

    def __str__(self) -> str:
        units = {"hours": 3600, "minutes": 60, "seconds": 1}
        unit = next((name for name, size in units.items() if self.high >= 2 * size), "seconds")
        low, high = (float(f"{seconds / units[unit]:.2g}") for seconds in self)
        return f"{low:g} to {high:g} {unit}"


FITS = ("yes", "tight", "no")  # what `Estimate.fits_on` answers, the best first


@dataclass(frozen=True)
class Estimate:
    """What a setup will need for a request: `print` it for a sentence, ask `fits_on(card)` and `seconds(card)`.

    Attributes:
        setup: how the model runs.
        request: what is asked, complete.
        stages: a `Stage` for each of "encode", "denoise" and "decode".
        component_bytes: weights of "image_encoder", "unet" and "vae", wherever they wait.

    Example:
        >>> list(estimate(Setup("svd-xt", dtype="fp16")).stages)
        ['encode', 'denoise', 'decode']
    """

    setup: Setup
    request: Request
    stages: dict[str, Stage]
    component_bytes: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        """What PyTorch will have allocated at the highest moment of the clip."""
        return max(stage.peak_bytes for stage in self.stages.values())

    @property
    def needed_bytes(self) -> int:
        """What the device must have: the peak, and an allowance for what cannot be traced."""
        return max(stage.needed_bytes for stage in self.stages.values())

    @property
    def flops(self) -> int:
        """Floating-point operations of the clip; a multiplication and an addition count as two."""
        return sum(stage.flops for stage in self.stages.values())

    def fits(self, memory_bytes: int) -> bool:
        """Whether `needed_bytes` is no more than this.

        Args:
            memory_bytes: what a program may have of a device.
        """
        return self.needed_bytes <= memory_bytes

    def fits_on(self, card: Card) -> str:
        """Whether it fits a card: "yes", "tight" (only where nothing else takes memory: close the browser) or "no".

        Args:
            card: from `find_card`, `this_card` or `this_device`.
        """
        clip = self
        if self.setup.resolved().dtype == "bf16" and "fp16" in card.flops and "bf16" not in card.flops:
            others = [text for text in self.setup.optimizations if not text.startswith("attention=")]
            setup = replace(self.setup, optimizations=in_order([*others, "attention=math"]))
            clip = estimate(setup, self.request)  # such a card keeps all scores of attention in bf16
        return "yes" if clip.fits(card.free_bytes) else "tight" if clip.fits(card.memory_bytes) else "no"

    def seconds(self, card: Card) -> Seconds | None:
        """How long the clip takes on a card; compiled code counts as eager code.

        Args:
            card: from `find_card`, `this_card` or `this_device`.

        Returns:
            A range; None where the card has no rate for the dtype, or where the setup's offloading cannot be foreseen.
        """
        rate, bandwidth, ends = card.flops.get(str(self.setup.resolved().dtype)), card.bandwidth_bytes, []
        if rate is None or any(stage.moved_bytes is None for stage in self.stages.values()):
            return None
        shares = UTILISATION if "bf16" in card.flops else UTILISATION_OF_OLD_CARDS
        for share, link in zip(shares, LINK_BYTES, strict=True):
            seconds = 0.0
            for stage in self.stages.values():
                computing = sum(n * max(flops / rate, size / bandwidth) for flops, size, n in stage.operations) / share
                moving = (stage.moved_bytes or 0) / link
                seconds += max(computing, moving) if stage.overlaps else computing + moving
            ends.append(seconds)
        return Seconds(min(ends), max(ends))

    def __str__(self) -> str:
        verbs = {"encode": "encoding", "denoise": "denoising", "decode": "decoding"}
        highest = max(self.stages, key=lambda name: self.stages[name].needed_bytes)
        names = ", ".join((self.setup.variant, str(self.setup.resolved().dtype), *self.setup.optimizations))
        return f"{names}: {self.needed_bytes / 2**30:.1f} GiB needed, the most while {verbs[highest]}."


def estimate(setup: Setup, request: Request | None = None) -> Estimate:
    """Predict memory and time of a clip, without a card and without weights.

    At the published sizes it takes a moment, at others some seconds of one core for each stage that is new to this
    process. It may run in any thread, beside a clip.

    Args:
        setup: how the model runs. `weights` matters only if it is a folder (its configuration is read); `device`
            matters only for the default dtype.
        request: what is asked; left out, the variant's own size, frames and steps.

    Returns:
        An `Estimate`. Its `needed_bytes` is the memory that the device must have. `fits_on(card)` is "yes", "no" or
        "tight" (only where nothing else takes memory). `seconds(card)` has the fields `low` and `high`; it is None
        where the card's rates are not known, or the time of offloading cannot be foreseen. Each of its `stages` has
        `weight_bytes`, `activation_bytes`, `peak_bytes`, `needed_bytes` and `flops`.

    Raises:
        ValueError: the setup cannot serve the request.

    Example:
        >>> from svdlab import Setup, estimate, find_card
        >>> prediction = estimate(Setup("svd-xt", dtype="fp16", optimizations=("model-offload",)))
        >>> print(prediction)
        svd-xt, fp16, model-offload: 11.4 GiB needed, the most while denoising.
        >>> prediction.fits_on(find_card("RTX 3060")), str(prediction.seconds(find_card("RTX 3060")))
        ('tight', '4.4 to 11 minutes')
    """
    request = (request or Request(image="rocket")).filled(setup.variant)
    check_request(setup.parsed, request)
    traces = trace(setup, request)
    find_residence, value = next(((o.residence, value) for o, value in setup.parsed if o.residence), (None, None))
    weights = {name: sizes for stage in traces.values() for name, sizes in stage.weights.items()}
    weights |= traces["decode"].weights  # the VAE as loaded: encoding may take it in 32 bits
    stages = {}
    for name, stage in traces.items():
        steps = request.num_inference_steps if name == "denoise" else 1  # of which a trace holds one
        all_weights = weights | stage.weights
        residence = Residence(sum(sizes.total for sizes in all_weights.values()))  # without an offload
        if find_residence:
            residence = find_residence(name, all_weights, value)
        moved_bytes = None if residence.moved_bytes is None else residence.moved_bytes * steps
        operations = tuple((flops, size, times * steps) for flops, size, times in stage.operations)
        beside = (stage.activation_bytes, stage.workspace_bytes, moved_bytes, residence.overlaps)
        stages[name] = Stage(residence.device_bytes, *beside, operations)
    return Estimate(setup, request, stages, {name: sizes.total for name, sizes in weights.items()})


def estimate_if_readable(setup: Setup, request: Request) -> Estimate | None:
    """`estimate`; None where it cannot be had, as of weights that were moved away: who loads them will say so.

    Args:
        setup, request: as there.
    """
    try:
        return estimate(setup, request)
    except (OSError, RuntimeError, ValueError):
        return None
