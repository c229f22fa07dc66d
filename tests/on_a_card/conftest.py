"""What tests on a card share: the plain clip, and the pretended card where that is the card."""

from __future__ import annotations

import gc
import sys

import pytest
import torch
from small_clips import small_request, small_setup

from svdlab import Clip, generate, load


@pytest.fixture(scope="session")
def plain() -> Clip:
    """The clip of plain diffusers, made once."""
    torch.backends.cudnn.allow_tf32 = False  # a real card's default, whose ten bits are more than rounding
    clip = generate(load(small_setup()), small_request(), progress=False)
    gc.collect()
    gc.freeze()  # what libraries brought along stays: each later collection is spared looking through it
    return clip


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
