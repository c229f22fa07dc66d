"""What one setup takes in memory and time, measured in a process of its own.

A fresh process (`measured_process`) makes the clip and writes down what happens; here it is started, asked for one clip
after another, and what it left becomes a row. So no setup inherits the memory or the compiled code of another one, and
whatever ends the process, what was known until then is in the row.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import svdlab
from svdlab.machine import Machine
from svdlab.media.images import image_sha256
from svdlab.messages import first_line
from svdlab.profiling.measured_process import CLIP_DONE, FRAMES_FILE, PICTURE_FILE
from svdlab.profiling.memory_time_log import EVENTS_FILE, read_events
from svdlab.quality.assess import difference
from svdlab.request import Request, conditioning
from svdlab.rows.measurement import Fidelity, Measurement
from svdlab.rows.row import Row
from svdlab.rows.row_key import row_key
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial

_LOG_FILE = "log.txt"  # what the measured process and its libraries print


def measure(
    setup: Setup,
    request: Request,
    *,
    repeats: int = 5,
    memory_limit_bytes: float | None = None,
    timeout_seconds: float | None = None,
) -> Row:
    """Measure one setup: a fresh process loads it, makes the clip once, then `repeats` times more.

    Args:
        setup: How the model runs.
        request: The clip to make.
        repeats: Calls after the first one, whose medians the measurement gives; with 0 there are none.
        memory_limit_bytes: Of torch on a card; on a processor of all the process's data, which only Linux enforces.
            Default: all there is.
        timeout_seconds: The process is stopped after so many seconds of loading and making clips. Default: never.

    Returns:
        A row whose `measurement` holds stages, peaks, medians and memory over time. If the process ran out of memory,
        crashed or took too long, its status is "failed", `error` says why, and the measurement reaches until then.
        Nothing is written into a folder, no clip is kept, and no frames are compared: `profile` does that.

    Raises:
        ValueError: If the picture cannot be read, or the setup cannot make the request.

    Example:
        >>> row = measured[0]  # as `measure(Setup("tiny"), Request(image="rocket"), repeats=1)` returns it
        >>> row.measurement.clip_seconds > row.measurement.step_seconds > 0
        True
    """
    limit_bytes = None if memory_limit_bytes is None else int(memory_limit_bytes)  # which may be 6e9
    trial, limits = Trial(setup, request), (limit_bytes, timeout_seconds)
    picture = conditioning(trial.request)
    with TemporaryDirectory() as scratch, MeasuredProcess(trial, picture, Path(scratch), *limits) as process:
        for _ in range(repeats):
            process.make_clip()
        return process.finish()


class MeasuredProcess:
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
        self.created = datetime.now(UTC).isoformat()
        self._seconds_left, self._was_stopped = timeout_seconds or threading.TIMEOUT_MAX, False
        picture.save(scratch / PICTURE_FILE)
        root = str(Path(svdlab.__file__).parents[1])  # so that it imports this svdlab, wherever it is started
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "svdlab.profiling.measured_process", str(scratch)]
        with (scratch / _LOG_FILE).open("wb") as log:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            self._process: Any = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, **pipes)
        question = {"setup": trial.setup.to_json(), "request": trial.request.to_json()}
        try:
            self._write_and_wait(json.dumps(question | {"memory_limit_bytes": memory_limit_bytes}))
        except BaseException:  # Ctrl-C, above all: the process would go on with its clip
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> MeasuredProcess:
        return self

    def __exit__(self, *ended: Any) -> None:
        self._process.kill()
        with suppress(OSError):  # from closing its pipes
            self._process.__exit__(*ended)

    def make_clip(self) -> None:
        """Have one more clip made, and wait for it."""
        self._write_and_wait("")

    def finish(self, baseline: Path | None = None, baseline_key: str | None = None) -> Row:
        """The row, its frames compared with those in the .npz `baseline`, of the row `baseline_key` (default: this)."""
        self._write_and_wait(None)
        exit_code = self._process.wait()
        measurement, facts = read_events(self.scratch / EVENTS_FILE)
        key = measurement_key(self.trial, self.picture, self.memory_limit_bytes)  # now that a commit was fetched
        setup, error, fidelity = self.trial.setup.resolved(), None, Fidelity()
        if not facts.get("done"):
            error = _failure(measurement, facts, None if self._was_stopped else exit_code, self.scratch / _LOG_FILE)
        elif baseline:
            fidelity = _fidelity(self.scratch / FRAMES_FILE, baseline, baseline_key or key)
        measurement = dataclasses.replace(measurement, memory_limit_bytes=self.memory_limit_bytes, fidelity=fidelity)
        timings = {"sample_seconds": measurement.sample_seconds, "decode_seconds": measurement.decode_seconds}
        return Row(
            key=key,
            setup=setup,
            request=self.trial.request,
            status="done" if error is None else "failed",
            error=error,
            temporary=facts.get("temporary", False),
            timings={name: seconds for name, seconds in timings.items() if seconds is not None},
            measurement=measurement,
            notes=tuple(facts.get("notes", ())),
            picture_sha256=image_sha256(self.picture),
            machine=Machine.here(setup.device),
            created=self.created,
            version=svdlab.__version__,
        )

    def _write_and_wait(self, line: str | None) -> None:
        """Write a line, or end the input, and wait until a clip is done or the process has ended."""
        start, stop = time.monotonic(), threading.Timer(self._seconds_left, self._stop)
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
            self._seconds_left -= time.monotonic() - start

    def _stop(self) -> None:
        self._was_stopped = True
        self._process.kill()


def measurement_key(trial: Trial, picture: Image.Image, memory_limit_bytes: int | None) -> str:
    """The key of a measured row: the machine and the limit are parts of its question.

    Args:
        trial: what is measured.
        picture: the request's image as the model sees it.
        memory_limit_bytes: of the process; None for no limit.
    """
    device = trial.setup.resolved().device
    key_fields: dict[str, Any] = {"measured_on": (Machine.here(device).name, device)}
    if memory_limit_bytes is not None:
        key_fields["memory_limit_bytes"] = memory_limit_bytes
    return row_key(trial.setup, trial.request, image_sha256(picture), **key_fields)


def _fidelity(frames: Path, baseline: Path, baseline_key: str) -> Fidelity:
    with np.load(frames) as one, np.load(baseline) as other:
        clips = ([Image.fromarray(frame) for frame in file["frames"]] for file in (one, other))
        latents, baseline_latents = one["latents"], other["latents"]
        distance = difference(*clips)
    relative = float(np.linalg.norm(latents - baseline_latents) / (np.linalg.norm(baseline_latents) or 1))
    return Fidelity(distance.psnr_db, distance.ssim, distance.max_abs_levels, relative, baseline_key)


def _failure(measurement: Measurement, facts: dict[str, Any], exit_code: int | None, log: Path) -> str:
    """One sentence: in which stage, at how much memory, and why."""
    if "failed" in facts:
        reason = facts["failed"]
    elif exit_code is None:
        reason = "it took longer than it was given."
    elif exit_code == -9:
        reason = "the process was killed (SIGKILL), as the system does when memory runs out."
    else:
        ending = f"crashed ({signal.Signals(-exit_code).name})" if exit_code < 0 else f"ended with code {exit_code}"
        last_line = first_line("\n".join(reversed(log.read_text(errors="replace").splitlines())))
        reason = f"the process {ending}: {last_line}."
    if not measurement.stages:
        return f"Before anything was loaded: {reason}"
    stage, on_card = measurement.stages[-1], measurement.peak_allocated_bytes is not None
    peak = (measurement.peak_allocated_bytes if on_card else measurement.peak_process_bytes) or 0
    call = "" if stage.call is None else f" of call {stage.call + 1}"
    kind = "allocated" if on_card else "of process memory"
    return f"In {stage.stage}{call}, having reached {peak / 2**30:.2f} GiB {kind}: {reason}"
