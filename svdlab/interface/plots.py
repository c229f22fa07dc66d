"""Figures of rows. Each function takes a table of `rows.load`, and returns a matplotlib figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svdlab.prediction.estimate import Estimate, estimate
from svdlab.profiling import ladder as rungs
from svdlab.rows.measurement import Measurement
from svdlab.rows.row import Row
from svdlab.sweeps.study import MEASURES, complete_measures, rows_with_clips

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

    done: Any = rows_with_clips(frame)
    shown = complete_measures(done, knob, measures or tuple(MEASURES))
    if not shown:
        return _empty(
            f"Nothing to draw: no measure has a number at every value of {knob}.\nrun(…, quality=True) measures clips."
        )
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


def _empty(reason: str) -> Figure:
    """A figure that holds a sentence in place of curves."""
    figure, axes = _axes(1, 1, 7, 1.2)
    axes[0][0].set_axis_off()
    axes[0][0].text(0.5, 0.5, reason, ha="center", va="center", fontsize=9)
    return figure


# --- memory and speed: rows that `svdlab.profile` measured, and what `svdlab.estimate` predicts -----------------------


def _axes(lines: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(lines, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)
    for axis in axes.flat:
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)  # the caller shows it, once
    return figure, axes


def _measured(rows: Sequence[Row]) -> list[tuple[Row, float, float]]:
    """Rows that were done, with their peak in GiB and their seconds a clip."""
    done = [(row, peak / 2**30, seconds) for row, peak, seconds in rungs.measured(rows)]
    if not done:
        raise ValueError("No rung was measured: see the rows' errors.")
    return done


def _added(rows: Sequence[Row]) -> list[str]:
    """Labels of a ladder's rungs: what each adds to the one before, where it keeps all of that."""
    labels = []
    for before, row in zip([None, *rows], rows, strict=False):
        parts = [row.setup.dtype, *row.setup.optimizations]
        old = [before.setup.dtype, *before.setup.optimizations] if before else []
        kept = before is not None and len(set(old) - set(parts)) == (before.setup.dtype != row.setup.dtype)
        new = [part for part in parts if part and part not in old]
        labels.append(f"+ {', '.join(new)}" if kept and new else row.setup.label)
    return labels


def waterfall(rows: Sequence[Row]) -> Figure:
    """The ladder from top to bottom: peak memory and seconds a clip, with what each rung gave (blue) or cost (orange)
    against the one before as the coloured end of its bar."""
    done = _measured(rows)
    labels = _added([row for row, _, _ in done])
    figure, axes = _axes(1, 2, 9, 1.2 + 0.42 * len(done), sharey=True)
    for axis, place, unit in ((axes[0][0], 1, "GiB at the peak"), (axes[0][1], 2, "seconds a clip")):
        values: list[Any] = [each[place] for each in done]
        for i, (before, value) in enumerate(zip([values[0], *values], values, strict=False)):
            axis.barh(i, min(value, before), color="0.8")
            colour = COLOURS[0] if value < before else COLOURS[1]
            axis.barh(i, abs(value - before), left=min(value, before), color=colour)
            change = f"  {100 * (value / before - 1):+.0f} %" if i and abs(value / before - 1) >= 0.005 else ""
            axis.text(max(value, before), i, f" {value:.2f}{change}", va="center", fontsize=8)
        axis.set_xlim(0, 1.32 * max(values))
        axis.set_xlabel(unit, fontsize=9)
        axis.grid(axis="y", visible=False)
    axes[0][0].set_yticks(range(len(done)), labels)
    axes[0][0].invert_yaxis()
    return figure


def pareto(rows: Sequence[Row]) -> Figure:
    """Each setup by its peak memory and its seconds a clip; the line joins those that no other beats in both. Hollow
    ones change the picture."""
    done = sorted(_measured(rows), key=lambda each: each[1:])
    front = [each for i, each in enumerate(done) if all(each[2] < other[2] for other in done[:i])]
    figure, axes = _axes(1, 1, 7.5, 4.2)
    axis = axes[0][0]
    axis.step([p for _, p, _ in front], [s for _, _, s in front], where="post", color=COLOURS[0], alpha=0.5)
    numbers = []
    for number, (row, peak, seconds) in enumerate(done, 1):
        fill = COLOURS[0] if rungs.exact(row, rows[0]) else "none"
        axis.plot(peak, seconds, "o", color=COLOURS[0], markerfacecolor=fill, markersize=7)
        axis.annotate(str(number), (peak, seconds), xytext=(5, 5), textcoords="offset points", fontsize=8)
        numbers.append(f"{number}  {row.setup.label}")
    axis.set_xlabel("GiB at the peak", fontsize=9)
    axis.set_ylabel("seconds a clip", fontsize=9)
    axis.set_ylim(bottom=0, top=1.15 * max(seconds for _, _, seconds in done))
    axis.margins(x=0.1)
    figure.legend([axis.plot([], [], " ")[0]] * len(numbers), numbers, loc="outside lower center", fontsize=8, ncols=2)
    return figure


def stages(things: Sequence[Row | Estimate]) -> Figure:
    """Where memory and time go: encode, denoise and decode of each setup. Of rows, what was measured; of estimates,
    weights and activations, and their share of the operations."""
    names, colours = ("encode", "denoise", "decode"), COLOURS[:3]
    figure, axes = _axes(1, 2, 9, 1.4 + 0.55 * len(things), sharey=True)
    memory, time = axes[0]
    for i, thing in enumerate(things):
        left = 0.0
        for j, (stage, colour) in enumerate(zip(names, colours, strict=True)):
            place = i + 0.26 * (j - 1)
            if isinstance(thing, Estimate):
                found, gib = thing.stages[stage], 2**30
                memory.barh(place, found.weight_bytes / gib, 0.24, color=colour, alpha=0.45)
                memory.barh(place, found.activation_bytes / gib, 0.24, left=found.weight_bytes / gib, color=colour)
                length = found.flops / 1e12
            else:
                numbers = (thing.measurement or Measurement()).figures
                peak = (numbers[f"{stage}_peak_bytes"] or 0) - rungs.before_bytes(thing)
                memory.barh(place, max(peak, 0) / 2**30, 0.24, color=colour)
                sample = numbers["sample_seconds"] or 0
                length = (
                    numbers[f"{stage}_seconds"] if stage != "denoise" else sample - (numbers["encode_seconds"] or 0)
                )
            time.barh(i, length or 0, 0.6, left=left, color=colour, label=None if i else stage)
            left += length or 0
    predicted = any(isinstance(thing, Estimate) for thing in things)
    memory.set_xlabel("GiB: weights (pale) and activations" if predicted else "GiB at the stage's peak", fontsize=9)
    time.set_xlabel("TFLOP a clip" if predicted else "seconds a clip", fontsize=9)
    memory.set_yticks(range(len(things)), [textwrap.fill(thing.setup.label, 36) for thing in things])
    memory.invert_yaxis()
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=3)
    return figure


def timeline(row: Row) -> Figure:
    """Memory over time: while loading, in the first call, and in the next. Under it what lay on the device when."""
    measurement = row.measurement or Measurement()
    points = measurement.timeline
    if not points.get("seconds"):
        raise ValueError(f"Nothing was measured over time: {row.error or 'the row holds no timeline.'}")
    figure, axes = _axes(1, 1, 9, 3.2)
    axis, start = axes[0][0], points["seconds"][0]
    kinds = {"device_bytes": "on the card, everybody's", "allocated_bytes": "allocated", "process_bytes": "process"}
    for (kind, label), colour in zip(kinds.items(), COLOURS, strict=False):
        if kind in points and (kind != "process_bytes" or "allocated_bytes" not in points):
            axis.plot(
                [s - start for s in points["seconds"]], [n / 2**30 for n in points[kind]], color=colour, label=label
            )
    top = axis.get_ylim()[1]
    shades = {"load": "0.5", "encode": COLOURS[4], "denoise": COLOURS[5], "decode": COLOURS[2]}
    for stage in measurement.stages:
        if stage.stage != "prepare" and stage.call in (None, 0, 1) and stage.seconds:
            begun = stage.begun_seconds - start
            if shade := shades.get(stage.stage):
                axis.axvspan(begun, begun + stage.seconds, color=shade, alpha=0.18, linewidth=0)
            if stage.seconds > 0.04 * (points["seconds"][-1] - start):
                middle = begun + stage.seconds / 2
                axis.text(middle, 1.02 * top, stage.stage, ha="center", fontsize=8)
    changes: Any = measurement.resident
    if changes:  # how much of each component's weights lay where the work was done
        place = "cpu" if measurement.before.get("device_bytes") is None else "cuda"
        moments = [change["seconds"] - start for change in changes] + [points["seconds"][-1] - start]
        parts = [name for name in changes[0] if name != "seconds"]
        sizes = [[(c[part].get(place, 0)) / 2**30 for c in (*changes, changes[-1])] for part in parts]
        colours = [COLOURS[0], COLOURS[3], COLOURS[1]]
        axis.stackplot(moments, sizes, step="post", colors=colours, alpha=0.55, labels=[f"weights: {p}" for p in parts])
    axis.set_ylim(0, 1.1 * top)
    axis.set_xlabel("seconds", fontsize=9)
    axis.set_ylabel("GiB", fontsize=9)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=5)
    return figure


def predicted(rows: Sequence[Row]) -> Figure:
    """Each setup's peak as predicted and as measured. On the line they agree; the band is ten percent about it."""
    done = _measured(rows)
    figure, axes = _axes(1, 1, 4.6, 4.2)
    axis = axes[0][0]
    pairs = [(estimate(row.setup, row.request).peak_bytes / 2**30, peak) for row, peak, _ in done]
    end = 1.15 * max(max(pair) for pair in pairs)
    axis.fill_between([0, end], [0, 0.9 * end], [0, 1.1 * end], color="0.9", linewidth=0)
    axis.plot([0, end], [0, end], color="0.5", linewidth=1)
    for guess, peak in pairs:
        axis.plot(guess, peak, "o", color=COLOURS[0])
    axis.set_xlabel("GiB predicted", fontsize=9)
    axis.set_ylabel("GiB measured", fontsize=9)
    axis.set_xlim(0, end)
    axis.set_ylim(0, end)
    return figure
