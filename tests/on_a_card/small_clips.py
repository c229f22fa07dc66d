"""Clips that a card makes in a moment: few layers, and still as much memory in weights as beside them."""

from __future__ import annotations

import gc
import sys
import tempfile
import warnings
from functools import cache
from typing import Any

import torch
from micro_model import micro_pipeline

from svdlab import Estimate, Request, Setup

SMALL = {"height": 64, "width": 64, "num_frames": 2, "num_inference_steps": 2, "decode_chunk_size": 2}


@cache
def _checkpoint() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory(prefix="small-model-")
    micro_pipeline(frames=2, attends=(False,), channels=64, vae_levels=4).save_pretrained(folder.name)
    return folder


def small_setup(*names: str, dtype: str = "fp32") -> Setup:
    """A small model on the card."""
    return Setup("svd", _checkpoint().name, dtype, names, device="cuda")


def small_request(**fields: Any) -> Request:
    """Two guided frames, for which both halves of the guidance batch are computed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Request.for_variant("svd", **{"image": "rocket", "max_guidance_scale": 2.0} | SMALL | fields)


def allocated_bytes() -> int:
    """What this process has on the card when nothing is left to collect."""
    gc.collect()
    return torch.cuda.memory_allocated()


def most_bytes(prediction: Estimate) -> float:
    """What a clip may allocate: 2 % over the prediction; on a real card cuDNN takes workspaces too."""
    return 1.02 * prediction.peak_bytes if "pretended_card" in sys.modules else prediction.needed_bytes
