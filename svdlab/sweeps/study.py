"""What a sweep says about one knob: the numbers at each of its values, and what they come to in words.

Everything starts from a table of rows (`rows_table`). `summary` gives medians, `findings` says whether a measure rises,
falls or wanders with the knob, by Spearman's rank correlation over all clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Fields of `Quality` that are worth a curve each -> what a reader calls them, with the unit.
MEASURES = {
    "motion_mean_px": "motion, mean of the picture (pixels a frame)",
    "motion_fast_px": "motion of the fastest 5 % (pixels a frame)",
    "camera_motion_px": "camera motion (pixels a frame)",
    "likeness_first_ssim": "likeness of the first frame (SSIM)",
    "likeness_mean_ssim": "likeness over the clip (SSIM)",
    "flicker_percent": "flicker (% of full scale)",
    "sharpness_relative": "sharpness (picture = 1)",
}
CLEAR_CORRELATION = 0.9  # rank correlation from which on a trend is called one
CLEAR_SHARE = 0.1  # of the middle value: a range under this share is called "hardly changes"


def rows_with_clips(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table that have a clip.

    Args:
        frame: from `rows_table`.

    Raises:
        ValueError: there is none; the sentence quotes the first failure.
    """
    done: Any = frame[frame["status"] == "done"] if len(frame) else frame
    if not len(done):
        reason = f": {frame['error'].tolist()[0]}" if len(frame) else ": the folder holds no rows; run a sweep into it"
        raise ValueError(f"There is no clip to study{reason}")
    return done


def complete_measures(frame: pd.DataFrame, knob: str, measures: Sequence[str] = tuple(MEASURES)) -> list[str]:
    """Those measures that have a number at every value of a knob.

    Camera motion, for one, is unknown where most of a picture moves by itself. None of them has a number where a sweep
    ran with `quality=False`.

    Args:
        frame: lines that have a clip.
        knob: a field that varies.
        measures: columns to choose from.
    """
    groups: Any = frame.groupby(knob)
    return [name for name in measures if name in frame and bool((groups[name].count() > 0).all())]


def summary(frame: pd.DataFrame, knob: str, measures: Sequence[str] = tuple(MEASURES)) -> pd.DataFrame:
    """One line for each value of a knob: the number of clips, the median of each measure, and seconds a clip.

    Args:
        frame: from `rows_table`.
        knob: a field that varies, such as "motion_bucket_id".
        measures: columns; those that lack a number at some value are left out.

    Raises:
        ValueError: there is no clip, or no such field.

    Example:
        >>> from svdlab import rows_table
        >>> summary(rows_table(rows), "motion_bucket_id")["clips"].to_dict()
        {30: 1, 220: 1}
    """
    done: Any = rows_with_clips(frame)
    if knob not in done:
        raise ValueError(f"The rows have no {knob!r}: expected a field of a request, such as motion_bucket_id.")
    groups: Any = done.groupby(knob, sort=True)
    table = groups[complete_measures(done, knob, measures)].median()
    table.insert(0, "clips", groups.size())
    table["seconds"] = groups[["sample_seconds", "decode_seconds"]].median().sum(axis=1)
    return table.round(4)


def findings(frame: pd.DataFrame, knob: str, measures: Sequence[str] = tuple(MEASURES)) -> str:
    """What the numbers say of this picture, in Markdown: a line for each measure, then what to choose between.

    Args:
        frame: from `rows_table`.
        knob: a field that varies, such as "motion_bucket_id".
        measures: columns; those that lack a number at some value are left out.

    Raises:
        ValueError: there is no clip, or no such field.

    Example:
        >>> from svdlab import rows_table
        >>> print(findings(rows_table(rows), "motion_bucket_id"))
        `motion_bucket_id` from 30 to 220, 2 clips:
        ...
    """
    table: Any = summary(frame, knob, measures)
    if len(table) < 2:
        return f"Only one value of `{knob}` was tried: give it two or more to compare."
    done: Any = rows_with_clips(frame)
    numeric = all(isinstance(value, (int, float)) for value in table.index)
    first, last = (f"{value:g}" if isinstance(value, float) else str(value) for value in table.index[[0, -1]])
    values = f"from {first} to {last}" if numeric else f"of {len(table)} kinds"
    lines = [f"`{knob}` {values}, {int(table['clips'].sum())} clips:", ""]
    names = table.columns.drop(["clips", "seconds"])
    for name in names:
        medians: Any = table[name]
        if numeric:
            course = _course(medians, done[[knob, name]].rank())
            text = f"{course}: {medians.iloc[0]:.3g} at {first}, {medians.iloc[-1]:.3g} at {last}"
        else:
            low, high = (f"{medians[value]:.3g} ({value})" for value in (medians.idxmin(), medians.idxmax()))
            text = f"ranges from {low} to {high}"
        lines.append(f"- **{MEASURES.get(name, name)}** {text}.")
    if not len(names):
        lines.append("No measure has a number at every value: run with quality=True to measure clips.")
    return "\n".join([*lines, "", _advice(table, knob)])


def _course(medians: Any, ranks: Any) -> str:
    """How the medians follow the knob, whose ranks over all clips stand in the first column."""
    trend: float = ranks.iloc[:, 0].corr(ranks.iloc[:, 1])
    if not medians.max() - medians.min() > CLEAR_SHARE * medians.abs().median():
        return "hardly changes"
    if abs(trend) >= CLEAR_CORRELATION:
        return f"{'rises' if trend > 0 else 'falls'} with it (rank correlation {trend:+.2f})"
    return f"does not follow it clearly (rank correlation {trend:+.2f})"


def _advice(table: Any, knob: str) -> str:
    """Where this picture moved most and where it stayed most alike, which is what one chooses between."""
    motion, likeness = "motion_mean_px", "likeness_mean_ssim"
    if motion not in table or likeness not in table:
        return ""
    most, alike = table[motion].idxmax(), table[likeness].idxmax()
    most_text, alike_text = (
        f"`{value}` ({table[motion][value]:.3g} pixels a frame, likeness {table[likeness][value]:.2f})"
        for value in (most, alike)
    )
    if most == alike:
        return f"**For this picture** {knob} {most_text} both moved most and stayed most like it: take that."
    choice = f"{most_text} moved most, and {alike_text} stayed most like it: choose between them."
    return f"**For this picture** {knob} {choice}"
