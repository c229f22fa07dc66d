from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from svdlab import Request, Row, Setup, save_wall, wall
from svdlab.media.video import read_frames, write_video


@pytest.fixture
def rows(tmp_path):
    """Buckets 20 and 200 at seeds 1 and 2, each a clip of one colour; the last one failed."""
    found = []
    for bucket, colour in ((200, (200, 0, 0)), (20, (0, 0, 200))):
        for seed in (1, 2):
            request = Request.for_variant("tiny", image="rocket", motion_bucket_id=bucket, seed=seed)
            frames = [Image.new("RGB", (128, 72), colour)] * (2 + seed)
            path = write_video(tmp_path / f"{bucket}-{seed}.mp4", frames, 7, metadata=None)
            found.append(Row(key=path.stem, setup=Setup("tiny"), request=request, clip=path))
    found[-1] = replace(found[-1], status="failed", error="out of <b>memory</b>", clip=None)
    return found


def test_values_grow_to_the_right_and_downwards(rows):
    page = wall(rows, "motion_bucket_id", "seed")
    assert page.labels == [f"motion_bucket_id {b}, seed {s}" for s in (1, 2) for b in (20, 200)]
    assert page.html.count("<video") == 3
    assert "<b>memory" not in page.html


def test_the_video_has_every_clip_in_its_place(rows, tmp_path, monkeypatch):
    from svdlab.generation.clip import Clip

    monkeypatch.setattr(Row, "open", lambda row: Clip(read_frames(row.clip)[0], row.request, row.setup))
    frames, fps = read_frames(save_wall(rows, tmp_path / "wall.mp4", "motion_bucket_id", "seed"))
    assert (len(frames), fps) == (4, 7)  # as long as the longest: the shorter ones wait
    pixels = np.asarray(frames[0]).astype(int)
    high, wide, _ = pixels.shape
    blue, red = pixels[high // 3, wide * 2 // 5], pixels[high // 3, wide * 4 // 5]
    assert blue[2] > 150 > blue[0]
    assert red[0] > 150 > red[2]
    grey = pixels[high * 5 // 6, wide * 2 // 5]
    assert np.ptp(grey) < 20  # the failed one
    assert (pixels[: high // 12] < 100).any()  # the knob's name is written above


def test_nothing_to_hang_is_said(rows, tmp_path):
    with pytest.raises(ValueError, match="no rows to put on a wall"):
        wall([], "seed")
    with pytest.raises(ValueError, match="Rows have no 'bucket'"):
        wall(rows, "bucket")
    with pytest.raises(ValueError, match="None of these rows has a clip"):
        save_wall(rows[-1:], tmp_path / "wall.mp4", "seed")
    assert not (tmp_path / "wall.mp4").exists()
