"""What all worlds are drawn with: chance, colours, soft edges, fields of noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_EDGE = 1.5  # pixels over which an edge fades: soft enough for clean motion by fractions of a pixel
_DICE = 1536  # uniform numbers kept for a scene; more than any world takes
FINEST = 128  # waves a width that a field of noise holds at most: all that 256 pixels can show


@dataclass(frozen=True)
class Truth:
    """What a batch of clips really shows; one entry a clip.

    `heading` (B,) in degrees, counter-clockwise, 0 to the right (nan where nothing flies); `pixels_per_frame` (B,) the
    speed of what flies (where a camera moves: of the left and right edge); `centres` (B, F, 2) the middle of what
    moves, or the point that the camera approaches, x and y in pixels.
    """

    heading: Tensor
    pixels_per_frame: Tensor
    centres: Tensor


@dataclass(frozen=True)
class Scene:
    """What a batch of clips is asked: `pace` (B,), the bucket as a share of 255; `rate` (B,), frames a second; size."""

    pace: Tensor
    rate: Tensor
    frames: int
    height: int
    width: int

    @cached_property
    def seconds(self) -> Tensor:
        """Each frame's time (B, F)."""
        return torch.arange(self.frames) / self.rate[:, None]

    @cached_property
    def age(self) -> Tensor:
        """The same for a world that runs at the pace that the bucket says."""
        return self.pace[:, None] * self.seconds

    @cached_property
    def points(self) -> Tensor:
        """Pixel middles (2, H, W), in widths, origin in the middle of the picture."""
        return grid(self.height, self.width)

    @property
    def pixel(self) -> float:
        return 1 / self.width

    def in_pixels(self, places: Tensor) -> Tensor:
        """Places (..., 2) in widths as x and y in pixels from the upper left corner."""
        return places * self.width + torch.tensor([self.width / 2, self.height / 2])


class Dice:
    """The numbers that make a scene: each seed's own, handed out in order, (B, n) or (B,) at a time."""

    def __init__(self, seeds: Sequence[int]):
        self.generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
        rolls = [torch.rand(_DICE, generator=each, device="cpu") for each in self.generators]
        # Rolled on the CPU wherever they are used: a seed is the same world on every device.
        self.rolls, self.next = torch.stack(rolls).to(torch.get_default_device()), 0

    def take(self, low: float, high: float, count: int | None = None) -> Tensor:
        first, self.next = self.next, self.next + (count or 1)
        if self.next > _DICE:
            raise RuntimeError("this scene needs more dice: raise _DICE")
        values = low + (high - low) * self.rolls[:, first : self.next]
        return values if count else values[:, 0]

    def spectrum(self, channels: int, waves: int, steepness: Tensor) -> Tensor:
        """Random waves up to `waves` a width, falling with frequency by the power `steepness` (B,) or (B, channels).

        (B, channels, 2 waves, waves + 1), complex, as `torch.fft.irfft2` takes it; the field repeats after a width
        either way. Photographs have a steepness of about 1.
        """
        shape = 2, channels, 2 * waves, waves + 1
        normal = [torch.randn(shape, generator=each, device="cpu") for each in self.generators]
        real, imaginary = torch.stack(normal, 1).to(torch.get_default_device())
        down, across = torch.fft.fftfreq(2 * waves, 1 / (2 * waves)), torch.arange(waves + 1.0)
        frequency = (down[:, None] ** 2 + across**2).sqrt()
        frequency[0, 0] = math.inf  # no mean
        steep = steepness.reshape(len(normal), -1, 1, 1)
        spectrum = torch.complex(real, imaginary) * frequency**-steep * (frequency < waves)
        # A real field's waves that only go down are their own mirror images: no library has to guess which half counts.
        first = spectrum[..., 0]
        spectrum[..., 0] = (first + first.flip(-1).roll(1, -1).conj()) / 2
        return spectrum / (2 * (spectrum.abs() ** 2).sum((-2, -1), keepdim=True)).sqrt()


def field(spectrum: Tensor, size: int) -> Tensor:
    """A spectrum (..., 2n, n + 1) as noise of about unit deviation (..., size, size) over one width either way.

    The same waves at every size, as far as its pixels hold them; the pixels' middles lie half a pixel in.
    """
    kept = min(spectrum.shape[-1] - 1, size // 2) - 1
    padded = torch.zeros(*spectrum.shape[:-2], size, size // 2 + 1, dtype=spectrum.dtype)
    padded[..., : kept + 1, : kept + 1] = spectrum[..., : kept + 1, : kept + 1]
    padded[..., -kept:, : kept + 1] = spectrum[..., -kept:, : kept + 1]
    return torch.fft.irfft2(moved(padded, torch.full((2,), -0.5 / size)), s=(size, size)) * size**2


def moved(spectrum: Tensor, by: Tensor) -> Tensor:
    """A spectrum (..., 2n, n + 1) whose field is moved by `by` (..., 2), x and y in widths."""
    size = spectrum.shape[-2]
    down, across = torch.fft.fftfreq(size, 1 / size), torch.arange(spectrum.shape[-1])
    turns = by[..., 0, None, None] * across + by[..., 1, None, None] * down[:, None]
    return spectrum * torch.polar(torch.ones_like(turns), -2 * math.pi * turns)


def grid(height: int, width: int) -> Tensor:
    """Pixel middles (2, H, W), in widths, origin in the middle of the picture."""
    x = (torch.arange(width) + 0.5 - width / 2) / width
    y = (torch.arange(height) + 0.5 - height / 2) / width
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def colour(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """RGB (..., 3) from hue (in turns), saturation and value."""
    turns = hue[..., None] + torch.tensor([0.0, 2 / 3, 1 / 3])
    ramp = ((turns % 1) * 6 - 3).abs().sub(1).clamp(0, 1)
    saturation, value = (torch.as_tensor(each).expand(hue.shape)[..., None] for each in (saturation, value))
    return value * (1 - saturation + saturation * ramp)


def cover(distance: Tensor, pixel: float) -> Tensor:
    """How much of a pixel lies inside: 1 where the signed distance is well under 0, 0 well over it, soft between."""
    return (0.5 - distance / (_EDGE * pixel)).clamp(0, 1)


def over(picture: Tensor, alpha: Tensor, paint: Tensor) -> Tensor:
    """Paint (broadcast to (..., 3, H, W)) over `picture` where `alpha` (..., H, W) says so."""
    alpha = alpha[..., None, :, :]
    return picture + alpha * (paint - picture)


def wide(values: Tensor) -> Tensor:
    """(B, ...) with two axes more, to meet (..., H, W)."""
    return values[..., None, None]


def turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cosine, sine = wide(angle.cos()), wide(angle.sin())
    return cosine * x + sine * y, cosine * y - sine * x


def smooth(values: Tensor) -> Tensor:
    """0 under 0, 1 over 1, a soft step between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)
