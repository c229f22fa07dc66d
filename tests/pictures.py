"""Pictures, drawn clips, and the servers of the tests of `svdlab.media.images`."""

from __future__ import annotations

import contextlib
import io
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from functools import cache
from typing import IO, Any, cast

import numpy as np
from PIL import Image, ImageCms


def scene(width: int = 40, height: int = 24) -> Image.Image:
    """No two pixels of it alike up to 256x256, no symmetry: any turn, shift or crop shows."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x % 256, y % 256, (3 * x + 5 * y) % 256], -1).astype(np.uint8)
    return Image.fromarray(pixels)


@cache
def draw_frames(
    seed: int, bucket: float, world: str = "rocket", frames: int = 14, size: tuple[int, int] = (72, 128)
) -> list[Image.Image]:
    """A clip of a drawn world whose motion is known, at 7 frames a second, of a height and a width."""
    from training.scenes import draw

    clip = draw([seed], bucket, 7, frames, *size, world=world)[0][0]
    return [Image.fromarray(f) for f in (clip.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)]


def encode(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def swapped_profile() -> bytes:
    """An RGB profile whose red is sRGB's green and the other way round, under another name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack_from(">I", profile, 128)[0]):
        at = 132 + 12 * i
        if bytes(profile[at : at + 4]) in (b"rXYZ", b"gXYZ"):
            profile[at : at + 1] = {b"r": b"g", b"g": b"r"}[bytes(profile[at : at + 1])]
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


def cmyk_profile() -> bytes:
    """A CMYK profile (ICC v2, lut8) of an odd press: its cyan ink is a middle grey, its others are black."""
    nodes = bytearray()
    for node in range(16):  # C is the slowest index
        lightness = 255 if node == 0 else 128 if node == 0b1000 else 0
        nodes += bytes([lightness, 128, 128])
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + bytes(nodes) + ramp * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    head = struct.pack(">I4sI4s4s4s", 144 + len(table), b"none", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)  # D50, after the signature
    return head.ljust(128, b"\0") + tags + table


Answer = Callable[[str, IO[bytes]], object]  # of a path and the file to write whole answers to


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    answer: Answer
    requests: list[str]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence: a client that hangs up, or does not trust us, is what several tests are about."""


class _Handler(socketserver.StreamRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle(self) -> None:
        lines = []
        with contextlib.suppress(OSError):  # the client went away: what several tests are about
            while (line := self.rfile.readline().decode()) not in ("\r\n", "\n", ""):
                lines.append(line)
            if lines:
                self.server.requests.append("".join(lines))
                self.server.answer(lines[0].split()[1], cast(IO[bytes], self.wfile))


@contextlib.contextmanager
def serve(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """A server on 127.0.0.1, over TLS where given: its URL, and the requests it saw."""
    with Server(("127.0.0.1", 0), _Handler) as server:
        server.answer, server.requests = answer, []
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}", server.requests
        finally:
            server.shutdown()


def http(body: bytes, status: str = "200 OK", length: int | None = None, **headers: Any) -> bytes:
    """An HTTP answer; `length` is what it says of itself, true where not given."""
    fields = {"Content-Length": str(len(body) if length is None else length)} | headers
    return (
        f"HTTP/1.1 {status}\r\n".encode()
        + b"".join(f"{k}: {v}\r\n".encode() for k, v in fields.items())
        + b"\r\n"
        + body
    )
