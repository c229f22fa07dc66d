"""Marks the setups of a dropdown that are predicted to fit this machine.

A prediction takes seconds at full size, so it runs on a thread of its own, beside the clips; the latest question
counts. Nothing is predicted before a page shows the panel: a notebook that runs without a browser has no use for it.
"""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from html import escape
from typing import Any

from svdlab.interface.panel.widgets import by_program, w
from svdlab.interface.panel.worker import import_libraries
from svdlab.machine import Machine
from svdlab.messages import describe_error
from svdlab.prediction.cards import this_card
from svdlab.prediction.estimate import estimate
from svdlab.prediction.fitting import candidates
from svdlab.request import Request
from svdlab.setup import Setup

_THREAD = ThreadPoolExecutor(1, "svdlab-prediction")


class SetupMarks(w.HTML):
    """A line under the dropdown of setups, and the marks in it. A setup that nobody chose gives way to one that fits.

    `offer` names the setup to begin with, `predict` marks it and others for a request. `task` is the prediction
    underway.
    """

    def __init__(self, dropdown: w.Dropdown) -> None:
        super().__init__()
        self.add_class("svdlab-fits")
        self.dropdown, self.is_shown, self.is_chosen = dropdown, False, False
        self.task: Future[None] | None = None
        self._lock, self._question = threading.Lock(), 0

    def offer(self, setup: Setup, is_chosen: bool) -> None:
        """Offer one setup, until others are predicted.

        Args:
            setup: the setup.
            is_chosen: whether somebody chose it.
        """
        with self._lock, by_program():
            self._question += 1
            self.dropdown.options, self.dropdown.value = [(setup.label, setup)], setup
            self.is_chosen = is_chosen

    def predict(self, request: Request) -> None:
        """Mark the setups for a request, once a page shows the panel.

        Args:
            request: complete.
        """
        if self.is_shown:
            with self._lock:
                self._question += 1
            self._tell("predicting memory and time…")
            setup: Any = self.dropdown.value
            self.task = _THREAD.submit(self._mark, self._question, setup, request)

    def _mark(self, question: int, setup: Setup, request: Request) -> None:
        if question != self._question:
            return None
        try:
            import_libraries()
            card, plain = this_card(), dataclasses.replace(setup, optimizations=())
            estimates = {e.setup: e for e in (*candidates(plain, request), estimate(setup, request))}
            memory = card.memory_bytes if card else Machine.here().memory_bytes or 0
        except Exception as error:  # a prediction is a help, no condition
            return self._tell(f"No prediction: {describe_error(error, where=False)}")
        labels, fitting = {}, [each for each, e in estimates.items() if e.fits(memory)]
        for each, e in estimates.items():
            seconds = f", {e.seconds(card).expected:,.0f} s" if card else ""
            labels[each] = f"{'✓' if each in fitting else '✗'} {each.label}: {e.needed_bytes / 2**30:.1f} GiB{seconds}"
        with self._lock, by_program():
            if question != self._question:
                return None
            now: Any = self.dropdown.value
            keep = self.is_chosen or now in fitting or not fitting
            self.dropdown.options = [(text, each) for each, text in ({now: now.label} | labels).items()]
            self.dropdown.value = now if keep else fitting[0]
        return self._tell(f"✓ fits the {memory / 2**30:.1f} GiB of {card.name if card else 'this machine'}")

    def _tell(self, text: str) -> None:
        self.value = f"<small>{escape(text)}</small>"
