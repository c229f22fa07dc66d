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

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline


class _PipelineLock:
    """A re-entrant lock. The copy of a pipeline gets one of its own, as no lock can be copied."""

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def __deepcopy__(self, memo: Any) -> _PipelineLock:
        return _PipelineLock()

    def __reduce__(self) -> Any:
        return _PipelineLock, ()


@contextmanager
def exclusive(
    pipeline: StableVideoDiffusionPipeline,
    say: Callable[[str], object] | None = None,
    check: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Hold a pipeline for one thread; a thread that holds it may enter again.

    Args:
        pipeline: a loaded pipeline.
        say: called with one sentence when another thread holds it; left out, the sentence goes to stderr.
        check: called several times a second while it waits; what it raises ends the waiting.

    Example:
        >>> with exclusive(pipeline):
        ...     pipeline.scheduler.config.prediction_type
        'v_prediction'
    """
    lock: Any = vars(pipeline).setdefault("_svdlab_lock", _PipelineLock()).lock  # one step, so that two threads agree
    if not lock.acquire(blocking=False):
        sentence = "This pipeline is making another clip: waiting until that one is done."
        say(sentence) if say else print(sentence, file=sys.stderr)
        while not lock.acquire(timeout=0.2):
            check()
    try:
        yield
    finally:
        lock.release()
