"""What the trials of a sweep share: no picture is read, fitted or encoded twice.

Trials differ in a knob or two and mostly share the picture. What the model sees is the request's picture at the clip's
size; its hash is part of the row's key. CLIP sees the picture itself; the VAE sees it under noise, so trials share its
answer where they share the seed and the noise strength.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from svdlab.media.images import image_sha256
from svdlab.request import Request, conditioning

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline


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
        wanted = (source, request.height, request.width, request.fit, request.focus)
        if wanted not in self._pictures:
            make_room(self._pictures)
            image = conditioning(request)
            self._pictures[wanted] = request.image, FittedPicture(image, image_sha256(image))  # held: its id stays its
        return self._pictures[wanted][1]


@contextmanager
def shared(pipeline: StableVideoDiffusionPipeline, encodings: dict[str, dict[Any, torch.Tensor]]) -> Iterator[None]:
    """Encode no picture twice on a pipeline; the frames stay the same bit for bit.

    Args:
        pipeline: one that is held (`exclusive`); its two encoding methods are put back afterwards.
        encodings: keeps the answers for the next block on this pipeline.
    """
    names = ("_encode_image", "_encode_vae_image")
    before = {name: vars(pipeline)[name] for name in names if name in vars(pipeline)}
    for name in names:
        setattr(pipeline, name, _remembering(getattr(pipeline, name), encodings.setdefault(name, {})))
    try:
        yield
    finally:
        for name in names:
            delattr(pipeline, name)
        vars(pipeline).update(before)


def _remembering(encode: Callable[..., torch.Tensor], cache: dict[Any, torch.Tensor]) -> Callable[..., torch.Tensor]:
    def encoded(image: Any, *options: Any, **named: Any) -> torch.Tensor:
        if isinstance(image, Image.Image):
            content: Any = image_sha256(image)
        else:  # float32 pixels and noise
            content = tuple(image.shape), hashlib.sha256(image.cpu().contiguous().numpy()).digest()
        key = (content, repr(options), repr(sorted(named.items())))
        if key not in cache:
            make_room(cache)
            cache[key] = encode(image, *options, **named)
        return cache[key]

    return encoded


def make_room(cache: dict[Any, Any]) -> None:
    """Drop the oldest entry of a full cache; at full size 64 pictures are 110 MB, 128 encodings 20 MB."""
    if len(cache) >= 64:
        del cache[next(iter(cache))]
