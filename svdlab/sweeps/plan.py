"""The dry run of a sweep: what `run` would make, how long it takes, how much disk it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from svdlab.machine import Machine
from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, read_rows
from svdlab.sweeps.grid import Trial

if TYPE_CHECKING:
    pass
from svdlab.sweeps.make_row import Pictures, _draft

_BYTES_PER_PIXEL = 0.3  # of the bundled model's MP4s with their cover, where the folder holds none to go by


@dataclass(frozen=True)
class Plan:
    """What `run` would do; `print` it for a sentence. Time and size are scaled from rows of the folder."""

    total: int
    done: int
    failed: int  # in earlier runs
    to_make: int
    seconds: float | None  # on this machine, without loading weights; None where no row of the setup tells
    disk_bytes: int

    def __str__(self) -> str:
        said = [f"{self.done} there already" if self.done else "none there yet"]
        if self.failed:
            said.append(f"{self.failed} failed before (retry_failed=True tries again)")
        said.append(f"{self.to_make} to make" if self.to_make else "nothing to make")
        if self.to_make:
            said.append("time unknown" if self.seconds is None else f"about {_duration(self.seconds)}")
            said.append(f"about {self.disk_bytes / 1e6:,.1f} MB")
        return f"{self.total:,} clip{'s' * (self.total != 1)}: {', '.join(said)}."


def plan(trials: Iterable[Trial], folder: str | Path, *, retry_failed: bool = False) -> Plan:
    """What `run(trials, folder)` would make and take. Loads no weights, writes nothing."""
    pictures = Pictures()
    keys = {_draft(trial, trial.setup, pictures).key: trial for trial in trials}
    status = {key: row.status for key in keys if (row := find_row(folder, key))}
    todo = [t for key, t in keys.items() if key not in status or (retry_failed and status[key] == "failed")]
    known = [row for row in read_rows(folder) if row.clip and row.clip.exists()] if Path(folder).is_dir() else []
    sizes = [row.clip.stat().st_size / _pixels(row.request) for row in known if row.clip]
    return Plan(
        total=len(keys),
        done=list(status.values()).count("done"),
        failed=list(status.values()).count("failed"),
        to_make=len(todo),
        seconds=_expected_seconds(todo, known),
        disk_bytes=round((median(sizes) if sizes else _BYTES_PER_PIXEL) * sum(_pixels(t.request) for t in todo)),
    )


def _expected_seconds(trials: list[Trial], rows: list[Row]) -> float | None:
    """From rows of the same setup on this machine: sampling goes with steps times pixels, the rest with pixels."""
    total, here = 0.0, Machine.here().name
    rows = [row for row in rows if row.machine and row.machine.name == here and "sample_seconds" in row.timings]
    for setup in dict.fromkeys(trial.setup for trial in trials):
        same = dataclasses.replace(setup.resolved(), device=None)
        known = [row for row in rows if dataclasses.replace(row.setup, device=None) == same]
        if not known:
            return None
        sampling = median(r.timings["sample_seconds"] / _work(r.request) for r in known)
        rest = median((sum(r.timings.values()) - r.timings["sample_seconds"]) / _pixels(r.request) for r in known)
        total += sum(sampling * _work(t.request) + rest * _pixels(t.request) for t in trials if t.setup == setup)
    return total


def _pixels(request: Request) -> int:
    return request.num_frames * request.height * request.width


def _work(request: Request) -> int:
    return _pixels(request) * request.num_inference_steps * (2 if request.max_guidance_scale > 1 else 1)


def _duration(seconds: float) -> str:
    unit, size = ("h", 3600) if seconds > 5400 else ("min", 60) if seconds > 90 else ("s", 1)
    return f"{seconds / size:.1f} {unit}" if size > 1 else f"{max(seconds, 1):.0f} s"
