"""Figures of a sweep and of a measured ladder, with matplotlib. Memory is in GiB (2**30 bytes), time in seconds.

A notebook shows the figure that a cell ends with; `figure.savefig("name.png")` writes it. `curves` draws what one knob
does to a clip. `waterfall`, `pareto` and `predicted` compare the rungs of a ladder. `stages` shows where memory and
time go, and `timeline` what one measured setup held from moment to moment.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svdlab.prediction.estimate import Estimate, estimate
from svdlab.profiling.ladder import is_exact, measured_rungs
from svdlab.rows.measurement import Measurement
from svdlab.rows.row import Row
from svdlab.sweeps.study import MEASURES, complete_measures, rows_with_clips

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

GiB = 2**30
# Okabe and Ito's colours, which survive colour blindness: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STAGE_COLOURS = {"load": "0.5", "encode": YELLOW, "denoise": SKY, "decode": GREEN}


def curves(frame: pd.DataFrame, knob: str, measures: Sequence[str] | None = None, by: str | None = None) -> Figure:
    """What one knob does to a clip: a small plot for each measure, with the knob across.

    A dot is a clip, the line joins the medians, and the band reaches from the lowest to the highest clip.
    A measure that has no number at some value of the knob is left out.

    Args:
        frame: A table of rows, as `rows_table` returns it, at least one of them with a clip.
        knob: The column that goes across: a field of the request, such as "motion_bucket_id".
        measures: Columns of the table, a plot each. Default: all of `study.MEASURES`.
        by: A second knob, which gets a line for each of its values. Default: one line over all clips.

    Returns:
        The figure. If no measure is left, it holds a sentence that says so.

    Example:
        >>> from svdlab import rows_table
        >>> curves(rows_table(rows), "motion_bucket_id").axes[0].get_xlabel()
        'motion_bucket_id'
    """
    clips: Any = rows_with_clips(frame)
    names = complete_measures(clips, knob, measures or tuple(MEASURES))
    if not names:
        figure, [axis] = _new_figure(1, 1, 7, 1.2)
        axis.set_axis_off()
        reason = f"No measure has a number at every value of {knob}.\nrun(…, quality=True) measures clips."
        axis.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9)
        return figure
    columns = 3 if len(names) in (3, 5, 6) else min(4, len(names))
    lines = -(-len(names) // columns)
    figure, axes = _new_figure(lines, columns, 3.6 * columns, 2.7 * lines)
    groups = [(None, clips)] if by is None else list(clips.groupby(by))
    is_number = clips[knob].map(lambda value: isinstance(value, (int, float))).all()
    for axis, name in zip(axes, names, strict=False):
        for colour, (value, group) in zip(COLOURS * len(groups), groups, strict=False):
            spread = group.groupby(knob)[name].agg(["min", "median", "max"])
            across = spread.index if is_number else spread.index.astype(str)
            label = None if by is None else f"{by} {value:g}" if isinstance(value, float) else f"{by} {value}"
            axis.fill_between(across, spread["min"], spread["max"], color=colour, alpha=0.18, linewidth=0)
            axis.plot(across, spread["median"], color=colour, marker="o", markersize=4, label=label)
            dots = group[knob] if is_number else group[knob].astype(str)
            axis.plot(dots, group[name], ".", color=colour, alpha=0.45, markersize=3)
        axis.set_title(MEASURES.get(name, name), fontsize=9)
        axis.set_xlabel(knob)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    if by is not None:
        axes[0].legend(fontsize=8, frameon=False)
    return figure


def waterfall(rows: Sequence[Row]) -> Figure:
    """What each rung of a ladder gives: peak memory (GiB) on the left, time of a clip (seconds) on the right.

    A bar is a rung, the baseline on top. The coloured end of a bar is the difference from the rung above it: blue is
    less, orange is more.

    Args:
        rows: The rows of `profile`, in the order of the ladder, at least one of them measured to its end.

    Example:
        >>> [axis.get_xlabel() for axis in waterfall(measured).axes]
        ['GiB at the peak', 'seconds a clip']
    """
    rungs = measured_rungs(rows)
    figure, axes = _new_figure(1, 2, 9, 1.2 + 0.42 * len(rungs), sharey=True)
    series = {"GiB at the peak": [rung.peak_gib for rung in rungs], "seconds a clip": [rung.seconds for rung in rungs]}
    for axis, (unit, values) in zip(axes, series.items(), strict=True):
        for i, (before, value) in enumerate(zip([values[0], *values], values, strict=False)):
            axis.barh(i, min(value, before), color="0.8")
            axis.barh(i, abs(value - before), left=min(value, before), color=BLUE if value < before else ORANGE)
            percent = 100 * (value / before - 1)
            change = f"  {percent:+.0f} %" if i and abs(percent) >= 0.5 else ""
            axis.text(max(value, before), i, f" {value:.2f}{change}", va="center", fontsize=8)
        axis.set(xlim=(0, 1.32 * max(values)), xlabel=unit)
        axis.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(rungs)), _added_labels([rung.row for rung in rungs]))
    axes[0].invert_yaxis()
    return figure


def pareto(rows: Sequence[Row]) -> Figure:
    """Memory against time: the peak (GiB) across, the time of a clip (seconds) upwards, a numbered dot for each setup.

    The line joins the setups that no other setup beats in both. A hollow dot is a setup that changes the frames.

    Args:
        rows: The rows of `profile`, the baseline first, at least one of them measured to its end.

    Example:
        >>> pareto(measured).axes[0].get_ylabel()
        'seconds a clip'
    """
    rungs = sorted(measured_rungs(rows), key=lambda rung: (rung.peak_gib, rung.seconds))
    front = [rung for i, rung in enumerate(rungs) if all(rung.seconds < other.seconds for other in rungs[:i])]
    figure, [axis] = _new_figure(1, 1, 7.5, 4.2)
    axis.step([r.peak_gib for r in front], [r.seconds for r in front], where="post", color=BLUE, alpha=0.5)
    for number, rung in enumerate(rungs, 1):
        place, fill = (rung.peak_gib, rung.seconds), BLUE if is_exact(rung.row, rows[0]) else "none"
        axis.plot(*place, "o", color=BLUE, markersize=7, markerfacecolor=fill)
        axis.annotate(str(number), place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    top = 1.15 * max(rung.seconds for rung in rungs)
    axis.set(xlabel="GiB at the peak", ylabel="seconds a clip", ylim=(0, top))
    axis.margins(x=0.1)
    labels = [f"{number}  {rung.row.setup.label}" for number, rung in enumerate(rungs, 1)]
    figure.legend([axis.plot([], [], " ")[0]] * len(labels), labels, loc="outside lower center", fontsize=8, ncols=2)
    return figure


def stages(things: Sequence[Row | Estimate]) -> Figure:
    """Where memory and time go: encode, denoise and decode of each setup.

    Of measured rows the left shows the peak of each stage (GiB) and the right its time (seconds). Of estimates the left
    shows weights (pale) and activations (GiB), and the right the operations (TFLOP, 1e12 floating-point operations).

    Args:
        things: Rows of `profile` or estimates, a group of bars each.

    Example:
        >>> [axis.get_xlabel() for axis in stages(measured).axes]
        ["GiB at the stage's peak", 'seconds a clip']
    """
    figure, (memory, time) = _new_figure(1, 2, 9, 1.4 + 0.55 * len(things), sharey=True)
    for i, thing in enumerate(things):
        left = 0.0
        for j, (stage, (weights, activations, length)) in enumerate(_stage_bars(thing).items()):
            place, colour = i + 0.26 * (j - 1), STAGE_COLOURS[stage]
            memory.barh(place, weights / GiB, 0.24, color=colour, alpha=0.45)
            memory.barh(place, activations / GiB, 0.24, left=weights / GiB, color=colour)
            time.barh(i, length, 0.6, left=left, color=colour, label=None if i else stage)
            left += length
    predicted = any(isinstance(thing, Estimate) for thing in things)
    memory.set_xlabel("GiB: weights (pale) and activations" if predicted else "GiB at the stage's peak")
    time.set_xlabel("TFLOP a clip" if predicted else "seconds a clip")
    memory.set_yticks(range(len(things)), [textwrap.fill(thing.setup.label, 36) for thing in things])
    memory.invert_yaxis()
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=3)
    return figure


def timeline(row: Row) -> Figure:
    """Memory (GiB, upwards) over time (seconds, across): while loading, in the first call, and in the next.

    The filled areas are the weights of each component, on the device that works. The shades are the stages.

    Args:
        row: A row of `measure` or `profile` that reached its first stage.

    Example:
        >>> timeline(measured[0]).axes[0].get_xlabel()
        'seconds'
    """
    measurement = row.measurement
    if measurement is None or not measurement.timeline.get("seconds"):
        raise ValueError(f"Nothing was measured over time: {row.error or 'the row holds no timeline.'}")
    points, on_card = measurement.timeline, "allocated_bytes" in measurement.timeline
    start, end = points["seconds"][0], points["seconds"][-1]
    figure, [axis] = _new_figure(1, 1, 9, 3.2)
    on_a_card = {"device_bytes": "on the card, everybody's", "allocated_bytes": "allocated"}
    kinds = on_a_card if on_card else {"process_bytes": "process"}
    for (kind, label), colour in zip(kinds.items(), (BLUE, ORANGE), strict=False):
        axis.plot([s - start for s in points["seconds"]], [n / GiB for n in points[kind]], color=colour, label=label)
    top = axis.get_ylim()[1]
    for stage in measurement.stages:
        if stage.stage != "prepare" and stage.call in (None, 0, 1) and stage.seconds:
            begun = stage.begun_seconds - start
            shade = STAGE_COLOURS.get(stage.stage, "none")
            axis.axvspan(begun, begun + stage.seconds, color=shade, alpha=0.18, linewidth=0)
            if stage.seconds > 0.04 * (end - start):  # else the name would not fit
                axis.text(begun + stage.seconds / 2, 1.02 * top, stage.stage, ha="center", fontsize=8)
    if changes := list[Any](measurement.resident):
        moments = [change["seconds"] - start for change in changes] + [end - start]
        components, device = [name for name in changes[0] if name != "seconds"], "cuda" if on_card else "cpu"
        sizes = [[change[name].get(device, 0) / GiB for change in (*changes, changes[-1])] for name in components]
        labels = [f"weights: {name}" for name in components]
        axis.stackplot(moments, sizes, step="post", colors=[BLUE, PINK, ORANGE], alpha=0.55, labels=labels)
    axis.set(xlabel="seconds", ylabel="GiB", ylim=(0, 1.1 * top))
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=5)
    return figure


def predicted(rows: Sequence[Row]) -> Figure:
    """Predicted and measured: the predicted peak (GiB) across, the measured one (GiB) upwards, a dot for each setup.

    On the line they agree. The grey band is ten percent to either side of it.

    Args:
        rows: The rows of `profile`, at least one of them measured to its end.

    Example:
        >>> predicted(measured).axes[0].get_xlabel()
        'GiB predicted'
    """
    pairs = [(estimate(r.row.setup, r.row.request).peak_bytes / GiB, r.peak_gib) for r in measured_rungs(rows)]
    figure, [axis] = _new_figure(1, 1, 4.6, 4.2)
    end = 1.15 * max(max(pair) for pair in pairs)
    axis.fill_between([0, end], [0, 0.9 * end], [0, 1.1 * end], color="0.9", linewidth=0)
    axis.plot([0, end], [0, end], color="0.5", linewidth=1)
    for pair in pairs:
        axis.plot(*pair, "o", color=BLUE)
    axis.set(xlabel="GiB predicted", ylabel="GiB measured", xlim=(0, end), ylim=(0, end))
    return figure


def _new_figure(lines: int, columns: int, width: float, height: float, sharey: bool = False) -> tuple[Figure, Any]:
    """A figure of this size in inches, and its axes line by line."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=sharey)
    for axis in axes.flat:
        axis.xaxis.label.set_size(9)
        axis.yaxis.label.set_size(9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)  # a notebook would show it a second time
    return figure, list(axes.flat)


def _added_labels(rows: Sequence[Row]) -> list[str]:
    """What each rung adds to the one before it; its whole label where it does not keep all of that one."""
    labels = []
    for before, row in zip([rows[0], *rows], rows, strict=False):
        old, parts = ((each.setup.dtype, *each.setup.optimizations) for each in (before, row))
        kept = set(before.setup.optimizations) <= set(row.setup.optimizations)
        new = [part for part in parts if part and part not in old]
        labels.append(f"+ {', '.join(new)}" if kept and new else row.setup.label)
    return labels


def _stage_bars(thing: Row | Estimate) -> dict[str, tuple[float, float, float]]:
    """For each stage the bytes of weights and of activations, and TFLOP; of a row 0, the peak, and seconds."""
    if isinstance(thing, Estimate):
        return {name: (s.weight_bytes, s.activation_bytes, s.flops / 1e12) for name, s in thing.stages.items()}
    measurement = thing.measurement or Measurement()
    encode, sample, decode = (
        seconds or 0 for seconds in (measurement.encode_seconds, measurement.sample_seconds, measurement.decode_seconds)
    )
    before, seconds = measurement.bytes_before_loading, {"encode": encode, "denoise": sample - encode, "decode": decode}
    peaks = {name: measurement.figures[f"{name}_peak_bytes"] or 0 for name in seconds}
    return {name: (0, max(peaks[name] - before, 0), seconds[name]) for name in seconds}
