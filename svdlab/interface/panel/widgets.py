"""Small pieces that the panel is made of: buttons, rows, figures, and one place that tells what went wrong.

A control changes by hand or by the program (when a saved clip's settings are brought back, say). `when_changed` calls
for the first alone; the program changes controls within `by_program`, each thread for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from typing import Any

from PIL import Image

from svdlab.media.images import data_url, png_bytes
from svdlab.messages import describe_error

try:
    import ipywidgets as w
except ImportError as error:
    raise ImportError("The panel needs ipywidgets, which is not installed: pip install 'svdlab[lab]'.") from error

_BY_PROGRAM: ContextVar[bool] = ContextVar("by_program", default=False)


@contextmanager
def by_program() -> Iterator[None]:
    """Within, a control that changes in this thread calls nobody."""
    token = _BY_PROGRAM.set(True)
    try:
        yield
    finally:
        _BY_PROGRAM.reset(token)


def when_changed(control: w.Widget, act: Callable[[Any], object]) -> None:
    """Call a function when a control was changed by hand.

    Args:
        control: the control.
        act: gets its new value.
    """
    control.observe(lambda change: _BY_PROGRAM.get() or act(change["new"]), "value")


class Button(w.Button):
    """A button with a tooltip, as wide as its label."""

    def __init__(self, label: str, tooltip: str, act: Callable[[], object], **look: Any) -> None:
        super().__init__(description=label, tooltip=tooltip, layout=w.Layout(width="auto"), **look)
        self.on_click(lambda _: act())


class Alert(w.HTML):
    """Tells what went wrong, as one sentence."""

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Errors that are raised within are told here and go no further."""
        self.value = ""
        try:
            yield
        except Exception as error:  # of any library below
            self.value = f'<div role="alert">{escape(describe_error(error, where=False))}</div>'


def page(html: str) -> tuple[dict[str, Any], ...]:
    """HTML as the `outputs` of an Output widget. That runs scripts, as an HTML widget does not; any thread may set it.

    Args:
        html: the page.
    """
    return ({"output_type": "display_data", "data": {"text/html": html, "text/plain": "a clip"}, "metadata": {}},)


def figure(image: Image.Image, caption: str, width: int = 320) -> str:
    """A picture with its caption, in HTML.

    Args:
        image: the picture.
        caption: plain text.
        width: in pixels of the page; up to twice as many are sent, for sharp screens.
    """
    image, caption = image.copy(), escape(caption)
    image.thumbnail((2 * width, 2 * width))
    picture = f'<img width="{width}" alt="{caption}" src="{data_url("image/png", png_bytes(image))}">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
