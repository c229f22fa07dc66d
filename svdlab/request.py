"""What is asked of a clip: a picture, a seed, and every knob of the pipeline under diffusers' own names.

A `Request` is a value: it is checked when it is made, compares by its fields, and travels as one line of JSON. Fields
left out are the variant's own choice. `filled` writes them in, and from then on the request belongs to that variant.
Values that the model was not trained for are allowed; `concerns` has a sentence for each, and a warning says it.
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
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from svdlab.media.images import EXAMPLES, fit_image, open_image, to_text
from svdlab.media.video_kinds import MAX_FPS
from svdlab.messages import did_you_mean, shorten
from svdlab.variants import Variant, variant

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]
OF_VARIANT: Any = None  # a field left to the variant: `None` until `filled`, a number ever after
# The limits of the architecture, beyond which no SVD can make a clip; what is possible and odd is one of `concerns`.
# field: (type, lowest, highest, what to do about a value outside)
_RANGES: dict[str, tuple[type, float, float, str]] = {
    "seed": (int, 0, 2**63 - 1, "any whole number from 0 up makes a different clip"),
    "height": (int, 64, 4096, "the trained height is 576"),
    "width": (int, 64, 4096, "the trained width is 1024"),
    "num_frames": (int, 2, 256, "a clip needs two frames to move; svd makes 14, svd-xt 25, chaining makes more"),
    "num_inference_steps": (int, 1, 1000, "25 is usual"),
    "min_guidance_scale": (float, 0, 100, "1.0 is usual"),
    "max_guidance_scale": (float, 0, 100, "3.0 is usual, 1.0 turns guidance off"),
    "fps": (int, 1, MAX_FPS, "7 is usual; the model is conditioned on fps - 1"),
    "motion_bucket_id": (int, 0, 255, "127 is usual, 180 and more is lively, under 100 is calm"),
    "noise_aug_strength": (float, 0, 10, "0.02 is usual, 0.1 to 0.3 frees the model from the picture"),
    "decode_chunk_size": (int, 1, 256, "fewer frames at a time need less memory"),
}
_QUIET: ContextVar[bool] = ContextVar("quiet_requests", default=False)


@contextmanager
def quiet_requests() -> Iterator[None]:
    """Make requests without a warning of their `concerns`, in this thread alone.

    `warnings.catch_warnings` would change the filters of all threads, and could leave them changed for good.
    """
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that is asked of one clip; equal requests on the same weights give the same frames.

    A field left out takes the variant's own value; a request with such a field is open. Make a complete request with
    `setup.request(...)` or `Request.for_variant(...)`. Complete an open one with `filled(name)`; otherwise `generate`
    does it. `concerns()` names values that the model was not trained for.
    `to_json()` and `from_json(text)` save and read; `dataclasses.replace` changes fields.

    The variants' own values (`VARIANTS` has them all):

        svd-xt, svd-xt-1.1: 576x1024 pixels (height x width), 25 frames, 25 steps, guidance 1 to 3, decode chunk 5
        svd:                the same with 14 frames, decode chunk 7
        tiny:               96x160 pixels, 14 frames, 4 steps, guidance 1 to 1, decode chunk 14
        all of them:        fps 7, motion bucket 127, noise 0.02

    Args:
        image: a bundled example's name (rocket, rocket-left, rocket-right, rocket-up, shapes, launch), a path
            ("./rocket" for a file of such a name), an http(s) or data: URL, a file's bytes, a PIL image, or an array
            (H, W) or (H, W, 3 or 4) of uint8 or of floats in 0..1. Transparency is laid over white.
        seed: 0 to 2**63 - 1, default 0; the noise is the same on every device.
        height: pixels, 64 to 4096, a multiple of 8.
        width: as `height`.
        num_frames: 2 to 256.
        num_inference_steps: 1 to 1000.
        sigmas: a noise schedule of one's own, falling to 0, such as (700.0, 50.0, 5.0, 0.5, 0.0). Where the 0 is left
            out it is added, for else noise would stay in the clip. Leave `num_inference_steps` out: a step leads from
            each level to the next. Default: the model's own schedule.
        min_guidance_scale: guidance of the first frame, 0 to 100, not over that of the last.
        max_guidance_scale: guidance of the last frame, 0 to 100; frames between are interpolated linearly. If it is 1
            or less, guidance is off and a step costs half.
        fps: frames a second that the model is conditioned on, 1 to 240. The playback speed is given when a clip is
            saved: `clip.save("x.mp4", fps=12)`.
        motion_bucket_id: 0 to 255, how much moves; 127 is usual.
        noise_aug_strength: 0 to 10, noise on the picture before it is encoded; more makes clips freer, less like it.
        decode_chunk_size: frames decoded together, 1 to `num_frames`; fewer take less memory and change the frames a
            little. Left out, it is the variant's own, or `num_frames` if that is less.
        fit: to the clip's aspect ratio: "crop" (default), "pad" with a blurred border, or "stretch".
        focus: (x, y), each 0 to 1 from the left and the top: the middle of a crop; default (0.5, 0.5).
        variant: what open fields were filled from. It is set by svdlab; do not pass it.

    Raises:
        ValueError: a value that no SVD can honour; the message names it and the way out.

    Example:
        >>> request = Request.for_variant("svd-xt", image="rocket", motion_bucket_id=180)
        >>> request.num_frames, request.decode_chunk_size, request.fps
        (25, 5, 7)
    """

    image: str | Path | bytes | Image.Image | np.ndarray
    seed: int = 0
    height: int = OF_VARIANT
    width: int = OF_VARIANT
    num_frames: int = OF_VARIANT
    num_inference_steps: int = OF_VARIANT
    sigmas: tuple[float, ...] | None = None
    min_guidance_scale: float = OF_VARIANT
    max_guidance_scale: float = OF_VARIANT
    fps: int = OF_VARIANT
    motion_bucket_id: int = OF_VARIANT
    noise_aug_strength: float = OF_VARIANT
    decode_chunk_size: int = OF_VARIANT
    fit: Fit = "crop"
    focus: tuple[float, float] = (0.5, 0.5)
    variant: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.image, os.PathLike):
            path = os.fspath(self.image)
            self._set("image", f".{os.sep}{path}" if path in EXAMPLES else path)
        elif self.image is not None and (not isinstance(self.image, str) or self.image.startswith("data:")):
            self._set("image", open_image(self.image))
        for name in ("sigmas", "focus"):
            if (value := getattr(self, name)) is not None:
                try:
                    self._set(name, tuple(float(each) for each in value))
                except (TypeError, ValueError, OverflowError):
                    raise ValueError(f"{name}={shorten(value)} is not a list of numbers, as in (0.5, 0.25).") from None
        if self.sigmas and self.sigmas[-1] != 0:
            self._set("sigmas", (*self.sigmas, 0.0))
        for name in _RANGES:
            if name == "seed" or getattr(self, name) is not None:
                self._set(name, _number_in_range(name, getattr(self, name)))
        self._check_fields_together()
        if not _QUIET.get():
            for sentence in self.concerns():
                warnings.warn(sentence, UserWarning, stacklevel=3)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # as a frozen dataclass sets its fields

    def _check_fields_together(self) -> None:
        frames, chunk, steps = self.num_frames, self.decode_chunk_size, self.num_inference_steps
        if None not in (frames, chunk) and chunk > frames:
            raise ValueError(f"decode_chunk_size={chunk} is over num_frames={frames}: use at most {frames}.")
        low, high = self.min_guidance_scale, self.max_guidance_scale
        if None not in (low, high) and low > high:  # diffusers would switch guidance by the last frame's value alone
            rule = "guidance rises from the first frame to the last, so set both"
            raise ValueError(f"min_guidance_scale={low} is over max_guidance_scale={high}: {rule}.")
        if (sigmas := self.sigmas) is not None:
            if len(sigmas) < 2 or not all(a > b for a, b in pairwise((math.inf, *sigmas))):
                raise ValueError(f"sigmas={shorten(sigmas)} must be falling to 0, as in (700.0, 50.0, 0.5, 0.0).")
            if steps not in (None, len(sigmas) - 1):
                count = f"the {len(sigmas) - 1} steps of sigmas={shorten(sigmas)}"
                raise ValueError(f"num_inference_steps={steps} disagrees with {count}: leave it out.")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit={shorten(self.fit)} is unknown: expected one of {', '.join(get_args(Fit))}.")
        if self.focus is None or len(self.focus) != 2 or not all(0 <= f <= 1 for f in self.focus):
            raise ValueError(f"focus={shorten(self.focus)} must be two numbers from 0 to 1: from the left, the top.")
        if self.image is None or self.image == "":
            raise ValueError("image is empty: give a path, a URL, a picture, or the name of an example ('rocket').")
        if self.variant is not None:
            variant(self.variant)

    @classmethod
    def for_variant(cls, name: str, *, preset: str | None = None, **fields: Any) -> Request:
        """A complete request, with the variant's own values where none are given.

        Args:
            name: "svd", "svd-xt", "svd-xt-1.1" or "tiny".
            preset: steps and guidance: "diffusers" (default) or "stability"; of tiny "tiny".
            **fields: any field of `Request`; `image` is required.

        Example:
            >>> Request.for_variant("svd-xt", preset="stability", image="rocket").num_inference_steps
            30
        """
        return cls(**fields).filled(name, preset=preset)

    def filled(self, name: str, *, preset: str | None = None) -> Request:
        """This request with every open field filled in.

        Args:
            name: the variant to fill it from.
            preset: as in `for_variant`.

        Raises:
            ValueError: it was filled from another variant before, whose numbers would be wrong here, or a preset is
                given and nothing is open that it could fill in.
        """
        if self.variant == name and preset is None and not self._is_open():
            return self
        if self.variant is not None and self.variant != name:
            mismatch = f"filled in for variant {self.variant!r} but is used with {shorten(name)}"
            raise ValueError(f"This request was {mismatch}: make it with Request.for_variant({shorten(name)}, …).")
        v = variant(name)
        if preset is not None and preset not in v.presets:
            raise ValueError(f"Unknown preset {shorten(preset)} of {v.name}: expected one of {', '.join(v.presets)}.")
        sampling = v.presets[preset] if preset else v.sampling
        if preset and all(getattr(self, field) is not None for field in vars(sampling)):
            text = f"preset={preset!r} changes nothing: {', '.join(vars(sampling))} are set already"
            raise ValueError(f"{text}: leave the preset out, or leave open what it should fill in.")
        defaults: dict[str, Any] = {"num_frames": v.frames, **vars(v), **vars(sampling)}
        fields: dict[str, Any] = vars(self) | {"variant": name}
        fields |= {field: defaults[field] for field in _RANGES if fields[field] is None}
        if self.sigmas is not None:
            fields["num_inference_steps"] = len(self.sigmas) - 1
        if self.min_guidance_scale is None:  # the last frame may be guided less than usual
            fields["min_guidance_scale"] = min(fields["min_guidance_scale"], fields["max_guidance_scale"])
        if self.decode_chunk_size is None:  # there may be fewer frames than usual
            fields["decode_chunk_size"] = min(fields["decode_chunk_size"], fields["num_frames"])
        return Request(**fields)

    def concerns(self) -> list[str]:
        """One sentence for each value that the model was not trained for; empty as long as a field is open."""
        return [] if self.variant is None or self._is_open() else list(self._concerns(variant(self.variant)))

    def _concerns(self, v: Variant) -> Iterator[str]:
        steps, (low_fps, high_fps), (low_steps, high_steps) = self.num_inference_steps, v.fps_range, v.steps_range
        if not low_fps <= self.fps <= high_fps:
            yield f"fps={self.fps} is outside {low_fps} to {high_fps}, as {v.name} was trained: expect odd motion."
        if (self.height, self.width) != (v.height, v.width):
            yield (
                f"{self.height}x{self.width} is not {v.height}x{v.width} (height x width), the size {v.name} was "
                "trained at: quality falls quickly away from it; fit the picture instead and enlarge afterwards."
            )
        if steps < low_steps:
            yield f"num_inference_steps={steps} is under {low_steps}: the picture degrades."
        if steps > high_steps:
            yield f"num_inference_steps={steps} is over {high_steps}: rarely better, only slower."
        if v.sampling.max_guidance_scale <= 1 < self.max_guidance_scale:
            scale = f"max_guidance_scale={self.max_guidance_scale:g}"
            yield f"{scale} is over 1: it gains {v.name} little and takes twice the time."
        if self.num_frames > v.frames:
            yield f"num_frames={self.num_frames} is more than the {v.frames} of {v.name}'s training: chain clips."
        for name, value in v.only.items():
            if getattr(self, name) != value:
                yield f"{v.name} was tuned at {name}={value} only; {name}={getattr(self, name)} is outside that."

    def _is_open(self) -> bool:
        return any(getattr(self, name) is None for name in _RANGES)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back; a picture in memory travels inside it, as a PNG."""
        return json.dumps(vars(self) | {"image": to_text(self.image)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Request:
        """The request that `to_json` wrote, in this version or an older one.

        Args:
            text: the JSON, or the object in it; fields that it lacks keep today's defaults.
        """
        fields = fields_of_json(cls, text, "image")
        request, sigmas = cls(**fields), fields.get("sigmas")
        if sigmas and sigmas[-1] != 0:
            remains = f"An older svdlab left noise of {sigmas[-1]} in the clip of this request"
            warnings.warn(f"{remains}: made again, it is another one, without.", UserWarning, stacklevel=2)
        return request


def _number_in_range(name: str, value: Any) -> int | float:
    """The value of a field as a plain Python number; NumPy's come from sweeps."""
    kind, low, high, hint = _RANGES[name]
    try:
        number = kind(value)
        if isinstance(value, bool) or not math.isfinite(number) or number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        expected = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name}={shorten(value)} is not {expected}: {hint}.") from None
    if not low <= number <= high:
        raise ValueError(f"{name}={shorten(number)} is outside {low} to {high}: {hint}.")
    if name in ("height", "width") and number % 8:
        below = number // 8 * 8
        raise ValueError(f"{name}={number} is not a multiple of 8: use {below} or {below + 8}, best a multiple of 64.")
    return number


def fields_of_json(kind: type[Any], text: str | dict[str, Any], required: str) -> dict[str, Any]:
    """The fields of a request or a setup, read from JSON.

    Args:
        kind: `Request` or `Setup`.
        text: The JSON, or the object that it holds.
        required: The field without which it is neither.
    """
    name = kind.__name__.lower()
    try:
        fields = json.loads(text) if isinstance(text, str) else text
    except RecursionError:
        fields = None  # a thousand brackets
    if not isinstance(fields, dict) or required not in fields:
        raise ValueError(f"This is not a {name}: expected a JSON object with at least its {required!r}.")
    names = [field.name for field in dataclasses.fields(kind)]
    for field in fields:
        if field not in names:
            hint = did_you_mean(field, names) or ": it was written by a newer svdlab; update this one."
            raise ValueError(f"Unknown {name} field {shorten(field)}{hint}")
    return fields


def conditioning(request: Request) -> Image.Image:
    """The picture as the model sees it: read, fitted to the request's width and height, RGB.

    Args:
        request: one whose height and width are not open.

    Raises:
        ValueError: they are, or the image cannot be read.

    Example:
        >>> conditioning(Request.for_variant("tiny", image="rocket")).size
        (160, 96)
    """
    if request.height is None or request.width is None:
        raise ValueError("The request's height or width is open: fill it in, as with request.filled('svd-xt').")
    return fit_image(open_image(request.image), request.height, request.width, request.fit, request.focus)
