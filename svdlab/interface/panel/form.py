"""The panel's controls and what they say: a request and a setup, in both directions.

Labels and lines of help are in `templates/fields.json`. A picture comes from the examples, a path, a URL, an upload or
a drop. A clip that was saved here comes the same ways, and brings the settings that it was made with.
"""

from __future__ import annotations

import base64
import json
import random
import tempfile
from html import escape
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from svdlab.generation.clip import read
from svdlab.interface.panel.setup_marks import SetupMarks
from svdlab.interface.panel.widgets import Alert, Button, by_program, figure, w, when_changed
from svdlab.media.images import EXAMPLES, fit_image, open_image
from svdlab.request import Fit, Request, quiet_requests
from svdlab.setup import Setup
from svdlab.sweeps.grid import with_image
from svdlab.variants import VARIANTS, variant

_TEXTS = json.loads((Path(__file__).parents[1] / "templates" / "fields.json").read_text(encoding="utf-8"))
_FIELDS = ("seed", "fps", "motion_bucket_id", "noise_aug_strength", "num_inference_steps", "decode_chunk_size", "fit")
# Bucket and noise strength: dramatic is what diffusers' guide shows; the other guide calls under 100 subtle.
_MOTION = {"Subtle": (60, 0.02), "Standard": (127, 0.02), "Dramatic": (180, 0.1)}


class Form(w.Box):
    """All controls, by name in `controls`. `request` and `setup` are what they say now.

    `fill` makes them say a request and a setup, `restore` those of a saved clip. `dropped` is a hidden field that the
    page writes to: "shown" at first, then files that are dropped on it.
    """

    def __init__(self, request: Request, setup: Setup, is_chosen: bool, alert: Alert) -> None:
        self.controls = c = _make_controls()
        self.picture, self.concerns = w.HTML(), w.HTML().add_class("svdlab-concerns")
        self.dropped = w.Text(continuous_update=False).add_class("svdlab-dropped")
        self.marks, self._alert = SetupMarks(c["setup"]), alert
        motion = w.HBox([w.Label("Motion")]).add_class("svdlab-row")
        self.sampling = w.HBox([w.Label("Sampling")]).add_class("svdlab-row")
        for name, (bucket, noise) in _MOTION.items():
            knobs = {"motion_bucket_id": bucket, "noise_aug_strength": noise}
            motion.children += (self._preset(name, f"Bucket {bucket}, noise strength {noise}", **knobs),)
        dice = Button("", "Another seed", self.roll_seed, icon="random")
        left = [self.picture, *(c[name] for name in ("example", "path", "upload", "fit", "focus_x", "focus_y"))]
        right = [c["variant"], c["setup"], self.marks, motion, c["motion_bucket_id"], c["noise_aug_strength"]]
        right += [c["fps"], self.sampling, c["num_inference_steps"], c["guidance"]]
        right += [w.HBox([c["seed"], dice, c["lock"]]).add_class("svdlab-seed"), c["decode_chunk_size"]]
        right += [c["playback_fps"], self.concerns]
        super().__init__([w.VBox(left).add_class("svdlab-picture"), w.VBox(right).add_class("svdlab-knobs")])
        self.add_class("svdlab-top")
        self.fill(request, setup, is_chosen)
        for name, control in {**c, "dropped": self.dropped}.items():
            when_changed(control, lambda value, name=name: self._changed(name, value))

    @property
    def setup(self) -> Setup:
        """The setup that is chosen."""
        return self.controls["setup"].value

    @property
    def request(self) -> Request:
        """The request that the controls say, complete."""
        fields = self._without_control | self._fields()
        if fields["sigmas"] and len(fields["sigmas"]) != fields["num_inference_steps"]:
            fields["sigmas"] = None
        with quiet_requests():  # concerns are shown under the controls
            request = Request.for_variant(self.controls["variant"].value, image="-", **fields)
        return with_image(request, self._image)

    def _fields(self) -> dict[str, Any]:
        fields = {name: self.controls[name].value for name in _FIELDS}
        low, high = self.controls["guidance"].value
        focus = self.controls["focus_x"].value, self.controls["focus_y"].value
        return fields | {"min_guidance_scale": low, "max_guidance_scale": high, "focus": focus}

    @property
    def fitted_picture(self) -> Image.Image:
        """The picture as the model will see it: RGB, of the request's size."""
        r = self.request
        return fit_image(self._opened, r.height, r.width, r.fit, r.focus)

    def restore(self, path: str | Path) -> None:
        """Bring back the settings of a saved clip.

        Args:
            path: its file.

        Raises:
            ValueError: the file holds no settings.
        """
        saved = read(path)
        self.fill(saved.request, saved.setup or Setup(saved.request.variant or "svd-xt"))

    def fill(self, request: Request, setup: Setup, is_chosen: bool = True) -> None:
        """Make the controls say a request and a setup. A range grows where the request is outside of it.

        Args:
            request: complete.
            setup: of the same variant.
            is_chosen: False for a setup that may give way to one that fits.
        """
        self._opened, self._image = open_image(request.image), request.image
        names = ("height", "width", "num_frames", "sigmas")
        self._without_control = {name: getattr(request, name) for name in names}
        v, c = variant(setup.variant), self.controls
        ranges: dict[str, tuple[Any, float, float]] = {
            "motion_bucket_id": (request.motion_bucket_id, 0, 255),
            "noise_aug_strength": (request.noise_aug_strength, 0, 0.5),
            "fps": (request.fps, *v.fps_range),
            "num_inference_steps": (request.num_inference_steps, 1, 2 * v.steps_range[1]),
            "guidance": ((request.min_guidance_scale, request.max_guidance_scale), 1, 6),
            "decode_chunk_size": (request.decode_chunk_size, 1, request.num_frames),
            "playback_fps": (request.fps, 1, 30),
        }
        with by_program():
            for name, (value, low, high) in ranges.items():
                first, last = value if isinstance(value, tuple) else (value, value)
                with c[name].hold_trait_notifications():
                    c[name].min, c[name].max, c[name].value = min(low, first), max(high, last), value
            c["seed"].value, c["fit"].value, c["variant"].value = request.seed, request.fit, v.name
            c["focus_x"].value, c["focus_y"].value = request.focus
            self._name_source()
        self.marks.offer(setup, is_chosen)
        presets = []
        for name, s in v.presets.items():
            steps, guidance = s.num_inference_steps, (s.min_guidance_scale, s.max_guidance_scale)
            tooltip = f"{steps} steps, guidance {guidance[0]} to {guidance[1]}"
            presets.append(self._preset(name, tooltip, num_inference_steps=steps, guidance=guidance))
        self.sampling.children = [self.sampling.children[0], *presets]
        self._draw()
        self.marks.predict(self.request)

    def roll_seed(self) -> None:
        """Choose another seed."""
        self.controls["seed"].value = random.randrange(2**31)

    def _changed(self, name: str, value: Any) -> None:
        if value in ("", (), {}):
            return
        if not self.marks.is_shown:
            self.marks.is_shown = True
            self.marks.predict(self.request)
        with self._alert.catch():
            if name == "variant":
                kept = {name: self._fields()[name] for name in ("seed", "fit", "focus")}
                request = with_image(Request.for_variant(value, image="-", **kept), self._image)
                self.fill(request, Setup(value), is_chosen=False)
            elif name in ("example", "path"):
                self._open(value, value)
            elif name == "upload":
                self.controls["upload"].value = ()  # so that the same file may come again
                self._open(bytes(value[0]["content"]), value[0]["name"])
            elif name == "dropped":
                self._drop(value)
            elif name == "setup":
                self.marks.is_chosen = True
            elif name == "decode_chunk_size":
                self.marks.predict(self.request)
            self._draw(name in ("fit", "focus_x", "focus_y"))

    def _drop(self, text: str) -> None:
        self.dropped.value = ""
        name, _, url = text.partition("|")
        if url:
            self._open(base64.b64decode(url.partition(",")[2]), name)
        elif text != "shown":
            raise ValueError(f"{name!r} has over 7 MB, more than can be dropped here: type its path instead.")

    def _open(self, source: str | bytes, name: str) -> None:
        """Take a picture; of a clip that was made here the settings."""
        suffix = Path(name).suffix.lower()
        if suffix in (".mp4", ".gif", ".webp"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(name)
                if isinstance(source, bytes):
                    path = Path(folder) / f"clip{suffix}"
                    path.write_bytes(source)
                try:
                    return self.restore(path)
                except ValueError as error:
                    if suffix == ".mp4":  # the others may well be pictures
                        raise ValueError(str(error).replace(str(path), name)) from None
        self._opened = open_image(source)
        self._image = source if isinstance(source, str) else self._opened
        with by_program():
            self._name_source()
        return self._draw()

    def _name_source(self) -> None:
        source = self._image if isinstance(self._image, str) else ""
        pair = (source, "") if source in EXAMPLES else ("", source)
        self.controls["example"].value, self.controls["path"].value = pair

    def _draw(self, picture: bool = True) -> None:
        self.concerns.value = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.request.concerns())
        if picture:
            fitted = self.fitted_picture
            self.picture.value = figure(fitted, f"{fitted.width} × {fitted.height}, as the model will see it")

    def _preset(self, name: str, tooltip: str, **values: Any) -> Button:
        def press() -> None:
            for control, value in values.items():
                self.controls[control].value = value

        return Button(name, tooltip, press)


def _make_controls() -> dict[str, Any]:
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
