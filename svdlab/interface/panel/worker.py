"""The worker that makes the panel's clips, so that the page and the other cells stay free.

All clips of all panels are made on one lasting thread: the CUDA graphs of a compiled model belong to the thread that
recorded them and fail in another (PyTorch issue 123177). While a clip is made, the pipeline is held for this thread,
since the scheduler and the VAE are watched for previews and progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from svdlab.generation.preview import preview_frames
from svdlab.headless.run_notebooks import results_home
from svdlab.interface.panel.widgets import Alert, Button, figure, w
from svdlab.media.show import strip
from svdlab.pipelines.cached import free_memory, load_cached
from svdlab.pipelines.pipeline_lock import exclusive
from svdlab.progress_bar import quiet_libraries
from svdlab.rows.row import Row
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial
from svdlab.sweeps.make_row import make_row

if TYPE_CHECKING:
    from PIL import Image

_THREAD = ThreadPoolExecutor(1, "svdlab-panel")
_PREVIEW_SECONDS = 1  # between two previews at least: each holds up denoising, by 80 ms for svd-xt on one busy core
_IMPORTING = threading.Lock()


def import_libraries() -> None:
    """Import torch and diffusers, one thread at a time: two at once may each see the other's half-made modules."""
    with _IMPORTING, quiet_libraries():
        from diffusers import StableVideoDiffusionPipeline  # noqa: F401


class ClipWorker(w.HBox):
    """Two buttons and a line of progress. `start` makes a clip in the background, `cancel` ends it within a step.

    `preview` shows what the model expects meanwhile. `task` is the clip underway. Rows and clips go to `results`, and
    each row to `add`.
    """

    def __init__(
        self, generate: Callable[[], None], add: Callable[[Row, Setup], None], alert: Alert, results: str | Path | None
    ) -> None:
        self.go = Button("Generate", "Make the clip", generate, button_style="primary")
        self.stop = Button("Cancel", "Stop within a step, and free what the clip took", self.cancel, disabled=True)
        self.progress, self.preview = w.HTML(), w.HTML()
        super().__init__([self.go, self.stop, self.progress])
        self.add_class("svdlab-go")
        self.task: Future[None] | None = None
        self._add, self._alert, self._results, self._cancelled = add, alert, results, threading.Event()

    def start(self, trial: Trial, picture: Image.Image) -> None:
        """Begin to make a clip.

        Args:
            trial: the setup and the request.
            picture: the request's, as the model will see it.
        """
        self._cancelled.clear()
        self.go.disabled, self.stop.disabled = True, False
        self._tell("waiting for the clip of another panel…")
        self.task = _THREAD.submit(self._run, trial, picture)

    def cancel(self) -> None:
        """Stop waiting, or within the step that is being made. The model stays loaded, and fit for the next clip."""
        self._cancelled.set()
        self.stop.disabled = True
        if self.task and self.task.cancel():  # it had not begun
            self._end("cancelled")

    def _run(self, trial: Trial, picture: Image.Image) -> None:
        ending = ""
        with self._alert.catch():
            try:
                row = self._make(trial, picture)
                if row.error:
                    raise RuntimeError(row.error)
                self._add(row, trial.setup)
                ending = f"made in {sum(row.timings.values()):.1f} s"
            except _Cancelled:
                ending = "cancelled"
        self.preview.value = ""
        free_memory()
        self._end(ending)

    def _make(self, trial: Trial, picture: Image.Image) -> Row:
        self._check_cancelled()
        self._tell(f"loading {trial.setup.variant}…")
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
            self._check_cancelled()
            first_step_at = first_step_at or time.monotonic()  # it may compile, and tells nothing of the others
            each = (time.monotonic() - first_step_at) / max(done - 1, 1)
            left = f", about {each * (steps - done):.0f} s left" if 1 < done < steps else ""
            bar = f'<progress max="{steps}" value="{done}" aria-label="Steps done"></progress> '
            self._tell(f"step {done} of {steps}{left}" if done < steps else "decoding…", bar)

        def after_chunk(output: Any) -> None:
            nonlocal decoded
            self._check_cancelled()
            decoded += len(output.sample)
            self._tell(f"decoded {decoded} of {total} frames" if decoded < total else "measuring and saving…")

        with (
            exclusive(pipeline, self._tell, self._check_cancelled),
            _after_each(pipeline.scheduler, "step", after_denoising),
            _after_each(pipeline.vae, "decode", after_chunk),
        ):
            self._check_cancelled()
            self._tell("encoding the picture…")
            folder = Path(self._results or results_home() / "panel")
            folder.mkdir(parents=True, exist_ok=True)
            return make_row(pipeline, trial, folder, picture=picture, on_step=after_step)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def _end(self, ending: str) -> None:
        self._tell(ending)
        self.go.disabled, self.stop.disabled = False, True

    def _tell(self, text: str, bar: str = "") -> None:
        self.progress.value = f'{bar}<span role="status">{escape(text)}</span>'


class _Cancelled(BaseException):
    """Raised within a step. Not an `Exception`, or a row would be kept that failed."""


@contextmanager
def _after_each(owner: Any, name: str, act: Callable[[Any], None]) -> Iterator[None]:
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
