"""Small pieces that the panel is made of: buttons, figures, and alerts that tell what went wrong.

A control changes by hand or by the program (when a saved clip's settings are brought back, say). `when_changed` calls
for the first alone; the program changes controls by `assign`, or within `by_program`, each thread for itself.
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
    from traitlets import CUnicode, Unicode
except ImportError as error:
    raise ImportError("The panel needs ipywidgets, which is not installed: pip install 'svdlab[notebooks]'.") from error

_BY_PROGRAM: ContextVar[bool] = ContextVar("by_program", default=False)


@contextmanager
def by_program() -> Iterator[None]:
    """Within, a control that changes in this thread calls nobody."""
    token = _BY_PROGRAM.set(True)
    try:
        yield
    finally:
        _BY_PROGRAM.reset(token)


def assign(control: w.Widget, **traits: Any) -> None:
    """Change a control by the program, in one message: a page that got a value before its limits would cut it off.

    Args:
        control: the control.
        **traits: the new values, by trait.
    """
    with by_program(), control.hold_sync():
        if "options" in traits:  # without which a value is refused
            control.set_trait("options", traits.pop("options"))
        with control.hold_trait_notifications():  # limits may pass one another on the way
            for name, value in traits.items():
                setattr(control, name, value)


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


class SeedField(w.Text):
    """A number of any size: a page's own numbers are exact up to 2**53 only."""

    value = CUnicode("").tag(sync=True)


class Inbox(w.Text):
    """A hidden field in which a page writes a message; the page goes on when the field is empty again."""

    value = Unicode("").tag(sync=True, echo_update=False)  # long pieces of files need not come back


class Alert(w.HTML):
    """Tells what went wrong, as one sentence, and marks the field that it is of."""

    def __init__(self, field: w.DOMWidget | None = None) -> None:
        super().__init__()
        self._field = field

    @contextmanager
    def catch(self, keep: bool = False) -> Iterator[None]:
        """Errors that are raised within are told here and go no further; `keep` leaves an older one that was told."""
        if not keep:
            self.tell("")
        try:
            yield
        except Exception as error:  # of any library below
            self.tell(describe_error(error, where=False))

    def tell(self, sentence: str) -> None:
        """Show a sentence, or none."""
        self.value = f'<div role="alert">{escape(sentence)}</div>' if sentence else ""
        if self._field:
            (self._field.add_class if sentence else self._field.remove_class)("svdlab-wrong")


def page(html: str) -> tuple[dict[str, Any], ...]:
    """HTML as the `outputs` of an Output widget, which runs scripts, as an HTML widget does not; for any thread."""
    return ({"output_type": "display_data", "data": {"text/html": html, "text/plain": "a clip"}, "metadata": {}},)


def figure(image: Image.Image, caption: str, width: int = 320, look: str = "", more: str = "") -> str:
    """A picture with its caption, in HTML.

    Args:
        image: the picture.
        caption: plain text.
        width: in pixels of the page; up to twice as many are sent, for sharp screens.
        look: attributes of the figure.
        more: HTML to lay over the picture.
    """
    image, caption = image.copy(), escape(caption)
    image.thumbnail((2 * width, 2 * width))
    picture = f'<img width="{width}" alt="{caption}" src="{data_url("image/png", png_bytes(image))}">'
    return f"<figure {look}><div>{picture}{more}</div><figcaption>{caption}</figcaption></figure>"
