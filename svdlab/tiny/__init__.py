"""The bundled model: a small Stable Video Diffusion, and the rule of its speed.

`WEIGHTS` is a folder in the hub's layout; plain diffusers loads it. The model animates a rocket, which flies where its
nose points. How fast it flies follows from the request, by one rule that is exact at every size:

    pixels per frame = width / 8 * (motion_bucket_id / 255) / fps

How the model was made is not part of the package: see `training/` in the repository.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
# An eighth of the width a second keeps the fastest usual clip (14 frames at 7 fps) within a fourth of the picture:
# clearly visible, and about ten latent cells, which a small network can learn in an evening.
WIDTHS_PER_SECOND = 1 / 8

__all__ = ["WEIGHTS", "pixels_per_frame"]


def pixels_per_frame(motion_bucket_id: float, fps: float, width: float) -> float:
    """The rocket's speed in pixels a frame: it grows with the bucket, falls with the frame rate, scales with the width.

    Args:
        motion_bucket_id: How much motion the request asks for, 0 to 255.
        fps: The frame rate that the request tells the model.
        width: The width of the picture in pixels. With 100, the speed is in percent of the width.

    Returns:
        Pixels from one frame to the next.

    Example:
        >>> round(pixels_per_frame(motion_bucket_id=255, fps=7, width=160), 2)
        2.86
    """
    return width * WIDTHS_PER_SECOND * (motion_bucket_id / 255) / fps
