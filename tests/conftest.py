"""A small checkpoint in the hub's layout, written by plain diffusers: the real loading code runs on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mount

# One thread: the models here are so small that threads only wait for one another, minutes instead of seconds where
# something else is busy on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def micro():
    """A pipeline of SVD's own classes with seeded random weights, about a megabyte: 6 frames, latents at half size."""
    import torch
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from svdlab.pipelines.random_weights import SCHEDULER

    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=32,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 32),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=16,
        num_attention_heads=(2, 2),
        num_frames=6,
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.5,
    )
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            patch_size=56,
            projection_dim=16,
        )
    )
    pipeline = StableVideoDiffusionPipeline(
        vae.eval(), image_encoder.eval(), unet.eval(), EulerDiscreteScheduler(**SCHEDULER), CLIPImageProcessor()
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def checkpoint(micro, tmp_path_factory) -> Path:
    """`micro` in a folder in the hub's layout, full precision."""
    folder = tmp_path_factory.mktemp("micro")
    micro.save_pretrained(folder)
    return folder


@pytest.fixture
def picture():
    """A conditioning picture with nothing in it that repeats: 48x32 (width x height)."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:32, 0:48]
    pixels = np.stack([x * 5, y * 7, (x * y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def ask(picture):
    """A request that suits `micro`, without the warnings that its size and steps deserve."""
    import warnings

    from svdlab import Request

    def asked(**fields):
        small = {"height": 64, "width": 96, "num_frames": 6, "num_inference_steps": 2, "decode_chunk_size": 3}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return Request.for_variant("svd", **{"image": picture, "seed": 5} | small | fields)

    return asked


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A real disk of 96 KiB."""
    folder = tmp_path / "disk"
    mount(folder, "size=96k")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # refused where a file is held open
