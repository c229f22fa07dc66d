"""A papermill engine that keeps its kernel warm: the next notebook finds torch imported and its pipeline loaded.

`papermill --engine svdlab …` uses it for one notebook; `svdlab run` for several in a row, where it pays. Between two
notebooks every name is cleared, so that each starts as from nothing; only what modules hold stays, and
`svdlab.sweeps.run.loaded` holds pipelines. papermill loads this file through its entry point.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from papermill.engines import NBClientEngine

from svdlab.headless.warm_kernel import stop_kernels, warm_kernel


class WarmEngine(NBClientEngine):
    """papermill's own engine, on a kernel that outlives the notebook."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *args: Any, **options: Any) -> Any:
        manager = warm_kernel(kernel_name)
        nb_man.save = _seldom(nb_man.save)
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, *args, km=manager, **options)
        except BaseException:  # Ctrl-C too: what the kernel was doing then is nobody's to inherit
            stop_kernels(kernel_name)
            raise
        finally:
            del nb_man.save  # papermill's own is back for the last state


def _seldom(save: Callable[..., None], seconds: float = 1.0) -> Callable[..., None]:
    """`save`, at most once in so many seconds: papermill writes the whole notebook twice a cell."""
    last = 0.0

    def saved(**options: Any) -> None:
        nonlocal last
        if time.monotonic() - last > seconds:
            save(**options)
            last = time.monotonic()

    return saved
