"""A ladder measured: the processes of its rungs make clips in turn, and their frames are compared with the first's.

So what else the machine does meanwhile meets them all. On a card, and where memory is short, one runs after another.
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
from svdlab.prediction.estimate import estimate
from svdlab.profiling.measure import MeasuredProcess, measurement_key
from svdlab.profiling.measured_process import FIRST_FRAMES_FILE, FRAMES_FILE
from svdlab.progress_bar import Progress
from svdlab.request import conditioning
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, write_row
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.locks import claim, is_contested

_PROCESS_BYTES = 2**30  # of a measured process beside its tensors: the libraries, and room


def profile(
    trials: Iterable[Trial],
    folder: str | Path,
    *,
    repeats: int = 5,
    retry_failed: bool = False,
    memory_limit_bytes: int | None = None,
    timeout_seconds: float | None = None,
    progress: bool = True,
) -> list[Row]:
    """Measure a ladder, each rung in a process of its own; its frames are compared with the first rung's.

    On a CPU with enough memory, all rungs are loaded together and take turns, one clip each per round. On a GPU, and
    with less memory, they run one after another. For the first rung, `fidelity` compares two of its own clips. Rows
    that the folder has already are not measured again, whatever their `repeats`. Stopped at any moment, even by
    `kill -9`, the next call measures what is missing, and waits for what other processes are measuring.

    Args:
        trials: The rungs, as `ladder` returns them.
        folder: Where the rows are, and the first rung's frames; it is made if it is missing.
        repeats: Calls after the first one, in each process.
        retry_failed: Whether rungs that failed in an earlier call are measured again.
        memory_limit_bytes: As for `measure`, of each process.
        timeout_seconds: As for `measure`, of each process; waiting for a turn does not count.
        progress: Whether a bar shows how many rungs are measured.

    Returns:
        The rows in the order of the trials, failed ones with their reasons. `row.measurement.fidelity` says how near
        the frames come: `psnr_db` (dB, 100 if equal), `ssim` (1 if equal), `max_abs_levels` (of 255, 0 if equal).

    Example:
        >>> rows = measured  # as `profile(ladder("tiny", ["single-token"]), "results/ladder")` returns them
        >>> [(row.setup.optimizations, row.status) for row in rows]
        [((), 'done'), (('single-token',), 'done')]
    """
    trials, folder = list(trials), Path(folder)
    if not trials:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    pictures = {request: conditioning(request) for request in {trial.request for trial in trials}}
    keys = [measurement_key(trial, pictures[trial.request], memory_limit_bytes) for trial in trials]
    every, frames = dict(zip(keys, trials, strict=True)), folder / f"{keys[0]}.npz"
    rows = {key: row for key in every if (row := find_row(folder, key))}
    failed = {key: rows.pop(key).created for key in [*rows] if retry_failed and rows[key].status == "failed"}

    def start(key: str, scratch: Path) -> MeasuredProcess:
        trial = every[key]
        return MeasuredProcess(trial, pictures[trial.request], scratch, memory_limit_bytes, timeout_seconds)

    def measure_together(scratches: dict[str, Path], stack: ExitStack) -> None:
        processes = {key: stack.enter_context(start(key, scratch)) for key, scratch in scratches.items()}
        for _ in range(repeats):
            for process in processes.values():
                process.make_clip()
        for key, process in processes.items():
            if key == keys[0]:  # beside its own first clip
                row = process.finish(scratches[key] / FIRST_FRAMES_FILE)
                if row.status == "done":
                    (scratches[key] / FRAMES_FILE).replace(frames)
            else:
                comparable = every[key].request == trials[0].request and frames.exists()
                row = process.finish(frames if comparable else None)
            rows[key] = write_row(row, folder, scratches[key])
            bar.update()

    with Progress(total=len(every) - len(rows), unit="setup", disable=not (progress and len(rows) < len(every))) as bar:
        if len(rows) < len(every) and keys[0] in rows and rows[keys[0]].status == "done" and not frames.exists():
            with claim(folder, f"{keys[0]}-frames") as scratch, start(keys[0], scratch) as process:
                if process.finish().status == "done":
                    (scratch / FRAMES_FILE).replace(frames)
        together = _fit_side_by_side([every[key] for key in every if key not in rows])
        while missing := [key for key in every if key not in rows]:
            with ExitStack() as stack:
                scratches: dict[str, Path] = {}
                for key in missing if together else missing[:1]:
                    scratch = stack.enter_context(claim(folder, key))
                    if is_contested(scratch):
                        break  # the rungs after it wait too, since they may be compared with its frames
                    row = find_row(folder, key, warn=False)  # another process may have written it meanwhile
                    if row and row.created != failed.get(key):
                        rows[key] = row
                    else:
                        scratches[key] = scratch
                measure_together(scratches, stack)
            if not scratches:
                time.sleep(random.uniform(0.5, 1))  # by chance, so that two who give way to each other do not go on so
    return [dataclasses.replace(rows[key], request=t.request, axes=t.axes) for key, t in zip(keys, trials, strict=True)]


def _fit_side_by_side(trials: Sequence[Trial]) -> bool:
    """Whether the processes of all trials may wait beside one another: on a processor, in half of its free memory."""
    if any((trial.setup.device or best_device()) != "cpu" for trial in trials):
        return False
    needed = sum(estimate(trial.setup, trial.request).peak_bytes + _PROCESS_BYTES for trial in trials)
    return needed < free_bytes("cpu") / 2
