"""The process that is measured: it loads a setup, makes clips, and writes down what happens as it happens.

    python -m svdlab.profiling.measured_process FOLDER < question.json

`profile` starts it, and reads FOLDER/lines.jsonl: a line of JSON each, [seconds, event, what is known].
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.generation.generate import generate
from svdlab.machine import best_device, is_out_of_memory
from svdlab.messages import describe_error
from svdlab.pipelines import hub
from svdlab.pipelines.load import load
from svdlab.pipelines.random_weights import quiet_libraries
from svdlab.request import Request
from svdlab.setup import Setup
from svdlab.variants import variant

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

LINES, FRAMES = "lines.jsonl", "frames.npz"  # what it leaves in its folder


class Recorder:
    """Writes lines of [seconds, event, what is known]; a thread of its own adds samples of the memory."""

    def __init__(self, folder: Path) -> None:
        import psutil

        self._file = os.open(folder / LINES, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._process, self._parent = psutil.Process(), os.getppid()
        self._begun = time.perf_counter()
        self._card: _Card | None = None
        self._wait: Callable[[], Any] = lambda: None
        self._every_seconds = 0.01
        self._steps: list[float] = []
        self._resident: dict[str, dict[str, int]] = {}
        self.call: int | None = None
        self.enter("prepare")
        threading.Thread(target=self._keep_sampling, daemon=True).start()

    def write(self, event: str, **given: Any) -> None:
        line = json.dumps([time.perf_counter() - self._begun, event, given])
        os.write(self._file, f"{line}\n".encode())  # one write, so that the lines of two threads do not mix

    def watch(self, device: str) -> None:
        """From now on the device too: its work is waited for where a stage or a step ends."""
        import torch

        if device != "cpu":
            self._wait = lambda: torch.accelerator.synchronize(torch.device(device))
        if device.startswith("cuda"):
            self._card, self._every_seconds = _Card(device), 0.05  # its peaks are kept, and asking it takes time
            self.write("fact", device_bytes_from=self._card.source)

    def enter(self, stage: str) -> None:
        if self._card:
            self._card.reset()
        self.write("enter", stage=stage, call=self.call)
        self._sample()
        self._mark = time.perf_counter()

    def leave(self) -> None:
        self._wait()
        self.peaks()
        self.write("leave", **({"step_seconds": self._steps} if self._steps else {}))
        self._steps = []

    def peaks(self) -> None:
        self._sample()
        if self._card:
            self.write("peaks", **self._card.peaks())

    def follow(self, pipeline: StableVideoDiffusionPipeline) -> Callable[..., None]:
        """Notice where the stages of its calls begin and end, and after each part what lies where; gives the `on_step`
        that belongs to it. By its methods: hooks on its modules would break the graphs of compiled ones."""

        def changed(name: str, before: str = "", after: str = "") -> None:
            method = getattr(pipeline, name)

            def noticed(*given: Any, **named: Any) -> Any:
                if before:
                    self.leave()
                    self.enter(before)
                done = method(*given, **named)
                self._look(pipeline)
                if after:
                    self.leave()
                    self.enter(after)
                return done

            setattr(pipeline, name, noticed)

        changed("_encode_image")
        changed("_encode_vae_image")
        changed("prepare_latents", after="denoise")
        changed("decode_latents", before="decode", after="finish")

        def step(done: int, *_: Any) -> None:
            self._wait()
            self._steps.append(time.perf_counter() - self._mark)
            if done == 1:
                self._look(pipeline)
            self._mark = time.perf_counter()

        return step

    def _look(self, pipeline: StableVideoDiffusionPipeline) -> None:
        found: dict[str, dict[str, int]] = {}
        for name in hub.COMPONENTS:
            places = found.setdefault(name, {})
            for tensor in getattr(pipeline, name).state_dict(keep_vars=True).values():
                places[tensor.device.type] = places.get(tensor.device.type, 0) + tensor.nbytes
        if found != self._resident:
            self._resident = found
            self.write("resident", **found)

    def _sample(self) -> None:
        card = self._card.now() if self._card else {}
        self.write("sample", process_bytes=self._process.memory_info().rss, **card)

    def _keep_sampling(self) -> None:
        while os.getppid() == self._parent:  # who asked is gone otherwise, and nobody waits for the rest
            self._sample()
            time.sleep(self._every_seconds)
        os._exit(1)


class _Card:
    """The memory of a CUDA card: torch's own, and the whole of it as the driver sees it."""

    def __init__(self, device: str) -> None:
        import torch

        torch.cuda.init()
        self._cuda, self._device, self.source = torch.cuda, torch.device(device), "NVML"
        try:
            self._cuda.device_memory_used(self._device)
        except Exception:  # torch does not require the package that speaks to NVML
            self.source = "cudaMemGetInfo"

    def now(self) -> dict[str, int]:
        if self.source == "NVML":
            used = self._cuda.device_memory_used(self._device)
        else:
            free, total = self._cuda.mem_get_info(self._device)
            used = total - free
        return {"allocated_bytes": self._cuda.memory_allocated(self._device), "device_bytes": used}

    def peaks(self) -> dict[str, int]:
        cuda, device = self._cuda, self._device
        return {
            "allocated_bytes": cuda.max_memory_allocated(device),
            "reserved_bytes": cuda.max_memory_reserved(device),
        }

    def reset(self) -> None:
        self._cuda.reset_peak_memory_stats(self._device)


def _measured(asked: dict[str, Any], folder: Path, record: Recorder) -> None:
    """Load and make clips, as `asked`, telling `record`; the frames of the last one are written into `folder`."""
    import numpy as np
    import torch

    with quiet_libraries():
        import diffusers

        assert diffusers.StableVideoDiffusionPipeline  # its parts are imported when they are first named
    setup, request = Setup.from_json(asked["setup"]), Request.from_json(asked["request"])
    device, limit = setup.device or best_device(), asked["memory_limit_bytes"]
    record.write("fact", threads=torch.get_num_threads())
    record.watch(device)
    if limit is not None:
        _limit(device, limit)
    if setup.weights == "hub":  # what must be sent is no part of loading
        hub.fetch(variant(setup.variant), half=setup.precision != "fp32", revision=setup.revision)
    record.leave()
    record.enter("load")
    pipeline = load(setup)
    record.leave()
    on_step = record.follow(pipeline)
    for record.call in range(1 + asked["repeats"]):
        record.enter("encode")
        clip: Any = generate(pipeline, request, on_step=on_step, progress=False)
        record.leave()
    peak_bytes = _most_resident()  # before the frames are copied once more
    frames = np.stack([np.asarray(frame) for frame in clip.frames])
    np.savez(folder / FRAMES, frames=frames, latents=clip.latents.float().numpy())
    record.write("fact", done=True, notes=clip.notes, process_peak_bytes=peak_bytes)


def _limit(device: str, memory_bytes: int) -> None:
    if device.startswith("cuda"):
        import torch

        share = memory_bytes / torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), torch.device(device).index)
    else:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _most_resident() -> int | None:
    """The kernel's own maximum. Not `ru_maxrss`: a new process starts with that of the one that started it."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:  # not Linux
        return None
    return int(found[1]) * 1024 if found else None


def _reason(error: Exception) -> str:
    text = str(error)
    if wanted := re.search(r"tried to allocate ([\d.]+ \w+)", text, re.IGNORECASE):  # torch's, of cards and processors
        return f"out of memory, it tried to allocate {wanted[1]} more."
    named = not is_out_of_memory(error) or text.startswith("Out of memory")
    return describe_error(error) if named else f"out of memory: {describe_error(error)}"


def main() -> None:
    """Measure what standard input asks for; `measure` starts this."""
    folder = Path(sys.argv[1])
    record = Recorder(folder)
    try:
        _measured(json.load(sys.stdin), folder, record)
    except Exception as error:  # of any library below: it becomes the row's reason
        record.write("fact", failed=_reason(error))
        record.peaks()
        raise SystemExit(1) from error  # the log has the whole of it


if __name__ == "__main__":
    main()
