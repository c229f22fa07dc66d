"""Video files: frames, a playback speed, a text and a picture into MP4, GIF, WebP and folders of PNGs.

Nothing here knows of requests or clips. The text travels as one line of ASCII JSON, `{"svdlab": text, …}`, in each
format's ordinary comment field, so that any string survives exactly and ordinary tools show it (`ffprobe` for MP4).
The picture travels without loss: as cover art in MP4 (players show it as the thumbnail and play the clip), as base64 in
the JSON elsewhere. Frames are written as they come, so that a long video needs the memory of one frame; only WebP
holds all of them.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition
from PIL import Image, PngImagePlugin

from svdlab.atomic_files import atomic_write, kept_names
from svdlab.media.gif import MAX_GIF_FPS, write_gif
from svdlab.media.images import png_bytes
from svdlab.media.video_kinds import MAX_FPS
from svdlab.messages import shorten

METADATA_KEY = "svdlab"
EXIF_DESCRIPTION = 0x010E
_CRF = 17  # x264: visually lossless is about 18, https://trac.ffmpeg.org/wiki/Encode/H.264
_FRAME_NAME = re.compile(r"frame-.*\.png")
_BT709 = 1  # primaries, transfer and matrix, in H.273's numbering


def write_video(
    path: str | Path,
    frames: Iterable[Image.Image],
    fps: float,
    *,
    metadata: str | None = None,
    picture: Image.Image | None = None,
    loop: int = 0,
    max_bytes: int | None = None,
    crf: int = _CRF,
) -> Path:
    """Write one video file, complete or not at all; what stood there before is replaced.

    Args:
        path: The suffix decides: `.mp4` (H.264, yuv420p, BT.709, faststart, both sides must be even), `.gif` (one
            palette over the whole clip), `.webp` (lossy at quality 90), or none: a folder of `frame-0000.png` and on.
            Folders on the way are made.
        frames: PIL images of one size, read once.
        fps: Playback speed, 0.1 to 240; of a GIF at most 50, with delays in hundredths of a second that add up.
        metadata: A text that comes back from `read_metadata`.
        picture: An image that comes back from `read_metadata`, without loss.
        loop: How often it plays; 0 is for ever. MP4 and PNG cannot say, so there 2 and more are written out.
        max_bytes: Holds a GIF under a size by fewer colours (128, 64), then smaller frames (3/4, 1/2, 1/4), then every
            second frame; never by leaving out metadata or picture.
        crf: Quality of an MP4, from 1 (best) to 51 (worst).

    Returns:
        The path.

    Raises:
        ValueError: It cannot be written so; the sentence says how it can.
        OSError: From a full disk, for example; nothing is left behind.
    """
    path, suffix = Path(path).expanduser(), check_target(path, fps)
    if max_bytes is not None and (suffix != ".gif" or max_bytes < 1):
        raise ValueError("max_bytes is for .gif; for a smaller .mp4 raise crf (28 takes a third of the usual 17).")
    if isinstance(loop, bool) or not (isinstance(loop, Integral) and loop >= 0):
        raise ValueError(f"loop={shorten(loop)} must be how often the clip plays: 0 (for ever), 1, 2, …")
    if isinstance(crf, bool) or not (isinstance(crf, Real) and 1 <= crf <= 51):
        lossless = "browsers do not play lossless H.264, and a folder of PNG frames is lossless"
        raise ValueError(f"crf={shorten(crf)} must be a number from 1 (best) to 51 (worst): 17 is usual; {lossless}.")
    rgb, fps = _rgb_frames(frames), float(fps)
    if loop > 1 and suffix in (".mp4", ""):
        rgb = iter(list(rgb) * loop)

    def pack(cover: bool = True, **facts: float) -> str:
        inside = {"picture": base64.b64encode(png_bytes(picture)).decode()} if picture and cover else {}
        return json.dumps({METADATA_KEY: metadata, **facts, **inside})

    with atomic_write(path) as scratch:
        if suffix == ".mp4":
            _write_mp4(scratch, rgb, fps, None if metadata is None else pack(cover=False), picture, crf)
        elif suffix == ".gif":
            write_gif(scratch, rgb, fps, pack, loop, max_bytes)
        elif suffix == ".webp":
            _write_webp(scratch, list(rgb), fps, pack, loop)
        else:
            _write_png(scratch, rgb, fps, pack)
    return path


def check_target(path: str | Path, fps: float) -> str:
    """The suffix of a path, in small letters; a `ValueError` before work is spent on what could not be written there.

    Args:
        path: As in `write_video`.
        fps: As in `write_video`.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in (".mp4", ".gif", ".webp", ""):
        raise ValueError(f"Cannot write {shorten(suffix)}: use .mp4, .gif or .webp, or no suffix for PNG frames.")
    if not suffix and path.exists() and not (path.is_dir() and all(map(_FRAME_NAME.fullmatch, kept_names(path)))):
        raise ValueError(f"{path} holds more than PNG frames: choose a new folder, or a name with .mp4 or .gif.")
    if not isinstance(fps, Real) or not 0.1 <= fps <= MAX_FPS:
        raise ValueError(f"fps={shorten(fps)} must be a number from 0.1 to {MAX_FPS}: 7 is usual.")
    if suffix == ".gif" and fps > MAX_GIF_FPS:
        raise ValueError(f"A GIF plays at most {MAX_GIF_FPS} fps: use fps={MAX_GIF_FPS} or .mp4, not {fps}.")
    return suffix


def _rgb_frames(frames: Iterable[Image.Image]) -> Iterator[Image.Image]:
    size = None
    for frame in frames:
        size = size or frame.size
        if frame.size != size:
            sizes = f"{size[0]}x{size[1]} and {frame.width}x{frame.height}"
            raise ValueError(f"All frames must have one size, and there are {sizes}.")
        yield frame if frame.mode == "RGB" else frame.convert("RGB")
    if size is None:
        raise ValueError("There are no frames to write.")


def _write_mp4(
    path: Path, frames: Iterator[Image.Image], fps: float, comment: str | None, picture: Image.Image | None, crf: int
) -> None:
    first = next(frames)
    width, height = first.size
    if width % 2 or height % 2:
        size = f"{width // 2 * 2}x{height // 2 * 2}"
        raise ValueError(f"H.264 needs even sides and the frames are {width}x{height}: crop to {size}, or save a .gif.")
    rate = Fraction(fps).limit_denominator(1001)  # finds 24000/1001 and its kind again
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        # no B-frames: they need an edit list, which some players ignore and then show the first frame late
        video = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "bf": "0", "preset": "slow"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        context = video.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = 1  # 16 to 235, what players expect of yuv420p
        if comment is not None:
            container.metadata["comment"] = comment
        if picture is not None:
            cover = container.add_stream("png", rate=1)
            cover.width, cover.height, cover.pix_fmt = *picture.size, "rgb24"
            cover.disposition = Disposition.attached_pic.value  # pyright: ignore[reportAttributeAccessIssue]
            packet = av.Packet(png_bytes(picture))
            packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1)
            container.mux(packet)
        for number, image in enumerate(itertools.chain([first], frames)):
            frame = av.VideoFrame.from_image(image).reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", interpolation="LANCZOS"
            )
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode())


def _write_webp(path: Path, frames: list[Image.Image], fps: float, pack: Callable[..., str], loop: int) -> None:
    exif = Image.Exif()
    exif[EXIF_DESCRIPTION] = pack(fps=fps, frames=len(frames))
    edges = [round(1000 * i / fps) for i in range(len(frames) + 1)]  # milliseconds
    delays = [end - start for start, end in itertools.pairwise(edges)]
    with path.open("wb") as file:
        frames[0].save(
            *(file, "WEBP"), save_all=True, append_images=frames[1:], duration=delays, loop=loop, quality=90,
            exif=exif.tobytes(),
        )  # fmt: skip


def _write_png(path: Path, frames: Iterator[Image.Image], fps: float, pack: Callable[..., str]) -> None:
    path.mkdir()

    def save(number: int, frame: Image.Image, **facts: Any) -> None:
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", pack(fps=fps, **facts))
        frame.save(path / f"frame-{number:04d}.png", pnginfo=text)

    first, number = next(frames), 0
    for number, frame in enumerate(frames, 1):
        save(number, frame, cover=False)
    save(0, first, frames=number + 1)
