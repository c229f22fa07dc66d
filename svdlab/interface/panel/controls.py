"""The panel's controls: one for each knob of a request.

Their labels and lines of help are in `templates/fields.json`. `write_request` makes them say a request, in the
ranges of its variant; `read_fields` reads back what they say, which may have been changed since by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from svdlab.interface.panel.widgets import w
from svdlab.media.images import EXAMPLES
from svdlab.request import Fit, Request
from svdlab.variants import VARIANTS, variant

_TEXTS = json.loads((Path(__file__).parents[1] / "templates" / "fields.json").read_text(encoding="utf-8"))
_FIELDS = ("seed", "fps", "motion_bucket_id", "noise_aug_strength", "num_inference_steps", "decode_chunk_size", "fit")


def make_controls() -> dict[str, Any]:
    """The controls by name: a request's fields, its picture's sources, the setup, and the speed of playback."""
    models = [(f"{v.name}: {v.frames} frames, {v.width} × {v.height}", v.name) for v in VARIANTS.values()]
    controls: dict[str, Any] = {
        "example": w.Dropdown(options=[("your own", ""), *((name, name) for name in EXAMPLES)]),
        "path": w.Text(continuous_update=False),
        "upload": w.FileUpload(accept="image/*,video/mp4"),
        "fit": w.Dropdown(options=get_args(Fit)),
        "focus_x": w.FloatSlider(min=0, max=1, step=0.01),
        "focus_y": w.FloatSlider(min=0, max=1, step=0.01),
        "variant": w.Dropdown(options=models),
        "setup": w.Dropdown(),
        "motion_bucket_id": w.IntSlider(),
        "noise_aug_strength": w.FloatSlider(step=0.01),
        "fps": w.IntSlider(),
        "num_inference_steps": w.IntSlider(),
        "guidance": w.FloatRangeSlider(step=0.1, readout_format=".1f"),
        "seed": w.IntText(),
        "lock": w.ToggleButton(value=True, icon="lock"),
        "decode_chunk_size": w.IntSlider(),
        "playback_fps": w.IntSlider(continuous_update=False),  # each change encodes the clip again
    }
    for name, control in controls.items():
        control.description, control.tooltip = _TEXTS[name]
        control.layout = w.Layout(width="auto")
        if name not in ("upload", "lock"):
            control.style = {"description_width": "7.5em"}
    return controls


def write_request(controls: dict[str, Any], request: Request) -> None:
    """Make the controls say a request. A range grows where the request is outside of it.

    Args:
        controls: as `make_controls` gives them.
        request: complete.
    """
    v = variant(request.variant or "")
    ranges: dict[str, tuple[Any, float, float]] = {
        "motion_bucket_id": (request.motion_bucket_id, 0, 255),
        "noise_aug_strength": (request.noise_aug_strength, 0, 0.5),
        "fps": (request.fps, *v.fps_range),
        "num_inference_steps": (request.num_inference_steps, 1, 2 * v.steps_range[1]),
        "guidance": ((request.min_guidance_scale, request.max_guidance_scale), 1, 6),
        "decode_chunk_size": (request.decode_chunk_size, 1, request.num_frames),
        "playback_fps": (request.fps, 1, 30),
    }
    for name, (value, low, high) in ranges.items():
        first, last = value if isinstance(value, tuple) else (value, value)
        with controls[name].hold_trait_notifications():
            controls[name].min, controls[name].max = min(low, first), max(high, last)
            controls[name].value = value
    for name in ("seed", "fit", "variant"):
        controls[name].value = getattr(request, name)
    controls["focus_x"].value, controls["focus_y"].value = request.focus


def read_fields(controls: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that the controls say, by name.

    Args:
        controls: as `make_controls` gives them.
    """
    low, high = controls["guidance"].value
    fields = {name: controls[name].value for name in _FIELDS}
    focus = controls["focus_x"].value, controls["focus_y"].value
    return fields | {"min_guidance_scale": low, "max_guidance_scale": high, "focus": focus}
