"""The process that is measured: it reads a setup and a request, loads, and makes the clip as often as it is told.

The question is the first line of its input. Each line after that asks for one more clip, and each clip is answered by a
line on its output. When the input ends, one clip more is made without a clock where the device does not count its own
memory: every tensor that PyTorch hands out is followed, which takes time.
Its stages are "prepare" (imports, downloads), "load", and for each clip "encode", "denoise", "decode" and "finish"
(pixels to pictures). Each event is written at once, as one line of JSON: [seconds, event, facts]. A process that is
killed leaves all that was known until then. `profile` starts it, and reads what it leaves:

    python -m svdlab.profiling.measured_process FOLDER
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from PIL import Image

from svdlab.generation.generate import generate
from svdlab.machine import best_device, is_out_of_memory, synchronize
from svdlab.messages import describe_error
from svdlab.pipelines import hub
from svdlab.pipelines.load import load
from svdlab.prediction.fake_run import meter_class
from svdlab.progress_bar import quiet_libraries
from svdlab.request import Request
from svdlab.rows.measurement import COUNTED_CALL
from svdlab.setup import Setup
from svdlab.variants import variant

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

PICTURE_FILE = "picture.png"  # what the model sees: in the folder before the process starts
# What the process leaves in its folder; the frames are those of its first and of its last timed clip.
EVENTS_FILE, FIRST_FRAMES_FILE, FRAMES_FILE = "events.jsonl", "first-frames.npz", "frames.npz"
CLIP_DONE = "A clip is measured.\n"  # the answer


def main() -> None:
    """Measure the setup and request of standard input into the folder that the command line names."""
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes into the log
    events = _EventLog(folder)
    try:
        _measure(json.loads(sys.stdin.readline()), folder, events, answers)
    except Exception as error:  # of any library below: it becomes the row's reason
        events.write("fact", failed=_reason(error))
        events.write_memory()
        raise SystemExit(1) from error  # the traceback goes into the log


def _measure(question: dict[str, Any], folder: Path, events: _EventLog, answers: TextIO) -> None:
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
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), torch.device(device))
    elif limit_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    if setup.weights == "hub":  # a download is no part of loading
        hub.fetch(variant(setup.variant), half=setup.resolved().dtype != "fp32", revision=setup.revision)
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
    # Kernels that are compiled allocate for themselves, where no mode of PyTorch looks.
    if not device.startswith("cuda") and not any(o.name.startswith("compile-") for o, _ in setup.parsed):
        with events.count_tensors(pipeline):
            make_clip(COUNTED_CALL)
    events.write("fact", done=True, notes=clip.notes)


class _EventLog:
    """Writes events into a file as they happen; a thread of its own adds samples of the memory."""

    def __init__(self, folder: Path) -> None:
        import psutil

        self.call: int | None = None  # the number of the clip that is being made
        self._file = os.open(folder / EVENTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._process, self._parent = psutil.Process(), os.getppid()
        self._device, self._card = "cpu", None  # what is waited for; the CUDA device that is measured
        self._meter: Any = None  # what follows tensors where no card counts them
        self._sampling = threading.Lock()
        self._started = time.perf_counter()
        self._step_seconds: list[float] = []
        self._weights: dict[str, dict[str, int]] = {}
        self._working = threading.Event()
        self.begin_stage("prepare")
        threading.Thread(target=self._sample_until_orphaned, daemon=True).start()

    def write(self, event: str, **facts: Any) -> None:
        line = json.dumps([time.perf_counter() - self._started, event, facts])
        os.write(self._file, f"{line}\n".encode())  # in one call, so that the lines of two threads do not mix

    def watch_device(self, device: str) -> None:
        """Measure this device too from now on, and wait for its work where a stage or a step ends."""
        import torch

        self._device = device
        if device.startswith("cuda"):
            torch.cuda.init()
            with self._sampling:
                self._cuda, self._card = torch.cuda, torch.device(device)

    @contextmanager
    def count_tensors(self, pipeline: StableVideoDiffusionPipeline) -> Iterator[None]:
        """Follow the pipeline's weights and every tensor that PyTorch hands out meanwhile."""
        self._meter = meter_class()()
        self._meter.count_modules(getattr(pipeline, name) for name in hub.COMPONENTS)
        with self._meter:
            yield

    def begin_stage(self, stage: str) -> None:
        if self._card:
            self._cuda.reset_peak_memory_stats(self._card)
        if self._meter:
            self._meter.peak_bytes = self._meter.live_bytes
        self.write("begin", stage=stage, call=self.call)
        self._write_sample()
        self._working.set()
        self._busy_before, self._mark = _busy_seconds(), time.perf_counter()

    def end_stage(self) -> None:
        synchronize(self._device)
        busy, own, seconds = (after - before for after, before in zip(_busy_seconds(), self._busy_before, strict=True))
        others = max(0.0, busy - own) / (seconds * (os.cpu_count() or 1)) if seconds > 0.1 else None
        self._working.clear()
        self.write_memory()
        self.write("end", step_seconds=self._step_seconds, others_busy=others)
        self._step_seconds = []

    def write_memory(self) -> None:
        """The memory in use now, and the card's peaks since the stage began."""
        self._write_sample()
        if self._card:
            allocated_bytes = self._cuda.max_memory_allocated(self._card)
            reserved_bytes = self._cuda.max_memory_reserved(self._card)
            self.write("peaks", allocated_bytes=allocated_bytes, reserved_bytes=reserved_bytes)
        if self._meter:
            self.write("peaks", allocated_bytes=self._meter.peak_bytes)

    def watch_stages(self, pipeline: StableVideoDiffusionPipeline) -> Callable[..., None]:
        """Write where the stages of the pipeline's calls begin and end, and where its weights lie; gives the `on_step`.

        Methods are wrapped, not modules: hooks on modules would break the graphs of compiled ones.
        """

        def wrap(name: str, before: str = "", after: str = "") -> None:
            method = getattr(pipeline, name)

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if before:
                    self.end_stage()
                    self.begin_stage(before)
                result = method(*args, **kwargs)
                self._write_weights(pipeline)
                if after:
                    self.end_stage()
                    self.begin_stage(after)
                return result

            setattr(pipeline, name, wrapped)

        wrap("_encode_image")
        wrap("_encode_vae_image")
        wrap("prepare_latents", after="denoise")
        wrap("decode_latents", before="decode", after="finish")

        def on_step(step: int, *_: Any) -> None:
            synchronize(self._device)
            self._step_seconds.append(time.perf_counter() - self._mark)
            if step == 1:
                self._write_weights(pipeline)
            self._mark = time.perf_counter()

        return on_step

    def _write_weights(self, pipeline: StableVideoDiffusionPipeline) -> None:
        """The bytes of each component by device, if they have changed."""
        weights: dict[str, dict[str, int]] = {}
        for name in hub.COMPONENTS:
            places = weights.setdefault(name, {})
            for tensor in getattr(pipeline, name).state_dict(keep_vars=True).values():
                places[tensor.device.type] = places.get(tensor.device.type, 0) + tensor.nbytes
        if weights != self._weights:
            self._weights = weights
            self.write("resident", **weights)

    def _write_sample(self) -> None:
        with self._sampling:  # or a sample from before the card was watched could be written into the stage after
            card = {}
            if self._card:
                free, total = self._cuda.mem_get_info(self._card)
                card = {"allocated_bytes": self._cuda.memory_allocated(self._card), "device_bytes": total - free}
            self.write("sample", process_bytes=self._process.memory_info().rss, **card)

    def _sample_until_orphaned(self) -> None:
        while os.getppid() == self._parent:
            if self._working.wait(1):  # between two stages nothing is asked: another process may be measured then
                self._write_sample()
                time.sleep(0.05 if self._card else 0.01)  # a card keeps its peaks, and asking it takes time
        os._exit(1)  # nobody would read the rest


def _busy_seconds() -> tuple[float, float, float]:
    """Processor seconds of all programs and of this one, and the clock."""
    import psutil

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)  # guests count as user too
    return sum(times) - idle, time.process_time(), time.perf_counter()


def _reason(error: Exception) -> str:
    if not is_out_of_memory(error):
        return describe_error(error)
    if size := re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE):  # torch's words
        return f"out of memory, it tried to allocate {size[1]} more."
    text = describe_error(error)
    return text if text.lower().startswith("out of memory") else f"out of memory: {text}"


if __name__ == "__main__":
    main()
