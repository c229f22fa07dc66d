"""Clouds that drift away from the sun, over hills. Those that leave come back on the other side."""

import torch
from torch import Tensor

from svdlab.tiny import WIDTHS_PER_SECOND

from .paint import FINEST, Dice, Scene, Truth, colour, cover, field, moved, over, smooth, wide

SHARE = 0.5  # of the rocket's speed


def draw_clouds(scene: Scene, dice: Dice) -> tuple[Tensor, Truth]:
    x, y = scene.points
    side = torch.where(dice.take(0, 1) < 0.5, -1.0, 1.0)
    sun_x, sun_y, size = side * dice.take(0.15, 0.45), dice.take(-0.24, -0.1), dice.take(0.025, 0.05)
    high = colour(dice.take(0.52, 0.66), dice.take(0.4, 0.8), dice.take(0.45, 0.95))
    low = colour(dice.take(0.02, 0.65), dice.take(0.05, 0.4), dice.take(0.8, 1.0))
    sky = wide(high) + smooth((y + 0.28) / 0.45) * wide(low - high)
    away = ((x - wide(sun_x)) ** 2 + (y - wide(sun_y)) ** 2).sqrt() - wide(size)
    tone = colour(dice.take(0.05, 0.17), dice.take(0.0, 0.5), 1.0)
    sky = over(sky, 0.5 * torch.exp(-away.clamp(min=0) * 9), wide(tone))
    sky = over(sky, cover(away, scene.pixel), wide(tone))

    way = -side[:, None] * SHARE * WIDTHS_PER_SECOND * scene.age
    by = torch.stack([way, torch.zeros_like(way)], -1)
    waves = dice.spectrum(1, FINEST // 2, dice.take(1.5, 2.0))
    top = (scene.width - scene.height) // 2
    rows = slice(top, top + scene.height)
    density = field(moved(waves, by), scene.width)[..., rows, :]
    # The same clouds a little nearer to the sun: where they are thinner, the sun lights the edge.
    towards = torch.stack([-side * 0.012, torch.full_like(side, 0.02)], -1)[:, None]
    lit = field(moved(waves, by + towards), scene.width)[..., rows, :]
    bare = wide(dice.take(-0.4, 0.6)[:, None]) + ((y - 0.02) / 0.12).clamp(0, 2) ** 2
    thick = smooth((density - bare) / wide(dice.take(0.6, 1.2)[:, None]))
    light = (0.82 + 0.22 * (density - lit) - 0.12 * (density - bare).clamp(0, 2)).clamp(0.45, 1)
    clips = over(sky[:, None], 0.95 * thick, light[:, :, None] * wide(0.75 + 0.25 * tone)[:, None])

    for depth in range(2):
        place, tall, bumps = dice.take(0.1, 0.17) + 0.05 * depth, dice.take(0.01, 0.04), dice.take(4, 14)
        begin = dice.take(0, 6.28)
        land = colour(dice.take(0.15, 0.45), dice.take(0.2, 0.6), dice.take(0.2, 0.5))
        ridge = torch.sin(x * wide(bumps) + wide(begin)) + 0.4 * torch.sin(x * wide(2.3 * bumps) + wide(2 * begin))
        below = y - (wide(place) - wide(tall) * ridge)
        shade = (1 - 1.2 * below.clamp(0, 0.3))[:, None]
        clips = over(clips, cover(-below, scene.pixel)[:, None], (wide(land) * shade)[:, None])
    speed = SHARE * scene.width * WIDTHS_PER_SECOND * scene.pace / scene.rate
    middle = torch.zeros(len(side), scene.frames, 2)
    return clips.clamp(0, 1), Truth(torch.where(side > 0, 180.0, 0.0), speed, scene.in_pixels(middle))
