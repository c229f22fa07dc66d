"""Previews beside rows: small, made once where they are missing, and only read where they are what they should be."""

from __future__ import annotations

import io
import os

import pytest
import studies
from PIL import Image, ImageChops, ImageStat

from svdlab.media.preview import preview_bytes
from svdlab.rows.row_preview import make_previews, read_preview


@pytest.fixture
def row(tmp_path):
    return studies.write_row(tmp_path, 0, studies.draw_clip(bucket=220))


def test_a_preview_is_small_and_looks_like_the_clip(row):
    clip = row.open()
    full = [frame.resize((1024, 576)) for frame in clip.frames]
    for frames, size in (
        (clip.frames, (256, 154)),
        (full, (256, 144)),
        ([full[0].rotate(90, expand=True)], (144, 256)),
    ):
        with Image.open(io.BytesIO(preview_bytes(frames, 7))) as preview:
            assert preview.size == size
            for number in range(len(frames)):
                preview.seek(number)
                difference = ImageChops.difference(preview.convert("RGB"), frames[number].convert("RGB").resize(size))
                assert max(ImageStat.Stat(difference).mean) < 3
    assert len(preview_bytes(full, 7)) < 60_000


def test_a_missing_preview_is_made_once_and_kept(row, tmp_path, monkeypatch):
    assert read_preview(row, make=False) is None
    make_previews([row])
    preview = read_preview(row, make=False)
    assert preview
    assert (tmp_path / f"{row.key}.preview.webp").read_bytes() == preview
    monkeypatch.setattr("svdlab.rows.row_preview.read_frames", None)
    make_previews([row])
    assert read_preview(row) == preview


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "text", "torn", "of more frames"])
def test_what_is_no_preview_of_the_clip_is_not_shown(row, tmp_path, kind):
    path, preview = tmp_path / f"{row.key}.preview.webp", read_preview(row)
    path.unlink()
    (tmp_path / "secret").write_bytes(preview)
    if kind == "link":
        path.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(path)  # a reader would wait for ever
    elif kind == "folder":
        path.mkdir()
    else:
        longer = preview_bytes([Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(0, 200, 20)], 7)
        path.write_bytes({"text": b"PASSWORD", "torn": preview[:100], "of more frames": longer}[kind])
    assert read_preview(row) == preview  # made anew
    assert kind == "folder" or (path.is_file() and not path.is_symlink())


def test_a_row_without_its_clip_has_none(row):
    row.clip.write_bytes(row.clip.read_bytes()[:600])
    assert read_preview(row) is None
    row.clip.unlink()
    assert read_preview(row) is None
