"""What tests on a card share: the plain clip, and the pretended card where that is the card."""

from __future__ import annotations

import gc
import json
import os
import sys

import pytest
import torch
from small_clips import small_request, small_setup

from svdlab import Clip, Machine, find_card, generate, load
from svdlab.prediction.cards import CONTEXT_BYTES


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> None:
    """What libraries brought along stays: each later collection of garbage is spared looking through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def plain() -> Clip:
    """The clip of plain diffusers, made once."""
    torch.backends.cudnn.allow_tf32 = False  # a real card's default, whose ten bits are more than rounding
    return generate(load(small_setup()), small_request(), progress=False)


@pytest.fixture
def pretended():
    """The pretended card, with its counts and its ways to break; put back afterwards. A real card skips the test."""
    card = sys.modules.get("pretended_card")
    if card is None:
        pytest.skip("only a pretended card can be broken")
    before = card.counts()
    yield card
    card.set_lost(False)
    card.set_limit_bytes(-1)
    card.set_total_bytes(before["total_bytes"])
    card.set_others_bytes(before["others_bytes"])


@pytest.fixture
def card_of(request, monkeypatch):
    """Gives the pretended card another size, as this process and those that it starts see it; put back afterwards.

    A real card stays as it is.
    """
    if "pretended_card" not in sys.modules:
        yield lambda *sizes: None
        return
    pretended = request.getfixturevalue("pretended")
    # No driver's name goes with such a memory, so rates are measured: those of the processor behind it.
    rates = (find_card("RTX 4060").flops, find_card("RTX 4060").bandwidth_bytes, "not measured here")
    monkeypatch.setattr("svdlab.prediction.cards._measured_rates", lambda device: rates)

    def resize(gib: float, desktop_gib: float) -> int:
        total, desktop = int(gib * 2**30), int(desktop_gib * 2**30)
        pretended.set_total_bytes(total)
        pretended.set_others_bytes(desktop + CONTEXT_BYTES)
        options = json.loads(os.environ["PRETENDED_CARD"]) | {"total_bytes": total, "desktop_bytes": desktop}
        monkeypatch.setenv("PRETENDED_CARD", json.dumps(options))
        Machine.here.__func__.cache_clear()
        return torch.cuda.mem_get_info()[0]

    yield resize
    Machine.here.__func__.cache_clear()
