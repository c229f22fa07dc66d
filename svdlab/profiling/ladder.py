"""A ladder: a setup with one optimisation more at each rung, and what its measurement says.

`ladder` names the rungs and `profile` measures them. The first rung is the baseline: `ladder_table` puts a line for
each rung beside it, and `ladder_advice` says in words which rung to take.
A rung is exact if its frames must be those of the baseline, rounding aside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from svdlab.dtypes import DTYPES
from svdlab.machine import Machine
from svdlab.optimizations.registry import in_order, only_approximate
from svdlab.prediction.cards import match_card
from svdlab.prediction.estimate import Estimate, estimate_if_readable
from svdlab.request import Request
from svdlab.rows.measurement import Fidelity, Measurement
from svdlab.rows.row import Row
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial

if TYPE_CHECKING:
    import pandas as pd

GiB = 2**30
BUSY, REPEATS = 0.15, 1.1  # a share of the processors, a ratio of times: above them a time says little


class MeasuredRung(NamedTuple):
    """A rung that was measured to its end: its row, the most memory of a clip, and the times of the clips."""

    row: Row
    peak_gib: float
    seconds: float  # the median
    fastest_seconds: float
    slowest_seconds: float
    clips: int  # that were timed

    def __str__(self) -> str:
        spread = f" ({self.fastest_seconds:.2f} to {self.slowest_seconds:.2f})"
        return f"`{self.row.setup.label}`, {self.seconds:.2f} s a clip{spread}, {self.peak_gib:.2f} GiB"

    def differs(self, other: MeasuredRung) -> bool:
        """Whether the times of both are repeated, and their spreads do not overlap."""
        overlap = self.fastest_seconds <= other.slowest_seconds and other.fastest_seconds <= self.slowest_seconds
        return min(self.clips, other.clips) > 1 and not overlap

    def compared(self, other: MeasuredRung) -> str:
        """How its time compares: "12 % faster", "no difference", or "not repeated", which tells nothing from chance."""
        if not self.differs(other):
            return "no difference" if min(self.clips, other.clips) > 1 else "not repeated"
        percent = 100 * (self.seconds / other.seconds - 1)
        return f"{abs(percent):.0f} % {'slower' if percent > 0 else 'faster'}"


def ladder(
    setup: Setup | str, names: Iterable[str], request: Request | None = None, cumulative: bool = True
) -> list[Trial]:
    """The trials of a ladder: the baseline, then one rung for each name.

    Args:
        setup: The baseline, or the name of a variant, which stands for `Setup(name)`.
        names: Optimisations in the order of the rungs, as `help(Setup)` lists them, or a dtype ("bf16"), which replaces
            the one below. Each rung's setup has them in the order in which they are applied.
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
        A table indexed by what rungs add. Memory is in GiB, time is the median in seconds, with the `fastest` and
        the `slowest` clip. `time` compares that with the baseline, unless that failed: where the spreads overlap there
        is no difference, and a rung of one clip is not repeated.
        `others_busy_percent` is what other programs used of the machine's processors meanwhile, `of_peak_percent` the
        share of a known card's FLOP/s that was used. `psnr_db`, `ssim` and `latents_relative` compare the frames with
        the baseline's, and are empty where a rung was compared with another one; the baseline's own line compares two
        clips of itself. `error` says why a rung failed.

    Example:
        With `measured = profile(ladder("tiny", ["single-token"]), "results/ladder")`:
        >>> ladder_table(measured)["exact"].tolist()
        [True, True]
    """
    import pandas as pd

    lines, rungs = [], {id(rung.row): rung for rung in _completed(rows)}
    first = rungs.get(id(rows[0])) if rows else None
    for row in rows:
        measurement, rung, fidelity = row.measurement or Measurement(), rungs.get(id(row)), _fidelity(row, rows[0])
        prediction = estimate_if_readable(row.setup, row.request)
        card = match_card(here.name, here.memory_bytes) if (here := measured_machine(row)) else None
        clip, reserved, figures = measurement.clip_seconds, measurement.peak_reserved_bytes, measurement.figures
        rate = card.flops.get(str(row.setup.resolved().dtype)) if card else None
        line = {
            "exact": is_exact(row, rows[0]),
            "peak_gib": measurement.peak_bytes and measurement.peak_bytes / GiB,
            "predicted_gib": prediction and prediction.peak_bytes / GiB,
            "reserved_gib": reserved and reserved / GiB,
            **{name: figures[name] for name in ("load_seconds", "first_seconds", "clip_seconds")},
            "fastest": rung and rung.fastest_seconds,
            "slowest": rung and rung.slowest_seconds,
            "time": rung.compared(first) if rung and first and rung is not first else None,
            **{name: figures[name] for name in ("step_seconds", "decode_seconds")},
            "others_busy_percent": measurement.others_busy and 100 * measurement.others_busy,
            "of_peak_percent": 100 * prediction.flops / clip / rate if prediction and clip and rate else None,
            **{name: getattr(fidelity, name) for name in ("psnr_db", "ssim", "latents_relative")},
            "error": row.error,
        }
        lines.append(line)
    table = pd.DataFrame(lines).dropna(axis="columns", how="all")
    return table.set_index(pd.Index(rung_labels(rows), name="rung")).round(4) if lines else table


def ladder_advice(rows: Sequence[Row]) -> str:
    """Which rung to take, in Markdown: the fastest, the leanest, what else is worth a look, and what to doubt.

    Args:
        rows: The rows of `profile`, the baseline first.

    Example:
        With `measured = profile(ladder("tiny", ["single-token"]), "results/ladder")`:
        >>> print(ladder_advice(measured))
        - **...
        - **the least memory, exact:** `...`, ... s a clip (...), ... GiB...
    """
    failed = [f"- **failed:** `{row.setup.label}`: {row.error}" for row in rows if row.status != "done"]
    rungs = _completed(rows)
    if not rungs:
        reasons = [row.error for row in rows if row.error] or ["the ladder has no rungs, or no clip was timed"]
        return f"Nothing was measured: {reasons[0]}"
    exact = [rung for rung in rungs if is_exact(rung.row, rows[0])] or rungs
    baseline, label = exact[0], f"`{exact[0].row.setup.label}`"
    fastest, smallest = min(exact, key=lambda rung: rung.seconds), min(exact, key=lambda rung: rung.peak_gib)
    different = [rung for rung in exact if rung.differs(baseline)]
    if min(fastest.clips, baseline.clips) < 2:
        chance = "a difference may be chance: measure each setup twice or more (`repeats`)"
        lines = [f"- **the fastest, exact, not compared:** {fastest}; {chance}"]
    elif not different:
        lines = [f"- **time:** no exact setup differs from {label} by more than the clips of one setup differ"]
    else:
        fastest = min(baseline, *different, key=lambda rung: rung.seconds)
        gain = "no other rung is faster" if fastest is baseline else f"{fastest.compared(baseline)} than {label}"
        lines = [f"- **the fastest, exact:** {fastest}: {gain}"]
        if equals := [rung for rung in exact if rung is not fastest and not rung.differs(fastest)]:
            names = ", ".join(f"`{rung.row.setup.label}`" for rung in equals)
            lines[0] += f"; no slower, as far as the clips tell: {names}"
    lines.append(f"- **the least memory, exact:** {smallest}")
    for rung in rungs:
        faster = rung.seconds < fastest.seconds and rung.differs(fastest)
        if rung not in exact and (faster or rung.peak_gib < smallest.peak_gib):
            psnr_db = _fidelity(rung.row, rows[0]).psnr_db
            distance = "" if psnr_db is None else f", {psnr_db:.0f} dB from the baseline's frames"
            lines.append(f"- **not exact:** {rung}{distance}")
    return "\n".join(lines + failed + _doubts(rungs))


def _doubts(rungs: Sequence[MeasuredRung]) -> list[str]:
    """Why the times may mislead: other programs worked, or the baseline's own clips differ."""
    busy = max((rung.row.measurement.others_busy or 0 for rung in rungs if rung.row.measurement), default=0)
    doubts, baseline = [], rungs[0]
    if busy > BUSY:
        doubts.append(f"- **busy:** other programs used up to {100 * busy:.0f} % of the processors meanwhile")
    if baseline.slowest_seconds > REPEATS * baseline.fastest_seconds:
        ends = f"{baseline.fastest_seconds:.2f} to {baseline.slowest_seconds:.2f} s"
        label = baseline.row.setup.label
        doubts.append(f"- **unsteady:** the same clip of `{label}` took {ends}: measure again on a quiet machine")
    return doubts


def _fidelity(row: Row, baseline: Row) -> Fidelity:
    """The row's, if its frames were compared with this baseline's: a folder may hold the rungs of several ladders."""
    fidelity = row.measurement.fidelity if row.measurement else Fidelity()
    return fidelity if fidelity.baseline_key in (None, baseline.key) else Fidelity()


def measured_machine(row: Row) -> Machine | None:
    """The row's machine; None where it describes another device than the setup's, as older versions wrote it.

    Args:
        row: A measured one.
    """
    device = str(row.setup.device).removesuffix(":0")
    return row.machine if row.machine and row.machine.device.removesuffix(":0") == device else None


def measured_rungs(rows: Iterable[Row]) -> list[MeasuredRung]:
    """The rungs that were measured to their end.

    Args:
        rows: The rows of `profile`.

    Raises:
        ValueError: If there is none.
    """
    if not (rungs := _completed(rows)):
        raise ValueError("No rung was measured: see the rows' errors.")
    return rungs


def _completed(rows: Iterable[Row]) -> list[MeasuredRung]:
    rungs = []
    for row in rows:
        measurement = row.measurement or Measurement()
        if row.status == "done" and measurement.peak_bytes and (times := measurement.clip_times):
            spread = median(times), min(times), max(times)
            rungs.append(MeasuredRung(row, measurement.peak_bytes / GiB, *spread, len(times)))
    return rungs


def rung_labels(rungs: Sequence[Row | Estimate]) -> list[str]:
    """A short label for each rung: what it adds to the one before, or its whole label where it drops some of that.

    Args:
        rungs: Rows or estimates, in the order of the ladder.
    """
    labels = []
    for previous, rung in zip([rungs[0], *rungs], rungs, strict=False):
        old_parts, parts = ((each.setup.dtype, *each.setup.optimizations) for each in (previous, rung))
        keeps_all = set(previous.setup.optimizations) <= set(rung.setup.optimizations)
        new_parts = [part for part in parts if part and part not in old_parts]
        labels.append(f"+ {', '.join(new_parts)}" if keeps_all and new_parts else rung.setup.label)
    return labels


def is_exact(row: Row, baseline: Row) -> bool:
    """Whether the frames must be the baseline's, rounding aside: nothing approximate is added, or left out.

    Args:
        row: A rung of a ladder.
        baseline: Its first rung.
    """
    changes, expected = (set(only_approximate(each.setup.optimizations)) for each in (row, baseline))
    return row.setup.dtype == baseline.setup.dtype and changes == expected
