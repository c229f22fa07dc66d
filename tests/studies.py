"""Studies without a model: rows whose clips are drawn, each frame its own grey, so that a frame can be told."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from svdlab import Request, Row, Setup, assess, conditioning
from svdlab.generation.clip import Clip
from svdlab.machine import Machine
from svdlab.request import quiet_requests

FRAMES = 6
KEY = "{:04x}000000000000"  # rows go by the first eight


def draw_clip(seed: int = 0, bucket: int = 127, **fields: Any) -> Clip:
    """Frame i has the level 80 + 20·i, and a square that is redder with the seed, and moves with the bucket."""
    frames = []
    for i in range(FRAMES):
        level, left = 80 + 20 * i, 8 + i * bucket // 32
        frame = Image.new("RGB", (160, 96), (level, level, level))
        frame.paste((level + 8 * (seed % 9), level, level), (left, 8, left + 32, 40))
        frames.append(frame)
    arguments: dict[str, Any] = {
        "image": "rocket",
        "seed": seed,
        "motion_bucket_id": bucket,
        "num_frames": FRAMES,
    } | fields
    with quiet_requests():
        request = Request.for_variant("tiny", **arguments)
    return Clip(frames, request, Setup("tiny", dtype="fp32"), picture=_rocket())


@cache
def _rocket() -> Image.Image:
    return conditioning(Request.for_variant("tiny", image="rocket"))


def write_row(folder: Path, place: int, source: Clip, **fields: Any) -> Row:
    """Write the row of a clip, and the clip."""
    folder.mkdir(parents=True, exist_ok=True)
    key = KEY.format(place)
    machine = Machine("cpu", "A processor", 2**33, 2, "3.11.0", {"torch": "2.13.0"})
    defaults: dict[str, Any] = {
        "clip": source.save(folder / f"{key}.mp4"),
        "timings": {"sample_seconds": 1.0, "decode_seconds": 0.5},
        "quality": assess(source.frames),
        "axes": ("motion_bucket_id", "seed"),
        "picture_sha256": "5f6f5d397ac9d9dd",
        "machine": machine,
        "created": f"2026-01-02T03:04:05.{place:06d}+00:00",
        "version": "0.1.0",
    }
    assert source.setup
    new_row = Row(key=key, setup=source.setup, request=source.request, **defaults | fields)
    (folder / f"{key}.json").write_text(new_row.to_json(), encoding="utf-8")
    return new_row


def write_study(folder: Path) -> None:
    """Buckets 20, 127 and 220, seeds 1 and 2: drawn once, then copied."""
    shutil.copytree(_draw_study(), folder)


@cache
def _draw_study() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    places = [(bucket, seed) for bucket in (20, 127, 220) for seed in (1, 2)]
    for place, (bucket, seed) in enumerate(places):
        write_row(folder, place, draw_clip(seed, bucket))
    return folder


def write_failure(folder: Path, place: int, error: str, **fields: Any) -> Row:
    """A row that failed."""
    source = draw_clip(9, 127, **fields)
    assert source.setup
    defaults: dict[str, Any] = {"created": "2026-01-03", "axes": ("motion_bucket_id", "seed")}
    new_row = Row(KEY.format(place), source.setup, source.request, status="failed", error=error, **defaults)
    (folder / f"{new_row.key}.failed.json").write_text(new_row.to_json(), encoding="utf-8")
    return new_row


def write_copies(folder: Path, count: int) -> None:
    """`count` rows of one clip, by copying it."""
    first = write_row(folder, 0, draw_clip(0))
    text = first.to_json()
    for place in range(1, count):
        key = KEY.format(place)
        shutil.copyfile(folder / f"{first.key}.mp4", folder / f"{key}.mp4")
        row_text = text.replace(first.key, key).replace('"seed": 0', f'"seed": {place}')
        bucket = f'"motion_bucket_id": {place % 5 * 50}'
        (folder / f"{key}.json").write_text(row_text.replace('"motion_bucket_id": 127', bucket), encoding="utf-8")


def replace_clips(folder: Path, outside: Path) -> bytes:
    """Put something else in the place of a study's first three clips: a link to a secret, a secret, and a folder."""
    secret = b"PASSWORD=hunter2" * 8
    (outside / ".env").write_bytes(secret)
    first, second, third = (folder / f"{KEY.format(place)}.mp4" for place in range(3))
    for clip in (first, second, third):
        clip.unlink()
    first.symlink_to(outside / ".env")
    second.write_bytes(secret)
    third.mkdir()
    return secret
