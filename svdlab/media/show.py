"""Clips and images in a notebook: a captioned grid that plays in step under one set of controls.

A notebook's output is a page of its own: the videos are embedded in it, so that it plays wherever the notebook is
opened, and asks nothing of the network. JupyterLab strips scripts and styles from notebooks that it does not trust.
There videos have the browser's own controls and previews play as pictures, which is why size and layout stand on the
elements themselves.
"""

from __future__ import annotations

import html
import math
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from svdlab.media.images import data_url, open_image, png_bytes
from svdlab.media.preview import Preview, preview_bytes
from svdlab.media.read_video import iterate_frames, probe, read_frames
from svdlab.media.write_video import write_video

_FPS = 7  # playback of clips that name no other, the pipeline's own default for `fps`
_CRF = 20  # a quarter smaller than at a saved file's 17, on smooth and on grainy drawn frames alike
_ROW = 960  # pixels that a row of the grid takes, about what a notebook offers beside its margins
_WIDEST, _TALLEST = 640, 480  # pixels of one cell where no width is asked for
_GAP = 12
_UNTRUSTED = (  # where scripts run, they take it away
    "<p data-untrusted><small>File, Trust Notebook brings the controls. GitHub plays no videos: "
    "nbviewer.org and JupyterLab do.</small></p>"
)
_TEMPLATE = Path(__file__).with_name("show.html")


class Shown:
    """What `show` returns: displays itself as the last line of a cell.

    Attributes:
        html: The page, which `str()` gives too.
        labels: The captions.
    """

    def __init__(self, html: str, labels: list[str]) -> None:
        self.html, self.labels = html, labels

    def __str__(self) -> str:
        return self.html

    _repr_html_ = __str__

    def __repr__(self) -> str:
        return f"Shown({', '.join(label or '…' for label in self.labels)})"


def show(
    things: Any,
    *,
    columns: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    title: str | None = None,
) -> Shown:
    """A grid of clips and images; the clips play in step, over and over, with one bar to pause, step and scrub.

    Small clips are enlarged smoothly. Clips of different lengths share one clock: the shorter ones wait on their last
    frame. Keys: space plays and pauses, ← → step a frame, Home and End.

    Args:
        things: A clip (anything with `.frames`), a path (video, GIF, WebP, folder of PNG frames, image), a PIL image,
            a `Preview`, a list of these, or `{label: thing}`, the labels becoming captions. A `Preview` is a clip in
            small, as an animated WebP: `wall` makes them of rows, and you need none of your own.
        columns: Cells in a row; up to 4 where it is left out.
        width: Of a cell in pixels; left out, what fits the page.
        fps: Playback speed of clips; that of the first clip's request where it is left out. Files always keep the speed
            that they were saved with.
        title: A line above the grid.

    Returns:
        A `Shown`, which displays itself as the last line of a cell. `html` is its page, to be written to a file;
        `labels` are its captions.

    Raises:
        ValueError: There is nothing to show, or a thing is none of these, or a path leads to no picture or video.

    Example:
        With `clip = generate(load(Setup("tiny")), Request(image="rocket"))`:
        >>> show({"calm": clip, "what the model saw": clip.picture})
        Shown(calm, what the model saw)
    """
    pairs: list[tuple[str, Any]]
    if isinstance(things, Mapping):
        pairs = [(str(label), thing) for label, thing in things.items()]
    else:
        things = things if isinstance(things, (list, tuple)) else [things]
        pairs = [(Path(thing).name if isinstance(thing, (str, Path)) else "", thing) for thing in things]
    fps = fps or next((thing.request.fps for _, thing in pairs if hasattr(thing, "request")), None)
    labelled = [(label, _cell(thing, fps)) for label, thing in pairs]
    if not labelled:
        raise ValueError("There is nothing to show: give a clip, a path, an image, a list, or {label: thing}.")
    columns = columns or min(len(labelled), 4)
    cell = width or round(min([_WIDEST, _ROW / columns - _GAP, *(_TALLEST * item.aspect for _, item in labelled)]))
    # styles that a notebook needs even when it is not trusted stand on the elements: <style> and <script> are stripped
    figures = "".join(
        f'<figure style="margin: 0; min-width: 0">{item.html(cell, html.escape(label))}'
        f'<figcaption style="margin-top: 4px; text-align: center">{html.escape(label)}</figcaption></figure>'
        for label, item in labelled
    )
    name = secrets.token_hex(8)
    caption = html.escape(title or "Clips")
    heading = f'<div style="font-weight: 600; margin-bottom: 8px">{caption}</div>' if title else ""
    line = _UNTRUSTED if any(item.count > 1 for _, item in labelled) else ""
    page = (
        f'<div class="svdlab-show" data-svdlab="{name}" role="group" aria-label="{caption}">{heading}'
        f'<div style="display: grid; grid-template-columns: repeat({columns}, minmax(0px, {cell}px)); gap: {_GAP}px">'
        f"{figures}</div>{line}</div>{_TEMPLATE.read_text(encoding='utf-8').replace('{{id}}', name)}"
    )
    return Shown(page, [label for label, _ in labelled])


def strip(clip: Any, n: int = 7, *, height: int = 120) -> Image.Image:
    """Frames of a clip side by side, from the first to the last, as an RGBA image with clear gaps.

    Args:
        clip: Anything with `.frames`.
        n: The most frames to show.
        height: Of a frame in pixels.
    """
    frames = clip.frames
    chosen = [frames[round(i * (len(frames) - 1) / max(n - 1, 1))] for i in range(min(n, len(frames)))]
    size = (round(height * frames[0].width / frames[0].height), height)
    film = Image.new("RGBA", (len(chosen) * (size[0] + 4) - 4, height))  # the gaps are clear: any theme shows through
    for place, frame in enumerate(chosen):
        film.paste(frame.convert("RGB").resize(size, Image.Resampling.LANCZOS), (place * (size[0] + 4), 0))
    return film


class _Cell:
    """One thing of the grid: frames at a speed (one frame is a still), or an MP4 or a preview to embed as it is."""

    def __init__(self, frames: Any, fps: float, data: bytes | None = None, info: Any = None) -> None:
        self.frames, self.fps, self.data = frames, fps, data
        self.count = info.frames if info else len(frames)
        self.size = (info.width, info.height) if info else frames[0].size
        self.aspect = self.size[0] / self.size[1]

    def html(self, cell: int, label: str) -> str:
        style = 'style="display: block; width: 100%; height: auto; border-radius: 8px"'
        data = self.data
        if data and data.startswith(b"RIFF"):  # a preview
            return (
                f'<img {style} src="{data_url("image/webp", data)}" width="{cell}" height="{cell / self.aspect:.0f}" '
                f'data-fps="{self.fps:g}" data-frames="{self.count}" alt="{label}">'
            )
        if self.count == 1 and data is None:
            return f'<img {style} src="{data_url("image/png", png_bytes(self._resized(cell)[0]))}" alt="{label}">'
        if data is None:
            with tempfile.TemporaryDirectory() as folder:
                data = write_video(Path(folder) / "clip.mp4", self._resized(cell), self.fps, crf=_CRF).read_bytes()
        # `src` on <video>: JupyterLab strips it from <source> where a notebook is not trusted. There it also moves what
        # begins to play, which stops it before its first frame: then the poster, a picture, moves in its place.
        poster = data_url("image/webp", preview_bytes(self.frames, self.fps))
        return (
            f'<video {style} src="{data_url("video/mp4", data)}" poster="{poster}" width="{cell}" autoplay loop muted '
            f'playsinline controls aria-label="{label}" data-fps="{self.fps:g}" data-frames="{self.count}">'
            f"{self.count} frames, which this page does not play</video>"
        )

    def _resized(self, cell: int) -> list[Image.Image]:
        """The frames at a size worth sending: up to twice the cell for sharp screens, at least the cell, even sides.

        Small clips are enlarged here by a whole factor: Lanczos is crisper than a browser's own, and H.264 halves the
        resolution of colour, which at 128x72 would show.
        """
        width, height = self.size
        scale = math.ceil(cell / width) if width < cell else min(1.0, 2 * cell / width)
        size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
        return [frame.convert("RGB").resize(size, Image.Resampling.LANCZOS) for frame in self.frames]


def _cell(thing: Any, fps: float | None) -> _Cell:
    if isinstance(thing, Image.Image):
        return _Cell([thing], _FPS)
    if isinstance(thing, Preview):
        return _Cell([], thing.fps, thing.data, thing)
    frames = getattr(thing, "frames", None)
    if frames is not None:
        return _Cell(list(frames), fps or _FPS)
    if not isinstance(thing, (str, Path)):
        raise ValueError(f"Cannot show a {type(thing).__name__}: give a clip, a path, or a PIL image.")
    path = Path(thing).expanduser()
    if path.suffix.lower() == ".mp4":
        info = probe(path)
        # what every browser plays; anything else is encoded anew, 10 bits and unhalved colours too
        if info.codec == "h264" and info.pixel_format in ("yuv420p", "yuvj420p") and info.frames:
            return _Cell(iterate_frames(path), info.fps, path.read_bytes(), info)
    elif path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
        return _Cell([open_image(path)], _FPS)
    return _Cell(*read_frames(path))
