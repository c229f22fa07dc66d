"""One trial to one row: generate the clip, measure it, save both.

Whatever a library raises on the way becomes a row that failed and says why, and whether the failure is temporary. An
error of the disk that rows are on does not: no row could be written then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import svdlab
from svdlab.generation.generate import generate
from svdlab.machine import Machine
from svdlab.media.images import image_sha256
from svdlab.media.preview import preview_bytes
from svdlab.messages import describe_error
from svdlab.pipelines.load import is_temporary, setup_of
from svdlab.pipelines.pipeline_cache import load_cached
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, write_row
from svdlab.rows.row_key import row_key
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.locks import claim, is_contested
from svdlab.sweeps.picture_cache import FittedPicture, PictureCache

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    from svdlab.generation.clip import Clip, OnStep


@dataclass(frozen=True)
class Task:
    """A trial whose row is to be made by a sweep."""

    key: str  # of the row, as far as it can be told before the weights are loaded
    trial: Trial
    replaces: str | None = None  # when the failed row was created that the new one replaces


class RowMaker:
    """Makes rows one after another. It keeps the pipeline of the last setup."""

    def __init__(
        self, quality: bool = True, on_step: OnStep | None = None, pipeline: StableVideoDiffusionPipeline | None = None
    ) -> None:
        self._quality, self._on_step = quality, on_step
        self._setup: Setup | None = None
        self._pipeline = pipeline
        self._load_failure: dict[str, Any] = {}

    def warm(self, setup: Setup) -> bool:
        """Load the pipeline of a setup; False where it was loaded. If it fails, `make` gives failed rows."""
        if setup == self._setup:
            return False
        self._setup, self._pipeline = setup, None
        try:
            self._pipeline = load_cached(setup)
        except Exception as error:  # of any library below: the other setups go on
            self._load_failure = _failure(error, setup)
        return True

    def make(self, task: Task, picture: FittedPicture, folder: Path) -> Row | None:
        """The row of a task, made by this writer or by another one; None while another writer is making it."""
        trial = task.trial
        self.warm(trial.setup)
        setup = (self._pipeline and setup_of(self._pipeline)) or trial.setup
        row = _new_row(trial, setup, picture, task.key if setup.revision == trial.setup.revision else "")
        with claim(folder, row.key) as scratch:
            if is_contested(scratch):
                return None
            if (finished := find_row(folder, row.key, warn=False)) and finished.created != task.replaces:
                return finished
            return self.fill(row, picture, scratch)

    def fill(self, row: Row, picture: FittedPicture, scratch: Path) -> Row:
        """Make the clip of a row, and write both into the folder that `scratch`, the claim of its key, lies in."""
        folder = scratch.parent
        if self._pipeline is None:
            return write_row(replace(row, **self._load_failure), folder, scratch)
        try:
            options: Any = {"on_step": self._on_step, "progress": False, "picture": picture.image}
            clip = generate(self._pipeline, row.request, **options)
        except Exception as error:  # of any library below: it becomes the row
            return write_row(replace(row, **_failure(error, row.setup)), folder, scratch)
        done = replace(row, timings=clip.timings, notes=tuple(clip.notes))
        if self._quality:
            with suppress(OSError, MemoryError):  # the row goes without, and is measured later, from its file
                done = _with_quality(done, lambda: clip)
        if not scratch.is_dir():  # saving would make the folder again
            raise FileNotFoundError(f"{folder} was deleted or renamed while a clip was made for it.")
        started = time.perf_counter()
        try:
            file, preview = clip.save(scratch / f"{row.key}.mp4"), preview_bytes(clip.frames, row.request.fps)
        except ValueError as error:  # of this clip; what the disk raises would meet every other one too
            return write_row(replace(row, **_failure(error, row.setup)), folder, scratch)
        done = replace(done, timings=done.timings | {"save_seconds": time.perf_counter() - started})
        return write_row(done, folder, scratch, file, preview)


def make_row(
    pipeline: StableVideoDiffusionPipeline,
    trial: Trial,
    folder: Path,
    *,
    picture: Image.Image | None = None,
    quality: bool = True,
    on_step: OnStep | None = None,
) -> Row:
    """Make the clip of one trial on a loaded pipeline, and its row; a row that failed, where the clip cannot be made.

    Args:
        pipeline: as `load` gives it.
        trial: what to make.
        folder: the results folder, which must exist.
        picture: the request's image as the model sees it; default: read here.
        quality: measure the clip.
        on_step: as for `generate`.
    """
    fitted = FittedPicture(picture, image_sha256(picture)) if picture else PictureCache().fitted(trial.request)
    row = _new_row(trial, setup_of(pipeline) or trial.setup, fitted)
    with claim(folder, row.key) as scratch:
        return RowMaker(quality, on_step, pipeline).fill(row, fitted, scratch)


def is_measurable(row: Row) -> bool:
    """Whether a row has a clip whose quality nobody tried to measure."""
    return row.clip is not None and row.quality is None and "quality_seconds" not in row.timings


def measure_row(row: Row, folder: Path) -> Row | None:
    """A row with the quality of its clip, written in its old place; None while another writer has its key.

    The frames are those of the file, which loses a little: a note says so. Where the disk or the memory fails, the row
    stays as it was, and the OSError or MemoryError is raised.

    Args:
        row: one that `is_measurable`.
        folder: the results folder, which the row is in.
    """
    with claim(folder, row.key) as scratch:
        if is_contested(scratch):
            return None
        current = find_row(folder, row.key, warn=False)
        if current is None or not is_measurable(current):  # somebody deleted it, or was faster
            return current or row
        measured = _with_quality(current, current.open)
        if measured.quality:
            measured = replace(measured, notes=(*measured.notes, "Its quality was measured from its video file."))
        if find_row(folder, row.key, warn=False) != current:  # deleted meanwhile, which it stays
            return current
        return write_row(measured, folder, scratch)


def failed_row(task: Task, picture: FittedPicture, reason: str) -> Row:
    """The row of a task that could not be made.

    Args:
        task: what was to be made.
        picture: what the model was to see.
        reason: one sentence.
    """
    row = _new_row(task.trial, task.trial.setup, picture, task.key)
    return replace(row, status="failed", error=reason)


def _with_quality(row: Row, open_clip: Callable[[], Clip]) -> Row:
    """A row with the quality of its clip; where that fails, a note says why, since the clip itself is complete.

    What the disk or the memory fails at is raised: another time it may do.
    """
    from svdlab.quality.assess import assess

    started = time.perf_counter()
    try:
        row = replace(row, quality=assess(open_clip()))
    except Exception as error:
        cause = error.__cause__ or error  # a video that the disk does not give is a ValueError of `read`
        if isinstance(cause, OSError | MemoryError):
            raise cause from None
        row = replace(row, notes=(*row.notes, f"Its quality could not be measured: {describe_error(error)}"))
    return replace(row, timings=row.timings | {"quality_seconds": time.perf_counter() - started})


def _failure(error: Exception, setup: Setup) -> dict[str, Any]:
    return {"status": "failed", "error": describe_error(error), "temporary": is_temporary(error, setup)}


def _new_row(trial: Trial, setup: Setup, picture: FittedPicture, key: str = "") -> Row:
    return Row(
        key=key or row_key(setup, trial.request, picture.sha256),
        setup=setup.resolved(),
        request=trial.request,
        axes=trial.axes,
        picture_sha256=picture.sha256,
        machine=Machine.here(setup.device),
        created=datetime.now(UTC).isoformat(),
        version=svdlab.__version__,
    )
