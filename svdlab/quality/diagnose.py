"""From symptom to cure: what is wrong with a clip, why, and what to ask for next.

`diagnose` runs nine checks over a clip, without the model. They rest on a few numbers (`symptoms`).
Thresholds were measured on the bundled model and on drawn clips: `benchmarks/thresholds.py` prints the distributions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from svdlab.dtypes import safer_dtypes
from svdlab.generation.clip import BLACK, Clip
from svdlab.media.images import MAX_ENLARGEMENT, open_image
from svdlab.quality.assess import assess
from svdlab.quality.faces import faces
from svdlab.quality.quality import Quality
from svdlab.quality.symptoms import flat_share, frames_at_an_end, seam_ratio, travel_percent
from svdlab.request import Request
from svdlab.setup import Setup
from svdlab.tiny import pixels_per_frame
from svdlab.variants import Variant, variant

Changed = TypeVar("Changed", Request, Setup)

_TABLE = Path(__file__).parent / "findings.html"
_STILL_PERCENT = 2.0  # of the width over all frames: buckets 0 and 5 gave at most 1.7, bucket 30 at least 2.3
_SLOW_SHARE = 0.3  # of what the bundled model's rule promises: 0.44 and more for rockets, 0.24 at 144x256
_SEAM_RATIO = 1.37  # healthy clips at most 1.33; a VAE that leans by 10 % on neighbours 1.39 and more, at chunk 3 2.6
_SATURATION_LEVELS = 20  # of 255, first to last: healthy within 13, guidance of 3 on the bundled model at least 28
_BRIGHTNESS_LEVELS = 12  # healthy clips within 6, guidance of 3 up to 21
_FLAT_SHARE = 0.58  # of 160 drawn rockets and the examples at least 0.64 is even; of 15 of 16 photographs at most 0.52
_SHAPE_RATIO = 0.6  # of the picture by a crop, where 4 % of drawn rockets lose over a tenth of themselves; at 0.45 18 %


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a clip. `print` it for a sentence and what to do; `apply` makes the changes."""

    symptom: str  # a word or two, such as "black", "photograph" or "static"
    evidence: str  # what was measured
    cause: str  # the likely one
    advice: str  # what to do, also where no setting is the cure
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the request to try next
    setup_changes: dict[str, Any] = field(default_factory=dict)  # fields of the setup to try next

    def apply(self, current: Changed, /) -> Changed:
        """The request, or the setup, to try next, from the one that the clip was made with."""
        changes: dict[str, Any] = self.changes if isinstance(current, Request) else self.setup_changes
        return dataclasses.replace(current, **changes) if changes else current

    def __str__(self) -> str:
        changes = ", ".join(f"{name}={value!r}" for name, value in (self.changes | self.setup_changes).items())
        return f"{self.symptom}: {self.evidence}; {self.cause}.\n  -> {self.advice}{': ' * bool(changes)}{changes}"


class Findings(list[Finding]):
    """A list of findings, the gravest first. `print` it, or leave it last in a cell, for two lines each.

    Each has a `symptom`, its `evidence`, the likely `cause`, an `advice`, and the `changes` that `apply` makes.
    """

    def apply(self, current: Changed, /) -> Changed:
        """The request, or the setup, with the changes of all findings; of two for one field the graver one's.

        Args:
            current: the request or the setup that the clip was made with.
        """
        for finding in reversed(self):
            current = finding.apply(current)
        return current

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or "Nothing was found that needs a cure."

    def _repr_html_(self) -> str | None:
        """A small table for a notebook, with the lines that apply each finding; None leaves it to the plain words."""
        with suppress(ImportError):
            from jinja2 import Environment

            page = Environment(autoescape=True).from_string(_TABLE.read_text(encoding="utf-8"))
            return page.render(findings=self) if self else None
        return None


def diagnose(clip: Clip) -> Findings:
    """What is wrong with a clip, the gravest first: about a second, without the model.

    It looks for black frames, half precision that failed, an unusual size or shape, a picture that was enlarged, a
    photograph on the bundled model, a clip that stands still, seams between decoded chunks, colours that drift, and
    small faces. It does not look for text, since no detector comes with the libraries.

    Args:
        clip: as `generate` or `read` gave it.

    Returns:
        `Findings`, a list that prints itself; empty where nothing needs a cure. Each has a `symptom`, the `evidence`,
        the likely `cause`, an `advice`, and `changes` (of the request) and `setup_changes` to try next, both by field.
        `findings.apply(request)` gives a request with all changes, and `findings.apply(setup)` a setup; of two changes
        of one field the graver finding's. A clip from `read` has no latents, which are then not looked at.

    Raises:
        ValueError: as `assess` raises it: a single frame, frames of different sizes, a side that is far too short.

    Example:
        With a `clip` of two frames, in which nothing gets far:
        >>> [finding.symptom for finding in diagnose(clip)]
        ['static']
        >>> diagnose(clip).apply(clip.request).motion_bucket_id  # of the request to try next
        190
    """
    quality = assess(clip)
    checks = (_black, _half_precision, _size, _picture, _photograph, _static, _seams, _colour, _faces)
    return Findings(finding for check in checks for finding in check(clip, quality))


# --- the checks, gravest first -----------------------------------------------------------------------------------


def _black(clip: Clip, quality: Quality) -> Iterator[Finding]:
    if not quality.black_frames and not quality.non_finite:
        return
    evidence = f"{quality.black_frames} of {len(clip.frames)} frames are black"
    evidence += ", and the latents hold not-a-number" if quality.non_finite else ""
    trained, wider = _trained_size(clip.request), _wider_dtype(clip.setup)
    if np.asarray(clip.picture.convert("RGB")).max() <= BLACK:
        yield Finding("black", evidence, "so is the picture", "give another picture")
    elif trained or wider:
        is_fp16 = clip.setup is not None and clip.setup.dtype == "fp16"
        causes = ["fp16 overflows"] * is_fp16 + ["the model never learnt this size"] * bool(trained)
        steps = ["use the trained size"] * bool(trained) + [f"calculate in {wider.get('dtype')}"] * bool(wider)
        cause = " and ".join(causes) or "16 bits may be too coarse"
        yield Finding("black", evidence, cause, *_refitted(clip, " and ".join(steps), trained), wider)
    else:
        cause, advice = "the weights of the VAE are damaged, or were changed", "load them again, or fetch them again"
        yield Finding("black", evidence, cause, advice)


def _half_precision(clip: Clip, quality: Quality) -> Iterator[Finding]:
    for note in clip.notes:
        if "not-a-number" in note and "again" in note:  # as `generate` mended it
            cause, wider = "the VAE overflows in fp16", _wider_dtype(clip.setup)
            advice = f"{wider.get('dtype', 'fp32')} needs no second decoding"
            yield Finding("half precision", note.rstrip("."), cause, advice, {}, wider)


def _size(clip: Clip, quality: Quality) -> Iterator[Finding]:
    if trained := _trained_size(clip.request):
        r = clip.request
        evidence = f"{r.height}x{r.width} is not the {trained['height']}x{trained['width']} that {r.variant} learnt"
        cause = "away from it things move less and lose their shape"
        advice = "ask for the trained size and enlarge the frames afterwards"
        yield Finding("size", evidence, cause, *_refitted(clip, advice, trained))


def _picture(clip: Clip, quality: Quality) -> Iterator[Finding]:
    r, (width, height) = clip.request, clip.image_size or clip.picture.size
    ratio = (width / height) / (r.width / r.height)
    shape_ratio, size = min(ratio, 1 / ratio), f"a picture of {width}x{height}"
    evidence = f"{size} for a clip of {r.width}x{r.height} (width x height)"
    if shape_ratio < _SHAPE_RATIO and r.fit == "stretch":
        cause = f"stretching made things {1 / shape_ratio:.1f} times too {'narrow' if ratio > 1 else 'wide'}"
        yield Finding("shape", evidence, cause, *_refitted(clip, "crop it, or show all of it", {"fit": "crop"}))
    if shape_ratio < _SHAPE_RATIO and r.fit == "crop":
        cause = f"the crop threw {1 - shape_ratio:.0%} of it away"
        advice = "show all of it, or move the crop with focus=(x, y)"
        yield Finding("shape", evidence, cause, *_refitted(clip, advice, {"fit": "pad"}))
    scale = (min if r.fit == "pad" else max)(r.width / width, r.height / height)
    if scale > MAX_ENLARGEMENT:
        evidence = f"{size} was enlarged {scale:.1f} times"
        yield Finding("enlarged", evidence, "what is not in it is soft in the clip", "give a larger picture")


def _photograph(clip: Clip, quality: Quality) -> Iterator[Finding]:
    if (share := flat_share(clip)) < _FLAT_SHARE:
        evidence = f"{share:.0%} of the picture is even, of drawn ones two thirds and more"
        cause = "tiny, the bundled model, has learnt drawn scenes: a photograph it only zooms into"
        yield Finding("photograph", evidence, cause, "animate it with svd or svd-xt; give tiny a bundled example")


def _static(clip: Clip, quality: Quality) -> Iterator[Finding]:
    r, travel, expected = clip.request, travel_percent(clip), 0.0
    if r.variant == "tiny" and clip.segments == 1:  # by its rule; for published models nobody has published one
        frames = len(clip.frames) - frames_at_an_end(clip)
        expected = pixels_per_frame(r.motion_bucket_id, r.fps, width=100) * frames
    slow = travel < _SLOW_SHARE * expected
    if quality.black_frames or (travel >= _STILL_PERCENT and not slow) or flat_share(clip) < _FLAT_SHARE:
        return
    evidence = f"the fastest part of the picture goes {travel:.1f} % of the width from beginning to end"
    if slow:
        evidence += f", where bucket {r.motion_bucket_id} at fps {r.fps} promises {expected:.1f} %"
    changes: dict[str, Any] = {"fps": _variant(r).fps} if r.fps > 2 * _variant(r).fps else {}
    little = r.motion_bucket_id < 100 or bool(changes)
    count, bucket = len(faces(clip.picture)), _variant(r).only.get("motion_bucket_id", 190)
    if count:
        evidence += f"; {_count_of_faces(count)}"
        bucket = _variant(r).motion_bucket_id  # faces melt as they move
    if r.motion_bucket_id < min(bucket, 180):
        changes["motion_bucket_id"] = bucket
    if r.noise_aug_strength < 0.1:
        changes["noise_aug_strength"] = 0.1
    cause = "the model sees nothing in the picture that it knows how to move"
    if little and not slow:
        cause = f"bucket {r.motion_bucket_id} at fps {r.fps} asks for little"
    advice = "free the model from the picture" if changes else "give a cleaner picture"
    if "motion_bucket_id" in changes:
        advice = f"raise the bucket and {advice}"
    if count:
        advice += ", no further: faces are a known limit of SVD and melt as they move; large ones last longer"
    elif changes and not little:
        advice += "; if that is not enough, a cleaner picture: one subject, a calm background"
    yield Finding("static", evidence, cause, advice, changes)


def _seams(clip: Clip, quality: Quality) -> Iterator[Finding]:
    ratio, r = seam_ratio(clip), clip.request
    if ratio is None or ratio <= _SEAM_RATIO:
        return
    n, v, chunk = r.num_frames, _variant(r), r.decode_chunk_size
    larger = range(max(4, math.ceil(1.5 * chunk)), n)  # whose last chunk is not much shorter than the others
    changes: dict[str, Any] = {"decode_chunk_size": next((k for k in larger if not n % k or n % k >= k / 2), n)}
    if chunk < v.decode_chunk_size <= n:
        changes = {"decode_chunk_size": v.decode_chunk_size}
    if v.repository and not r.sigmas and r.num_inference_steps < v.steps_range[1]:
        changes["num_inference_steps"] = v.steps_range[1]
    evidence = f"the change between frames is {ratio:.1f} times larger at one place of a decode chunk than at another"
    cause = f"frames are decoded {chunk} at a time, and those at a chunk's edge lack a neighbour"
    yield Finding("seams", evidence, cause, "decode more frames together, which takes more memory", changes)


def _colour(clip: Clip, quality: Quality) -> Iterator[Finding]:
    r, saturation, light = clip.request, quality.saturation_drift_levels, quality.brightness_drift_levels
    if abs(saturation) <= _SATURATION_LEVELS and abs(light) <= _BRIGHTNESS_LEVELS:
        return
    guidance, changes = _variant(r).sampling.max_guidance_scale, {}
    evidence = f"from first frame to last, saturation changes by {saturation:+.0f} and light by {light:+.0f} of 255"
    if r.max_guidance_scale > guidance:
        changes = {"max_guidance_scale": guidance, "min_guidance_scale": min(r.min_guidance_scale, guidance)}
    if r.noise_aug_strength > 0.3:
        changes["noise_aug_strength"] = _variant(r).noise_aug_strength
    cause = "guidance or noise is far over what the model is used to" if changes else "this noise leads there"
    advice = "go back to the usual values" if changes else "try another seed"
    if clip.segments > 1:
        cause, advice = f"each of {clip.segments} segments starts from the frame that the last one left", "chain fewer"
    yield Finding("colour", evidence, cause, advice, changes or {"seed": r.seed + 1})


def _faces(clip: Clip, quality: Quality) -> Iterator[Finding]:
    count = len(faces(clip.picture))
    if count and not any(_static(clip, quality)):  # which has its own word on faces: raise the bucket, and no further
        cause, advice = "faces are a known limit of SVD and melt as they move", "keep the bucket low, or crop closer"
        yield Finding("faces", _count_of_faces(count), cause, f"{advice}: large faces last longer")


def _count_of_faces(count: int) -> str:
    return f"{count} {'face was' if count == 1 else 'faces were'} found in the picture"


def _variant(request: Request) -> Variant:
    return variant(request.variant or "svd-xt")


def _trained_size(request: Request) -> dict[str, Any]:
    size = {"height": _variant(request).height, "width": _variant(request).width}
    return {} if (request.height, request.width) == tuple(size.values()) else size


def _refitted(clip: Clip, advice: str, changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Advice and changes that fit the picture anew. A clip from a file may have no more of it than the model saw."""
    image = clip.request.image
    if not isinstance(image, Image.Image) or not changes:
        return advice, changes
    size = open_image(image).size  # upright, as EXIF has it
    if (clip.image_size or size) == size:
        return advice, changes
    return f"{advice}: the request holds only what the model saw, so give it the original picture", {}


def _wider_dtype(setup: Setup | None) -> dict[str, Any]:
    if setup is None or setup.dtype == "fp32":
        return {}
    return {"dtype": safer_dtypes()[0] if setup.dtype == "fp16" else "fp32"}
