"""Lay the convolutions' weights out with channels last, which many kernels prefer.

`unet.to(memory_format=torch.channels_last)` raises on this UNet, since it has 3D convolutions too. Here each
convolution gets the format of its own dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from svdlab.optimizations.registry import Optimization


def _convolutions(pipeline: Any) -> Iterator[tuple[Any, Any]]:
    """Each convolution of the UNet and the VAE, with its memory format."""
    import torch

    for module in (*pipeline.unet.modules(), *pipeline.vae.modules()):
        if isinstance(module, torch.nn.Conv2d):
            yield module, torch.channels_last
        elif isinstance(module, torch.nn.Conv3d):
            yield module, torch.channels_last_3d


def _apply(pipeline: Any, value: str | None) -> None:
    for convolution, layout in _convolutions(pipeline):
        convolution.weight.data = convolution.weight.data.contiguous(memory_format=layout)


CHANNELS_LAST = Optimization(
    "channels-last",
    phase="weights",
    affects="rounding",
    what="convolution weights with channels last; faster on some cards, slower on others: measure",
    apply=_apply,
    holds=lambda pipeline: all(c.weight.is_contiguous(memory_format=layout) for c, layout in _convolutions(pipeline)),
)
