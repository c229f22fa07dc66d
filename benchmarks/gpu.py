"""What this machine's card makes of a full-size clip, part by part in one process, in eight minutes.

    PYTHONPATH=. python benchmarks/gpu.py [--variant svd-xt] [--budget 480] [--folder results/reference/NAME]
    python benchmarks/gpu.py --table FOLDER   # the table again, from the rows of its last run

Weights are random (or from a folder, `--weights`): values change neither memory nor time. Each part is a line of
measured.jsonl as soon as it is done, also one that fails. What the budget does not reach is named, the longest first.
Needs what svdlab requires, without the extras.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.gpu_table import ROWS, GiB, table
from svdlab import Machine, Request, Setup, generate, load
from svdlab.machine import card_is_lost
from svdlab.messages import describe_error
from svdlab.optimizations.registry import parse
from svdlab.prediction.fitting import fitting_setup
from svdlab.profiling.measure import measure
from svdlab.request import conditioning

ROOT = Path(__file__).parents[1]
TABLE, TRACE = "table.md", "trace.txt"
STEPS = 3  # of a part that measures steps alone
CAPPED = (8, 6)  # GiB
SIZES = ("height", "width", "num_frames", "decode_chunk_size", "max_guidance_scale")  # on which memory depends


class Enough(Exception):
    """Ends a clip whose steps have been measured."""


class Part(NamedTuple):
    """One thing to measure, and how long it will take."""

    name: str
    measure: Callable[[], dict[str, Any]]
    steps: int = 0
    decodes: int = 0
    seconds: float = 1.0  # beside its steps and decodes: compiling, another process
    needed: bool = False  # by later parts, so it is never left out


class Bench:
    """A loaded pipeline, what was measured on it, and the plain clip that others are compared with."""

    def __init__(self, setup: Setup, request: Request, folder: Path) -> None:
        self.setup, self.request, self.folder = setup, request, folder
        self.picture = conditioning(request)
        self.chunks = (request.decode_chunk_size, request.num_frames)
        self.pipeline: Any = None
        self.latents: dict[int, torch.Tensor] = {}  # after so many plain steps
        self.levels: dict[int, torch.Tensor] = {}  # plain frames by decode chunk
        self.step_seconds = self.decode_seconds = 0.5  # until they are measured

    def load(self) -> dict[str, Any]:
        self.pipeline, seconds = timed(lambda: load(self.setup))
        return {
            "variant": self.setup.variant,
            "weights": self.setup.weights,
            "request": {name: getattr(self.request, name) for name in SIZES},
            "load_seconds": seconds,
            "allocated_bytes": torch.cuda.memory_allocated(),
        }

    def unload(self) -> None:
        self.pipeline, self.latents, self.levels = None, {}, {}
        gc.collect()
        torch.cuda.empty_cache()

    @contextmanager
    def applied(self, *names: str) -> Iterator[None]:
        """Within, the pipeline has these optimisations, of those that can be undone."""
        unet, vae = self.pipeline.unet, self.pipeline.vae
        processors, kinds = unet.attn_processors, (type(unet), type(vae.decoder))
        self.pipeline._svdlab_setup = dataclasses.replace(self.setup, optimizations=names)
        try:
            for optimization, value in map(parse, names):
                optimization.apply(self.pipeline, value)
            assert all(parse(name)[0].holds(self.pipeline) for name in names)
            yield
        finally:
            self.pipeline._svdlab_setup = self.setup
            unet.__class__, vae.decoder.__class__ = kinds
            unet.set_attn_processor(processors)
            for module in (*unet.modules(), *vae.modules()):
                module._compiled_call_impl = None
                if hasattr(module, "_chunk_size"):
                    module._chunk_size = None
                if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
                    module.weight.data = module.weight.data.contiguous()

    def steps(self, names: tuple[str, ...] = (), how: Any = nullcontext, count: int = STEPS) -> dict[str, Any]:
        """A clip's first steps; the first of them is none of the figures."""
        seconds, latents = [], None

        def on_step(done: int, total: int, now: torch.Tensor) -> None:
            nonlocal latents
            torch.cuda.synchronize()
            seconds.append(time.perf_counter())
            if done == count:
                latents = now.clone()
                raise Enough

        with self.applied(*names), how(self.pipeline), suppress(Enough):
            generate(self.pipeline, self.request, on_step=on_step, progress=False, picture=self.picture)
        assert latents is not None
        figures: dict[str, Any] = {"step_seconds": [after - before for before, after in pairwise(seconds)], **peaks()}
        if not names and how is nullcontext:
            self.latents[count] = latents
            self.step_seconds = median(figures["step_seconds"] or [self.step_seconds])
        elif (plain := self.latents.get(count)) is not None:
            figures["latents_relative"] = float((latents - plain).float().norm() / plain.float().norm())
        return figures

    def clip(self, *names: str) -> dict[str, Any]:
        """A full clip: its seconds and peaks by stage, after one of a single step, for which all was new."""
        stages, pipeline, since = {}, self.pipeline, 0.0

        def end(stage: str) -> None:
            nonlocal since
            torch.cuda.synchronize()
            now = time.perf_counter()
            stages[stage] = {"seconds": now - since, **peaks()}
            torch.cuda.reset_peak_memory_stats()
            since = now

        def ending(name: str, before: str, after: str) -> None:
            method = getattr(type(pipeline), name)

            def wrapped(*args: Any, **options: Any) -> Any:
                end(before) if before else None
                result = method(pipeline, *args, **options)
                end(after) if after else None
                return result

            setattr(pipeline, name, wrapped)

        with self.applied(*names):
            short = dataclasses.replace(self.request, num_inference_steps=1)
            generate(pipeline, short, progress=False, picture=self.picture)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            ending("prepare_latents", "", "encode")
            ending("decode_latents", "denoise", "decode")
            try:
                since = started = time.perf_counter()
                clip = generate(pipeline, self.request, progress=False, picture=self.picture)
                end("finish")
            finally:
                del pipeline.prepare_latents, pipeline.decode_latents
        steps = self.request.num_inference_steps
        assert clip.latents is not None
        self.latents.setdefault(0, clip.latents[None].to("cuda"))
        self.decode_seconds = stages["decode"]["seconds"]
        figures = {"clip_seconds": since - started, "step_seconds": [stages["denoise"]["seconds"] / steps]}
        largest = {
            name: max(stage[name] for stage in stages.values()) for name in ("allocated_bytes", "reserved_bytes")
        }
        return figures | largest | {"stages": stages, "decode_seconds": self.decode_seconds}

    def decode(self, chunk: int, *names: str) -> dict[str, Any]:
        """The plain clip's latents to frames, rounded to levels and compared on the card."""
        latents = self.latents[0].to(self.pipeline.vae.dtype)
        with self.applied(*names), torch.no_grad():
            for _ in range(2):  # the first one meets new shapes, and is none of the figures
                pixels = None  # nor is its memory
                torch.cuda.reset_peak_memory_stats()
                pixels, seconds = timed(lambda: self.pipeline.decode_latents(latents, self.request.num_frames, chunk))
        figures, levels = {"decode_seconds": seconds, **peaks()}, to_levels(pixels)
        if not names:
            self.levels[chunk] = levels
        return figures | (likeness(levels, self.levels[chunk]) if names and chunk in self.levels else {})

    def trace(self) -> dict[str, Any]:
        """One plain step by operation, the longest first, into a file."""
        activities = torch.profiler.supported_activities()
        with torch.profiler.profile(activities=activities) as profiler:
            self.steps(count=1)
        key = "self_device_time_total" if torch.profiler.ProfilerActivity.CUDA in activities else "self_cpu_time_total"
        (self.folder / TRACE).write_text(profiler.key_averages().table(sort_by=key, row_limit=40))
        return {"file": TRACE}

    def capped(self, gib: int) -> dict[str, Any]:
        """What is recommended for a published model on so small a card, in a process that gets no more."""
        self.unload()
        names = fitting_setup(self.setup.variant, gib * GiB, say=lambda _: None).optimizations
        setup = dataclasses.replace(self.setup, optimizations=names)
        request = dataclasses.replace(self.request, num_inference_steps=STEPS)
        row = measure(setup, request, repeats=1, memory_limit_bytes=gib * GiB, timeout_seconds=240)
        if row.error or row.measurement is None:
            raise RuntimeError(row.error)
        figures = row.measurement.figures
        peaks = {f"{kind}_bytes": figures[f"peak_{kind}_bytes"] for kind in ("allocated", "reserved")}
        seconds = {name: figures[name] for name in ("decode_seconds", "clip_seconds")}
        return {"optimizations": names, "step_seconds": [figures["step_seconds"]], **seconds, **peaks}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds until the card has done it."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    return result, time.perf_counter() - started


def peaks() -> dict[str, int]:
    """The most that torch allocated, and the most that it reserved."""
    names = {"allocated_bytes": torch.cuda.max_memory_allocated, "reserved_bytes": torch.cuda.max_memory_reserved}
    return {name: peak() for name, peak in names.items()}


def to_levels(pixels: torch.Tensor) -> torch.Tensor:
    """Frames of 0 to 255 as diffusers rounds them, bit for bit, without leaving the card."""
    return ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def likeness(levels: torch.Tensor, plain: torch.Tensor) -> dict[str, float]:
    """How near frames are to the plain ones: PSNR, 100 dB for equal ones, and the largest difference of a level."""
    difference = (levels.int() - plain.int()).abs()
    errors = difference.double().square().mean(dim=(0, 1, 3, 4))
    psnr = (10 * torch.log10(255**2 / errors)).clamp(max=100).mean()
    return {"psnr_db": float(psnr), "max_abs_levels": int(difference.max())}


def card_facts(edge: int) -> dict[str, Any]:
    """Versions, and what the card reaches: bytes a second in a copy, FLOP a second in a product of matrices."""
    matrix = torch.ones(edge, edge, dtype=torch.float16, device="cuda")
    other, calls = torch.empty_like(matrix), 10
    other.copy_(matrix @ matrix)
    _, copying = timed(lambda: [other.copy_(matrix) for _ in range(calls)])
    _, multiplying = timed(lambda: [matrix @ matrix for _ in range(calls)])
    machine = Machine.here()
    facts = {"name": machine.name, "memory_bytes": machine.memory_bytes, "libraries": machine.libraries}
    facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    rates = {"copied_bytes_a_second": 2 * calls * matrix.nbytes / copying}
    return facts | rates | {"flops_a_second": calls * 2 * edge**3 / multiplying}


@contextmanager
def cudnn_benchmark(_: Any) -> Iterator[None]:
    """Within, cuDNN tries its algorithms for each new shape."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


@contextmanager
def flat_temporal_convolutions(pipeline: Any) -> Iterator[None]:
    """Within, convolutions over time alone are computed in two dimensions, with height and width as one."""
    modules = (*pipeline.unet.modules(), *pipeline.vae.modules())
    temporal = [m for m in modules if isinstance(m, torch.nn.Conv3d) and m.kernel_size == (3, 1, 1)]

    def flat(convolution: Any, video: torch.Tensor) -> torch.Tensor:
        weight = convolution.weight.squeeze(-1)
        return F.conv2d(video.flatten(3), weight, convolution.bias, padding=(1, 0)).unflatten(3, video.shape[3:])

    for module in temporal:
        setattr(module, "forward", partial(flat, module))  # noqa: B010  (torch types it)
    try:
        yield
    finally:
        for module in temporal:
            del module.forward


def all_parts(bench: Bench, edge: int) -> list[Part]:
    """In the order in which they are worth having."""
    few, all_steps = STEPS + 1, bench.request.num_inference_steps + 1
    alone = ("single-token", "split-guidance", "forward-chunking", "channels-last")
    kernels = ("attention=flash", "attention=efficient", "attention=cudnn, single-token")
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(bench.steps, tuple(name.split(", "))) for name in (*alone, *kernels)
    }
    ways["cudnn.benchmark"] = partial(bench.steps, how=cudnn_benchmark)
    ways["2-D temporal convolutions"] = partial(bench.steps, how=flat_temporal_convolutions)
    fast, (chunk, together) = ("single-token", "compile-unet"), bench.chunks
    return [
        Part("card", partial(card_facts, edge), needed=True),
        Part("load", bench.load, seconds=30, needed=True),
        Part("plain, few steps", bench.steps, few, needed=True),
        Part("plain", bench.clip, all_steps + 2, 2, needed=True),
        Part("plain, trace of a step", bench.trace, 4),
        *(Part(name, way, few) for name, way in ways.items()),
        Part(f"decode at {chunk}", partial(bench.decode, chunk), decodes=2),
        Part(f"decode at {together}", partial(bench.decode, together), decodes=2),
        Part(f"lean-decode at {chunk}", partial(bench.decode, chunk, "lean-decode"), decodes=4),
        Part(f"lean-decode at {together}", partial(bench.decode, together, "lean-decode"), decodes=4),
        Part("single-token, compile-unet, few steps", partial(bench.steps, fast), few, seconds=60),
        Part("single-token, compile-unet", partial(bench.clip, *fast), all_steps + 2, 2, seconds=30),
        Part(f"compile-vae at {chunk}", partial(bench.decode, chunk, "compile-vae"), decodes=2, seconds=60),
        *(Part(f"capped at {gib} GiB", partial(bench.capped, gib), 2 * few, 2, seconds=45) for gib in CAPPED),
    ]


def run(parts: list[Part], bench: Bench, until: float) -> None:
    """Measure part after part; a line of the rows and of the screen for each.

    Args:
        parts: in their order.
        bench: where their figures come from.
        until: when the budget is used up, by `time.monotonic`.
    """

    def cost(part: Part) -> float:
        return part.seconds + part.steps * bench.step_seconds + part.decodes * bench.decode_seconds

    with (bench.folder / ROWS).open("a") as file:
        while parts:
            spare = [part for part in parts if not part.needed]
            while spare and sum(map(cost, parts)) > until - time.monotonic():
                longest = max(spare, key=cost)
                spare.remove(longest)
                parts.remove(longest)
                print(f"left out: {longest.name}, about {cost(longest):.0f} s", flush=True)
            if not parts:
                return
            part, started = parts.pop(0), time.monotonic()
            row: dict[str, Any] = {"part": part.name}
            try:
                torch.cuda.reset_peak_memory_stats()
                row |= part.measure()
            except Exception as error:  # of any library below: it is the row
                row["error"] = describe_error(error)
            gc.collect()
            torch.cuda.empty_cache()
            row["part_seconds"] = time.monotonic() - started
            file.write(f"{json.dumps(row)}\n")
            file.flush()
            os.fsync(file.fileno())
            print(f"{row['part_seconds']:5.0f} s  {part.name}: {summary(row)}", flush=True)
            if card_is_lost():
                print("The card is lost: start again, with all parts.")
                return


def summary(row: dict[str, Any]) -> str:
    """A row's figures in a line."""
    if "error" in row:
        return row["error"]
    texts = [f"{median(row['step_seconds']):.3f} s a step"] if row.get("step_seconds") else []
    texts += [f"{row[name]:.2f} s {words}" for name, words in _SECONDS.items() if row.get(name)]
    texts += [f"{row['allocated_bytes'] / GiB:.2f} GiB"] if "allocated_bytes" in row else []
    return ", ".join(texts) or "done"


_SECONDS = {"decode_seconds": "to decode", "clip_seconds": "a clip", "load_seconds": "to load"}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--variant", default="svd-xt", choices=("svd-xt", "svd"))
    options.add_argument("--weights", default="random", help="random, or a checkpoint's folder")
    options.add_argument("--budget", type=float, default=480, help="seconds in all")
    options.add_argument("--folder", type=Path, help="results/reference/, and the names of card and variant")
    options.add_argument("--table", type=Path, metavar="FOLDER", help="write its table again, and measure nothing")
    options.add_argument("--small", action="store_true", help="two frames of 64x64, to try this program")
    given = options.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    if given.table is None:
        until = time.monotonic() + given.budget
        names = f"{Machine.here().name} {given.variant}{' small' * given.small}".lower()
        given.table = given.folder or ROOT / "results" / "reference" / re.sub(r"[^a-z0-9]+", "-", names).strip("-")
        given.table.mkdir(parents=True, exist_ok=True)
        setup = Setup(given.variant, given.weights, dtype="fp16", device="cuda")
        size = {"height": 64, "width": 64, "num_frames": 2, "num_inference_steps": 4, "decode_chunk_size": 1}
        request = setup.request(image="rocket", max_guidance_scale=3.0, **(size if given.small else {}))
        print(f"{Machine.here()}\nInto {given.table}, {given.budget:.0f} s at most.", flush=True)
        bench = Bench(setup, request, given.table)
        run(all_parts(bench, 256 if given.small else 8192), bench, until)
    (given.table / TABLE).write_text(table(given.table))
    print((given.table / TABLE).read_text())


if __name__ == "__main__":
    main()
