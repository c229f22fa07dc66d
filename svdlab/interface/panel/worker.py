"""The worker that makes the panel's clips, so that the page and the other cells stay free.

All clips of all panels are made in turn on one lasting thread: the CUDA graphs of a compiled model belong to the one
that recorded them and fail in another (PyTorch issue 123177). While a clip is made, the pipeline is held for this
thread, since the scheduler and the VAE are watched for previews and progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from svdlab.generation.latent_preview import preview_frames
from svdlab.interface.panel.widgets import Alert, Button, figure, w
from svdlab.machine import free_memory
from svdlab.media.show import strip
from svdlab.messages import describe_error
from svdlab.pipelines.pipeline_cache import load_cached
from svdlab.pipelines.pipeline_lock import exclusive
from svdlab.progress_bar import quiet_libraries
from svdlab.rows.results_folders import results_home
from svdlab.rows.row import Row
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.make_row import make_row

if TYPE_CHECKING:
    from PIL import Image

_THREAD = ThreadPoolExecutor(1, "svdlab-panel")
_PREVIEW_SECONDS = 1  # between two previews at least: each holds up denoising, by 80 ms for svd-xt on one busy core
_IMPORT_LOCK = threading.Lock()


def import_libraries() -> None:
    """Import torch and diffusers, one thread at a time: two at once may each see the other's half-made modules."""
    with _IMPORT_LOCK, quiet_libraries():
        from diffusers import StableVideoDiffusionPipeline  # noqa: F401


@dataclass(eq=False)
class _Job:
    """A clip that waits or `is_underway`: `future` is its place in the thread's queue, `line` its line on the page."""

    trial: Trial
    picture: Image.Image
    cancelled: threading.Event = field(default_factory=threading.Event)
    future: Future[None] | None = None
    line: w.HBox | None = None
    is_underway: bool = False


class ClipWorker(w.VBox):
    """Buttons, a line of progress, and the queue: `start` makes clips in the background, `cancel` stops one.

    `preview` shows what the model expects meanwhile. `future` belongs to the clip that was queued last. Rows and clips
    go to `results`, and each row to `add`.
    """

    def __init__(
        self,
        generate: Callable[[], None],
        count: w.Widget,
        add: Callable[[Row, Setup], None],
        alert: Alert,
        results: str | Path | None,
    ) -> None:
        self.go = Button("Generate", "Make the clip, or put it in the queue", generate, button_style="primary")
        self.stop = Button("Cancel", "Stop within a step, and free what the clip took", self.cancel, disabled=True)
        self.progress, self.preview = w.HTML(), w.HTML()
        self.queue = w.VBox().add_class("svdlab-queue")
        self._clear = Button("Remove all", "Make none of the clips that wait", self._remove_all)
        super().__init__([w.HBox([self.go, count, self.stop, self.progress]).add_class("svdlab-go"), self.queue])
        self.future: Future[None] | None = None
        self._jobs: list[_Job] = []
        self._add, self._alert, self._results = add, alert, results

    def start(self, trials: Iterable[Trial], picture: Image.Image) -> None:
        """Put clips into the queue; one that is in it already is not made twice.

        Args:
            trials: the setups and the requests.
            picture: theirs, as the model will see it.
        """
        for trial in trials:
            if trial in [job.trial for job in self._jobs]:
                continue
            job, request = _Job(trial, picture), trial.request
            text = f"{request.variant}, seed {request.seed}, bucket {request.motion_bucket_id}: waits"
            remove = Button("Remove", "Do not make this clip", lambda job=job: self._cancel(job))
            job.line = w.HBox([w.Label(text), remove])
            if not self._jobs:
                self.tell("waiting for the clip of another panel…")
            self._jobs.append(job)
            job.future = self.future = _THREAD.submit(self._run, job)
        self._show_queue()

    def cancel(self) -> None:
        """Stop the clip that is being made, within its step; the next one begins, and the model stays loaded."""
        if self._jobs:
            self._cancel(self._jobs[0])

    def _cancel(self, job: _Job) -> None:
        if job in self._jobs:  # its button may be pressed again before the page has taken it away
            job.cancelled.set()
            self.stop.disabled = True
            if job.future and job.future.cancel():  # it had not begun
                self._end(job, "cancelled")

    def _remove_all(self) -> None:
        for job in reversed(self._waiting):
            self._cancel(job)

    @property
    def _waiting(self) -> list[_Job]:
        return [job for job in self._jobs if not job.is_underway]

    def _run(self, job: _Job) -> None:
        ending, job.is_underway = "", True
        self._show_queue()
        try:
            row = self._make(job)
            if row.error:
                raise RuntimeError(row.error)
            self._add(row, job.trial.setup)
            ending = f"seed {row.request.seed} made in {sum(row.timings.values()):.1f} s"
        except _Cancelled:
            ending = "cancelled"
        except Exception as error:  # of any library below
            self._alert.tell(describe_error(error, where=False))
        self.preview.value = ""
        free_memory()
        self._end(job, ending)

    def _end(self, job: _Job, ending: str) -> None:
        is_first = job is self._jobs[0]
        self._jobs.remove(job)
        if is_first:
            self.tell(ending)
        self._show_queue()

    def _show_queue(self) -> None:
        lines = [job.line for job in self._waiting]
        self.queue.children = [*lines, self._clear] if len(lines) > 1 else lines
        self.stop.disabled = not self._jobs

    def _make(self, job: _Job) -> Row:
        trial = job.trial

        def check_cancelled() -> None:
            if job.cancelled.is_set():
                raise _Cancelled

        check_cancelled()
        self.tell(f"loading {trial.setup.variant}…")
        import_libraries()
        pipeline, total, decoded = load_cached(trial.setup), trial.request.num_frames, 0
        preview_at = first_step_at = 0.0

        def after_denoising(output: Any) -> None:
            nonlocal preview_at
            if time.monotonic() - preview_at > _PREVIEW_SECONDS:
                preview_at = time.monotonic()
                frames = preview_frames(output.pred_original_sample, trial.setup.variant)
                film = strip(SimpleNamespace(frames=frames), len(frames), height=90)
                self.preview.value = figure(film, "What the model expects by now, from first frame to last", 960)

        def after_step(done: int, steps: int, _: Any) -> None:
            nonlocal first_step_at
            check_cancelled()
            first_step_at = first_step_at or time.monotonic()  # it may compile, and tells nothing of the others
            step_seconds = (time.monotonic() - first_step_at) / max(done - 1, 1)
            time_left = f", about {step_seconds * (steps - done):.0f} s left" if 1 < done < steps else ""
            bar = f'<progress max="{steps}" value="{done}" aria-label="Steps done"></progress> '
            self.tell(f"step {done} of {steps}{time_left}" if done < steps else "decoding…", bar)

        def after_chunk(output: Any) -> None:
            nonlocal decoded
            check_cancelled()
            decoded += len(output.sample)
            self.tell(f"decoded {decoded} of {total} frames" if decoded < total else "measuring and saving…")

        with (
            exclusive(pipeline, self.tell, check_cancelled),
            _call_after(pipeline.scheduler, "step", after_denoising),
            _call_after(pipeline.vae, "decode", after_chunk),
        ):
            check_cancelled()
            self.tell("encoding the picture…")
            folder = Path(self._results or results_home() / "panel").expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            return make_row(pipeline, trial, folder, picture=job.picture, on_step=after_step)

    def tell(self, text: str, bar: str = "") -> None:
        """Show a line of progress, behind a bar in HTML."""
        self.progress.value = f'{bar}<span role="status">{escape(text)}</span>'


class _Cancelled(BaseException):
    """Raised within a step. Not an `Exception`, or a row would be kept that failed."""


@contextmanager
def _call_after(owner: Any, name: str, act: Callable[[Any], None]) -> Iterator[None]:
    """Within, `act` gets what each call of the method returns; what it raises ends the clip."""
    method, own = getattr(owner, name), vars(owner).get(name)

    def call(*args: Any, **options: Any) -> Any:
        output = method(*args, **options)
        act(output)
        return output

    setattr(owner, name, call)
    try:
        yield
    finally:
        delattr(owner, name) if own is None else setattr(owner, name, own)
