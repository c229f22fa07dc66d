"""Animated GIFs: 256 colours at most, chosen once for the clip.

A GIF shows each pixel as one of the colours of a palette. FFmpeg chooses the palette over all frames (`palettegen`) and
then gives every pixel its nearest colours in a fixed pattern (`paletteuse`, Bayer dithering): what does not move does
not shimmer, and packs well. The frames are therefore read twice. Delays are counted in hundredths of a second.
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
from PIL import Image

MAX_GIF_FPS = 50  # browsers slow anything faster down to 10
_CENTISECOND = Fraction(1, 100)  # of a second
# What a limit on the size gives up, in this order: colours, then size, then every second frame.
_STEPS = [(256, 1, 1), (128, 1, 1), (64, 1, 1), (64, 0.75, 1), (64, 0.5, 1), (64, 0.25, 1), (64, 0.5, 2), (64, 0.25, 2)]


class _FrameFile:
    """Frames in a temporary file: any iterable, to be read again and again without holding it in memory."""

    def __init__(self, frames: Iterable[Image.Image]) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
        self.count, self.size = 0, (0, 0)
        for frame in frames:
            self._file.write(frame.tobytes())
            self.count, self.size = self.count + 1, frame.size

    def __iter__(self) -> Iterator[Image.Image]:
        self._file.seek(0)
        for _ in range(self.count):
            yield Image.frombytes("RGB", self.size, self._file.read(3 * self.size[0] * self.size[1]))


def write_gif(
    path: Path, frames: Iterable[Image.Image], fps: float, pack: Callable[..., str], loop: int, max_bytes: int | None
) -> None:
    """Write one GIF; under a limit, the first of the smaller versions that fits.

    Args:
        path: The file.
        frames: RGB images of one size.
        fps: At most 50.
        pack: Turns a version's `fps` and `frames` into the text that the file carries as its comment.
        loop: How often it plays; 0 is for ever.
        max_bytes: None for no limit.
    """
    source, data, comment = _FrameFile(frames), b"", ""
    for colours, scale, step in _STEPS if max_bytes else _STEPS[:1]:
        size = (max(1, round(source.size[0] * scale)), max(1, round(source.size[1] * scale)))
        starts = [round(i / fps / _CENTISECOND) for i in [*range(0, source.count, step), source.count]]
        comment = pack(fps=fps / step, frames=len(starts) - 1)
        data = _with_comment(_encode(source, step, size, starts, colours, loop), comment.encode("ascii"))
        if max_bytes is None or len(data) <= max_bytes:
            path.write_bytes(data)
            return
    inside = f", {len(comment):,} of them the picture and metadata inside" if 10 * len(comment) > len(data) else ""
    raise ValueError(
        f"Even the smallest version takes {len(data):,} bytes{inside}; max_bytes={max_bytes:,}: raise it or use .mp4."
    )


def _encode(source: _FrameFile, step: int, size: tuple[int, int], starts: list[int], colours: int, loop: int) -> bytes:
    """A GIF of every `step`-th frame at `size`; its frame i shows from `starts[i]` to `starts[i + 1]`, in 1/100 s."""

    def video_frames() -> Iterator[av.VideoFrame]:
        for start, image in zip(starts, itertools.islice(source, 0, None, step), strict=False):
            frame = av.VideoFrame.from_image(image.resize(size, Image.Resampling.LANCZOS))
            frame.pts, frame.time_base = start, _CENTISECOND
            yield frame

    _graph, [pixels], sink = _filter("palettegen", f"max_colors={colours}", (*size, "rgb24"))
    for frame in itertools.chain(video_frames(), [None]):
        pixels.push(frame)
    palette = sink.pull()
    palette.pts, palette.time_base = 0, _CENTISECOND

    # Bayer's scale: at 4 the frames are 2 dB nearer to what they were than at 3, and the file is smaller.
    inputs = (*size, "rgb24"), (palette.width, palette.height, palette.format.name)
    _graph, [pixels, colour_table], sink = _filter("paletteuse", "dither=bayer:bayer_scale=4", *inputs)
    for frame in (palette, None):
        colour_table.push(frame)
    file, repeats = io.BytesIO(), loop - 1 if loop > 1 else -loop  # GIF counts the times after the first, -1 is none
    options = {"loop": str(repeats), "final_delay": str(starts[-1] - starts[-2])}
    with av.open(file, "w", format="gif", options=options) as container:
        stream: Any = container.add_stream("gif", rate=1 / _CENTISECOND)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = *size, "pal8", _CENTISECOND
        for frame in itertools.chain(video_frames(), [None]):
            pixels.push(frame)
            with suppress(BlockingIOError, EOFError):  # nothing more until the next push, or at all
                while True:
                    container.mux(stream.encode(sink.pull()))
        container.mux(stream.encode())
    return file.getvalue()


def _filter(name: str, options: str, *inputs: tuple[int, int, str]) -> tuple[Any, list[Any], Any]:
    """An FFmpeg filter: a source for each input (width, height, pixel format), and the sink to pull from.

    PyAV's sources and sinks do not keep their graph alive, so it comes first: hold it while they are used.
    """
    graph = av.filter.Graph()
    node, sink, sources = graph.add(name, options), graph.add("buffersink"), []
    for pad, (width, height, pixel_format) in enumerate(inputs):
        form = f"video_size={width}x{height}:pix_fmt={pixel_format}:time_base={_CENTISECOND}:pixel_aspect=1/1"
        sources.append(graph.add("buffer", form))
        sources[-1].link_to(node, 0, pad)
    node.link_to(sink)
    graph.configure()
    return graph, sources, sink


def _with_comment(gif: bytes, comment: bytes) -> bytes:
    """The file with a comment behind its global palette, in blocks of 255 bytes."""
    start = 13 + (3 * 2 ** ((gif[10] & 7) + 1) if gif[10] & 128 else 0)
    pieces = (comment[i : i + 255] for i in range(0, len(comment), 255))
    block = b"!\xfe" + b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"
    return gif[:start] + block + gif[start:]
