"""The README's pictures, made anew: from the bundled model frames at four buckets and the curves of a motion sweep, and
what is predicted for SVD-XT, by stage and by card.

    python benchmarks/reference.py             # all of it
    python benchmarks/reference.py --readme    # the README's table of optimisations alone

Writes `buckets.png`, `motion_curves.png` and `stages.png` into `results/reference`, and the README's table of cards.
The clips behind them stay in `results/motion`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from svdlab import Request, Setup, estimate, grid, rows_table, run
from svdlab.headless.run_notebooks import read_parameters
from svdlab.interface import plots
from svdlab.media.show import strip
from svdlab.optimizations import OPTIMIZATIONS
from svdlab.prediction.fitting import cards_table
from svdlab.sweeps import study

ROOT = Path(__file__).parents[1]
INK, PAPER = (30, 30, 30), (255, 255, 255)
CARDS = ("RTX 2060", "RTX 4060", "RTX 3060", "T4", "RTX 3090", "RTX 4090", "RTX 5090", "A100", "H100", "H200")
LADDER = ("model-offload", "split-guidance", "single-token", "forward-chunking", "lean-decode")


def film(labels: list[str], strips: list[Image.Image]) -> Image.Image:
    """Strips of frames one below another, each with its label on the left."""
    font, margin = ImageFont.load_default(size=18), 110
    size = (margin + strips[0].width, len(strips) * (strips[0].height + 4) - 4)
    page = Image.new("RGB", size, PAPER)
    for i, (label, frames) in enumerate(zip(labels, strips, strict=True)):
        top = i * (frames.height + 4)
        page.paste(frames, (margin, top), frames)
        ImageDraw.Draw(page).text((4, top + frames.height / 2), label, INK, font, anchor="lm")
    return page


def predicted(out: Path) -> None:
    """Nothing here is measured: it is the same on every machine."""
    rungs = [estimate(Setup("svd-xt", dtype="fp16", optimizations=LADDER[:n])) for n in range(len(LADDER) + 1)]
    plots.stages(rungs).savefig(out / "stages.png", dpi=90)
    lines = [
        "| card | GiB | the fastest exact setup | needed, GiB | floor, s | expected, s |",
        "|---|---|---|---|---|---|",
    ]
    for line in cards_table(Setup("svd-xt", dtype="fp16")):
        if line["card"] in CARDS:
            numbers = f"{line['needed_gib']:.1f} | {line['floor_seconds']:.0f} | {line['expected_seconds']:.0f}"
            lines.append(f"| {line['card']} | {line['memory_gib']:.0f} | `{line['optimizations']}` | {numbers} |")
    write_table("plan-table", lines)


def optimizations_table() -> list[str]:
    """The lines of the README's table of optimisations."""
    affects = {"latents": "latents and frames", "frames": "frames alone"}
    lines = ["| name | phase | affects | what |", "|---|---|---|---|"]
    for o in OPTIMIZATIONS.values():
        name = f"`{o.name}=…`" if o.values else f"`{o.name}`"
        lines.append(f"| {name} | {o.phase} | {affects.get(o.affects, o.affects)} | {o.what} |")
    return lines


def write_table(name: str, lines: list[str]) -> None:
    """Put lines between a table's markers in the README."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(f"<!-- {name} -->")
    after = rest.split(f"<!-- /{name} -->")[1]
    readme.write_text("\n".join([f"{before}<!-- {name} -->", *lines, f"<!-- /{name} -->{after}"]))


def main() -> None:
    write_table("optimizations-table", optimizations_table())
    if "--readme" in sys.argv:
        return
    out = ROOT / "results" / "reference"
    out.mkdir(parents=True, exist_ok=True)
    predicted(out)
    setup, folder = Setup("tiny"), ROOT / "results" / "motion"
    buckets = [0, 60, 127, 220]
    rows = run(grid(setup, Request(image="rocket", seed=11), motion_bucket_id=buckets), folder)
    strips = [strip(row.open(), 6, height=110) for row in rows]
    film([f"bucket {bucket}" for bucket in buckets], strips).quantize(256).save(out / "buckets.png", optimize=True)
    rows = run(grid(setup, Request(image="rocket"), **read_parameters(ROOT / "params" / "motion.yaml")["axes"]), folder)
    figure = plots.curves(rows_table(rows), "motion_bucket_id")
    figure.savefig(out / "motion_curves.png", dpi=90)
    print(study.findings(rows_table(rows), "motion_bucket_id"))


if __name__ == "__main__":
    main()
