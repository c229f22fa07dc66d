"""Figures of a measured ladder. Memory is in GiB (2**30 bytes), time in seconds.

`waterfall`, `pareto` and `predicted` compare its rungs. `stages` shows where memory and time go, also of estimates, and
`timeline` what one measured setup held from moment to moment.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from svdlab.interface.plots.figure_style import DescribedFigure, colours, is_wide, new_figure
from svdlab.prediction.estimate import Estimate, estimate_if_readable
from svdlab.profiling.ladder import is_exact, measured_machine, measured_rungs, rung_labels
from svdlab.rows.row import Row

GiB = 2**30
_STAGES = {"load": "grey", "encode": "yellow", "denoise": "sky", "decode": "green"}  # and their colours


def waterfall(rows: Sequence[Row]) -> DescribedFigure:
    """What each rung of a ladder gives: peak memory (GiB) on the left, time of a clip (seconds) on the right.

    A bar is a rung, the baseline on top. The coloured end of a bar is the difference from the rung above it: blue is
    less, orange is more. The thin line reaches from the fastest clip to the slowest.

    Args:
        rows: The rows of `profile`, in the order of the ladder, at least one of them measured to its end.

    Example:
        >>> [axis.get_xlabel() for axis in waterfall(measured).axes]  # measured = profile(ladder(...), folder)
        ['GiB at the peak', 'seconds a clip']
    """
    rungs = measured_rungs(rows)
    figure, axes = new_figure(1, 2, 1.6 + 0.42 * len(rungs), sharey=True)
    colour, wide = colours(), is_wide()
    series = {"GiB at the peak": [rung.peak_gib for rung in rungs], "seconds a clip": [rung.seconds for rung in rungs]}
    for axis, (unit, values) in zip(axes, series.items(), strict=True):
        for i, (previous, value) in enumerate(zip([values[0], *values], values, strict=False)):
            hue = colour["blue" if value < previous else "orange"]
            axis.barh(i, min(value, previous), color=colour["pale"])
            axis.barh(i, abs(value - previous), left=min(value, previous), color=hue)
            percent = 100 * (value / previous - 1)
            same = axis is axes[1] and not rungs[i].differs(rungs[max(i - 1, 0)])
            change = f"  {percent:+.0f} %" if i and abs(percent) >= 0.5 and not same else ""
            axis.text(max(value, previous), i, f" {value:.2f}{change}", va="center", fontsize=8 if wide else 6)
        axis.set(xlim=(0, (1.32 if wide else 2) * max(values)), xlabel=unit)
        axis.grid(axis="y", visible=False)
    for i, rung in enumerate(rungs):
        spread = [rung.fastest_seconds, rung.slowest_seconds]
        axes[1].plot(spread, [i + 0.3] * 2, "|-", color=colour["grey"], linewidth=1, markersize=5)
    labels = rung_labels([rung.row for rung in rungs])
    axes[0].set_yticks(range(len(rungs)), [textwrap.fill(label, 26 if wide else 16) for label in labels])
    axes[0].invert_yaxis()
    _legend(figure, {"less than the rung above": "blue", "more": "orange", "unchanged": "pale"})
    pairs = zip(labels, rungs, strict=True)
    words = [f"{label}: {rung.peak_gib:.2f} GiB, {rung.seconds:.2f} s." for label, rung in pairs]
    figure.describe(f"What each rung gives or costs{_where(rows)}", " ".join(words))
    return figure


def pareto(rows: Sequence[Row]) -> DescribedFigure:
    """Memory against time: the peak (GiB) across, the time of a clip (seconds) upwards, a numbered dot for each setup.

    The line joins the setups that no other setup beats in both. A hollow dot is a setup that changes the frames.

    Args:
        rows: The rows of `profile`, the baseline first, at least one of them measured to its end.

    Example:
        >>> pareto(measured).axes[0].get_ylabel()  # measured = profile(ladder(...), folder)
        'seconds a clip'
    """
    rungs = sorted(measured_rungs(rows), key=lambda rung: (rung.peak_gib, rung.seconds))
    front = [rung for i, rung in enumerate(rungs) if all(rung.seconds < other.seconds for other in rungs[:i])]
    figure, [axis] = new_figure(1, 1, 4.2 + 0.1 * len(rungs), 7.5)
    blue, best = colours()["blue"], "no other setup beats these in both"
    axis.step([r.peak_gib for r in front], [r.seconds for r in front], where="post", color=blue, alpha=0.5, label=best)
    for number, rung in enumerate(rungs, 1):
        place, fill = (rung.peak_gib, rung.seconds), blue if is_exact(rung.row, rows[0]) else "none"
        axis.plot(*place, "o", color=blue, markersize=7, markerfacecolor=fill)
        axis.annotate(str(number), place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    top = 1.15 * max(rung.seconds for rung in rungs)
    axis.set(xlabel="GiB at the peak", ylabel="seconds a clip", ylim=(0, top))
    axis.margins(x=0.1)
    if len(front) > 1:
        axis.legend(fontsize=8, frameon=False, loc="lower left")
    names = [f"{number}  {rung.row.setup.label}" for number, rung in enumerate(rungs, 1)]
    labels = [textwrap.fill(name, 48, subsequent_indent="    ") for name in names]
    invisible = [axis.plot([], [], " ")[0]] * len(labels)
    columns = 2 if is_wide() else 1
    figure.legend(
        invisible, labels, loc="outside lower center", fontsize=7, ncols=columns, frameon=False, handlelength=0
    )
    words = [f"{name}: {rung.peak_gib:.2f} GiB, {rung.seconds:.2f} s." for name, rung in zip(names, rungs, strict=True)]
    figure.describe(f"Memory against time{_where(rows)} (hollow: other frames)", " ".join(words))
    return figure


def stages(things: Sequence[Row | Estimate]) -> DescribedFigure:
    """Where memory and time go: encode, denoise and decode of each setup.

    Of measured rows the left shows the peak of each stage (GiB) and the right its time (seconds). Of estimates the left
    shows weights (pale) and activations (GiB), and the right the operations (TFLOP, 1e12 floating-point operations).

    Args:
        things: Rows of `profile` or estimates, a group of bars each; none for a row that was not measured.

    Raises:
        ValueError: None was measured or predicted.

    Example:
        >>> [axis.get_xlabel() for axis in stages(measured).axes]  # measured = profile(ladder(...), folder)
        ["GiB at the stage's peak", 'seconds a clip']
    """
    if not any(isinstance(thing, Estimate) or thing.measurement for thing in things):
        raise ValueError("Nothing was measured or predicted: give rows of `profile`, or estimates.")
    labels = rung_labels(things)
    wide = is_wide()
    labels = [textwrap.fill(label, 30 if wide else 16) for label in labels]
    rows = max(2, *(label.count("\n") for label in labels))
    figure, (memory, time) = new_figure(1, 2, 1.4 + (0.15 + 0.15 * rows) * len(things), sharey=True)
    words, palette = [], colours()
    for i, thing in enumerate(things):
        left, bars = 0.0, _stage_bars(thing)
        peaks = ", ".join(f"{stage} {(held + live) / GiB:.2f}" for stage, (held, live, _) in bars.items())
        words.append(f"{thing.setup.label}: {peaks} GiB." if bars else f"{thing.setup.label}: not measured.")
        for j, (stage, (weights, activations, length)) in enumerate(bars.items()):
            place, colour = i + 0.26 * (j - 1), palette[_STAGES[stage]]
            memory.barh(place, weights / GiB, 0.24, color=colour, alpha=0.45)
            memory.barh(place, activations / GiB, 0.24, left=weights / GiB, color=colour)
            time.barh(i, length, 0.6, left=left, color=colour, label=None if i else stage)
            left += length
    predicted = any(isinstance(thing, Estimate) for thing in things)
    memory.set_xlabel("GiB: weights (pale) and activations" if predicted else "GiB at the stage's peak")
    time.set_xlabel("TFLOP a clip" if predicted else "seconds a clip")
    memory.set_yticks(range(len(things)), labels)
    memory.invert_yaxis()
    _legend(figure, {name: colour for name, colour in _STAGES.items() if name != "load"})
    models = ", ".join(dict.fromkeys(thing.setup.variant for thing in things))
    what = "predicted" if predicted else "measured"
    figure.describe(f"Where memory and time go, stage by stage ({models}, {what})", " ".join(words))
    return figure


def timeline(row: Row) -> DescribedFigure:
    """Memory (GiB, upwards) over time (seconds, across): while loading, in the first call, and in the next.

    The filled areas are the weights of each component, on the device that works. The shades are the stages.

    Args:
        row: A row of `measure` or `profile` that reached its first stage.

    Example:
        >>> timeline(measured[0]).axes[0].get_xlabel()  # measured = profile(ladder(...), folder)
        'seconds'
    """
    measurement = row.measurement
    if measurement is None or not measurement.timeline.get("seconds"):
        raise ValueError(f"Nothing was measured over time: {row.error or 'the row holds no timeline.'}")
    points, on_card = measurement.timeline, "allocated_bytes" in measurement.timeline
    start, end = points["seconds"][0], points["seconds"][-1]
    figure, [axis] = new_figure(1, 1, 3.4)
    palette = colours()
    on_a_card = {"device_bytes": "on the card, everybody's", "allocated_bytes": "allocated"}
    kinds = on_a_card if on_card else {"process_bytes": "process"}
    for (kind, label), colour in zip(kinds.items(), ("blue", "orange"), strict=False):
        line = [n / GiB for n in points[kind]]
        axis.plot([s - start for s in points["seconds"]], line, color=palette[colour], label=label)
    top = axis.get_ylim()[1]
    for stage in measurement.stages:
        if stage.stage != "prepare" and stage.call in (None, 0, 1) and stage.seconds:
            begun = stage.begun_seconds - start
            shade = palette.get(_STAGES.get(stage.stage, ""), "none")
            axis.axvspan(begun, begun + stage.seconds, color=shade, alpha=0.18, linewidth=0)
            if stage.seconds > 0.04 * (end - start):  # else the name would not fit
                axis.text(begun + stage.seconds / 2, 1.02 * top, stage.stage, ha="center", fontsize=8)
    if changes := list[Any](measurement.resident):
        moments = [change["seconds"] - start for change in changes] + [end - start]
        components, device = [name for name in changes[0] if name != "seconds"], "cuda" if on_card else "cpu"
        sizes = [[change[name].get(device, 0) / GiB for change in (*changes, changes[-1])] for name in components]
        labels = [f"weights: {name}" for name in components]
        fills = [palette[name] for name in ("blue", "pink", "orange")]
        axis.stackplot(moments, sizes, step="post", colors=fills, alpha=0.55, labels=labels)
    axis.set(xlabel="seconds", ylabel="GiB", ylim=(0, 1.1 * top))
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=5 if is_wide() else 2)
    highest = max(points[next(iter(kinds))]) / GiB
    alt = f"It rises to {highest:.2f} GiB in {end - start:.0f} seconds, loading included."
    figure.describe(f"What {row.setup.variant} holds over time ({row.setup.label}){_where([row])}", alt)
    return figure


def predicted(rows: Sequence[Row]) -> DescribedFigure:
    """Predicted and measured: the predicted peak (GiB) across, the measured one (GiB) upwards, a dot for each setup.

    On the line they agree. The grey band is ten percent to either side of it. A rung whose weights have moved has no
    dot.

    Args:
        rows: The rows of `profile`, at least one of them measured to its end.

    Raises:
        ValueError: None was measured, or none can be predicted.

    Example:
        >>> predicted(measured).axes[0].get_xlabel()  # measured = profile(ladder(...), folder)
        'GiB predicted'
    """
    pairs = {
        number: (prediction.peak_bytes / GiB, rung.peak_gib)
        for number, rung in enumerate(measured_rungs(rows), 1)
        if (prediction := estimate_if_readable(rung.row.setup, rung.row.request))
    }
    if not pairs:
        raise ValueError("No rung can be predicted: bring the weights back to where the rows say that they are.")
    figure, [axis] = new_figure(1, 1, 4.4, 5.2)
    colour = colours()
    end = 1.15 * max(map(max, pairs.values()))
    axis.fill_between(
        [0, end], [0, 0.9 * end], [0, 1.1 * end], color=colour["pale"], alpha=0.6, linewidth=0, label="10 %"
    )
    axis.plot([0, end], [0, end], color=colour["grey"], linewidth=1, label="as predicted")
    for number, pair in pairs.items():
        axis.plot(*pair, "o", color=colour["blue"])
        axis.annotate(str(number), pair, (5, 4), textcoords="offset points", fontsize=8)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    axis.set(xlabel="GiB predicted", ylabel="GiB measured", xlim=(0, end), ylim=(0, end))
    words = [f"Rung {number}: {one:.2f} GiB predicted, {other:.2f} measured." for number, (one, other) in pairs.items()]
    figure.describe(f"Predicted and measured peaks, by rung{_where(rows)}", " ".join(words))
    return figure


def _legend(figure: DescribedFigure, names: dict[str, str]) -> None:
    """What the colours of the bars mean, below the figure."""
    from matplotlib.patches import Patch

    patches = [Patch(color=colours()[colour], label=name) for name, colour in names.items()]
    figure.legend(handles=patches, fontsize=8, frameon=False, loc="outside lower center", ncols=3 if is_wide() else 1)


def _where(rows: Sequence[Row]) -> str:
    """The machine on which rows were measured: the end of a title."""
    names = dict.fromkeys(machine.name for row in rows if (machine := measured_machine(row)))
    return f", measured on {', '.join(names)}" if names else ""


def _stage_bars(thing: Row | Estimate) -> dict[str, tuple[float, float, float]]:
    """For each stage the bytes of weights and of activations, and TFLOP; of a row 0, the peak, and seconds, if any."""
    if isinstance(thing, Estimate):
        return {name: (s.weight_bytes, s.activation_bytes, s.flops / 1e12) for name, s in thing.stages.items()}
    if not (measurement := thing.measurement):
        return {}
    encode, sample, decode = (
        seconds or 0 for seconds in (measurement.encode_seconds, measurement.sample_seconds, measurement.decode_seconds)
    )
    before, seconds = measurement.bytes_before_loading, {"encode": encode, "denoise": sample - encode, "decode": decode}
    peaks = {name: measurement.figures[f"{name}_peak_bytes"] or 0 for name in seconds}
    return {name: (0, max(peaks[name] - before, 0), seconds[name]) for name in seconds}
