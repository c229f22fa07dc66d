"""How alike two pictures are: PSNR and SSIM, as scikit-image computes them.

PSNR, in decibels, is the mean squared difference of all values against full scale. Equal pictures would have infinity,
for which JSON has no word: they get `PSNR_CAP_DB`.
SSIM (Wang et al. 2004) compares the structure of two grey pictures under a Gaussian window, from -1 to 1.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

PSNR_CAP_DB = 100.0  # also what pictures get that differ by one level in one value of 150,000
SSIM_SIDE = 512  # pixels of the longer side at most, as the authors of SSIM advise for pictures seen as a whole


def psnr(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray) -> float:
    """Peak signal-to-noise ratio of two pictures in dB, at most `PSNR_CAP_DB`; higher is nearer.

    Args:
        one: RGB, a picture or an array (height, width, 3) of 0 to 255.
        other: another of the same size.

    Example:
        >>> import numpy as np
        >>> black = np.zeros((32, 32, 3), np.uint8)
        >>> psnr(black, black), round(psnr(black, black + 1), 1)
        (100.0, 48.1)
    """
    one, other = np.asarray(one), np.asarray(other)
    if np.array_equal(one, other):
        return PSNR_CAP_DB
    return min(PSNR_CAP_DB, float(peak_signal_noise_ratio(other, one, data_range=255)))


def ssim(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray) -> float:
    """Structural similarity of two pictures, -1 to 1; 1 for equal ones.

    Their luma is compared, at `SSIM_SIDE` pixels of the longer side at most.

    Args:
        one: RGB, a picture or an array (height, width, 3) of 0 to 255, at least 11 pixels a side.
        other: another of the same size.

    Example:
        >>> import numpy as np
        >>> grey = np.full((32, 32, 3), 128, np.uint8)
        >>> ssim(grey, grey)
        1.0
    """
    one, other = luma(one), luma(other)
    side = min(SSIM_SIDE, max(one.shape))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    score: Any = structural_similarity(resized(one, side), resized(other, side), **options)
    return float(score)


def luma(picture: Image.Image | np.ndarray) -> np.ndarray:
    """The brightness of an RGB picture (BT.601): an array (height, width) of 0 to 255.

    Args:
        picture: RGB, a picture or an array (height, width, 3) of 0 to 255.
    """
    return cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2GRAY)


def resized(grey: np.ndarray, side: int) -> np.ndarray:
    """A grey picture brought to `side` pixels at its longer side.

    Args:
        grey: (height, width).
        side: pixels.
    """
    scale = side / max(grey.shape)
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
