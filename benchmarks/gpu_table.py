"""What a card measured, as a table, beside what was predicted for it: the second half of `gpu.py`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import median

from svdlab import Setup, estimate

ROWS = "measured.jsonl"
PREDICTIONS = Path(__file__).with_name("gpu_predictions.json")
GiB = 2**30
LEAN = ("single-token", "split-guidance")
CAPPED = {8: ("model-offload", *LEAN, "lean-decode"), 6: ("group-offload", *LEAN, "lean-decode")}


def predict(variant: str) -> None:
    """Write what the parts should take, for the table of a card.

    Args:
        variant: whose full size is predicted, in fp16.
    """
    setup = Setup(variant, weights="random", dtype="fp16")
    request = setup.request(image="rocket")
    together = dataclasses.replace(request, decode_chunk_size=request.num_frames)
    bytes_by_part: dict[str, int] = {}
    for names in ((), ("single-token",), ("split-guidance",)):
        stages = estimate(dataclasses.replace(setup, optimizations=names), request).stages
        steps = max(stages["encode"].peak_bytes, stages["denoise"].peak_bytes)
        bytes_by_part[", ".join(names) or "plain, few steps"] = steps
        if not names:
            bytes_by_part["plain"] = max(stage.peak_bytes for stage in stages.values())
    for asked in (request, together):
        for names, words in (((), "decode"), (("lean-decode",), "lean-decode")):
            stage = estimate(dataclasses.replace(setup, optimizations=names), asked).stages["decode"]
            whole = sum(estimate(setup, request).component_bytes.values())  # nothing is offloaded
            peak = stage.peak_bytes - stage.weight_bytes + whole
            bytes_by_part[f"{words} at {asked.decode_chunk_size}"] = peak
    for gib, names in CAPPED.items():
        peak = estimate(dataclasses.replace(setup, optimizations=names), request).peak_bytes
        bytes_by_part[f"capped at {gib} GiB"] = peak
    predictions = json.loads(PREDICTIONS.read_text()) if PREDICTIONS.exists() else {}
    PREDICTIONS.write_text(json.dumps(predictions | {variant: bytes_by_part}, indent=1) + "\n")


def table(folder: Path) -> str:
    """The rows of a folder in Markdown, the last of each part, beside what was predicted."""
    lines = (folder / ROWS).read_text().splitlines()
    rows = {row["part"]: row for row in map(json.loads, lines)}
    facts = rows.pop("card", {})
    variant = rows.get("load", {}).get("variant", "svd-xt")
    predictions = (json.loads(PREDICTIONS.read_text()) if PREDICTIONS.exists() else {}).get(variant, {})

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
