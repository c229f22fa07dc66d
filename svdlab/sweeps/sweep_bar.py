"""The progress bar of a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from svdlab.progress_bar import Progress
from svdlab.sweeps.grid import Trial

if TYPE_CHECKING:
    pass


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
