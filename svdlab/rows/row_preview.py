"""The preview beside a row's clip.

Sweeps write it with the clip. It is read as strictly as clips are, and made where it is missing.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from PIL import Image

from svdlab.atomic_files import atomic_write
from svdlab.media.preview import PREVIEW_SIDE, preview_bytes
from svdlab.media.read_video import read_frames
from svdlab.progress_bar import Progress
from svdlab.rows.row import Row, preview_name

_MOST_BYTES = 4 * 2**20  # 250 frames of noise


def read_preview(row: Row, make: bool = True) -> bytes | None:
    """The preview of a row's clip, an animated WebP; None where there is no clip.

    Args:
        row: any row.
        make: make one that is missing, and keep it, where the folder can be written.
    """
    clip = row.clip_file()
    if clip is None:
        return None
    path = clip.with_name(preview_name(row.key))
    if (data := _read_webp(path, row.request.num_frames)) or not make:
        return data
    try:
        data = preview_bytes(read_frames(clip)[0], row.request.fps)
    except ValueError:  # the clip is cut short
        return None
    with suppress(OSError), atomic_write(path) as scratch:
        scratch.write_bytes(data)
    return data


def make_previews(rows: Iterable[Row]) -> None:
    """Make the previews that rows of older versions lack; half a second of a core for each clip at full size."""
    clips = ((row, row.clip_file()) for row in rows)
    missing = [row for row, clip in clips if clip and not clip.with_name(preview_name(row.key)).exists()]
    with Progress(total=len(missing), unit="preview", delay=2) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read_preview, missing):
            bar.update()


def _read_webp(path: Path, frames: int) -> bytes | None:
    """The file's bytes, where it is a regular file, and a small WebP of at most so many frames."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            is_preview = max(image.size) <= PREVIEW_SIDE and getattr(image, "n_frames", 1) <= frames
    except Exception:  # of the disk or of a decoder: whatever it is, it is no preview
        return None
    return data if is_preview else None
