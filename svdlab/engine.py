"""A papermill engine that keeps its kernel warm: the next notebook finds torch imported and its pipeline loaded.

`papermill --engine svdlab …` uses it for one notebook; `svdlab run` for several in a row, where it pays. Between two
notebooks every name is cleared, so that each starts as from nothing; only what modules hold stays, and
`svdlab.sweep.loaded` holds pipelines. papermill loads this file through its entry point.
"""

from __future__ import annotations

from typing import Any

from papermill.engines import NBClientEngine

from svdlab import kernels


class WarmEngine(NBClientEngine):
    """papermill's own engine, on a kernel that outlives the notebook."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *args: Any, **options: Any) -> Any:
        manager = kernels.warm(kernel_name)
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, *args, km=manager, **options)
        except BaseException:  # Ctrl-C too: what the kernel was doing then is nobody's to inherit
            kernels.cool(kernel_name)
            raise
