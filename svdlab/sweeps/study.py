"""What a sweep says of one knob: the numbers at each of its values (`summary`), and in words (`findings`).

Both start from a table of rows (`rows_table`). `effect` tells a change from chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdlab.sweeps.knob_effects import (
    MEASURES,
    Effect,
    Measure,
    complete_measures,
    effect,
    is_numeric,
    repeated_axes,
    rows_with_clips,
)

__all__ = ["MEASURES", "effect", "findings", "summary"]

if TYPE_CHECKING:
    import pandas as pd


_RANDOM = {"seed", "image"}  # the axes whose values are drawn, so that their spread is chance
_NO_SEEDS = "Nothing to choose by yet: add seeds to the sweep, three or more, and the clips made so far are kept."


def summary(frame: pd.DataFrame, knob: str) -> pd.DataFrame:
    """One line for each value of a knob: the number of clips, the median of each measure, and seconds a clip.

    Args:
        frame: from `rows_table`.
        knob: a field that varies, such as "motion_bucket_id".

    Returns:
        A table indexed by the knob's values. Its columns are `clips`, the measures by name and unit, such as
        "motion (px a frame)", and `seconds`.

    Raises:
        ValueError: there is no clip, or no such field.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import rows_table
        >>> summary(rows_table(rows), "motion_bucket_id")["clips"].to_dict()
        {30: 1, 220: 1}
    """
    lines: Any = rows_with_clips(frame)
    if knob not in lines:
        raise ValueError(f"The rows have no {knob!r}: expected a field of a request, such as motion_bucket_id.")
    groups = lines.groupby(knob)
    table = groups[complete_measures(lines, knob)].median().rename(columns=MEASURES).rename(columns=str)
    table.insert(0, "clips", groups.size())
    table["seconds"] = groups[["sample_seconds", "decode_seconds"]].median().sum(axis=1)
    return table.round(4)


def findings(frame: pd.DataFrame, knob: str) -> str:
    """What the numbers say of a knob, in Markdown: a line for each measure, then what to choose between.

    The numbers are medians over all clips of a value. Clips of several pictures are taken together: each picture counts
    as a seed does, if the sweep varied `image`. For one picture, give its lines alone:
    `findings(frame[frame["image"] == "rocket"], knob)`.

    Args:
        frame: from `rows_table`.
        knob: a column that varies: a field of the request, such as "motion_bucket_id", or of the setup, such as
            "dtype" or "optimizations".

    Raises:
        ValueError: there is no clip, or no such column.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`, where dots are digits:
        >>> from svdlab import rows_table
        >>> print(findings(rows_table(rows), "motion_bucket_id"))
        `motion_bucket_id` from 30 to 220, 2 clips (no two seeds at every value, so nothing tells a change from
        chance):
        - **motion (px a frame)** is 0... at 30 and 0... at 220.
        - **fastest 5 % (px a frame)** is 0... at 30 and 4... at 220.
        - **likeness, first frame (SSIM)** is 0... at 30 and 0... at 220.
        - **likeness (SSIM)** is 0... at 30 and 0... at 220.
        - **flicker (% of full scale)** is ... at 30 and 1... at 220.
        - **sharpness (picture = 1)** is 0... at 30 and 0... at 220.
        Nothing to choose by yet: add seeds to the sweep, three or more, and the clips made so far are kept.
    """
    table: Any = summary(frame, knob)
    clips = int(table["clips"].sum())
    lines: Any = rows_with_clips(frame)
    names = complete_measures(lines, knob)
    medians: Any = lines.groupby(knob)[names].median()
    if len(medians) < 2:
        return f"Only one value of `{knob}` was tried: give it two or more to compare."
    first, last = (f"{value:g}" if isinstance(value, float) else str(value) for value in medians.index[[0, -1]])
    values = f"from {first} to {last}" if is_numeric(lines, knob) else f"of {len(medians)} kinds"
    effects = {name: effect(lines, knob, name) for name in names}
    repeated = repeated_axes(lines, knob)
    axes = ", ".join(f"{name}s" if name in _RANDOM else name for name in repeated)
    chance = f"± is the 95 % interval over {axes}" if is_numeric(lines, knob) else f"judged over {axes}"
    if knob == "seed" and not repeated:
        chance = "at the same settings, so what differs is chance"
    elif not repeated or any(each.verdict == "one seed" for each in effects.values()):
        chance = "no two seeds at every value, so nothing tells a change from chance"
    texts = [f"`{knob}` {values}, {clips} clips ({chance}):", ""]
    texts += [f"- **{MEASURES[name]}** {_course(effects[name], MEASURES[name], medians[name])}." for name in names]
    if not names:
        texts.append("No measure has a number at every value: run with quality=True to measure clips.")
    if knob != "seed" and not _RANDOM & set(repeated):
        return "\n".join([*texts, "", _NO_SEEDS])
    return "\n".join([*texts, "", _advice(effects, medians, knob)])


def _course(effect: Effect, measure: Measure, medians: pd.Series) -> str:
    """The words for an effect, with two medians: at the ends of the knob, or without a trend the least and the most."""
    numeric = effect.change is not None
    ends = medians.iloc[[0, -1]] if numeric and effect.verdict != "differs" else medians.sort_values().iloc[[0, -1]]
    numbers = " and ".join(f"{value:.3g} at {place}" for place, value in ends.items())
    if effect.verdict == "one seed":
        return f"is {numbers}"
    if effect.verdict in ("rises", "falls"):
        remark = "" if _is_visible(effect, measure) else ", hardly to be seen"
        change, margin = abs(effect.change or 0), round(effect.margin or 0, 6)  # equal trends leave 1e-16
        return f"{effect.verdict} by {change:.2g} ± {margin:.1g}{remark}: {numbers}"
    if effect.is_clear:
        return f"differs{', in no one direction' * numeric}: {numbers}"
    return f"shows no clear effect: {numbers}"


def _is_visible(effect: Effect, measure: Measure) -> bool:
    """Whether a change stands out from chance, and is large enough to tell two clips apart."""
    return effect.is_clear and (effect.change is None or abs(effect.change) >= measure.span / 10)


def _advice(effects: dict[str, Effect], medians: Any, knob: str) -> str:
    """Where this picture moved most and where it stayed most alike; nothing where neither change can be seen."""
    motion, likeness = "motion_mean_px", "likeness_mean_ssim"
    if motion not in effects or likeness not in effects:
        return ""
    liveliest, closest = (
        f"`{value}` ({medians[motion][value]:.3g} pixels a frame, likeness {medians[likeness][value]:.2f})"
        for value in (medians[motion].idxmax(), medians[likeness].idxmax())
    )
    moves_most, stays_alike = f"{liveliest} moved most", f"{closest} stayed most like it"
    moves, changes = (_is_visible(effects[name], MEASURES[name]) for name in (motion, likeness))
    if knob == "seed":
        spans = medians.max() - medians.min()
        moves, changes = (spans[name] >= MEASURES[name].span / 10 for name in (motion, likeness))
    elif effects[motion].verdict == "one seed":
        return _NO_SEEDS
    if not (moves or changes):
        return "Nothing to choose by: neither motion nor likeness changes enough to be seen."
    if not changes:
        choice = f"{moves_most}, and likeness hardly changes"
    elif not moves:
        choice = f"{stays_alike}, and motion hardly changes"
    elif liveliest == closest:
        choice = f"{liveliest} both moved most and stayed most like it: take that"
    else:
        choice = f"{moves_most}, and {stays_alike}: choose between them"
    return f"**For this picture** {knob} {choice}."
