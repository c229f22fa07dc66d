"""Sweeps: many clips that differ in a few knobs, made once, in any number of sittings.

>>> trials = grid(Setup("tiny"), Request(image="rocket"), motion_bucket_id=[30, 127, 220], seed=range(5))
>>> print(plan(trials, "results/motion"))
15 clips: none there yet, 15 to make, time unknown, about 0.6 MB.
>>> rows = run(trials, "results/motion")
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import os
import shutil
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from PIL import Image

import svdlab
from svdlab.generation.clip import conditioning, generate
from svdlab.machine import Machine
from svdlab.media import images
from svdlab.pipelines.load import load, setup_of
from svdlab.progress_bar import Progress
from svdlab.request import Request
from svdlab.setup import Setup
from svdlab.sweeps import ray_cluster as cluster
from svdlab.sweeps import rows as results
from svdlab.sweeps.grid import Trial, with_image
from svdlab.sweeps.rows import Row

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline

    from svdlab.generation.clip import OnStep

_BYTES_PER_PIXEL = 0.3  # of the bundled model's MP4s with their cover, where the folder holds none to go by
_ABANDONED_SECONDS = 86_400  # when what another machine has not finished is taken for given up


@dataclass(frozen=True)
class Plan:
    """What `run` would do; `print` it for a sentence. Time and size are scaled from rows of the folder."""

    total: int
    done: int
    failed: int  # in earlier runs
    to_make: int
    seconds: float | None  # on this machine, without loading weights; None where no row of the setup tells
    disk_bytes: int

    def __str__(self) -> str:
        said = [f"{self.done} there already" if self.done else "none there yet"]
        if self.failed:
            said.append(f"{self.failed} failed before (retry_failed=True tries again)")
        said.append(f"{self.to_make} to make" if self.to_make else "nothing to make")
        if self.to_make:
            said.append("time unknown" if self.seconds is None else f"about {_duration(self.seconds)}")
            said.append(f"about {self.disk_bytes / 1e6:,.1f} MB")
        return f"{self.total:,} clip{'s' * (self.total != 1)}: {', '.join(said)}."


def plan(trials: Iterable[Trial], folder: str | Path, *, retry_failed: bool = False) -> Plan:
    """What `run(trials, folder)` would make and take. Loads no weights, writes nothing."""
    pictures = Pictures()
    keys = {_draft(trial, trial.setup, pictures).key: trial for trial in trials}
    status = {key: row.status for key in keys if (row := results.find(folder, key))}
    todo = [t for key, t in keys.items() if key not in status or (retry_failed and status[key] == "failed")]
    known = [row for row in results.rows(folder) if row.clip and row.clip.exists()] if Path(folder).is_dir() else []
    sizes = [row.clip.stat().st_size / _pixels(row.request) for row in known if row.clip]
    return Plan(
        total=len(keys),
        done=list(status.values()).count("done"),
        failed=list(status.values()).count("failed"),
        to_make=len(todo),
        seconds=_expected_seconds(todo, known),
        disk_bytes=round((median(sizes) if sizes else _BYTES_PER_PIXEL) * sum(_pixels(t.request) for t in todo)),
    )


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

    Weights are loaded once for each setup, and kept for the next run (`loaded`). What trials share is computed once,
    which leaves the frames as they are, bit for bit; so the first of them takes a little longer than the others.

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
                forget()  # the card is the workers' now
            trials = [dataclasses.replace(trial, setup=cluster.settled(trial.setup)) for trial in trials]
        keys = [_draft(trial, trial.setup, pictures).key for trial in trials]
        folder.mkdir(parents=True, exist_ok=True)
        clear(folder)
        if store:
            with claim(folder, "store") as scratch:
                cluster.fetch(store, folder, scratch)
        rows = {key: row for key in keys if (row := results.find(folder, key))}
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


def make(
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
    dtype = pipeline.vae.dtype
    with nullcontext(scratch) if scratch else claim(folder, row.key) as scratch:
        try:
            shown = with_image(trial.request, pictures(trial.request)[0])
            clip = generate(pipeline, shown, on_step=on_step, progress=False)
        except Exception as error:  # of any library below: it becomes the row
            if pipeline.vae.dtype != dtype:
                pipeline.vae.to(dtype)  # diffusers leaves it in float32 where encoding fails
            return results.save(_failed(row, sentence(error)), folder, scratch)
        name = trial.request.image
        if isinstance(name, str) and (name in images.EXAMPLES or Path(name).is_file()):  # (on a cluster it may not be)
            clip = dataclasses.replace(clip, request=trial.request)  # the video names its picture, as any clip's does
        timings, notes, measured = dict(clip.timings), list(clip.notes), None
        if quality:
            from svdlab.quality.assess import assess

            with _timed(timings, "quality_seconds"):
                try:
                    measured = dataclasses.asdict(assess(clip))
                except Exception as error:  # the clip itself is whole, and took longer to make
                    notes.append(f"Its quality could not be measured: {sentence(error)}")
        with _timed(timings, "save_seconds"):
            file = clip.save(scratch / f"{row.key}.mp4")
        row = dataclasses.replace(row, timings=timings, quality=measured, notes=tuple(notes))
        return results.save(row, folder, scratch, file)


_kept: dict[Any, StableVideoDiffusionPipeline] = {}  # at most one: two would not fit on most cards


def loaded(setup: Setup) -> StableVideoDiffusionPipeline:
    """`svdlab.load(setup)`, or the pipeline of the last call where that asked for the same and its weights are as then.

    It lives as long as this process, or until another setup is asked for, or `forget()`.
    """
    if _asked(setup) not in _kept:
        forget()
        pipeline = load(setup)
        _kept[_asked(setup)] = pipeline  # asked again, now that the weights have been fetched
    return _kept[_asked(setup)]


def forget() -> None:
    """Let go of the pipeline that `loaded` keeps, and of its memory on the card."""
    _kept.clear()
    release()


def release() -> None:
    """Give back what clips took; a pipeline that is kept stays."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def shared(pipeline: StableVideoDiffusionPipeline) -> Iterator[None]:
    """Within, the pipeline encodes no picture twice: what CLIP and the VAE said of the same pixels is said again.

    The frames stay as they were bit for bit. The VAE is shown the picture under noise, so that trials share its answer
    where they share the seed and the noise strength.
    """
    names = ("_encode_image", "_encode_vae_image")
    before = {name: vars(pipeline)[name] for name in names if name in vars(pipeline)}
    for name in names:
        setattr(pipeline, name, _remembering(getattr(pipeline, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(pipeline, name)
        vars(pipeline).update(before)


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
            _room(self._known)
            self._known[asked] = request.image, picture, images.digest(picture)  # held, so that its id stays its own
        return self._known[asked][1:]


# --- one trial after another -----------------------------------------------------------------------------------------


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
            self._pipeline = loaded(setup)
            self._sharing.enter_context(shared(self._pipeline))
        except Exception as error:  # of any library below: the other setups go on
            self._error = sentence(error)

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
            row = results.find(folder, draft.key)
            if row is not None and row.created != replacing:
                return row
            if self._pipeline is None:
                return results.save(_failed(draft, self._error), folder, scratch)
            return make(self._pipeline, trial, folder, pictures=pictures, scratch=scratch, **options)


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
                yield key, results.save(row, folder, scratch)
            elif made.there:
                clip = made.row.clip and folder / made.row.clip.name
                yield key, dataclasses.replace(made.row, clip=clip)
            else:
                row, clip = dataclasses.replace(made.row, request=todo[key].request, clip=None), None
                if made.clip is not None:
                    clip = scratch / f"{row.key}.mp4"
                    clip.write_bytes(made.clip)
                yield key, results.save(row, folder, scratch, clip)


def _draft(trial: Trial, setup: Setup, pictures: Pictured) -> Row:
    """The row of a trial before there is an answer."""
    _, digest = pictures(trial.request)
    return Row(
        key=results.identity(setup, trial.request, digest),
        setup=results.settled(setup),
        request=trial.request,
        axes=trial.axes,
        picture=digest,
        machine=Machine.here(),
        created=datetime.now(timezone.utc).isoformat(),
        version=svdlab.__version__,
    )


def _failed(row: Row, reason: str) -> Row:
    return dataclasses.replace(row, status="failed", error=reason)


def sentence(error: Exception, where: bool = True) -> str:
    """Ours are sentences; of others also what they are and, unless it does not matter, `where` they come from."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0][:500]
    if line.endswith("."):
        return line
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {line}{f' ({Path(place.filename).name}, line {place.lineno})' if where else ''}."


def _asked(setup: Setup) -> tuple[Setup, str]:
    setup = results.settled(setup)
    return setup, results.weights_of(setup)


def _remembering(encode: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    known: dict[Any, torch.Tensor] = {}

    def encoded(image: Any, *options: Any, **named: Any) -> torch.Tensor:
        if isinstance(image, Image.Image):
            content: Any = images.digest(image)
        else:  # float32 pixels and noise
            content = tuple(image.shape), hashlib.sha256(image.cpu().contiguous().numpy()).digest()
        asked = (content, repr(options), repr(sorted(named.items())))
        if asked not in known:
            _room(known)
            known[asked] = encode(image, *options, **named)
        return known[asked]

    return encoded


def _room(known: dict[Any, Any], most: int = 64) -> None:
    """At full size, 64 pictures are 110 MB, and 64 encoded ones 10 MB."""
    if len(known) >= most:
        del known[next(iter(known))]


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started


class _Bar(Progress):
    """One line with the time left. It counts steps, since clips of more steps take longer."""

    def __init__(self, trials: Iterable[Trial], progress: bool) -> None:
        self.steps = [trial.request.num_inference_steps for trial in trials]
        self.finished = 0
        super().__init__(
            total=sum(self.steps),
            unit="step",
            disable=not (progress and self.steps),
            smoothing=0,  # the mean of all so far: with a decode every few steps, that of the last would swing
        )
        self.reached = self.working = 0

    def begin(self, trial: Trial) -> None:
        self.set_description_str(f"clip {self.finished + 1} of {len(self.steps)}", refresh=False)
        self.set_postfix_str(str(trial))

    def step(self, *_: Any) -> None:
        self.update()

    def crew(self, working: int) -> None:
        """What a cluster is at."""
        if working and not self.working and not self.finished:
            self.unpause()  # the time left is that of clips, not of starting workers
        self.working, seconds = working, self.format_dict["elapsed"]
        said = f"clip {self.finished} of {len(self.steps)}, {working} worker{'s' * (working != 1)}"
        self.set_description_str(said, refresh=False)
        self.set_postfix_str(f"{60 * self.finished / seconds:.1f} clips a minute" if self.finished and seconds else "")

    def finish(self, trial: Trial) -> None:
        self.finished += 1
        self.reached += trial.request.num_inference_steps
        if self.working:
            self.crew(self.working)
        self.update(self.reached - self.n)  # also of a clip that failed half way, or that somebody else made


# --- what is being made, and by whom ---------------------------------------------------------------------------------


@contextmanager
def claim(folder: Path, key: str) -> Iterator[Path]:
    """A folder for what is not whole yet; its name tells other writers who makes what since when. Gone afterwards."""
    scratch = folder / f".{key}~{socket.gethostname()}~{os.getpid()}~{time.time_ns()}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _taken(claim: Path) -> bool:
    """Whether somebody claimed the same before."""
    key, *_, since = claim.name.split("~")
    others = [other for other in claim.parent.glob(f"{key}~*") if int(other.name.split("~")[-1]) < int(since)]
    return any(_alive(other) for other in others)


def clear(folder: Path, gone: tuple[str, int] | None = None) -> None:
    """Remove what killed writers left; of `gone` (host and process) that is known, wherever it ran."""
    for scratch in folder.glob(".*~*~*~*"):
        if tuple(scratch.name.split("~")[1:3]) == (gone and (gone[0], str(gone[1]))) or not _alive(scratch):
            shutil.rmtree(scratch, ignore_errors=True)


def _alive(scratch: Path) -> bool:
    import psutil

    _, host, pid, _ = scratch.name.split("~")
    try:
        if host == socket.gethostname():
            return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
        return time.time() - scratch.stat().st_mtime < _ABANDONED_SECONDS
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


# --- estimates and words ---------------------------------------------------------------------------------------------


def _expected_seconds(trials: list[Trial], rows: list[Row]) -> float | None:
    """From rows of the same setup on this machine: sampling goes with steps times pixels, the rest with pixels."""
    total, here = 0.0, Machine.here().name
    rows = [row for row in rows if row.machine and row.machine.name == here and "sample_seconds" in row.timings]
    for setup in dict.fromkeys(trial.setup for trial in trials):
        same = dataclasses.replace(results.settled(setup), device=None)
        known = [row for row in rows if dataclasses.replace(row.setup, device=None) == same]
        if not known:
            return None
        sampling = median(r.timings["sample_seconds"] / _work(r.request) for r in known)
        rest = median((sum(r.timings.values()) - r.timings["sample_seconds"]) / _pixels(r.request) for r in known)
        total += sum(sampling * _work(t.request) + rest * _pixels(t.request) for t in trials if t.setup == setup)
    return total


def _pixels(request: Request) -> int:
    return request.num_frames * request.height * request.width


def _work(request: Request) -> int:
    return _pixels(request) * request.num_inference_steps * (2 if request.max_guidance_scale > 1 else 1)


def _duration(seconds: float) -> str:
    unit, size = ("h", 3600) if seconds > 5400 else ("min", 60) if seconds > 90 else ("s", 1)
    return f"{seconds / size:.1f} {unit}" if size > 1 else f"{max(seconds, 1):.0f} s"
