"""Video files read back: the frames, the playback speed, and the text and picture that were put inside.

A file may be cut short, may claim a million frames, or may be something else under a video's name. Each is told apart
by its first bytes and counted while it is decoded, and whatever is wrong with it becomes one sentence.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.stream import Disposition
from PIL import Image

from svdlab.atomic_files import restore_replaced
from svdlab.media.video_kinds import BEGINNING_BYTES, MAX_FPS, video_kind
from svdlab.media.write_video import EXIF_DESCRIPTION, METADATA_KEY
from svdlab.messages import first_line

MAX_PIXELS = 2**30  # over all frames of a file: 3 GiB of RGB, seven times 256 frames at 576x1024


class VideoInfo(NamedTuple):
    """A video file as it is shown: size in pixels, playback frames per second, frames (0: not said), codec, format."""

    width: int
    height: int
    fps: float
    frames: int
    codec: str
    pixel_format: str | None


def read_frames(path: str | Path) -> tuple[list[Image.Image], float]:
    """The frames of a video as RGB images, and its playback speed in frames per second.

    It may be what `write_video` wrote, or any other MP4, MOV, animated GIF or WebP. A ValueError where it is missing,
    cut short, no video, or over `MAX_PIXELS` in all.
    """
    path = restore_replaced(Path(path).expanduser())
    if path.is_dir():
        return _read_png(path)
    kind = _kind(path)
    if kind == "png":
        raise ValueError(f"{path} is a still picture, not a video.")
    with _explain_errors(path):
        if kind in ("gif", "webp"):
            return _read_animation(path)
    return list(iterate_frames(path)), probe(path).fps


def iterate_frames(path: Path) -> Iterator[Image.Image]:
    """The RGB frames of an MP4 or MOV, one at a time, for what would not fit into memory at once.

    A ValueError as of `read_frames`; where the file is cut short, after its last frame.
    """
    with _explain_errors(path), av.open(str(path), format=_kind(path)) as container:
        stream, count = _main_stream(container, path), 0
        expected = _frame_count(stream)
        stream.thread_count = 1  # each thread would hold frames of its own
        _check_pixels(stream.width, stream.height, expected, path)
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ValueError(f"{path} is cut short: its last frames are missing.")
            for frame in packet.decode():
                count += 1
                _check_pixels(frame.width, frame.height, count, path)
                yield frame.to_image().rotate(frame.rotation, expand=True)  # telephones film lying down
        if not count or count < expected:
            raise ValueError(f"{path} is cut short: {count} of {expected} frames can be read.")


def read_metadata(path: str | Path) -> tuple[str | None, Image.Image | None]:
    """The text and the picture that `write_video` put into a file, each None where there is none.

    A folder of PNG frames has them too, and each of its frames.
    """
    path = restore_replaced(Path(path).expanduser())
    if path.is_dir():
        path = _frame_paths(path)[0]
    kind, cover = _kind(path), None
    with _explain_errors(path):
        if kind != "mp4":
            with Image.open(path) as image:
                fields = _comment(image)
            if isinstance(inside := fields.get("picture"), str):
                cover = base64.b64decode(inside, validate=True)
        else:
            with av.open(str(path), format=kind) as container:
                fields = _parse_comment(container.metadata.get("comment", ""))
                for stream in container.streams.video:
                    if stream.disposition & Disposition.attached_pic:
                        cover = next((bytes(packet) for packet in container.demux(stream) if packet.size), None)
        text = fields.get(METADATA_KEY)
        picture = Image.open(io.BytesIO(cover)) if cover else None
        if picture:
            _check_pixels(*picture.size, 1, path)
            picture.load()
    return (text if isinstance(text, str) else None), picture


def probe(path: str | Path) -> VideoInfo:
    """What an MP4 or MOV says of itself; only its first frame is decoded."""
    path = Path(path).expanduser()
    with _explain_errors(path), av.open(str(path), format=_kind(path)) as container:
        stream = _main_stream(container, path)
        _check_pixels(stream.width, stream.height, 1, path)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        first = next(container.decode(stream), None)
        lies_down = first is not None and first.rotation % 180 != 0
        width, height = (stream.height, stream.width) if lies_down else (stream.width, stream.height)
        context = stream.codec_context
        return VideoInfo(width, height, fps, _frame_count(stream), context.name, context.pix_fmt)


def _parse_comment(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) and METADATA_KEY in fields else {}


def _comment(image: Image.Image) -> dict[str, Any]:
    if image.format == "WEBP":
        return _parse_comment(str(image.getexif().get(EXIF_DESCRIPTION, "")))
    text = image.info.get("comment", b"") if image.format == "GIF" else image.info.get("Comment", "")
    return _parse_comment(text.decode("ascii", "replace") if isinstance(text, bytes) else text)


def _read_animation(path: Path) -> tuple[list[Image.Image], float]:
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(-1, os.SEEK_END)
        end, size = file.read(), file.tell()
    if not (end == b";" if head[:3] == b"GIF" else int.from_bytes(head[4:8], "little") + 8 <= size):
        raise ValueError(f"{path} is cut short: its last frames are missing.")
    frames, ends, clock = [], [], 0
    with Image.open(path) as image:
        fields = _comment(image)
        for number in range(getattr(image, "n_frames", 1)):
            _check_pixels(image.width, image.height, number + 1, path)
            image.seek(number)
            frames.append(image.convert("RGB"))  # loads it, and with it the duration
            clock += image.info.get("duration") or 100  # as browsers treat a delay of 0
            ends.append(clock)
    fps, count = _speed_and_count(fields)
    if not count:
        return frames, 1000 * len(frames) / clock
    _check_pixels(frames[0].width, frames[0].height, count, path)
    # encoders join equal neighbours into one long frame: ask at the middle of each frame which one is on
    on = np.searchsorted(ends[:-1], (np.arange(count) + 0.5) * 1000 / fps)
    return [frames[i] for i in on], fps


def _read_png(folder: Path) -> tuple[list[Image.Image], float]:
    paths, frames, fields = _frame_paths(folder), [], {}
    for number, path in enumerate(paths):
        with _explain_errors(path), Image.open(path) as image:
            _check_pixels(*image.size, len(paths), folder)
            fields = fields or _comment(image)
            if path.name != f"frame-{number:04d}.png":
                raise ValueError(f"{folder} is incomplete: frame-{number:04d}.png is missing.")
            frames.append(image.convert("RGB"))
    fps, count = _speed_and_count(fields)
    if count != len(frames):
        raise ValueError(f"{folder} is incomplete or not svdlab's: {len(frames)} of {count} frames are in it.")
    return frames, fps


def _speed_and_count(fields: dict[str, Any]) -> tuple[float, int]:
    """Frames per second and frames, as `write_video` noted them; zeros where it did not."""
    fps, count = fields.get("fps"), fields.get("frames")
    if not isinstance(fps, (int, float)) or not isinstance(count, int) or not 0 < fps <= MAX_FPS or count < 1:
        return 0.0, 0
    return float(fps), count


def _frame_paths(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("frame-*.png"))
    if not paths:
        raise ValueError(f"{folder} is a folder without PNG frames: frame-0000.png and on were expected.")
    return paths


def _kind(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    with path.open("rb") as file:
        if kind := video_kind(file.read(BEGINNING_BYTES)):
            return kind
    raise ValueError(f"{path} is not a video: MP4, MOV, GIF, WebP or a folder of PNG frames can be read.")


def _main_stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    raise ValueError(f"{path} has no video in it that can be decoded, or is cut short.")


def _frame_count(stream: Any) -> int:
    """The frames that are shown: where a file was trimmed without encoding it anew, some are there and are not."""
    return max(0, stream.frames - sum(entry.is_discard for entry in stream.index_entries))


def _check_pixels(width: int, height: int, frames: int, path: Path) -> None:
    if width * height * max(frames, 1) > MAX_PIXELS or not width * height:
        raise ValueError(f"{path} claims {frames} frames of {width}x{height}, more than is read here: shrink it.")


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, Image.DecompressionBombError, OSError, SyntaxError, binascii.Error) as error:
        raise ValueError(f"{path} cannot be read as a video, or is cut short ({first_line(error)}).") from error
