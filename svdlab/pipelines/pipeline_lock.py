"""One clip at a time on one pipeline.

diffusers keeps the state of a clip (the scheduler's step, the guidance, the VAE's precision) on the pipeline itself.
Two threads that generate at once, such as a panel and a cell, destroy each other's clips. Whoever uses or patches a
pipeline holds its lock; the second one waits and says so.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

_locks: WeakKeyDictionary[StableVideoDiffusionPipeline, Any] = WeakKeyDictionary()  # the copy of a pipeline has its own


@contextmanager
def exclusive(
    pipeline: StableVideoDiffusionPipeline,
    say: Callable[[str], object] | None = None,
    check: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Hold a pipeline for one thread; a thread that holds it may enter again.

    Args:
        pipeline: a loaded one.
        say: called with one sentence when another thread holds it; default: the sentence goes to stderr.
        check: called several times a second while it waits; what it raises ends the waiting.
    """
    lock = _locks.setdefault(pipeline, threading.RLock())  # one step, so that two threads agree
    if not lock.acquire(blocking=False):
        sentence = "This pipeline is making another clip: waiting until that one is done."
        say(sentence) if say else sys.stderr.write(f"{sentence}\n")  # in one piece beside other threads
        while not lock.acquire(timeout=0.2):
            check()
    try:
        yield
    finally:
        lock.release()
