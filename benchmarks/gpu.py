"""Every optimisation at full size on this machine's card: a row each and a table, in under ten minutes.

    python benchmarks/gpu.py [--variant svd-xt] [--device cuda] [--budget 540] [--folder results/reference/NAME]
    python benchmarks/gpu.py --table results/reference/NAME   # the table again, from its rows, on any machine

Weights are random: values change neither memory nor time. Steps are all alike, so a clip of few steps is measured and
that of all steps scaled from it, but for the fastest and the leanest setup, which are measured in full. The worthiest
come first; when the budget is used up the others are named, and the next run into the same folder goes on with them.
Needs what svdlab requires, without the extras; `PYTHONPATH=.` where svdlab itself is not installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from svdlab import Machine, Row, Setup, Trial, ladder, profile
from svdlab.machine import best_device
from svdlab.optimizations import OPTIMIZATIONS, parse
from svdlab.rows.measurement import Measurement
from svdlab.rows.row_files import read_rows

ROOT = Path(__file__).parents[1]
FAST = ("single-token", "compile-unet", "compile-vae")
LEAN = ("forward-chunking", "split-guidance", "single-token", "lean-decode")
TOGETHER = (FAST, ("model-offload", *LEAN), ("group-offload", *LEAN), ("split-guidance", *FAST))
VALUES = ("attention=cudnn", "group-offload=stream", "compile-unet=max-autotune-no-cudagraphs")
SLOW = ("compile-", "sequential-offload")  # last


def trials_to_measure(setup: Setup, steps: int) -> list[Trial]:
    """The plain setup, those worth having together, then each optimisation alone."""
    request = setup.request(image="rocket", num_inference_steps=steps)
    trials = []
    for names in [(), *TOGETHER, *((name,) for name in (*OPTIMIZATIONS, *VALUES))]:
        if setup.device == "cpu" and any(parse(name)[0].accelerator for name in names):
            continue
        try:
            trials.append(ladder(setup, names, request)[-1])
        except ValueError as error:
            print(f"{', '.join(names)} is no rung: {error}")
    return trials


def in_full(trial: Trial) -> Trial:
    """The same with all steps."""
    steps = trial.setup.request(image="rocket").num_inference_steps
    return dataclasses.replace(trial, request=dataclasses.replace(trial.request, num_inference_steps=steps))


def best(rows: Iterable[Row], column: str) -> Row | None:
    """The exact one with the least of something."""
    exact = [row for row in rows if row.status == "done" and all(o.exact for o, _ in row.setup.parsed)]
    return min(exact, key=lambda row: summary(row)[column] or float("inf"), default=None)


def summary(row: Row) -> dict[str, Any]:
    """With `memory_bytes`, torch's peak on a card and the process's on a processor, and the clip of all steps."""
    figures = (row.measurement or Measurement()).figures
    missing = Setup(row.setup.variant).request(image="rocket").num_inference_steps - row.request.num_inference_steps
    clip, step = figures["clip_seconds"], figures["step_seconds"]
    memory = figures["peak_allocated_bytes"] or figures["peak_process_bytes"]
    scaled = None if clip is None or step is None else clip + missing * step
    return figures | {"memory_bytes": memory, "full_seconds": scaled, "scaled": missing > 0}


def predicted(row: Row, until: float) -> int | None:
    """Peak bytes; None where they cannot be had in time, or are not what was measured."""
    if row.setup.device == "cpu" or time.monotonic() > until:
        return None
    try:
        from svdlab.prediction.estimate import estimate

        return estimate(row.setup, row.request).peak_bytes
    except Exception as error:  # the measured ones stand without
        print(f"No prediction of {label(row)}: {error}")
        return None


def label(row: Row | Trial) -> str:
    return ", ".join(row.setup.optimizations) or "plain"


def line(row: Row) -> str:
    s = summary(row)
    if row.status != "done":
        return f"{label(row)}: {row.error}"
    near = "" if s["psnr_db"] is None else f", {s['psnr_db']:.1f} dB from plain"
    return (
        f"{label(row)}, {row.request.num_inference_steps} steps: {s['memory_bytes'] / 2**30:.2f} GiB, "
        f"{s['step_seconds']:.3f} s a step, {s['decode_seconds']:.2f} s to decode, "
        f"{s['first_seconds']:.0f} s the first call{near}"
    )


def table(folder: Path, until: float = float("inf")) -> str:
    """The rows of a folder in Markdown."""

    def cell(value: float | None, digits: int = 2, scale: float = 1) -> str:
        return "" if value is None else f"{value / scale:.{digits}f}"

    heads = ["setup", "peak GiB", "predicted", "off by", "reserved", "device", "s a step", "s to decode", "s a clip"]
    heads += ["s the first call", "s to load", "PSNR dB", "SSIM", "latents differ by"]
    rows = [row for row in read_rows(folder) if row.measurement]
    lines, failed = [], []
    for row in rows:
        s, gib = summary(row), 2**30
        if row.status != "done":
            failed.append(f"- {label(row)}: {row.error}")
            continue
        prediction, clip = predicted(row, until), cell(s["full_seconds"])
        measured = [cell(s["memory_bytes"], 2, gib), cell(prediction, 2, gib)]
        measured += [f"{100 * (s['memory_bytes'] / prediction - 1):+.1f} %" if prediction else ""]
        measured += [cell(s["peak_reserved_bytes"], 2, gib), cell(s["peak_device_bytes"], 2, gib)]
        measured += [cell(s["step_seconds"], 3), cell(s["decode_seconds"]), f"{clip} (scaled)" if s["scaled"] else clip]
        measured += [cell(s["first_seconds"], 1), cell(s["load_seconds"], 1), cell(s["psnr_db"], 1)]
        measured += [cell(s["ssim"], 4), "" if s["latents_relative"] is None else f"{s['latents_relative']:.1e}"]
        lines.append([label(row) + ("" if s["scaled"] else ", all steps"), *measured])
    if not rows:
        return "Nothing was measured.\n"
    kept = [i for i, head in enumerate(heads) if any(cells[i] for cells in lines)]
    asked, first = rows[0].request, rows[0]
    sizes = f"{asked.height}x{asked.width}, {asked.num_frames} frames, decode chunk {asked.decode_chunk_size}"
    peak = "of the process" if first.setup.device == "cpu" else "allocated by torch"
    text = [
        f"# {first.setup.variant} on {first.machine.name if first.machine else 'an unknown machine'}",
        "",
        f"{first.machine}, {min(row.created for row in rows)[:10]}. "
        f"{first.setup.dtype}, weights {first.setup.weights}, "
        f"{sizes}. Each setup in a process of its own; medians of the calls after the first; peaks over all, {peak}. "
        f"A clip has {in_full(Trial(first.setup, asked)).request.num_inference_steps} steps; where it says so it was "
        f"scaled from one of {asked.num_inference_steps}. PSNR and SSIM compare the frames with plain's, the last "
        "column the latents, over their norm; plain itself is compared with plain in another process (100 dB: equal).",
        "",
    ]
    text += [f"| {' | '.join(cells[i] for i in kept)} |" for cells in (heads, ["---"] * len(heads), *lines) if lines]
    return "\n".join([*text, *(["", "Failed:", "", *failed] if failed else []), ""])


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--variant", default="svd-xt")
    options.add_argument("--device", default=None, help="the best one here")
    options.add_argument("--budget", type=float, default=540, help="seconds in all")
    options.add_argument("--steps", type=int, default=4, help="of the clips that are not measured in full")
    options.add_argument("--repeats", type=int, default=2, help="calls after the first")
    options.add_argument("--folder", type=Path, help="results/reference/, and the machine's name")
    options.add_argument("--table", type=Path, metavar="FOLDER", help="write its table again, and measure nothing")
    given = options.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    if given.table:
        (given.table / "table.md").write_text(table(given.table))
        return
    until, taken = time.monotonic() + given.budget, []
    device = given.device or best_device()
    slug = re.sub(r"[^a-z0-9]+", "-", Machine.here().name.lower()).strip("-")
    folder = given.folder or ROOT / "results" / "reference" / slug
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("*.failed.json"):  # to be tried again
        earlier.unlink()
    weights = "bundled" if given.variant == "tiny" else "random"
    setup = Setup(given.variant, weights, dtype="fp32" if device == "cpu" else "fp16", device=device)
    print(Machine.here(), f"\nInto {folder}, {given.budget:.0f} s at most.", flush=True)
    rows, left = [], []

    def climb(plain: Trial, trial: Trial, repeats: int) -> None:
        begun = time.monotonic()
        if taken and begun + median(taken) > until:
            left.append(f"{label(trial)}, {trial.request.num_inference_steps} steps")
            return
        limit = max(until - begun, 1)
        rows.append(profile([plain, trial], folder, repeats=repeats, timeout_seconds=limit, progress=False)[-1])
        print(f"{time.monotonic() - begun:4.0f} s  {line(rows[-1])}", flush=True)
        if (seconds := time.monotonic() - begun) > 1:  # it was not there already
            taken.append(seconds)

    plain, *others = trials_to_measure(setup, given.steps)
    slow = [trial for trial in others if len(trial.setup.optimizations) == 1 and label(trial).startswith(SLOW)]
    for trial in (plain, *(other for other in others if other not in slow)):
        climb(plain, trial, given.repeats)
    for row in {row.key: row for name in ("full_seconds", "memory_bytes") if (row := best(rows, name))}.values():
        climb(in_full(plain), in_full(Trial(dataclasses.replace(row.setup, device=device), row.request)), 1)
    for trial in slow:
        climb(plain, trial, given.repeats)
    for frames in folder.glob("*.npz"):
        frames.unlink()
    print(f"Not run, the time was up: {'; '.join(left)}." if left else "All were run.")
    (folder / "table.md").write_text(table(folder, until))
    print((folder / "table.md").read_text())


if __name__ == "__main__":
    main()
