"""A ladder measured: each rung has a process of its own, and their frames are compared with the first rung's.

On a processor all of them are loaded side by side and make clips in turn, so that other programs slow each of them
equally. On a card, and where memory is short, they run one after another.
A rung goes the way of a sweep's trial: key, claim, row. Rungs that another process has claimed are waited for.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from svdlab.atomic_files import clear_leftovers
from svdlab.machine import best_device, free_bytes
from svdlab.prediction.estimate import estimate_if_readable
from svdlab.profiling.measure import MeasuredProcess, measurement_key
from svdlab.profiling.measured_process import FIRST_FRAMES_FILE, FRAMES_FILE
from svdlab.progress_bar import Progress
from svdlab.request import conditioning
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, find_rows, remove_failure, write_row
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.locks import claim, is_contested

_PROCESS_BYTES = 2**30  # of a measured process beside its tensors: the libraries, and room


def profile(
    trials: Iterable[Trial],
    folder: str | Path,
    *,
    repeats: int = 5,
    retry_failed: bool = False,
    memory_limit_bytes: float | None = None,
    timeout_seconds: float | None = None,
    progress: bool = True,
) -> list[Row]:
    """Measure a ladder, each rung in a process of its own; its frames are compared with the first rung's.

    On a CPU, if half of its free memory is enough, all rungs are loaded together and take turns, one clip each per
    round. Else, and on a GPU, they run one after another. The first rung is compared with a second clip of itself. Rows
    that the folder has already are not measured again, whatever their `repeats`. Stopped at any moment, even by
    `kill -9`, the next call measures what is missing, and waits for what other processes are measuring.

    Args:
        trials: The rungs, as `ladder` returns them.
        folder: Where the rows are, and the first rung's frames; it is made if it is missing.
        repeats: Calls after the first one, in each process.
        retry_failed: Whether rungs that failed in an earlier call are measured again, whatever the reason; those whose
            failure was the machine's (no network, a card that others filled) always are.
        memory_limit_bytes: Of each process: torch's on a card, all its data on a processor (Linux). Default: none. A
            rung that needs more becomes a failed row.
        timeout_seconds: Of each process's work, without waiting for its turn. Default: none. A rung that takes longer
            becomes a failed row.
        progress: Whether a bar shows how many rungs are measured.

    Returns:
        The rows in the order of the trials, failed ones with their reasons. `ladder_table(rows)` makes a table of them,
        `plots.waterfall(rows)` a figure. `row.measurement` has `clip_seconds`, `peak_bytes` and more; its `fidelity`
        says how near the frames come: `psnr_db` (dB, 100 if equal), `ssim` (1 if equal), `max_abs_levels` (of 255),
        and `latents_relative` (0 if equal: the size of the difference over that of the latents). They are None where
        this rung or the first failed, or asks for another clip. `baseline_key` is the key of the row they compare with.
        A rung that was in the folder before may have been compared with another one, or with none: use a new folder to
        compare all rungs with the first of this ladder.

    Raises:
        ValueError: If a picture cannot be read.

    Example:
        >>> rows = measured  # as `profile(ladder("tiny", ["single-token"]), "results/ladder")` returns them
        >>> [(row.setup.optimizations, row.status) for row in rows]
        [((), 'done'), (('single-token',), 'done')]
    """
    if not (trials := list(trials)):
        return []
    limit_bytes = None if memory_limit_bytes is None else int(memory_limit_bytes)  # which may be 6e9
    rungs = _Rungs(trials, Path(folder).expanduser(), limit_bytes, timeout_seconds)
    rungs.collect(retry_failed)
    with Progress(total=len(rungs.missing), unit="setup", disable=not (progress and rungs.missing)) as bar:
        rungs.restore_first_frames()
        together = _fit_side_by_side([rungs.trials[key] for key in rungs.missing])
        while rungs.missing:
            with ExitStack() as stack:
                claims = rungs.claim_missing(stack, len(rungs.missing) if together else 1)
                rungs.measure(claims, repeats, bar)
            if not claims:
                time.sleep(random.uniform(0.5, 1))  # random: else two could give way to each other for ever
    rows = zip((rungs.rows[key] for key in rungs.keys), trials, strict=True)
    return [dataclasses.replace(row, request=trial.request, axes=trial.axes) for row, trial in rows]


class _Rungs:
    """The trials of a ladder by their rows' keys, and the rows that the folder has by now."""

    def __init__(
        self, trials: Sequence[Trial], folder: Path, memory_limit_bytes: int | None, timeout_seconds: float | None
    ) -> None:
        self.folder, self.limits = folder, (memory_limit_bytes, timeout_seconds)
        self.pictures = {request: conditioning(request) for request in {trial.request for trial in trials}}
        self.keys = [measurement_key(trial, self.pictures[trial.request], memory_limit_bytes) for trial in trials]
        self.trials = dict(zip(self.keys, trials, strict=True))
        self.first_frames = folder / f"{self.keys[0]}.npz"  # of the baseline's last clip
        self.rows: dict[str, Row] = {}
        self.failed: dict[str, str] = {}  # rungs to measure again, and when their failed rows were created

    @property
    def missing(self) -> list[str]:
        return [key for key in self.trials if key not in self.rows]

    def collect(self, retry_failed: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        rows = find_rows(self.folder, self.trials)
        self.failed = {key: row.created for key, row in rows.items() if not row.is_final(retry_failed)}
        self.rows = {key: row for key, row in rows.items() if key not in self.failed}

    def restore_first_frames(self) -> None:
        """Make the baseline's frames again, if they were deleted and a missing rung is to be compared with them."""
        first = self.keys[0]
        if self.missing and first in self.rows and self.rows[first].status == "done" and not self.first_frames.exists():
            with claim(self.folder, f"{first}-frames") as scratch, self._start(first, scratch) as process:
                if process.finish().status == "done":
                    (scratch / FRAMES_FILE).replace(self.first_frames)

    def claim_missing(self, stack: ExitStack, most: int) -> dict[str, Path]:
        """The claims of rungs that nobody else is measuring; those that another process has finished become rows."""
        claims: dict[str, Path] = {}
        for key in self.missing[:most]:
            scratch = stack.enter_context(claim(self.folder, key))
            if is_contested(scratch):
                break  # later rungs wait as well: it may be the baseline, whose frames they need
            row = find_row(self.folder, key, warn=False)
            if row and row.created != self.failed.get(key):
                self.rows[key] = row
            else:
                claims[key] = scratch
        return claims

    def measure(self, claims: dict[str, Path], repeats: int, bar: Progress) -> None:
        """Start the processes of all claims, have each make a clip in turn, and write their rows."""
        with ExitStack() as stack:
            processes = {key: stack.enter_context(self._start(key, scratch)) for key, scratch in claims.items()}
            for _ in range(repeats):
                for process in processes.values():
                    process.make_clip()
            for key, process in processes.items():
                self.rows[key] = row = write_row(self._finish(key, process, claims[key]), self.folder, claims[key])
                if row.key != key:  # now that a commit was fetched
                    remove_failure(self.folder, key)
                bar.update()

    def _start(self, key: str, scratch: Path) -> MeasuredProcess:
        trial = self.trials[key]
        return MeasuredProcess(trial, self.pictures[trial.request], scratch, *self.limits)

    def _finish(self, key: str, process: MeasuredProcess, scratch: Path) -> Row:
        first = self.keys[0]
        if key != first:
            comparable = self.trials[key].request == self.trials[first].request and self.first_frames.exists()
            return process.finish(self.first_frames, self.rows[first].key) if comparable else process.finish()
        row = process.finish(scratch / FIRST_FRAMES_FILE)  # beside its own first clip
        if row.status == "done":
            (scratch / FRAMES_FILE).replace(self.first_frames)
        return row


def _fit_side_by_side(trials: Sequence[Trial]) -> bool:
    """Whether the processes of all trials can be loaded at once: on a processor, within half of its free memory."""
    if any((trial.setup.device or best_device()) != "cpu" for trial in trials):
        return False
    estimates = [estimate_if_readable(trial.setup, trial.request) for trial in trials]
    needed = sum(each.peak_bytes + _PROCESS_BYTES for each in estimates if each)
    return None not in estimates and needed < free_bytes("cpu") / 2
