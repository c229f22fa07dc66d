from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svdlab import VARIANTS, Request
from svdlab.request import quiet_requests

PICTURE = Image.new("RGB", (16, 9), (10, 20, 30))


def build_request(**fields) -> Request:
    with quiet_requests():
        return Request(**fields)


requests = st.builds(
    build_request,
    image=st.sampled_from(["rocket", "a b/ü.png", "https://example.org/x.png?y=1", PICTURE]),
    seed=st.integers(0, 2**63 - 1),
    height=st.none() | st.integers(8, 512).map(lambda n: n * 8),
    width=st.none() | st.integers(8, 512).map(lambda n: n * 8),
    num_frames=st.integers(100, 256),
    num_inference_steps=st.none() | st.integers(1, 1000),
    min_guidance_scale=st.none() | st.floats(0, 1),
    max_guidance_scale=st.none() | st.floats(1, 100),
    fps=st.none() | st.integers(1, 240),
    motion_bucket_id=st.none() | st.integers(0, 255),
    noise_aug_strength=st.none() | st.floats(0, 10),
    decode_chunk_size=st.none() | st.integers(1, 100),
    fit=st.sampled_from(["crop", "pad", "stretch"]),
    focus=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)


@given(requests)
def test_json_gives_the_request_back(request_):
    assert Request.from_json(request_.to_json()) == request_


@given(requests, st.sampled_from(sorted(VARIANTS)))
def test_filling_keeps_what_was_given_and_leaves_nothing_open(request_, name):
    with quiet_requests():
        filled = request_.filled(name)
        assert filled.filled(name) == filled
        assert Request.from_json(filled.to_json()) == filled
    for field in dataclasses.fields(Request):
        value, filled_value = getattr(request_, field.name), getattr(filled, field.name)
        assert filled_value is not None or field.name == "sigmas"
        assert value is None or field.name == "variant" or filled_value == value


def test_defaults_are_diffusers_own():
    import inspect

    from diffusers import StableVideoDiffusionPipeline

    parameters = inspect.signature(StableVideoDiffusionPipeline.__call__).parameters
    request = Request.for_variant("svd-xt", image="rocket")
    for name in (
        *("height", "width", "num_inference_steps", "min_guidance_scale", "max_guidance_scale"),
        *("fps", "motion_bucket_id", "noise_aug_strength"),
    ):
        assert getattr(request, name) == parameters[name].default, name
    assert (request.num_frames, request.decode_chunk_size) == (25, 5)


def test_every_argument_of_the_pipeline_has_its_place():
    import inspect

    from diffusers import StableVideoDiffusionPipeline

    parameters = set(inspect.signature(StableVideoDiffusionPipeline.__call__).parameters) - {"self"}
    elsewhere = {
        *("generator", "num_videos_per_prompt", "latents"),  # seed, several seeds in one call
        *("output_type", "return_dict", "callback_on_step_end", "callback_on_step_end_tensor_inputs"),  # generate's own
    }
    assert parameters - elsewhere <= {field.name for field in dataclasses.fields(Request)}


def test_presets_are_stabilitys():
    request = Request.for_variant("svd-xt", image="rocket", preset="stability")
    assert (request.num_inference_steps, request.min_guidance_scale, request.max_guidance_scale) == (30, 1.5, 3.0)
    with pytest.raises(ValueError, match="Unknown preset 'fast' of svd: expected one of diffusers, stability"):
        Request.for_variant("svd", image="rocket", preset="fast")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"width": 1020}, "width=1020 is not a multiple of 8: use 1016 or 1024"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is outside 1 to 1000"),
        ({"motion_bucket_id": 256}, "motion_bucket_id=256 is outside 0 to 255: 127 is usual"),
        ({"motion_bucket_id": -1}, "motion_bucket_id=-1 is outside"),
        ({"motion_bucket_id": 127.5}, "motion_bucket_id=127.5 is not a whole number"),
        ({"motion_bucket_id": True}, "motion_bucket_id=True is not a whole number"),
        ({"num_frames": 1}, "num_frames=1 is outside 2 to 256: a clip needs two frames to move"),
        ({"decode_chunk_size": 8, "num_frames": 7}, "decode_chunk_size=8 is over num_frames=7: use at most 7"),
        ({"noise_aug_strength": float("nan")}, "noise_aug_strength=nan is not a number"),
        ({"seed": None}, "seed=None is not a whole number"),
        ({"fps": "fast"}, "fps='fast' is not a whole number"),
        ({"min_guidance_scale": 3, "max_guidance_scale": 2}, "guidance rises from the first frame to the last"),
        ({"sigmas": (1.0, 2.0)}, "must be falling to 0"),
        ({"sigmas": (0.0,)}, "must be falling to 0"),
        ({"sigmas": (2.0, 1.0), "num_inference_steps": 3}, "disagrees with the 2 steps"),
        ({"fps": 300}, "fps=300 is outside 1 to 240"),
        ({"fit": "zoom"}, "fit='zoom' is unknown: expected one of crop, pad, stretch"),
        ({"focus": (0.5, 1.5)}, "focus=(0.5, 1.5) must be two numbers from 0 to 1"),
        ({"image": ""}, "image is empty"),
        ({"image": None}, "image is empty"),
        (
            {"variant": "svd-xl"},
            "Unknown variant 'svd-xl': expected one of svd, svd-xt, svd-xt-1.1, tiny; did you mean",
        ),
    ],
)
def test_refusals_name_the_value_and_the_way_out(fields, sentence):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        Request(**{"image": "rocket"} | fields)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("svd-xt", {"fps": 4}, "fps=4 is outside 5 to 30"),
        ("svd-xt", {"fps": 31}, "fps=31 is outside 5 to 30"),
        ("svd", {"height": 512}, "512x1024 is not 576x1024"),
        ("svd", {"num_inference_steps": 19}, "num_inference_steps=19 is under 20"),
        ("svd", {"num_inference_steps": 31}, "num_inference_steps=31 is over 30"),
        ("svd", {"num_frames": 25}, "num_frames=25 is more than the 14"),
        ("svd-xt-1.1", {"fps": 8}, "tuned at fps=7 only"),
        ("svd-xt-1.1", {"motion_bucket_id": 180}, "tuned at motion_bucket_id=127 only"),
        ("tiny", {"height": 576, "width": 1024}, "576x1024 is not 96x160"),
        ("tiny", {"max_guidance_scale": 2.0}, "max_guidance_scale=2 is over 1"),
    ],
)
def test_warns_outside_of_what_the_model_was_trained_for(name, fields, sentence):
    with pytest.warns(UserWarning, match=sentence):
        request = Request.for_variant(name, image="rocket", **fields)
    assert any(sentence in concern for concern in request.concerns())


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variants_own_choices_raise_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for preset in VARIANTS[name].presets:
            request = Request.for_variant(name, image="rocket", preset=preset)
            assert request.concerns() == []
            assert request.num_frames % request.decode_chunk_size == 0  # no chunk with a tail


def test_fewer_frames_lower_the_decode_chunk_that_nobody_asked_for():
    assert Request.for_variant("svd", image="rocket", num_frames=4).decode_chunk_size == 4


def test_sigmas_set_the_steps():
    request = Request.for_variant("tiny", image="rocket", sigmas=[700, 10, 1, 0.1])
    assert (request.sigmas, request.num_inference_steps) == ((700.0, 10.0, 1.0, 0.1, 0.0), 4)
    assert request == Request.for_variant("tiny", image="rocket", sigmas=(700, 10, 1, 0.1, 0))


def test_guidance_that_nobody_asked_for_is_lowered_with_the_last_frames():
    assert Request.for_variant("svd-xt", image="rocket", max_guidance_scale=0.5).min_guidance_scale == 0.5


def test_a_preset_that_comes_too_late_is_refused():
    with pytest.raises(ValueError, match="preset='stability' changes nothing"):
        Request.for_variant("svd-xt", image="rocket").filled("svd-xt", preset="stability")


def test_a_path_is_no_examples_name():
    assert Request(image=Path("./rocket")).image in ("./rocket", ".\\rocket")


def test_a_request_for_one_variant_is_refused_for_another():
    request = Request.for_variant("svd", image="rocket")
    with pytest.raises(ValueError, match=r"filled in for variant 'svd' but is used with 'tiny'"):
        request.filled("tiny")


def test_a_picture_is_copied_and_paths_are_text():
    source = Image.new("RGB", (16, 9))
    request = Request(image=source)
    source.paste((255, 0, 0), (0, 0, 16, 9))
    assert isinstance(request.image, Image.Image)
    assert request.image.getpixel((0, 0)) == (0, 0, 0)
    assert Request(image=Path("a") / "b.png") == Request(image=str(Path("a") / "b.png"))
    assert Request(image=np.zeros((9, 16, 3), np.uint8)) == Request(image=Image.new("RGB", (16, 9)))


def test_numpy_numbers_become_plain_ones():
    request = Request(image="rocket", motion_bucket_id=np.int64(30), noise_aug_strength=np.float32(0.5))
    assert json.loads(request.to_json())["motion_bucket_id"] == 30
    assert type(request.motion_bucket_id) is int
    assert type(request.noise_aug_strength) is float


def test_an_older_request_still_reads():
    """What version 0.1.0 wrote. This text must never change."""
    old = (
        '{"image": "rocket", "seed": 3, "height": 72, "width": 128, "num_frames": 14, "num_inference_steps": 8, '
        '"sigmas": null, "min_guidance_scale": 1.0, "max_guidance_scale": 1.0, "fps": 7, "motion_bucket_id": 180, '
        '"noise_aug_strength": 0.02, "decode_chunk_size": 14, "fit": "crop", "focus": [0.5, 0.5], "variant": "tiny"}'
    )
    request = Request.from_json(old)
    assert (request.seed, request.motion_bucket_id, request.variant) == (3, 180, "tiny")
    assert json.loads(request.to_json()) | json.loads(old) == json.loads(request.to_json())


def test_sigmas_of_an_older_request_left_noise_in_its_clip():
    old = {"image": "rocket", "sigmas": [700.0, 0.5], "num_inference_steps": 2}
    with pytest.warns(UserWarning, match=r"noise of 0\.5"):
        request = Request.from_json(old)
    assert (request.sigmas, request.num_inference_steps) == ((700.0, 0.5, 0.0), 2)


def test_a_field_from_the_future_or_a_slip_is_named():
    with pytest.raises(ValueError, match="Unknown request field 'motion_bucket'; did you mean 'motion_bucket_id'"):
        Request.from_json({"image": "rocket", "motion_bucket": 3})
    with pytest.raises(ValueError, match="Unknown request field 'xyzzy': it was written by a newer svdlab"):
        Request.from_json({"image": "rocket", "xyzzy": 3})
    with pytest.raises(ValueError, match="not a request"):
        Request.from_json("[]")


@pytest.mark.parametrize(
    "fields",
    [
        {"fps": 10**300},
        {"seed": 10**5000},
        {"sigmas": tuple(range(100_000))},
        {"focus": (0.5,) * 10_000},
        {"variant": "x" * 100_000},
        {"fit": "x" * 100_000},
        {"height": "9" * 100_000},
        *({field: [["long"] * 900]} for field in ("decode_chunk_size", "focus", "fit", "variant")),
    ],
    ids=list("abcdefghijk"),
)
def test_long_values_do_not_fill_the_page(fields):
    with pytest.raises(ValueError, match=next(iter(fields))) as error:
        Request(image="rocket", **fields)
    assert len(str(error.value)) < 600


def test_a_long_name_or_preset_is_cut_too():
    for build in (lambda: Request.for_variant("svd", preset="x" * 100_000, image="rocket"),
                  lambda: Request.from_json({"image": "rocket", "x" * 100_000: 1})):  # fmt: skip
        with pytest.raises(ValueError, match="Unknown") as error:
            build()
        assert len(str(error.value)) < 400
