"""What a clip does, in numbers: how much it moves, flickers, stays like its picture, and how far two clips differ.

>>> assess(clip).motion_fast_percent  # how far the fastest part of the picture moves in a frame, in % of its width
0.89
>>> difference(fast.frames, exact.frames).ssim_worst
0.998

OpenCV and scikit-image measure. VBench (Huang et al., CVPR 2024, github.com/Vchitect/VBench) has networks where this
file has flow and SSIM; the fields of `Quality` say how they compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from svdlab.generation.clip import BLACK, Clip

Frames = Clip | Sequence[Image.Image]

PSNR_CAP_DB = 100.0  # pictures that are equal, or differ by one level in one value of 150,000: JSON has no infinity
MOVING_PERCENT = 0.05  # of the width in a frame: half a pixel of 1024. Slower than this counts as standing still
STATIC_SHARE = 0.003  # of the picture: the flame of the tiny rocket alone is 0.011, lights going on and off 0.002
AGREEMENT = 0.5  # of the textured picture must follow one camera, or nobody can tell camera from object

# The flow, chosen on drawn clips whose truth is known (numbers in LOG.md).
FLOW_SIDE = 256  # pixels of the longer side, up or down: 512 takes twice as long and is no nearer to the truth
FLOW_PASSES = 3  # the camera found so far is taken out before the flow is measured again
FLOW_BLUR = 1.5  # pixels: banding in skies is no texture
FLOW_TEXTURE = 2e-5  # least eigenvalue (cornerMinEigenVal) of a point that tells where it goes: half a level a pixel
FLOW_NOISE = 3  # levels: where nothing near differs by more, the picture moves with the camera and nothing else is seen
FLOW_REACH = 9  # pixels: how near
SSIM_SIDE = 512  # pixels of the longer side at most, as the authors of SSIM advise for pictures seen as a whole


@dataclass(frozen=True)
class Quality:
    """One clip, measured. `None` is "not measured", a zero is a zero; no value is NaN or infinite.

    Motion is between neighbouring frames, averaged over them: optical flow by dense inverse search (Kroeger et al.,
    ECCV 2016; OpenCV) on grey pictures of `FLOW_SIDE`; in the clip's own pixels, and in percent of the width, which
    compares over sizes. More is not better: it is what was asked for, or not. Noise reads as motion of objects where
    it is louder than `FLOW_NOISE`: 4 levels on a picture of 128 pixels read as 1 pixel a frame, 2 levels as none.
    """

    # How far the picture moves in a frame, >= 0: median and mean of its pixels, and "fast", the median of the fastest
    # twentieth (the 97.5th percentile): the speed of an object that covers about that much.
    motion_median_px: float
    motion_mean_px: float
    motion_fast_px: float
    # The shift, turn and zoom that most of the picture follows: mean length. None: less than half agrees on one.
    camera_motion_px: float | None
    object_motion_px: float | None  # the fast ones again, the camera taken out
    motion_median_percent: float
    motion_mean_percent: float
    motion_fast_percent: float
    camera_motion_percent: float | None
    object_motion_percent: float | None
    moving_share: float  # 0..1 of the picture moves by more than `MOVING_PERCENT`
    static: bool  # less than `STATIC_SHARE` of it does. Light may still change: that is flicker
    # Over 1: VBench's "dynamic degree" would be true (mean of the fastest 5 %, in a quarter of the pairs, over 6 pixels
    # of 256 an eighth of a second). VBench uses RAFT, and skips frames above 8 fps where this scales. None without fps.
    dynamic_degree: float | None

    # 0..1, higher is better. VBench's, to the letter: 1 - mean change of neighbours / 255. Of static clips only: it
    # takes motion for flicker.
    temporal_flickering: float
    flicker_percent: float  # of full scale, lower is better: the change left when the motion is taken out (warp error)
    # 0..1, higher is better. VBench's formula: every second frame interpolated from its neighbours, 1 - mean error /
    # 255. VBench interpolates with AMT, a network, here the flow does it: not the same number. None under 3 frames.
    motion_smoothness: float | None
    loop_seam: float | None  # `chaining.jump` from the last frame to the first: 1 is unseen, 3 a cut. None: no change

    # Likeness to the conditioning picture, higher is better; None without one. SSIM -1..1, PSNR at most `PSNR_CAP_DB`.
    # The mean stands for VBench's i2v subject consistency, which compares DINO features: motion lowers SSIM, not those.
    likeness_first_psnr_db: float | None
    likeness_first_ssim: float | None
    likeness_mean_ssim: float | None
    likeness_last_ssim: float | None

    sharpness: float  # >= 0, levels²: variance of the Laplacian, mean of frames. For clips of one size; noise raises it
    sharpness_relative: float | None  # to the conditioning picture: 1 as sharp, less is blurred
    sharpness_drift: float | None  # last over first: 1 keeps
    brightness_drift_levels: float  # -255..255, last minus first: mean luma
    saturation_drift_levels: float  # -255..255, last minus first: mean of max(R, G, B) - min(R, G, B)

    black_frames: int  # with no value over `clip.BLACK`
    non_finite: bool | None  # in the latents; None where there are none: pixels of 8 bits cannot hold it


@dataclass(frozen=True)
class Difference:
    """How far a clip is from a reference. Equal clips: `PSNR_CAP_DB`, 1, and 0 levels."""

    psnr_db: float  # mean of the frames, higher is nearer
    psnr_worst_db: float
    ssim: float  # mean of the frames, -1..1, higher is nearer
    ssim_worst: float
    mean_abs_levels: float  # 0..255
    max_abs_levels: int


def assess(frames: Frames, picture: Image.Image | None = None, fps: float | None = None) -> Quality:
    """The clip in numbers: `Quality`. 0.2 s for 14 frames of 128x72, 1 s for 25 of 1024x576, on one thread.

    `frames` is a clip, or its RGB pictures with the conditioning `picture` and `fps` beside them, if those are known.
    Raises ValueError for fewer than two frames, frames or a picture of different sizes, or sides out of all measure.
    """
    latents = None
    if isinstance(frames, Clip):
        latents = frames.latents
        picture = frames.picture if picture is None else picture
        fps = frames.request.fps if fps is None else fps
        frames = frames.frames
    pixels = _pixels(frames)
    grey = [_grey(frame) for frame in pixels]
    changes = [_distance(a, b) for a, b in pairwise(pixels)]
    usual = float(np.median(changes))
    sharp = [_sharpness(frame) for frame in grey]
    return Quality(
        **_motion(pixels, grey, fps),
        temporal_flickering=1 - _mean(changes) / 255,
        motion_smoothness=_smoothness(pixels, grey),
        loop_seam=_distance(pixels[-1], pixels[0]) / usual if usual else None,
        **_likeness(pixels, sharp, picture),
        sharpness=_mean(sharp),
        sharpness_drift=sharp[-1] / sharp[0] if sharp[0] else None,
        brightness_drift_levels=float(grey[-1].mean() - grey[0].mean()),
        saturation_drift_levels=float(np.ptp(pixels[-1], axis=2).mean() - np.ptp(pixels[0], axis=2).mean()),
        black_frames=sum(int(frame.max()) <= BLACK for frame in pixels),
        non_finite=None if latents is None else not bool(latents.isfinite().all()),
    )


def difference(frames: Frames, reference: Frames) -> Difference:
    """How far `frames` are from `reference`, frame by frame: for approximate optimisations and the decode chunk.

    Raises ValueError where their number or sizes differ.
    """
    ours, theirs = (_pixels(each.frames if isinstance(each, Clip) else each, 1) for each in (frames, reference))
    if len(ours) != len(theirs) or ours[0].shape != theirs[0].shape:
        raise ValueError(f"{_said(ours)} cannot be compared with {_said(theirs)}: make both from one request.")
    pairs = list(zip(ours, theirs, strict=True))
    psnr, ssim = [_psnr(*pair) for pair in pairs], [_ssim(_grey(a), _grey(b)) for a, b in pairs]
    return Difference(
        psnr_db=_mean(psnr),
        psnr_worst_db=min(psnr),
        ssim=_mean(ssim),
        ssim_worst=min(ssim),
        mean_abs_levels=_mean(_distance(*pair) for pair in pairs),
        max_abs_levels=max(int(cv2.absdiff(*pair).max()) for pair in pairs),
    )


# --- pictures ----------------------------------------------------------------------------------------------------


def _pixels(frames: Sequence[Image.Image], least: int = 2) -> list[np.ndarray]:
    if len(frames) < least:
        raise ValueError(f"{len(frames)} frames: at least {least} are needed.")
    if len(sizes := sorted({frame.size for frame in frames})) > 1:
        raise ValueError(f"The frames have different sizes: {', '.join(f'{w}x{h}' for w, h in sizes)}.")
    width, height = sizes[0]
    if min(width, height) < 16 or not 1 / 8 <= width / height <= 8:
        raise ValueError(f"{width}x{height}: at least 16 pixels a side are needed, one at most 8 times the other.")
    return [np.asarray(frame.convert("RGB")) for frame in frames]


def _said(pixels: list[np.ndarray]) -> str:
    height, width = pixels[0].shape[:2]
    return f"{len(pixels)} frames of {width}x{height}"


def _grey(frame: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def _resized(grey: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(grey.shape)
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean(cv2.mean(cv2.absdiff(one, other))[: one.shape[2]]))


def _sharpness(grey: np.ndarray) -> float:
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    if np.array_equal(one, other):
        return PSNR_CAP_DB
    return min(PSNR_CAP_DB, float(peak_signal_noise_ratio(other, one, data_range=255)))


def _ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Of grey pictures, with the window and constants of Wang et al. 2004."""
    side = min(SSIM_SIDE, max(one.shape))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    score: Any = structural_similarity(_resized(one, side), _resized(other, side), **options)
    return float(score)


def _likeness(pixels: list[np.ndarray], sharp: list[float], picture: Image.Image | None) -> dict[str, Any]:
    names = ("likeness_first_psnr_db", "likeness_first_ssim", "likeness_mean_ssim", "likeness_last_ssim")
    if picture is None:
        return dict.fromkeys((*names, "sharpness_relative"))
    wanted = np.asarray(picture.convert("RGB"))
    if wanted.shape != pixels[0].shape:
        raise ValueError(f"{_said(pixels)}, but a picture of {picture.width}x{picture.height}: fit it first.")
    ssim = [_ssim(_grey(frame), _grey(wanted)) for frame in pixels]
    sharpness = _sharpness(_grey(wanted))
    values = (_psnr(pixels[0], wanted), ssim[0], _mean(ssim), ssim[-1])
    relative = _mean(sharp) / sharpness if sharpness else None
    return dict(zip(names, values, strict=True)) | {"sharpness_relative": relative}


# --- motion ------------------------------------------------------------------------------------------------------


class _Flow(NamedTuple):
    """Where every pixel of one picture goes in the next, (h, w, 2) in widths, y down, at `FLOW_SIDE`."""

    whole: np.ndarray
    camera: np.ndarray  # the part that the camera explains
    inside: np.ndarray  # (h, w) bool: what the camera keeps in the picture
    agreement: float  # share of the textured points that follow the camera


def _motion(pixels: list[np.ndarray], grey: list[np.ndarray], fps: float | None) -> dict[str, Any]:
    (height, width), flows = grey[0].shape, list(_flows(grey))
    told = np.mean([flow.agreement for flow in flows]) >= AGREEMENT
    whole = [_lengths(flow.whole)[flow.inside] for flow in flows]
    rest = [_lengths(flow.whole - flow.camera)[flow.inside] for flow in flows]
    fastest = [np.sort(each)[-max(each.size // 20, 1) :] for each in whole]
    in_widths = {
        "motion_median": _mean(np.median(each) for each in whole),
        "motion_mean": _mean(each.mean() for each in whole),
        "motion_fast": _mean(np.median(each) for each in fastest),
        "camera_motion": _mean(_lengths(flow.camera).mean() for flow in flows) if told else None,
        "object_motion": _mean(np.quantile(each, 0.975) for each in rest) if told else None,
    }
    share = _mean((each > MOVING_PERCENT / 100).mean() for each in whole)
    enough = sorted((each.mean() for each in fastest), reverse=True)[max(round(len(pixels) / 4), 1) - 1]
    dynamic = enough * width * (fps or 0) / (6 * 8 * min(height, width) / 256)
    left = _mean(
        _distance(_sampled(after, flow.whole), before)
        for (before, after), flow in zip(pairwise(pixels), flows, strict=True)
    )
    return (
        {f"{name}_px": None if value is None else value * width for name, value in in_widths.items()}
        | {f"{name}_percent": None if value is None else value * 100 for name, value in in_widths.items()}
        | {"moving_share": share, "static": share < STATIC_SHARE, "flicker_percent": left / 2.55}
        | {"dynamic_degree": float(dynamic) if fps else None}
    )


def _smoothness(pixels: list[np.ndarray], grey: list[np.ndarray]) -> float | None:
    errors = []
    for before, kept, after, flow in zip(pixels[::2], pixels[1::2], pixels[2::2], _flows(grey[::2]), strict=False):
        halves = _sampled(before, -flow.whole / 2), _sampled(after, flow.whole / 2)
        errors.append(_distance(cv2.addWeighted(halves[0], 0.5, halves[1], 0.5, 0), kept))
    return 1 - _mean(errors) / 255 if errors else None


def _flows(grey: list[np.ndarray]) -> Iterator[_Flow]:
    """From each picture to the next. What is flat has no motion of its own: it is taken to move with the camera."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    search.setFinestScale(1)
    pictures = [cv2.GaussianBlur(_resized(picture, FLOW_SIDE), (0, 0), FLOW_BLUR) for picture in grey]
    (height, width), near = pictures[0].shape, np.ones((FLOW_REACH, FLOW_REACH), np.uint8)
    here = _grid(height, width)
    for before, after in pairwise(pictures):
        texture = cv2.cornerMinEigenVal(before, blockSize=5, ksize=3)
        points = texture >= max(np.quantile(texture[::4, ::4], 0.75), FLOW_TEXTURE)
        camera, agreement = np.eye(2, 3), 1.0
        for _ in range(FLOW_PASSES):
            there = cv2.transform(here, camera)
            seen = _at(after, there)
            change = cv2.subtract(before, seen, dtype=cv2.CV_32F)
            change = np.abs(change - np.median(change))  # a change of the light is no motion
            moved = cv2.dilate(change, near)[..., None] > FLOW_NOISE
            whole = cv2.transform(here + search.calc(before, seen, np.zeros_like(here)) * moved, camera)
            x, y = cv2.split(there)
            inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
            camera, agreement = _camera(here, whole, points & inside)
        yield _Flow((whole - here) / width, (cv2.transform(here, camera) - here) / width, inside, agreement)


def _camera(here: np.ndarray, there: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """The shift, turn and zoom (2, 3) that most `points` (h, w) follow to a quarter of a pixel, and how many do."""
    here, there, points = here[::4, ::4], there[::4, ::4], points[::4, ::4]
    if points.sum() > 2:
        camera, follow = cv2.estimateAffinePartial2D(
            here[points], there[points], ransacReprojThreshold=0.25, maxIters=500
        )
        if camera is not None and np.abs(cv2.transform(here, camera) - here).max() < min(points.shape) * 2:
            return camera, float(follow.mean())
    return np.eye(2, 3), 0.0  # a camera that leaves half the picture behind was a cut


def _sampled(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The frame, of any size, at the places that `flow` (in widths) points to."""
    height, width = frame.shape[:2]
    return _at(frame, _grid(height, width) + cv2.resize(flow, (width, height)) * np.float32(width))


def _at(frame: np.ndarray, there: np.ndarray) -> np.ndarray:
    x, y = cv2.split(there)
    return cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _lengths(flow: np.ndarray) -> np.ndarray:
    return cv2.magnitude(*cv2.split(flow))


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> np.ndarray:
    """The x and y of every pixel, (h, w, 2)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
