"""Run a sweep: many clips that differ in a few fields, made once, in any number of sittings.

A trial enters `run`, gets its key, and leaves as a row: the one that the folder has already, or a new one, made in this
process or on a Ray cluster. Several processes and machines may run into one folder. Each claims what it makes, and
waits at the end for what others are making.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from svdlab.atomic_files import clear_leftovers
from svdlab.machine import card_is_lost
from svdlab.messages import describe_error
from svdlab.pipelines.pipeline_cache import unload_cached
from svdlab.progress_bar import Progress
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_rows, remove_failure
from svdlab.sweeps import ray_cluster
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.locks import claim, is_claimed
from svdlab.sweeps.make_row import RowMaker, Task, is_measurable, measure_row
from svdlab.sweeps.picture_cache import PictureCache
from svdlab.sweeps.ray_worker import fetch


def run(
    trials: Iterable[Trial],
    folder: str | Path,
    *,
    on: str = "",
    store: str = "",
    retry_failed: bool = False,
    progress: bool = True,
    quality: bool = True,
) -> list[Row]:
    """Make the rows of a sweep that a folder does not have yet, and return a row for every trial, old or new.

    A trial that fails becomes a row that says why, and the rest go on. If the machine was to blame (no network, a card
    that others filled), the next call tries again. Stopped at any moment, even by `kill -9`, the next call makes what
    is missing, a row whose clip was deleted too. Several processes may run into one folder. Weights are loaded
    once for each setup; those of the last one stay loaded for the next run, until `unload_cached()` lets go of them.

    Args:
        trials: What to make, as `grid` gives it.
        folder: The results folder, for a JSON, an MP4 and a preview of each row. It is made where it is missing.
        on: Where: "" is this process. "ray" is the Ray cluster that runs on this machine, or, if none does, one that is
            started for this call; every card gets a worker. An address such as "ray://head:10001" is a cluster
            elsewhere. It needs `pip install "svdlab[ray]"`. A trial that kills three workers becomes a failed row.
        store: An address that fsspec knows, such as "s3://bucket/motion", for a cluster only. Workers put a copy of
            what they make there, and what is there already is brought into the folder first. It needs `on`.
        retry_failed: Whether trials that failed in an earlier run are made again, whatever the reason.
        progress: Whether a line shows the progress.
        quality: Whether every clip is measured (`Row.quality`), which takes a few seconds a clip. Clips that an earlier
            run did not measure are measured here, from their files, which is a few percent off (a note in the row says
            so); a store keeps those rows as they were. Where that fails, as in a folder that cannot be written, a
            warning says so.

    Returns:
        One row for each trial, in their order.

    Raises:
        ValueError: If a picture cannot be read; nothing has started then.
        RuntimeError: If the card is lost: every trial that is left would fail.
        OSError: If rows cannot be written, or the folder is deleted or renamed meanwhile.
        ConnectionError: If there is no Ray to reach.
        KeyboardInterrupt: At Ctrl-C; its message says how many rows are there.

    Example:
        >>> from svdlab import Request, Setup, grid, run
        >>> request = Request(image="rocket", num_frames=2, num_inference_steps=2, decode_chunk_size=2)
        >>> rows = run(grid(Setup("tiny"), request, seed=[1, 2]), "results/seeds", progress=False, quality=False)
        >>> [row.status for row in rows]
        ['done', 'done']
    """
    trials, folder, pictures = list(trials), Path(folder).expanduser(), PictureCache()
    if store and not on:
        raise ValueError(f"store={store!r} is where the workers of a cluster put clips: name the cluster (on='ray').")
    if on and (finished := _rows_of_finished_sweep(trials, folder, pictures, retry_failed)):
        return _measure(finished, folder, progress) if quality else finished  # without starting Ray
    with ray_cluster.connected(on) if on else nullcontext():
        if on:
            unload_cached()  # the card is the workers' now
            trials = ray_cluster.cluster_trials(trials, ray_cluster.has_cards())
        keys = list(map(pictures.row_key, trials))
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        if store:
            with claim(folder, "store") as scratch:
                fetch(store, folder, scratch)
        rows, tasks = find_rows(folder, keys), list[Task]()
        for key, trial in dict(zip(keys, trials, strict=True)).items():
            if key not in rows:
                tasks.append(Task(key, trial))
            elif not rows[key].is_final(retry_failed):
                tasks.append(Task(key, trial, replaces=rows.pop(key).created))
        if tasks:
            with claim(folder, "sweep") as scratch, _SweepBar(tasks, progress) as bar:
                if on:
                    sweep = ray_cluster.ClusterSweep(tasks, pictures, scratch, store, quality)
                    _collect(sweep.rows(bar.show_workers), rows, bar, scratch)
                else:
                    _collect(_make_rows(tasks, RowMaker(quality, bar.step), pictures, folder, bar), rows, bar, scratch)
    ordered = _in_order(rows, keys, trials)
    return _measure(ordered, folder, progress) if quality else ordered


def _rows_of_finished_sweep(
    trials: list[Trial], folder: Path, pictures: PictureCache, retry_failed: bool
) -> list[Row] | None:
    """The rows of a cluster's sweep where the folder has all of them, so that Ray need not start; else None.

    Whether the cluster has cards, on which its precision depends, is not known before Ray runs: both ways are tried.
    """
    finished = []
    for resolved in (ray_cluster.cluster_trials(trials, has_cards) for has_cards in (True, False)):
        keys = list(map(pictures.row_key, resolved))
        rows = find_rows(folder, keys, warn=False)
        if len(rows) == len(set(keys)) and all(row.is_final(retry_failed) for row in rows.values()):
            finished.append(_in_order(rows, keys, resolved))
    return finished[0] if finished and all(rows == finished[0] for rows in finished) else None


def _in_order(rows: dict[str, Row], keys: list[str], trials: list[Trial]) -> list[Row]:
    return [replace(rows[key], request=t.request, axes=t.axes) for key, t in zip(keys, trials, strict=True)]


def _make_rows(
    tasks: Sequence[Task], maker: RowMaker, pictures: PictureCache, folder: Path, bar: _SweepBar
) -> Generator[tuple[Task, Row], None, None]:
    """Make rows in this process, setup after setup; those that other writers are making come last."""
    setups = list(dict.fromkeys(task.trial.setup for task in tasks))
    queue, elsewhere = deque(sorted(tasks, key=lambda task: setups.index(task.trial.setup))), set[str]()
    while queue:
        task = queue.popleft()
        if task.key in elsewhere:
            bar.wait(len(queue) + 1)
            time.sleep(random.uniform(0.1, 0.4))  # random: else two could give way to each other for ever
            if is_claimed(folder, task.key):
                queue.append(task)
                continue
        if maker.warm(task.trial.setup):
            bar.unpause()  # the time left is that of clips, not of loading
        bar.begin(task.trial)
        row = maker.make(task, pictures.fitted(task.trial.request), folder)
        if row is None:
            elsewhere.add(task.key)
            queue.append(task)
            continue
        yield task, row
        if row.status == "failed" and card_is_lost():
            raise RuntimeError(
                f"The card was lost, and this process cannot reach it any more ({row.error}) Start a new one (in a "
                f"notebook: restart the kernel): the next run makes the {len(queue)} rows that are left."
            )


def _collect(
    new_rows: Generator[tuple[Task, Row], None, None], rows: dict[str, Row], bar: _SweepBar, scratch: Path
) -> None:
    """Add rows, as they are made, to those that the folder has; `scratch` is the sweep's own claim in it."""
    folder, count = scratch.parent, len(rows) + bar.clips
    try:
        with closing(new_rows):
            for task, row in new_rows:
                rows[task.key] = row
                if row.key != task.key:  # now that a commit was fetched
                    remove_failure(folder, task.key)
                bar.finish(task.trial)
                if not scratch.is_dir():
                    break
    except KeyboardInterrupt:
        text = f"Stopped: {len(rows)} of {count} rows are in {folder}, and the next run makes the others."
        raise KeyboardInterrupt(text) from None
    except FileNotFoundError:
        if scratch.is_dir():
            raise
    if not scratch.is_dir():  # the claim went with the folder
        text = f"{folder} was deleted or renamed during the run, after {len(rows)} of {count} rows"
        raise FileNotFoundError(f"{text}: run again into the folder that is meant.")


def _measure(rows: list[Row], folder: Path, progress: bool) -> list[Row]:
    """The rows, measured where nobody tried to; where that cannot be done now, as they are, and a warning says why."""
    measured, reasons = {row.key: row for row in rows}, list[str]()
    queue = deque(filter(is_measurable, measured.values()))
    with Progress(total=len(queue), unit="clip", desc="measuring", disable=not (progress and queue)) as bar:
        try:
            while queue:
                row = queue.popleft()
                try:
                    new_row = measure_row(row, folder)
                except (OSError, MemoryError) as error:  # the folder may be an archive, and its rows are complete
                    reasons.append(describe_error(error, where=False))
                    continue
                if new_row:
                    measured[row.key] = new_row
                    bar.set_postfix_str("", refresh=False)
                    bar.update()
                else:
                    queue.append(row)
                    bar.set_postfix_str("waiting for another writer")
                    time.sleep(random.uniform(0.1, 0.4))
        except KeyboardInterrupt:
            count = sum(map(is_measurable, measured.values()))
            text = f"Stopped: all {len(measured)} rows are in {folder}, {count} of them to be measured next time."
            raise KeyboardInterrupt(text) from None
    if reasons:
        text = f"{len(reasons)} of {len(measured)} rows in {folder} could not be measured now"
        way_out = "The next run tries again; with quality=False it does not."
        warnings.warn(f"{text}: {reasons[0]} {way_out}", UserWarning, stacklevel=3)
    return [replace(measured[row.key], request=row.request, axes=row.axes) for row in rows]


class _SweepBar(Progress):
    """One line with the time left. It counts steps, since clips of more steps take longer."""

    def __init__(self, tasks: Sequence[Task], progress: bool) -> None:
        self.clips, self.finished, self.workers, self.steps_finished = len(tasks), 0, 0, 0
        steps = sum(task.trial.request.num_inference_steps for task in tasks)
        # no smoothing, the mean of all so far: with a decode every few steps, that of the last would swing
        super().__init__(total=steps, unit="step", disable=not progress, smoothing=0)

    def begin(self, trial: Trial) -> None:
        self.set_description_str(f"clip {self.finished + 1} of {self.clips}", refresh=False)
        self.set_postfix_str(str(trial))

    def step(self, *_: Any) -> None:
        self.update()

    def wait(self, clips: int) -> None:
        self.set_postfix_str(f"waiting for {clips} clip{'s' * (clips != 1)} of another writer")

    def show_workers(self, workers: int) -> None:
        if workers and not self.workers and not self.finished:
            self.unpause()  # the time left is that of clips, not of starting workers
        self.workers, seconds = workers, self.format_dict["elapsed"]
        text = f"clip {self.finished} of {self.clips}, {workers} worker{'s' * (workers != 1)}"
        self.set_description_str(text, refresh=False)
        self.set_postfix_str(f"{60 * self.finished / seconds:.1f} clips a minute" if self.finished and seconds else "")

    def finish(self, trial: Trial) -> None:
        """Count a clip, also one that failed half way or that somebody else made."""
        self.finished += 1
        self.steps_finished += trial.request.num_inference_steps
        if self.workers:
            self.show_workers(self.workers)
        self.update(self.steps_finished - self.n)
