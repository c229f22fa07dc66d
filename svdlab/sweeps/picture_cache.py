"""What the trials of a sweep share: no picture is read and fitted twice.

Trials differ in a knob or two and mostly share the picture. What the model sees is the request's picture at the clip's
size; its hash is part of the row's key.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from PIL import Image

from svdlab.media.images import image_sha256
from svdlab.request import Request, conditioning
from svdlab.rows.row_key import row_key
from svdlab.sweeps.grid import Trial


class FittedPicture(NamedTuple):
    """A picture as the model sees it: RGB, of the clip's size, with the sha256 of its pixels in hex."""

    image: Image.Image
    sha256: str


class PictureCache:
    """The fitted pictures of the last requests."""

    def __init__(self) -> None:
        self._pictures: dict[Any, tuple[Any, FittedPicture]] = {}

    def fitted(self, request: Request) -> FittedPicture:
        """The picture of a complete request; a ValueError where it cannot be read."""
        source = request.image if isinstance(request.image, str) else id(request.image)
        key = (source, request.height, request.width, request.fit, request.focus)
        if key not in self._pictures:
            make_room(self._pictures)
            image = conditioning(request)
            self._pictures[key] = request.image, FittedPicture(image, image_sha256(image))  # held: its id stays its
        return self._pictures[key][1]

    def row_key(self, trial: Trial) -> str:
        """The key of the row that a trial makes."""
        return row_key(trial.setup, trial.request, self.fitted(trial.request).sha256)


def make_room(cache: dict[Any, Any]) -> None:
    """Drop the oldest entry of a full cache; at full size 64 pictures are 110 MB."""
    if len(cache) >= 64:
        del cache[next(iter(cache))]
