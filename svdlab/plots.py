"""Figures of rows. Each function takes a table as `svdlab.results.load` gives it, and returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svdlab.study import MEASURES, made, told

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which survive colour blindness: https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def curves(frame: pd.DataFrame, knob: str, measures: Sequence[str] | None = None, by: str | None = None) -> Figure:
    """One small plot a measure against `knob`: a dot for each clip, a line through the medians, and a band from the
    lowest to the highest (over seeds and whatever else varied). Measures that could not be told are left out. `by`
    draws a line for each value of a second knob."""
    import matplotlib.pyplot as plt

    done: Any = made(frame)
    shown = told(done, knob, measures or tuple(MEASURES))
    columns = 3 if len(shown) in (3, 5, 6) else min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns, 2.7 * lines), squeeze=False, layout="constrained"
    )
    groups = [(None, done)] if by is None else list(done.groupby(by))
    numbers = done[knob].map(lambda value: isinstance(value, (int, float))).all()
    for axis, name in zip(axes.flat, shown, strict=False):
        for colour, (value, group) in zip(COLOURS * len(groups), groups, strict=False):
            spread = group.groupby(knob)[name].agg(["min", "median", "max"])
            across = spread.index if numbers else spread.index.astype(str)
            label = None if by is None else f"{by} {value:g}" if isinstance(value, float) else f"{by} {value}"
            axis.fill_between(across, spread["min"], spread["max"], color=colour, alpha=0.18, linewidth=0)
            axis.plot(across, spread["median"], color=colour, marker="o", markersize=4, label=label)
            dots = group[knob] if numbers else group[knob].astype(str)
            axis.plot(dots, group[name], ".", color=colour, alpha=0.45, markersize=3)
        axis.set_title(MEASURES.get(name, name), fontsize=9)
        axis.set_xlabel(knob, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    if by is not None:
        axes.flat[0].legend(fontsize=8, frameon=False)
    plt.close(figure)  # the caller shows it, once
    return figure
