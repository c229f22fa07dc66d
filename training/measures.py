"""What a clip is measured by: its likeness to the truth, its movement, its stillness, its camera. Frames are tensors.

Rockets are measured by looking for the rocket: the scene's own is laid over its own empty sky at every place, and the
place that differs least from the generated frame wins (to a fraction of a pixel, by a parabola through the least
difference and its neighbours). Speed and heading are the straight line through a clip's places.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from .scenes import WIDTH, layers

SEEN = 0.03  # of full scale: a smaller change of a drawn clip does not count as movement
MARGIN = 0.04  # of the width: how far the surroundings of what moves reach


def psnr(one: Tensor, other: Tensor, where: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1], where `where` (H, W) is true."""
    errors = (one - other).square()
    return -10 * math.log10(max(float((errors if where is None else errors[..., where]).mean()), 1e-10))


def rank_correlation(values: Sequence[float]) -> float:
    """Spearman's, of `values` with their own order: 1 where each is larger than the one before."""
    return float(spearmanr(range(len(values)), values).statistic) if len(set(values)) > 1 else 0.0  # type: ignore[attr-defined]


def find_rocket(frames: Tensor, seed: int) -> Tensor:
    """How far the scene's rocket has moved from its start, in each of `frames` (F, 3, H, W): (F, 2), y down.

    In pixels of a picture `WIDTH` wide, whatever the frames' size. With sky B, rocket colour R and cover a, the picture
    with the rocket moved by d is B + a(x-d)(R(x-d) - B). Its squared difference from a frame, multiplied out, is a sum
    of correlations, which Fourier transforms give for all d.
    """
    height, width = frames.shape[-2:]
    reach = round(0.375 * width)
    sky, colour, cover = layers(seed, height, width)
    rows, columns = (cover > 0.01).nonzero().unbind(1)
    top, left = int(rows.min()), int(columns.min())
    box = slice(top, int(rows.max()) + 1), slice(left, int(columns.max()) + 1)
    a, paint = cover[box], colour[:, box[0], box[1]]
    rest = frames - sky
    ones, skies = torch.ones(len(frames), 1, height, width), sky.expand(len(frames), -1, -1, -1)
    squares = skies.square().sum(1, keepdim=True)
    maps = torch.cat([ones, skies, squares, rest, (rest * sky).sum(1, keepdim=True)], 1)
    weights = (a * paint).square().sum(0)[None], -2 * a**2 * paint, (a**2)[None], -2 * a * paint, 2 * a[None]
    size = height + 2 * reach, width + 2 * reach
    spectra = torch.fft.rfft2(F.pad(maps, (reach, reach, reach, reach)))
    kernel = torch.fft.rfft2(torch.cat(weights), s=size)
    difference = torch.fft.irfft2((spectra * kernel.conj()).sum(1), s=size)
    # The window's corner at (top + reach + dy, left + reach + dx) means a movement of (dx, dy).
    window = difference[:, top : top + 2 * reach + 1, left : left + 2 * reach + 1]
    places = window.flatten(1).argmin(1)
    offsets = []
    for surface, place in zip(window, places.tolist(), strict=True):
        row, column = divmod(place, surface.shape[1])
        offsets.append((column + _lowest(surface[row], column) - reach, row + _lowest(surface[:, column], row) - reach))
    return torch.tensor(offsets) * WIDTH / width


def _lowest(values: Tensor, index: int) -> float:
    """Where between its neighbours a minimum lies: -0.5 to 0.5."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, here, after = (float(values[index + step]) for step in (-1, 0, 1))
    bend = before - 2 * here + after
    return 0.0 if bend <= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))


def movement(places: Tensor) -> tuple[float, float]:
    """Speed in pixels a frame and heading in degrees (counter-clockwise, 0 to the right): the line through (F, 2)."""
    time_ = torch.arange(len(places), dtype=places.dtype)
    time_ = time_ - time_.mean()
    x, y = ((time_[:, None] * places).sum(0) / time_.square().sum()).tolist()
    return math.hypot(x, y), math.degrees(math.atan2(-y, x)) % 360


def turn_between(one: float, other: float) -> float:
    """The angle between two headings, 0 to 180 degrees."""
    return abs((one - other + 180) % 360 - 180)


def _grown(region: Tensor) -> Tensor:
    """A region (H, W) of bools and all within `MARGIN` of it."""
    reach = max(1, round(MARGIN * region.shape[1]))
    return F.max_pool2d(region[None, None].float(), 2 * reach + 1, 1, reach)[0, 0] > 0


def moving_parts(truth: Tensor) -> Tensor:
    """Where a drawn clip (F, 3, H, W) ever differs from its first frame, and the surroundings of that: (H, W) bool."""
    return _grown((truth - truth[:1]).abs().amax((0, 1)) > SEEN)


def flicker_percent(frames: Tensor, still: Tensor) -> float:
    """The mean change from frame to frame of the `still` parts (H, W), in percent of full scale."""
    return 100 * float((frames[1:] - frames[:-1]).abs()[..., still].mean())


def levels(frames: Tensor) -> list[np.ndarray]:
    """(F, 3, H, W) in [0, 1] as RGB pictures (H, W, 3) of 0 to 255."""
    return list((frames * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())


def _grey(frames: Tensor) -> list[np.ndarray]:
    return [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in levels(frames)]


def optical_flow(frames: Tensor) -> float:
    """OpenCV's DIS, medium, as anybody would use it: the mean length over picture and clip, in percent of the width."""
    search, grey = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), _grey(frames)
    # It starts from the flow that it is given, so that must be one: none at all.
    flows = [search.calc(one, other, np.zeros((*one.shape, 2), np.float32)) for one, other in pairwise(grey)]
    return 100 * float(np.mean([np.linalg.norm(flow, axis=-1).mean() for flow in flows])) / frames.shape[-1]


def find_camera(frames: Tensor, picture: Tensor) -> np.ndarray:
    """The affine camera, 2 x 3, that leads from `picture` (3, H, W) to the last frame, as ECC finds it.

    It is looked for from frame to frame, each search starting where the one before ended.
    """
    [start], camera = _grey(picture[None]), np.eye(2, 3, dtype=np.float32)
    everywhere, enough = np.full_like(start, 255), (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-5)
    for frame in _grey(frames):
        try:
            _, camera = cv2.findTransformECC(frame, start, camera, cv2.MOTION_AFFINE, enough, everywhere, 5)
        except cv2.error:  # it does not converge on a picture that is nothing like the first
            break
    return camera


def camera_shift(camera: np.ndarray, height: int, width: int) -> float:
    """How far a camera moves the pixels of a picture, in pixels, on average."""
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    shifts = (camera[:, :2] - np.eye(2)) @ np.stack([columns, rows]) + camera[:, 2:]
    return float(np.hypot(*shifts).mean())


def psnr_moved(frame: Tensor, picture: Tensor, camera: np.ndarray) -> float:
    """A frame against `picture` (3, H, W) as a camera moves it, in dB, where both have pixels."""
    height, width = frame.shape[-2:]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    [shown] = levels(picture[None])
    moved = cv2.warpAffine(shown, camera, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full((height, width), 255, np.uint8), camera, (width, height), flags=flags) == 255
    return psnr(frame, torch.from_numpy(moved).permute(2, 0, 1) / 255, torch.from_numpy(inside))


def colourfulness(frame: Tensor) -> float:
    """The mean distance of the strongest from the weakest colour of a frame (3, H, W): 0 is grey."""
    return float((frame.amax(0) - frame.amin(0)).mean())
