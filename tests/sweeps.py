"""Sweeps for tests: trials of two frames and one step, what must be in their folder afterwards, processes to kill."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import warnings
from pathlib import Path

from tqdm import tqdm

from svdlab.rows.row_files import read_rows
from svdlab.rows.row_key import row_key
from svdlab.sweeps.grid import Trial, grid
from svdlab.sweeps.run import run


def make_trials(setup, make_request, steps: int = 1, **axes) -> list[Trial]:
    return grid(setup, make_request(num_inference_steps=steps, num_frames=2, decode_chunk_size=2), **axes)


def run_quietly(trials, folder, **options):
    return run(trials, folder, **{"progress": False, "quality": False} | options)


def check_folder(folder: Path, trials: list[Trial], failed: int = 0) -> None:
    """Every row is there once, those that are done with a clip that decodes, and nothing else is."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rows = read_rows(folder)
    assert sorted(row.key for row in rows) == sorted(row_key(t.setup, t.request) for t in trials)
    assert [row.status for row in rows].count("failed") == failed
    for row in rows:
        assert row.status == "failed" or len(row.open().frames) == row.request.num_frames
    suffixes = {"done": (".json", ".mp4", ".preview.webp"), "failed": (".failed.json",)}
    names = {row.key + suffix for row in rows for suffix in suffixes[row.status]}
    assert {path.name for path in folder.iterdir() if path.suffix != ".png"} == names


def fork(work) -> int:
    """The process id of a child that does `work` and ends; it has torch and the pipeline already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        code = 1
        try:
            tqdm.set_lock(threading.RLock())  # its own is shared with forks, and would stay locked by a killed one
            work()
            code = 0
        finally:
            os._exit(code)
    return process


def die_at_call(name: str, number: int, after: bool) -> None:
    """Let this process kill itself at the `number`-th call of `os.<name>`, before it or after it."""
    real, count = getattr(os, name), itertools.count(1)

    def deadly(*arguments, **options):
        die = next(count) == number
        if die and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        value = real(*arguments, **options)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(os, name, deadly)
