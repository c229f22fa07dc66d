"""Measurements: what a setup takes in memory and time, found in a process of its own.

>>> row = measure(Setup("tiny"), Request(image="rocket"))
>>> row.measurement.step_seconds
>>> rows = profile(ladder("tiny", ["bf16", "single-token"]), "results/ladder")  # rung by rung, against the first

That process (`measured_process`) writes things down as they happen: whatever ends it, what it found is kept.
Nothing here imports more than torch, diffusers, transformers, accelerate and what those bring.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime, timezone
from math import ceil, log10
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import svdlab
from svdlab.atomic_files import scratch_folder
from svdlab.machine import Machine, best_device
from svdlab.media.images import image_sha256
from svdlab.profiling.measured_process import FRAMES, LINES
from svdlab.progress_bar import Progress
from svdlab.request import Request, conditioning
from svdlab.rows.measurement import Fidelity, Measurement
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, write_row
from svdlab.rows.row_key import row_key
from svdlab.rows.typed_json import from_plain
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.locks import claim, clear

if TYPE_CHECKING:
    import numpy as np

PSNR_CAP_DB = 100.0  # of equal pictures: `svdlab.quality.assess`'s, which needs OpenCV and scikit-image
_POINTS = 24  # of the timeline, for each stage
_LOG = "log.txt"  # what that process and its libraries print


def measure(
    setup: Setup,
    request: Request,
    *,
    repeats: int = 3,
    baseline: Path | None = None,
    frames: Path | None = None,
    memory_limit_bytes: int | None = None,
    timeout_seconds: float | None = None,
) -> Row:
    """A row with a `measurement`: a fresh process loads `setup`, then makes the clip once, then `repeats` times more.

    Its `stages` come in order: prepare (imports, downloads), load, and for each call encode, denoise (with the seconds
    of every step), decode, finish (pixels to pictures); each with the peaks in it. `timeline` is memory over time while
    loading, in the first call and in the next, `resident` what lay where; medians are its properties.

    The frames are kept in `frames`, an .npz, and compared with those in `baseline`, from an earlier measurement of the
    same request: `fidelity`. `memory_limit_bytes` asks how it would go with less: what torch may take on a card, else
    all data of the process (Linux). Running out of memory, crashing, or taking longer than `timeout_seconds` gives a
    failed row that says so, and holds what was measured until then.
    """
    trial = Trial(setup, request)
    asked = {"setup": trial.setup.to_json(), "request": trial.request.to_json(), "repeats": repeats}
    created = datetime.now(timezone.utc).isoformat()
    with scratch_folder(frames.parent if frames else Path(tempfile.gettempdir())) as scratch:
        made = scratch / FRAMES
        code = _run(asked | {"memory_limit_bytes": memory_limit_bytes}, scratch, timeout_seconds)
        events, facts = _found(scratch / LINES)
        error = None if facts.get("done") else _failure(events["stages"], facts, code, scratch / _LOG)
        measurement = from_plain(Measurement, events | {"memory_limit_bytes": memory_limit_bytes}, "measurement")
        if error is None and baseline is not None:
            measurement = dataclasses.replace(measurement, fidelity=fidelity(made, baseline))
        if error is None and frames is not None:
            made.replace(frames)
    medians = measurement.figures
    return Row(
        key=_key(trial, memory_limit_bytes),  # now that a commit has been fetched
        setup=dataclasses.replace(setup.resolved(), device=setup.device or best_device()),
        request=trial.request,
        status="done" if error is None else "failed",
        error=error,
        timings={name: value for name in ("sample_seconds", "decode_seconds") if (value := medians[name]) is not None},
        measurement=measurement,
        notes=tuple(facts.get("notes", ())),
        picture_sha256=image_sha256(conditioning(trial.request)),
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
    """The measured row of every trial (`ladder` makes them), each in a process of its own, all against the first.

    The first is measured twice: its `fidelity` is how near it comes to itself. Its frames stay in `folder`, an .npz.
    Rows that are there already stay as they are, whatever their repeats, the failed ones too unless `retry_failed`.
    Stopped at any moment, even by `kill -9`, the next call measures what is missing.
    """
    if not (trials := list(trials)):
        return []
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    keys = [_key(trial, memory_limit_bytes) for trial in trials]
    rows = {key: row for key in keys if (row := find_row(folder, key))}
    rows = {key: row for key, row in rows.items() if not (retry_failed and row.status == "failed")}
    todo = {key: trial for key, trial in zip(keys, trials, strict=True) if key not in rows}
    first, frames = trials[0], folder / f"{keys[0]}.npz"
    limits: Any = {"memory_limit_bytes": memory_limit_bytes, "timeout_seconds": timeout_seconds}
    with Progress(total=len(todo), unit="setup", disable=not (progress and todo)) as bar:
        if todo and keys[0] in rows and rows[keys[0]].status == "done" and not frames.exists():
            with claim(folder, keys[0]) as scratch:
                if measure(first.setup, first.request, repeats=0, frames=scratch / FRAMES, **limits).status == "done":
                    (scratch / FRAMES).replace(frames)
        for key, trial in todo.items():
            bar.set_postfix_str(str(trial))
            same = key != keys[0] and trial.request == first.request and frames.exists()
            with claim(folder, key) as scratch:
                options = limits | {"baseline": frames if same else None, "frames": scratch / FRAMES}
                row = measure(trial.setup, trial.request, repeats=repeats, **options)
                if key == keys[0] and row.status == "done":
                    again = measure(first.setup, first.request, repeats=0, baseline=scratch / FRAMES, **limits)
                    (scratch / FRAMES).replace(frames)
                    if row.measurement and again.measurement:
                        noise = again.measurement.fidelity
                        row = dataclasses.replace(row, measurement=dataclasses.replace(row.measurement, fidelity=noise))
                rows[key] = write_row(row, folder, scratch)
            bar.update()
    return [dataclasses.replace(rows[key], request=t.request, axes=t.axes) for key, t in zip(keys, trials, strict=True)]


def fidelity(frames: Path, baseline: Path) -> Fidelity:
    """How near the frames in one .npz come to those in another, as in `quality.assess.Difference`: `psnr_db` and `ssim`
    (means over the frames), `max_abs_levels` (of 255); and `latents_relative`, the latents' difference over their norm,
    which tells apart what 8 bits do not. Equal frames have 100, 1 and 0."""
    import numpy as np

    with np.load(frames) as one, np.load(baseline) as other:
        pairs = list(zip(one["frames"], other["frames"], strict=True))
        latents, wanted = one["latents"], other["latents"]
    errors = [((a.astype(float) - b) ** 2).mean() for a, b in pairs]
    return Fidelity(
        psnr_db=fmean(min(PSNR_CAP_DB, 10 * log10(255**2 / error)) if error else PSNR_CAP_DB for error in errors),
        ssim=fmean(ssim(a, b) for a, b in pairs),
        max_abs_levels=max(int(abs(a.astype(int) - b).max()) for a, b in pairs),
        latents_relative=float(np.linalg.norm(latents - wanted) / (np.linalg.norm(wanted) or 1)),
    )


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity, -1 to 1, of two RGB pictures (height, width, 3) of 0 to 255, at least 11 pixels a side.

    Of their luma, with the window and the constants of Wang et al. 2004; scikit-image's with `gaussian_weights`.
    """
    import numpy as np
    import torch
    from torch.nn.functional import conv2d

    x, y = (torch.from_numpy(picture @ np.array([0.299, 0.587, 0.114])) for picture in (one, other))
    window = torch.exp(-(torch.arange(-5.0, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    moments = torch.stack([x, y, x * x, y * y, x * y])[:, None]
    mx, my, xx, yy, xy = conv2d(conv2d(moments, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))[:, 0]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return float((likeness / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))).mean())


def _key(trial: Trial, memory_limit_bytes: int | None) -> str:
    also: dict[str, Any] = {"measured_on": (Machine.here().name, trial.setup.device or best_device())}
    if memory_limit_bytes is not None:
        also["memory_limit_bytes"] = memory_limit_bytes
    return row_key(trial.setup, trial.request, **also)


# --- the other process, from here ------------------------------------------------------------------------------------


def _run(asked: dict[str, Any], scratch: Path, timeout_seconds: float | None) -> int | None:
    """Its exit code; None if it took too long. It reads what is `asked` and writes into `scratch`."""
    root = str(Path(svdlab.__file__).parents[1])  # so that it finds this svdlab, wherever it is started
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with (scratch / _LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "svdlab.profiling.measured_process", str(scratch)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": path},
        )
        try:
            process.communicate(json.dumps(asked).encode(), timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()
            process.wait()
    return process.returncode


def _found(lines: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The measurement, and what else was written: notes, the reason of a failure, whether it was done."""
    stages, samples, resident, facts = [], [], [], {}
    for line in lines.read_text().splitlines() if lines.exists() else ():
        try:
            seconds, event, given = json.loads(line)
        except ValueError:  # torn: the process was killed
            break
        if event == "enter":
            stages.append({**given, "begun_seconds": seconds, "seconds": None, "peaks": {}})
            samples.append([])
        elif event in ("sample", "peaks"):
            if stages[-1]["seconds"] is not None:
                continue  # between two stages
            stages[-1]["peaks"] |= {name: max(n, stages[-1]["peaks"].get(name, 0)) for name, n in given.items()}
            if event == "sample":
                samples[-1].append({"seconds": seconds} | given)
        elif event == "leave":
            stages[-1] |= given | {"seconds": seconds - stages[-1]["begun_seconds"]}
        elif event == "resident":
            resident.append({"seconds": seconds} | given)
        else:
            facts |= given
    shown = []
    for stage, taken in zip(stages, samples, strict=True):
        if stage["stage"] != "prepare" and stage["call"] in (None, 0, 1):
            shown += _thinned(taken)
    return {
        "stages": stages,
        "before": shown[0] if shown else None,  # where loading begins: the imports have taken memory too
        **{name: facts.pop(name, None) for name in ("process_peak_bytes", "threads", "device_bytes_from")},
        "resident": resident,
        "timeline": {name: [point[name] for point in shown] for name in (shown[0] if shown else ())},
    }, facts


def _thinned(samples: list[dict[str, float]]) -> Iterable[dict[str, float]]:
    """At most `_POINTS`, the highest of their neighbours."""
    size = ceil(len(samples) / _POINTS)
    for start in range(0, len(samples), size or 1):
        near = samples[start : start + size]
        yield {name: near[0][name] if name == "seconds" else max(s[name] for s in near) for name in near[0]}


def _failure(stages: list[dict[str, Any]], facts: dict[str, Any], code: int | None, log: Path) -> str:
    """One sentence: where, at what memory, and why."""
    if "failed" in facts:
        reason = facts["failed"]
    elif code is None:
        reason = "it took longer than it was given."
    elif code == -signal.SIGKILL:
        reason = "the process was killed (SIGKILL), as the system does when memory runs out."
    else:
        how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        reason = f"the process {how}{f': {said[-1][:300]}' if said else ''}."
    if not stages:
        return f"Before anything was loaded: {reason}"
    last, on_card = stages[-1], "allocated_bytes" in stages[-1]["peaks"]
    peak = max(stage["peaks"].get("allocated_bytes" if on_card else "process_bytes", 0) for stage in stages) / 2**30
    call = "" if last["call"] is None else f" of call {last['call'] + 1}"
    what = "allocated" if on_card else "of process memory"
    return f"In {last['stage']}{call}, having reached {peak:.2f} GiB {what}: {reason}"
