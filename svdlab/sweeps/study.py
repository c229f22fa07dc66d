"""What a sweep says of one knob: the numbers at each of its values (`summary`), and in words (`findings`).

Both start from a table of rows (`rows_table`). `effect` tells a change from chance.
"""

from __future__ import annotations

import math
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
    """One line for each value of a knob: the number of clips, and over all of them the medians of measures and seconds.

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

    The numbers are medians over the seeds that have a clip at every value, or over all clips where there is no such
    seed. Clips of several pictures are taken together: each picture counts as a seed does, if the sweep varied `image`.
    For one picture, give its lines alone: `findings(frame[frame["image"] == "rocket"], knob)`.

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
        - **fastest 5 % (px a frame)** is 0... at 30 and 2... at 220.
        - **camera motion (px a frame)** is 0... at 30 and 0... at 220.
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
    if len(table) < 2:
        return f"Only one value of `{knob}` was tried: give it two or more to compare."
    first, last = (f"{value:g}" if isinstance(value, float) else str(value) for value in table.index[[0, -1]])
    values = f"from {first} to {last}" if is_numeric(lines, knob) else f"of {len(table)} kinds"
    effects = {name: effect(lines, knob, name) for name in names}
    repeated = repeated_axes(lines, knob)
    axes = ", ".join(f"{name}s" if name in _RANDOM else name for name in repeated)
    judged = [each.seeds for each in effects.values() if each.seeds > 1]
    axes += " that have every value" * any(seeds < lines.groupby(repeated).ngroups for seeds in judged)
    chance = f"± is the 95 % interval over {axes}" if is_numeric(lines, knob) else f"judged over {axes}"
    if knob == "seed" and not repeated:
        chance = "at the same settings, so what differs is chance"
    elif not repeated or (names and not judged):
        chance = "no two seeds at every value, so nothing tells a change from chance"
    texts = [f"`{knob}` {values}, {clips} clips ({chance}):", ""]
    for name in names:
        is_unjudged = bool(judged) and effects[name].seeds < 2
        remark = ", and too few clips have it to tell a change from chance" * is_unjudged
        texts.append(f"- **{MEASURES[name]}** {_course(effects[name], MEASURES[name])}{remark}.")
    if not names:
        texts.append(
            "No measure has a number at every value: run the sweep again with quality=True, which measures its clips."
        )
    if knob != "seed" and not _RANDOM & set(repeated):
        return "\n".join([*texts, "", _NO_SEEDS])
    return "\n".join([*texts, "", _advice(effects, knob)])


def _course(effect: Effect, measure: Measure) -> str:
    """The words for an effect, with two medians: at the ends of the knob, or without a trend the least and the most."""
    numeric, medians = effect.change is not None, list(effect.medians.items())
    if not numeric or effect.verdict == "differs":
        medians.sort(key=lambda item: item[1])
    numbers = " and ".join(f"{value:.3g} at {place}" for place, value in (medians[0], medians[-1]))
    if effect.seeds < 2:
        return f"is {numbers}"
    if effect.verdict in ("rises", "falls"):
        remark = "" if _is_visible(effect, measure) else ", hardly to be seen"
        change, margin = abs(effect.change or 0), effect.margin or 0
        exponents = [math.floor(math.log10(number)) for number in (change, margin or change)]
        digits = max(0, 1 - exponents[0], -exponents[1])  # two of the change, and one of the margin
        return f"{effect.verdict} by {change:.{digits}f} ± {margin:.{digits}f}{remark}: {numbers}"
    if effect.is_clear:
        return f"differs{', in no one direction' * numeric}: {numbers}"
    return f"shows no clear effect: {numbers}"


def _is_visible(effect: Effect, measure: Measure) -> bool:
    """Whether a change stands out from chance, and is large enough to tell two clips apart."""
    return effect.is_clear and (effect.change is None or abs(effect.change) >= measure.span / 10)


def _advice(effects: dict[str, Effect], knob: str) -> str:
    """Where this picture moved most and where it stayed most alike; nothing where neither change can be seen."""
    names = ("motion_mean_px", "likeness_mean_ssim")
    if not all(name in effects for name in names):
        return ""
    motion, likeness = (effects[name].medians for name in names)
    liveliest, closest = (
        f"`{value}` ({motion[value]:.3g} pixels a frame, likeness {likeness[value]:.2f})"
        for value in (max(motion, key=motion.__getitem__), max(likeness, key=likeness.__getitem__))
    )
    moves_most, stays_alike = f"{liveliest} moved most", f"{closest} stayed most like it"
    moves, changes = (_is_visible(effects[name], MEASURES[name]) for name in names)
    if knob == "seed":
        spans = [max(medians.values()) - min(medians.values()) for medians in (motion, likeness)]
        moves, changes = (span >= MEASURES[name].span / 10 for name, span in zip(names, spans, strict=True))
    elif any(effects[name].seeds < 2 for name in names):
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
