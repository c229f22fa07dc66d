"""A line of progress with the time left, right in a terminal and in a notebook.

In a notebook the line is one output that is rewritten in place. Saved, exported, headless and untrusted notebooks keep
its last state, where carriage returns would pile up and a widget would show nothing.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from tqdm import tqdm


class Progress(tqdm):
    """tqdm's bar: on stderr in a terminal, one output of the cell in a notebook.

    Args:
        **options: tqdm's own, such as `total`, `desc`, `unit` and `disable`.

    Example:
        >>> with Progress(total=3, desc="steps", disable=True) as bar:
        ...     _ = bar.update(3)
    """

    _output: Any = None

    def __init__(self, **options: Any) -> None:
        if _in_notebook() and not options.get("disable"):
            from IPython.display import display

            self._output = display({"text/plain": ""}, raw=True, display_id=True)
            options |= {"file": io.StringIO(), "ncols": 88}
        super().__init__(mininterval=0.25, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Show the line; tqdm calls this.

        Args:
            msg: the line; default: the bar's present state.
            pos: the line's place among several bars of a terminal.

        Returns:
            Whether it was shown.
        """
        if self._output is None:
            return bool(super().display(msg, pos))
        self._output.update({"text/plain": msg or str(self)}, raw=True)
        return True


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")
