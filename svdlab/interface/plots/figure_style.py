"""What all figures share: their size, a light or a dark page, a title, and words for who cannot see them.

A notebook shows the figure that a cell ends with, and keeps the words as the picture's alt text, in exported HTML too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from svdlab.media.images import data_url

WIDTH = 10.0  # inches, of a notebook's page
PHONE = "(max-width: 600px)"  # in CSS
# Okabe and Ito's colours, which survive colour blindness (https://jfly.uni-koeln.de/color/), then for a dark page.
_LIGHT = {"blue": "#0072B2", "orange": "#D55E00", "green": "#009E73", "pink": "#CC79A7", "yellow": "#E69F00"}
_LIGHT |= {"sky": "#56B4E9", "pale": "0.82", "grey": "0.5"}
_DARK = _LIGHT | {"blue": "#56B4E9", "orange": "#FF8A3D", "green": "#2FC79B", "sky": "#8FD0F5", "pale": "0.35"}


class DescribedFigure(Figure):
    """A matplotlib figure with `alt`: what it shows, from its own data, in words."""

    alt = ""

    def describe(self, title: str, alt: str) -> None:
        """Set the title, and the words that stand for the picture.

        Args:
            title: what the figure shows.
            alt: what a reader who does not see it should know; the title comes before it.
        """
        self.suptitle(without_math(title), fontsize=11 if is_wide() else 8.5, wrap=True)
        self.alt = " ".join(f"{title}. {alt}".split())

    def _ipython_display_(self) -> None:
        """Show the picture as HTML: of a plain PNG neither JupyterLab nor an export keeps the words."""
        from IPython.display import display

        wide, narrow = self.urls()
        page = f'<img alt="{escape(self.alt)}" src="{wide}" style="max-width: 100%">'
        if narrow != wide:
            page = f'<picture><source media="{PHONE}" srcset="{narrow}">{page}</picture>'
        display({"text/html": page, "text/plain": self.alt}, raw=True)

    def urls(self, **options: Any) -> tuple[str, str]:
        """PNGs as URLs that hold them: for a page, and for a phone, where plots that share no axis stand in one column.

        Args:
            **options: of matplotlib's `savefig`.
        """
        wide, axes, size = self._png(**options), self.axes, self.get_size_inches()
        if len(axes) < 2 or axes[0].get_shared_y_axes().joined(*axes[:2]):
            return wide, wide
        places: list[Any] = [axis.get_subplotspec() for axis in axes]
        column = self.add_gridspec(len(axes), 1)
        self.set_size_inches(3.6, 0.8 + len(axes) * (size[1] - 0.8) / places[0].get_gridspec().nrows)
        for i, axis in enumerate(axes):
            axis.set_subplotspec(column[i])
        narrow = self._png(**options)
        self.set_size_inches(*size)
        for axis, place in zip(axes, places, strict=True):
            axis.set_subplotspec(place)
        return wide, narrow

    def _png(self, **options: Any) -> str:
        file = io.BytesIO()
        self.savefig(file, format="png", **options)
        return data_url("image/png", file.getvalue())


@contextmanager
def style(width: float = WIDTH, dark: bool = False) -> Iterator[None]:
    """Within, figures are drawn at another width, or for a dark page.

    Args:
        width: inches: 3.4 is a column of a paper, 10 a notebook's page.
        dark: light lines on black.

    Example:
        >>> from svdlab import plots
        >>> with plots.style(width=3.4, dark=True):
        ...     figure = plots.waterfall(measured)
        >>> figure.savefig("ladder.png", dpi=300)
    """
    with plt.style.context([*["dark_background"] * dark, {"figure.figsize": (width, width)}]):
        yield


def colours() -> dict[str, str]:
    """The colours by name, as they are read best on the page that is drawn on now."""
    return _DARK if sum(to_rgb(matplotlib.rcParams["figure.facecolor"])) < 1.5 else _LIGHT


def is_wide() -> bool:
    """Whether there is room for two things beside each other: a page, not a column."""
    return page_width() > WIDTH / 2


def page_width() -> float:
    """The width in inches that figures have now: `style`'s, or matplotlib's own setting where somebody changed it."""
    width = matplotlib.rcParams["figure.figsize"][0]
    return WIDTH if width == matplotlib.rcParamsDefault["figure.figsize"][0] else width


def without_math(text: str) -> str:
    """A text whose dollars are shown, where matplotlib would take what is between two of them for a formula."""
    return text.replace("$", r"\$")


def new_figure(lines: int, columns: int, height: float, width: float = WIDTH, **options: Any) -> tuple[Any, list[Any]]:
    """An empty figure and its axes, line by line.

    Args:
        lines: of axes.
        columns: of axes.
        height: inches.
        width: inches, at most those of the page.
        **options: of matplotlib's `subplots`.
    """
    width = min(width, page_width())
    figure = plt.figure(figsize=(width, height), layout="constrained", FigureClass=DescribedFigure)
    axes = list(figure.subplots(lines, columns, squeeze=False, **options).flat)
    for axis in axes:
        axis.xaxis.label.set_size(9 if is_wide() else 7)
        axis.yaxis.label.set_size(9 if is_wide() else 7)
        axis.tick_params(labelsize=8 if is_wide() else 6)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)  # a notebook would show it a second time
    return figure, axes
