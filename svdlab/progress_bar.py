"""A line of progress with the time left, and silence for the bars of other libraries.

In a notebook the line is one output that is rewritten in place. Saved, exported, headless and untrusted notebooks keep
its last state, where carriage returns would pile up and a widget would show nothing.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

_silencing = threading.Lock()
_states: list[Any] = []  # of the libraries, before each block of `quiet_libraries` that has not ended


class Progress(tqdm):
    """tqdm's bar, with its options: on stderr in a terminal, one output of the cell in a notebook."""

    _output: Any = None

    def __init__(self, **options: Any) -> None:
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if hasattr(shell, "kernel") and not options.get("disable"):
            from IPython.display import display

            self._output = display({"text/plain": ""}, raw=True, display_id=True)
            options |= {"file": io.StringIO(), "ncols": 88}
        super().__init__(mininterval=0.25, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Show the line; tqdm calls this."""
        if self._output is None:
            return bool(super().display(msg, pos))
        self._output.update({"text/plain": msg or str(self)}, raw=True)
        return True


@contextmanager
def closing_bars() -> Iterator[type[Progress]]:
    """The class of bars for another library to draw; those that it leaves open are closed at the end."""
    bars: list[Progress] = []

    class ClosedBar(Progress):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            bars.append(self)

    try:
        yield ClosedBar
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence diffusers and transformers while models are built; their bars and verbosity are put back afterwards.

    The bars last seconds. transformers also warns that torchvision is missing; here Pillow prepares the pictures.
    """
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    libraries: list[Any] = [diffusers, transformers]
    with _silencing:
        _states.append([(each, each.get_verbosity(), each.is_progress_bar_enabled()) for each in libraries])
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
    try:
        yield
    finally:
        with _silencing:  # the block that ends last puts back what the first one met, in whatever order threads end
            for library, verbosity, bars in _states.pop():
                library.set_verbosity(verbosity)
                if bars:
                    library.enable_progress_bar()
