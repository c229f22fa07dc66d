"""One trial to one row: generate the clip, measure it, save both.

Whatever a library raises on the way becomes a row that failed and says why. An error of the disk does not: no row could
be written then.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import svdlab
from svdlab.generation.generate import generate
from svdlab.machine import Machine
from svdlab.media.images import image_sha256
from svdlab.messages import describe_error
from svdlab.pipelines.cached import load_cached
from svdlab.pipelines.load import setup_of
from svdlab.pipelines.pipeline_lock import exclusive
from svdlab.pipelines.shared_encodings import shared
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, write_row
from svdlab.rows.row_key import row_key
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.locks import claim, is_contested
from svdlab.sweeps.pictures import FittedPicture, PictureCache

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    from svdlab.generation.clip import OnStep


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
        pipeline: As `load` gives it.
        trial: What to make.
        folder: The results folder, which must exist.
        picture: The request's image as the model sees it; default: read here.
        quality: Whether to measure the clip.
        on_step: As for `generate`.
    """
    fitted = FittedPicture(picture, image_sha256(picture)) if picture else PictureCache().fitted(trial.request)
    row = _new_row(trial, setup_of(pipeline) or trial.setup, fitted)
    with claim(folder, row.key) as scratch:
        return _make(pipeline, row, fitted, folder, scratch, quality, on_step, {})


@dataclass(frozen=True)
class Task:
    """A trial whose row is to be made by a sweep."""

    key: str  # of the row, as far as it can be told before the weights are loaded
    trial: Trial
    replaces: str | None = None  # when the failed row was created that the new one replaces


class RowMaker:
    """Makes rows one after another. It keeps the pipeline of the last setup, and what its trials share."""

    def __init__(self) -> None:
        self._setup: Setup | None = None
        self._pipeline: StableVideoDiffusionPipeline | None = None
        self._load_error = ""
        self._encodings: dict[str, Any] = {}

    def warm(self, setup: Setup) -> bool:
        """Load the pipeline of a setup; False where it was loaded. If it fails, `make` gives failed rows.

        Args:
            setup: How the model runs.
        """
        if setup == self._setup:
            return False
        self._setup, self._pipeline, self._load_error, self._encodings = setup, None, "", {}
        try:
            self._pipeline = load_cached(setup)
        except Exception as error:  # of any library below: the other setups go on
            self._load_error = describe_error(error)
        return True

    def make(
        self, task: Task, picture: FittedPicture, folder: Path, *, quality: bool = True, on_step: OnStep | None = None
    ) -> Row | None:
        """The row of a task, made by this writer or by another one; None while another writer is making it.

        Args:
            task: What to make.
            picture: What the model sees.
            folder, quality, on_step: As for `make_row`.
        """
        self.warm(task.trial.setup)
        setup = task.trial.setup if self._pipeline is None else setup_of(self._pipeline) or task.trial.setup
        row = _new_row(task.trial, setup, picture, task.key if setup.revision == task.trial.setup.revision else "")
        with claim(folder, row.key) as scratch:
            if is_contested(scratch):
                return None
            if (finished := find_row(folder, row.key, warn=False)) and finished.created != task.replaces:
                return finished
            if self._pipeline is None:
                return write_row(dataclasses.replace(row, status="failed", error=self._load_error), folder, scratch)
            return _make(self._pipeline, row, picture, folder, scratch, quality, on_step, self._encodings)


def _make(
    pipeline: StableVideoDiffusionPipeline,
    row: Row,
    picture: FittedPicture,
    folder: Path,
    scratch: Path,
    quality: bool,
    on_step: OnStep | None,
    encodings: dict[str, Any],
) -> Row:
    try:
        with exclusive(pipeline), shared(pipeline, encodings):
            clip = generate(pipeline, row.request, on_step=on_step, progress=False, picture=picture.image)
    except Exception as error:  # of any library below: it becomes the row
        return write_row(dataclasses.replace(row, status="failed", error=describe_error(error)), folder, scratch)
    timings, notes, measured = dict(clip.timings), list(clip.notes), None
    if quality:
        from svdlab.quality.assess import assess

        started = time.perf_counter()
        try:
            measured = assess(clip)
        except Exception as error:  # the clip itself is complete, and took longer to make
            notes.append(f"Its quality could not be measured: {describe_error(error)}")
        timings["quality_seconds"] = time.perf_counter() - started
    if not scratch.is_dir():  # saving would make the folder again
        raise FileNotFoundError(f"{folder} was deleted or renamed while a clip was made for it.")
    started = time.perf_counter()
    file = clip.save(scratch / f"{row.key}.mp4")
    timings["save_seconds"] = time.perf_counter() - started
    row = dataclasses.replace(row, timings=timings, quality=measured, notes=tuple(notes))
    return write_row(row, folder, scratch, file)


def _new_row(trial: Trial, setup: Setup, picture: FittedPicture, key: str = "") -> Row:
    return Row(
        key=key or row_key(setup, trial.request, picture.sha256),
        setup=setup.resolved(),
        request=trial.request,
        axes=trial.axes,
        picture_sha256=picture.sha256,
        machine=Machine.here(),
        created=datetime.now(timezone.utc).isoformat(),
        version=svdlab.__version__,
    )


def failed_row(task: Task, picture: FittedPicture, reason: str) -> Row:
    """The row of a task that could not be made.

    Args:
        task: What was to be made.
        picture: What the model was to see.
        reason: Why, in one sentence.
    """
    row = _new_row(task.trial, task.trial.setup, picture, task.key)
    return dataclasses.replace(row, status="failed", error=reason)
