"""Every optimisation on a card, and every pair that a setup allows.

Each loads, takes hold, gives the plain frames as far as it says, needs the memory that was predicted, and leaves none.
"""

from __future__ import annotations

import copy
import gc
import sys
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from small_clips import allocated_bytes, most_bytes, small_request, small_setup

from svdlab import Clip, Setup, estimate, generate, ladder, load
from svdlab.headless.run_notebooks import read_parameters
from svdlab.optimizations.registry import in_order, optimizations, parse
from svdlab.pipelines.load import _read

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning")]

PARAMS = Path(__file__).parents[2] / "params"
ROUNDING = 1e-3  # of latents that begin at 700
NEAR = 0.3  # of an approximate one's latents, relative
VALUES = ("group-offload=block", "group-offload=stream", "attention=efficient", "attention=math")
NAMES = (*(name for name in optimizations() if name != "attention"), *VALUES)  # flash takes no fp32


def is_allowed(names: tuple[str, ...]) -> bool:
    try:
        Setup("svd", optimizations=in_order(names))
    except ValueError:
        return False
    return True


# A pretended card has one fused kernel of attention: what goes with plain attention there goes with "efficient" too.
APART = {"attention=efficient"} if "pretended_card" in sys.modules else set()
PAIRS = tuple(pair for pair in combinations(NAMES, 2) if is_allowed(pair) and not APART.intersection(pair))


@pytest.fixture(autouse=True)
def compiler(request, monkeypatch):
    """Compiling is tracing here: one graph, hooks and all, run as it was traced. Kernels are for a compiler's tests.

    A trace is used again until something in it is another, so there may be many of one module.
    """
    if "compile-" not in request.node.name:
        yield
        return
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with torch._dynamo.config.patch(recompile_limit=1000):
        yield


read_weights = cache(_read)


@pytest.fixture
def read_once(monkeypatch):
    """Weights are read from disk once and then copied: each optimisation alone reads its own."""
    monkeypatch.setattr("svdlab.pipelines.load._read", lambda *where: copy.deepcopy(read_weights(*where)))


def check_frames(names: tuple[str, ...], clip: Clip, plain: Clip) -> None:
    assert clip.latents is not None
    assert plain.latents is not None
    difference = clip.latents - plain.latents
    levels = abs(np.subtract(*(np.stack([np.asarray(f, int) for f in each.frames]) for each in (clip, plain))))
    if all(parse(name)[0].exact for name in names):
        assert difference.abs().max() <= ROUNDING
        assert levels.max() <= 1
    else:
        assert 0 < difference.norm() / plain.latents.norm() < NEAR


def check(names: tuple[str, ...], plain: Clip) -> None:
    before, setup, request = allocated_bytes(), small_setup(*in_order(names)), small_request()
    pipeline = load(setup)  # which looks whether each holds
    clip = generate(pipeline, request, progress=False)
    peak = torch.cuda.max_memory_allocated() - before  # since the clip began
    prediction = estimate(setup, request)
    check_frames(names, clip, plain)
    # The largest layer need not compute at the highest moment of a decode, and is predicted so; a graph frees earlier.
    least = 0.96 if "sequential-offload" in names else 0.5 if "compile-" in str(names) else 0.98
    assert least * prediction.peak_bytes < peak < most_bytes(prediction)
    del pipeline, clip
    assert allocated_bytes() == before
    gc.freeze()  # what compiling brought along


@pytest.mark.parametrize("name", NAMES)
def test_each_gives_the_plain_frames_in_the_memory_that_was_predicted(name, plain):
    check((name,), plain)


@pytest.mark.parametrize("names", PAIRS, ids=" ".join)
def test_every_pair_does_too(names, plain, read_once):
    check(names, plain)


def test_cudnn_attends_to_no_single_token_and_says_what_goes_with_it(plain, pretended):
    for placement in ((), ("group-offload",)):  # whose weights wait on the processor
        with pytest.raises(RuntimeError, match=r"on cuda.* with one key: .*'single-token'"):
            load(small_setup(*placement, "attention=cudnn"))
    check(("attention=cudnn", "single-token"), plain)


@pytest.mark.parametrize("file", sorted(PARAMS.glob("memory_speed_*gb.yaml")), ids=lambda file: file.stem)
def test_every_rung_of_a_parameter_file_for_a_card_can_be_had(file, read_once):
    values = read_parameters(file)
    start = small_setup(*values.get("start", ()), dtype="fp16")
    for rung in ladder(start, values["names"], small_request(), values.get("cumulative", True)):
        load(rung.setup)


@pytest.mark.parametrize("name", ["compile-vae", "compile-blocks"])
def test_graphs_that_would_overwrite_results_are_refused(name):
    with pytest.raises(RuntimeError, match="overwrite results"):
        load(small_setup(f"{name}=reduce-overhead"))


MOVING = ("model-offload", "group-offload=leaf", "group-offload=block", "group-offload=stream")
CALLED_MORE = ("split-guidance", "forward-chunking=1")  # once for each half of the guidance, and for each frame


@pytest.fixture(scope="module")
def moved_bytes():
    """The bytes that come to the card and go in a clip, by the names of its optimisations."""
    card = pytest.importorskip("pretended_card", reason="only a pretended card counts them")

    def moved_bytes(*names: str) -> int:
        pipeline, before = load(small_setup(*names)), card.counts()
        generate(pipeline, small_request(), progress=False)
        after = card.counts()
        return sum(after[way] - before[way] for way in ("to_card_bytes", "from_card_bytes"))

    plain_bytes = moved_bytes()
    return lambda *names: moved_bytes(*names) - plain_bytes


@pytest.mark.parametrize("more", [(), CALLED_MORE[:1], CALLED_MORE[1:], CALLED_MORE], ids=str)
@pytest.mark.parametrize("name", MOVING)
def test_weights_come_and_go_as_often_as_predicted(name, more, moved_bytes, read_once):
    stages = estimate(small_setup(name, *more), small_request()).stages.values()
    assert moved_bytes(name, *more) == pytest.approx(sum(stage.moved_bytes or 0 for stage in stages), rel=0.05)
