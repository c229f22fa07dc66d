"""Figures of a sweep: what one knob does to a clip, measure by measure.

They are drawn from a table of rows (`rows_table`). The verdict above each plot is that of `knob_effects`, which judges
a change against the scatter over seeds.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from svdlab.interface.plots.figure_style import DescribedFigure, colours, is_wide, new_figure, page_width, without_math
from svdlab.interface.row_labels import distinct_texts
from svdlab.sweeps.knob_effects import MEASURES, complete_measures, effect, is_numeric, rows_with_clips

if TYPE_CHECKING:
    import pandas as pd


def curves(
    frame: pd.DataFrame, knob: str, measures: Sequence[str] | None = None, by: str | None = None
) -> DescribedFigure:
    """What one knob does to a clip: a small plot for each measure, with the knob across.

    A dot is a clip, and the band reaches from the lowest to the highest. The line joins the medians that
    `study.findings` gives, with its verdict above. Likeness has one scale in all plots, and all else begins at zero.
    A measure is not plotted if it has no number at some value of the knob, or is no column of the table.

    Args:
        frame: A table of rows, as `rows_table` returns it, at least one of them with a clip.
        knob: The column that goes across: of the request, as "motion_bucket_id", or of the setup, as "dtype".
        measures: Columns of the table, a plot each. Default: all of `study.MEASURES`.
        by: A second such column, which gets a line for each of its values. Default: one line over all clips.

    Returns:
        The figure. If no measure is left, it holds a sentence that says so.

    Raises:
        ValueError: No row has a clip.
        KeyError: `knob` or `by` is no column of the table.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import rows_table
        >>> curves(rows_table(rows), "motion_bucket_id").axes[0].get_xlabel()
        'motion_bucket_id'
    """
    clips: Any = rows_with_clips(frame)
    names = complete_measures(clips, knob, measures or tuple(MEASURES))
    title = f"What {knob} does to a clip{_setting(clips, knob)}"
    if not names:
        figure, [axis] = new_figure(1, 1, 1.2, 7)
        axis.set_axis_off()
        reason = f"No measure has a number at every value of {knob}.\nrun(…, quality=True) again measures its clips."
        axis.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9)
        figure.describe(title, reason)
        return figure
    columns = min(len(names), 2 if not is_wide() else 3 if len(names) in (3, 5, 6) else 4)
    lines = -(-len(names) // columns)
    texts = distinct_texts(clips.groupby(knob).size().index)
    places, ticks, height = {value: value for value in texts}, dict[str, Any](), 0.0
    if not is_numeric(clips, knob):
        ticks, height = _word_ticks(texts.values(), page_width() / columns - 0.5)
        places = {value: place for place, value in enumerate(texts)}
    figure, axes = new_figure(lines, columns, 0.6 + (height + (2.2 if is_wide() else 1.6)) * lines)
    words = []
    for axis, name in zip(axes, names, strict=False):
        measure, change = MEASURES.get(name), effect(clips, knob, name)
        _draw_measure(axis, clips, knob, name, by, places, change.medians)
        axis.set_title(f"{measure or name}\n{change.verdict}", fontsize=9.5 if is_wide() else 7)
        axis.set_xlabel(knob)
        if ticks:
            axis.set_xticks(**ticks)
        on_one_scale = [each for each in names if "ssim" in each] if "ssim" in name else [name]
        _set_scale(axis, clips[on_one_scale], measure.span if measure else 0.0, from_zero="ssim" not in name)
        numbers = ", ".join(
            f"{change.medians[value]:.3g} at {texts[value]}" for value in list(texts)[:: len(texts) - 1 or 1]
        )
        words.append(f"{measure or name}: {change.verdict}, {numbers}.")
    for axis in axes[len(names) :]:
        axis.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=min(len(labels), 4))
    figure.describe(title, " ".join(words))
    return figure


def _draw_measure(
    axis: Any, clips: Any, knob: str, name: str, by: str | None, places: dict[Any, Any], medians: dict[Any, float]
) -> None:
    """A dot for each clip, a line of medians, and the band from the lowest to the highest; for each value of `by`."""
    groups = {"": clips} if by is None else dict(iter(clips.groupby(by)))
    palette, texts, small = list(colours().values())[:6], distinct_texts(groups), 7 if is_wide() else 5.5
    for colour, (value, group) in zip(palette * len(groups), groups.items(), strict=False):
        label, band, dot = "median", "lowest to highest clip", "one clip"
        if by is not None:
            medians = effect(group, knob, name).medians
            label, band, dot = without_math(textwrap.fill(f"{by} {texts[value]}", 30)), None, None
        across, line = group[knob].map(places), {places[each]: median for each, median in medians.items()}
        spread = group[name].groupby(across).agg(["min", "max"])
        axis.fill_between(spread.index, spread["min"], spread["max"], color=colour, alpha=0.3, linewidth=0, label=band)
        size = 4 if is_wide() else 2.5
        axis.plot(list(line), list(line.values()), color=colour, marker="o", markersize=size, label=label)
        axis.plot(across, group[name], ".", color=colour, alpha=0.5, markersize=3, label=dot)
        for place in (min(line), max(line)) if by is None else ():
            text, end = f"{line[place]:.3g}", (place, spread["max"][place])
            axis.annotate(text, end, (0, 4), textcoords="offset points", ha="center", fontsize=small)


def _word_ticks(texts: Collection[str], width: float) -> tuple[dict[str, Any], float]:
    """Words as `set_xticks` takes them, and the inches that they need below a plot of a width in inches.

    They stand on several lines, or upwards where many share the width.
    """
    size = (8 if is_wide() else 6) / 72
    letter, line = 0.6 * size, 1.25 * size
    letters = int(width / len(texts) / letter)
    upwards = letters < 9
    labels = [textwrap.fill(text, 20 if upwards else letters) for text in texts]
    lengths = [max(map(len, label.split("\n"))) * letter if upwards else label.count("\n") * line for label in labels]
    labels = list(map(without_math, labels))
    return {"ticks": range(len(labels)), "labels": labels, "rotation": 90 if upwards else 0}, max(lengths)


def _set_scale(axis: Any, values: Any, span: float, from_zero: bool) -> None:
    """Limits that hold all values and reach over `span` at least, with room for the numbers."""
    low, high = float(values.min().min()), float(values.max().max())
    low = min(low, 0) if from_zero else min(low, high - span)
    top = max(high, low + span)
    axis.set_ylim(low - 0.06 * (top - low) * bool(low), top + 0.16 * (top - low) or None)
    axis.margins(x=0.1)


def _setting(clips: Any, knob: str) -> str:
    """What the clips share, and how many they are: the end of a title."""
    shared = [
        distinct_texts([clips[name].iloc[0]])[clips[name].iloc[0]]
        for name in ("image", "variant")
        if name in clips and name != knob and clips[name].nunique() == 1
    ]
    seeds = f", {clips['seed'].nunique()} seeds" if "seed" in clips and clips["seed"].nunique() > 1 else ""
    return f" ({', '.join([*shared, f'{len(clips)} clips'])}{seeds})"
