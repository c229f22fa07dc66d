"""Cached `load`: the last pipeline is reused while the setup and the weights are unchanged.

Loading SVD-XT takes a minute, and most cards hold one pipeline only. So the last one is kept, until another setup is
asked for, its weights change on disk, `unload_cached` is called, or the process ends.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from svdlab.machine import free_memory
from svdlab.pipelines.fingerprint import weights_fingerprint
from svdlab.pipelines.load import load
from svdlab.setup import Setup

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

_cached: dict[Any, StableVideoDiffusionPipeline] = {}  # at most one
_loading = threading.RLock()  # a panel and a cell may ask for one setup at once


def load_cached(setup: Setup) -> StableVideoDiffusionPipeline:
    """`load`, or the pipeline of the last call where setup and weights are the same."""
    with _loading:
        if (pipeline := _cached.get(_key(setup))) is None:
            unload_cached()
            pipeline = load(setup)
            _cached[_key(setup)] = pipeline  # the key again, now that the weights have been fetched
        return pipeline


def unload_cached() -> None:
    """Let go of the pipeline that `run` and the panel keep loaded, and of its memory on the card.

    Call it before `load` or `measure` where the card holds only one. The next `run` loads again.

    Example:
        >>> unload_cached()
    """
    _cached.clear()
    free_memory()


def _key(setup: Setup) -> tuple[Setup, str]:
    setup = setup.resolved()
    return setup, weights_fingerprint(setup)
