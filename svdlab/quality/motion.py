"""How much a clip moves, and how much it flickers when the motion is taken out.

Optical flow says where each pixel of a frame goes in the next: dense inverse search (Kroeger et al., ECCV 2016;
OpenCV's) on grey pictures of 256 pixels. The shift, turn and zoom that most of the picture follows is the camera; it is
taken out, and the flow measured again, three times. What the camera does not explain is the motion of objects.
A flat part, where nobody can see motion, is taken to move with the camera.
The constants were chosen on drawn clips, where the true motion can be computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

import cv2
import numpy as np

from svdlab.quality.likeness import resized

_AGREEMENT = 0.5  # of the textured picture must follow one camera, or nobody can tell camera from object
_FLOW_SIDE = 256  # pixels of the longer side, up or down: 512 takes twice as long and is no nearer to the truth
_FLOW_PASSES = 3  # the camera of the last pass is taken out before the flow is measured again
_FLOW_BLUR = 1.5  # pixels: banding in skies is no texture
_FLOW_TEXTURE = 2e-5  # least eigenvalue (cornerMinEigenVal) of a point that tells where it goes: half a level a pixel
_FLOW_NOISE = 3  # levels: where nothing near differs by more, the picture moves with the camera
_FLOW_REACH = 9  # pixels: how near


class _Flow(NamedTuple):
    """Where every pixel of one picture goes in the next, (h, w, 2) in widths, y down, at `_FLOW_SIDE`."""

    total: np.ndarray
    camera: np.ndarray  # the part that the camera explains
    inside: np.ndarray  # (h, w) bool: what the camera keeps in the picture
    agreement: float  # share of the textured points that follow the camera


def motion_measures(pixels: list[np.ndarray], grey: list[np.ndarray]) -> dict[str, Any]:
    """The fields of `Quality` that are about motion and flicker, by name.

    Args:
        pixels: RGB frames, (height, width, 3) of 0 to 255, at least two.
        grey: their luma.
    """
    (height, width), flows = grey[0].shape, list(_flows(grey))
    camera_agreed = np.mean([flow.agreement for flow in flows]) >= _AGREEMENT
    speeds = [_vector_lengths(flow.total)[flow.inside] for flow in flows]  # in widths
    without_camera = [_vector_lengths(flow.total - flow.camera)[flow.inside] for flow in flows]
    fastest = [np.sort(each)[-max(each.size // 20, 1) :] for each in speeds]
    in_widths = {
        "motion_mean": fmean(each.mean() for each in speeds),
        "motion_fast": fmean(np.median(each) for each in fastest),
        "camera_motion": fmean(_vector_lengths(flow.camera).mean() for flow in flows) if camera_agreed else None,
        "object_motion": fmean(np.quantile(each, 0.975) for each in without_camera) if camera_agreed else None,
    }
    aligned = []
    for frame, flow in zip(pixels[1:], flows, strict=True):
        shift = cv2.resize(flow.total, (width, height)) * np.float32(width)
        aligned.append(_warp(frame, _grid(height, width) + shift))
    in_pixels = {f"{name}_px": None if value is None else value * width for name, value in in_widths.items()}
    return in_pixels | {"flicker_percent": fmean(map(mean_change, aligned, pixels)) / 2.55}


def mean_change(one: np.ndarray, other: np.ndarray) -> float:
    """The mean absolute difference of two frames, in levels of 0 to 255.

    Args:
        one, other: RGB, (height, width, 3).
    """
    return float(np.mean(cv2.mean(cv2.absdiff(one, other))[: one.shape[2]]))


def _flows(grey: list[np.ndarray]) -> Iterator[_Flow]:
    """From each picture to the next."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    search.setFinestScale(1)
    pictures = [cv2.GaussianBlur(resized(picture, _FLOW_SIDE), (0, 0), _FLOW_BLUR) for picture in grey]
    (height, width), neighbourhood = pictures[0].shape, np.ones((_FLOW_REACH,) * 2, np.uint8)
    start = _grid(height, width)
    for picture, next_picture in pairwise(pictures):
        texture = cv2.cornerMinEigenVal(picture, blockSize=5, ksize=3)
        points = texture >= max(np.quantile(texture[::4, ::4], 0.75), _FLOW_TEXTURE)
        camera, agreement = np.eye(2, 3), 1.0
        for _ in range(_FLOW_PASSES):
            by_camera = cv2.transform(start, camera)
            aligned = _warp(next_picture, by_camera)
            change = cv2.subtract(picture, aligned, dtype=cv2.CV_32F)
            change = np.abs(change - np.median(change))  # a change of the light is no motion
            moves = cv2.dilate(change, neighbourhood)[..., None] > _FLOW_NOISE
            end = cv2.transform(start + search.calc(picture, aligned, np.zeros_like(start)) * moves, camera)
            x, y = cv2.split(by_camera)
            inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
            camera, agreement = _camera(start, end, points & inside)
        yield _Flow((end - start) / width, (cv2.transform(start, camera) - start) / width, inside, agreement)


def _camera(start: np.ndarray, end: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """The shift, turn and zoom (2, 3) that most `points` (h, w) follow to a quarter of a pixel, and how many do."""
    start, end, points = start[::4, ::4], end[::4, ::4], points[::4, ::4]
    if points.sum() > 2:
        options = {"ransacReprojThreshold": 0.25, "maxIters": 500}
        camera, follow = cv2.estimateAffinePartial2D(start[points], end[points], **options)
        if camera is not None and np.abs(cv2.transform(start, camera) - start).max() < min(points.shape) * 2:
            return camera, float(follow.mean())
    return np.eye(2, 3), 0.0  # a camera that leaves half the picture behind was a cut


def _warp(frame: np.ndarray, places: np.ndarray) -> np.ndarray:
    x, y = cv2.split(places)
    return cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _vector_lengths(flow: np.ndarray) -> np.ndarray:
    return cv2.magnitude(*cv2.split(flow))


@lru_cache(maxsize=4)
def _grid(height: int, width: int) -> np.ndarray:
    """The x and y of every pixel, (h, w, 2)."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
