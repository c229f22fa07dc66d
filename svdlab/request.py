"""What is asked of a clip: a picture, a seed, and every knob of the pipeline under diffusers' own names.

>>> Request.for_variant("svd-xt", image="rocket", motion_bucket_id=180).num_frames
25
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from svdlab.media.images import fit_image, open_image
from svdlab.messages import did_you_mean, shorten
from svdlab.variants import Variant, variant

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]

_QUIET: ContextVar[bool] = ContextVar("quiet_requests", default=False)


@contextmanager
def quiet_requests() -> Iterator[None]:
    """Within, requests are made without a warning of their `concerns`, in this thread alone.

    `warnings.catch_warnings` would change the filters of all threads, and could leave them changed for good.
    """
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


OF_VARIANT: Any = None  # a field left to the variant: `None` until `filled`, a number ever after


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that is asked of one clip. Two equal requests on the same weights give the same frames.

    A field left out is the variant's own choice and is filled in by `for_variant` (at once) or by `generate`.
    Construction refuses what no SVD can do with a `ValueError`, and warns (`UserWarning`) where the model leaves what
    it was trained for.

    Not here: `generator` is `seed`; `num_videos_per_prompt` is several seeds in one call of `generate`; playback
    speed belongs to the export (`clip.save("x.mp4", fps=12)`), since `fps` only tells the model what to imagine.
    """

    image: str | Path | bytes | Image.Image | np.ndarray  # path, URL, bundled name, file bytes, or a picture
    seed: int = 0  # of a CPU generator: the same noise on every device
    height: int = OF_VARIANT  # pixels, a multiple of 8 (of 64 to stay in the trained regime)
    width: int = OF_VARIANT
    num_frames: int = OF_VARIANT
    num_inference_steps: int = OF_VARIANT
    sigmas: tuple[float, ...] | None = None  # a noise schedule of one's own, falling, in place of the steps
    min_guidance_scale: float = OF_VARIANT  # at the first frame, rising linearly to
    max_guidance_scale: float = OF_VARIANT  # this at the last; at 1 or under guidance is off and a step costs half
    fps: int = OF_VARIANT  # conditions the model, which is told fps - 1; not the playback speed
    motion_bucket_id: int = OF_VARIANT  # 0 to 255: how much moves
    noise_aug_strength: float = OF_VARIANT  # noise on the picture before encoding: more is freer, and less alike
    decode_chunk_size: int = OF_VARIANT  # frames the VAE decodes together: changes the picture and the peak memory
    fit: Fit = "crop"  # how the picture is brought to the clip's aspect ratio
    focus: tuple[float, float] = (0.5, 0.5)  # x, y in 0..1: what a crop keeps in its middle as far as it can
    variant: str | None = None  # what the rest was filled from

    def __post_init__(self) -> None:
        if isinstance(self.image, os.PathLike):
            object.__setattr__(self, "image", os.fspath(self.image))
        elif self.image is not None and (not isinstance(self.image, str) or self.image.startswith("data:")):
            object.__setattr__(self, "image", open_image(self.image))
        for name in ("sigmas", "focus"):
            if (value := getattr(self, name)) is not None:
                try:
                    object.__setattr__(self, name, tuple(float(each) for each in value))
                except (TypeError, ValueError, OverflowError):
                    raise ValueError(f"{name}={shorten(value)} is not a list of numbers, as in (0.5, 0.25).") from None
        _validate(self)
        if not _QUIET.get():
            for sentence in self.concerns():
                warnings.warn(sentence, UserWarning, stacklevel=3)

    @classmethod
    def for_variant(cls, name: str, *, preset: str | None = None, **fields: Any) -> Request:
        """A complete request: `fields` as given, the rest as `name` was made for (`preset`: its steps and guidance)."""
        return cls(**fields).filled(name, preset=preset)

    def filled(self, name: str, *, preset: str | None = None) -> Request:
        """This request with every open field filled in from the variant `name`.

        A `ValueError` if it was filled from another variant before: its numbers would be the wrong model's.
        """
        if self.variant == name and preset is None and not self._open():
            return self
        if self.variant is not None and self.variant != name:
            raise ValueError(
                f"This request was filled in for variant {self.variant!r} but is used with {name!r}: "
                f"make it with Request.for_variant({name!r}, …) instead."
            )
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        given["variant"] = name
        for field, value in defaults(variant(name), preset).items():
            if given[field] is None:
                given[field] = value
        if self.sigmas is not None:
            given["num_inference_steps"] = len(self.sigmas)
        if self.decode_chunk_size is None:  # fewer frames than usual were asked for
            given["decode_chunk_size"] = min(given["decode_chunk_size"], given["num_frames"])
        return Request(**given)

    def concerns(self) -> list[str]:
        """One sentence for each value outside what the model was trained for; empty when all is well."""
        if self.variant is None or self._open():
            return []
        v = variant(self.variant)
        found = []
        low, high = v.fps_range
        if not low <= self.fps <= high:
            found.append(
                f"fps={self.fps} is outside {low} to {high}, what {v.name} was trained for: expect odd motion."
            )
        if (self.height, self.width) != (v.height, v.width):
            found.append(
                f"{self.height}x{self.width} is not {v.height}x{v.width} (height x width), the size {v.name} was "
                "trained at: quality falls quickly away from it; fit the picture instead and enlarge afterwards."
            )
        low, high = v.steps_range
        if self.num_inference_steps < low:
            found.append(f"num_inference_steps={self.num_inference_steps} is under {low}: the picture degrades.")
        if self.num_inference_steps > high:
            found.append(f"num_inference_steps={self.num_inference_steps} is over {high}: rarely better, only slower.")
        if self.num_frames > v.frames:
            found.append(
                f"num_frames={self.num_frames} is more than the {v.frames} that {v.name} was trained for: chain clips."
            )
        for name, value in v.only.items():
            if getattr(self, name) != value:
                found.append(
                    f"{v.name} was tuned at {name}={value} only; {name}={getattr(self, name)} is outside that."
                )
        return found

    def _open(self) -> bool:
        return any(getattr(self, name) is None for name in _RANGES)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back; a picture in memory travels inside it, as a PNG."""
        from svdlab.media.images import to_text

        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps(fields | {"image": to_text(self.image)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Request:
        """The request that `to_json` wrote, now or in an older version (what it lacks keeps today's default)."""
        try:
            fields = json.loads(text) if isinstance(text, str) else dict(text)
        except RecursionError:
            fields = None  # a thousand brackets
        if not isinstance(fields, dict) or "image" not in fields:
            raise ValueError("This is not a request: expected a JSON object with at least an 'image'.")
        known = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                newer = ": it was written by a newer svdlab; update this one."
                raise ValueError(f"Unknown request field {shorten(name)}{did_you_mean(name, known) or newer}")
        return cls(**fields)


def defaults(v: Variant, preset: str | None = None) -> dict[str, Any]:
    """What `v` fills in where a request is silent."""
    if preset is not None and preset not in v.presets:
        raise ValueError(f"Unknown preset {preset!r} of {v.name}: expected one of {', '.join(v.presets)}.")
    sampling = v.presets[preset] if preset else v.sampling
    return {
        "height": v.height,
        "width": v.width,
        "num_frames": v.frames,
        "fps": v.fps,
        "motion_bucket_id": v.motion_bucket_id,
        "noise_aug_strength": v.noise_aug_strength,
        "decode_chunk_size": v.decode_chunk_size,
        **dataclasses.asdict(sampling),
    }


# field: (type, lowest, highest, what to do about a value outside)
_RANGES: dict[str, tuple[type, float, float, str]] = {
    "seed": (int, 0, 2**63 - 1, "any whole number from 0 up makes a different clip"),
    "height": (int, 64, 4096, "the trained height is 576"),
    "width": (int, 64, 4096, "the trained width is 1024"),
    "num_frames": (int, 2, 256, "a clip needs two frames to move; svd makes 14, svd-xt 25, chaining makes more"),
    "num_inference_steps": (int, 1, 1000, "25 is usual"),
    "min_guidance_scale": (float, 0, 100, "1.0 is usual"),
    "max_guidance_scale": (float, 0, 100, "3.0 is usual, 1.0 turns guidance off"),
    "fps": (int, 1, 1000, "7 is usual; the model is conditioned on fps - 1"),
    "motion_bucket_id": (int, 0, 255, "127 is usual, 180 and more is lively, under 100 is calm"),
    "noise_aug_strength": (float, 0, 10, "0.02 is usual, 0.1 to 0.3 frees the model from the picture"),
    "decode_chunk_size": (int, 1, 256, "fewer frames at a time need less memory"),
}


def _validate(r: Request) -> None:
    """Raise a `ValueError` naming the first field that no SVD can honour, what was expected, and the way out."""
    for name, (kind, low, high, hint) in _RANGES.items():
        value = getattr(r, name)
        if value is None and name != "seed":
            continue
        number = _number(value, kind)
        if number is None:
            expected = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name}={shorten(value)} is not {expected}: {hint}.")
        if not low <= number <= high:
            raise ValueError(f"{name}={value} is outside {low} to {high}: {hint}.")
        object.__setattr__(r, name, number)
    for name in ("height", "width"):
        value = getattr(r, name)
        if value is not None and value % 8:
            raise ValueError(
                f"{name}={value} is not a multiple of 8: use {value // 8 * 8} or {(value // 8 + 1) * 8} "
                "(multiples of 64 stay in the trained regime)."
            )
    if r.num_frames is not None and r.decode_chunk_size is not None and r.decode_chunk_size > r.num_frames:
        raise ValueError(
            f"decode_chunk_size={r.decode_chunk_size} is over num_frames={r.num_frames}: "
            f"use at most {r.num_frames}, which decodes all frames at once."
        )
    low_guidance, high_guidance = r.min_guidance_scale, r.max_guidance_scale
    if low_guidance is not None and high_guidance is not None and low_guidance > high_guidance:
        # diffusers would switch guidance by the last frame's value alone
        raise ValueError(
            f"min_guidance_scale={low_guidance} is over max_guidance_scale={high_guidance}: "
            "guidance rises from the first frame to the last; raise the maximum or lower the minimum."
        )
    if r.sigmas is not None:
        falling = all(a > b for a, b in zip(r.sigmas, r.sigmas[1:], strict=False))
        if not r.sigmas or not falling or not all(math.isfinite(s) and s > 0 for s in r.sigmas):
            raise ValueError(f"sigmas={r.sigmas} must be positive and falling, as in (700.0, 50.0, 5.0, 0.5, 0.002).")
        if r.num_inference_steps not in (None, len(r.sigmas)):
            raise ValueError(
                f"num_inference_steps={r.num_inference_steps} disagrees with {len(r.sigmas)} sigmas: leave it out."
            )
    if r.fit not in get_args(Fit):
        raise ValueError(f"fit={shorten(r.fit)} is unknown: expected one of {', '.join(get_args(Fit))}.")
    if r.focus is None or len(r.focus) != 2 or not all(0 <= f <= 1 for f in r.focus):
        raise ValueError(f"focus={r.focus} must be two numbers from 0 to 1: x from the left, y from the top.")
    if r.image is None or r.image == "":
        raise ValueError("image is empty: give a path, a URL, a picture, or the name of a bundled example ('rocket').")
    if r.variant is not None:
        variant(r.variant if isinstance(r.variant, str) else repr(r.variant))


def _number(value: Any, kind: type) -> int | float | None:
    """`value` as a plain Python number of `kind` (NumPy's come from sweeps), or None where it is not one."""
    if isinstance(value, bool):
        return None
    try:
        number = kind(value)
        exact = math.isfinite(number) and number == value
    except (TypeError, ValueError, OverflowError):
        return None
    return number if exact else None


def conditioning(request: Request) -> Image.Image:
    """The picture as the model will see it: RGB, of the request's size."""

    return fit_image(open_image(request.image), request.height, request.width, request.fit, request.focus)
