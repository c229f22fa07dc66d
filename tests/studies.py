"""Studies without a model: rows whose clips are drawn, each frame its own grey, so that a frame can be told."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from svdlab import Request, Row, Setup, assess, conditioning
from svdlab.generation.clip import Clip
from svdlab.machine import Machine

FRAMES = 6
KEY = "{:04x}000000000000"  # rows go by the first eight


def clip(seed: int = 0, bucket: int = 127, **fields: Any) -> Clip:
    """Frame i has the level 80 + 20·i, and a square that is redder with the seed, and moves with the bucket."""
    frames = []
    for i in range(FRAMES):
        level, left = 80 + 20 * i, 8 + i * bucket // 32
        frame = Image.new("RGB", (128, 72), (level, level, level))
        frame.paste((level + 8 * (seed % 9), level, level), (left, 8, left + 32, 40))
        frames.append(frame)
    asked: dict[str, Any] = {"image": "rocket", "seed": seed, "motion_bucket_id": bucket, "num_frames": FRAMES} | fields
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        request = Request.for_variant("tiny", **asked)
    return Clip(frames, request, Setup("tiny", dtype="fp32"), picture=_rocket())


@cache
def _rocket() -> Image.Image:
    return conditioning(Request.for_variant("tiny", image="rocket"))


def row(folder: Path, place: int, made: Clip, **fields: Any) -> Row:
    """Write the row of a clip, and the clip."""
    folder.mkdir(parents=True, exist_ok=True)
    key = KEY.format(place)
    machine = Machine("cpu", "A processor", 2**33, 2, "3.11.0", {"torch": "2.13.0"})
    given: dict[str, Any] = {
        "clip": made.save(folder / f"{key}.mp4"),
        "timings": {"sample_seconds": 1.0, "decode_seconds": 0.5},
        "quality": assess(made.frames),
        "axes": ("motion_bucket_id", "seed"),
        "picture_sha256": "5f6f5d397ac9d9dd",
        "machine": machine,
        "created": f"2026-01-02T03:04:05.{place:06d}+00:00",
        "version": "0.1.0",
    }
    assert made.setup
    one = Row(key=key, setup=made.setup, request=made.request, **given | fields)
    (folder / f"{key}.json").write_text(one.to_json(), encoding="utf-8")
    return one


def study(folder: Path) -> None:
    """Buckets 20, 127 and 220, seeds 1 and 2: drawn once, then copied."""
    shutil.copytree(_drawn_study(), folder)


@cache
def _drawn_study() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    places = [(bucket, seed) for bucket in (20, 127, 220) for seed in (1, 2)]
    for place, (bucket, seed) in enumerate(places):
        row(folder, place, clip(seed, bucket))
    return folder


def failure(folder: Path, place: int, error: str, **fields: Any) -> Row:
    """A row that failed."""
    made = clip(9, 127, **fields)
    assert made.setup
    given: dict[str, Any] = {"created": "2026-01-03", "axes": ("motion_bucket_id", "seed")}
    one = Row(KEY.format(place), made.setup, made.request, status="failed", error=error, **given)
    (folder / f"{one.key}.failed.json").write_text(one.to_json(), encoding="utf-8")
    return one


def many(folder: Path, count: int) -> None:
    """`count` rows of one clip, by copying it."""
    first = row(folder, 0, clip(0))
    text = first.to_json()
    for place in range(1, count):
        key = KEY.format(place)
        shutil.copyfile(folder / f"{first.key}.mp4", folder / f"{key}.mp4")
        changed = text.replace(first.key, key).replace('"seed": 0', f'"seed": {place}')
        bucket = f'"motion_bucket_id": {place % 5 * 50}'
        (folder / f"{key}.json").write_text(changed.replace('"motion_bucket_id": 127', bucket), encoding="utf-8")


def disguise(folder: Path, outside: Path) -> bytes:
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
