"""The pictures of README.md and docs/, made anew: from the bundled model clips at three buckets and the curves of a
motion sweep, and what is predicted for SVD-XT, by stage and by card.

    python benchmarks/reference.py             # all of it
    python benchmarks/reference.py --readme    # the table of optimisations alone

Writes `buckets.webp` into `results/reference`, `motion_curves.png` and `stages.png` into `docs/assets`, and the table
of cards into the page that has its markers. The clips behind them stay in `results/motion`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from svdlab import Request, Setup, estimate, grid, rows_table, run, save_wall
from svdlab.headless.run_notebooks import read_parameters
from svdlab.interface import plots
from svdlab.optimizations.registry import optimizations
from svdlab.prediction.fitting import fitting_table
from svdlab.sweeps import study

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "assets"
CARDS = ("RTX 2060", "RTX 4060", "RTX 3060", "T4", "RTX 4080", "RTX 3090", "RTX 4090", "RTX 5090", "A100 80GB", "H200")
LADDER = ("model-offload", "split-guidance", "single-token", "forward-chunking", "lean-decode")


def predicted() -> None:
    """Nothing here is measured: it is the same on every machine."""
    rungs = [estimate(Setup("svd-xt", dtype="fp16", optimizations=LADDER[:n])) for n in range(len(LADDER) + 1)]
    plots.stages(rungs).savefig(FIGURES / "stages.png", dpi=90)
    lines = [
        "| card | GiB | the best exact setup | needed, GiB | fits | a clip | published |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in fitting_table(Setup("svd-xt", dtype="fp16")):
        if line["card"] in CARDS:
            fits = line["fits"].replace("tight", "tight (close the browser)")
            numbers = f"{line['needed_gib']:.1f} | {fits} | {line['time']} | {line['published']}"
            lines.append(f"| {line['card']} | {line['memory_gib']:.1f} | `{line['optimizations']}` | {numbers} |")
    write_table("plan-table", lines)


def optimizations_table() -> list[str]:
    """The lines of the table of optimisations."""
    affects = {"latents": "latents and frames", "frames": "frames alone"}
    lines = ["| name | phase | affects | what |", "|---|---|---|---|"]
    for o in optimizations().values():
        name = f"`{o.name}=…`" if o.values else f"`{o.name}`"
        lines.append(f"| {name} | {o.phase} | {affects.get(o.affects, o.affects)} | {o.what} |")
    return lines


def write_table(name: str, lines: list[str]) -> None:
    """Put lines between a table's markers, in the page that has them."""
    page = next(page for page in (ROOT / "docs").glob("*.md") if f"<!-- /{name} -->" in page.read_text())
    before, rest = page.read_text().split(f"<!-- {name} -->")
    after = rest.split(f"<!-- /{name} -->")[1]
    page.write_text("\n".join([f"{before}<!-- {name} -->", *lines, f"<!-- /{name} -->{after}"]))


def main() -> None:
    write_table("optimizations-table", optimizations_table())
    if "--readme" in sys.argv:
        return
    out = ROOT / "results" / "reference"
    out.mkdir(parents=True, exist_ok=True)
    predicted()
    folder, axes = ROOT / "results" / "motion", read_parameters(ROOT / "params" / "motion.yaml")["axes"]
    rows = run(grid(Setup("tiny"), Request(image="rocket"), **axes), folder)
    shown = [row for row in rows if row.request.seed == 1 and row.request.motion_bucket_id in (20, 100, 220)]
    save_wall(shown, out / "buckets.webp", "motion_bucket_id")
    figure = plots.curves(rows_table(rows), "motion_bucket_id")
    figure.savefig(FIGURES / "motion_curves.png", dpi=90)
    print(study.findings(rows_table(rows), "motion_bucket_id"))


if __name__ == "__main__":
    main()
