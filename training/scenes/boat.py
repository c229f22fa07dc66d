"""A sailing boat that rides the waves where its bow points."""

import math

import torch
from torch import Tensor

from svdlab.tiny import WIDTHS_PER_SECOND

from .paint import Dice, Scene, Truth, colour, cover, over, smooth, turn, wide


def draw_boat(scene: Scene, dice: Dice) -> tuple[Tensor, Truth]:
    x, y = scene.points
    side = torch.where(dice.take(0, 1) < 0.5, -1.0, 1.0)
    # It starts behind the middle, so that it stays in the picture.
    start = -0.1 * side + dice.take(-0.12, 0.12)
    along = start[:, None] + side[:, None] * WIDTHS_PER_SECOND * scene.age
    sea, length = dice.take(0.06, 0.12), dice.take(0.2, 0.28)
    high, waves = dice.take(0.008, 0.018), 2 * math.pi * dice.take(2, 4)
    begin, drift = dice.take(0, 6.28), dice.take(1.5, 3.0)
    # The waves come towards the bow.
    turns = begin[:, None] + side[:, None] * (drift * waves / (2 * math.pi))[:, None] * scene.age
    level = sea[:, None] + high[:, None] * torch.sin(waves[:, None] * along + turns)
    slope = torch.atan(high[:, None] * waves[:, None] * torch.cos(waves[:, None] * along + turns))

    clips = _sky(dice, scene, sea)[:, None].expand(-1, scene.frames, -1, -1, -1)
    far = (
        wide(sea[:, None])
        - 0.02
        + wide(0.4 * high[:, None]) * torch.sin(x * wide(1.7 * waves[:, None]) + wide(0.6 * turns))
    )
    deep = colour(dice.take(0.5, 0.62), dice.take(0.5, 0.85), dice.take(0.3, 0.6))
    clips = over(clips, cover(far - y, scene.pixel), wide(deep * 1.25)[:, None].clamp(0, 1))

    u, v = turn(x - wide(along), y - wide(level) + 0.012, slope)
    u, v = u * wide((side / length)[:, None]), v / wide(length[:, None])
    scale = wide(length[:, None])
    hull_colour = colour(dice.take(0, 1), dice.take(0.5, 0.9), dice.take(0.4, 0.9))
    sail_colour = colour(dice.take(0, 1), dice.take(0.0, 0.4), dice.take(0.85, 1.0))
    mast = torch.maximum((u - 0.02).abs() - 0.016, (v + 0.42).abs() - 0.4)
    clips = over(clips, cover(mast * scale, scene.pixel), torch.tensor([0.35, 0.24, 0.16])[:, None, None])
    # The main sail behind the mast, a smaller one before it: triangles.
    main = torch.maximum(torch.maximum(u + 0.01, v + 0.14), -0.86 * (u + 0.42) - 0.5 * (v + 0.12))
    jib = torch.maximum(torch.maximum(0.05 - u, v + 0.18), 0.8 * (u - 0.36) + 0.6 * (v + 0.18))
    jib = torch.maximum(jib, 0.88 * (u - 0.4) - 0.47 * (v + 0.16))
    for sail, tone in ((main, sail_colour), (jib, hull_colour * 0.5 + 0.5)):
        shade = (0.8 + 0.5 * u - 0.15 * v).clamp(0.7, 1.05)[:, :, None]
        clips = over(clips, cover(sail * scale, scene.pixel), (wide(tone)[:, None] * shade).clamp(0, 1))
    # The hull: flat above, the bow reaching out, the stern cut off.
    bow = 0.8 * (u - 0.5) + 0.6 * (v + 0.1)
    hull = torch.maximum(torch.maximum(-0.1 - v, v - 0.12), torch.maximum(bow, -0.42 - u - 0.2 * v))
    clips = over(clips, cover(hull * scale, scene.pixel), wide(hull_colour)[:, None])
    stripe = torch.maximum(hull, (v + 0.055).abs() - 0.02)
    clips = over(clips, cover(stripe * scale, scene.pixel), wide(sail_colour)[:, None])

    near = wide(sea[:, None]) + wide(high[:, None]) * torch.sin(x * wide(waves[:, None]) + wide(turns))
    below = y - near
    foam = 1 + 0.5 * smooth(1 - below / 0.02) - 0.9 * below.clamp(0, 0.3)
    clips = over(clips, cover(-below, scene.pixel), (wide(deep)[:, None] * foam[:, :, None]).clamp(0, 1))
    for depth, tone in ((0.06, 0.85), (0.13, 0.7)):
        front = (
            wide(sea[:, None])
            + depth
            + wide(1.3 * high[:, None])
            * torch.sin(x * wide((0.75 - depth) * waves[:, None]) + wide(1.2 * turns) + 40 * depth)
        )
        clips = over(clips, cover(front - y, scene.pixel), wide(deep * tone)[:, None])
    speed = scene.width * WIDTHS_PER_SECOND * scene.pace / scene.rate
    heading = torch.where(side > 0, 0.0, 180.0)
    return clips, Truth(heading, speed, scene.in_pixels(torch.stack([along, level], -1)))


def _sky(dice: Dice, scene: Scene, sea: Tensor) -> Tensor:
    """A sky that brightens downwards, a sun, and an island: (B, 3, H, W)."""
    x, y = scene.points
    hue = dice.take(0.5, 0.68)
    high = colour(hue, dice.take(0.3, 0.7), dice.take(0.5, 0.95))
    low = colour(dice.take(0.02, 0.7), dice.take(0.1, 0.5), dice.take(0.8, 1.0))
    fade = smooth((y + 0.28) / 0.36)
    picture = wide(high) + fade * wide(low - high)
    sun_x, sun_y, size = dice.take(-0.45, 0.45), dice.take(-0.24, -0.02), dice.take(0.025, 0.05)
    away = ((x - wide(sun_x)) ** 2 + (y - wide(sun_y)) ** 2).sqrt() - wide(size)
    tone = colour(dice.take(0.05, 0.16), dice.take(0.1, 0.7), 1.0)
    picture = over(picture, 0.4 * torch.exp(-away.clamp(min=0) * 14), wide(tone))
    picture = over(picture, cover(away, scene.pixel), wide(tone))
    place, broad, tall = dice.take(-0.5, 0.5), dice.take(0.08, 0.3), dice.take(0.02, 0.1)
    hill = wide(sea) - wide(tall) * torch.exp(-(((x - wide(place)) / wide(broad)) ** 2)) - y
    island = colour(dice.take(0.2, 0.65), dice.take(0.15, 0.5), dice.take(0.25, 0.6))
    return over(picture, cover(hill, scene.pixel), wide(island)).clamp(0, 1)
