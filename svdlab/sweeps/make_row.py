"""One trial to one row: generate the clip, measure it, save both."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import svdlab
from svdlab.generation.generate import generate
from svdlab.machine import Machine
from svdlab.media.images import image_sha256
from svdlab.pipelines.load import setup_of
from svdlab.request import Request, conditioning
from svdlab.rows.row import Row
from svdlab.rows.row_files import write_row
from svdlab.rows.row_key import row_key
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

    from svdlab.generation.clip import OnStep
from svdlab.messages import describe_error
from svdlab.pipelines.shared_encodings import make_room
from svdlab.sweeps.locks import claim


def make_row(
    pipeline: StableVideoDiffusionPipeline,
    trial: Trial,
    folder: Path,
    *,
    pictures: Pictured | None = None,
    quality: bool = True,
    on_step: OnStep | None = None,
    scratch: Path | None = None,
) -> Row:
    """The row of one trial on a loaded pipeline, in `folder` with its clip; where it failed, the row that says why."""
    pictures = pictures or Pictures()
    row = _draft(trial, setup_of(pipeline) or trial.setup, pictures)
    with nullcontext(scratch) if scratch else claim(folder, row.key) as scratch:
        try:
            picture, _ = pictures(trial.request)
            clip = generate(pipeline, trial.request, on_step=on_step, progress=False, picture=picture)
        except Exception as error:  # of any library below: it becomes the row
            return write_row(_failed(row, describe_error(error)), folder, scratch)
        timings, notes, measured = dict(clip.timings), list(clip.notes), None
        if quality:
            from svdlab.quality.assess import assess

            with _timed(timings, "quality_seconds"):
                try:
                    measured = assess(clip)
                except Exception as error:  # the clip itself is whole, and took longer to make
                    notes.append(f"Its quality could not be measured: {describe_error(error)}")
        with _timed(timings, "save_seconds"):
            file = clip.save(scratch / f"{row.key}.mp4")
        row = dataclasses.replace(row, timings=timings, quality=measured, notes=tuple(notes))
        return write_row(row, folder, scratch, file)


Pictured = Callable[[Request], tuple[Image.Image, str]]


class Pictures:
    """`pictures(request)`: the picture as the model sees it and its digest, read once for all that ask for the same."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, Image.Image, str]] = {}

    def __call__(self, request: Request) -> tuple[Image.Image, str]:
        source = request.image if isinstance(request.image, str) else id(request.image)
        asked = (source, request.height, request.width, request.fit, request.focus)
        if asked not in self._known:
            picture = conditioning(request)
            make_room(self._known)
            self._known[asked] = request.image, picture, image_sha256(picture)  # held, so that its id stays its own
        return self._known[asked][1:]


def _draft(trial: Trial, setup: Setup, pictures: Pictured) -> Row:
    """The row of a trial before there is an answer."""
    _, digest = pictures(trial.request)
    return Row(
        key=row_key(setup, trial.request, digest),
        setup=setup.resolved(),
        request=trial.request,
        axes=trial.axes,
        picture_sha256=digest,
        machine=Machine.here(),
        created=datetime.now(timezone.utc).isoformat(),
        version=svdlab.__version__,
    )


def _failed(row: Row, reason: str) -> Row:
    return dataclasses.replace(row, status="failed", error=reason)


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started
