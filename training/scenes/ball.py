"""A ball that falls and bounces, for ever as high as it began, in front of a wall."""

import math

import torch
from torch import Tensor

from .paint import Dice, Scene, Truth, colour, cover, over, smooth, turn, wide

GRAVITY = 0.5  # widths a second, each second, at bucket 255: a fall takes about a second


def draw_ball(scene: Scene, dice: Dice) -> tuple[Tensor, Truth]:
    x, y = scene.points
    radius, floor = dice.take(0.06, 0.1), dice.take(0.14, 0.2)
    height = torch.minimum(dice.take(0.12, 0.3), floor + 0.24 - 2 * radius)  # of the fall; it begins inside the picture
    across = dice.take(-0.34, 0.34)
    fall = (2 * height / GRAVITY).sqrt()
    # Its time runs from top to top: falling in the first half, rising again in the second.
    phase = (scene.age / fall[:, None] + 1) % 2 - 1
    above = height[:, None] * (1 - phase**2)
    centres = torch.stack([across[:, None].expand_as(above), (floor - radius)[:, None] - above], -1)

    clips = _room(dice, scene, floor)[:, None].expand(-1, scene.frames, -1, -1, -1)
    # The shadow lies on the floor beneath, smaller and darker the nearer the ball is.
    reach = radius[:, None] * (0.8 + 1.5 * above)
    far = ((x - wide(centres[..., 0])) / wide(reach)) ** 2 + ((y - wide(floor)[:, None] - 0.012) / 0.016) ** 2
    clips = over(clips, wide(0.7 - 1.2 * above) * torch.exp(-far), torch.tensor([0.05, 0.05, 0.08])[:, None, None])

    u, v = ((points - wide(centres[..., axis])) / wide(radius[:, None]) for axis, points in enumerate((x, y)))
    away = (u * u + v * v).sqrt()
    one, other = (colour(dice.take(0, 1), dice.take(0.6, 0.95), dice.take(0.75, 1.0)) for _ in range(2))
    along, beside = turn(u, v, dice.take(0, 6.28)[:, None])
    depth = (1 - away**2).clamp(min=0).sqrt()
    # Stripes that bend with the sphere, a white cap where they meet.
    around = torch.atan2(along, depth + 1e-4)
    stripe = smooth(torch.sin(around * wide(dice.take(3, 6)[:, None])) * 2 + 0.5)
    paint = wide(one)[:, None] + stripe[:, :, None] * wide(other - one)[:, None]
    cap = smooth((beside.abs() - 0.82) * 9)
    paint = paint + cap[:, :, None] * (0.95 - paint)
    light = (0.55 + 0.6 * (0.6 * depth - 0.45 * u - 0.65 * v).clamp(0, 1))[:, :, None]
    clips = over(clips, cover((away - 1) * wide(radius[:, None]), scene.pixel), (paint * light).clamp(0, 1))
    speed = scene.width * (2 * GRAVITY * height).sqrt() * scene.pace / scene.rate  # where it meets the floor
    return clips, Truth(torch.full_like(speed, math.nan), speed, scene.in_pixels(centres))


def _room(dice: Dice, scene: Scene, floor: Tensor) -> Tensor:
    """A wall with a window or pictures on it and a floor of boards: (B, 3, H, W)."""
    x, y = scene.points
    hue = dice.take(0, 1)
    wall = colour(hue, dice.take(0.1, 0.5), dice.take(0.45, 0.95))
    shade = (1 + wide(dice.take(-0.5, 0.5)) * x + wide(dice.take(-0.6, 0.2)) * (y + 0.1)).clamp(0.5, 1.3)
    picture = (wide(wall) * shade[:, None]).clamp(0, 1)
    papered, count = dice.take(0, 0.07), dice.take(12, 40)
    picture = picture * (1 + (wide(papered) * torch.sin(x * wide(count * 2)))[:, None])
    for _ in range(2):
        u, v = x - wide(dice.take(-0.5, 0.5)), y - wide(dice.take(-0.25, 0.0))
        size, slim = wide(dice.take(0.04, 0.11)), wide(dice.take(0.6, 1.3))
        box = torch.maximum(u.abs() - size, v.abs() - size * slim)
        frame = colour(dice.take(0, 1), dice.take(0.1, 0.6), dice.take(0.15, 0.9))
        inner, outer = (colour(dice.take(0, 1), dice.take(0.1, 0.7), dice.take(0.2, 1)) for _ in range(2))
        blend = (v / size * 0.5 + 0.5).clamp(0, 1)[:, None]
        picture = over(picture, cover(box, scene.pixel), wide(frame))
        picture = over(picture, cover(box + 0.012, scene.pixel), wide(inner) + blend * wide(outer - inner))
    below = y - wide(floor)
    boards = colour(hue + dice.take(0.3, 0.7), dice.take(0.2, 0.6), dice.take(0.3, 0.75))
    # Boards run away from the eye: their seams meet far above the floor's edge.
    seams = torch.sin((x / (below.clamp(min=0) + 0.25)) * wide(dice.take(12, 30)))
    grain = (0.9 + 0.1 * smooth(seams * 3 + 0.5) + 0.8 * below.clamp(0, 0.2)).clamp(0, 1.2)[:, None]
    return over(picture, cover(-below, scene.pixel), (wide(boards) * grain).clamp(0, 1)).clamp(0, 1)
