"""The progress bar of a sweep: one line with the time left. It counts steps, since clips of more steps take longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svdlab.progress_bar import Progress
from svdlab.sweeps.grid import Trial


class SweepBar(Progress):
    """A line for all clips that a sweep makes.

    Args:
        trials: What is to be made.
        progress: Whether the line is shown.
    """

    def __init__(self, trials: Sequence[Trial], progress: bool) -> None:
        self.clips, self.finished, self.workers, self.steps_finished = len(trials), 0, 0, 0
        steps = sum(trial.request.num_inference_steps for trial in trials)
        # no smoothing, the mean of all so far: with a decode every few steps, that of the last would swing
        super().__init__(total=steps, unit="step", disable=not (progress and trials), smoothing=0)

    def begin(self, trial: Trial) -> None:
        """Show what this process makes now.

        Args:
            trial: What it makes.
        """
        self.set_description_str(f"clip {self.finished + 1} of {self.clips}", refresh=False)
        self.set_postfix_str(str(trial))

    def step(self, *_: Any) -> None:
        """Count one step.

        Args:
            *_: What `on_step` is called with.
        """
        self.update()

    def wait(self, clips: int) -> None:
        """Show that other writers are making what is left.

        Args:
            clips: How many.
        """
        self.set_postfix_str(f"waiting for {clips} clip{'s' * (clips != 1)} of another writer")

    def show_workers(self, workers: int) -> None:
        """Show how many workers of a cluster are up, and how fast clips come.

        Args:
            workers: How many.
        """
        if workers and not self.workers and not self.finished:
            self.unpause()  # the time left is that of clips, not of starting workers
        self.workers, seconds = workers, self.format_dict["elapsed"]
        text = f"clip {self.finished} of {self.clips}, {workers} worker{'s' * (workers != 1)}"
        self.set_description_str(text, refresh=False)
        self.set_postfix_str(f"{60 * self.finished / seconds:.1f} clips a minute" if self.finished and seconds else "")

    def finish(self, trial: Trial) -> None:
        """Count a clip, also one that failed half way or that somebody else made.

        Args:
            trial: Its trial.
        """
        self.finished += 1
        self.steps_finished += trial.request.num_inference_steps
        if self.workers:
            self.show_workers(self.workers)
        self.update(self.steps_finished - self.n)
