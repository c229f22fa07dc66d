"""A clip in numbers: how much it moves, flickers and stays like its picture; and how far two clips differ.

`Quality` and `Difference` say what each number means.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from PIL import Image

from svdlab.generation.clip import BLACK, Clip
from svdlab.quality.likeness import luma, psnr, ssim
from svdlab.quality.motion import mean_change, motion_measures
from svdlab.quality.quality import Difference, Quality

Frames = Clip | Sequence[Image.Image]


def assess(frames: Frames, picture: Image.Image | None = None) -> Quality:
    """Measure a clip: 0.2 s for 14 frames of 128x72, 1 s for 25 of 1024x576, on one thread.

    Args:
        frames: a clip, or its frames as RGB PIL images: at least two, of one size.
        picture: the conditioning picture, of the frames' size; left out, the clip's own. Without one, likeness is None.

    Raises:
        ValueError: fewer than two frames, frames or a picture of different sizes, or a side under 16 pixels or over 8
            times the other.

    Example:
        With `clip = generate(load(Setup("tiny")), Request(image="rocket"))`:
        >>> assess(clip).black_frames
        0
        >>> assess(clip.frames).likeness_mean_ssim is None  # there is no picture to compare with
        True
    """
    latents = frames.latents if isinstance(frames, Clip) else None
    if isinstance(frames, Clip):
        own = frames.picture
        if own.size != frames.frames[0].size:  # of a GIF that was held under a size
            own = own.resize(frames.frames[0].size, Image.Resampling.LANCZOS)
        frames, picture = frames.frames, picture or own
    pixels = _pixels(frames, at_least=2)
    grey = [luma(frame) for frame in pixels]
    sharpness = [_sharpness(frame) for frame in grey]
    return Quality(
        **motion_measures(pixels, grey),
        **_likeness(pixels, sharpness, picture),
        brightness_drift_levels=float(grey[-1].mean() - grey[0].mean()),
        saturation_drift_levels=float(np.ptp(pixels[-1], axis=2).mean() - np.ptp(pixels[0], axis=2).mean()),
        black_frames=sum(int(frame.max()) <= BLACK for frame in pixels),
        non_finite=None if latents is None else not bool(latents.isfinite().all()),
    )


def difference(frames: Frames, reference: Frames) -> Difference:
    """Measure how far one clip is from another, frame by frame. Equal clips have 100 dB, 1 and 0 levels.

    Args:
        frames: a clip, or its RGB frames.
        reference: as many frames, of the same size.

    Raises:
        ValueError: their numbers or sizes differ.

    Example:
        With `clip = generate(load(Setup("tiny")), Request(image="rocket"))`:
        >>> difference(clip, clip).max_abs_levels
        0
    """
    pixels, others = (_pixels(each.frames if isinstance(each, Clip) else each, 1) for each in (frames, reference))
    if len(pixels) != len(others) or pixels[0].shape != others[0].shape:
        raise ValueError(f"{_size(pixels)} cannot be compared with {_size(others)}: make both from one request.")
    pairs = list(zip(pixels, others, strict=True))
    ratios, similarities = [psnr(*pair) for pair in pairs], [ssim(*pair) for pair in pairs]
    return Difference(
        psnr_db=fmean(ratios),
        psnr_worst_db=min(ratios),
        ssim=fmean(similarities),
        ssim_worst=min(similarities),
        mean_abs_levels=fmean(mean_change(*pair) for pair in pairs),
        max_abs_levels=max(int(cv2.absdiff(*pair).max()) for pair in pairs),
    )


def _pixels(frames: Sequence[Image.Image], at_least: int) -> list[np.ndarray]:
    if len(frames) < at_least:
        raise ValueError(f"{len(frames)} frames: at least {at_least} are needed.")
    if len(sizes := sorted({frame.size for frame in frames})) > 1:
        raise ValueError(f"The frames have different sizes: {', '.join(f'{w}x{h}' for w, h in sizes)}.")
    width, height = sizes[0]
    if min(width, height) < 16 or not 1 / 8 <= width / height <= 8:
        raise ValueError(f"{width}x{height}: at least 16 pixels a side are needed, one at most 8 times the other.")
    return [np.asarray(frame.convert("RGB")) for frame in frames]


def _size(pixels: list[np.ndarray]) -> str:
    height, width = pixels[0].shape[:2]
    return f"{len(pixels)} frames of {width}x{height}"


def _sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian, in levels²."""
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _likeness(pixels: list[np.ndarray], sharpness: list[float], picture: Image.Image | None) -> dict[str, Any]:
    names = ("likeness_first_psnr_db", "likeness_first_ssim", "likeness_mean_ssim", "sharpness_relative")
    if picture is None:
        return dict.fromkeys(names)
    reference = np.asarray(picture.convert("RGB"))
    if reference.shape != pixels[0].shape:
        raise ValueError(f"{_size(pixels)}, but a picture of {picture.width}x{picture.height}: fit it first.")
    similarities, sharp = [ssim(frame, reference) for frame in pixels], _sharpness(luma(reference))
    relative = fmean(sharpness) / sharp if sharp else None
    return dict(zip(names, (psnr(pixels[0], reference), similarities[0], fmean(similarities), relative), strict=True))
