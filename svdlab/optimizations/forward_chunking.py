"""Run the UNet's feed-forward layers over a few frames at a time: less memory, the same frames.

The guides' `pipe.unet.enable_forward_chunking()`. The temporal blocks chunk over frames, so a chunk must divide the
number of frames of the clip: 1, 5 or 25 of 25; 1, 2, 7 or 14 of 14. Only a request knows that number, so a setup takes
any chunk, and each clip is checked. Without a value every clip gets a chunk that suits its frames: of 25 frames 5 saves
as much as 1 with far fewer launches; of 14 frames 2 does, and 7, the guides' default, saves two thirds of that with
fewer still.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from svdlab.optimizations.registry import Optimization

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

    from svdlab.request import Request

_USUAL = {25: 5, 14: 7}  # frames -> a chunk that saves most with few launches, by `estimate`; 1 suits all others


def chunk_size(value: str | None, num_frames: int) -> int:
    """The chunk for a clip of so many frames; a `ValueError` where it does not divide them."""
    size = int(value) if value is not None else _USUAL.get(num_frames, 1)
    if num_frames % size:
        divisors = [str(n) for n in range(1, num_frames + 1) if num_frames % n == 0]
        raise ValueError(
            f"num_frames={num_frames} is not divisible by the forward chunk of {size}: ask for a multiple of it, or "
            f"name a divisor of the frames ({', '.join(divisors)}) in forward-chunking=…, or none."
        )
    return size


def chunk_sizes(pipeline: StableVideoDiffusionPipeline) -> set[int]:
    """The chunk sizes in force over the transformer blocks; empty where they run whole."""
    sizes = {getattr(module, "_chunk_size", None) for module in pipeline.unet.modules()}
    return {size for size in sizes if size is not None}


def _set(pipeline: StableVideoDiffusionPipeline, size: int) -> None:
    if chunk_sizes(pipeline) != {size}:
        pipeline.unet.enable_forward_chunking(chunk_size=size, dim=0)


def _apply(pipeline: StableVideoDiffusionPipeline, value: str | None) -> None:
    _set(pipeline, int(value) if value is not None else _USUAL.get(pipeline.unet.config["num_frames"], 1))


def _before_clip(pipeline: StableVideoDiffusionPipeline, value: str | None, request: Request) -> None:
    _set(pipeline, chunk_size(value, request.num_frames))


def _check_request(value: str | None, request: Request) -> None:
    chunk_size(value, request.num_frames)


FORWARD_CHUNKING = Optimization(
    "forward-chunking",
    phase="graph",
    exact=True,
    what="the UNet's feed-forward layers over a few frames at a time; about a third off the denoising peak",
    apply=_apply,
    holds=lambda pipeline: len(chunk_sizes(pipeline)) == 1,
    values="a divisor of the clip's frames",
    accepts=lambda text: bool(re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII)),
    check_request=_check_request,
    before_clip=_before_clip,
)
