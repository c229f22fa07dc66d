"""A rocket with a red-hot flame over a planet, in front of stars, flying where its nose points."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from svdlab.tiny import WIDTHS_PER_SECOND

from .paint import Dice, Scene, Truth, colour, cover, grid, over, smooth, turn, wide

# The flame's length by frame, the same in every clip: a flicker that can be foretold can be learnt.
_FLICKER_RATE, _FLICKER_DEPTH = 2.4, 0.22


def draw_rocket(scene: Scene, dice: Dice) -> tuple[Tensor, Truth]:
    ship = _Ship.roll(dice)
    sky = _sky(dice, scene.points, scene.pixel)
    centres = ship.start[:, None] + WIDTHS_PER_SECOND * scene.age[..., None] * ship.ahead[:, None]
    clips = sky[:, None].expand(-1, scene.frames, -1, -1, -1)
    for alpha, paint in _rocket(ship, scene.points, centres, scene.pixel, flame=True):
        clips = over(clips, alpha, paint)
    speed = scene.width * WIDTHS_PER_SECOND * scene.pace / scene.rate
    return clips, Truth(ship.heading, speed, scene.in_pixels(centres))


def layers(seed: int, height: int = 72, width: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """One rocket scene taken apart: the empty sky (3, H, W), the rocket's colour (3, H, W) and its cover (H, W).

    The rocket stands where the clip starts, without its flame: a template to look for in other frames.
    """
    dice, points = Dice([seed]), grid(height, width)
    ship = _Ship.roll(dice)
    sky = _sky(dice, points, 1 / width)[:, None]
    parts = list(_rocket(ship, points, ship.start[:, None], 1 / width, flame=False))
    surface, empty = torch.zeros_like(sky), torch.ones(1, 1, height, width)
    for alpha, paint in parts:
        surface = over(surface, alpha, paint)
        empty = empty * (1 - alpha)
    covered = 1 - empty
    return sky[0, 0], (surface / covered[:, :, None].clamp(min=1e-6))[0, 0], covered[0, 0]


# --- the sky -----------------------------------------------------------------------------------------------------


def _sky(dice: Dice, points: Tensor, pixel: float) -> Tensor:
    """Gradient, glow, stars and two planets, the first perhaps with a ring: (B, 3, H, W)."""
    x, y = points
    hue = dice.take(0.5, 0.95)
    top = colour(hue, dice.take(0.5, 0.9), dice.take(0.06, 0.3))
    low = colour(hue + dice.take(-0.12, 0.16), dice.take(0.4, 0.8), dice.take(0.2, 0.6))
    _, along = turn(x, y, dice.take(-0.5, 0.5))
    fade = smooth(along / 0.6 + 0.5)
    picture = wide(top) + fade[:, None] * wide(low - top)

    glow_x, glow_y, glow_size = dice.take(-0.5, 0.5), dice.take(-0.28, 0.28), dice.take(0.1, 0.22)
    glow = torch.exp(-((x - wide(glow_x)) ** 2 + (y - wide(glow_y)) ** 2) / wide(2 * glow_size**2))
    picture = picture + glow[:, None] * wide(colour(hue + dice.take(0.0, 0.4), 0.6, dice.take(0.0, 0.22)))

    count = 22
    star_x, star_y = dice.take(-0.5, 0.5, count), dice.take(-0.29, 0.29, count)
    size, bright = dice.take(0.0035, 0.0065, count), dice.take(0.15, 0.75, count)
    far = (x - wide(star_x)) ** 2 + (y - wide(star_y)) ** 2  # (B, stars, H, W)
    picture = picture + (wide(bright) * torch.exp(-far / wide(2 * size**2))).sum(1, keepdim=True)

    side = torch.where(dice.take(0, 1) < 0.5, -1.0, 1.0)
    light = dice.take(0, 2 * math.pi)
    picture = _planet(dice, picture, points, pixel, light, side, (0.12, 0.48), (-0.2, 0.34), (0.1, 0.22), ringed=True)
    picture = _planet(
        dice, picture, points, pixel, light, -side, (0.1, 0.48), (-0.27, 0.2), (0.025, 0.06), ringed=False
    )
    return picture.clamp(0, 1)


def _planet(dice, picture, points, pixel, light, side, across, down, size, ringed: bool) -> Tensor:
    """One shaded, banded planet over `picture`, its place and radius within bounds; a ring four times in ten."""
    at_x, at_y, radius = side * dice.take(*across), dice.take(*down), dice.take(*size)
    x, y = ((values - wide(at)) / wide(radius) for values, at in zip(points, (at_x, at_y), strict=True))
    u, v = turn(x, y, dice.take(-0.5, 0.5))
    hue, other = dice.take(0, 1), dice.take(-0.12, 0.12)
    base, band = colour(hue, 0.55, 0.85), colour(hue + other, 0.65, 0.6)
    stripes = (0.5 + 0.5 * torch.sin(v * wide(dice.take(3, 8)) + wide(dice.take(0, 6.28))))[:, None]
    surface = wide(base) + stripes * wide(band - base)
    depth = (1 - u * u - v * v).clamp(min=0).sqrt()
    lit = 0.25 + 0.8 * (0.8 * (u * wide(light.cos()) + v * wide(light.sin())) + 0.6 * depth).clamp(0, 1)
    away = (u * u + v * v).sqrt()
    disc = cover((away - 1) * wide(radius), pixel)
    halo = 0.35 * torch.exp(-((away - 1).clamp(min=0) * 9)) * (1 - disc)
    picture = over(picture, halo, wide(base))
    if not ringed:
        return over(picture, disc, surface * lit[:, None])
    has = wide((dice.take(0, 1) < 0.4).float())
    ellipse = (u * u + (v / 0.28) ** 2).sqrt()
    ring = 0.75 * has * cover(((ellipse - 1.62).abs() - 0.24) * 0.5 * wide(radius), pixel)
    paint = wide(colour(hue + 0.05, 0.35, 0.9))
    picture = over(picture, ring * (v < 0), paint)
    picture = over(picture, disc, surface * lit[:, None])
    return over(picture, ring * (v >= 0), paint)


# --- the rocket --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ship:
    """A rocket's looks and its place at the start, for a batch; lengths in widths."""

    heading: Tensor  # degrees, counter-clockwise, 0 to the right
    ahead: Tensor  # (B, 2) the same as a unit vector in picture axes (y down)
    start: Tensor  # (B, 2)
    length: Tensor
    body: Tensor  # colours (B, 3)
    trim: Tensor
    glass: Tensor

    @classmethod
    def roll(cls, dice: Dice) -> "_Ship":
        """Starts lie half a fast clip's way behind the middle, give or take, so the rocket stays in the picture."""
        heading = dice.take(0, 360)
        radians = torch.deg2rad(heading)
        ahead = torch.stack([radians.cos(), -radians.sin()], -1)
        jitter = torch.stack([dice.take(-0.12, 0.12), dice.take(-0.03, 0.03)], -1)
        start = -0.105 * ahead + jitter
        body = colour(dice.take(0, 1), dice.take(0.0, 0.15), dice.take(0.85, 1.0))
        trim = colour(dice.take(0, 1), 0.85, dice.take(0.75, 1.0))
        glass = colour(dice.take(0.5, 0.62), 0.55, 0.95)
        return cls(heading, ahead, start, dice.take(0.27, 0.34), body, trim, glass)


def _rocket(ship: _Ship, points: Tensor, centres: Tensor, pixel: float, flame: bool):
    """The rocket's parts from back to front, as (cover (B, F, H, W), colour), at `centres` (B, F, 2).

    Own axes, in rocket lengths: u from tail (-0.5) to nose (0.5), v across.
    """
    scale = wide(ship.length[:, None])
    x, y = points[0] - wide(centres[..., 0]), points[1] - wide(centres[..., 1])
    u, v = turn(x / scale, y / scale, torch.atan2(ship.ahead[:, 1], ship.ahead[:, 0])[:, None])
    across = v.abs()

    def paint(tone: Tensor) -> Tensor:
        return wide(tone[:, None])

    if flame:
        frame = torch.arange(centres.shape[1])
        reach = wide(0.27 * (1 + _FLICKER_DEPTH * torch.cos(_FLICKER_RATE * frame)))[None]
        back = (-0.36 - u) / reach
        inside = back.clamp(0, 1)
        for size, tone in ((1.0, (1.0, 0.45, 0.08)), (0.55, (1.0, 0.9, 0.45))):
            width = 0.1 * size * (1 - inside / size).clamp(min=0) ** 0.7 * (0.55 + 1.2 * inside).clamp(max=1)
            distance = torch.maximum(across - width, torch.maximum(-back, back - size) * reach)
            yield cover(distance * scale, pixel), torch.tensor(tone)[:, None, None]

    # Fins: a triangle on either side, swept back.
    fin = torch.maximum(
        torch.maximum(0.53 * u + 0.85 * across - 0.028, -0.92 * u + 0.1 * across - 0.41),
        -u * 0.5 - across * 0.87 - 0.05,
    )
    yield cover(fin * scale, pixel), paint(ship.trim * 0.85)
    nozzle = torch.maximum(across - 0.075, (u + 0.36).abs() - 0.035)
    yield cover(nozzle * scale, pixel), torch.tensor([0.22, 0.22, 0.27])[:, None, None]
    # The body: where two circles of radius 0.908 meet (half a length long, 0.15 wide), the tail cut off.
    hull = torch.maximum((u * u + (across + 0.758) ** 2).sqrt() - 0.908, -0.34 - u)
    shade = (0.86 + 0.9 * v).clamp(0.7, 1.0)[:, :, None]
    yield cover(hull * scale, pixel), paint(ship.body) * shade
    nose = torch.maximum(hull, 0.2 - u)
    yield cover(nose * scale, pixel), paint(ship.trim) * shade
    window = (u - 0.05).square().add(v.square()).sqrt()
    yield cover((window - 0.085) * scale, pixel), paint(ship.trim * 0.6)
    yield cover((window - 0.06) * scale, pixel), paint(ship.glass)
