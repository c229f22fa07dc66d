"""Lay the convolutions' weights out with channels last, which many kernels prefer.

`unet.to(memory_format=…)` raises on this UNet, which has 3D convolutions too: each gets the format of its dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from svdlab.optimizations.registry import Optimization


def _convolutions(pipeline: Any) -> Iterator[tuple[Any, Any]]:
    import torch

    formats = {torch.nn.Conv2d: torch.channels_last, torch.nn.Conv3d: torch.channels_last_3d}
    for module in (*pipeline.unet.modules(), *pipeline.vae.modules()):
        if type(module) in formats:
            yield module, formats[type(module)]


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
