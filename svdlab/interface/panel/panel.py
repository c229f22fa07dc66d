"""A panel under a cell, to try things by hand: every knob with its help, a button, the clip, and the Python for it.

>>> tried = panel()
>>> tried  # choose, press Generate; then go on in Python:
>>> tried.clips[-1].save("best.mp4")

Clips are made in a thread, so that the page and the other cells stay free; each leaves a row and an MP4 in a folder.
"""

from __future__ import annotations

import base64
import dataclasses
import random
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from svdlab.generation.clip import Clip, read
from svdlab.generation.preview import preview_frames
from svdlab.headless.run_notebooks import results_folder
from svdlab.interface.panel.controls import (
    MOTION,
    asked,
    button,
    classed,
    controls,
    figure,
    fill,
    output,
    row,
    small,
    w,
)
from svdlab.interface.recipe import apart, named, recipe
from svdlab.media import images
from svdlab.media.encode import data_url
from svdlab.media.images import fit_image, open_image
from svdlab.media.show import show, strip
from svdlab.messages import describe_error
from svdlab.pipelines.cached import free_memory, load_cached
from svdlab.prediction.cards import this_card
from svdlab.prediction.fitting import candidates
from svdlab.request import Request, quiet_requests
from svdlab.rows.row import Row
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial, with_image
from svdlab.sweeps.make_row import make_row
from svdlab.variants import variant

if TYPE_CHECKING:
    import torch

    from svdlab.prediction.cards import Card
    from svdlab.prediction.estimate import Estimate

_TEMPLATE = Path(__file__).parents[1] / "templates" / "panel.html"
_PREVIEW_SECONDS = 1  # between two previews at least: each holds up denoising, by 80 ms for svd-xt on one busy core
_GIF_BYTES = 8_000_000  # what a page carries with ease, and most messengers take
_ALONE = threading.Lock()  # one clip at a time in all panels, and no prediction beside it


def panel(setup: Setup | None = None, request: Request | None = None, *, results: str | Path | None = None) -> Panel:
    """Controls for one clip after another, live while they are made; shown as the last expression of a cell.

    It opens on `setup` (the bundled model: nothing to download) and `request` (its defaults, on the rocket). Clips go
    to `results` with their rows (left out: `results/panel`, as for notebooks), for `svdlab.sweeps.rows.load` to find.
    Loads no torch before a page shows it, and no weights before Generate is pressed. Needs ipywidgets, for a page in
    JupyterLab, VS Code or Colab.
    """
    return Panel(setup, request or Request(image="rocket"), results)


class Panel(w.VBox):
    """What `panel` returns. `request` and `setup` are what the controls say now; `rows` and `clips` what was made in
    this session, oldest first. `generate()` and `cancel()` are the buttons, `restore(path)` is naming a file."""

    def __init__(self, setup: Setup | None, request: Request, results: str | Path | None = None) -> None:
        self.rows: list[Row] = []
        self.clips: list[Clip] = []
        self.results = results
        self.worker: threading.Thread | None = None  # that makes the clip
        self.predictor: threading.Thread | None = None  # that tells what setups will need
        self._setups: list[Setup] = []  # as they were asked for: a row's has everything filled in
        self._lock, self._quiet, self._predictions, self._seen = threading.RLock(), 0, 0, False
        self._cancelled, self._shown_at, self._began = threading.Event(), 0.0, 0.0

        self.controls = controls()
        self.picture, self.fits, self.concerns, self.alert, self.progress = (w.HTML() for _ in range(5))
        self.preview, self.files, self.code, self.player = w.HTML(), w.HTML(), w.HTML(), w.Output()
        self.go = button("Generate", "Make the clip", self.generate, "primary")
        self.stop = button("Cancel", "Stop within a step, and free what the clip took", self.cancel)
        self.gif = button("Make a GIF", "A GIF to download", self._make_gif)
        self.stop.disabled, self.gif.layout.display = True, "none"
        self.sampling, self.history = row("Sampling"), classed(w.Box(), "history")
        self.dropped = classed(w.Text(continuous_update=False), "dropped")  # hidden: the page writes to it
        name = secrets.token_hex(8)
        super().__init__(self._laid_out(output(_TEMPLATE.read_text(encoding="utf-8").replace("{{id}}", name))))
        classed(self, "panel", name)

        start = setup or Setup(request.variant or "tiny")
        self._fill(request.filled(start.variant), start, chosen=setup is not None)
        for key, control in {**self.controls, "dropped": self.dropped}.items():
            control.observe(lambda change, key=key: self._changed(key, change["new"]), "value")

    def _laid_out(self, script: Any) -> list[w.Widget]:
        c = self.controls
        dice = button("", "Another seed", lambda: self._set(seed=_dice()), icon="random")
        motion = [
            self._preset(
                name, f"Bucket {bucket}, noise strength {noise}", motion_bucket_id=bucket, noise_aug_strength=noise
            )
            for name, (bucket, noise) in MOTION.items()
        ]
        left = [self.picture, *(c[name] for name in ("example", "path", "upload", "fit", "focus_x", "focus_y"))]
        right = [c["variant"], c["setup"], classed(self.fits, "fits"), row("Motion", *motion)]
        right += [c["motion_bucket_id"], c["noise_aug_strength"], c["fps"], self.sampling, c["num_inference_steps"]]
        right += [c["guidance"], classed(w.HBox([c["seed"], dice, c["lock"]]), "seed"), c["decode_chunk_size"]]
        right += [c["playback_fps"], classed(self.concerns, "concerns")]
        columns = [classed(w.VBox(left), "picture"), classed(w.VBox(right), "knobs")]
        bar = classed(w.HBox([self.go, self.stop, self.progress]), "go")
        files = classed(w.HBox([self.files, self.gif]), "files")
        hidden = w.VBox([self.dropped, w.Output(outputs=script)], layout=w.Layout(display="none"))
        top = classed(w.Box(columns), "top")
        return [top, bar, self.alert, self.preview, self.player, files, self.code, self.history, hidden]

    # --- what the controls say ---------------------------------------------------------------------------------------

    @property
    def setup(self) -> Setup:
        return self.controls["setup"].value

    @property
    def request(self) -> Request:
        fields = self._kept | asked(self.controls)
        if self._kept["sigmas"] and len(self._kept["sigmas"]) != fields["num_inference_steps"]:
            fields["sigmas"] = None
        with quiet_requests():  # said under the controls
            return with_image(Request.for_variant(self.controls["variant"].value, image="-", **fields), self._image)

    def restore(self, path: str | Path) -> None:
        """Bring back the settings of the clip that was saved at `path`."""
        saved = read(path)
        self._fill(saved.request, saved.setup or Setup(saved.request.variant or "svd-xt"))

    def _fill(self, request: Request, setup: Setup, chosen: bool = True) -> None:
        """Let the controls say this; a setup that nobody has `chosen` may give way to one that fits."""
        self._picture, self._image, self._chosen = open_image(request.image), request.image, chosen
        self._kept = {name: getattr(request, name) for name in ("height", "width", "num_frames", "sigmas")}
        with self._quietly():
            fill(self.controls, request)
            self.controls["setup"].options, self.controls["setup"].value = [(named(setup), setup)], setup
            self._name()
        sampling = [self.sampling.children[0]]
        for name, s in variant(setup.variant).presets.items():
            guidance = s.min_guidance_scale, s.max_guidance_scale
            said = f"{s.num_inference_steps} steps, guidance {guidance[0]} to {guidance[1]}"
            sampling.append(self._preset(name, said, num_inference_steps=s.num_inference_steps, guidance=guidance))
        self.sampling.children = sampling
        self._draw()
        self._predict()

    def _changed(self, name: str, value: Any) -> None:
        """A control was moved, by a hand or from Python."""
        if self._quiet == threading.get_ident() or value in ("", (), {}):
            return
        if not self._seen:
            self._seen = True
            self._predict()
        with self._told():
            if name == "variant":
                kept = {name: asked(self.controls)[name] for name in ("seed", "fit", "focus")}
                fresh = Request.for_variant(value, image="-", **kept)
                self._fill(with_image(fresh, self._image), Setup(value), chosen=False)
            elif name in ("example", "path"):
                self._open(value, value)
            elif name == "upload":
                file = next(iter(value.values() if isinstance(value, dict) else value))  # a dict before ipywidgets 8
                if isinstance(value, tuple):  # so that the same file may come again
                    self.controls["upload"].value = ()
                self._open(bytes(file["content"]), file["name"] if "name" in file else file["metadata"]["name"])
            elif name == "dropped":
                self.dropped.value = ""
                if value == "shown":
                    return
                given, _, data = value.partition("|")
                if not data:
                    raise ValueError(f"{given!r} has over 7 MB, more than can be dropped here: type its path instead.")
                self._open(base64.b64decode(data.partition(",")[2]), given)
            elif name == "setup":
                self._chosen = True
            elif name == "decode_chunk_size":
                self._predict()
            elif name == "playback_fps":
                self._show()
            self._draw(name in ("fit", "focus_x", "focus_y"))

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Set controls without this counting as a hand's change."""
        with self._lock:
            self._quiet = threading.get_ident()
            try:
                yield
            finally:
                self._quiet = 0

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
        self._picture = open_image(source)
        self._image = source if isinstance(source, str) else self._picture
        with self._quietly():
            self._name()
        return self._draw()

    def _name(self) -> None:
        source = self._image if isinstance(self._image, str) else ""
        bundled = source in images.EXAMPLES
        self.controls["example"].value, self.controls["path"].value = (source, "") if bundled else ("", source)

    def _draw(self, picture: bool = True) -> None:
        """The picture as the model will see it, and what there is to say of the settings."""
        r = self.request
        self.concerns.value = "".join(f"<p>{escape(sentence)}</p>" for sentence in r.concerns())
        if picture:
            seen = fit_image(self._picture, r.height, r.width, r.fit, r.focus)
            self.picture.value = figure(seen, f"{r.width} × {r.height}, as the model will see it")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            self.controls[name].value = value

    def _preset(self, name: str, help: str, **values: Any) -> w.Button:
        return button(name, help, lambda: self._set(**values))

    # --- what setups will need ---------------------------------------------------------------------------------------

    def _predict(self) -> None:
        """Mark the setups that fit, once that is known; the latest question counts. Not before a page shows the panel:
        a notebook that runs without one has no use for it."""
        if not self._seen:
            return
        self._predictions += 1
        self.fits.value = small("predicting memory and time…")
        question = self._predictions, self.setup, self.request
        self.predictor = threading.Thread(target=self._mark, args=question)
        self.predictor.start()

    def _mark(self, number: int, setup: Setup, request: Request) -> None:
        with _ALONE:
            if number != self._predictions:
                return
            try:
                from svdlab.machine import Machine
                from svdlab.prediction import fitting
                from svdlab.prediction.estimate import estimate

                plain, card = dataclasses.replace(setup, optimizations=()), this_card()
                found = {e.setup: e for e in (*candidates(plain, request), estimate(setup, request))}
                memory = card.memory_bytes if card else Machine.here().memory_bytes or 0
            except Exception as error:  # a prediction is a help, no condition
                self.fits.value = small(f"No prediction: {describe_error(error, where=False)}")
                return
        with self._quietly():
            if number != self._predictions:
                return
            now, control = self.setup, self.controls["setup"]
            fitting = [one for one, e in found.items() if e.fits(memory)]
            keep = self._chosen or now in fitting or not fitting
            said = {one: _predicted(e, memory, card) for one, e in found.items()}
            control.options = [(text, one) for one, text in ({now: named(now)} | said).items()]
            control.value = now if keep else fitting[0]
        self.fits.value = small(f"✓ fits the {memory / 2**30:.1f} GiB of {card.name if card else 'this machine'}")

    # --- one clip ----------------------------------------------------------------------------------------------------

    def generate(self) -> None:
        """Begin to make what the controls say; it goes on in `worker`, a thread."""
        with self._told():
            if self.go.disabled:
                raise RuntimeError("One clip at a time: wait for the one that is being made, or cancel it.")
            if not self.controls["lock"].value:
                self.controls["seed"].value = _dice()
            self.worker = threading.Thread(target=self._work, args=(Trial(self.setup, self.request),))
            self._cancelled.clear()
            self.go.disabled, self.stop.disabled = True, False
            self.worker.start()

    def cancel(self) -> None:
        """Stop within the step that is being made. The model stays loaded, and fit for the next clip."""
        self._cancelled.set()
        self.stop.disabled = True

    def _work(self, trial: Trial) -> None:
        ended = ""
        with self._told():
            try:
                self._say("waiting for what else is running…")
                with _ALONE:
                    made = self._made(trial)
                if made.error:
                    raise RuntimeError(made.error)
                self._add(made, trial.setup)
                ended = f"made in {sum(made.timings.values()):.1f} s"
            except _Cancelled:
                ended = "cancelled"
        self.preview.value = ""
        free_memory()
        self._say(ended)
        self.go.disabled, self.stop.disabled = False, True

    def _made(self, trial: Trial) -> Row:
        self._go_on()
        self._say(f"loading {trial.setup.variant}…")
        pipeline, total, decoded = load_cached(trial.setup), trial.request.num_frames, 0
        self._go_on()
        self._say("encoding the picture…")
        self._shown_at = self._began = 0.0

        def stepped(answer: Any) -> None:
            if time.monotonic() - self._shown_at > _PREVIEW_SECONDS:
                self._shown_at = time.monotonic()
                frames = preview_frames(answer.pred_original_sample, trial.setup.variant)
                film = strip(SimpleNamespace(frames=frames), len(frames), height=90)
                self.preview.value = figure(film, "What the model expects by now, from first frame to last", 960)

        def chunked(answer: Any) -> None:
            nonlocal decoded
            self._go_on()
            decoded += len(answer.sample)
            self._say(f"decoded {decoded} of {total} frames" if decoded < total else "measuring and saving…")

        with _after(pipeline.scheduler, "step", stepped), _after(pipeline.vae, "decode", chunked):
            return make_row(pipeline, trial, results_folder(self.results or "", "panel"), on_step=self._step)

    def _step(self, done: int, total: int, _: torch.Tensor) -> None:
        self._go_on()
        now = time.monotonic()
        self._began = self._began or now  # the first step may compile, and tells nothing of the others
        left = f", about {(now - self._began) / (done - 1) * (total - done):.0f} s left" if 1 < done < total else ""
        bar = f'<progress max="{total}" value="{done}" aria-label="Steps done"></progress> '
        self._say(f"step {done} of {total}{left}" if done < total else "decoding…", bar)

    def _go_on(self) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def _say(self, text: str, bar: str = "") -> None:
        self.progress.value = f'{bar}<span role="status">{escape(text)}</span>'

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong within is told in the panel, as one sentence."""
        self.alert.value = ""
        try:
            yield
        except Exception as error:  # of any library below
            self.alert.value = f'<div role="alert">{escape(describe_error(error, where=False))}</div>'

    # --- what was made -----------------------------------------------------------------------------------------------

    def _add(self, made: Row, setup: Setup) -> None:
        """Into the history, and on the stage."""
        clip, number = made.open(), len(self.rows) + 1
        self.rows.append(made)
        self.clips.append(clip)
        self._setups.append(setup)
        said = f"{number}: bucket {made.request.motion_bucket_id}, seed {made.request.seed}"
        tick = w.Checkbox(description=f"Show clip {number}", indent=False, layout=w.Layout(width="auto"))
        tick.tooltip = "Two or more that are ticked play side by side, in step"
        tick.observe(lambda _: self._show(), "value")
        back = button("Restore", f"Bring back the settings of clip {number}", lambda: self._fill(made.request, setup))
        with self._quietly():
            for _, other, _ in (card.children for card in self.history.children):
                other.value = False
        look = w.HTML(figure(clip.frames[-1], said, 160))
        self.history.children = (*self.history.children, w.VBox([look, tick, back]))
        self._show()

    def _show(self) -> None:
        """The ticked clips side by side; one alone, or else the latest, with its files and its code."""
        if not self.rows or self._quiet == threading.get_ident():
            return
        shown = [i for i, card in enumerate(self.history.children) if card.children[1].value] or [len(self.rows) - 1]
        labels, fps = apart([self.rows[i] for i in shown]), self.controls["playback_fps"].value
        clips = {f"{i + 1}: {label}": self.clips[i] for i, label in zip(shown, labels, strict=True)}
        self.player.outputs = output(show(clips, fps=fps).html)
        self._shown, alone = shown[0], len(shown) == 1
        self.gif.layout.display = "" if alone else "none"
        self.files.value = f"{self._link('.mp4')}, saved as {escape(str(self.rows[shown[0]].clip))}" if alone else ""
        text = recipe(self.rows[shown[0]], self._setups[shown[0]], fps)
        copy = '<button type="button" class="jupyter-button" title="To paste into a cell">Copy</button>'
        block = f"<details open><summary>The Python for this clip</summary><pre>{escape(text)}</pre>{copy}</details>"
        self.code.value = block if alone else ""

    def _make_gif(self) -> None:
        with self._told():
            self.files.value += "<br>" + self._link(".gif", max_bytes=_GIF_BYTES)
            self.gif.layout.display = "none"

    def _link(self, suffix: str, **options: Any) -> str:
        """What downloads the clip on the stage, at the playback speed."""
        with tempfile.TemporaryDirectory() as folder:
            path, fps = Path(folder) / f"clip{suffix}", self.controls["playback_fps"].value
            data = self.clips[self._shown].save(path, fps, **options).read_bytes()
        name, said = f"{self.rows[self._shown].key}{suffix}", f"Download {suffix[1:].upper()}, {len(data) / 1e6:.2f} MB"
        return (
            f'<a download="{name}" href="{data_url("video/mp4" if suffix == ".mp4" else "image/gif", data)}">{said}</a>'
        )


class _Cancelled(BaseException):
    """Raised within a step. Not an `Exception`, or a row would be kept that failed."""


def _predicted(e: Estimate, memory: int, card: Card | None) -> str:
    seconds = f", {e.seconds(card).expected:,.0f} s" if card else ""
    return f"{'✓' if e.fits(memory) else '✗'} {named(e.setup)}: {e.needed_bytes / 2**30:.1f} GiB{seconds}"


@contextmanager
def _after(thing: Any, name: str, see: Callable[[Any], None]) -> Iterator[None]:
    """Within, `see` is shown what the method answers; what it raises ends the clip."""
    method, own = getattr(thing, name), vars(thing).get(name)

    def watched(*values: Any, **named: Any) -> Any:
        answer = method(*values, **named)
        see(answer)
        return answer

    setattr(thing, name, watched)
    try:
        yield
    finally:
        delattr(thing, name) if own is None else setattr(thing, name, own)


def _dice() -> int:
    return random.randrange(2**31)
