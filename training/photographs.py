"""Ten real photographs to judge by, cropped to a clip's shape. They come with scikit-image; none is ever trained on."""

from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor

from svdlab.media.images import fit_image

NAMES = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
    "hubble_deep_field.jpg", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip


def photograph(name: str, height: int, width: int) -> Tensor:
    """The photograph as (3, height, width) in [0, 1]: its middle, at that shape."""
    path = Path(skimage.__file__).parent / "data" / name
    picture = fit_image(Image.open(path).convert("RGB"), height, width)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255
