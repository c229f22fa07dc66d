"""Encodings shared between clips: within a sweep no picture is encoded twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from svdlab.media.images import image_sha256

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline


@contextmanager
def shared(pipeline: StableVideoDiffusionPipeline) -> Iterator[None]:
    """Within, the pipeline encodes no picture twice: what CLIP and the VAE said of the same pixels is said again.

    The frames stay as they were bit for bit. The VAE is shown the picture under noise, so that trials share its answer
    where they share the seed and the noise strength.
    """
    names = ("_encode_image", "_encode_vae_image")
    before = {name: vars(pipeline)[name] for name in names if name in vars(pipeline)}
    for name in names:
        setattr(pipeline, name, _remembering(getattr(pipeline, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(pipeline, name)
        vars(pipeline).update(before)


def _remembering(encode: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    known: dict[Any, torch.Tensor] = {}

    def encoded(image: Any, *options: Any, **named: Any) -> torch.Tensor:
        if isinstance(image, Image.Image):
            content: Any = image_sha256(image)
        else:  # float32 pixels and noise
            content = tuple(image.shape), hashlib.sha256(image.cpu().contiguous().numpy()).digest()
        asked = (content, repr(options), repr(sorted(named.items())))
        if asked not in known:
            _room(known)
            known[asked] = encode(image, *options, **named)
        return known[asked]

    return encoded


def _room(known: dict[Any, Any], most: int = 64) -> None:
    """At full size, 64 pictures are 110 MB, and 64 encoded ones 10 MB."""
    if len(known) >= most:
        del known[next(iter(known))]
