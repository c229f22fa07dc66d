"""The process that is measured: it reads a setup and a request, loads, and makes the clip as often as it is told.

The question is the first line of its input. Each line after that asks for one more clip, and each clip is answered by a
line on its output. When the input ends, one clip more is made without a clock where the device does not count its own
memory: every tensor that PyTorch hands out is followed, which takes time.
What happens goes into a `memory_time_log`. `measure` starts the process, and reads what it leaves:

    python -m svdlab.profiling.measured_process FOLDER
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from svdlab.generation.generate import generate
from svdlab.machine import best_device, is_out_of_memory
from svdlab.messages import describe_error
from svdlab.pipelines import hub
from svdlab.pipelines.load import is_temporary, load
from svdlab.profiling.memory_time_log import EventLog
from svdlab.progress_bar import quiet_libraries
from svdlab.request import Request
from svdlab.rows.measurement import COUNTED_CALL
from svdlab.setup import Setup
from svdlab.variants import variant

PICTURE_FILE = "picture.png"  # what the model sees: in the folder before the process starts
# What the process leaves in its folder; the frames are those of its first and of its last timed clip.
FIRST_FRAMES_FILE, FRAMES_FILE = "first-frames.npz", "frames.npz"
CLIP_DONE = "A clip is measured.\n"  # the answer


def main() -> None:
    """Measure the setup and request of standard input into the folder that the command line names."""
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes into the log
    events = EventLog(folder)
    question = json.loads(sys.stdin.readline())
    try:
        _measure(question, folder, events, answers)
    except Exception as error:  # of any library below: it becomes the row's reason
        is_limited = question["memory_limit_bytes"] is not None
        temporary = not is_limited and is_temporary(error, Setup.from_json(question["setup"]))
        events.write("fact", failed=_reason(error), temporary=temporary)
        events.write_memory()
        raise SystemExit(1) from error  # the traceback goes into the log


def _measure(question: dict[str, Any], folder: Path, events: EventLog, answers: TextIO) -> None:
    import numpy as np
    import torch

    with quiet_libraries():
        import diffusers

        assert diffusers.StableVideoDiffusionPipeline  # its parts are imported when they are first named
    setup, request = Setup.from_json(question["setup"]), Request.from_json(question["request"])
    device = setup.device or best_device()
    events.write("fact", threads=torch.get_num_threads())
    events.watch_device(device)
    limit_bytes = question["memory_limit_bytes"]
    if limit_bytes is not None and device.startswith("cuda"):
        share = limit_bytes / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), torch.device(device).index)
    elif limit_bytes is not None:
        with suppress(ImportError):  # Windows has no such limits
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    if setup.weights == "hub":  # a download is no part of loading
        resolved = setup.resolved()  # to the commit in the cache, as for `load`
        hub.fetch(variant(setup.variant), half=resolved.dtype != "fp32", revision=resolved.revision)
    with Image.open(folder / PICTURE_FILE) as file:
        picture = file.convert("RGB")
    events.end_stage()
    events.begin_stage("load")
    pipeline = load(setup)
    events.end_stage()
    on_step = events.watch_stages(pipeline)

    def make_clip(call: int) -> Any:
        events.call = call
        events.begin_stage("encode")
        clip: Any = generate(pipeline, request, on_step=on_step, progress=False, picture=picture)
        events.end_stage()
        return clip

    def save_frames(clip: Any, name: str) -> None:
        frames = np.stack([np.asarray(frame) for frame in clip.frames])
        np.savez(folder / name, frames=frames, latents=clip.latents.float().numpy())

    clip, count = make_clip(0), 1
    save_frames(clip, FIRST_FRAMES_FILE)
    answers.write(CLIP_DONE)
    while sys.stdin.readline():
        clip, count = make_clip(count), count + 1
        answers.write(CLIP_DONE)
    save_frames(clip, FRAMES_FILE)
    notes = clip.notes
    if any(o.name.startswith("compile-") for o, _ in setup.parsed) and not device.startswith("cuda"):
        notes += ("Memory is that of the process: compiled kernels allocate where no mode of PyTorch looks.",)
    elif not device.startswith("cuda"):
        with events.count_tensors(pipeline):
            make_clip(COUNTED_CALL)
    events.write("fact", done=True, notes=notes)


def _reason(error: Exception) -> str:
    if not is_out_of_memory(error):
        return describe_error(error)
    if size := re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE):  # torch's words
        return f"out of memory, it tried to allocate {size[1]} more."
    text = describe_error(error)
    return text if text.lower().startswith("out of memory") else f"out of memory: {text}"


if __name__ == "__main__":
    main()
