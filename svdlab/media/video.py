"""Video files: frames, a playback speed, a text and a picture, in and out of MP4, GIF, WebP and folders of PNGs.

Nothing here knows of requests or clips. The text travels as one line of ASCII JSON, `{"svdlab": text, …}`, in each
format's ordinary comment field, so that any string survives exactly and ordinary tools show it (`ffprobe` for
MP4). The picture travels losslessly: as cover art in MP4 (players show it as the thumbnail and play
the clip), as base64 in the JSON elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import io
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import numpy as np
from av.stream import Disposition
from PIL import Image, PngImagePlugin

from svdlab.atomic_files import atomic_write, restore_replaced

MAX_PIXELS = 2**30  # over all frames, what `read` takes on: 3 GiB of RGB, seven times 256 frames at 576x1024
_CRF = 17  # x264: visually lossless is about 18, https://trac.ffmpeg.org/wiki/Encode/H.264
_BT709 = 1  # primaries, transfer and matrix, in H.273's numbering
_KEY = "svdlab"
_EXIF_DESCRIPTION = 0x010E
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 - 0.47  # mean 0
# what `max_bytes` gives up, in this order: colours, then size, then every second frame
_STEPS = [(256, 1, 1), (128, 1, 1), (64, 1, 1), (64, 0.75, 1), (64, 0.5, 1), (64, 0.25, 1), (64, 0.5, 2), (64, 0.25, 2)]
_SIGNS = {  # what files begin with
    "gif": rb"GIF8",
    "webp": rb"RIFF....WEBP",
    "png": rb"\x89PNG\r\n\x1a\n",
    "mp4": rb"....ftyp",
    "matroska": rb"\x1aE\xdf\xa3",
}


class Info(NamedTuple):
    """What `probe` says of a file: size in pixels, playback frames per second, number of frames, codec."""

    width: int
    height: int
    fps: float
    frames: int
    codec: str


def write_video(
    path: str | Path,
    frames: Sequence[Image.Image],
    fps: float,
    *,
    metadata: str | None = None,
    picture: Image.Image | None = None,
    loop: int = 0,
    ping_pong: bool = False,
    max_bytes: int | None = None,
    crf: int = _CRF,
) -> Path:
    """One file at `path` that plays `frames` at `fps`, whole or not at all; what stood there before is replaced.

    The suffix decides: `.mp4` (H.264, yuv420p, BT.709, faststart, the size unchanged: both sides must be even), `.gif`
    (one palette over the whole clip; delays are multiples of 10 ms, spread so that the total is right), `.webp`
    (lossy at quality 90), or none: a folder of `frame-0000.png` and on. Folders on the way are made.

    `metadata` and `picture` come back from `read_metadata`. `loop` is how often it plays: 0 is for ever; MP4 and PNG
    cannot say, so there 2 and more are written out. `ping_pong` plays forth and back without dwelling at the turns.
    `max_bytes` holds a GIF under a size by fewer colours (128, 64), then a smaller picture (3/4, 1/2, 1/4), then every
    second frame; never by leaving out metadata or picture. `crf` is the quality of an MP4: 0 lossless, 51 worst.

    `ValueError` with the way out for what cannot be written; `OSError` from a full disk leaves nothing behind.
    """
    path, shots, suffix = Path(path), _checked(frames, fps), check_path(path)
    if max_bytes is not None and (suffix != ".gif" or max_bytes < 1):
        raise ValueError(
            "max_bytes is for .gif; for a smaller .mp4 raise crf (17 is usual, 28 takes a third of that or less)."
        )
    if not (isinstance(loop, int) and loop >= 0):
        raise ValueError(f"loop={loop!r} must be how often the clip plays: 0 (for ever), 1, 2, …")
    if ping_pong:
        shots += shots[-2:0:-1]
    with atomic_write(path) as beside:
        if suffix == ".mp4":
            _write_mp4(beside, shots * max(loop, 1), fps, metadata, picture, crf)
        elif suffix == ".gif":
            _write_gif(beside, shots, fps, metadata, picture, loop, max_bytes or math.inf)
        elif suffix == ".webp":
            _write_webp(beside, shots, fps, metadata, picture, loop)
        else:
            _write_png(beside, shots * max(loop, 1), fps, metadata, picture)
    return path


def check_path(path: str | Path) -> str:
    """The suffix of `path`, in small letters. A `ValueError` where `write` would refuse it: to ask before the work."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif", ".webp", ""):
        raise ValueError(f"Cannot write {suffix!r}: use .mp4, .gif or .webp, or a name without a dot for PNG frames.")
    if suffix == "" and path.exists() and not (path.is_dir() and all(p.match("frame-*.png") for p in path.iterdir())):
        raise ValueError(f"{path} holds more than PNG frames: choose a new folder, or a name with .mp4 or .gif.")
    return suffix


def read_frames(path: str | Path) -> tuple[list[Image.Image], float]:
    """The frames of a video as RGB pictures, and its frames per second.

    Reads what `write` writes, and any other MP4, MOV, WebM, MKV, animated GIF or WebP. `ValueError` in one sentence for
    a file that is missing, cut short, no video, or larger than `MAX_PIXELS` over all frames.
    """
    path = restore_replaced(Path(path))
    if path.is_dir():
        return _read_png(path)
    kind = _kind(path)
    if kind == "png":
        raise ValueError(f"{path} is a still picture, not a video.")
    with _explained(path):
        if kind in ("gif", "webp"):
            return _read_animation(path)
        frames = []
        with av.open(str(path), format=kind) as container:
            stream = _main_stream(container, path)
            _affordable(stream.width, stream.height, stream.frames, path)
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise ValueError(f"{path} is cut short: its last frames are missing.")
                for frame in packet.decode():
                    _affordable(frame.width, frame.height, len(frames) + 1, path)
                    frames.append(frame.to_image())
            if not frames or len(frames) < stream.frames:
                raise ValueError(f"{path} is cut short: {len(frames)} of {stream.frames} frames can be read.")
            return frames, float(stream.average_rate or stream.guessed_rate or 0)


def read_metadata(path: str | Path) -> tuple[str | None, Image.Image | None]:
    """The text and the picture that `write` put into the file, each `None` where there is none.

    Takes a single PNG frame too, for its text. `ValueError` as `read` has it.
    """
    path = restore_replaced(Path(path))
    if path.is_dir():
        path = _frame_paths(path)[0]
    kind, cover = _kind(path), None
    with _explained(path):
        if kind in ("gif", "webp", "png"):
            with Image.open(path) as image:
                fields = _comment(image)
            if isinstance(inside := fields.get("picture"), str):
                cover = base64.b64decode(inside, validate=True)
        else:
            with av.open(str(path), format=kind) as container:
                fields = _unpack(container.metadata.get("comment", ""))
                for stream in container.streams.video:
                    if stream.disposition & Disposition.attached_pic:
                        cover = next((bytes(packet) for packet in container.demux(stream) if packet.size), None)
        text = fields.get(_KEY)
        picture = Image.open(io.BytesIO(cover)) if cover else None
        if picture:
            _affordable(*picture.size, 1, path)
            picture.load()
    return (text if isinstance(text, str) else None), picture


def probe(path: str | Path) -> Info:
    """What an MP4, MOV, WebM or MKV says of itself, without decoding it."""
    path = Path(path)
    with _explained(path), av.open(str(path), format=_kind(path)) as container:
        stream = _main_stream(container, path)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        return Info(stream.width, stream.height, fps, stream.frames, stream.codec_context.name)


# --- writing: each takes (path, RGB frames, fps, metadata, picture, …) ----------------------------


def _write_mp4(path: Path, frames, fps, metadata, picture, crf: int) -> None:
    width, height = frames[0].size
    if width % 2 or height % 2:
        even = f"{width // 2 * 2}x{height // 2 * 2}"
        raise ValueError(f"H.264 needs even sides and the frames are {width}x{height}: crop to {even}, or save a .gif.")
    rate = Fraction(fps).limit_denominator(1001)  # finds 24000/1001 and its kind again
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        # no B-frames: they need an edit list, which some players ignore and then show the first frame late
        video = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "bf": "0", "preset": "slow"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        context = video.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = 1  # 16 to 235, what players expect of yuv420p
        if metadata is not None:
            container.metadata["comment"] = _pack(metadata)
        if picture is not None:
            cover = container.add_stream("png", rate=1)
            cover.width, cover.height, cover.pix_fmt = *picture.size, "rgb24"
            cover.disposition = Disposition.attached_pic.value  # pyright: ignore[reportAttributeAccessIssue]
            packet = av.Packet(_encoded([picture], "PNG"))
            packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1)
            container.mux(packet)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image).reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", interpolation="LANCZOS"
            )
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode())


def _write_gif(path: Path, frames, fps, metadata, picture, loop: int, limit: float) -> None:
    if fps > 50:
        raise ValueError(
            f"A GIF plays at most 50 fps (browsers slow anything faster to 10): use fps=50 or .mp4, not {fps}."
        )
    for colours, scale, every in _STEPS:
        size = [max(1, round(side * scale)) for side in frames[0].size]
        chosen = [frame.resize(size, Image.Resampling.LANCZOS) if scale < 1 else frame for frame in frames[::every]]
        fields = _pack(metadata, picture, fps=fps / every, frames=len(chosen))
        data = _encode_gif(chosen, colours, _delays(len(frames), fps, 10, every), loop, fields)
        if len(data) <= limit:
            path.write_bytes(data)
            return
    inside = f", {len(fields):,} of them the picture and metadata inside" if len(fields) > limit // 10 else ""
    raise ValueError(
        f"Even the smallest version takes {len(data):,} bytes{inside}; max_bytes={limit:,}: raise it or use .mp4."
    )


def _encode_gif(frames, colours: int, delays: list[int], loop: int, comment: str) -> bytes:
    """One palette over all frames and a still dither pattern: what does not move does not shimmer, and packs well."""
    samples = [frame.resize([min(side, 48) for side in frame.size], Image.Resampling.NEAREST) for frame in frames]
    sheet = Image.fromarray(np.concatenate([np.asarray(sample) for sample in samples]))
    # one index is left over, to mark "as in the frame before"; coverage is 3 dB better than the default, median cut
    palette = sheet.quantize(colours - 1, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    table = bytes(palette.getpalette() or ())[: 3 * (colours - 1)]
    width, height = frames[0].size
    spread = 256 / max(len(table) // 3, 1) ** (1 / 3)  # the usual distance between neighbours in the palette
    pattern = np.tile(_BAYER, (height // 4 + 1, width // 4 + 1))[:height, :width, None] * spread / 2
    pages = []
    for frame in frames:
        dithered = np.clip(np.asarray(frame) + pattern, 0, 255).round().astype(np.uint8)
        pages.append(Image.fromarray(dithered).quantize(palette=palette, dither=Image.Dither.NONE))
    taken = {table[i : i + 3] for i in range(0, len(table), 3)}
    unused = next(rgb for rgb in (bytes([0, 0, blue]) for blue in range(256)) if rgb not in taken)
    repeat: dict[str, Any] = {} if loop == 1 else {"loop": max(loop - 1, 0)}  # GIF counts the times after the first
    colouring = {"palette": table + unused, "transparency": len(table) // 3, "optimize": True, "disposal": 1}
    return _encoded(pages, "GIF", duration=delays, comment=comment.encode("ascii"), **colouring, **repeat)


def _write_webp(path: Path, frames, fps, metadata, picture, loop: int) -> None:
    exif = Image.Exif()
    exif[_EXIF_DESCRIPTION] = _pack(metadata, picture, fps=fps, frames=len(frames))
    delays = _delays(len(frames), fps, 1)
    path.write_bytes(_encoded(frames, "WEBP", duration=delays, loop=loop, quality=90, exif=exif.tobytes()))


def _write_png(path: Path, frames, fps, metadata, picture) -> None:
    path.mkdir()
    for number, frame in enumerate(frames):
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", _pack(metadata, None if number else picture, fps=fps, frames=len(frames)))
        frame.save(path / f"frame-{number:04d}.png", pnginfo=text)


def _checked(frames: Sequence[Image.Image], fps: float) -> list[Image.Image]:
    """The frames in RGB; a `ValueError` where they are none, or of several sizes, or `fps` is no speed."""
    if not isinstance(fps, (int, float, Fraction)) or not 0.1 <= fps <= 240:
        raise ValueError(f"fps={fps!r} must be a number from 0.1 to 240: 7 is usual.")
    frames = list(frames)
    if not frames:
        raise ValueError("There are no frames to write.")
    if len(sizes := dict.fromkeys(frame.size for frame in frames)) > 1:
        raise ValueError(f"All frames must have one size, and there are {', '.join(f'{w}x{h}' for w, h in sizes)}.")
    return [frame.convert("RGB") for frame in frames]


def _delays(count: int, fps: float, unit: int, every: int = 1) -> list[int]:
    """Milliseconds for which each `every`-th frame shows, in multiples of `unit`; they add up to the true duration."""
    edges = [round(1000 * i / fps / unit) * unit for i in [*range(0, count, every), count]]
    return [end - start for start, end in itertools.pairwise(edges)]


def _encoded(pages: list[Image.Image], format: str, **options: Any) -> bytes:
    data = io.BytesIO()
    pages[0].save(data, format, save_all=format != "PNG", append_images=pages[1:], **options)
    return data.getvalue()


def _pack(metadata: str | None, picture: Image.Image | None = None, **facts: float) -> str:
    inside = {} if picture is None else {"picture": base64.b64encode(_encoded([picture], "PNG")).decode()}
    return json.dumps({_KEY: metadata, **facts, **inside})


# --- reading ---------------------------------------------------------------------------------------------------------


def _unpack(text: str) -> dict[str, Any]:
    """What `_pack` packed; empty for anything else that stands in a comment."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) and _KEY in fields else {}


def _comment(image: Image.Image) -> dict[str, Any]:
    if image.format == "WEBP":
        return _unpack(str(image.getexif().get(_EXIF_DESCRIPTION, "")))
    text = image.info.get("comment", b"") if image.format == "GIF" else image.info.get("Comment", "")
    return _unpack(text.decode("ascii", "replace") if isinstance(text, bytes) else text)


def _read_animation(path: Path) -> tuple[list[Image.Image], float]:
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(-1, os.SEEK_END)
        end, size = file.read(), file.tell()
    whole = end == b";" if head[:3] == b"GIF" else int.from_bytes(head[4:8], "little") + 8 <= size
    if not whole:
        raise ValueError(f"{path} is cut short: its last frames are missing.")
    shots, ends, clock = [], [], 0
    with Image.open(path) as image:
        fields = _comment(image)
        for number in range(getattr(image, "n_frames", 1)):
            _affordable(image.width, image.height, number + 1, path)
            image.seek(number)
            shots.append(image.convert("RGB"))  # loads it, and with it the duration
            clock += image.info.get("duration") or 100  # as browsers treat a delay of 0
            ends.append(clock)
    fps, count = _pace(fields)
    if not count:
        return shots, 1000 * len(shots) / clock
    _affordable(shots[0].width, shots[0].height, count, path)
    # encoders join equal neighbours into one long frame: ask at the middle of each frame which one is on
    on = np.searchsorted(ends[:-1], (np.arange(count) + 0.5) * 1000 / fps)
    return [shots[i] for i in on], fps


def _read_png(folder: Path) -> tuple[list[Image.Image], float]:
    paths, shots, fields = _frame_paths(folder), [], {}
    for number, path in enumerate(paths):
        with _explained(path), Image.open(path) as image:
            _affordable(*image.size, len(paths), folder)
            fields = fields or _comment(image)
            if path.name != f"frame-{number:04d}.png":
                raise ValueError(f"{folder} is not whole: frame-{number:04d}.png is missing.")
            shots.append(image.convert("RGB"))
    fps, count = _pace(fields)
    if count != len(shots):
        raise ValueError(f"{folder} is not whole, or not written by svdlab: {len(shots)} of {count} frames are there.")
    return shots, fps


def _pace(fields: dict[str, Any]) -> tuple[float, int]:
    """Frames per second and frames, as `write` noted them; zeros where it did not."""
    fps, count = fields.get("fps"), fields.get("frames")
    if not isinstance(fps, (int, float)) or not isinstance(count, int) or not 0 < fps <= 240 or count < 1:
        return 0.0, 0
    return float(fps), count


def _frame_paths(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("frame-*.png"))
    if not paths:
        raise ValueError(f"{folder} is a folder without PNG frames: frame-0000.png and on were expected.")
    return paths


def _kind(path: Path) -> str:
    """What the first bytes say. ffmpeg's own guess would take playlists too, which make it open other files."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    with path.open("rb") as file:
        head = file.read(12)
    for kind, sign in _SIGNS.items():
        if re.match(sign, head, re.DOTALL):
            return kind
    raise ValueError(f"{path} is not a video: MP4, MOV, WebM, MKV, GIF, WebP or a folder of PNG frames can be read.")


def _main_stream(container: Any, path: Path) -> Any:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    raise ValueError(f"{path} has no video in it that can be decoded, or is cut short.")


def _affordable(width: int, height: int, frames: int, path: Path) -> None:
    if width * height * max(frames, 1) > MAX_PIXELS or not width * height:
        raise ValueError(
            f"{path} claims {frames} frames of {width}x{height}, more than is read here: cut or shrink it first."
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A decoder's own complaint as one sentence."""
    try:
        yield
    except (av.error.FFmpegError, Image.DecompressionBombError, OSError, SyntaxError, binascii.Error) as error:
        raise ValueError(f"{path} cannot be read as a video, or is cut short ({error}).") from error
