"""Keep the UNet's weights in 8 bits and compute in 16: half the weight memory, slightly other frames.

diffusers' layerwise casting to float8_e4m3fn, which cannot be undone: load again to be without it.
"""

from __future__ import annotations

from typing import Any

from svdlab.optimizations.registry import Optimization


def _apply(pipeline: Any, value: str | None) -> None:
    import torch

    pipeline.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=pipeline.unet.dtype)


def _holds(pipeline: Any) -> bool:
    """Whether most of the weights are in 8 bits; norms and embeddings stay as they are, by design."""
    import torch

    sizes = [(p.numel(), p.dtype == torch.float8_e4m3fn) for p in pipeline.unet.parameters()]
    return sum(n for n, small in sizes if small) > 0.9 * sum(n for n, _ in sizes)


FP8 = Optimization(
    "fp8",
    phase="weights",
    affects="latents",
    what="the UNet's weights in 8 bits, computing in 16; 1.4 GiB less for svd and svd-xt, slightly other frames",
    apply=_apply,
    holds=_holds,
    stages=("denoise",),
)
