"""What a sweep costs beside a bare loop over the pipeline that saves the same files, and how fast 10,000 rows load.

    python benchmarks/sweep_overhead.py [--setup tiny] [--clips 8] [--rounds 3]

The two take turns in one process on one loaded pipeline, each clip with another seed. Time is that of the processor:
on a shared machine the clock on the wall measures the neighbours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

from svdlab import Machine, Request, Setup, generate, grid, run
from svdlab.pipelines.pipeline_cache import load_cached
from svdlab.quality.quality import Quality
from svdlab.rows.row import Row
from svdlab.rows.rows_table import rows_table


def run_loop(pipeline, trials, folder: Path) -> None:
    for trial in trials:
        generate(pipeline, trial.request, progress=False).save(folder / f"{trial.request.seed}.mp4")


def time_work(work, *arguments) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work(*arguments)
    return time.process_time() - processor, time.perf_counter() - wall


def overhead(setup: Setup, request: Request, clips: int, rounds: int) -> None:
    pipeline = load_cached(setup)
    samples: dict[str, list[list[float]]] = {"bare loop": [], "sweep": []}
    for number in range(rounds + 1):
        trials = grid(setup, request, motion_bucket_id=[10 * i for i in range(clips)], seed=[number])
        for name, times in samples.items():
            with tempfile.TemporaryDirectory() as folder:
                if name == "bare loop":
                    elapsed = time_work(run_loop, pipeline, trials, Path(folder))
                else:
                    elapsed = time_work(lambda folder=folder, trials=trials: run(trials, folder, quality=False))
            if number:  # the first round warms up
                times.append([seconds / clips for seconds in elapsed])
    loop = median(cpu for cpu, _ in samples["bare loop"])
    for name, times in samples.items():
        cpu, wall = (median(each) for each in zip(*times, strict=True))
        print(f"{name:22} {cpu:8.4f} s of processor a clip, {wall:8.4f} s in all: {100 * (cpu / loop - 1):+5.1f} %")


def table(setup: Setup, request: Request, count: int = 10_000) -> None:
    row = Row(key="", setup=setup.resolved(), request=request, machine=Machine.here())
    measures: dict[str, Any] = {f.name: number / 7 for number, f in enumerate(dataclasses.fields(Quality))}
    quality = Quality(**measures | {"black_frames": 0, "non_finite": False})
    row = dataclasses.replace(row, timings={"sample_seconds": 1.0}, quality=quality)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            Path(folder, f"{i:016x}.json").write_text(dataclasses.replace(row, key=f"{i:016x}").to_json())
        rows_table(folder)
        texts = [path.read_bytes() for path in Path(folder).iterdir()]
        parsing, _ = time_work(lambda: [json.loads(text) for text in texts])
        cpu, wall = time_work(rows_table, folder)
    print(f"{count:,} rows to a table: {cpu:.2f} s of processor, {wall:.2f} s in all; json alone: {parsing:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--setup", default="tiny", help="a variant, or a folder with weights of svd's classes")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fields", type=json.loads, default={}, help="of the request, as JSON")
    options = parser.parse_args()
    setup = Setup("svd", weights=options.setup) if Path(options.setup).is_dir() else Setup(options.setup)
    warnings.simplefilter("ignore", UserWarning)
    request = setup.request(image="rocket", **options.fields)
    overhead(setup, request, options.clips, options.rounds)
    table(setup, request)


if __name__ == "__main__":
    main()
