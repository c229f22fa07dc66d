"""A measured clip (`Quality`), and two clips beside each other (`Difference`).

Names carry their unit: `_px` is pixels of the clip in a frame, `_levels` is steps of 256, `_percent` is of full scale.
A field that could not be measured is None; a zero is a zero; no value is NaN or infinite.
This file imports nothing, so that a row can hold a `Quality` without OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quality:
    """One clip, measured by `assess`.

    Motion is between neighbouring frames, by optical flow, averaged over them. More is not better: it is what was
    asked for, or not. Noise reads as motion of objects where it is louder than 3 of 255 levels.

    Attributes:
        motion_mean_px: how far the picture moves in a frame: the mean of its pixels.
        motion_fast_px: the median of the fastest twentieth: the speed of an object that covers about that much.
        camera_motion_px: mean length of the shift, turn and zoom that half of the picture follows; 0 for a camera that
            stands still. None: less than half of the picture moves alike.
        object_motion_px: the fastest pixels again, the camera taken out (97.5th percentile). None as for the camera.
        flicker_percent: of full scale, lower is better: the change left when the motion is taken out (warp error).
        likeness_first_psnr_db: of the first frame to the conditioning picture, at most 100. None without a picture.
        likeness_first_ssim: of the first frame, -1 to 1. None without a picture.
        likeness_mean_ssim: mean over all frames, -1 to 1. Motion lowers it. None without a picture.
        sharpness_relative: variance of the Laplacian over that of the conditioning picture: 1 is as sharp, less is
            blurred; noise raises it. None without a picture.
        brightness_drift_levels: mean luma, last frame minus first: -255 to 255.
        saturation_drift_levels: mean of max(R, G, B) - min(R, G, B), last minus first: -255 to 255.
        black_frames: how many have no value over 2 of 255.
        non_finite: whether the latents hold NaN or infinity. None where there are no latents.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> rows[0].quality.black_frames
        0
    """

    motion_mean_px: float
    motion_fast_px: float
    camera_motion_px: float | None
    object_motion_px: float | None
    flicker_percent: float
    likeness_first_psnr_db: float | None
    likeness_first_ssim: float | None
    likeness_mean_ssim: float | None
    sharpness_relative: float | None
    brightness_drift_levels: float
    saturation_drift_levels: float
    black_frames: int
    non_finite: bool | None


@dataclass(frozen=True)
class Difference:
    """How far the frames of a clip are from those of a reference, as `difference` measures it.

    Attributes:
        psnr_db: mean over the frames, at most 100 (equal); higher is nearer.
        psnr_worst_db: of the frame that is furthest.
        ssim: mean over the frames, -1 to 1 (equal).
        ssim_worst: of the frame that is furthest.
        mean_abs_levels: mean difference of a value, 0 to 255.
        max_abs_levels: the largest difference of a value, 0 to 255.

    Example:
        With a `clip` that `generate` made:
        >>> from svdlab import difference
        >>> difference(clip, clip).max_abs_levels
        0
    """

    psnr_db: float
    psnr_worst_db: float
    ssim: float
    ssim_worst: float
    mean_abs_levels: float
    max_abs_levels: int
