"""Clips longer than the model makes: the last frame of one segment is the picture of the next.

Each segment is made from a generated frame, so errors add up: colours drift and detail fades after two or three.
The clip says so itself: `clip.segments`, and `clip.seams` with how visible each joint is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from svdlab.generation.clip import Clip, Seam, frame_changes
from svdlab.generation.generate import generate
from svdlab.request import Request, quiet_requests

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline


def chain(
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    segments: int,
    *,
    progress: bool = True,
    picture: Image.Image | None = None,
) -> Clip:
    """One clip of several segments, each begun from the last frame of the one before.

    Args:
        pipeline: From `load`.
        request: What to make. The first segment keeps `request.seed`, and each further one has the next seed up: the
            second `request.seed + 1`, the third `request.seed + 2`.
        segments: How many times the model is called: 1 makes an ordinary clip, 3 one about three times as long.
        progress: Show a bar for each segment.
        picture: As for `generate`.

    Returns:
        A clip of segments x frames, less one frame at each joint, with `Clip.seams` for the joints, without latents.

    Raises:
        ValueError: `segments` is under 1.
        GenerationError: As from `generate`, which may also raise `OutOfMemory` or ValueError. Segments that were made
            are lost.

    Example:
        With `pipeline = load(Setup("tiny"))` and a `clip` of two frames that it made before:
        >>> longer = chain(pipeline, clip.request, 2, progress=False)
        >>> len(longer.frames), longer.segments
        (3, 2)
    """
    if segments < 1:
        raise ValueError(f"segments={segments} is under 1: 1 is an ordinary clip, 3 about three times as long.")
    first = generate(pipeline, request, progress=progress, picture=picture)
    frames, seam_frames, notes, timings = list(first.frames), [], list(first.notes), dict(first.timings)
    for k in range(1, segments):
        with quiet_requests():
            next_request = dataclasses.replace(first.request, image=frames[-1], seed=first.request.seed + k)
        segment = generate(pipeline, next_request, progress=progress)
        seam_frames.append(len(frames))
        frames += segment.frames[1:]  # its first is the frame that it was given
        notes += [note for note in segment.notes if note not in notes]
        timings = {name: seconds + segment.timings[name] for name, seconds in timings.items()}
    seams = tuple(Seam(frame, _jump(frames, frame)) for frame in seam_frames)
    return dataclasses.replace(first, frames=frames, timings=timings, notes=tuple(notes), seams=seams, latents=None)


def _jump(frames: list[Image.Image], frame: int) -> float | None:
    """`Seam.jump` of a frame: the mean absolute change of the pixels into it, over the median of the other changes."""
    changes = frame_changes(frames)
    median = float(np.median(np.delete(changes, frame - 1)))
    return float(changes[frame - 1]) / median if median > 0 else None
