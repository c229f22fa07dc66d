"""A papermill engine whose kernel outlives the notebook, so that the next one finds torch and its model loaded.

Starting a kernel and importing torch takes longer than a small study. `svdlab run` uses the engine for several
parameter files in a row; `papermill --engine svdlab …` for one notebook. Between two notebooks all names are cleared.
Modules stay, and the pipeline that `load_cached` keeps in one of them. papermill finds this file by the entry point in
pyproject.toml.
"""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

import click
import zmq
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from papermill.engines import NBClientEngine
from papermill.inspection import _infer_parameters

from svdlab.headless.run_notebooks import unknown_parameter

# All names gone, In[1] again, figures closed, and the working directory of this run.
_CLEAR_NAMES = """
import os, sys
if "matplotlib.pyplot" in sys.modules:
    sys.modules["matplotlib.pyplot"].close("all")
os.chdir({cwd!r})
get_ipython().reset(new_session=True)  # collects garbage too
"""


class UnknownParameter(click.UsageError, ValueError):
    """A parameter that the notebook does not have: papermill's command says so in one line, and Python may catch it."""


class WarmEngine(NBClientEngine):
    """papermill's own engine, on a kernel that outlives the notebook: `papermill --engine svdlab IN.ipynb OUT`."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *args: Any, **options: Any) -> Any:
        """Run a notebook; papermill calls this.

        Args:
            nb_man: papermill's manager of the notebook.
            kernel_name: of the kernel to run on, such as "python3".
            *args, **options: papermill's own.

        Raises:
            UnknownParameter: one of `-p` or `-f` is misspelled. papermill itself would run with the defaults.
        """
        parameters = nb_man.nb.metadata.papermill.get("parameters", {})
        names = [parameter.name for parameter in _infer_parameters(nb_man.nb)]
        if unknown := unknown_parameter(parameters, names):
            raise UnknownParameter(f"This run sets {unknown}")
        try:
            manager = _warm_kernel(kernel_name)
            return super().execute_managed_notebook(nb_man, kernel_name, *args, km=manager, **options)
        except BaseException:  # Ctrl-C too: nobody should inherit what the kernel was doing then
            stop_kernels()
            raise


class _KernelManager(AsyncKernelManager):
    """A kernel's manager with one client at a time: a new client closes the one before, since a kernel answers all."""

    _client: Any = None

    def client(self, **options: Any) -> Any:
        self.close_client()
        self._client = super().client(**options)
        return self._client

    def close_client(self) -> None:
        if self._client is not None:
            self._client.stop_channels()


_kernels: dict[str, _KernelManager] = {}  # by the kernel's name


@atexit.register
def stop_kernels() -> None:
    """Stop the warm kernels, with the pipelines that they hold."""
    while _kernels:
        _, manager = _kernels.popitem()
        manager.close_client()
        run_sync(manager.shutdown_kernel)(now=True)


def _warm_kernel(name: str) -> _KernelManager:
    """The manager of a running kernel that is as clean as a new one but for the modules it has imported."""
    if name in _kernels and not run_sync(_kernels[name].is_alive)():
        stop_kernels()
    if is_new := name not in _kernels:
        _kernels[name] = manager = _KernelManager(kernel_name=name)
        if manager.has_trait("transport_encryption") and zmq.has("curve"):
            manager.transport_encryption = "auto"  # without it ipykernel 7 warns in every run
        run_sync(manager.start_kernel)()
    client = _kernels[name].client()
    client.start_channels()
    if is_new:
        run_sync(client.wait_for_ready)(timeout=120)
    request = client.execute(_CLEAR_NAMES.format(cwd=str(Path.cwd())), silent=True, store_history=False)
    while run_sync(client.get_shell_msg)(timeout=60)["parent_header"].get("msg_id") != request:
        pass  # an earlier answer, to the question whether the kernel is ready
    return _kernels[name]
