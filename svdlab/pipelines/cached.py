"""Cached `load`: the last pipeline is reused while the setup and its weights are unchanged."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from svdlab.pipelines.fingerprint import weights_fingerprint
from svdlab.pipelines.load import load
from svdlab.setup import Setup

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline


_kept: dict[Any, StableVideoDiffusionPipeline] = {}  # at most one: two would not fit on most cards


def load_cached(setup: Setup) -> StableVideoDiffusionPipeline:
    """`svdlab.load(setup)`, or the pipeline of the last call where that asked for the same and its weights are as then.

    It lives as long as this process, or until another setup is asked for, or `unload_cached()`.
    """
    if _asked(setup) not in _kept:
        unload_cached()
        pipeline = load(setup)
        _kept[_asked(setup)] = pipeline  # asked again, now that the weights have been fetched
    return _kept[_asked(setup)]


def unload_cached() -> None:
    """Let go of the pipeline that `load_cached` keeps, and of its memory on the card."""
    _kept.clear()
    free_memory()


def free_memory() -> None:
    """Give back what clips took; a pipeline that is kept stays."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _asked(setup: Setup) -> tuple[Setup, str]:
    setup = setup.resolved()
    return setup, weights_fingerprint(setup)
