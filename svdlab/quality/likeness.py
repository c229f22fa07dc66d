"""How alike two pictures are: PSNR and SSIM, as scikit-image computes them.

PSNR, in decibels, is the mean squared difference of all values against full scale. Equal pictures would have infinity,
for which JSON has no word: they get `PSNR_CAP_DB`.
SSIM (Wang et al. 2004) compares the structure of two grey pictures under a Gaussian window, from -1 to 1.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

PSNR_CAP_DB = 100.0  # also what pictures get that differ by one level in one value of 150,000
_SSIM_SIDE = 512  # pixels of the longer side at most, as the authors of SSIM advise for pictures seen as one


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures in dB, at most `PSNR_CAP_DB`; higher is nearer.

    Args:
        one, other: RGB, (height, width, 3) of 0 to 255, of one size.
    """
    if np.array_equal(one, other):
        return PSNR_CAP_DB
    return min(PSNR_CAP_DB, float(peak_signal_noise_ratio(other, one, data_range=255)))


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity of the luma of two pictures, -1 to 1; 1 for equal ones.

    Args:
        one, other: RGB, (height, width, 3) of 0 to 255, of one size of at least 11 pixels a side.
    """
    side = min(_SSIM_SIDE, max(one.shape[:2]))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    score: Any = structural_similarity(resized(luma(one), side), resized(luma(other), side), **options)
    return float(score)


def luma(picture: np.ndarray) -> np.ndarray:
    """The brightness of an RGB picture (BT.601): an array (height, width) of 0 to 255."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def resized(grey: np.ndarray, side: int) -> np.ndarray:
    """A grey picture brought to a size.

    Args:
        grey: (height, width).
        side: pixels of its longer side.
    """
    scale = side / max(grey.shape)
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
