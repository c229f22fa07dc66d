"""A small checkpoint in the hub's layout, written by plain diffusers: the real loading code runs on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mount
from micro_model import micro_pipeline

# One thread: the models here are so small that threads only wait for one another, minutes instead of seconds where
# something else is busy on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def micro():
    """A pipeline of SVD's own classes with seeded random weights, about a megabyte: 6 frames, latents at half size."""
    return micro_pipeline()


@pytest.fixture(scope="session")
def checkpoint(micro, tmp_path_factory) -> Path:
    """`micro` in a folder in the hub's layout, full precision."""
    folder = tmp_path_factory.mktemp("micro")
    micro.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def setup(checkpoint):
    """`micro` as a sweep loads it: in full precision, on the processor."""
    from svdlab import Setup
    from svdlab.pipelines.pipeline_cache import unload_cached

    yield Setup("svd", weights=str(checkpoint), dtype="fp32", device="cpu")
    unload_cached()


@pytest.fixture(scope="session")
def picture():
    """A conditioning picture with nothing in it that repeats: 48x32 (width x height)."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:32, 0:48]
    pixels = np.stack([x * 5, y * 7, (x * y) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def make_request(picture):
    """A request that suits `micro`, without the warnings that its size and steps deserve."""
    from svdlab import Request
    from svdlab.request import quiet_requests

    def make_request(**fields):
        small = {"height": 64, "width": 96, "num_frames": 6, "num_inference_steps": 2, "decode_chunk_size": 3}
        with quiet_requests():
            return Request.for_variant("svd", **{"image": picture, "seed": 5} | small | fields)

    return make_request


@pytest.fixture
def motion(tmp_path) -> Path:
    """The folder of a study of motion: six rows, whose clips are drawn."""
    import studies

    studies.write_study(tmp_path / "motion")
    return tmp_path / "motion"


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A real disk of 96 KiB."""
    folder = tmp_path / "disk"
    mount(folder, "size=96k")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)  # refused where a file is held open
