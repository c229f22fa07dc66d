"""Stand-ins for photographs, which a camera approaches where they are light.

The camera comes `ZOOM_PER_SECOND` nearer each second at bucket 255. The point that it approaches follows from the
picture: it lies where the light lies, further out than the middle of the light, so that most clips pan as well.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .paint import FINEST, Dice, Scene, Truth, colour, cover, field, grid, over, turn, wide

ZOOM_PER_SECOND = 0.1
_PULL = 8.0  # how much further out than the middle of the light the camera's goal lies, for small distances
_FURTHEST = 0.32, 0.18  # widths from the middle, that the goal stays inside, across and down
_LEAVES = 90


def goal(picture: Tensor) -> Tensor:
    """The point (B, 2), in widths from the middle, that the camera approaches in pictures (B, 3, H, W)."""
    height, width = picture.shape[-2:]
    light = picture.mean(1) + 1e-3
    middle = (light[:, None] * grid(height, width)).sum((-2, -1)) / light.sum((-2, -1))[:, None]
    furthest = torch.tensor(_FURTHEST)
    return furthest * torch.tanh(_PULL * middle / furthest)


def _approach(scene: Scene, target: Tensor) -> tuple[Tensor, Truth]:
    """Where each pixel of each frame looks, (B, F, 2, H, W) in widths, and the camera's truth."""
    growth = 1 + ZOOM_PER_SECOND * scene.age
    point = wide(target)[:, None]
    looks = point + (scene.points - point) / wide(growth)[:, :, None]
    speed = scene.width / 2 * ZOOM_PER_SECOND * scene.pace / scene.rate
    places = scene.in_pixels(target)[:, None].expand(-1, scene.frames, -1)
    return looks, Truth(torch.full_like(speed, math.nan), speed, places)


def draw_photo(scene: Scene, dice: Dice) -> tuple[Tensor, Truth]:
    """Nine overlapping shapes on a gradient with soft waves."""
    shapes = _Shapes(dice)
    small = shapes.at(grid(36, 64)[None, None], 1 / 64)[:, 0]
    looks, truth = _approach(scene, goal(small))
    return shapes.at(looks, scene.pixel), truth


def draw_leaves(scene: Scene, dice: Dice) -> tuple[Tensor, Truth]:
    """Textured shapes that cover each other, large and small as in photographs (the "dead leaves" model)."""
    return _film(scene, lambda size: _leaves(dice, size))


def draw_grain(scene: Scene, dice: Dice) -> tuple[Tensor, Truth]:
    """Noise with the spectrum of photographs, three colours that mostly agree."""
    return _film(scene, lambda size: _grain(dice, size))


def _film(scene: Scene, still: Callable[[tuple[int, int]], Tensor]) -> tuple[Tensor, Truth]:
    """The camera's way over a picture that is drawn once, at twice the size: a pixel is the mean of four."""
    canvas = still((2 * scene.height, 2 * scene.width))
    looks, truth = _approach(scene, goal(F.interpolate(canvas, (36, 64), mode="area")))
    across, down = 2 * looks[:, :, 0], 2 * looks[:, :, 1] * scene.width / scene.height
    places = torch.stack([across, down], -1).flatten(1, 2)
    clips = F.grid_sample(canvas, places, "bilinear", "border", align_corners=False)
    return clips.unflatten(2, (scene.frames, scene.height)).transpose(1, 2), truth


def _tones(dice: Dice, count: int) -> Tensor:
    """Colours (B, count, 3) of one picture: a few hues, most of them dull."""
    hue = dice.take(0, 1)[:, None] + dice.take(0.05, 0.5)[:, None] * dice.take(-1, 1, count) ** 3
    return colour(hue, dice.take(0.1, 0.9)[:, None] * dice.take(0, 1, count), dice.take(0.03, 1, count))


def _grain(dice: Dice, size: tuple[int, int]) -> Tensor:
    height, width = size
    steep = dice.take(0.8, 1.6)
    waves = field(dice.spectrum(3, FINEST, steep), width)[..., (width - height) // 2 :, :][..., :height, :]
    light, tint, strength = waves[:, :1], waves[:, 1:], dice.take(0.08, 0.22)
    base = _tones(dice, 1)[:, 0] * 0.6 + 0.2
    one, other = (dice.take(-1, 1, 3) * dice.take(0, 0.08)[:, None] for _ in range(2))
    picture = wide(base) + wide(strength)[:, None] * light
    return (picture + wide(one) * tint[:, :1] + wide(other) * tint[:, 1:]).clamp(0, 1)


def _leaves(dice: Dice, size: tuple[int, int]) -> Tensor:
    height, width = size
    pixel = 2 / width  # of the clip: edges are as soft as in all other worlds
    texture = field(dice.spectrum(1, FINEST, dice.take(0.5, 1.2)), width)[:, 0]
    texture = texture[..., (width - height) // 2 :, :][..., :height, :]
    x, y = grid(height, width)
    tones = _tones(dice, _LEAVES + 1)
    smallest, largest = 0.012, 0.45
    # Sizes fall by the third power, as those of things in photographs do; the large ones lie below.
    share = dice.take(0, 1, _LEAVES).sort(dim=-1, descending=True).values
    sizes = (smallest**-1 + (largest**-1 - smallest**-1) * share**1.7).reciprocal()
    at_x, at_y = dice.take(-0.55, 0.55, _LEAVES), dice.take(-0.33, 0.33, _LEAVES)
    angle, slim, kind = dice.take(0, 6.28, _LEAVES), dice.take(0.35, 1, _LEAVES), dice.take(0, 1, _LEAVES)
    rough, shade = dice.take(0, 0.12)[:, None] * dice.take(-1, 1, _LEAVES), dice.take(-0.35, 0.35, _LEAVES)
    picture = wide(tones[:, -1]) * (1 + 0.08 * texture + 0.5 * y)[:, None]
    for leaf in range(_LEAVES):
        u, v = turn(x - wide(at_x[:, leaf]), y - wide(at_y[:, leaf]), angle[:, leaf])
        reach, thin = wide(sizes[:, leaf]), wide(slim[:, leaf])
        round_ = ((u * u + (v / thin) ** 2).sqrt() - reach) * thin
        box = torch.maximum(u.abs() - reach, v.abs() - reach * thin)
        distance = torch.where(wide(kind[:, leaf]) < 0.65, round_, box)
        light = 1 + wide(rough[:, leaf]) * texture + wide(shade[:, leaf]) * (v / reach).clamp(-1, 1)
        picture = over(picture, cover(distance, pixel), wide(tones[:, leaf]) * light[:, None])
    return picture.clamp(0, 1)


class _Shapes:
    """A gradient, soft waves and nine overlapping shapes, to be looked at from anywhere."""

    def __init__(self, dice: Dice):
        self.ground = [colour(dice.take(0, 1), dice.take(0, 0.8), dice.take(0.1, 1)) for _ in range(2)]
        self.tilt = dice.take(0, 6.28)
        self.waves = [(dice.take(0, 6.28), dice.take(0, 1), dice.take(8, 60), dice.take(0, 6.28)) for _ in range(3)]
        self.shapes = [
            (dice.take(-0.55, 0.55), dice.take(-0.32, 0.32), dice.take(0, 6.28), dice.take(0.03, 0.24),
             dice.take(0.25, 1), dice.take(0, 1), colour(dice.take(0, 1), dice.take(0, 0.9), dice.take(0.05, 1)),
             dice.take(-0.5, 0.5))
            for _ in range(9)
        ]  # fmt: skip

    def at(self, points: Tensor, pixel: float) -> Tensor:
        """What is at `points` (B or 1, F, 2, H, W): (B, F, 3, H, W)."""
        x, y = points.unbind(2)
        one, two = (wide(each)[:, None] for each in self.ground)
        _, along = turn(x, y, self.tilt[:, None])
        picture = one + (along + 0.5).clamp(0, 1)[:, :, None] * (two - one)
        for angle, strength, often, begin in self.waves:
            wave, _ = turn(x, y, angle[:, None])
            tone = torch.sin(wave * wide(often[:, None]) + wide(begin[:, None]))
            picture = picture + (wide((strength**3 * 0.12)[:, None]) * tone)[:, :, None]
        for at_x, at_y, angle, reach, slim, kind, tone, dark in self.shapes:
            u, v = turn(x - wide(at_x[:, None]), y - wide(at_y[:, None]), angle[:, None])
            size = wide(reach[:, None])
            round_, box = (
                (u * u + v * v).sqrt() - size,
                torch.maximum(u.abs() - size, v.abs() - size * wide(slim[:, None])),
            )
            distance = torch.where(wide(kind[:, None]) < 0.5, round_, box)
            shade = (1 + wide(dark[:, None]) * v / size).clamp(0.4, 1.4)[:, :, None]
            picture = over(picture, cover(distance, pixel), (wide(tone)[:, None] * shade).clamp(0, 1))
        return picture.clamp(0, 1)
