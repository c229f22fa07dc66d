"""The committed weights hold their bars, through plain diffusers, on a handful of scenes never trained on."""

import statistics
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline

from svdlab.tiny import WEIGHTS
from svdlab.tiny.evaluate import (
    find_rocket,
    generate,
    load,
    movement,
    psnr,
    rank_correlation,
    turn_between,
    write_between,
)
from svdlab.tiny.model import decode, encode
from svdlab.tiny.scenes import draw, pixels_per_frame

pytestmark = pytest.mark.xdist_group("weights")  # in one process: the clips are made once
SEEDS = (1, 2, 3)  # held out, and not among those of the model card
BUCKETS = (20, 90, 160, 240)


@pytest.fixture(scope="module")
def pipeline() -> StableVideoDiffusionPipeline:
    return load()


@pytest.fixture(scope="module")
def clips(pipeline):
    """{(seed, bucket): (generated clip, first picture, heading)}"""
    made = {}
    with torch.no_grad():
        for seed in SEEDS:
            start, truth = draw([seed], 0, 7, 1)
            for bucket in BUCKETS:
                made[seed, bucket] = generate(pipeline, seed, bucket), start[0, 0], float(truth.heading)
    return made


def test_plain_diffusers_loads_the_folder(pipeline):
    assert type(pipeline) is StableVideoDiffusionPipeline
    assert pipeline.unet.dtype == pipeline.vae.dtype == torch.float32
    assert (pipeline.unet.config.num_frames, pipeline.vae_scale_factor) == (14, 4)


def test_the_scheduler_is_svds(pipeline):
    assert type(pipeline.scheduler) is EulerDiscreteScheduler
    told = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "prediction_type": "v_prediction", "timestep_type": "continuous", "timestep_spacing": "leading",
        "steps_offset": 1, "use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0,
    }  # fmt: skip
    assert {name: pipeline.scheduler.config[name] for name in told} == told


def test_the_folder_is_small_and_half():
    files = [path for path in Path(WEIGHTS).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    half = StableVideoDiffusionPipeline.from_pretrained(str(WEIGHTS), dtype=torch.float16)
    assert half.unet.dtype == torch.float16


@torch.no_grad()
def test_the_vae_returns_pictures(pipeline):
    shown = draw(SEEDS, 200, 7, 6)[0][:, 5]
    returned = decode(pipeline.vae, encode(pipeline.vae, shown * 2 - 1))
    assert psnr((returned / 2 + 0.5).clamp(0, 1), shown) >= 28


def test_first_frames_are_the_picture(clips):
    assert statistics.median(psnr(clip[0], start) for clip, start, _ in clips.values()) >= 23


def test_motion_grows_with_the_bucket_by_the_rule(clips):
    ranks, errors = [], []
    for seed in SEEDS:
        speeds = [movement(find_rocket(clips[seed, bucket][0], seed))[0] for bucket in BUCKETS]
        ranks.append(rank_correlation(speeds))
        rules = [pixels_per_frame(bucket, 7) for bucket in BUCKETS]
        errors += [abs(speed - rule) / rule for speed, rule in list(zip(speeds, rules, strict=True))[1:]]
    assert statistics.median(ranks) >= 0.95
    assert statistics.median(errors) <= 0.25


def test_the_rocket_flies_where_its_nose_points(clips):
    errors = [
        turn_between(movement(find_rocket(clip, seed))[1], heading)
        for (seed, bucket), (clip, _, heading) in clips.items()
        if bucket >= 60
    ]
    assert statistics.median(errors) <= 15


def test_the_table_goes_between_its_markers(tmp_path):
    card = tmp_path / "README.md"
    assert not write_between(card, "x")
    card.write_text("before\n<!-- tiny-table -->\nold\n<!-- /tiny-table -->\nafter\n")
    assert write_between(card, "| new |")
    assert card.read_text() == "before\n<!-- tiny-table -->\n| new |\n<!-- /tiny-table -->\nafter\n"
