"""Clips longer than the model makes: the last frame of one segment conditions the next.

Each segment is made from a generated frame, so errors add up: colours drift and detail fades after two or three.
The clip says so itself: `clip.segments`, and `clip.seams` with how visible each joint is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from svdlab.generation.clip import Clip, Seam
from svdlab.generation.generate import generate
from svdlab.request import Request

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
    """One clip of `segments` times the frames, less one at each joint (a segment opens with the picture that it was
    given, which is the frame before it). Segment k has the seed `request.seed + k`. `picture`: see `generate`."""
    if segments < 1:
        raise ValueError(f"segments={segments} is under 1: 1 is an ordinary clip, 3 about three times as long.")
    first = generate(pipeline, request, progress=progress, picture=picture)
    frames, joints, notes = list(first.frames), [], list(first.notes)
    timings = dict(first.timings)
    for k in range(1, segments):
        onward = dataclasses.replace(first.request, image=frames[-1], seed=first.request.seed + k)
        segment = generate(pipeline, onward, progress=progress)
        joints.append(len(frames))
        frames += segment.frames[1:]
        notes += [note for note in segment.notes if note not in notes]
        timings = {name: seconds + segment.timings[name] for name, seconds in timings.items()}
    seams = tuple(Seam(frame, jump(frames, frame)) for frame in joints)
    return dataclasses.replace(first, frames=frames, timings=timings, notes=tuple(notes), seams=seams, latents=None)


def jump(frames: list[Image.Image], frame: int) -> float | None:
    """Mean absolute change of the pixels into `frame`, over the median of that change between all other neighbours."""
    pixels = np.stack([np.asarray(f, dtype=np.float32) for f in frames])
    change = np.abs(np.diff(pixels, axis=0)).mean(axis=(1, 2, 3))
    usual = float(np.median(np.delete(change, frame - 1)))
    return float(change[frame - 1]) / usual if usual > 0 else None
