"""What runs on a Ray cluster: a worker is one process with one warm pipeline.

A worker that sees the results folder writes its rows there. Another one sends row and clip back through Ray. With a
store it puts a copy there and sends them as well.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from svdlab.atomic_files import process_name
from svdlab.machine import card_is_lost
from svdlab.rows.row import Row
from svdlab.rows.row_preview import read_preview
from svdlab.sweeps.grid import with_image
from svdlab.sweeps.make_row import RowMaker, Task
from svdlab.sweeps.picture_cache import FittedPicture


class Answer(NamedTuple):
    """What came of a task on a cluster."""

    row: Row  # without a picture in memory
    in_folder: bool
    clip: bytes | None  # the file, where it is not in the folder
    preview: bytes | None


class RayWorker:
    """One process with one warm pipeline, as Ray runs it."""

    def __init__(self, scratch: Path, store: str, quality: bool) -> None:
        self._maker, self._store = RowMaker(quality), store
        self._folder = scratch.parent if os.access(scratch, os.W_OK) and not store else None

    def start(self) -> str:
        """The name of this process, once it runs."""
        return process_name()

    def make(self, task: Task, picture: FittedPicture) -> Answer | None:
        """What came of a task; None while another writer is making it. No name in it is looked up on this machine."""
        if card_is_lost():
            os._exit(1)  # another process takes its place
        if task.trial.request.image is None:  # it had no name, and only what the model sees was sent
            task = replace(task, trial=replace(task.trial, request=with_image(task.trial.request, picture.image)))
        with nullcontext(self._folder) if self._folder else tempfile.TemporaryDirectory() as place:
            row = self._maker.make(task, picture, Path(place))
            if row is None:
                time.sleep(random.uniform(0.1, 0.4))  # it comes back soon, where nothing else is left
                return None
            if self._store:
                _upload(Path(place), self._store)
            files = (None, None) if self._folder or row.clip is None else (row.clip.read_bytes(), read_preview(row))
        return Answer(replace(row, request=with_image(row.request, None)), self._folder is not None, *files)


def _upload(place: Path, store: str) -> None:
    """Copy the files of a folder into a store, as `fetch` brings them."""
    import fsspec

    files, root = fsspec.url_to_fs(store)
    files.makedirs(root, exist_ok=True)
    for path in sorted((path for path in place.iterdir() if path.is_file()), key=_is_row):
        with files.transaction, files.open(f"{root}/{path.name}", "wb") as file:
            file.write(path.read_bytes())


def fetch(store: str, folder: Path, scratch: Path) -> None:
    """Bring what a store has and a folder has not, each file complete or not at all, a row after what it names.

    Args:
        store: an address that fsspec knows.
        folder: the results folder.
        scratch: a folder on the same disk.
    """
    import fsspec

    files, root = fsspec.url_to_fs(store)
    names = {Path(path).name for path in files.ls(root, detail=False)} if files.exists(root) else set()
    for name in sorted(map(Path, names - {path.name for path in folder.iterdir()}), key=_is_row):
        if name.suffix in (".json", ".mp4", ".webp", ".png"):
            files.get_file(f"{root}/{name}", str(scratch / name))
            (scratch / name).replace(folder / name)


def _is_row(path: Path) -> bool:
    return path.suffix == ".json"
