"""What a setup takes in memory and time, measured in a process of its own.

`measure` starts a fresh process for one setup and makes a row of the events that it wrote (`measured_process`). So no
setup inherits the memory or the compiled code of another one, and whatever ends the process, what was known until then
is in the row. `profile` measures the rungs of a ladder and compares their frames with the first's. Where several
processes fit into the machine side by side, they make clips in turn: what else the machine does then meets them all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import svdlab
from svdlab.atomic_files import clear_leftovers
from svdlab.machine import Machine, best_device, free_bytes
from svdlab.media.images import image_sha256
from svdlab.messages import first_line
from svdlab.prediction.estimate import estimate
from svdlab.profiling.measured_process import CLIP_DONE, EVENTS_FILE, FIRST_FRAMES_FILE, FRAMES_FILE, PICTURE_FILE
from svdlab.progress_bar import Progress
from svdlab.quality.assess import difference
from svdlab.request import Request, conditioning
from svdlab.rows.measurement import Fidelity, MeasuredStage, Measurement
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, write_row
from svdlab.rows.row_key import row_key
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.locks import claim, is_contested

_TIMELINE_POINTS = 24  # of each stage
_LOG_FILE = "log.txt"  # what the measured process and its libraries print
_PROCESS_BYTES = 2**30  # of a measured process beside its tensors: the libraries, and room


def measure(
    setup: Setup,
    request: Request,
    *,
    repeats: int = 5,
    memory_limit_bytes: int | None = None,
    timeout_seconds: float | None = None,
) -> Row:
    """Measure one setup: a fresh process loads it, makes the clip once, then `repeats` times more.

    Args:
        setup: How the model runs.
        request: The clip to make.
        repeats: Calls after the first one, whose medians the measurement gives.
        memory_limit_bytes: Of torch on a card, of all the process's data elsewhere (Linux). Default: all there is.
        timeout_seconds: After so much work the process is stopped. Default: never.

    Returns:
        A row whose `measurement` holds stages, peaks, medians and memory over time. If the process ran out of memory,
        crashed or took too long, its status is "failed", `error` says why, and the measurement reaches until then.

    Example:
        >>> row = measured[0]  # as `measure(Setup("tiny"), Request(image="rocket"), repeats=1)` returns it
        >>> row.measurement.clip_seconds > row.measurement.step_seconds > 0
        True
    """
    trial, limits = Trial(setup, request), (memory_limit_bytes, timeout_seconds)
    picture = conditioning(trial.request)
    with TemporaryDirectory() as scratch, _MeasuredProcess(trial, picture, Path(scratch), *limits) as process:
        for _ in range(repeats):
            process.make_clip()
        return process.finish()


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
    with less memory, they run one after another. The first rung's `fidelity` compares two clips of its own. Rows that
    the folder has already are not measured again, whatever their `repeats`. Stopped at any moment, even by `kill -9`,
    the next call measures what is missing, and waits for what other processes are measuring.

    Args:
        trials: The rungs, as `ladder` returns them.
        folder: Where the rows are, and the first rung's frames; it is made if it is missing.
        repeats: Calls after the first one, in each process.
        retry_failed: Whether rungs that failed in an earlier call are measured again.
        memory_limit_bytes: The most for each process: torch's on a card, all its data elsewhere (Linux). Default: none.
        timeout_seconds: After so much work a process is stopped. Default: never.
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
    keys = [_measurement_key(trial, pictures[trial.request], memory_limit_bytes) for trial in trials]
    every, frames = dict(zip(keys, trials, strict=True)), folder / f"{keys[0]}.npz"
    rows = {key: row for key in every if (row := find_row(folder, key))}
    failed = {key: rows.pop(key).created for key in [*rows] if retry_failed and rows[key].status == "failed"}

    def start(key: str, scratch: Path) -> _MeasuredProcess:
        trial = every[key]
        return _MeasuredProcess(trial, pictures[trial.request], scratch, memory_limit_bytes, timeout_seconds)

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


class _MeasuredProcess:
    """A fresh process that has made its first clip; `make_clip` makes another one, `finish` gives the row."""

    def __init__(
        self,
        trial: Trial,
        picture: Image.Image,
        scratch: Path,
        memory_limit_bytes: int | None,
        timeout_seconds: float | None,
    ) -> None:
        self.trial, self.picture, self.scratch, self.memory_limit_bytes = trial, picture, scratch, memory_limit_bytes
        self.created = datetime.now(timezone.utc).isoformat()
        self._seconds_left, self._was_stopped = timeout_seconds or threading.TIMEOUT_MAX, False
        picture.save(scratch / PICTURE_FILE)
        root = str(Path(svdlab.__file__).parents[1])  # so that it imports this svdlab, wherever it is started
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "svdlab.profiling.measured_process", str(scratch)]
        with (scratch / _LOG_FILE).open("wb") as log:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            self._process: Any = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, **pipes)
        question = {"setup": trial.setup.to_json(), "request": trial.request.to_json()}
        self._write_and_wait(json.dumps(question | {"memory_limit_bytes": memory_limit_bytes}))

    def __enter__(self) -> _MeasuredProcess:
        return self

    def __exit__(self, *ended: Any) -> None:
        self._process.kill()
        with suppress(OSError):  # from closing its pipes
            self._process.__exit__(*ended)

    def make_clip(self) -> None:
        self._write_and_wait("")

    def finish(self, baseline: Path | None = None) -> Row:
        """The row, its frames compared with those of an .npz."""
        self._write_and_wait(None)
        exit_code = self._process.wait()
        measurement, facts = _read_events(self.scratch / EVENTS_FILE)
        error, fidelity = None, Fidelity()
        if not facts.get("done"):
            error = _failure(measurement, facts, None if self._was_stopped else exit_code, self.scratch / _LOG_FILE)
        elif baseline:
            fidelity = _fidelity(self.scratch / FRAMES_FILE, baseline)
        measurement = dataclasses.replace(measurement, memory_limit_bytes=self.memory_limit_bytes, fidelity=fidelity)
        timings = {"sample_seconds": measurement.sample_seconds, "decode_seconds": measurement.decode_seconds}
        return Row(
            key=_measurement_key(self.trial, self.picture, self.memory_limit_bytes),  # now that a commit was fetched
            setup=self.trial.setup.resolved(),
            request=self.trial.request,
            status="done" if error is None else "failed",
            error=error,
            timings={name: seconds for name, seconds in timings.items() if seconds is not None},
            measurement=measurement,
            notes=tuple(facts.get("notes", ())),
            picture_sha256=image_sha256(self.picture),
            machine=Machine.here(),
            created=self.created,
            version=svdlab.__version__,
        )

    def _write_and_wait(self, line: str | None) -> None:
        """Write a line, or end the input, and wait until a clip is done or the process has ended."""
        begun, stop = time.monotonic(), threading.Timer(self._seconds_left, self._stop)
        stop.start()
        with suppress(OSError):  # it has ended
            if line is None:
                self._process.stdin.close()
            else:
                self._process.stdin.write(f"{line}\n")
                self._process.stdin.flush()
        try:
            next((answer for answer in self._process.stdout if answer.endswith(CLIP_DONE)), None)
        finally:
            stop.cancel()
            self._seconds_left -= time.monotonic() - begun

    def _stop(self) -> None:
        self._was_stopped = True
        self._process.kill()


def _fidelity(frames: Path, baseline: Path) -> Fidelity:
    with np.load(frames) as one, np.load(baseline) as other:
        clips = ([Image.fromarray(frame) for frame in file["frames"]] for file in (one, other))
        latents, baseline_latents = one["latents"], other["latents"]
        distance = difference(*clips)
    relative = float(np.linalg.norm(latents - baseline_latents) / (np.linalg.norm(baseline_latents) or 1))
    return Fidelity(distance.psnr_db, distance.ssim, distance.max_abs_levels, relative)


def _measurement_key(trial: Trial, picture: Image.Image, memory_limit_bytes: int | None) -> str:
    apart: dict[str, Any] = {"measured_on": (Machine.here().name, trial.setup.resolved().device)}
    if memory_limit_bytes is not None:
        apart["memory_limit_bytes"] = memory_limit_bytes
    return row_key(trial.setup, trial.request, image_sha256(picture), **apart)


def _read_events(file: Path) -> tuple[Measurement, dict[str, Any]]:
    """What the events add up to, and the other facts: notes, the reason of a failure, whether all was done."""
    stages, samples, resident, facts = [], [], [], {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            seconds, event, given = json.loads(line)
        except ValueError:  # cut short: the process was killed
            break
        if event == "begin":
            stages.append({**given, "begun_seconds": seconds, "seconds": None, "peaks": {}})
            samples.append([])
        elif event == "end":
            stages[-1]["seconds"] = seconds - stages[-1]["begun_seconds"]
            stages[-1] |= {"step_seconds": tuple(given["step_seconds"]), "others_busy": given["others_busy"]}
        elif event in ("sample", "peaks") and stages[-1]["seconds"] is None:  # not between two stages
            stages[-1]["peaks"] |= {name: max(n, stages[-1]["peaks"].get(name, 0)) for name, n in given.items()}
            if event == "sample":
                samples[-1].append({"seconds": seconds} | given)
        elif event == "resident":
            resident.append({"seconds": seconds} | given)
        elif event == "fact":
            facts |= given
    points = [
        point
        for stage, stage_samples in zip(stages, samples, strict=True)
        if stage["stage"] != "prepare" and stage["call"] in (None, 0, 1)
        for point in _thin_out(stage_samples)
    ]
    names = points[0] if points else ()
    measurement = Measurement(
        stages=tuple(MeasuredStage(**stage) for stage in stages),
        before=points[0] if points else {},  # where loading begins: the imports have taken memory too
        threads=facts.get("threads"),
        resident=tuple(resident),
        timeline={name: tuple(point[name] for point in points) for name in names},
    )
    return measurement, facts


def _thin_out(samples: list[dict[str, float]]) -> Iterable[dict[str, float]]:
    """At most `_TIMELINE_POINTS`, each the highest of its neighbours."""
    size = ceil(len(samples) / _TIMELINE_POINTS) or 1
    for start in range(0, len(samples), size):
        near = samples[start : start + size]
        yield {name: near[0][name] if name == "seconds" else max(s[name] for s in near) for name in near[0]}


def _failure(measurement: Measurement, facts: dict[str, Any], exit_code: int | None, log: Path) -> str:
    """One sentence: in which stage, at how much memory, and why."""
    if "failed" in facts:
        reason = facts["failed"]
    elif exit_code is None:
        reason = "it took longer than it was given."
    elif exit_code == -9:
        reason = "the process was killed (SIGKILL), as the system does when memory runs out."
    else:
        how = f"crashed ({signal.Signals(-exit_code).name})" if exit_code < 0 else f"ended with code {exit_code}"
        last_line = first_line("\n".join(reversed(log.read_text(errors="replace").splitlines())))
        reason = f"the process {how}: {last_line}."
    if not measurement.stages:
        return f"Before anything was loaded: {reason}"
    stage, on_card = measurement.stages[-1], measurement.peak_allocated_bytes is not None
    peak = (measurement.peak_allocated_bytes if on_card else measurement.peak_process_bytes) or 0
    call = "" if stage.call is None else f" of call {stage.call + 1}"
    kind = "allocated" if on_card else "of process memory"
    return f"In {stage.stage}{call}, having reached {peak / 2**30:.2f} GiB {kind}: {reason}"
