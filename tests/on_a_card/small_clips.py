"""Clips that a card makes in a second: the bundled model, small, and still with most of its memory in weights."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import torch

from svdlab import Request, Setup

SMALL = {"height": 64, "width": 64, "num_frames": 2, "num_inference_steps": 2, "decode_chunk_size": 2}


def small_setup(*names: str, dtype: str = "fp32") -> Setup:
    """The bundled model on the card."""
    return Setup("tiny", device="cuda", dtype=dtype, optimizations=names)


def small_request(**fields: Any) -> Request:
    """Two guided frames, for which both halves of the guidance batch are computed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Request.for_variant("tiny", **{"image": "rocket", "max_guidance_scale": 2.0} | SMALL | fields)


def allocated_bytes() -> int:
    """What this process has on the card when nothing is left to collect."""
    gc.collect()
    return torch.cuda.memory_allocated()
