"""Encodings shared between clips: within a sweep no picture is encoded twice.

Trials of a sweep differ in a knob or two and mostly share the picture. CLIP sees the picture itself; the VAE sees it
under noise, so trials share its answer where they share the seed and the noise strength.
"""

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
def shared(
    pipeline: StableVideoDiffusionPipeline, encodings: dict[str, dict[Any, torch.Tensor]] | None = None
) -> Iterator[None]:
    """Encode no picture twice on a pipeline; the frames stay the same bit for bit.

    Args:
        pipeline: one that is held (`exclusive`); its two encoding methods are put back afterwards.
        encodings: keeps the answers for the next block on this pipeline; default: this block alone.
    """
    known = {} if encodings is None else encodings
    names = ("_encode_image", "_encode_vae_image")
    before = {name: vars(pipeline)[name] for name in names if name in vars(pipeline)}
    for name in names:
        setattr(pipeline, name, _remembering(getattr(pipeline, name), known.setdefault(name, {})))
    try:
        yield
    finally:
        for name in names:
            delattr(pipeline, name)
        vars(pipeline).update(before)


def _remembering(encode: Callable[..., torch.Tensor], known: dict[Any, torch.Tensor]) -> Callable[..., torch.Tensor]:
    def encoded(image: Any, *options: Any, **named: Any) -> torch.Tensor:
        if isinstance(image, Image.Image):
            content: Any = image_sha256(image)
        else:  # float32 pixels and noise
            content = tuple(image.shape), hashlib.sha256(image.cpu().contiguous().numpy()).digest()
        key = (content, repr(options), repr(sorted(named.items())))
        if key not in known:
            make_room(known)
            known[key] = encode(image, *options, **named)
        return known[key]

    return encoded


def make_room(known: dict[Any, Any]) -> None:
    """Drop the oldest entry of a full cache; at full size 64 pictures are 110 MB, 128 encodings 20 MB."""
    if len(known) >= 64:
        del known[next(iter(known))]
