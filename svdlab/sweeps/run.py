"""Sweeps: many clips that differ in a few knobs, made once, in any number of sittings.

>>> trials = grid(Setup("tiny"), Request(image="rocket"), motion_bucket_id=[30, 127, 220], seed=range(5))
>>> print(plan(trials, "results/motion"))
15 clips: none there yet, 15 to make, time unknown, about 0.6 MB.
>>> rows = run(trials, "results/motion")
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.pipelines.load import setup_of
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, write_row
from svdlab.setup import Setup
from svdlab.sweeps import ray_cluster as cluster
from svdlab.sweeps.grid import Trial

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

from svdlab.messages import describe_error
from svdlab.pipelines.cached import _kept, load_cached, unload_cached
from svdlab.pipelines.shared_encodings import shared
from svdlab.sweeps.locks import _taken, claim, clear
from svdlab.sweeps.make_row import Pictured, Pictures, _draft, _failed, make_row
from svdlab.sweeps.sweep_bar import _Bar


def run(
    trials: Iterable[Trial],
    folder: str | Path,
    *,
    on: str = "",
    store: str = "",
    retry_failed: bool = False,
    progress: bool = True,
    quality: bool = True,
) -> list[Row]:
    """A row for every trial, in their order: those that `folder` has already as they are, the others made now.

    A trial that fails becomes a row that says why, and the rest go on; it is tried again only if asked. Stopped at
    any moment, even by `kill -9`, the next call makes what is missing; Ctrl-C raises a `KeyboardInterrupt` that says
    how much is kept. Several processes and machines may run into one folder: each leaves alone what another is at.

    Weights are loaded once for each setup, and kept for the next run (`load_cached`). What trials share is computed
    once, which leaves the frames as they are, bit for bit; so the first of them takes a little longer than the others.

    `on` spreads the work over a Ray cluster: "ray" (this machine's cards, or the cluster that it belongs to) or an
    address. Clips come into `folder` all the same, through Ray where workers do not see it. A trial whose worker dies
    is given to another, and fails the third time. `store`, an address that fsspec knows such as "s3://bucket/motion",
    keeps what workers make as well: what is there already comes into `folder` first, on whatever machine this runs.

    A `ValueError` before anything starts if a picture cannot be read; an `OSError` where rows cannot be written; a
    `ConnectionError` where there is no Ray.
    """
    trials, folder, pictures = list(trials), Path(folder), Pictures()
    if store and not on:
        raise ValueError(
            f"store={store!r} is where the workers of a cluster put their clips: name the cluster (on='ray')."
        )
    with cluster.connected(on) if on else nullcontext():
        if on:
            if _kept:
                unload_cached()  # the card is the workers' now
            trials = [dataclasses.replace(trial, setup=cluster.settled(trial.setup)) for trial in trials]
        keys = [_draft(trial, trial.setup, pictures).key for trial in trials]
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder)
        if store:
            with claim(folder, "store") as scratch:
                cluster.fetch(store, folder, scratch)
        rows = {key: row for key in keys if (row := find_row(folder, key))}
        again = {key: row.created for key, row in rows.items() if retry_failed and row.status == "failed"}
        rows = {key: row for key, row in rows.items() if key not in again}
        todo: dict[str, Trial] = {}
        for key, trial in zip(keys, trials, strict=True):
            if key not in rows:
                todo.setdefault(key, trial)
        options = {key: {"quality": quality, "replacing": again.get(key)} for key in todo}
        with _Bar(todo.values(), progress) as bar:
            made = (
                _there(todo, folder, pictures, options, bar, store)
                if on
                else _here(todo, folder, pictures, options, bar)
            )
            try:
                with closing(made):
                    for key, row in made:
                        rows[key] = row
                        bar.finish(todo[key])
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"Stopped: {len(rows)} of {len({*keys})} rows are in {folder}, and the next run makes the others."
                ) from None
    return [dataclasses.replace(rows[key], request=t.request, axes=t.axes) for key, t in zip(keys, trials, strict=True)]


class _Maker:
    """Makes one row after another, each on its setup's pipeline; what the trials of a setup share, it computes once."""

    def __init__(self) -> None:
        self._setup: Setup | None = None
        self._pipeline: StableVideoDiffusionPipeline | None = None
        self._error = ""  # why there is none
        self._sharing = ExitStack()

    def __enter__(self) -> _Maker:
        return self

    def __exit__(self, *_: Any) -> None:
        self._sharing.close()

    def warm(self, setup: Setup) -> None:
        if setup == self._setup:
            return
        self._sharing.close()
        self._setup, self._pipeline, self._error = setup, None, ""
        try:
            self._pipeline = load_cached(setup)
            self._sharing.enter_context(shared(self._pipeline))
        except Exception as error:  # of any library below: the other setups go on
            self._error = describe_error(error)

    def __call__(
        self, trial: Trial, folder: Path, pictures: Pictured, *, patient: bool, replacing: str | None, **options: Any
    ) -> Row | None:
        """The row, which somebody else may have made by now; None where one is at it and we are `patient`. A row that
        was `created` when `replacing` says is made anew; `options` are those of `make`."""
        self.warm(trial.setup)
        setup = self._pipeline and setup_of(self._pipeline)  # with the commit that was loaded
        draft = _draft(trial, setup or trial.setup, pictures)
        with claim(folder, draft.key) as scratch:
            if patient and _taken(scratch):
                return None
            row = find_row(folder, draft.key)
            if row is not None and row.created != replacing:
                return row
            if self._pipeline is None:
                return write_row(_failed(draft, self._error), folder, scratch)
            return make_row(self._pipeline, trial, folder, pictures=pictures, scratch=scratch, **options)


def _here(
    todo: Mapping[str, Trial], folder: Path, pictures: Pictures, options: Mapping[str, dict[str, Any]], bar: _Bar
) -> Generator[tuple[str, Row], None, None]:
    """The rows as they come, by their keys, made in this process."""
    with _Maker() as maker:
        for setup in dict.fromkeys(trial.setup for trial in todo.values()):
            maker.warm(setup)
            bar.unpause()  # the time left is that of clips, not of loading
            waiting = deque((key, True) for key, trial in todo.items() if trial.setup == setup)
            while waiting:
                key, patient = waiting.popleft()
                bar.begin(todo[key])
                row = maker(todo[key], folder, pictures, patient=patient, on_step=bar.step, **options[key])
                if row is None:
                    waiting.append((key, False))  # it may be there when all others are; if not, it is made here too
                else:
                    yield key, row


def _there(
    todo: Mapping[str, Trial],
    folder: Path,
    pictures: Pictures,
    options: Mapping[str, dict[str, Any]],
    bar: _Bar,
    store: str,
) -> Generator[tuple[str, Row], None, None]:
    """The rows as they come, by their keys, made on a cluster."""
    with claim(folder, "cluster") as scratch:
        said = {"said": bar.crew, "gone": lambda place: clear(folder, place)}
        for key, made in cluster.spread(todo, _Maker, pictures, scratch, options=options, store=store, **said):
            if made.row is None:
                row = _failed(_draft(todo[key], todo[key].setup, pictures), made.error)
                yield key, write_row(row, folder, scratch)
            elif made.there:
                clip = made.row.clip and folder / made.row.clip.name
                yield key, dataclasses.replace(made.row, clip=clip)
            else:
                row, clip = dataclasses.replace(made.row, request=todo[key].request, clip=None), None
                if made.clip is not None:
                    clip = scratch / f"{row.key}.mp4"
                    clip.write_bytes(made.clip)
                yield key, write_row(row, folder, scratch, clip)
