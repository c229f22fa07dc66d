"""Every fault is survived: nothing that was there is lost, nothing half-written stays, and one sentence says why.

What is shown elsewhere, and not again here:
- pictures of 1 pixel, of 1x10000, over 80 megapixels, truncated, damaged, of other kinds: `test_images.py`;
- a full disk and an interrupt while a video is written, files cut short, hostile sizes inside: `test_video.py`;
- a row cut short, foreign, of a newer version; folders merged: `test_rows.py`;
- a sweep killed at random and at each dangerous system call, two on one folder at once, Ctrl-C: `test_locks.py`;
- a parameter file with a name twice, YAML tags, unknown names, no YAML; a kernel that dies: `test_run_notebooks.py`;
  values of wrong types and ranges: `test_request.py` and `test_grid.py`;
- hostile labels and titles in HTML: `test_display.py`, and that nothing executes in a real browser: `tests/browser`;
  pages of reviews and reports: `test_review.py`, `test_report.py`.
"""

from __future__ import annotations

import io
import os
import random
import resource
import signal
import struct
import sys
import time
import zlib
from operator import attrgetter
from pathlib import Path

import pytest
from PIL import Image
from sweeps import die_at_call, fork

from svdlab import generate, read, show
from svdlab.generation.clip import Clip
from svdlab.generation.generate import GenerationError
from svdlab.media.images import open_image
from svdlab.media.read_video import read_frames, read_metadata
from svdlab.media.write_video import write_video
from svdlab.pipelines.load import load
from svdlab.sweeps.grid import grid
from svdlab.sweeps.make_row import make_row

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test kills forks of itself")


def noise_frames(count: int = 4, size: tuple[int, int] = (128, 72)) -> list[Image.Image]:
    return [Image.effect_noise(size, 80).convert("RGB") for _ in range(count)]


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "frames"])
def test_a_disk_that_is_full_keeps_the_clip_that_was_there(disk, make_request, picture, name):
    path = Clip([picture] * 2, make_request(num_frames=2, decode_chunk_size=1), None).save(disk / name)
    with pytest.raises(OSError, match="No space left on device"):
        write_video(path, noise_frames(12, (256, 144)), 7)
    files = [file.readlink() for file in Path("/proc/self/fd").glob("*") if file.is_symlink()]
    assert not [file for file in files if file.is_relative_to(disk)]  # a deleted file that is open keeps its room
    assert len(read(path).frames) == 2
    assert [p.name for p in disk.iterdir()] == [name]


# --- kills -----------------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "frames"])
def test_killed_at_any_moment_of_an_export_there_is_a_whole_clip_the_old_or_the_new(tmp_path, name):
    path, old, new = tmp_path / name, noise_frames(2), noise_frames(3)
    write_video(path, old, 7, metadata="old")
    started = time.perf_counter()
    write_video(tmp_path / f"timing-{name}", new, 7)
    seconds, dice = time.perf_counter() - started, random.Random(5)
    kills, texts = 0, set()
    for _ in range(12):

        def work():
            while True:
                write_video(path, new, 7, metadata="new")
                write_video(path, old, 7, metadata="old")

        pid = fork(work)
        time.sleep(dice.uniform(0.2, 2.5) * seconds)
        kills += os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        text = read_metadata(path)[0]
        texts.add(text)
        assert len(read_frames(path)[0]) == {"old": 2, "new": 3}[text or ""]
    assert kills == 12
    assert texts <= {"old", "new"}
    write_video(path, new, 7, metadata="last")
    assert read_metadata(path)[0] == "last"


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("call", ["rename", "replace", "fsync", "unlink", "mkdir", "rmdir"])
@pytest.mark.parametrize("name", ["clip.mp4", "frames"])
def test_killed_before_and_after_every_dangerous_call_of_an_export(tmp_path, name, call):
    old, new = noise_frames(2), noise_frames(3)
    for after in (False, True):
        for number in range(1, 8):
            path = tmp_path / f"{after}{number}" / name
            write_video(path, old, 7, metadata="old")

            def work(path=path, after=after, number=number):
                die_at_call(call, number, after)
                write_video(path, new, 7, metadata="new")

            killed = os.WIFSIGNALED(os.waitpid(fork(work), 0)[1])
            frames, text = len(read_frames(path)[0]), read_metadata(path)[0]
            assert (frames, text) in ((2, "old"), (3, "new"))
            if not killed:
                assert text == "new"
                break


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["image_encoder", "vae.encoder", "unet", "vae.decoder"])
def test_out_of_memory_in_any_stage_says_what_was_asked_and_the_next_clip_is_the_same(
    setup, make_request, tmp_path, stage
):
    import torch

    pipeline, request = load(setup), make_request(num_inference_steps=2, num_frames=2, decode_chunk_size=2)
    expected = generate(pipeline, request, progress=False)

    def exhausted(*_):
        calls.append(stage)
        if stage == "unet" and len(calls) % 2:
            return  # the second step
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 28.31 GiB.\nand a page of advice")

    part, calls = attrgetter(stage)(pipeline), []
    hook = part.register_forward_pre_hook(exhausted)
    try:
        with pytest.raises(GenerationError) as refusal:
            generate(pipeline, request)
        row = make_row(pipeline, grid(setup, request, seed=5)[0], tmp_path, quality=False)
    finally:
        hook.remove()
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert sentence.startswith("Out of memory while ")
    assert {"unet": "denoising, step 2 of 2", "vae.decoder": "decoding"}.get(stage, "encoding") in sentence
    assert "2 frames of 64x96, decode chunk 2" in sentence
    assert row.status == "failed"
    assert "Out of memory" in (row.error or "")
    assert generate(pipeline, request, progress=False).frames == expected.frames


# --- pictures and parameter files ------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def deflated(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(megabytes)), packer.flush()])


@pytest.mark.parametrize("kind", ["pixels", "text", "profile", "declared"])
def test_a_bomb_of_a_png_costs_no_memory(kind):
    """Pixels beyond the picture, a comment and a colour profile of 300 MB each; and a header that claims them."""
    bomb = deflated(300)
    if kind == "declared":
        data = png(30_000, 30_000, chunk(b"IDAT", bomb))
    elif kind == "pixels":
        data = png(64, 64, chunk(b"IDAT", bomb))
    elif kind == "text":
        data = png(
            64, 64, chunk(b"zTXt", b"Comment\0\0" + bomb), chunk(b"IDAT", zlib.compress(bytes(64 * (64 * 3 + 1))))
        )
    else:
        data = png(64, 64, chunk(b"iCCP", b"p\0\0" + bomb), chunk(b"IDAT", zlib.compress(bytes(64 * (64 * 3 + 1)))))
    assert len(data) < 500_000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        outcome = open_image(data).size
    except ValueError as error:
        outcome = str(error)
        assert "\n" not in outcome
        assert outcome.startswith("The data given")
    assert kind != "declared" or "too large" in str(outcome)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert growth * (1 if sys.platform == "darwin" else 1024) < 150 * 2**20


# --- hostile text ----------------------------------------------------------------------------------------------------

HOSTILE = "\"><img src=x onerror=alert(1)><script>alert(1)</script>'.png"


def test_hostile_names_of_files_and_notes_are_only_text(tmp_path, make_request, picture):
    name = HOSTILE.replace("/", "∕")
    file = tmp_path / name
    picture.save(file, "PNG")
    clip = Clip([picture] * 2, make_request(image=str(file), num_frames=2, decode_chunk_size=1), None, notes=(HOSTILE,))
    page = str(show({HOSTILE: clip, name: file}, title=HOSTILE)) + clip._repr_html_() + str(show([file]))
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    saved = clip.save(tmp_path / "clip.mp4")
    assert read(saved).notes == (HOSTILE,)
    with pytest.raises(ValueError, match="There is no file") as refusal:
        open_image(str(tmp_path / f"no{name}"))
    assert "\n" not in str(refusal.value)
    assert io.BytesIO(saved.read_bytes()).read(8)[4:] == b"ftyp"
