"""What a panel is made of: its controls, each with a name and a line of help, and small pieces of HTML."""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape
from typing import Any, get_args

from PIL import Image

from svdlab.media import images
from svdlab.media.encode import data_url
from svdlab.request import Fit, Request
from svdlab.variants import VARIANTS, variant

try:
    import ipywidgets as w
except ImportError as error:
    raise ImportError("The panel needs ipywidgets, which is not installed: pip install 'svdlab[lab]'.") from error

WIDTH = 320  # of a picture, in pixels

# Bucket and noise strength: dramatic is what diffusers' guide shows; the other guide calls under 100 subtle.
MOTION = {"Subtle": (60, 0.02), "Standard": (127, 0.02), "Dramatic": (180, 0.1)}

# name: (label, one line of help)
_HELP = {
    "example": ("Example", "A picture that is bundled"),
    "path": ("Path or URL", "A picture, or an MP4 made here, whose settings come back; press Enter"),
    "upload": (
        "Upload a picture or clip",
        "Up to 10 MB, dropping it works too; an MP4 made here brings its settings back",
    ),
    "fit": ("Fit", "crop fills the clip's shape, pad shows the whole picture, stretch distorts it"),
    "focus_x": ("Crop across", "What a crop keeps: 0 is the left edge, 1 the right"),
    "focus_y": ("Crop down", "What a crop keeps: 0 is the top edge, 1 the bottom"),
    "variant": ("Model", "tiny is bundled; the others are downloaded when they are first used"),
    "setup": ("Setup", "How the model runs; ✓ is predicted to fit"),
    "motion_bucket_id": ("Motion bucket", "How much moves: under 100 is calm, 180 and more is lively"),
    "noise_aug_strength": ("Noise strength", "Noise on the picture: more is freer, and less alike"),
    "fps": ("Told fps", "What the model is told: fewer means longer strides; not the playback speed"),
    "num_inference_steps": ("Steps", "Denoising steps: time grows with them"),
    "guidance": (
        "Guidance",
        "At the first frame and at the last: more keeps to the picture; 1 is off, in half the time",
    ),
    "seed": ("Seed", "Of the noise: the same seed makes the same clip"),
    "lock": ("Keep", "Pressed, the seed is kept; let go, every clip gets a new one"),
    "decode_chunk_size": ("Decode chunk", "Frames decoded together: fewer take less memory, and may flicker"),
    "playback_fps": ("Playback fps", "How fast the clip plays here and in what you download"),
}


def controls() -> dict[str, Any]:
    """The controls of a request by the names of its fields, and some more; `fill` gives them their ranges."""
    models = [(f"{v.name}: {v.frames} frames, {v.width} × {v.height}", v.name) for v in VARIANTS.values()]
    made = {
        "example": w.Dropdown(options=[("your own", ""), *((name, name) for name in images.EXAMPLES)]),
        "path": w.Text(continuous_update=False),
        "upload": w.FileUpload(accept="image/*,video/mp4", layout=w.Layout(width="auto")),
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
        "lock": w.ToggleButton(value=True, icon="lock", layout=w.Layout(width="auto")),
        "decode_chunk_size": w.IntSlider(),
        "playback_fps": w.IntSlider(),
    }
    for name, control in made.items():
        control.description, control.tooltip = _HELP[name]
        if name not in ("upload", "lock"):
            control.style, control.layout = {"description_width": "7.5em"}, w.Layout(width="auto")
    return made


def fill(controls: dict[str, Any], request: Request) -> None:
    """Let controls say a complete request: in the ranges of its variant, made wider where it is outside of them."""
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


def asked(controls: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that controls say: what `fill` put into them, or a hand since."""
    names = ("seed", "fps", "motion_bucket_id", "noise_aug_strength", "num_inference_steps", "decode_chunk_size", "fit")
    low, high = controls["guidance"].value
    focus = controls["focus_x"].value, controls["focus_y"].value
    said = {name: controls[name].value for name in names}
    return said | {"min_guidance_scale": low, "max_guidance_scale": high, "focus": focus}


def button(label: str, help: str, act: Callable[[], Any], style: str = "", icon: str = "") -> w.Button:
    made = w.Button(description=label, tooltip=help, button_style=style, icon=icon, layout=w.Layout(width="auto"))
    made.on_click(lambda _: act())
    return made


def row(label: str, *things: w.Widget) -> w.HBox:
    """Things in a line, with a name where the controls have theirs."""
    return classed(w.HBox([w.Label(label), *things]), "row")


def classed(thing: Any, *names: str) -> Any:
    for name in names:
        thing.add_class(f"svdlab-{name}")
    return thing


def output(html: str) -> tuple[dict[str, Any], ...]:
    """What an Output widget shows: unlike an HTML widget it runs scripts, and it may be set from any thread."""
    return ({"output_type": "display_data", "data": {"text/html": html, "text/plain": "a clip"}, "metadata": {}},)


def figure(picture: Image.Image, said: str, width: int = WIDTH) -> str:
    """A picture with its caption, sent at up to twice its width for sharp screens."""
    picture = picture.copy()
    picture.thumbnail((2 * width, 2 * width))
    data = io.BytesIO()
    picture.save(data, "PNG")
    said = escape(said)
    image = f'<img width="{width}" alt="{said}" src="{data_url("image/png", data.getvalue())}">'
    return f"<figure>{image}<figcaption>{said}</figcaption></figure>"


def small(text: str) -> str:
    return f"<small>{escape(text)}</small>"
