"""What a setup takes in memory and time, measured in a process of its own.

`measure` starts a fresh process for one setup and makes a row of the events that it wrote (`measured_process`). So no
setup inherits the memory or the compiled code of another one, and whatever ends the process, what was known until then
is in the row. `profile` measures the rungs of a ladder one after another and compares their frames with the first's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime, timezone
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

import svdlab
from svdlab.atomic_files import clear_leftovers, scratch_folder
from svdlab.machine import Machine
from svdlab.media.images import image_sha256
from svdlab.messages import first_line
from svdlab.profiling.measured_process import EVENTS_FILE, FRAMES_FILE, PICTURE_FILE
from svdlab.progress_bar import Progress
from svdlab.quality.likeness import psnr, ssim
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


def measure(
    setup: Setup,
    request: Request,
    *,
    repeats: int = 3,
    baseline: Path | None = None,
    frames: Path | None = None,
    memory_limit_bytes: int | None = None,
    timeout_seconds: float | None = None,
    picture: Image.Image | None = None,
) -> Row:
    """Measure one setup: a fresh process loads it, makes the clip once, then `repeats` times more.

    Args:
        setup: How the model runs.
        request: The clip to make.
        repeats: Calls after the first one, whose medians the measurement gives.
        baseline: An .npz of frames from an earlier measurement of the same request, to compare with.
        frames: Where the frames are kept, an .npz. Default: they are not kept.
        memory_limit_bytes: Of torch on a card, of all the process's data elsewhere (Linux). Default: all there is.
        timeout_seconds: When the process is stopped. Default: never.
        picture: What the model sees. Default: the request's image, read and fitted once.

    Returns:
        A row whose `measurement` holds stages, peaks, medians and memory over time. If the process ran out of memory,
        crashed or took too long, its status is "failed", `error` says why, and the measurement reaches until then.

    Example:
        >>> row = measured[0]  # as `measure(Setup("tiny"), Request(image="rocket"), repeats=1)` returns it
        >>> row.measurement.clip_seconds > row.measurement.step_seconds > 0
        True
    """
    trial = Trial(setup, request)
    picture = conditioning(trial.request) if picture is None else picture
    created = datetime.now(timezone.utc).isoformat()
    parent = frames.parent if frames else Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(parent)
    with scratch_folder(parent) as scratch:
        question = {"setup": setup.to_json(), "request": trial.request.to_json(), "repeats": repeats}
        question["memory_limit_bytes"] = memory_limit_bytes
        picture.save(scratch / PICTURE_FILE)
        exit_code = _run_measured_process(question, scratch, timeout_seconds)
        measurement, facts = _read_events(scratch / EVENTS_FILE)
        error = None if facts.get("done") else _failure(measurement, facts, exit_code, scratch / _LOG_FILE)
        likeness = _fidelity(scratch / FRAMES_FILE, baseline) if baseline and error is None else Fidelity()
        measurement = dataclasses.replace(measurement, memory_limit_bytes=memory_limit_bytes, fidelity=likeness)
        if frames and error is None:
            (scratch / FRAMES_FILE).replace(frames)
    timings = {"sample_seconds": measurement.sample_seconds, "decode_seconds": measurement.decode_seconds}
    return Row(
        key=_measurement_key(trial, picture, memory_limit_bytes),  # now that a commit has been fetched
        setup=setup.resolved(),
        request=trial.request,
        status="done" if error is None else "failed",
        error=error,
        timings={name: seconds for name, seconds in timings.items() if seconds is not None},
        measurement=measurement,
        notes=tuple(facts.get("notes", ())),
        picture_sha256=image_sha256(picture),
        machine=Machine.here(),
        created=created,
        version=svdlab.__version__,
    )


def profile(
    trials: Iterable[Trial],
    folder: str | Path,
    *,
    repeats: int = 3,
    retry_failed: bool = False,
    memory_limit_bytes: int | None = None,
    timeout_seconds: float | None = None,
    progress: bool = True,
) -> list[Row]:
    """Measure a ladder, rung by rung, each in a process of its own; its frames are compared with the first rung's.

    The first rung is measured twice: its `fidelity` says how much two runs of the same setup differ. Rows that the
    folder has already are not measured again, whatever their `repeats`. Stopped at any moment, even by `kill -9`, the
    next call measures what is missing. A rung that another process is measuring is waited for.

    Args:
        trials: The rungs, as `ladder` returns them.
        folder: Where the rows are, and the first rung's frames; it is made if it is missing.
        repeats: Calls after the first one, in each process.
        retry_failed: Whether rungs that failed in an earlier call are measured again.
        memory_limit_bytes, timeout_seconds: Of each process, as for `measure`.
        progress: Whether a bar shows which rung is measured.

    Returns:
        The rows in the order of the trials, the failed ones with their reasons.

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
    first, frames = trials[0], folder / f"{keys[0]}.npz"
    limits: Any = {"memory_limit_bytes": memory_limit_bytes, "timeout_seconds": timeout_seconds}
    rows = {key: row for key in keys if (row := find_row(folder, key))}
    replaced = {key: row.created for key, row in rows.items() if retry_failed and row.status == "failed"}
    missing = {key: t for key, t in zip(keys, trials, strict=True) if key not in rows or key in replaced}

    def measure_rung(key: str, trial: Trial, scratch: Path) -> Row:
        comparable = key != keys[0] and trial.request == first.request and frames.exists()
        baseline, own_frames = frames if comparable else None, scratch / FRAMES_FILE
        options = limits | {"picture": pictures[trial.request]}
        row = measure(trial.setup, trial.request, repeats=repeats, baseline=baseline, frames=own_frames, **options)
        if key == keys[0] and row.measurement and row.status == "done":
            again = measure(trial.setup, trial.request, repeats=0, baseline=own_frames, **options)
            own_frames.replace(frames)
            noise = again.measurement.fidelity if again.measurement else Fidelity()
            row = dataclasses.replace(row, measurement=dataclasses.replace(row.measurement, fidelity=noise))
        return row

    def find_or_measure(key: str, trial: Trial) -> Row:
        while True:
            with claim(folder, key) as scratch:
                if not is_contested(scratch):
                    row = find_row(folder, key)  # another process may have written it meanwhile
                    if row is None or row.created == replaced.get(key):
                        row = write_row(measure_rung(key, trial, scratch), folder, scratch)
                    return row
            time.sleep(random.uniform(0.5, 1))  # by chance, so that two who give way to each other do not go on so

    with Progress(total=len(missing), unit="setup", disable=not (progress and missing)) as bar:
        if missing and keys[0] not in missing and rows[keys[0]].status == "done" and not frames.exists():
            with claim(folder, f"{keys[0]}-frames") as scratch:
                options = limits | {"picture": pictures[first.request]}
                measure(first.setup, first.request, repeats=0, frames=scratch / FRAMES_FILE, **options)
                if (scratch / FRAMES_FILE).exists():
                    (scratch / FRAMES_FILE).replace(frames)
        for key, trial in missing.items():
            bar.set_postfix_str(str(trial))
            rows[key] = find_or_measure(key, trial)
            bar.update()
    return [dataclasses.replace(rows[key], request=t.request, axes=t.axes) for key, t in zip(keys, trials, strict=True)]


def _fidelity(frames: Path, baseline: Path) -> Fidelity:
    with np.load(frames) as one, np.load(baseline) as other:
        pairs = list(zip(one["frames"], other["frames"], strict=True))
        latents, baseline_latents = one["latents"], other["latents"]
    return Fidelity(
        psnr_db=fmean(psnr(a, b) for a, b in pairs),
        ssim=fmean(ssim(a, b) for a, b in pairs),
        max_abs_levels=max(int(abs(a.astype(int) - b).max()) for a, b in pairs),
        latents_relative=float(np.linalg.norm(latents - baseline_latents) / (np.linalg.norm(baseline_latents) or 1)),
    )


def _measurement_key(trial: Trial, picture: Image.Image, memory_limit_bytes: int | None) -> str:
    apart: dict[str, Any] = {"measured_on": (Machine.here().name, trial.setup.resolved().device)}
    if memory_limit_bytes is not None:
        apart["memory_limit_bytes"] = memory_limit_bytes
    return row_key(trial.setup, trial.request, image_sha256(picture), **apart)


def _run_measured_process(question: dict[str, Any], scratch: Path, timeout_seconds: float | None) -> int | None:
    """Its exit code; None if it took too long."""
    root = str(Path(svdlab.__file__).parents[1])  # so that it imports this svdlab, wherever it is started
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "svdlab.profiling.measured_process", str(scratch)]
    environment = os.environ | {"PYTHONPATH": path}
    with (scratch / _LOG_FILE).open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        try:
            process.communicate(json.dumps(question).encode(), timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()
            process.wait()
    return process.returncode


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
            stages[-1]["step_seconds"] = tuple(given["step_seconds"])
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
        process_peak_bytes=facts.get("process_peak_bytes"),
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
