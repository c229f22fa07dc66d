"""The numbers that a diagnosis rests on: how far things travel, how decode chunks show, how even a picture is.

`Quality` has what is worth keeping of every clip. Here are the numbers beside it that only `diagnose` compares with
its thresholds. `measures` lists both kinds.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from svdlab.generation.clip import Clip, frame_changes
from svdlab.quality.assess import assess

_END_FRAMES = 3  # frames averaged at either end of a clip: shimmer fades, what moves is still in one place
_FLAT_LEVELS = 3  # of 255: what a pixel is off its neighbours' mean, times four, where a picture is even


def measures(clip: Clip) -> dict[str, float | None]:
    """The numbers that the findings rest on, by name and unit, to put two clips side by side.

    Args:
        clip: as `generate` or `read` gave it.

    Example:
        With `clip = generate(load(Setup("tiny")), Request(image="rocket"))`:
        >>> measures(clip)["black frames"]
        0
    """
    quality = assess(clip)
    return {
        "travel, % of the width": travel_percent(clip),
        "seam ratio": seam_ratio(clip),
        "saturation drift, levels": quality.saturation_drift_levels,
        "light drift, levels": quality.brightness_drift_levels,
        "black frames": quality.black_frames,
        "likeness of the first frame, dB": quality.likeness_first_psnr_db,
    }


def travel_percent(clip: Clip) -> float:
    """How far the fastest part of the picture goes from the beginning to the end, in percent of the width.

    The ends are averages of a few frames, so that noise, which comes and goes, is no motion.
    """
    n = frames_at_an_end(clip)
    ends = [np.mean([np.asarray(f) for f in part], axis=0) for part in (clip.frames[:n], clip.frames[-n:])]
    motion = assess([Image.fromarray(end.round().astype(np.uint8)) for end in ends]).motion_fast_px
    return 100 * motion / clip.frames[0].width


def frames_at_an_end(clip: Clip) -> int:
    """How many frames at either end of a clip are averaged for `travel_percent`."""
    return max(1, min(_END_FRAMES, len(clip.frames) // 3))


def seam_ratio(clip: Clip) -> float | None:
    """How unevenly a clip changes in time with its decode chunks: 1 is even; None where no chunks can be told apart.

    A VAE mixes neighbouring frames, and those at a chunk's edge lack one. So the median change is taken across the
    seams, beside them, and inside chunks; the ratio is that of the largest to the smallest.
    """
    count, chunk = len(clip.frames), clip.request.decode_chunk_size
    if clip.segments > 1 or not 1 < chunk < count:
        return None
    changes: dict[str, list[float]] = {}
    for i, change in enumerate(frame_changes(clip.frames), start=1):  # into frame i
        last = i % chunk == chunk - 1 or i == count - 1
        place = "across" if i % chunk == 0 else "after" if i % chunk == 1 else "before" if last else "inside"
        if count < 3 * chunk and place in ("after", "before"):
            place = "beside"  # too few of either to tell a rhythm from chance
        changes.setdefault(place, []).append(float(change))
    medians = [float(np.median(each)) for each in changes.values() if len(each) > 1]  # one event proves no pattern
    return max(medians) / min(medians) if len(medians) > 1 and min(medians) > 0 else None


def flat_share(clip: Clip) -> float:
    """The share of a picture that is as even as a drawing; 1 where the model was not trained on drawings."""
    if clip.request.variant != "tiny":
        return 1.0
    grey = np.asarray(clip.picture.convert("L"), dtype=np.float32)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.mean(np.abs(4 * grey[1:-1, 1:-1] - around) < _FLAT_LEVELS))
