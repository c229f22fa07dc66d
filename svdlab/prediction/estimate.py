"""What a setup will need and take, predicted: no card, no weights, seconds.

>>> print(estimate(Setup("svd-xt", dtype="fp16", optimizations=("model-offload", "forward-chunking"))))
svd-xt, fp16, model-offload, forward-chunking: 8.0 GiB needed, the most while denoising.

The real modules run on tensors without values (`fake_run`), so that every optimisation that changes what is
computed is seen by construction. An offload is modelled by what it leaves on the device when.
Not modelled: cuDNN's and cuBLAS's workspaces, the CUDA context, fragmentation; `ALLOWANCE_BYTES` stands for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from svdlab.optimizations import check_request, parse
from svdlab.optimizations.registry import Weights, everything
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
LINK_BYTES = 8e9


@dataclass(frozen=True)
class Stage:
    """One of "encode", "denoise" and "decode". Counts are of the whole stage: of all steps, of all chunks."""

    weight_bytes: int  # of the model, on the device at once
    activation_bytes: int  # the most that lives beside them
    flops: int
    least_bytes: int  # what multiplications must read and write, with everything between them fused away
    passes: int  # calls of the model: steps, decode chunks
    moved_bytes: int = 0  # weights brought to the device, over all passes
    operations: tuple[tuple[int, int, int], ...] = ()  # (flops, bytes read and written, how often)

    @property
    def peak_bytes(self) -> int:
        """What PyTorch will have allocated at the highest moment of the stage."""
        return self.weight_bytes + self.activation_bytes

    def floor_seconds(self, card: Card) -> float:
        """Nothing on this card can be faster: all of its FLOP/s, or all of its bandwidth, whichever takes longer."""
        return max(self.flops / card.flops, self.least_bytes / card.bandwidth_bytes)

    def expected_seconds(self, card: Card) -> float:
        """The sum of each operation's own floor, at `UTILISATION`, and the weights' way to the card."""
        each = (n * max(flops / card.flops, size / card.bandwidth_bytes) for flops, size, n in self.operations)
        return sum(each) / UTILISATION + self.moved_bytes / LINK_BYTES


@dataclass(frozen=True)
class Seconds:
    """How long a clip takes on a card: never less than `floor`, and `expected` where it does as well as published ones
    did. Compiled code is expected as eager code: what it gains must be measured."""

    floor: float
    expected: float


@dataclass(frozen=True)
class Estimate:
    """What `setup` will need for `request`, by stage. `print` it for a sentence."""

    setup: Setup
    request: Request
    stages: dict[str, Stage]
    component_bytes: dict[str, int]  # weights of "image_encoder", "unet" and "vae", wherever they wait
    allowance_bytes: int = ALLOWANCE_BYTES

    @property
    def peak_bytes(self) -> int:
        """What PyTorch will have allocated at the highest moment of the clip."""
        return max(stage.peak_bytes for stage in self.stages.values())

    @property
    def needed_bytes(self) -> int:
        """What the device must have: the peak, and the allowance for what cannot be traced."""
        return self.peak_bytes + self.allowance_bytes

    @property
    def flops(self) -> int:
        return sum(stage.flops for stage in self.stages.values())

    def fits(self, memory_bytes: int) -> bool:
        return self.needed_bytes <= memory_bytes

    def seconds(self, card: Card) -> Seconds:
        stages = self.stages.values()
        return Seconds(sum(s.floor_seconds(card) for s in stages), sum(s.expected_seconds(card) for s in stages))

    def __str__(self) -> str:
        doing = {"encode": "encoding", "denoise": "denoising", "decode": "decoding"}
        highest = max(self.stages, key=lambda name: self.stages[name].peak_bytes)
        how = ", ".join((self.setup.variant, self.setup.precision, *self.setup.optimizations))
        return f"{how}: {self.needed_bytes / 2**30:.1f} GiB needed, the most while {doing[highest]}."


def estimate(setup: Setup, request: Request | None = None) -> Estimate:
    """What `setup` will need and take for `request` (left out: the variant's own size, frames and steps).

    A full-size one takes a few seconds of one core the first time, and is remembered, on disk too. Of `weights` only
    a folder makes a difference, by its configuration, and of `device` the type that it implies.
    """
    request = (Request(image="rocket") if request is None else request).filled(setup.variant)
    check_request(setup.optimizations, request)
    chosen = [parse(text) for text in setup.optimizations]
    known = trace(
        setup.variant,
        setup.weights if setup.weights not in ("hub", "bundled", "random") else None,
        setup.precision,
        tuple(text for text, (o, value) in zip(setup.optimizations, chosen, strict=True) if o.traced(value)),
        (request.height, request.width, request.num_frames, request.decode_chunk_size),
        2 if request.max_guidance_scale > 1 else 1,
    )
    resident, value = next(((o.resident, value) for o, value in chosen if o.resident), (everything, None))
    steps, stages = request.num_inference_steps, {}
    for name, found in known["stages"].items():
        passes = steps if name == "denoise" else found["passes"]
        again = passes // found["passes"]
        weights = {part: Weights(*sizes) for part, sizes in known["weights"].items()}
        if name == "encode":  # the pipeline takes the VAE to 32 bits for this, where it is in fp16
            weights["vae"] = Weights(*(size * found["upcast"] for size in known["weights"]["vae"]))
        on_device, moved = resident(name, weights, value)
        stages[name] = Stage(
            weight_bytes=on_device,
            activation_bytes=found["activation_bytes"],
            flops=found["flops"] * again,
            least_bytes=found["least_bytes"] * again,
            passes=passes,
            moved_bytes=moved * passes,
            operations=tuple((flops, size, n * again) for flops, size, n in found["operations"]),
        )
    return Estimate(setup, request, stages, {part: sizes[0] for part, sizes in known["weights"].items()})
