"""What a card measured, as a table, beside what was predicted for it: the second half of `gpu.py`."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from statistics import median
from typing import Any

from svdlab import Setup, estimate
from svdlab.prediction.estimate import Stage

ROWS = "measured.jsonl"
GiB = 2**30


def predict(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    """The memory that each part should take, in bytes: of the published sizes from traces that svdlab brings along.

    Args:
        rows: by their part; that of "load" says what was measured, in fp16.
    """
    loaded = rows.get("load", {})
    setup = Setup(loaded.get("variant", "svd-xt"), loaded.get("weights", "random"), "fp16")
    request = setup.request(image="rocket", **loaded.get("request", {}))

    def stages(*names: str, chunk: int = request.decode_chunk_size) -> dict[str, Stage]:
        asked = dataclasses.replace(request, decode_chunk_size=chunk)
        return estimate(dataclasses.replace(setup, optimizations=names), asked).stages

    def largest(*names: str, of: tuple[str, ...] = ("encode", "denoise", "decode")) -> int:
        return max(stage.peak_bytes for name, stage in stages(*names).items() if name in of)

    present = sum(estimate(setup, request).component_bytes.values())  # nothing is offloaded
    peaks = {part: largest(*row["optimizations"]) for part, row in rows.items() if "optimizations" in row}
    peaks["plain"] = largest()
    for names in ((), ("single-token",), ("split-guidance",), ("forward-chunking",)):
        peaks[", ".join(names) or "plain, few steps"] = largest(*names, of=("encode", "denoise"))
    for chunk, names in itertools.product((request.decode_chunk_size, request.num_frames), ((), ("lean-decode",))):
        activation_bytes = stages(*names, chunk=chunk)["decode"].activation_bytes
        peaks[f"{', '.join(names) or 'decode'} at {chunk}"] = present + activation_bytes
    return peaks


def table(folder: Path) -> str:
    """The rows of a folder's last run in Markdown, beside what was predicted."""
    rows: dict[str, dict[str, Any]] = {}
    for row in map(json.loads, (folder / ROWS).read_text().splitlines()):
        if row["part"] == "card":  # with which a run begins
            rows = {}
        rows[row["part"]] = row
    facts = rows.pop("card", {})
    predictions = predict(rows)
    variant = rows.get("load", {}).get("variant", "svd-xt")

    def cell(value: float | None, digits: int = 2, scale: float = 1) -> str:
        return "" if value is None else f"{value / scale:.{digits}f}"

    heads = ["", "s a step", "s to decode", "s a clip", "GiB allocated", "predicted", "off by", "GiB reserved"]
    heads += ["PSNR dB", "latents differ by"]
    cells, failed = [], []
    for name, row in rows.items():
        if "error" in row:
            failed.append(f"- {name}: {row['error']}")
            continue
        steps, peak, predicted = row.get("step_seconds"), row.get("allocated_bytes"), predictions.get(name)
        line = [name, cell(median(steps) if steps else None, 3), cell(row.get("decode_seconds"))]
        line += [cell(row.get("clip_seconds"), 1), cell(peak, 2, GiB), cell(predicted, 2, GiB)]
        line += [f"{100 * (peak / predicted - 1):+.1f} %" if peak and predicted else ""]
        line += [cell(row.get("reserved_bytes"), 2, GiB), cell(row.get("psnr_db"), 1)]
        cells.append([*line, f"{row['latents_relative']:.1e}" if "latents_relative" in row else ""])
    reached = {"copied_bytes_a_second": ("GB/s copied", 1e9), "flops_a_second": ("TFLOP/s of an fp16 product", 1e12)}
    rates = [f"{facts[name] / scale:.0f} {words}" for name, (words, scale) in reached.items() if name in facts]
    libraries = ", ".join(f"{name} {number}" for name, number in facts.get("libraries", {}).items())
    text = [f"# {variant} on {facts.get('name', 'an unknown card')}", ""]
    text += [f"{libraries}, CUDA {facts.get('cuda')}, cuDNN {facts.get('cudnn')}; {', '.join(rates)}.", ""]
    text += [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *cells)]
    return "\n".join([*text, *(["", "Failed:", "", *failed] if failed else []), ""])
