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
from dataclasses import dataclass, replace
from pathlib import Path

from svdlab.machine import card_is_lost
from svdlab.rows.row import Row
from svdlab.sweeps.grid import with_image
from svdlab.sweeps.locks import process_name
from svdlab.sweeps.make_row import RowMaker, Task
from svdlab.sweeps.pictures import FittedPicture


@dataclass(frozen=True)
class Answer:
    """What came of a task on a cluster."""

    row: Row | None  # without a picture in memory; None where the task left none
    in_folder: bool = False
    clip: bytes | None = None  # the file, where it is not in the folder
    error: str = ""  # why there is no row


class RayWorker:
    """One process with one warm pipeline, as Ray runs it."""

    def __init__(self, scratch: Path, store: str) -> None:
        self.maker, self.store = RowMaker(), store
        self.folder = scratch.parent if os.access(scratch, os.W_OK) and not store else None

    def start(self) -> str:
        """The name of this process, once it runs."""
        return process_name()

    def make(self, task: Task, picture: FittedPicture, quality: bool) -> Answer | None:
        """What came of a task; None while another writer is making it.

        Args:
            task: What to make. No name in its request is looked up on this machine.
            picture: What the model sees.
            quality: Whether to measure the clip.
        """
        if card_is_lost():
            os._exit(1)  # Ray starts another process
        if task.trial.request.image is None:  # it had no name, and only what the model sees was sent
            task = replace(task, trial=replace(task.trial, request=with_image(task.trial.request, picture.image)))
        with nullcontext(self.folder) if self.folder else tempfile.TemporaryDirectory() as place:
            row = self.maker.make(task, picture, Path(place), quality=quality)
            if row is None:
                time.sleep(random.uniform(0.1, 0.4))  # it comes back soon, where nothing else is left
                return None
            if self.store:
                _put(Path(place), self.store)
            clip = None if self.folder or row.clip is None else row.clip.read_bytes()
        return Answer(replace(row, request=with_image(row.request, None)), self.folder is not None, clip)


def _put(place: Path, store: str) -> None:
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
        store: An address that fsspec knows.
        folder: The results folder.
        scratch: A folder on the same disk.
    """
    import fsspec

    files, root = fsspec.url_to_fs(store)
    names = {Path(path).name for path in files.ls(root, detail=False)} if files.exists(root) else set()
    for name in sorted(map(Path, names - {path.name for path in folder.iterdir()}), key=_is_row):
        if name.suffix in (".json", ".mp4", ".png"):
            files.get_file(f"{root}/{name}", str(scratch / name))
            (scratch / name).replace(folder / name)


def _is_row(path: Path) -> bool:
    return path.suffix == ".json"
