"""Run the UNet's feed-forward layers over a few frames at a time: less memory, the same frames.

The guides' `pipe.unet.enable_forward_chunking()`. The temporal blocks chunk over frames, so a chunk must divide the
number of frames of the clip: 1, 5 or 25 of 25; 1, 2, 7 or 14 of 14. Only a request knows that number, so a setup takes
any chunk, and each clip is checked. Without a value every clip gets a chunk that suits it: of 25 frames 5 saves as much
as 1 with far fewer launches; of 14 frames 2 does, and 7, the guides' default, two thirds of that with fewer still.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from svdlab.optimizations.registry import Optimization

if TYPE_CHECKING:
    from svdlab.request import Request

_CHUNKS = {25: 5, 14: 7}  # frames -> a chunk that saves most with few launches, by `estimate`; 1 suits all others


def _chunk_for(value: str | None, num_frames: int) -> int:
    size = int(value) if value is not None else _CHUNKS.get(num_frames, 1)
    if num_frames % size:
        divisors = ", ".join(str(n) for n in range(1, num_frames + 1) if num_frames % n == 0)
        raise ValueError(
            f"num_frames={num_frames} is not divisible by the forward chunk of {size}: ask for a multiple of it, or "
            f"name a divisor of the frames ({divisors}) in forward-chunking=…, or none."
        )
    return size


def _chunks_of(pipeline: Any) -> set[int]:
    """The chunk sizes in force over the transformer blocks; empty where they run undivided."""
    sizes = (getattr(module, "_chunk_size", None) for module in pipeline.unet.modules())
    return {size for size in sizes if size is not None}


def _apply(pipeline: Any, value: str | None) -> None:
    size = int(value) if value is not None else _chunk_for(None, pipeline.unet.config["num_frames"])
    pipeline.unet.enable_forward_chunking(chunk_size=size, dim=0)


def _before_clip(pipeline: Any, value: str | None, request: Request) -> None:
    pipeline.unet.enable_forward_chunking(chunk_size=_chunk_for(value, request.num_frames), dim=0)


FORWARD_CHUNKING = Optimization(
    "forward-chunking",
    phase="graph",
    affects="rounding",
    what="the UNet's feed-forward layers over a few frames at a time; about a third off the denoising peak",
    apply=_apply,
    holds=lambda pipeline: len(_chunks_of(pipeline)) == 1,
    values="a divisor of the clip's frames",
    accepts=lambda text: bool(re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII)),
    check_request=lambda value, request: _chunk_for(value, request.num_frames),
    before_clip=_before_clip,
    stages=("denoise",),
)
