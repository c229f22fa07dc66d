"""Clips to look at: `python -m training.grids FOLDER …` writes one PNG an edition.

A row is a scene or a photograph: the picture, then the last frame at buckets 0, 60, 127 and 220, and what was drawn for
220. No number says what a look does: would you show it to a stranger?
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from .evaluate import Edition, image
from .photographs import NAMES, photograph
from .scenes import WORLDS

BUCKETS = (0, 60, 127, 220)
SEED = 5_000  # held out, and of no measure


@torch.no_grad()
def grid(edition: Edition, rows: int) -> Tensor:
    """(3, H, W): one scene of every world, then photographs, `rows` in all of each kind at most."""
    lines = []
    for world in WORLDS[:rows]:
        clips = [edition.clip(SEED, bucket, world=world) for bucket in BUCKETS]
        drawn = edition.truth(SEED, 220, world=world)[0]
        lines.append(torch.cat([drawn[0], *(clip[-1] for clip in clips), drawn[-1]], 2))
    for name in NAMES[:rows] if edition.pipeline else ():
        shown = photograph(name, edition.height, edition.width)
        clips = [edition.animate(shown, SEED, bucket) for bucket in BUCKETS]
        lines.append(torch.cat([shown, *(clip[-1] for clip in clips), torch.zeros_like(shown)], 2))
    return torch.cat(lines, 1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for number, folder in enumerate(options.folders, 1):
        path = options.out / f"grid-{number}.png"
        image(grid(Edition(folder, options.device, torch.bfloat16), options.rows)).save(path)
        print(f"{folder}: {path}")


if __name__ == "__main__":
    main()
