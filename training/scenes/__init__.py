"""The worlds that the tiny model lives in: `draw` gives clips, and the truth about every one of them.

One world a file. In each, what moves and how follows from the first picture alone, and the bucket says how fast: at
bucket 0 everything stands still but a rocket's flame.

- rocket: flies where its nose points, over a planet, in front of stars, by `svdlab.tiny.pixels_per_frame`
- ball: falls and bounces, for ever as high as it began
- boat: sails where its bow points, by the rocket's rule, and rides the waves
- clouds: drift away from the sun, by half of the rocket's rule; those that leave come back on the other side
- photo, leaves, grain: stand-ins for photographs, which a camera approaches where they are light. Shapes and gradients;
  "dead leaves", whose sizes are spread as in photographs; noise with a photograph's spectrum

Everything is drawn in units of the picture's width, origin in the middle, y downwards, so one seed gives one world at
every resolution. Each seed has its own generator: a batch equals its clips drawn one by one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .ball import draw_ball
from .boat import draw_boat
from .clouds import draw_clouds
from .paint import Dice, Scene, Truth
from .photo import draw_grain, draw_leaves, draw_photo
from .rocket import draw_rocket, layers

DRAWINGS: dict[str, Callable[[Scene, Dice], tuple[Tensor, Truth]]] = {
    "rocket": draw_rocket,
    "ball": draw_ball,
    "boat": draw_boat,
    "clouds": draw_clouds,
    "photo": draw_photo,
    "leaves": draw_leaves,
    "grain": draw_grain,
}
WORLDS = tuple(DRAWINGS)
HEIGHT, WIDTH = 72, 128  # of the first edition

# Seeds under HELD_OUT_END are never trained on: evaluation and tests draw theirs from there.
HELD_OUT_END = 1_000_000

__all__ = ["HEIGHT", "HELD_OUT_END", "WIDTH", "WORLDS", "Truth", "draw", "layers"]


def draw(
    seeds: Sequence[int],
    motion_bucket_id: float | Sequence[float] | Tensor,
    fps: float | Sequence[float] | Tensor,
    frames: int = 14,
    height: int = HEIGHT,
    width: int = WIDTH,
    world: str = "rocket",
    device: str = "cpu",
) -> tuple[Tensor, Truth]:
    """Clips (B, F, 3, height, width) in [0, 1] and their truth. The first frame depends on the seed alone.

    `motion_bucket_id` and `fps` are one number for all or one a clip. Raises ValueError for an unknown world.
    """
    if world not in DRAWINGS:
        raise ValueError(f"there is no world {world!r}: choose one of {', '.join(WORLDS)}")
    with torch.device(device):
        pace, rate = (torch.as_tensor(each, dtype=torch.float32).expand(len(seeds)) for each in (motion_bucket_id, fps))
        scene = Scene(pace / 255, rate, frames, height, width)
        return DRAWINGS[world](scene, Dice(seeds))
