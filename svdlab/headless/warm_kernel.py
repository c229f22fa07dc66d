"""Warm kernels: Jupyter kernels that outlive the notebook which ran on them, with what their modules hold."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

# All names gone, In[1] again, figures closed, and the working directory that this run was called from.
_CLEAR = """
import os, sys
if "matplotlib.pyplot" in sys.modules:
    sys.modules["matplotlib.pyplot"].close("all")
os.chdir({cwd!r})
get_ipython().reset(new_session=True)  # collects garbage too
"""

_warm: dict[str, OneClient] = {}  # kernel name -> its manager


class OneClient(AsyncKernelManager):
    """A kernel's manager that hangs up on its last client when there is a new one: the kernel answers to the newest."""

    last: Any = None

    def client(self, **options: Any) -> Any:
        self.hang_up()
        self.last = super().client(**options)
        return self.last

    def hang_up(self) -> None:
        if self.last is not None:
            self.last.stop_channels()


def warm_kernel(name: str) -> AsyncKernelManager:
    """The manager of a running kernel, as clean as a new one but for the modules that it has imported.

    A kernel that died is replaced by a new one.
    """
    if name in _warm and not run_sync(_warm[name].is_alive)():
        stop_kernels(name)
    fresh = name not in _warm
    if fresh:
        _warm[name] = OneClient(kernel_name=name)
        run_sync(_warm[name].start_kernel)()
    client = _warm[name].client()
    client.start_channels()
    if fresh:
        run_sync(client.wait_for_ready)(timeout=120)
    asked = client.execute(_CLEAR.format(cwd=str(Path.cwd())), silent=True, store_history=False)
    while run_sync(client.get_shell_msg)(timeout=60)["parent_header"].get("msg_id") != asked:
        pass  # an answer to the question whether it is ready
    return _warm[name]


def stop_kernels(name: str | None = None) -> None:
    """Stop the warm kernel of that name, or all of them, with the pipelines they hold."""
    for each in [name] if name else list(_warm):
        if each in _warm:
            manager = _warm.pop(each)
            manager.hang_up()
            run_sync(manager.shutdown_kernel)(now=True)


atexit.register(stop_kernels)
