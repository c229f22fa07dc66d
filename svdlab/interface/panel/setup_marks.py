"""Marks the setups of a dropdown that are predicted to fit this machine, and knows what to ask before a clip is begun.

A prediction takes seconds at full size and runs in another process, so that no clip waits for it; the latest question
counts. Nothing is predicted before a page shows the panel: a notebook that runs without a browser has no use for it.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from html import escape
from typing import Any

from svdlab.interface.panel.widgets import assign, w, when_changed
from svdlab.interface.panel.worker import import_libraries
from svdlab.messages import describe_error
from svdlab.pipelines.hub import is_cached
from svdlab.prediction.cards import this_card
from svdlab.prediction.estimate import FITS
from svdlab.prediction.separate_process import predict
from svdlab.request import Request
from svdlab.setup import Setup
from svdlab.sweeps.grid import with_image
from svdlab.variants import variant

_THREAD = ThreadPoolExecutor(1, "svdlab-prediction")  # waits for the process
_LONG_SECONDS = 3600  # nobody waits for a clip that long by mistake
_MARKS = {"yes": "✓", "tight": "(✓)", "no": "✗"}


class SetupMarks(w.HTML):
    """A line under the dropdown of setups, and the marks in it. A setup that nobody chose gives way to one that fits.

    `offer` names the setup to begin with, `predict` marks it and others for a request, `warning` is what a clip costs
    before it is begun. `future` is the prediction underway.
    """

    def __init__(self, dropdown: w.Dropdown) -> None:
        super().__init__()
        self.add_class("svdlab-fits")
        self.dropdown, self.is_shown, self.is_chosen = dropdown, False, False
        self.future: Future[None] | None = None
        self._lock, self._question = threading.Lock(), 0
        self._hours: dict[Setup, float] = {}  # of a clip, for setups that take very long
        self._verdicts: dict[Setup, str] = {}  # on whether a setup fits; none while a prediction is underway
        when_changed(dropdown, lambda _: self._choose())

    def offer(self, setup: Setup, is_chosen: bool) -> None:
        """Offer one setup, until others are predicted."""
        with self._lock:
            self._question += 1
            assign(self.dropdown, options=[(setup.label, setup)], value=setup)
            self.is_chosen = is_chosen

    def predict(self, request: Request) -> None:
        """Mark the setups for a request, once a page shows the panel."""
        if self.is_shown:
            with self._lock:
                self._question, self._verdicts = self._question + 1, {}
            self._tell("predicting memory and time…")
            setup: Any = self.dropdown.value
            self.future = _THREAD.submit(self._mark, self._question, setup, with_image(request, "-"))

    def warning(self, setup: Setup) -> str:
        """What a clip costs before it begins, where that is much: a download, or hours; "" where it is little."""
        parts = []
        if setup.weights == "hub":
            import_libraries()  # to tell the device; a prediction may be importing them too
            half = setup.resolved().dtype != "fp32"
            if not is_cached(variant(setup.variant), half=half, revision=setup.revision):
                gib = variant(setup.variant).stored_bytes(half) / 2**30
                parts.append(f"{gib:.1f} GiB are downloaded first")
        if setup in self._hours:
            parts.append(f"a clip takes {self._hours[setup]:,.0f} hours or more on this processor")
        return ", and ".join(parts)

    def _mark(self, question: int, setup: Setup, request: Request) -> None:
        if question != self._question:
            return None
        try:
            import_libraries()
            card = this_card()
            predictions, device = predict(setup, request, card)
        except Exception as error:  # a prediction is a help, no condition
            return self._tell(f"No prediction: {describe_error(error, where=False)}")
        if card is None:  # what this process holds is free for its clips, and the one that predicts cannot tell
            device = replace(device, taken_bytes=0)
        estimates = {each.setup: each for each in predictions}
        fits = {each: e.fits_on(device) for each, e in estimates.items()}
        labels, hours, verdicts = {}, {}, {}
        size = f"{device.memory_bytes / 2**30:.1f} GiB of {device.name if card else 'this machine'}"
        words = {"yes": "fits", "tight": "fits, where nothing else takes memory,", "no": "does not fit"}
        for each, e in estimates.items():
            seconds, mark = e.seconds(device), _MARKS[fits[each]]
            verdicts[each] = f"{mark} {words[fits[each]]} the {size}"
            if card is None and seconds and seconds.low > _LONG_SECONDS:
                hours[each] = seconds.low / 3600
                enough = "too little" if fits[each] == "no" else "enough"
                verdicts[each] = f"No card here: {hours[each]:,.0f} hours or more a clip, in {size}, which are {enough}"
                mark = mark if fits[each] == "no" else "…"
            time = f", {seconds}" if seconds and (card or each in hours) else ""
            labels[each] = f"{mark} {each.label}: {e.needed_bytes / 2**30:.1f} GiB{time}"
        best = min(fits, key=lambda each: FITS.index(fits[each]))  # the first of those that fit as well
        with self._lock:
            if question != self._question:
                return None
            chosen: Any = self.dropdown.value
            keep = self.is_chosen or fits.get(chosen) == fits[best]
            options = [(text, each) for each, text in ({chosen: chosen.label} | labels).items()]
            self._hours, self._verdicts = hours, verdicts
            assign(self.dropdown, options=options, value=chosen if keep else best)
        return self._tell_verdict()

    def _choose(self) -> None:
        self.is_chosen = True
        self._tell_verdict()

    def _tell_verdict(self) -> None:
        """Say of the setup that is chosen whether it fits, unless that is being predicted."""
        with self._lock:
            chosen: Any = self.dropdown.value
            if self._verdicts:
                self._tell(self._verdicts.get(chosen, ""))

    def _tell(self, text: str) -> None:
        self.value = f"<small>{escape(text)}</small>"
