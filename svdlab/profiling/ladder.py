"""A ladder: a setup with one optimisation more at each rung, and what its measurement says.

`ladder` names the rungs and `profile` measures them. The first rung is the baseline: `ladder_table` puts a line for
each rung beside it, and `ladder_advice` says in words which rung to take.
A rung is exact if its frames must be those of the baseline, rounding aside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from svdlab.optimizations import in_order
from svdlab.prediction.cards import match_card
from svdlab.prediction.estimate import estimate
from svdlab.request import Request
from svdlab.rows.measurement import Measurement
from svdlab.rows.row import Row
from svdlab.setup import DTYPES, Setup
from svdlab.sweeps.grid import Trial

if TYPE_CHECKING:
    import pandas as pd

GiB = 2**30


class MeasuredRung(NamedTuple):
    """A rung that was measured to its end: its row, the most memory that a clip took, and a clip's median time."""

    row: Row
    peak_gib: float
    seconds: float

    def __str__(self) -> str:
        return f"`{self.row.setup.label}`, {self.seconds:.2f} s a clip, {self.peak_gib:.2f} GiB"


def ladder(
    setup: Setup | str, names: Iterable[str], request: Request | None = None, cumulative: bool = True
) -> list[Trial]:
    """The trials of a ladder: the baseline, then one rung for each name.

    Args:
        setup: The baseline, or the name of a variant, which is then the baseline as it is.
        names: Optimisations in the order of the rungs, `"forward-chunking=2"` with a value, or a dtype ("bf16"), which
            replaces the one below. A setup puts them into the order in which they are applied.
        request: The clip that every rung makes. Default: the variant's own, of the image "rocket".
        cumulative: Whether a rung keeps what the rungs below it have: "a", then "a, b", then "a, b, c". If False, each
            rung is the baseline and its own name alone: "a", then "b", then "c".

    Returns:
        Trials for `profile`, the baseline first.

    Raises:
        ValueError: If a rung cannot be had; the sentence names it and says why.

    Example:
        >>> [str(trial) for trial in ladder("tiny", ["single-token", "channels-last"])]
        ['plain', 'single-token', 'channels-last, single-token']
        >>> [str(trial) for trial in ladder("tiny", ["single-token", "channels-last"], cumulative=False)]
        ['plain', 'single-token', 'channels-last']
    """
    baseline, request = setup if isinstance(setup, Setup) else Setup(setup), request or Request(image="rocket")
    trials = [Trial(baseline, request, ("setup",))]
    for number, name in enumerate(names, 1):
        below = trials[-1].setup if cumulative else baseline
        try:
            if name in DTYPES:
                rung = dataclasses.replace(below, dtype=name)
            else:
                rung = dataclasses.replace(below, optimizations=in_order((*below.optimizations, name)))
            trials.append(Trial(rung, request, ("setup",)))
        except ValueError as error:
            raise ValueError(f"Rung {number} ({name}): {error}") from None
    return trials


def ladder_table(rows: Sequence[Row]) -> pd.DataFrame:
    """A measured ladder as a table, a line for each rung. Columns that would be empty are left out.

    Args:
        rows: The rows of `profile`, the baseline first.

    Returns:
        A table indexed by the setup's label. Memory is in GiB, time is the median in seconds. `speed` is the baseline's
        time of a clip over this one's. `of_peak_percent` is the share of the card's FLOP/s that was used, and
        `times_floor` the time over the least that the card could take; both for known cards alone. `psnr_db`, `ssim`
        and `latents_relative` compare the frames with the baseline's; the baseline's own line compares two runs of
        itself. `error` says why a rung failed.

    Example:
        >>> ladder_table(measured)["exact"].tolist()
        [True, True]
    """
    import pandas as pd

    lines = []
    for row in rows:
        measurement, prediction = row.measurement or Measurement(), estimate(row.setup, row.request)
        card = match_card(row.machine.name) if row.machine else None
        clip, first_clip = measurement.clip_seconds, (rows[0].measurement or Measurement()).clip_seconds
        peak, reserved, figures = measurement.peak_bytes, measurement.peak_reserved_bytes, measurement.figures
        times = ("load_seconds", "first_seconds", "clip_seconds", "step_seconds", "decode_seconds")
        line = {
            "setup": row.setup.label,
            "exact": is_exact(row, rows[0]),
            "peak_gib": peak and peak / GiB,
            "predicted_gib": prediction.peak_bytes / GiB,
            "reserved_gib": reserved and reserved / GiB,
            **{name: figures[name] for name in times},
            "speed": first_clip / clip if clip and first_clip else None,
            "of_peak_percent": 100 * prediction.flops / clip / card.flops if clip and card else None,
            "times_floor": clip / prediction.seconds(card).floor if clip and card else None,
            **{name: figures[name] for name in ("psnr_db", "ssim", "latents_relative")},
            "error": row.error,
        }
        lines.append(line)
    table = pd.DataFrame(lines).dropna(axis="columns", how="all")
    return table.set_index("setup").round(4) if lines else table


def ladder_advice(rows: Sequence[Row]) -> str:
    """Which rung to take, in Markdown: the fastest, the leanest, what else is worth a look, and what failed.

    Args:
        rows: The rows of `profile`, the baseline first.

    Example:
        >>> print(ladder_advice(measured))
        - **the fastest, exact:** `...`, ... s a clip, ... GiB
        - **the least memory, exact:** `...`, ... s a clip, ... GiB
    """
    failed = [f"- **failed:** `{row.setup.label}`: {row.error}" for row in rows if row.status != "done"]
    try:
        rungs = measured_rungs(rows)
    except ValueError:
        return f"Nothing was measured: {next((row.error for row in rows if row.error), 'the ladder has no rungs')}"
    exact = [rung for rung in rungs if is_exact(rung.row, rows[0])] or rungs
    fastest, leanest = min(exact, key=lambda rung: rung.seconds), min(exact, key=lambda rung: rung.peak_gib)
    lines = [f"- **the fastest, exact:** {fastest}", f"- **the least memory, exact:** {leanest}"]
    for rung in rungs:
        if rung not in exact and (rung.seconds < fastest.seconds or rung.peak_gib < leanest.peak_gib):
            psnr_db = (rung.row.measurement or Measurement()).fidelity.psnr_db
            distance = "" if psnr_db is None else f", {psnr_db:.0f} dB from the baseline's frames"
            lines.append(f"- **not exact:** {rung}{distance}")
    return "\n".join(lines + failed)


def measured_rungs(rows: Iterable[Row]) -> list[MeasuredRung]:
    """The rungs that were measured to their end.

    Args:
        rows: The rows of `profile`.

    Raises:
        ValueError: If there is none.
    """
    rungs = []
    for row in rows:
        measurement = row.measurement or Measurement()
        if row.status == "done" and measurement.peak_bytes and measurement.clip_seconds:
            rungs.append(MeasuredRung(row, measurement.peak_bytes / GiB, measurement.clip_seconds))
    if not rungs:
        raise ValueError("No rung was measured: see the rows' errors.")
    return rungs


def is_exact(row: Row, baseline: Row) -> bool:
    """Whether the frames must be the baseline's, rounding aside.

    Args:
        row: A rung of a ladder.
        baseline: Its first rung.
    """
    return row.setup.dtype == baseline.setup.dtype and all(one.exact for one, _ in row.setup.parsed)
