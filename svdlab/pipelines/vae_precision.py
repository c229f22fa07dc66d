"""The VAE's precision: what it encodes in, what it decodes in, a second decode after not-a-number, and the way back.

SVD's VAE overflows in fp16 while it encodes. diffusers therefore takes it to fp32 for the encoding and back to fp16
afterwards, unless the clip ends in between: after Ctrl-C or an error it would stay in fp32, and every later clip would
fail. Whoever runs or predicts a clip asks here, and nobody else changes the VAE's type.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline


def encode_dtype(vae: Any) -> torch.dtype:
    """The type in which the pipeline encodes: fp32 for an fp16 VAE that says `force_upcast`, else the VAE's own."""
    import torch

    return torch.float32 if vae.dtype == torch.float16 and vae.config["force_upcast"] else vae.dtype


@contextmanager
def keep_precision(pipeline: StableVideoDiffusionPipeline) -> Iterator[None]:
    """Put each of the VAE's tensors back into the type that it had, however the block ends."""
    vae: Any = pipeline.vae
    dtypes = {name: tensor.dtype for name, tensor in _floating(vae)}
    logger = logging.getLogger("diffusers.models.modeling_utils")
    logger.addFilter(_is_no_empty_warning)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_empty_warning)
        # Each tensor: Ctrl-C may come while half of them are converted. By name: offloading exchanges the objects.
        for name, tensor in _floating(vae):
            if tensor.dtype != dtypes.get(name, tensor.dtype):
                tensor.data = tensor.data.to(dtypes[name])


def decode(
    pipeline: StableVideoDiffusionPipeline, latents: torch.Tensor, num_frames: int, chunk: int
) -> tuple[torch.Tensor, int]:
    """Latents to pixels; where frames come out as not-a-number, all are decoded a second time, in fp32.

    There is no second time under sequential offload, whose weights are elsewhere.

    Args:
        pipeline: one that is held (`exclusive`).
        latents: (1, frames, channels, height, width), finite.
        num_frames: how many frames they hold.
        chunk: how many are decoded together.

    Returns:
        Pixels (1, channels, frames, height, width) in -1..1, not-a-number where fp32 was no cure either; and how many
        frames were not-a-number the first time.
    """
    import torch

    vae: Any = pipeline.vae
    pixels = pipeline.decode_latents(latents, num_frames, chunk)
    broken = int((~torch.isfinite(pixels)).any(dim=(0, 1, 3, 4)).sum())
    if broken and vae.dtype != torch.float32 and not any(tensor.is_meta for _, tensor in _floating(vae)):
        with keep_precision(pipeline):
            vae.to(torch.float32)
            pixels = pipeline.decode_latents(latents.float(), num_frames, chunk)
    return pixels, broken


def _is_no_empty_warning(record: logging.LogRecord) -> bool:
    """False for a warning that diffusers gives at each cast: that modules are kept in float32, with an empty list."""
    return "kept in float32: []" not in record.getMessage()


def _floating(vae: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in (*vae.named_parameters(), *vae.named_buffers()):
        if tensor.is_floating_point():
            yield name, tensor
