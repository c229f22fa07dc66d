from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svdlab import Request, Row, Setup, grid, save_wall, wall
from svdlab.interface import clip_wall
from svdlab.interface.review import Review
from svdlab.interface.row_labels import distinct_texts, knobs, row_labels, setup_labels
from svdlab.interface.study_folder import Entry
from svdlab.media.read_video import read_frames
from svdlab.media.write_video import write_video

LONG = ("channels-last", "group-offload=leaf", "single-token", "split-guidance", "forward-chunking=5", "lean-decode")


@pytest.fixture
def rows(tmp_path):
    """Buckets 20 and 200 at seeds 1 and 2, each a clip of one colour; the last one failed."""
    rows = []
    for bucket, colour in ((200, (200, 0, 0)), (20, (0, 0, 200))):
        for seed in (1, 2):
            request = Request.for_variant("tiny", image="rocket", motion_bucket_id=bucket, seed=seed)
            frames = [Image.new("RGB", (128, 72), colour)] * (2 + seed)
            path = write_video(tmp_path / f"{bucket}-{seed}.mp4", frames, 7, metadata=None)
            rows.append(Row(key=path.stem, setup=Setup("tiny"), request=request, clip=path))
    rows[-1] = replace(rows[-1], status="failed", error="out of <b>memory</b>\nand time", clip=None)
    return rows


def test_values_grow_to_the_right_and_downwards(rows):
    page = wall(rows, "motion_bucket_id", "seed")
    assert page.labels == [f"motion_bucket_id {b}, seed {s}" for s in (1, 2) for b in (20, 200)]
    assert page.html.count("data:image/webp") == page.html.count('data-frames="14"') == 3
    assert "Trust Notebook" in page.html
    assert "<b>memory" not in page.html


def test_the_video_has_every_clip_in_its_place(rows, tmp_path):
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


def test_clips_keep_their_shape_and_labels_their_column(rows, tmp_path):
    tall = write_video(tmp_path / "tall.mp4", [Image.new("RGB", (72, 128), (0, 200, 0))] * 2, 7)
    setups = [Setup("tiny", optimizations=LONG[1:]), Setup("tiny", optimizations=LONG)]
    pair = [replace(row, setup=s, clip=c) for row, s, c in zip(rows, setups, (rows[0].clip, tall), strict=False)]
    frames, _ = read_frames(save_wall(pair, tmp_path / "wall.mp4", "setup"))
    pixels = np.asarray(frames[0]).astype(int)
    high, wide = (np.ptp(places) for places in np.nonzero(pixels[..., 1] - pixels[..., 0] > 100))
    assert high / wide == pytest.approx(128 / 72, rel=0.05)
    assert pixels[30:, 257:259].min() > 200  # nothing reaches from one column into the next


def test_a_long_wall_is_small_enough_for_a_video(rows, tmp_path):
    rows[1:] = [replace(rows[-1], request=replace(rows[-1].request, seed=seed)) for seed in range(2, 400)]
    frames, _ = read_frames(save_wall(rows[:150], tmp_path / "wall.mp4", "motion_bucket_id", "seed"))
    assert max(frames[0].size) <= 3840
    named = [
        replace(row, request=replace(row.request, image=f"a picture of {'mountains ' * 4}and of the sea {i % 130}.jpg"))
        for i, row in enumerate(rows)
    ]  # their labels take two lines
    frames, _ = read_frames(save_wall(named[:14], tmp_path / "wall.mp4", "seed", "image"))
    assert max(frames[0].size) <= 3840
    frames, _ = read_frames(save_wall([*named[:2], *rows[2:100]], tmp_path / "wall.mp4", "seed", "image"))
    heights = np.flatnonzero((np.asarray(frames[0].convert("L"))[40:, :200] < 100).any(axis=1))
    assert 1 + (np.diff(heights) > 1).sum() == 5  # two lines of each name, and one of "rocket"
    for wall_rows, across, down in ((rows, "", "seed"), (named[:130], "motion_bucket_id", "image")):
        with pytest.raises(ValueError, match="hang fewer rows"):
            save_wall(wall_rows, tmp_path / "long.mp4", across, down)
        assert not (tmp_path / "long.mp4").exists()


def test_two_pictures_of_one_name_have_a_place_each(rows):
    namesakes = [
        replace(row, request=replace(row.request, image=f"/{folder}/cat.png", motion_bucket_id=bucket))
        for bucket in (20, 200)
        for row, folder in zip(rows, ("mine", "yours"), strict=False)
    ]
    page = wall(namesakes, "image", "motion_bucket_id")
    assert page.labels == [f"image {f}/cat.png, motion_bucket_id {b}" for b in (20, 200) for f in ("mine", "yours")]
    assert page.html.count("data:image/webp") == 4
    in_memory = [
        replace(row, request=replace(row.request, image=Image.new("RGB", (128, 72), (i * 60, 0, 0))))
        for i, row in enumerate(rows[:2])
    ]
    assert len(set(wall(in_memory, "image").labels)) == 2


def test_labels_of_different_values_differ():
    assert list(distinct_texts([0.12345, 0.12346, 7]).values()) == ["0.12345", "0.12346", "7"]
    assert len(set(distinct_texts(["x" * 900, "y" + "x" * 900]).values())) == 2
    label = Setup("tiny", optimizations=LONG).label
    assert distinct_texts([label]) == {label: label}


def test_setups_are_an_axis(rows):
    setups = [Setup("tiny"), Setup("tiny", optimizations=("single-token",)), Setup("tiny", weights="random")]
    trials = grid(setups, Request(image="rocket"), seed=[1, 2])
    clips = [rows[i % 2].clip for i in range(len(trials))]
    by_setup = [
        replace(rows[0], setup=t.setup, request=t.request, axes=t.axes, clip=c)
        for t, c in zip(trials, clips, strict=True)
    ]
    labels = ["plain, bundled", "single-token, bundled", "plain, random"]
    assert list(dict.fromkeys(setup_labels(by_setup))) == labels
    assert wall(by_setup, "setup", "seed").labels == [f"setup {label}, seed {s}" for s in (1, 2) for label in labels]
    assert list(knobs(by_setup)) == ["setup", "seed"]
    assert row_labels(by_setup)[:2] == ["setup plain, bundled, seed 1", "setup plain, bundled, seed 2"]


def test_one_knob_alone(rows):
    study = Review([Entry(row, Path()) for row in rows[:2]])
    assert study.wall(down="seed").labels == ["seed 1", "seed 2"]
    assert study.wall().labels == ["seed 1", "seed 2"]


def test_a_wall_is_decoded_frame_by_frame(rows, tmp_path, monkeypatch):
    """One frame of each clip is in memory, not all: a hundred clips of 25 frames would take 4.4 GB."""
    frames = [Image.new("RGB", (128, 72), (i * 10, 0, 0)) for i in range(25)]
    clip = write_video(tmp_path / "long.mp4", frames, 7)
    del frames
    iterate, decoded, living = clip_wall.iterate_frames, [], []

    def record_frames(path):
        for frame in iterate(path):
            decoded.append(weakref.ref(frame))
            yield frame

    def count_living(path, frames, fps):
        for _ in frames:
            living.append(sum(reference() is not None for reference in decoded))

    monkeypatch.setattr(clip_wall, "iterate_frames", record_frames)
    monkeypatch.setattr(clip_wall, "write_video", count_living)
    wall_rows = [replace(rows[0], clip=clip, request=replace(rows[0].request, seed=seed)) for seed in range(12)]
    save_wall(wall_rows, tmp_path / "wall.mp4", "seed")
    assert len(living) == 25
    assert len(decoded) == 12 * 25
    assert max(living) <= 2 * len(wall_rows)


def test_a_clip_that_is_cut_short_leaves_the_others_alone(rows, tmp_path):
    rows[0].clip.write_bytes(rows[0].clip.read_bytes()[:600])
    assert len(read_frames(save_wall(rows, tmp_path / "wall.mp4", "motion_bucket_id", "seed"))[0]) == 4


def test_a_wall_without_clips_is_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="no rows to put on a wall"):
        wall([], "seed")
    with pytest.raises(ValueError, match="Rows have no 'bucket'"):
        wall(rows, "bucket")
    with pytest.raises(ValueError, match="None of these rows has a clip"):
        save_wall(rows[-1:], tmp_path / "wall.mp4", "seed")
    assert not (tmp_path / "wall.mp4").exists()
