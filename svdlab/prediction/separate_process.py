"""Predictions in a process of their own: tracing is Python from end to end, and in a thread it holds up a clip.

Both want the interpreter for every small operation, and each time one waits for the other: a clip of the bundled
model took a minute more. The process starts with the first question, is kept, and ends with this one.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context, parent_process

from svdlab.prediction.cards import Card, this_device
from svdlab.prediction.estimate import Estimate, estimate
from svdlab.prediction.fitting import candidates
from svdlab.request import Request
from svdlab.setup import Setup


def predict(setup: Setup, request: Request, card: Card | None) -> tuple[list[Estimate], Card]:
    """Predictions for a setup's candidates and, last, itself; with the card, or this machine's processor for one.

    Args:
        setup: what it asks for, but for optimisations, stays in every candidate.
        request: complete; its image should be text, since a picture would be sent along.
        card: this machine's; None where it has none.
    """
    try:
        return _process().submit(_predict, setup, request, card).result()
    except BrokenExecutor:  # the system may have killed it for memory: the next question starts another
        _process.cache_clear()
        raise


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)


def _begin() -> None:
    if parent := parent_process():
        threading.Thread(target=lambda: (parent.join(), os._exit(0)), daemon=True).start()


def _predict(setup: Setup, request: Request, card: Card | None) -> tuple[list[Estimate], Card]:
    card = card or this_device()
    return [*candidates(replace(setup, optimizations=()), request, card), estimate(setup, request)], card
