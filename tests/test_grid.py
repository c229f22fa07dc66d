"""A grid holds every combination of its axes once, is counted before it is built, and names what cannot be."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdlab import Request, Setup
from svdlab.media.images import EXAMPLES
from svdlab.sweeps.grid import _values, grid

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RANDOM = Setup("svd", weights="random", dtype="fp32")
ROCKET = Request(image="rocket")
MANY = 10**6


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["seed", "motion_bucket_id", "fps", "num_inference_steps"]),
        st.lists(st.integers(5, 240), min_size=1, max_size=4),
    )
)
def test_a_grid_is_every_combination_once_the_first_axis_slowest(axes):
    trials = grid(RANDOM, ROCKET, **axes)
    values = [[getattr(t.request, name) for name in axes] for t in trials]
    assert values == [list(v) for v in itertools.product(*(dict.fromkeys(each) for each in axes.values()))]
    assert all(t.axes == tuple(name for name in axes if len(set(axes[name])) > 1) for t in trials)
    assert all(t.request.variant == "svd" and t.setup == RANDOM for t in trials)


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 255), stop=st.integers(0, 255), step=st.integers(-90, 90).filter(bool))
def test_a_range_by_steps_has_both_its_ends(start, stop, step):
    def buckets() -> list[int]:
        axis = {"start": start, "stop": stop, "step": step}
        return [t.request.motion_bucket_id for t in grid(RANDOM, ROCKET, motion_bucket_id=axis)]

    expected = list(range(start, stop + (1 if step > 0 else -1), step))
    if expected:
        assert buckets() == expected
    else:
        with pytest.raises(ValueError, match=r"motion_bucket_id=.* holds no number"):
            buckets()


def test_ranges_give_the_numbers_that_one_would_write():
    assert _values("noise_aug_strength", {"start": 0, "stop": 0.4, "step": 0.1}, MANY) == [0, 0.1, 0.2, 0.3, 0.4]
    assert _values("sigmas", [9.0, 3.0, 1.0], MANY) == [(9.0, 3.0, 1.0)]
    assert _values("focus", [(0, 0), (1, 1)], MANY) == [(0, 0), (1, 1)]
    assert _values("image", np.zeros((8, 8), np.uint8), MANY)[0].size == (8, 8)
    assert [len(grid(RANDOM, ROCKET, image=list(EXAMPLES), seed=3))] == [len(EXAMPLES)]


def test_paired_axes_move_together_and_slowest():
    trials = grid(RANDOM, ROCKET, paired={"fps": [6, 12], "motion_bucket_id": [60, 180]}, seed=[1, 2])
    assert [(t.request.fps, t.request.motion_bucket_id, t.request.seed) for t in trials] == [
        (6, 60, 1),
        (6, 60, 2),
        (12, 180, 1),
        (12, 180, 2),
    ]
    assert trials[0].axes == ("fps", "motion_bucket_id", "seed")
    assert str(trials[0]) == "fps=6, motion_bucket_id=60, seed=1"


def test_setups_are_the_slowest_axis():
    bf16 = dataclasses.replace(RANDOM, dtype="bf16")
    trials = grid([RANDOM, bf16, RANDOM], ROCKET, seed=[1, 2])
    assert [t.setup for t in trials] == [RANDOM, RANDOM, bf16, bf16]
    assert trials[0].axes == ("setup", "seed")


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"motion_bucket": [1]}, "'motion_bucket' is no field.* did you mean 'motion_bucket_id'"),
        ({"variant": ["svd"]}, "'variant' is no field"),
        (
            {"seed": [1, 2], "motion_bucket_id": [3, 300]},
            r"Trial 2 \(seed=1, motion_bucket_id=300\): motion_bucket_id=300 is",
        ),
        ({"seed": []}, "seed has no values"),
        ({"seed": {"start": 1, "step": 2}}, "seed=.* is no range"),
        ({"seed": {"start": 1, "stop": 5, "step": 0}}, "seed=.* holds no number"),
        ({"seed": {"start": 1, "stop": 5, "num": 2}}, "seed=.* is no range"),
        ({"fit": {"start": 1, "stop": 5, "step": 3}}, "fit=.* is no range: a field that is a number"),
        ({"paired": {"fps": [6], "seed": [1, 2]}}, "equally many values, and fps has 1, seed has 2"),
        ({"paired": {"fps": [6]}, "fps": [7]}, "fps is both paired and"),
        ({"image": [""]}, "image is empty"),
    ],
)
def test_an_impossible_grid_is_refused_in_one_sentence(axes, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid(RANDOM, ROCKET, **axes)


def test_concerns_are_warned_of_once():
    with pytest.warns(UserWarning, match="is under 20") as concerns:
        grid(RANDOM, ROCKET, num_inference_steps=[2, 3], seed=[1, 2, 3])
    assert len(concerns) == 2


def test_trials_share_the_picture(picture):
    trials = grid(RANDOM, Request(image=picture), seed=range(50), motion_bucket_id=[1, 2])
    assert len({id(t.request.image) for t in trials}) == 1


@pytest.mark.parametrize(
    ("axes", "count"),
    [
        ({"seed": range(100), "motion_bucket_id": range(256), "fps": range(5, 31)}, "665,600"),
        ({"seed": range(10**12)}, "1,000,000,000,000"),
        ({"seed": itertools.count()}, "100,001"),
        ({"seed": {"start": 0, "stop": 10**9, "step": 1}}, "1,000,000,001"),
        ({"noise_aug_strength": {"start": 0, "stop": 1, "step": 1e-10}}, "10,000,000,001"),
        ({"paired": {"seed": range(10**9), "fps": range(10**9)}}, "1,000,000,000"),
    ],
)
def test_a_grid_is_counted_before_it_is_built(axes, count):
    with pytest.raises(ValueError, match=rf"has {count} .*100,000") as refusal:
        grid(RANDOM, ROCKET, **axes)
    assert "max_trials" in str(refusal.value)


def test_the_limit_of_a_grid_is_an_argument():
    assert len(grid(RANDOM, ROCKET, seed=range(30), max_trials=30)) == 30
    with pytest.raises(ValueError, match=r"has 30 values.*at most 29"):
        grid(RANDOM, ROCKET, seed=range(30), max_trials=29)


def test_long_values_are_cut():
    for axes in ({"seed": {"start": "x" * 10**5, "stop": 1}}, {"seed" * 10**4: 1}):
        with pytest.raises(ValueError, match="is no ") as refusal:
            grid(RANDOM, ROCKET, **axes)
        assert len(str(refusal.value)) < 600
