"""What a cluster adds to a sweep: two workers against one, and one against this process, in one run.

    python benchmarks/cluster.py [--clips 4] [--steps 8] [--fields '{"num_frames": 14}']

Each worker has one thread, and so has this process. What starting takes (Ray, the workers' imports, the weights) stands
apart: the rest begins with the first clip and ends with the last row. `beside the making` is what of a worker's time no
row accounts for: sending the trial, finding out whether it is there, saving the row. On a shared machine that is what
tells something, while clips a minute are those of the neighbours, too.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import tempfile
import time
import warnings
from datetime import datetime

from svdlab import Request, Setup, grid, run
from svdlab.pipelines.pipeline_cache import unload_cached


def measure(name: str, trials: list, workers: int) -> tuple[float, float]:
    """Seconds of work for a clip, those of clips of several workers together, and those beside the making."""
    with tempfile.TemporaryDirectory() as folder:
        unload_cached()
        start = time.time()
        rows = run(trials, folder, on="ray" if workers else "", progress=False)
        end = time.time()
    assert all(row.status == "done" for row in rows)
    first = min(datetime.fromisoformat(row.created).timestamp() for row in rows)
    making = sum(sum(row.timings.values()) for row in rows)
    clip, extra = (end - first) / len(rows), (max(workers, 1) * (end - first) - making) / len(rows)
    print(
        f"{name:12} {60 / clip:6.2f} clips a minute, {making / len(rows):6.2f} s to make one, "
        f"{extra:6.3f} s beside the making; starting {first - start:5.1f} s",
        flush=True,
    )
    return clip, extra


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=4, help="for each worker")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--fields", type=json.loads, default={}, help="of the request, as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    request = Request(image="rocket", num_inference_steps=options.steps, **options.fields)
    import ray

    times = {}
    for name, workers in {"this process": 0, "one worker": 1, "two workers": 2}.items():
        trials = grid(Setup("tiny"), request, seed=range(options.clips * max(workers, 1)))
        if not workers:
            times[workers] = measure(name, trials, workers)
            continue
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=40)
        times[workers] = measure(name, trials, workers)
        ray.shutdown()
    print(f"two workers: {times[1][0] / times[2][0]:.2f} times the clips of one")
    extra = times[1][1] - times[0][1]
    print(f"one worker against this process: {1000 * extra:+.0f} ms a clip, {10 * extra:+.2f} % of one of ten seconds")


if __name__ == "__main__":
    main()
