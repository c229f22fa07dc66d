"""The dry run of a sweep: what `run` would make, how long that takes, and how much disk it needs.

Time and size are scaled from rows that are in the folder. Sampling takes time in proportion to steps and pixels,
everything else in proportion to pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from svdlab.machine import Machine
from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_rows, read_rows
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.make_row import is_measurable
from svdlab.sweeps.picture_cache import PictureCache
from svdlab.sweeps.ray_cluster import cluster_trials

_BYTES_PER_PIXEL = 0.3  # of the bundled model's MP4s with their cover, where the folder holds none to go by


@dataclass(frozen=True)
class DryRun:
    """What `run` would do; `print` it for a sentence.

    Args:
        total, done, failed, to_make: Numbers of clips: all, of which some are in the folder, some failed and stay so,
            and `run` makes the others.
        seconds: To make them on this machine, without loading weights; None where no row tells.
        disk_bytes: The disk that they need.
        to_measure: How many of those in the folder `run` measures.

    Example:
        >>> print(DryRun(total=15, done=3, failed=0, to_make=12, seconds=100.0, disk_bytes=480_000))
        15 clips: 3 there already, 12 to make, about 1.7 min, about 0.5 MB.
    """

    total: int
    done: int
    failed: int
    to_make: int
    seconds: float | None
    disk_bytes: int
    to_measure: int = 0

    def __str__(self) -> str:
        measuring = f" ({self.to_measure} to measure)" if self.to_measure else ""
        parts = [f"{self.done} there already{measuring}" if self.done else "none there yet"]
        if self.failed:
            parts.append(f"{self.failed} failed before (retry_failed=True tries again)")
        parts.append(f"{self.to_make} to make" if self.to_make else "nothing to make")
        if self.to_make:
            parts.append("time unknown" if self.seconds is None else f"about {_duration(self.seconds)}")
            parts.append(f"about {self.disk_bytes / 1e6:,.1f} MB")
        return f"{self.total:,} clip{'s' * (self.total != 1)}: {', '.join(parts)}."


def dry_run(
    trials: Iterable[Trial], folder: str | Path, *, on: str = "", retry_failed: bool = False, quality: bool = True
) -> DryRun:
    """What `run(trials, folder)` would make and take. Loads no weights and writes nothing.

    Args:
        trials: The sweep, as `grid` gives it.
        folder: The results folder; it need not exist.
        on: As for `run`; nothing is started. Whether a cluster has cards, on which its precision depends, is taken
            from the rows in the folder.
        retry_failed: As for `run`.
        quality: As for `run`.

    Raises:
        ValueError: If a picture cannot be read, or a setup names one card where there is a cluster.

    Example:
        >>> from svdlab import Request, Setup, dry_run, grid
        >>> print(dry_run(grid(Setup("tiny"), Request(image="rocket"), seed=range(15)), "results/new"))
        15 clips: none there yet, 15 to make, time unknown, about 1.0 MB.
    """
    trials, folder, pictures = list(trials), Path(folder).expanduser(), PictureCache()
    ways = [cluster_trials(trials, has_cards) for has_cards in (True, False)] if on else [trials]
    pairs = [(by_key := {pictures.row_key(t): t for t in way}, find_rows(folder, by_key, warn=False)) for way in ways]
    by_key, finished = max(pairs, key=lambda pair: len(pair[1]) / max(len(pair[0]), 1))
    final = {key: row for key, row in finished.items() if row.is_final(retry_failed)}
    done = [row for row in final.values() if row.status == "done"]
    to_make = [trial for key, trial in by_key.items() if key not in final]
    rows = [row for row in read_rows(folder) if row.clip_file()] if folder.is_dir() else []
    sizes = [row.clip.stat().st_size / _pixels(row.request) for row in rows if row.clip]
    return DryRun(
        total=len(by_key),
        done=len(done),
        failed=len(final) - len(done),
        to_make=len(to_make),
        seconds=_expected_seconds(to_make, rows),
        disk_bytes=round((median(sizes) if sizes else _BYTES_PER_PIXEL) * sum(_pixels(t.request) for t in to_make)),
        to_measure=sum(map(is_measurable, done)) if quality else 0,
    )


def _expected_seconds(trials: list[Trial], rows: list[Row]) -> float | None:
    """The time for trials, from rows of the same setups on this machine."""
    total = 0.0
    for setup in dict.fromkeys(trial.setup for trial in trials):
        here, resolved = Machine.here(setup.device).name, dataclasses.replace(setup.resolved(), device=None)
        of_here = [row for row in rows if row.machine and row.machine.name == here and "sample_seconds" in row.timings]
        measured = [row for row in of_here if dataclasses.replace(row.setup, device=None) == resolved]
        if not measured:
            return None
        sampling = median(r.timings["sample_seconds"] / _work(r.request) for r in measured)
        rest = median((sum(r.timings.values()) - r.timings["sample_seconds"]) / _pixels(r.request) for r in measured)
        total += sum(sampling * _work(t.request) + rest * _pixels(t.request) for t in trials if t.setup == setup)
    return total


def _pixels(request: Request) -> int:
    return request.num_frames * request.height * request.width


def _work(request: Request) -> int:
    """Pixels times passes of the UNet; a guided step has two."""
    return _pixels(request) * request.num_inference_steps * (2 if request.max_guidance_scale > 1 else 1)


def _duration(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds > 90 else f"{max(seconds, 1):.0f} s"
