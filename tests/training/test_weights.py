"""The committed weights hold their bars, through plain diffusers, on a handful of scenes never trained on."""

import statistics
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline

from svdlab.tiny import WEIGHTS, pixels_per_frame
from training.bars import write_between
from training.evaluate import Edition
from training.measures import find_rocket, movement, psnr, rank_correlation, turn_between
from training.model import decode, encode
from training.scenes import WIDTH, draw

pytestmark = pytest.mark.xdist_group("weights")  # in one process: the clips are made once
SEEDS = (1, 2, 3)  # held out, and not among those of the model card
BUCKETS = (20, 90, 160, 240)


@pytest.fixture(scope="module")
def edition() -> Edition:
    return Edition()


@pytest.fixture(scope="module")
def pipeline(edition) -> StableVideoDiffusionPipeline:
    return edition.pipeline


@torch.no_grad()
def scene(edition, seed: int, buckets: tuple[int, ...]) -> dict:
    """What the model makes of one scene: by bucket the PSNR of its first frame (dB), the speed (pixels a frame) and the
    error of its heading (degrees)."""
    start, truth = edition.truth(seed, 0, frames=1)
    measured = {}
    for bucket in buckets:
        clip = edition.clip(seed, bucket)
        speed, heading = movement(find_rocket(clip, seed))
        measured[bucket] = psnr(clip[0], start[0]), speed, turn_between(heading, float(truth.heading))
    return measured


def test_plain_diffusers_loads_the_folder(pipeline):
    assert type(pipeline) is StableVideoDiffusionPipeline
    assert pipeline.unet.dtype == pipeline.vae.dtype == torch.float32
    assert (pipeline.unet.config.num_frames, pipeline.vae_scale_factor) == (14, 4)


def test_the_scheduler_is_svds_but_for_the_lowest_noise(pipeline):
    assert type(pipeline.scheduler) is EulerDiscreteScheduler
    expected = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "prediction_type": "v_prediction", "timestep_type": "continuous", "timestep_spacing": "leading",
        "steps_offset": 1, "use_karras_sigmas": True, "sigma_min": 0.7, "sigma_max": 700.0,
    }  # fmt: skip
    assert {name: pipeline.scheduler.config[name] for name in expected} == expected


def test_the_folder_is_small_and_half():
    files = [path for path in Path(WEIGHTS).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    half = StableVideoDiffusionPipeline.from_pretrained(str(WEIGHTS), dtype=torch.float16)
    assert half.unet.dtype == torch.float16


@torch.no_grad()
def test_the_vae_returns_pictures(edition, pipeline):
    pictures = draw(SEEDS, 200, 7, 6, edition.height, edition.width)[0][:, 5]
    returned = decode(pipeline.vae, encode(pipeline.vae, pictures * 2 - 1))
    assert psnr((returned / 2 + 0.5).clamp(0, 1), pictures) >= 28


def test_a_rocket_flies_where_its_nose_points_as_fast_as_its_bucket_says(edition):
    measured = scene(edition, 1, (240,))
    for bucket, (likeness, speed, turn) in measured.items():
        assert likeness >= 23
        assert speed == pytest.approx(pixels_per_frame(bucket, 7, WIDTH), rel=0.25)
        assert turn <= 15


@pytest.mark.slow
def test_three_scenes_at_four_buckets(edition):
    measured = [scene(edition, seed, BUCKETS) for seed in SEEDS]
    ranks = [rank_correlation([speed for _, speed, _ in buckets.values()]) for buckets in measured]
    clips = [(bucket, *values) for buckets in measured for bucket, values in buckets.items()]
    rules = {bucket: pixels_per_frame(bucket, 7, WIDTH) for bucket in BUCKETS}
    assert statistics.median(ranks) >= 0.95
    assert statistics.median(likeness for _, likeness, _, _ in clips) >= 23
    assert statistics.median(abs(v - rules[b]) / rules[b] for b, _, v, _ in clips if b != 20) <= 0.25
    assert statistics.median(turn for bucket, _, _, turn in clips if bucket >= 60) <= 15


def test_the_table_goes_between_its_markers(tmp_path):
    card = tmp_path / "README.md"
    assert not write_between(card, "x")
    card.write_text("before\n<!-- tiny-table -->\nold\n<!-- /tiny-table -->\nafter\n")
    assert write_between(card, "| new |")
    assert card.read_text() == "before\n<!-- tiny-table -->\n| new |\n<!-- /tiny-table -->\nafter\n"
