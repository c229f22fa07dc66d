"""The pictures of the README, made anew from the bundled model: frames at four buckets, the curves of a motion sweep.

    python benchmarks/reference.py

Writes `results/reference/buckets.png` and `motion_curves.png`; the clips behind them stay in `results/motion`.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from svdlab import Request, Setup, grid, plots, run, study
from svdlab.display import strip
from svdlab.notebooks import parameters

ROOT = Path(__file__).parents[1]
INK, PAPER = (30, 30, 30), (255, 255, 255)


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


def main() -> None:
    out = ROOT / "results" / "reference"
    out.mkdir(parents=True, exist_ok=True)
    setup, folder = Setup("tiny"), ROOT / "results" / "motion"
    buckets = [0, 60, 127, 220]
    rows = run(grid(setup, Request(image="rocket", seed=11), motion_bucket_id=buckets), folder)
    strips = [strip(row.open(), 6, height=110) for row in rows]
    film([f"bucket {bucket}" for bucket in buckets], strips).quantize(256).save(out / "buckets.png", optimize=True)
    rows = run(grid(setup, Request(image="rocket"), **parameters(ROOT / "params" / "motion.yaml")["axes"]), folder)
    figure = plots.curves(study.load(folder, rows), "motion_bucket_id")
    figure.savefig(out / "motion_curves.png", dpi=90)
    print(study.findings(study.load(folder, rows), "motion_bucket_id"))


if __name__ == "__main__":
    main()
