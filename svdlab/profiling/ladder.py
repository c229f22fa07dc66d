"""A ladder: one setup with one optimisation more at each rung, and what its measurement says.

`ladder` names the rungs, `profile` measures them, and this file reads the rows: `ladder_table` puts a line for each
rung beside the first one, the baseline, and `ladder_advice` says which rung to take.
A rung is exact if its frames must be the baseline's, rounding aside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from svdlab.optimizations import PHASES, parse
from svdlab.prediction.cards import match_card
from svdlab.prediction.estimate import Estimate, estimate
from svdlab.request import Request
from svdlab.rows.measurement import Measurement
from svdlab.rows.row import Row
from svdlab.setup import DTYPES, Setup
from svdlab.sweeps.grid import Trial

if TYPE_CHECKING:
    import pandas as pd

GiB = 2**30


def ladder(
    setup: Setup | str, names: Iterable[str], request: Request | None = None, cumulative: bool = True
) -> list[Trial]:
    """The trials of a ladder: the baseline, then one rung for each name.

    Args:
        setup: The baseline, or the name of a variant, which is then the baseline as it is.
        names: Optimisations in the order of the rungs, `"forward-chunking=2"` with a value, or a dtype ("bf16"), which
            replaces the one below. Within a setup they are put into the order in which they are applied.
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
    baseline = setup if isinstance(setup, Setup) else Setup(setup)
    setups = [baseline]
    for number, name in enumerate(names, 1):
        below = setups[-1] if cumulative else baseline
        try:
            if name in DTYPES:
                setups.append(dataclasses.replace(below, dtype=name))
            else:
                order = sorted((*below.optimizations, name), key=lambda text: PHASES.index(parse(text)[0].phase))
                setups.append(dataclasses.replace(below, optimizations=tuple(order)))
        except ValueError as error:
            raise ValueError(f"Rung {number} ({name}): {error}") from None
    return [Trial(one, request or Request(image="rocket"), ("setup",)) for one in setups]


def peak_bytes(row: Row) -> int | None:
    """What PyTorch allocated at most; on a processor, what the process took beyond what it had before loading."""
    measurement = row.measurement or Measurement()
    if measurement.peak_allocated_bytes is not None:
        return measurement.peak_allocated_bytes
    peak = measurement.peak_process_bytes
    return None if peak is None else peak - before_bytes(row)


def measured(rows: Sequence[Row]) -> list[tuple[Row, int, float]]:
    """The rows that were done, with their peak and their seconds a clip."""
    found = [(row, peak_bytes(row), (row.measurement or Measurement()).clip_seconds) for row in rows]
    return [(row, peak, clip) for row, peak, clip in found if row.status == "done" and peak and clip]


def before_bytes(row: Row) -> int:
    """What the process took before it loaded anything; 0 where a card's memory was measured."""
    before = (row.measurement or Measurement()).before
    return 0 if "allocated_bytes" in before else int(before.get("process_bytes", 0))


def exact(row: Row | Estimate, baseline: Row | Estimate) -> bool:
    """Whether the frames must be the baseline's, rounding aside."""
    return row.setup.dtype == baseline.setup.dtype and all(parse(text)[0].exact for text in row.setup.optimizations)


def ladder_table(rows: Sequence[Row]) -> pd.DataFrame:
    """A line for each rung: peak memory (GiB), measured and predicted, medians of seconds, speed over the first's, and
    how near its frames come to the first's, whose own line says how near it comes to itself. Failed rungs say why.

    `of_peak_percent` is the share of the card's FLOP/s that was used, `times_floor` how many times the clip takes what
    nothing could undercut; both only for known cards.
    """
    import pandas as pd

    lines, whole = [], (rows[0].measurement or Measurement()).clip_seconds if rows else None
    for row in rows:
        found, peak = (row.measurement or Measurement()).figures, peak_bytes(row)
        guess, card = estimate(row.setup, row.request), match_card(row.machine.name) if row.machine else None
        clip = found["clip_seconds"]
        line = {
            "setup": row.setup.label,
            "exact": exact(row, rows[0]),
            "peak_gib": peak and peak / GiB,
            "predicted_gib": guess.peak_bytes / GiB,
            "reserved_gib": found["peak_reserved_bytes"] and found["peak_reserved_bytes"] / GiB,
            "load_seconds": found["load_seconds"],
            "first_seconds": found["first_seconds"],
            "clip_seconds": clip,
            "step_seconds": found["step_seconds"],
            "decode_seconds": found["decode_seconds"],
            "speed": whole / clip if clip and whole else None,
            "of_peak_percent": 100 * guess.flops / clip / card.flops if clip and card else None,
            "times_floor": clip / guess.seconds(card).floor if clip and card else None,
            "psnr_db": found["psnr_db"],
            "ssim": found["ssim"],
            "latents_relative": found["latents_relative"],
            "error": row.error,
        }
        lines.append(line)
    frame = pd.DataFrame(lines).dropna(axis="columns", how="all")
    return frame.set_index("setup").round(4) if lines else frame


def ladder_advice(rows: Sequence[Row]) -> str:
    """What these rows come to, in Markdown: the fastest, the leanest, and the rungs that cost and give nothing."""
    done = measured(rows)
    if not done:
        reason = next((row.error for row in rows if row.error), "the ladder has no rungs")
        return f"Nothing was measured: {reason}"
    first = rows[0]
    same = [each for each in done if exact(each[0], first)] or done
    fastest, leanest = min(same, key=lambda each: each[2]), min(same, key=lambda each: each[1])
    lines = [
        f"- **{what}:** `{row.setup.label}`, {clip:.2f} s a clip, {peak / GiB:.2f} GiB"
        for what, (row, peak, clip) in (("the fastest, exact", fastest), ("the least memory, exact", leanest))
    ]
    loose = [each for each in done if not exact(each[0], first)]
    for row, peak, clip in loose:
        if clip < fastest[2] or peak < leanest[1]:
            near = (row.measurement or Measurement()).fidelity.psnr_db
            away = "" if near is None else f", {near:.0f} dB from the baseline's picture"
            lines.append(f"- **not exact:** `{row.setup.label}`, {clip:.2f} s, {peak / GiB:.2f} GiB{away}")
    lines += [f"- **failed:** `{row.setup.label}`: {row.error}" for row in rows if row.status != "done"]
    return "\n".join(lines)
