"""The panel's controls and what they say: a request and a setup, in both directions.

Labels and lines of help are in `templates/fields.json`; the page puts the help on each control, since ipywidgets leaves
some of it out. What no request can have is told beside the field that says it.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from svdlab.dtypes import DTYPES, usual_dtype
from svdlab.generation.clip import read
from svdlab.interface.panel.picture import Picture
from svdlab.interface.panel.setup_marks import SetupMarks
from svdlab.interface.panel.widgets import Alert, Button, SeedField, assign, w, when_changed
from svdlab.interface.panel.worker import import_libraries
from svdlab.machine import best_device
from svdlab.media.images import EXAMPLES
from svdlab.request import Fit, Request, quiet_requests
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial, with_image
from svdlab.variants import VARIANTS, variant

TEXTS: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[1] / "templates" / "fields.json").read_text(encoding="utf-8")
)
_FIELDS = ("fps", "motion_bucket_id", "noise_aug_strength", "num_inference_steps", "decode_chunk_size", "fit")
_SIZES = ("num_frames", "width", "height")
_COSTS = (*_SIZES, "num_inference_steps", "guidance", "dtype", "decode_chunk_size")  # what a prediction depends on
# Bucket and noise strength: dramatic is what diffusers' guide shows; the other guide calls under 100 subtle.
_MOTION = {"Subtle": (60, 0.02), "Standard": (127, 0.02), "Dramatic": (180, 0.1)}
_PHOTOGRAPH = "tiny animates drawn scenes; a photograph it only zooms into: to bring one alive, take svd or svd-xt."


class Form(w.VBox):
    """All controls, by name in `controls`. `request` and `setup` read them; `trials` is what Generate makes.

    `fill` sets them to a request and a setup, `restore` to those of a saved clip.
    """

    def __init__(self, request: Request, setup: Setup, is_chosen: bool, alert: Alert) -> None:
        self.controls = c = _make_controls()
        self.picture = Picture(c, self.restore, self._on_change)
        self.concerns = w.HTML().add_class("svdlab-concerns")
        self.marks, self._alert, self._drawn_seeds, self._note = SetupMarks(c["setup"]), alert, list[int](), ""
        self._problems = {name: Alert(c[name]) for name in ("seed", *_SIZES)}
        motion = w.HBox([w.Label("Motion")]).add_class("svdlab-row")
        self.sampling = w.HBox([w.Label("Sampling")]).add_class("svdlab-row")
        for name, (bucket, noise) in _MOTION.items():
            knobs = {"motion_bucket_id": bucket, "noise_aug_strength": noise}
            motion.children += (self._preset(name, f"Bucket {bucket}, noise strength {noise}", **knobs),)
        dice = Button("", "Draw another seed, and keep it", self._roll_seed, icon="random")
        self._drawn_label = w.HTML()
        seed = w.HBox([c["seed"], dice, self._drawn_label]).add_class("svdlab-seed")
        knobs = [c["variant"], c["setup"], self.marks, motion, c["motion_bucket_id"], c["noise_aug_strength"], c["fps"]]
        knobs += [self.sampling, c["num_inference_steps"], c["guidance"], seed, self._problems["seed"], self.concerns]
        names = ("width", "height", "num_frames", "decode_chunk_size", "focus_x", "focus_y", "dtype")
        extra = w.Box([c[name] for name in names]).add_class("svdlab-more")
        details = w.Accordion([w.VBox([extra, *(self._problems[name] for name in _SIZES)])], selected_index=None)
        details.set_title(0, "Frames, size, precision, crop")
        top = w.Box([self.picture.add_class("svdlab-picture"), w.VBox(knobs).add_class("svdlab-knobs")])
        super().__init__([top.add_class("svdlab-top"), details])
        self.fill(request, setup, is_chosen)
        for name in c.keys() - {"example", "path", "fit", "focus_x", "focus_y"}:  # those are the picture's
            when_changed(c[name], lambda value, name=name: self._on_change(name, value))

    @property
    def setup(self) -> Setup:
        """The setup that is chosen."""
        return self.controls["setup"].value

    @property
    def request(self) -> Request:
        """The complete request that the controls are set to; of several clips the first, with the seed drawn last.

        Raises:
            ValueError: no request can have what a control is set to.
        """
        c, text = self.controls, self.controls["seed"].value.strip()
        fields: dict[str, Any] = {name: c[name].value for name in (*_FIELDS, *_SIZES)}
        fields |= {"focus": self.picture.focus, "sigmas": self._sigmas}
        fields["min_guidance_scale"], fields["max_guidance_scale"] = c["guidance"].value
        fields["seed"] = [0, *self._drawn_seeds][-1] if text == "-1" else text
        with suppress(ValueError):  # else the request says what is wrong with it
            fields["seed"] = int(fields["seed"])
        if self._sigmas and len(self._sigmas) - 1 != fields["num_inference_steps"]:
            fields["sigmas"] = None
        with quiet_requests():  # concerns are shown under the controls
            return with_image(Request.for_variant(c["variant"].value, image="-", **fields), self.picture.image)

    def trials(self) -> list[Trial]:
        """What Generate makes: as many clips as are wanted; their seeds go up by one, or are drawn for -1."""
        first, count = self.request, self.controls["clips"].value
        seeds = [first.seed + i for i in range(count)]
        if self.controls["seed"].value.strip() == "-1":
            seeds = self._drawn_seeds = [random.randrange(2**31) for _ in seeds]
            self._show()
        blank = with_image(first, "-")
        with quiet_requests():
            requests = [with_image(dataclasses.replace(blank, seed=seed), first.image) for seed in seeds]
            return [Trial(self.setup, request, ("seed",) * (count > 1)) for request in requests]

    @property
    def fitted_picture(self) -> Image.Image:
        """The picture as the model will see it: RGB, of the request's size."""
        return self.picture.fitted(self.controls["height"].value, self.controls["width"].value)

    def restore(self, path: str | Path) -> None:
        """Bring back the settings of a saved clip; of its setup, what another kind of device needed gives way.

        Args:
            path: its file.

        Raises:
            ValueError: the file holds no settings.
        """
        saved = read(path)
        setup = saved.setup or Setup(saved.request.variant or "svd-xt")
        here, note = _setup_here(setup), ""
        if here.label != setup.label:
            note = f"The clip was made on {setup.device} with {setup.label}: on {best_device()} another setup is used."
        self.fill(saved.request, here, is_chosen=not note, note=note)

    def fill(self, request: Request, setup: Setup, is_chosen: bool = True, note: str = "") -> None:
        """Set the controls to a complete request and a setup; a range grows where the request is outside of it.

        A setup that is not `is_chosen` may give way to one that fits. The note is shown until the setup is changed.
        """
        self._note = note
        self.picture.set_image(request.image)
        self._sigmas = request.sigmas
        v, c = variant(setup.variant), self.controls
        ranges: dict[str, tuple[Any, float, float]] = {
            "motion_bucket_id": (request.motion_bucket_id, 0, 255),
            "noise_aug_strength": (request.noise_aug_strength, 0, 0.5),
            "fps": (request.fps, *v.fps_range),
            "num_inference_steps": (request.num_inference_steps, 1, 2 * v.steps_range[1]),
            "guidance": ((request.min_guidance_scale, request.max_guidance_scale), 1, 6),
            "num_frames": (request.num_frames, 2, 2 * v.frames),
            "decode_chunk_size": (request.decode_chunk_size, 1, request.num_frames),
        }
        for name, (value, low, high) in ranges.items():
            first, last = value if isinstance(value, tuple) else (value, value)
            assign(c[name], min=min(low, first), max=max(high, last), value=value)
        values = {"seed": request.seed, "fit": request.fit, "variant": v.name, "dtype": setup.dtype}
        values |= {"width": request.width, "height": request.height}
        values |= dict(zip(("focus_x", "focus_y"), request.focus, strict=True))
        for name, value in values.items():
            assign(c[name], value=value)
        self.marks.offer(setup, is_chosen)
        presets = []
        for name, s in v.presets.items():
            steps, guidance = s.num_inference_steps, (s.min_guidance_scale, s.max_guidance_scale)
            tooltip = f"{steps} steps, guidance {guidance[0]} to {guidance[1]}"
            presets.append(self._preset(name, tooltip, num_inference_steps=steps, guidance=guidance))
        self.sampling.children = [self.sampling.children[0], *presets]
        self._show()
        self.marks.predict(self.request)

    def _roll_seed(self) -> None:
        self.controls["seed"].value = random.randrange(2**31)

    def _on_change(self, name: str, value: Any = None) -> None:
        c = self.controls
        with self._alert.catch(), self._catch_problems():
            if name == "variant":
                seed, fields = c["seed"].value, {"fit": c["fit"].value, "focus": self.picture.focus}
                request = with_image(Request.for_variant(value, image="-", **fields), self.picture.image)
                self.fill(request, Setup(value), is_chosen=False)
                assign(c["seed"], value=seed)
            elif name == "setup":
                self._note = ""
            elif name == "dtype":
                self._note = ""
                self.marks.offer(dataclasses.replace(self.setup, dtype=value), self.marks.is_chosen)
            elif name == "num_frames":
                chunk = c["decode_chunk_size"]
                assign(chunk, max=value, value=min(chunk.value, value))
            self._show()
            if name in _COSTS or not self.marks.is_shown:
                self.marks.is_shown = True
                self.marks.predict(self.request)

    @contextmanager
    def _catch_problems(self) -> Iterator[None]:
        """Within, an error about one of these fields is shown beside it; any other is raised."""
        for problem in self._problems.values():
            problem.tell("")
        try:
            yield
        except ValueError as error:
            problem = self._problems.get(str(error).partition("=")[0])
            if problem is None:
                raise
            problem.tell(str(error))

    def _show(self) -> None:
        seeds = self._drawn_seeds if self.controls["seed"].value.strip() == "-1" else []
        self._drawn_label.value = f'<small role="status">drawn: {", ".join(map(str, seeds))}</small>' if seeds else ""
        request, sentences = self.request, self.request.concerns()
        if request.variant == "tiny" and not _is_drawing(request.image):
            sentences.insert(0, _PHOTOGRAPH)
        if self._note:
            sentences.insert(0, self._note)
        self.concerns.value = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
        self.picture.draw(request.height, request.width)

    def _preset(self, name: str, tooltip: str, **values: Any) -> Button:
        def press() -> None:
            for control, value in values.items():
                self.controls[control].value = value

        return Button(name, tooltip, press)


def _setup_here(setup: Setup) -> Setup:
    """A saved setup without its device and, where this machine has another kind, what was chosen for that one."""
    if setup.device is None:
        return setup
    import_libraries()  # to tell the device; a prediction may be importing them too
    here, kind = dataclasses.replace(setup, device=None), setup.device.partition(":")[0]
    if kind == best_device():
        return here
    parsed = zip(setup.optimizations, setup.parsed, strict=True)
    names = tuple(text for text, (optimization, _) in parsed if optimization.phase != "placement")
    dtype = None if setup.dtype == usual_dtype(kind) else setup.dtype
    return dataclasses.replace(here, dtype=dtype, optimizations=names)


def _is_drawing(image: Any) -> bool:
    """Whether it is a bundled drawing; the bundled photographs are JPEG."""
    return isinstance(image, str) and image in EXAMPLES and EXAMPLES[image].suffix == ".png"


def _make_controls() -> dict[str, Any]:
    """The controls by name: a request's fields, its picture's sources, the setup, and how many clips, how fast."""
    models = [(f"{v.name}: {v.frames} frames, {v.width} × {v.height}", v.name) for v in VARIANTS.values()]
    # A slider that follows the pointer also writes back what the page rounds: its value is sent when it is let go.
    on_release: dict[str, Any] = {"continuous_update": False}
    controls: dict[str, Any] = {
        "example": w.Dropdown(options=[("your own", ""), *((name, name) for name in EXAMPLES)]),
        "path": w.Text(**on_release),
        "fit": w.Dropdown(options=get_args(Fit)),
        "focus_x": w.FloatSlider(min=0, max=1, step=0.01, **on_release),
        "focus_y": w.FloatSlider(min=0, max=1, step=0.01, **on_release),
        "variant": w.Dropdown(options=models),
        "setup": w.Dropdown(),
        "dtype": w.Dropdown(options=[("chosen by the device", None), *((name, name) for name in DTYPES)]),
        "motion_bucket_id": w.IntSlider(**on_release),
        "noise_aug_strength": w.FloatSlider(step=0.01, **on_release),
        "fps": w.IntSlider(**on_release),
        "num_inference_steps": w.IntSlider(**on_release),
        "guidance": w.FloatRangeSlider(step=0.1, readout_format=".1f", **on_release),
        "seed": SeedField(**on_release),
        "clips": w.BoundedIntText(value=1, min=1, max=32),
        "num_frames": w.IntSlider(**on_release),
        "width": w.IntText(step=8, **on_release),
        "height": w.IntText(step=8, **on_release),
        "decode_chunk_size": w.IntSlider(**on_release),
        "playback_fps": w.IntSlider(7, 1, 30, **on_release),
    }
    for name, control in controls.items():
        control.description, control.tooltip = TEXTS[name]
        control.layout = w.Layout(width="auto")
        if name != "clips":
            control.style = {"description_width": "7.5em"}
    return controls
