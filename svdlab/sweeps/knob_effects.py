"""What a knob does to a measure of the clips, judged against the scatter over seeds.

Everything starts from a table of rows (`rows_table`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Measure:
    """A field of `Quality` as a reader meets it: `str` gives name and unit.

    Attributes:
        name: in words.
        unit: of its values.
        span: the least that an axis shows of it, in its unit: a tenth of that can hardly be seen in a clip.
    """

    name: str
    unit: str
    span: float

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})"


MEASURES = {
    "motion_mean_px": Measure("motion", "px a frame", 0.5),
    "motion_fast_px": Measure("fastest 5 %", "px a frame", 0.5),
    "camera_motion_px": Measure("camera motion", "px a frame", 0.5),
    "likeness_first_ssim": Measure("likeness, first frame", "SSIM", 0.1),
    "likeness_mean_ssim": Measure("likeness", "SSIM", 0.1),
    "flicker_percent": Measure("flicker", "% of full scale", 0.5),
    "sharpness_relative": Measure("sharpness", "picture = 1", 0.5),
}


@dataclass(frozen=True)
class Effect:
    """What a knob does to one measure.

    Attributes:
        verdict: "rises", "falls", "differs" (in no one direction), "no clear effect", "one seed", or "too few clips" of
            several seeds.
        change: From the knob's first value to its last, in the measure's unit, by a line through all of them. None for
            a knob of words.
        margin: How far off the change may be, either way, with 95 % confidence. None for less than two seeds.
        seeds: How many have a clip at every value; other knobs of the sweep count as seeds do.
        medians: The measure at each value of the knob, over these seeds; over all clips where there is no such seed.
    """

    verdict: str
    change: float | None
    margin: float | None
    seeds: int
    medians: dict[Any, float]

    @property
    def is_clear(self) -> bool:
        """Whether the change stands out from the spread over seeds."""
        return self.verdict in ("rises", "falls", "differs")


def rows_with_clips(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table that have a clip.

    Args:
        frame: from `rows_table`.

    Raises:
        ValueError: there is none; the sentence quotes the first failure.
    """
    lines: Any = frame[(frame["status"] == "done") & frame["clip"].notna()] if len(frame) else frame
    if not len(lines):
        errors = frame["error"].dropna().tolist() if len(frame) else ["the folder holds no rows; run a sweep into it"]
        reason = errors[0] if errors else "these rows were measured, and kept none"
        raise ValueError(f"There is no clip to study: {reason}")
    return _with_names(lines)


def _with_names(lines: Any) -> Any:
    """A table in which every value has a name: pandas groups no None, and nobody sees an empty text."""
    names = {"sigmas": "the model's own", "optimizations": "none"}
    named = {
        column: lines[column].map(lambda value, name=name: str(value or name))
        for column, name in names.items()
        if column in lines
    }
    return lines.assign(**named)


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


def effect(frame: pd.DataFrame, knob: str, measure: str) -> Effect:
    """What a knob does to a measure, judged against the spread over seeds.

    Args:
        frame: a table of rows, `rows_table`, without failed ones: `frame[frame["status"] == "done"]`.
        knob: a field that varies.
        measure: a column that has a number at every value of the knob.

    Returns:
        An `Effect`. Its `verdict` is "rises", "falls", "differs", "no clear effect", "one seed" or "too few clips";
        `change` ± `margin` is in the measure's unit, and the margin is that of 95 % confidence, from two seeds on;
        `is_clear` says whether the knob's effect stands out from chance.

    Raises:
        KeyError: the table has no such column.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import rows_table
        >>> effect(rows_table(rows), "motion_bucket_id", "motion_mean_px").verdict
        'one seed'
    """
    import numpy as np
    from scipy.stats import t as student

    # Each seed gives one number, its own trend over the knob, and the question is whether those numbers agree:
    # Student's interval about their mean ("summary measures", Matthews et al., BMJ 1990). A rank test over all clips
    # would take the clips of a seed, which are alike, for independent ones; over three seeds it is never sure.
    clips: Any = _with_names(frame).assign(_all=0)
    others = repeated_axes(clips, knob) or "_all"
    table: Any = clips.pivot_table(measure, index=others, columns=knob, aggfunc="mean")
    complete = table.dropna()
    # of the same seeds as the verdict: over all clips, a value that lively seeds lack would look like a quiet one
    medians = (complete if len(complete) else table).median().to_dict()
    by_seed = complete.to_numpy(dtype=float)
    seeds, values = by_seed.shape
    if values < 2:
        return Effect("no clear effect", None, None, seeds, medians)
    places = np.arange(values) - (values - 1) / 2
    trends = by_seed @ places / (places @ places) * (values - 1)
    change = float(trends.mean()) if seeds and is_numeric(clips, knob) else None
    if seeds < 2:
        return Effect("one seed" if len(table) < 2 else "too few clips", change, None, seeds, medians)
    limit = float(student.ppf(0.975, seeds - 1))
    tiny = 1e-9 * float(np.abs(by_seed).max())  # sums of equal numbers differ by so little
    spread = float(trends.std(ddof=1))
    margin = limit * spread / seeds**0.5 if spread > tiny else 0.0
    means = by_seed.mean(axis=0)
    between = seeds * float(((means - means.mean()) ** 2).sum())
    is_trend = change is not None and seeds * (means @ places) ** 2 / (places @ places) > between / 2
    if change is not None and is_trend and abs(change) > max(margin, tiny):
        return Effect("rises" if change > 0 else "falls", change, margin, seeds, medians)
    # A difference in no one direction: the variance between values over that of what seed and value leave, against the
    # limit for the worst case of unequal spreads (Greenhouse and Geisser 1959), which is that of the interval above.
    residuals = by_seed - means - by_seed.mean(axis=1, keepdims=True) + by_seed.mean()
    differs = between * (seeds - 1) > limit**2 * float((residuals**2).sum()) + tiny**2
    margin = None if change is None else margin
    return Effect("differs" if differs else "no clear effect", change, margin, seeds, medians)


def repeated_axes(frame: pd.DataFrame, knob: str) -> list[str]:
    """What else varied where a knob has one value: the seed, or other knobs of the sweep.

    Args:
        frame: lines that have a clip.
        knob: a field that varies.
    """
    groups: Any = frame.groupby(knob)
    return [name for name in _axes(frame) if name != knob and groups[name].nunique().max() > 1]


def is_numeric(frame: pd.DataFrame, knob: str) -> bool:
    """Whether all values of a knob are numbers that have an order and distances, as a seed's have not.

    Args:
        frame: lines that have a clip.
        knob: a field that varies.
    """
    return knob != "seed" and bool(
        frame[knob].map(lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)).all()
    )


def _axes(frame: Any) -> list[str]:
    """What varied in the sweeps that the lines come from, as far as the table has it; at least the seed."""
    names = [name for text in dict.fromkeys(frame.get("axes", ())) if text for name in text.split(", ")]
    return [name for name in dict.fromkeys([*names, "seed"]) if name in frame]
