"""What a request may ask: the range of each number, and what numbers must be beside each other.

These are the limits of the model's architecture, not of its training: beyond them no SVD can make a clip. What is
possible and odd is a concern (`Request.concerns`), not an error.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from svdlab.messages import shorten
from svdlab.variants import variant

Fit = Literal["crop", "pad", "stretch"]

# field: (type, lowest, highest, what to do about a value outside)
RANGES: dict[str, tuple[type, float, float, str]] = {
    "seed": (int, 0, 2**63 - 1, "any whole number from 0 up makes a different clip"),
    "height": (int, 64, 4096, "the trained height is 576"),
    "width": (int, 64, 4096, "the trained width is 1024"),
    "num_frames": (int, 2, 256, "a clip needs two frames to move; svd makes 14, svd-xt 25, chaining makes more"),
    "num_inference_steps": (int, 1, 1000, "25 is usual"),
    "min_guidance_scale": (float, 0, 100, "1.0 is usual"),
    "max_guidance_scale": (float, 0, 100, "3.0 is usual, 1.0 turns guidance off"),
    "fps": (int, 1, 1000, "7 is usual; the model is conditioned on fps - 1"),
    "motion_bucket_id": (int, 0, 255, "127 is usual, 180 and more is lively, under 100 is calm"),
    "noise_aug_strength": (float, 0, 10, "0.02 is usual, 0.1 to 0.3 frees the model from the picture"),
    "decode_chunk_size": (int, 1, 256, "fewer frames at a time need less memory"),
}


def check_request(request: Any) -> None:
    """Check each field on its own, then the fields beside each other; NumPy's numbers become Python's.

    Args:
        request: a `Request` that is being made.

    Raises:
        ValueError: names the field, what was expected, and the way out.
    """
    for name, (kind, low, high, hint) in RANGES.items():
        value = getattr(request, name)
        if value is None and name != "seed":
            continue
        number = _number(value, kind)
        if number is None:
            expected = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name}={shorten(value)} is not {expected}: {hint}.")
        if not low <= number <= high:
            raise ValueError(f"{name}={shorten(number)} is outside {low} to {high}: {hint}.")
        if name in ("height", "width") and number % 8:
            raise ValueError(
                f"{name}={number} is not a multiple of 8: use {number // 8 * 8} or {number // 8 * 8 + 8} "
                "(multiples of 64 stay in the trained regime)."
            )
        object.__setattr__(request, name, number)
    frames, chunk = request.num_frames, request.decode_chunk_size
    if None not in (frames, chunk) and chunk > frames:
        raise ValueError(
            f"decode_chunk_size={chunk} is over num_frames={frames}: "
            f"use at most {frames}, which decodes all frames at once."
        )
    low_guidance, high_guidance = request.min_guidance_scale, request.max_guidance_scale
    if None not in (low_guidance, high_guidance) and low_guidance > high_guidance:
        # diffusers would switch guidance by the last frame's value alone
        raise ValueError(
            f"min_guidance_scale={low_guidance} is over max_guidance_scale={high_guidance}: "
            "guidance rises from the first frame to the last; raise the maximum or lower the minimum."
        )
    if (sigmas := request.sigmas) is not None:
        if not sigmas or not all(a > b for a, b in zip((math.inf, *sigmas), (*sigmas, 0), strict=True)):
            raise ValueError(
                f"sigmas={shorten(sigmas)} must be positive and falling, as in (700.0, 50.0, 5.0, 0.5, 0.002)."
            )
        if request.num_inference_steps not in (None, len(sigmas)):
            raise ValueError(
                f"num_inference_steps={request.num_inference_steps} disagrees with {len(sigmas)} sigmas: leave it out."
            )
    if request.fit not in get_args(Fit):
        raise ValueError(f"fit={shorten(request.fit)} is unknown: expected one of {', '.join(get_args(Fit))}.")
    if request.focus is None or len(request.focus) != 2 or not all(0 <= f <= 1 for f in request.focus):
        raise ValueError(
            f"focus={shorten(request.focus)} must be two numbers from 0 to 1: x from the left, y from the top."
        )
    if request.image is None or request.image == "":
        raise ValueError("image is empty: give a path, a URL, a picture, or the name of a bundled example ('rocket').")
    if request.variant is not None:
        variant(request.variant)


def _number(value: Any, kind: type) -> int | float | None:
    """`value` as a plain Python number of `kind` (NumPy's come from sweeps), or None where it is not one."""
    if isinstance(value, bool):
        return None
    try:
        number = kind(value)
        exact = math.isfinite(number) and number == value
    except (TypeError, ValueError, OverflowError):
        return None
    return number if exact else None
