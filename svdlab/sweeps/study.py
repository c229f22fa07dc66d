"""What a sweep says of one knob: the numbers at each of its values, and what they come to in words.

Everything starts from a table of rows (`rows_table`). `summary` gives medians, `findings` says whether a measure rises,
falls or wanders with the knob, by Spearman's rank correlation over all clips.
"""

from __future__ import annotations

from collections.abc import Iterable
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
_CLEAR_CORRELATION = 0.9  # rank correlation from which on a trend is called one
_CLEAR_SHARE = 0.1  # of the middle value: a range under this share is called "hardly changes"


def rows_with_clips(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table that have a clip.

    Args:
        frame: from `rows_table`.

    Raises:
        ValueError: there is none; the sentence quotes the first failure.
    """
    done: Any = frame[frame["status"] == "done"] if len(frame) else frame
    if not len(done):
        reason = frame["error"].tolist()[0] if len(frame) else "the folder holds no rows; run a sweep into it"
        raise ValueError(f"There is no clip to study: {reason}")
    return done


def complete_measures(frame: pd.DataFrame, knob: str, measures: Iterable[str] = MEASURES) -> list[str]:
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


def summary(frame: pd.DataFrame, knob: str) -> pd.DataFrame:
    """One line for each value of a knob: the number of clips, the median of each measure, and seconds a clip.

    Args:
        frame: from `rows_table`.
        knob: a field that varies, such as "motion_bucket_id".

    Raises:
        ValueError: there is no clip, or no such field.

    Example:
        >>> from svdlab import rows_table
        >>> summary(rows_table(rows), "motion_bucket_id")["clips"].to_dict()
        {30: 1, 220: 1}
    """
    done = rows_with_clips(frame)
    if knob not in done:
        raise ValueError(f"The rows have no {knob!r}: expected a field of a request, such as motion_bucket_id.")
    groups: Any = done.groupby(knob)
    table = groups[complete_measures(done, knob)].median()
    table.insert(0, "clips", groups.size())
    table["seconds"] = groups[["sample_seconds", "decode_seconds"]].median().sum(axis=1)
    return table.round(4)


def findings(frame: pd.DataFrame, knob: str) -> str:
    """What the numbers say of this picture, in Markdown: a line for each measure, then what to choose between.

    Args:
        frame: from `rows_table`.
        knob: a field that varies, such as "motion_bucket_id".

    Raises:
        ValueError: there is no clip, or no such field.

    Example:
        >>> from svdlab import rows_table
        >>> print(findings(rows_table(rows), "motion_bucket_id"))
        `motion_bucket_id` from 30 to 220, 2 clips:
        ...
    """
    table: Any = summary(frame, knob)
    if len(table) < 2:
        return f"Only one value of `{knob}` was tried: give it two or more to compare."
    done: Any = rows_with_clips(frame)
    numeric = all(isinstance(value, (int, float)) for value in table.index)
    first, last = (f"{value:g}" if isinstance(value, float) else str(value) for value in table.index[[0, -1]])
    values = f"from {first} to {last}" if numeric else f"of {len(table)} kinds"
    lines = [f"`{knob}` {values}, {int(table['clips'].sum())} clips:", ""]
    measures = table.drop(columns=["clips", "seconds"])
    for name, medians in measures.items():
        if numeric:
            course = _course(medians, done[knob].rank().corr(done[name].rank()))
            text = f"{course}: {medians.iloc[0]:.3g} at {first}, {medians.iloc[-1]:.3g} at {last}"
        else:
            low, high = (f"{medians[value]:.3g} ({value})" for value in (medians.idxmin(), medians.idxmax()))
            text = f"ranges from {low} to {high}"
        lines.append(f"- **{MEASURES[name]}** {text}.")
    if measures.empty:
        lines.append("No measure has a number at every value: run with quality=True to measure clips.")
    return "\n".join([*lines, "", _advice(table, knob)])


def _course(medians: pd.Series, correlation: float) -> str:
    if not medians.max() - medians.min() > _CLEAR_SHARE * medians.abs().median():
        return "hardly changes"
    verb = "does not follow it clearly"
    if abs(correlation) >= _CLEAR_CORRELATION:
        verb = f"{'rises' if correlation > 0 else 'falls'} with it"
    return f"{verb} (rank correlation {correlation:+.2f})"


def _advice(table: Any, knob: str) -> str:
    """Where this picture moved most and where it stayed most alike, which is what one chooses between."""
    motion, likeness = "motion_mean_px", "likeness_mean_ssim"
    if motion not in table or likeness not in table:
        return ""
    most, alike = (
        f"`{value}` ({table[motion][value]:.3g} pixels a frame, likeness {table[likeness][value]:.2f})"
        for value in (table[motion].idxmax(), table[likeness].idxmax())
    )
    if most == alike:
        return f"**For this picture** {knob} {most} both moved most and stayed most like it: take that."
    choice = f"{most} moved most, and {alike} stayed most like it: choose between them."
    return f"**For this picture** {knob} {choice}"
