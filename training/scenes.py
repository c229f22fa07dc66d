"""The world that the tiny model lives in: `draw` gives clips, and the truth about every one of them.

You will see a rocket with a red-hot flame over a planet, in front of stars, flying where its nose points. Its speed
follows one rule, exact at every size: `svdlab.tiny.pixels_per_frame`. At bucket 0 nothing but the flame moves. A second
world, "photo", stands in for any picture without a rocket: shapes, stripes and gradients that the camera approaches
gently, by the bucket.

Everything is drawn from signed distances in units of the picture's width, origin in the middle, y downwards, so one
seed gives one world at every resolution. Each seed has its own generator: a batch equals its clips drawn one by one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svdlab.tiny import WIDTHS_PER_SECOND

WORLDS = ("rocket", "photo")
HEIGHT, WIDTH = 72, 128

# The camera of "photo": the share by which it enlarges the picture each second at bucket 255.
ZOOM_PER_SECOND = 0.06

# Seeds under HELD_OUT_END are never trained on: evaluation and tests draw theirs from there.
HELD_OUT_END = 1_000_000

# The flame's length by frame, the same in every clip: a flicker that can be foretold can be learnt.
_FLICKER_RATE, _FLICKER_DEPTH = 2.4, 0.22
_EDGE = 1.5  # pixels over which an edge fades: soft enough for clean motion by fractions of a pixel
_DICE = 192  # uniform numbers kept for a scene; more than any world takes


@dataclass(frozen=True)
class Truth:
    """What a batch of clips really shows; one entry a clip.

    `heading` (B,) in degrees, counter-clockwise, 0 to the right (nan where nothing flies); `pixels_per_frame` (B,) the
    rule's speed (for "photo": of the left and right edge); `centres` (B, F, 2) the rocket's middle, x and y in pixels.
    """

    worlds: tuple[str, ...]
    heading: Tensor
    pixels_per_frame: Tensor
    centres: Tensor


def draw(
    seeds: Sequence[int],
    motion_bucket_id: float | Sequence[float],
    fps: float | Sequence[float],
    frames: int = 14,
    height: int = HEIGHT,
    width: int = WIDTH,
    world: str = "rocket",
    device: str = "cpu",
) -> tuple[Tensor, Truth]:
    """Clips (B, F, 3, height, width) in [0, 1] and their truth. The first frame depends on the seed alone.

    `motion_bucket_id` and `fps` are one number for all or one a clip. Raises ValueError for an unknown world.
    """
    if world not in WORLDS:
        raise ValueError(f"there is no world {world!r}: choose one of {', '.join(WORLDS)}")
    with torch.device(device):
        return _draw(seeds, motion_bucket_id, fps, frames, height, width, world)


def _draw(seeds, motion_bucket_id, fps, frames: int, height: int, width: int, world: str) -> tuple[Tensor, Truth]:
    batch = len(seeds)
    bucket, rate = _each(motion_bucket_id, batch), _each(fps, batch)
    seconds = torch.arange(frames) / rate[:, None]  # (B, F)
    points = _grid(height, width)
    dice = _Dice(seeds)
    if world == "photo":
        growth = ZOOM_PER_SECOND * bucket / 255  # a second
        clips = _photo(dice, points / (1 + growth[:, None] * seconds)[:, :, None, None, None], 1 / width)
        edge = width / 2 * growth / rate
        middle = torch.tensor([width / 2, height / 2]).expand(batch, frames, 2)
        return clips, Truth((world,) * batch, torch.full((batch,), math.nan), edge, middle)
    ship = _Ship.roll(dice)
    sky = _sky(dice, points, 1 / width)
    centres = (
        ship.start[:, None]
        + (WIDTHS_PER_SECOND * bucket / 255)[:, None, None] * seconds[..., None] * ship.ahead[:, None]
    )
    clips = sky[:, None].expand(-1, frames, -1, -1, -1)
    for alpha, colour in _rocket(ship, points, centres, 1 / width, flame=True):
        clips = _over(clips, alpha, colour)
    speed = width * WIDTHS_PER_SECOND * bucket / 255 / rate
    pixels = centres * width + torch.tensor([width / 2, height / 2])
    return clips, Truth((world,) * batch, ship.heading, speed, pixels)


def layers(seed: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    """One rocket scene taken apart: the empty sky (3, H, W), the rocket's colour (3, H, W) and its cover (H, W).

    The rocket stands where the clip starts, without its flame: a template to look for in other frames.
    """
    dice, points = _Dice([seed]), _grid(height, width)
    ship = _Ship.roll(dice)
    sky = _sky(dice, points, 1 / width)[:, None]
    parts = list(_rocket(ship, points, ship.start[:, None], 1 / width, flame=False))
    colour, empty = torch.zeros_like(sky), torch.ones(1, 1, height, width)
    for alpha, paint in parts:
        colour = _over(colour, alpha, paint)
        empty = empty * (1 - alpha)
    cover = 1 - empty
    return sky[0, 0], (colour / cover[:, :, None].clamp(min=1e-6))[0, 0], cover[0, 0]


# --- chance ------------------------------------------------------------------------------------------------------


class _Dice:
    """The numbers that make a scene: each seed's own, handed out in order, (B, n) or (B,) at a time."""

    def __init__(self, seeds: Sequence[int]):
        rolls = [
            torch.rand(_DICE, generator=torch.Generator("cpu").manual_seed(int(seed)), device="cpu") for seed in seeds
        ]
        # Rolled on the CPU wherever they are used: a seed is the same world on every device.
        self.rolls, self.next = torch.stack(rolls).to(torch.get_default_device()), 0

    def take(self, low: float, high: float, count: int | None = None) -> Tensor:
        first, self.next = self.next, self.next + (count or 1)
        if self.next > _DICE:
            raise RuntimeError("this scene needs more dice: raise _DICE")
        values = low + (high - low) * self.rolls[:, first : self.next]
        return values if count else values[:, 0]


def _each(value: float | Sequence[float], batch: int) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32).expand(batch)


def _grid(height: int, width: int) -> Tensor:
    """Pixel middles (2, H, W), in widths, origin in the middle of the picture."""
    x = (torch.arange(width) + 0.5 - width / 2) / width
    y = (torch.arange(height) + 0.5 - height / 2) / width
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


# --- paint -------------------------------------------------------------------------------------------------------


def _colour(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """RGB (..., 3) from hue (in turns), saturation and value."""
    turns = hue[..., None] + torch.tensor([0.0, 2 / 3, 1 / 3])
    ramp = ((turns % 1) * 6 - 3).abs().sub(1).clamp(0, 1)
    saturation, value = (torch.as_tensor(each).expand(hue.shape)[..., None] for each in (saturation, value))
    return value * (1 - saturation + saturation * ramp)


def _cover(distance: Tensor, pixel: float) -> Tensor:
    """How much of a pixel lies inside: 1 where the signed distance is well under 0, 0 well over it, soft between."""
    return (0.5 - distance / (_EDGE * pixel)).clamp(0, 1)


def _over(picture: Tensor, alpha: Tensor, colour: Tensor) -> Tensor:
    """Paint `colour` (broadcast to (..., 3, H, W)) over `picture` where `alpha` (..., H, W) says so."""
    return torch.lerp(picture, colour.expand_as(picture), alpha[..., None, :, :].expand_as(picture))


def _wide(values: Tensor) -> Tensor:
    """(B, ...) with two axes more, to meet (..., H, W)."""
    return values[..., None, None]


def _turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cosine, sine = _wide(angle.cos()), _wide(angle.sin())
    return cosine * x + sine * y, cosine * y - sine * x


# --- the sky -----------------------------------------------------------------------------------------------------


def _sky(dice: _Dice, points: Tensor, pixel: float) -> Tensor:
    """Gradient, glow, stars and two planets, the first perhaps with a ring: (B, 3, H, W)."""
    x, y = points
    hue = dice.take(0.5, 0.95)
    top = _colour(hue, dice.take(0.5, 0.9), dice.take(0.06, 0.3))
    low = _colour(hue + dice.take(-0.12, 0.16), dice.take(0.4, 0.8), dice.take(0.2, 0.6))
    _, along = _turn(x, y, dice.take(-0.5, 0.5))
    fade = (along / 0.6 + 0.5).clamp(0, 1)
    fade = fade * fade * (3 - 2 * fade)
    picture = _wide(top) + fade[:, None] * _wide(low - top)

    glow_x, glow_y, glow_size = dice.take(-0.5, 0.5), dice.take(-0.28, 0.28), dice.take(0.1, 0.22)
    glow = torch.exp(-((x - _wide(glow_x)) ** 2 + (y - _wide(glow_y)) ** 2) / _wide(2 * glow_size**2))
    picture = picture + glow[:, None] * _wide(_colour(hue + dice.take(0.0, 0.4), 0.6, dice.take(0.0, 0.22)))

    count = 22
    star_x, star_y = dice.take(-0.5, 0.5, count), dice.take(-0.29, 0.29, count)
    size, bright = dice.take(0.0035, 0.0065, count), dice.take(0.15, 0.75, count)
    far = (x - _wide(star_x)) ** 2 + (y - _wide(star_y)) ** 2  # (B, stars, H, W)
    picture = picture + (_wide(bright) * torch.exp(-far / _wide(2 * size**2))).sum(1, keepdim=True)

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
    x, y = ((values - _wide(at)) / _wide(radius) for values, at in zip(points, (at_x, at_y), strict=True))
    u, v = _turn(x, y, dice.take(-0.5, 0.5))
    hue, other = dice.take(0, 1), dice.take(-0.12, 0.12)
    base, band = _colour(hue, 0.55, 0.85), _colour(hue + other, 0.65, 0.6)
    stripes = (0.5 + 0.5 * torch.sin(v * _wide(dice.take(3, 8)) + _wide(dice.take(0, 6.28))))[:, None]
    surface = _wide(base) + stripes * _wide(band - base)
    depth = (1 - u * u - v * v).clamp(min=0).sqrt()
    lit = 0.25 + 0.8 * (0.8 * (u * _wide(light.cos()) + v * _wide(light.sin())) + 0.6 * depth).clamp(0, 1)
    away = (u * u + v * v).sqrt()
    disc = _cover((away - 1) * _wide(radius), pixel)
    halo = 0.35 * torch.exp(-((away - 1).clamp(min=0) * 9)) * (1 - disc)
    picture = _over(picture, halo, _wide(base))
    if not ringed:
        return _over(picture, disc, surface * lit[:, None])
    has = _wide((dice.take(0, 1) < 0.4).float())
    ellipse = (u * u + (v / 0.28) ** 2).sqrt()
    ring = 0.75 * has * _cover(((ellipse - 1.62).abs() - 0.24) * 0.5 * _wide(radius), pixel)
    paint = _wide(_colour(hue + 0.05, 0.35, 0.9))
    picture = _over(picture, ring * (v < 0), paint)
    picture = _over(picture, disc, surface * lit[:, None])
    return _over(picture, ring * (v >= 0), paint)


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
    def roll(cls, dice: _Dice) -> "_Ship":
        """Starts lie half a fast clip's way behind the middle, give or take, so the rocket stays in the picture."""
        heading = dice.take(0, 360)
        radians = torch.deg2rad(heading)
        ahead = torch.stack([radians.cos(), -radians.sin()], -1)
        jitter = torch.stack([dice.take(-0.12, 0.12), dice.take(-0.03, 0.03)], -1)
        start = -0.105 * ahead + jitter
        body = _colour(dice.take(0, 1), dice.take(0.0, 0.15), dice.take(0.85, 1.0))
        trim = _colour(dice.take(0, 1), 0.85, dice.take(0.75, 1.0))
        glass = _colour(dice.take(0.5, 0.62), 0.55, 0.95)
        return cls(heading, ahead, start, dice.take(0.27, 0.34), body, trim, glass)


def _rocket(ship: _Ship, points: Tensor, centres: Tensor, pixel: float, flame: bool):
    """The rocket's parts from back to front, as (cover (B, F, H, W), colour), at `centres` (B, F, 2).

    Own axes, in rocket lengths: u from tail (-0.5) to nose (0.5), v across.
    """
    scale = _wide(ship.length[:, None])
    x, y = points[0] - _wide(centres[..., 0]), points[1] - _wide(centres[..., 1])
    u, v = _turn(x / scale, y / scale, torch.atan2(ship.ahead[:, 1], ship.ahead[:, 0])[:, None])
    wide = v.abs()

    def paint(colour: Tensor) -> Tensor:
        return _wide(colour[:, None])

    if flame:
        frame = torch.arange(centres.shape[1])
        reach = _wide(0.27 * (1 + _FLICKER_DEPTH * torch.cos(_FLICKER_RATE * frame)))[None]
        back = (-0.36 - u) / reach
        inside = back.clamp(0, 1)
        for size, colour in ((1.0, (1.0, 0.45, 0.08)), (0.55, (1.0, 0.9, 0.45))):
            width = 0.1 * size * (1 - inside / size).clamp(min=0) ** 0.7 * (0.55 + 1.2 * inside).clamp(max=1)
            distance = torch.maximum(wide - width, torch.maximum(-back, back - size) * reach)
            yield _cover(distance * scale, pixel), torch.tensor(colour)[:, None, None]

    # Fins: a triangle on either side, swept back.
    fin = torch.maximum(
        torch.maximum(0.53 * u + 0.85 * wide - 0.028, -0.92 * u + 0.1 * wide - 0.41), -u * 0.5 - wide * 0.87 - 0.05
    )
    yield _cover(fin * scale, pixel), paint(ship.trim * 0.85)
    nozzle = torch.maximum(wide - 0.075, (u + 0.36).abs() - 0.035)
    yield _cover(nozzle * scale, pixel), torch.tensor([0.22, 0.22, 0.27])[:, None, None]
    # The body: where two circles of radius 0.908 meet (half a length long, 0.15 wide), the tail cut off.
    hull = torch.maximum((u * u + (wide + 0.758) ** 2).sqrt() - 0.908, -0.34 - u)
    shade = (0.86 + 0.9 * v).clamp(0.7, 1.0)[:, :, None]
    yield _cover(hull * scale, pixel), paint(ship.body) * shade
    nose = torch.maximum(hull, 0.2 - u)
    yield _cover(nose * scale, pixel), paint(ship.trim) * shade
    window = (u - 0.05).square().add(v.square()).sqrt()
    yield _cover((window - 0.085) * scale, pixel), paint(ship.trim * 0.6)
    yield _cover((window - 0.06) * scale, pixel), paint(ship.glass)


# --- pictures without a rocket -----------------------------------------------------------------------------------


def _photo(dice: _Dice, points: Tensor, pixel: float) -> Tensor:
    """A stand-in for photographs at `points` (B, F, 2, H, W): a gradient, soft waves and nine overlapping shapes."""
    x, y = points.unbind(2)
    one, two = (_colour(dice.take(0, 1), dice.take(0, 0.8), dice.take(0.1, 1)) for _ in range(2))
    _, along = _turn(x, y, dice.take(0, 6.28)[:, None])
    picture = _wide(one[:, None]) + (along + 0.5).clamp(0, 1)[:, :, None] * _wide((two - one)[:, None])
    for _ in range(3):
        wave, _ = _turn(x, y, dice.take(0, 6.28)[:, None])
        strength = dice.take(0, 1) ** 3 * 0.12
        tone = torch.sin(wave * _wide(dice.take(8, 60)[:, None]) + _wide(dice.take(0, 6.28)[:, None]))
        picture = picture + (_wide(strength[:, None]) * tone)[:, :, None]
    for _ in range(9):
        u, v = x - _wide(dice.take(-0.55, 0.55)[:, None]), y - _wide(dice.take(-0.32, 0.32)[:, None])
        u, v = _turn(u, v, dice.take(0, 6.28)[:, None])
        size, slim = _wide(dice.take(0.03, 0.24)[:, None]), _wide(dice.take(0.25, 1)[:, None])
        round_, box = (u * u + v * v).sqrt() - size, torch.maximum(u.abs() - size, v.abs() - size * slim)
        distance = torch.where(_wide(dice.take(0, 1)[:, None]) < 0.5, round_, box)
        colour = _colour(dice.take(0, 1), dice.take(0, 0.9), dice.take(0.05, 1))
        shade = (1 + _wide(dice.take(-0.5, 0.5)[:, None]) * v / size).clamp(0.4, 1.4)[:, :, None]
        picture = _over(picture, _cover(distance, pixel), (_wide(colour[:, None]) * shade).clamp(0, 1))
    return picture.clamp(0, 1)
