"""What a sweep says about one knob: the numbers by its values, and what they come to in words.

>>> frame = rows_table(rows)
>>> study.summary(frame, "motion_bucket_id")
>>> print(study.findings(frame, "motion_bucket_id"))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# column -> what a reader calls it, with its unit: the columns of `svdlab.quality.assess.Quality` worth a curve each
MEASURES = {
    "motion_mean_px": "motion, mean of the picture (pixels a frame)",
    "motion_fast_px": "motion of the fastest 5 % (pixels a frame)",
    "camera_motion_px": "camera motion (pixels a frame)",
    "likeness_first_ssim": "likeness of the first frame (SSIM)",
    "likeness_mean_ssim": "likeness over the clip (SSIM)",
    "flicker_percent": "flicker (% of full scale)",
    "sharpness_relative": "sharpness (picture = 1)",
}
CLEAR = 0.9  # rank correlation from which on a trend is called one
WORTH = 0.1  # of the middle value: a range under this share is called "hardly changes"


def rows_with_clips(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a clip. A `ValueError` that quotes the first failure where there is none."""
    done: Any = frame[frame["status"] == "done"] if len(frame) else frame
    if not len(done):
        reason = f": {frame['error'].tolist()[0]}" if len(frame) else ": the folder holds no rows; run a sweep into it"
        raise ValueError(f"There is no clip to study{reason}")
    return done


def complete_measures(done: pd.DataFrame, knob: str, measures: Sequence[str]) -> list[str]:
    """Those of the measures that have a number at every value of the knob: the camera's motion, for one, cannot be told
    where most of the picture moves by itself."""
    values: Any = done.groupby(knob)
    return [name for name in measures if name in done and bool((values[name].count() > 0).all())]


def summary(frame: pd.DataFrame, knob: str, measures: Sequence[str] = tuple(MEASURES)) -> pd.DataFrame:
    """One line for each value of `knob`: how many clips, the median of each measure over them, and seconds a clip."""
    done: Any = rows_with_clips(frame)
    if knob not in done:
        raise ValueError(f"The rows have no {knob!r}: expected a field of a request, such as motion_bucket_id.")
    present = complete_measures(done, knob, measures)
    groups: Any = done.groupby(knob, sort=True)
    table = groups[present].median()
    table.insert(0, "clips", groups.size())
    table["seconds"] = groups[["sample_seconds", "decode_seconds"]].median().sum(axis=1)
    return table.round(4)


def findings(frame: pd.DataFrame, knob: str, measures: Sequence[str] = tuple(MEASURES)) -> str:
    """What the numbers say of this picture, a line of Markdown a measure: from where to where, and whether it rises,
    falls or wanders with the knob (Spearman's rank correlation over all clips)."""
    done: Any = rows_with_clips(frame)
    table: Any = summary(frame, knob, measures)
    if len(table) < 2:
        return f"Only one value of `{knob}` was tried: give it two or more to compare."
    numbers = all(isinstance(value, (int, float)) for value in table.index.tolist())
    values = f"from {_value(table, 0)} to {_value(table, -1)}" if numbers else f"of {len(table)} kinds"
    lines = [f"`{knob}` {values}, {int(table['clips'].sum())} clips:", ""]
    for name in table.columns.drop(["clips", "seconds"]):
        medians: Any = table[name]
        first, last = medians.iloc[0], medians.iloc[-1]
        spread, middle = medians.max() - medians.min(), medians.abs().median()
        if not numbers:
            least, most = medians.idxmin(), medians.idxmax()
            low, high = f"{medians.min():.3g} ({least})", f"{medians.max():.3g} ({most})"
            lines.append(f"- **{MEASURES.get(name, name)}** ranges from {low} to {high}.")
            continue
        ranks: Any = done[[knob, name]].rank()
        trend: float = ranks[knob].corr(ranks[name])
        if not spread > WORTH * middle:
            course = "hardly changes"
        elif abs(trend) >= CLEAR:
            course = f"{'rises' if trend > 0 else 'falls'} with it (rank correlation {trend:+.2f})"
        else:
            course = f"does not follow it clearly (rank correlation {trend:+.2f})"
        ends = f"{first:.3g} at {_value(table, 0)}, {last:.3g} at {_value(table, -1)}"
        lines.append(f"- **{MEASURES.get(name, name)}** {course}: {ends}.")
    return "\n".join([*lines, "", _advice(table, knob)])


def _advice(table: Any, knob: str) -> str:
    """Where this picture moved most and where it stayed most alike, which is what one chooses between."""
    motion, likeness = "motion_mean_px", "likeness_mean_ssim"
    if motion not in table or likeness not in table:
        return ""
    most, alike = table[motion].idxmax(), table[likeness].idxmax()
    said = [
        f"`{value}` ({table[motion][value]:.3g} pixels a frame, likeness {table[likeness][value]:.2f})"
        for value in (most, alike)
    ]
    if most == alike:
        return f"**For this picture** {knob} {said[0]} both moved most and stayed most like it: take that."
    return f"**For this picture** {knob} {said[0]} moved most, and {said[1]} stayed most like it: choose between them."


def _value(table: pd.DataFrame, place: int) -> str:
    value = table.index[place]
    return f"{value:g}" if isinstance(value, float) else str(value)
