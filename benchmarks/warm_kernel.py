"""What one warm kernel saves over a plain papermill loop, on the same parameter files, in one run.

    python benchmarks/warm_kernel.py [--files 20] [--steps 1] [--frames 2]

Both run the micro-conditioning notebook once for each file and must leave the same rows and frames. The runs are short
on purpose: what is saved is the start of a kernel, its imports, and loading the pipeline.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from svdlab.media.read_video import read_frames
from svdlab.rows.row_files import read_rows

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "02_micro_conditioning.ipynb"
BIN = Path(sys.executable).parent


def seconds(*commands: list[str]) -> float:
    started = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--frames", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, files = Path(name), []
        for seed in range(options.files):
            fixed = {"num_frames": options.frames, "num_inference_steps": options.steps}
            files.append(folder / f"study{seed}.yaml")
            files[-1].write_text(json.dumps({"axes": {"seed": [seed]}, "fixed": fixed, "across": "seed", "down": None}))
        loop = seconds(
            *(
                [
                    *(str(BIN / "papermill"), str(NOTEBOOK), str(folder / f"{file.stem}.ipynb"), "-f", str(file)),
                    *("-p", "results", str(folder / "plain" / file.stem)),
                ]
                for file in files
            )
        )
        warm = seconds([str(BIN / "svdlab"), "run", str(NOTEBOOK), *map(str, files), "--results", str(folder / "warm")])
        for file in files:
            [one], [other] = (read_rows(folder / kind / file.stem) for kind in ("plain", "warm"))
            assert one.key == other.key, "another question"
            assert one.clip is not None
            assert other.clip is not None
            assert read_frames(one.clip) == read_frames(other.clip), "other frames"
    print(f"{options.files} files, a clip of {options.frames} frames and {options.steps} steps each, the same frames:")
    print(f"plain papermill loop {loop:6.1f} s, svdlab run {warm:6.1f} s: {loop / warm:.1f} times as fast")


if __name__ == "__main__":
    main()
