"""What a setup will need and take, predicted: no card, no weights, seconds.

The real modules run on tensors without values (`fake_run`), so every optimisation that changes what is computed is seen
by construction. An offload is modelled by what it leaves on the device when. A card's time comes from its FLOP/s and
its bandwidth: the floor, which nothing can undercut, and an expectation, of which published times set the scale.

Not modelled: the workspaces of cuDNN and cuBLAS, the CUDA context, fragmentation. `ALLOWANCE_BYTES` stands for them.
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
    """One of "encode", "denoise" and "decode". Counts are of the whole stage: of all steps, of all chunks.

    Attributes:
        weight_bytes: weights on the device at once.
        activation_bytes: the most that lives beside the weights.
        passes: calls of the module: steps, or decode chunks.
        moved_bytes: weights brought to the device, over all passes.
        operations: (FLOP, bytes read and written, how often) of each kind of operation.
    """

    weight_bytes: int
    activation_bytes: int
    passes: int
    moved_bytes: int
    operations: tuple[tuple[int, int, int], ...]

    @property
    def peak_bytes(self) -> int:
        """What PyTorch will have allocated at the highest moment of the stage, in bytes."""
        return self.weight_bytes + self.activation_bytes

    @property
    def flops(self) -> int:
        """Floating-point operations; a multiplication and an addition count as two."""
        return sum(flops * times for flops, _, times in self.operations)

    @property
    def least_bytes(self) -> int:
        """What multiplications must read and write, in bytes, with everything between them fused away."""
        return sum(size * times for flops, size, times in self.operations if flops)


class Seconds(NamedTuple):
    """How long a clip takes on a card, in seconds.

    Attributes:
        floor: no program can be faster: all of the card's FLOP/s or all of its bandwidth, whichever takes longer.
        expected: where the card does as well as published ones did: each operation's own floor at `UTILISATION`, and
            the weights' way to the card. Compiled code is expected as eager code: what it gains must be measured.
    """

    floor: float
    expected: float


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
        """What PyTorch will have allocated at the highest moment of the clip, in bytes."""
        return max(stage.peak_bytes for stage in self.stages.values())

    @property
    def needed_bytes(self) -> int:
        """What the device must have, in bytes: the peak and the allowance."""
        return self.peak_bytes + self.allowance_bytes

    @property
    def flops(self) -> int:
        """Floating-point operations of the clip; a multiplication and an addition count as two."""
        return sum(stage.flops for stage in self.stages.values())

    def fits(self, memory_bytes: int) -> bool:
        """Whether a device's memory is enough.

        Args:
            memory_bytes: all that the device has.

        Returns:
            True where `needed_bytes` is no more.
        """
        return self.needed_bytes <= memory_bytes

    def seconds(self, card: Card) -> Seconds:
        """How long the clip takes on a card.

        Args:
            card: from `find_card` or `this_card`.

        Returns:
            The floor and the expectation, in seconds.
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

    Returns:
        Bytes and operations by stage.

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
    request = (Request(image="rocket") if request is None else request).filled(setup.variant)
    check_request(setup.parsed, request)
    placed = next(((o.residence, value) for o, value in setup.parsed if o.residence), None)
    stages, component_bytes = {}, {}
    for name, traced in trace(setup, request).items():
        steps = request.num_inference_steps if name == "denoise" else 1  # of which a trace holds one
        component_bytes = {part: sizes.total for part, sizes in traced.weights.items()}  # the last stage's: as loaded
        residence = Residence(sum(component_bytes.values()), 0)  # without an offload
        if placed:
            find_residence, value = placed
            residence = find_residence(name, traced.weights, value)
        stages[name] = Stage(
            weight_bytes=residence.device_bytes,
            activation_bytes=traced.activation_bytes,
            passes=traced.passes * steps,
            moved_bytes=residence.moved_bytes * traced.passes * steps,
            operations=tuple((flops, size, times * steps) for flops, size, times in traced.operations),
        )
    return Estimate(setup, request, stages, component_bytes)
