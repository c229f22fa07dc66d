"""What happens in a measured process, event by event: written as it happens, and read back as a measurement.

Each event is written at once, as one line of JSON: [seconds, event, facts]. A process that is killed leaves all that
was known until then. Its stages are "prepare" (imports, downloads), "load", and for each clip "encode", "denoise",
"decode" and "finish" (pixels to pictures).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.machine import synchronize
from svdlab.pipelines import hub
from svdlab.prediction.fake_run import meter_class
from svdlab.rows.measurement import MeasuredStage, Measurement

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

EVENTS_FILE = "events.jsonl"
_TIMELINE_POINTS = 24  # of each stage


class EventLog:
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
        """Write one event, with the seconds since the process began."""
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
        """Count peaks and seconds anew, for a stage of the clip that is made now."""
        if self._card:
            self._cuda.reset_peak_memory_stats(self._card)
        if self._meter:
            self._meter.peak_bytes = self._meter.live_bytes
        self.write("begin", stage=stage, call=self.call)
        self._write_sample()
        self._working.set()
        self._busy_before, self._mark = _busy_seconds(), time.perf_counter()

    def end_stage(self) -> None:
        """Write what the stage took, once the device is done with it."""
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
            if self._working.wait(1):  # no samples between stages, when another process may be measured
                self._write_sample()
                time.sleep(0.05 if self._card else 0.01)  # a card keeps its peaks, and asking it takes time
        os._exit(1)  # nobody would read the rest


def _busy_seconds() -> tuple[float, float, float]:
    """Processor seconds of all programs and of this one, and the clock."""
    import psutil

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)  # guests count as user too
    return sum(times) - idle, time.process_time(), time.perf_counter()


def read_events(file: Path) -> tuple[Measurement, dict[str, Any]]:
    """The measurement that the events in a file add up to, and the facts beside it: `failed`, `done` and so on."""
    stages, samples, resident, facts = [], [], [], {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            seconds, event, values = json.loads(line)
        except ValueError:  # cut short: the process was killed
            break
        if event == "begin":
            stages.append({**values, "begun_seconds": seconds, "seconds": None, "peaks": {}})
            samples.append([])
        elif event == "end":
            stages[-1]["seconds"] = seconds - stages[-1]["begun_seconds"]
            stages[-1] |= {"step_seconds": tuple(values["step_seconds"]), "others_busy": values["others_busy"]}
        elif event in ("sample", "peaks") and stages[-1]["seconds"] is None:  # not between two stages
            peaks = stages[-1]["peaks"]
            peaks |= {name: max(size, peaks.get(name, 0)) for name, size in values.items()}
            if event == "sample":
                samples[-1].append({"seconds": seconds} | values)
        elif event == "resident":
            resident.append({"seconds": seconds} | values)
        elif event == "fact":
            facts |= values
    each_stage = list(zip(stages, samples, strict=True))
    points = [
        point
        for stage, stage_samples in each_stage
        if stage["stage"] != "prepare" and stage["call"] in (None, 0, 1)
        for point in _thin_out(stage_samples)
    ]
    names = points[0] if points else ()
    measurement = Measurement(
        stages=tuple(MeasuredStage(**stage) for stage in stages),
        before=next((near[0] for stage, near in each_stage if stage["stage"] == "load" and near), {}),
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
