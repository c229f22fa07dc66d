"""Files are written by PyAV and Pillow and looked at by a second program: the ffmpeg of imageio-ffmpeg."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import resource
import subprocess
import weakref
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svdlab.media.read_video import probe, read_frames, read_metadata
from svdlab.media.show import show
from svdlab.media.write_video import write_video

AWKWARD = "a=1;b#c\\d\n\r\t\0 \ud800 ünïcödé 火箭 🚀 </x:xmpmeta> -- ' \""


def draw_frames(count: int = 14, size: tuple[int, int] = (128, 72)) -> list[Image.Image]:
    """Smooth drawn frames in which everything moves."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    frames = []
    for i in range(count):
        waves = [np.sin(x / 30 + i / 3), np.cos(y / 25 - i / 4), np.sin((x + y) / 40 + i / 5)]
        frames.append(Image.fromarray(np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8)))
    return frames


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9)))


def ffmpeg(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *arguments], capture_output=True, check=False
    )


def describe(path: Path) -> str:
    return ffmpeg("-i", str(path)).stderr.decode()


def decode(path: Path, size: tuple[int, int]) -> np.ndarray:
    raw = ffmpeg("-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)


def box_names(data: bytes) -> list[str]:
    names, at = [], 0
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    return names


# --- MP4 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count"), [((1024, 576), 2), ((130, 74), 5)])
def test_mp4_is_what_browsers_play_and_looks_like_the_frames(tmp_path, size, count):
    frames = draw_frames(count, size)
    path = write_video(tmp_path / "x.mp4", frames, 7, metadata="hello", picture=frames[0])
    text = describe(path)
    stream = next(line for line in text.splitlines() if "Video: h264" in line)
    assert "yuv420p(tv, bt709" in stream
    assert f"{size[0]}x{size[1]}" in stream
    assert "7 fps" in stream
    minutes, seconds = re.search(r"Duration: 00:(\d\d):(\d\d\.\d\d)", text).groups()  # pyright: ignore
    assert 60 * int(minutes) + float(seconds) == pytest.approx(count / 7, abs=0.011)
    order = box_names(path.read_bytes())
    assert order.index("moov") < order.index("mdat")
    copies = decode(path, size)
    assert len(copies) == count
    assert min(psnr(a, np.asarray(b)) for a, b in zip(copies, frames, strict=True)) > 35


def test_mp4_cover_is_one_attached_picture_and_not_the_clip(tmp_path, monkeypatch):
    path = write_video(tmp_path / "x.mp4", draw_frames(3), 7, picture=Image.new("RGB", (2000, 1000), "red"))
    streams = [line for line in describe(path).splitlines() if "Video:" in line]
    assert ["attached pic" in line for line in streams] == [False, True]
    assert decode(path, (128, 72)).shape[0] == 3  # ffmpeg's own choice of stream, though the cover is larger
    assert probe(path)[:4] == (128, 72, 7.0, 3)
    monkeypatch.setattr("svdlab.media.read_video.MAX_PIXELS", 128 * 72 - 1)
    with pytest.raises(ValueError, match="more than is read here"):  # before a frame is decoded
        probe(path)


@pytest.mark.parametrize(
    ("name", "fps"),
    [*(("x.mp4", fps) for fps in (7, np.float32(12.5), 24000 / 1001, 30)), ("x.webp", Fraction(24000, 1001))],
)
def test_fractional_speeds_come_back(tmp_path, name, fps):
    frames, speed = read_frames(write_video(tmp_path / name, draw_frames(4), fps, crf=np.int64(18)))
    assert speed == pytest.approx(float(fps), rel=1e-6)
    assert len(frames) == 4


def test_colours_of_saturated_areas_are_right(tmp_path):
    """BT.709 in and out: a mix-up with BT.601 shifts pure colours by 20 and more."""
    for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 30)]:
        path = write_video(tmp_path / "x.mp4", [Image.new("RGB", (64, 64), colour)] * 2, 7)
        assert np.abs(decode(path, (64, 64))[0].astype(int).mean((0, 1)) - colour).max() < 4
        assert np.abs(np.asarray(read_frames(path)[0][0]).astype(int).mean((0, 1)) - colour).max() < 4


def test_odd_sizes_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match="crop to 126x70"):
        write_video(tmp_path / "x.mp4", draw_frames(2, (127, 71)), 7)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "frames"])
def test_frames_are_written_as_they_come(tmp_path, name):
    """However many there are, a few are in memory."""
    written, living = [], []

    def frames():
        for shade in range(40):
            frame = Image.new("RGB", (64, 48), (shade, 0, 0))
            written.append(weakref.ref(frame))
            living.append(sum(reference() is not None for reference in written))
            yield frame
            del frame

    path = write_video(tmp_path / name, frames(), 10)
    assert max(living) <= 4
    assert len(read_frames(path)[0]) == 40


def test_a_recording_in_fragments_is_counted_and_shown_whole(tmp_path):
    """Screens and browsers record so: the file's head does not say how many frames there are."""
    whole = write_video(tmp_path / "whole.mp4", draw_frames(3), 7)
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(whole), "-c", "copy"]
    subprocess.run([*ffmpeg, "-movflags", "frag_keyframe+empty_moov", str(tmp_path / "parts.mp4")], check=True)
    assert probe(tmp_path / "parts.mp4").frames == 0
    assert 'data-frames="3"' in show(tmp_path / "parts.mp4").html


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv420p10le"])
def test_h264_that_only_some_browsers_play_is_encoded_anew(tmp_path, pixels):
    whole = write_video(tmp_path / "whole.mp4", draw_frames(3), 7)
    ffmpeg("-v", "error", "-i", str(whole), "-c:v", "libx264", "-pix_fmt", pixels, str(tmp_path / "rare.mp4"))
    assert probe(tmp_path / "rare.mp4")[3:] == (3, "h264", pixels)
    page = show([whole, tmp_path / "rare.mp4"]).html
    sources = re.findall(r"data:video/mp4;base64,([^\"]+)", page)
    assert base64.b64decode(sources[0]) == whole.read_bytes()
    (tmp_path / "shown.mp4").write_bytes(base64.b64decode(sources[1]))
    assert probe(tmp_path / "shown.mp4").pixel_format == "yuv420p"


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    frames = draw_frames(2)
    for name in ("x.mp4", "x.gif", "frames"):
        path = write_video(f"~/videos/{name}", frames, 7, metadata="text")
        assert path == tmp_path / "videos" / name
        assert len(read_frames(f"~/videos/{name}")[0]) == 2
        assert read_metadata(f"~/videos/{name}")[0] == "text"
        assert 'data-frames="2"' in show(f"~/videos/{name}").html
    (tmp_path / "videos" / "frames" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="more than PNG frames"):
        write_video("~/videos/frames", frames, 7)
    assert not (tmp_path / "~").exists()


def test_what_a_telephone_filmed_and_somebody_trimmed_is_read_as_it_plays(tmp_path):
    """Both leave the frames as they were encoded: the head says how they lie, and which of them are shown."""
    whole = write_video(tmp_path / "whole.mp4", draw_frames(12), 6)
    copy = ["-v", "error", "-ss", "1.1", "-display_rotation", "90", "-i", str(whole), "-map", "0:v:0", "-c", "copy"]
    ffmpeg(*copy, str(tmp_path / "upright.mov"))
    frames, (width, height, _, count, *_) = read_frames(tmp_path / "upright.mov")[0], probe(tmp_path / "upright.mov")
    expected = decode(tmp_path / "upright.mov", (72, 128))
    assert (frames[0].size, width, height) == ((72, 128), 72, 128)
    assert 1 < len(frames) == count == len(expected) < 12
    assert min(psnr(one, np.asarray(other)) for one, other in zip(expected, frames, strict=True)) > 35


def test_loops_are_written_out_where_the_format_cannot_say(tmp_path):
    assert len(read_frames(write_video(tmp_path / "x.mp4", draw_frames(3), 7, loop=np.int64(2)))[0]) == 6
    assert len(read_frames(write_video(tmp_path / "frames", draw_frames(3), 7, loop=2))[0]) == 6
    with pytest.raises(ValueError, match="loop=True must be how often"):  # which would be once
        write_video(tmp_path / "x.gif", draw_frames(3), 7, loop=True)


# --- GIF, WebP, PNG --------------------------------------------------------------------------------------------------


def gif_tables(data: bytes) -> tuple[bool, int]:
    """Whether there is a global colour table, and how many local ones."""
    size = lambda flags: 3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0  # noqa: E731
    at, local = 13 + size(data[10]), 0
    while data[at] != 0x3B:
        if data[at] == 0x2C:
            flags = data[at + 9]
            local += bool(flags & 128)
            at += 11 + size(flags)
        else:
            at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    return bool(data[10] & 128), local


@pytest.mark.parametrize("fps", [7, 12.5, 24])
def test_gif_has_one_palette_loops_and_lasts_as_long(tmp_path, fps):
    frames = draw_frames(14)
    path = write_video(tmp_path / "x.gif", frames, fps)
    assert gif_tables(path.read_bytes()) == (True, 0)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        delays = []
        for number in range(image.n_frames):  # pyright: ignore[reportAttributeAccessIssue]
            image.seek(number)
            image.load()
            delays.append(image.info["duration"])
    assert sum(delays) == pytest.approx(1000 * 14 / fps, abs=5)
    assert max(delays) - min(delays) <= 10
    copies, speed = read_frames(path)
    assert (len(copies), speed) == (14, fps)
    assert min(psnr(np.asarray(a), np.asarray(b)) for a, b in zip(copies, frames, strict=True)) > 27
    assert len(decode(path, (128, 72))) >= 14


def test_gif_counts_plays(tmp_path):
    def count(loop: int) -> int | None:
        with Image.open(write_video(tmp_path / "x.gif", draw_frames(2), 7, loop=loop)) as image:
            return image.info.get("loop")

    assert [count(0), count(1), count(3)] == [0, None, 2]  # GIF counts the times after the first


def test_gif_of_a_still_part_does_not_shimmer(tmp_path):
    frames = draw_frames(6)
    for shot in frames[1:]:
        shot.paste(frames[0].crop((0, 0, 64, 72)))
    copies = [np.asarray(frame)[:, :64] for frame in read_frames(write_video(tmp_path / "x.gif", frames, 7))[0]]
    assert all(np.array_equal(frame, copies[0]) for frame in copies)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_equal_neighbours_are_not_lost(tmp_path, suffix):
    a, b = draw_frames(2)
    copies, fps = read_frames(write_video(tmp_path / f"x{suffix}", [a, a, b, b, b, a], 7))
    is_first = [psnr(np.asarray(frame), np.asarray(a)) > psnr(np.asarray(frame), np.asarray(b)) for frame in copies]
    assert (is_first, fps) == ([True, True, False, False, False, True], 7)


def test_gif_is_made_to_fit_in_the_stated_order(tmp_path):
    frames = draw_frames(8, (96, 54))

    def outcome(limit: int | None) -> tuple[int, tuple[int, int], int]:
        path = write_video(tmp_path / "x.gif", frames, 8, max_bytes=limit)
        assert limit is None or path.stat().st_size <= limit
        copies, fps = read_frames(path)
        assert len(copies) / fps == 1  # as long as before
        colours = {tuple(rgb) for frame in copies for rgb in np.asarray(frame).reshape(-1, 3)}
        return len(colours), copies[0].size, len(copies)

    full = write_video(tmp_path / "x.gif", frames, 8).stat().st_size
    assert outcome(None)[0] > 128
    colours, size, count = outcome(int(full * 0.9))
    assert (colours < 128, size, count) == (True, (96, 54), 8)
    colours, size, count = outcome(full // 4)
    assert (colours < 64, size[0] < 96, count) == (True, True, 8)
    colours, size, count = outcome(full // 10)
    assert (size[0] < 96, count) == (True, 4)
    with pytest.raises(ValueError, match="smallest version takes"):
        write_video(tmp_path / "y.gif", frames, 8, max_bytes=500)
    with pytest.raises(ValueError, match="picture and metadata"):
        write_video(tmp_path / "y.gif", frames, 8, max_bytes=500, metadata="x" * 1000)
    assert not (tmp_path / "y.gif").exists()


def test_png_frames_are_exact_and_replace_only_their_own_kind(tmp_path):
    frames = draw_frames(3)
    folder = write_video(tmp_path / "frames", frames * 2, 7)
    (folder / ".DS_Store").touch()  # somebody looked into it
    folder = write_video(folder, frames, 7)
    assert sorted(file.name for file in folder.iterdir()) == [f"frame-000{i}.png" for i in range(3)]
    copies, fps = read_frames(folder)
    assert fps == 7
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(copies, frames, strict=True))
    for name in ("notes.txt", ".env"):
        (folder / name).write_text("mine")
        with pytest.raises(ValueError, match="holds more than PNG frames"):
            write_video(folder, frames, 7)
        assert (folder / name).read_text() == "mine"
        (folder / name).unlink()


def test_webp_plays_as_long_and_looks_right(tmp_path):
    frames = draw_frames(7)
    path = write_video(tmp_path / "x.webp", frames, 7, loop=2)
    with Image.open(path) as image:
        assert (image.n_frames, image.info["loop"]) == (7, 2)  # pyright: ignore[reportAttributeAccessIssue]
    copies, fps = read_frames(path)
    assert fps == 7
    assert min(psnr(np.asarray(a), np.asarray(b)) for a, b in zip(copies, frames, strict=True)) > 33


# --- what travels inside ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "x.webp", "frames"])
@pytest.mark.parametrize("text", ["", AWKWARD, "0123456789" * 10_000, None], ids=["empty", "awkward", "long", "none"])
def test_text_and_picture_come_back(tmp_path, name, text):
    picture = draw_frames(1, (75, 51))[0]
    path = write_video(tmp_path / name, draw_frames(2), 7, metadata=text, picture=picture)
    metadata, cover = read_metadata(path)
    assert metadata == text
    assert cover is not None
    assert np.array_equal(np.asarray(cover), np.asarray(picture))
    assert len(read_frames(path)[0]) == 2


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(), max_size=300))
@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "x.webp", "frames"])
def test_any_text_comes_back(tmp_path, name, text):
    path = write_video(tmp_path / name, draw_frames(2, (16, 16)), 7, metadata=text)
    assert read_metadata(path) == (text, None)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "I;16"])
def test_a_picture_of_any_mode_comes_back_losslessly(tmp_path, mode):
    picture = (
        Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
        if mode == "I;16"
        else draw_frames(1)[0].convert(mode)
    )
    _, cover = read_metadata(write_video(tmp_path / "x.mp4", draw_frames(2), 7, picture=picture))
    assert cover is not None
    assert cover.mode == mode
    assert cover.tobytes() == picture.tobytes()


def test_other_programs_see_the_text(tmp_path):
    text = json.dumps({"seed": 3, "image": "fusée"}, ensure_ascii=False)
    comment = re.search(
        r"comment\s*: (.*)", describe(write_video(tmp_path / "x.mp4", draw_frames(2), 7, metadata=text))
    )
    assert comment
    assert json.loads(comment[1]) == {"svdlab": text}
    with Image.open(write_video(tmp_path / "f", draw_frames(2), 7, metadata=text) / "frame-0001.png") as frame:
        assert json.loads(frame.info["Comment"])["svdlab"] == text


def test_files_of_others_have_no_metadata(tmp_path):
    for comment in ["", "made with love", '{"title": 1}', "[1]", "[" * 100_000]:
        draw_frames(1)[0].save(
            tmp_path / "x.gif", save_all=True, append_images=draw_frames(2), comment=comment.encode()
        )
        assert read_metadata(tmp_path / "x.gif") == (None, None)
    out = tmp_path / "x.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", "-pix_fmt", "yuv420p", str(out))
    assert read_metadata(out) == (None, None)
    frames, fps = read_frames(out)
    assert (len(frames), frames[0].size, fps) == (10, (64, 48), 10)


# --- what can go wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("x.avi", {}, "use .mp4, .gif or .webp"),
        ("x.mp4", {"frames": []}, "no frames"),
        ("x.mp4", {"frames": [*draw_frames(1), *draw_frames(1, (64, 64))]}, "one size, and there are 128x72 and 64x64"),
        ("x.mp4", {"fps": 0}, "7 is usual"),
        ("x.mp4", {"fps": float("nan")}, "7 is usual"),
        ("x.mp4", {"fps": "7"}, "7 is usual"),
        ("x.mp4", {"max_bytes": 1000}, "raise crf"),
        ("x.mp4", {"crf": 0}, "from 1 (best) to 51"),
        ("x.mp4", {"crf": "18"}, "from 1 (best) to 51"),
        ("x.mp4", {"loop": -1}, "how often"),
        ("x.gif", {"fps": 60}, "at most 50 fps"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        write_video(tmp_path / name, **{"frames": draw_frames(2), "fps": 7, **arguments})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "x.webp", "frames"])
@pytest.mark.parametrize("part", [0.02, 0.7])
def test_a_file_cut_short_says_so(tmp_path, name, part):
    path = write_video(tmp_path / name, draw_frames(6), 7, metadata="x")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files[-1].write_bytes(files[-1].read_bytes()[: int(files[-1].stat().st_size * part)])
    with pytest.raises(ValueError, match=r"cut short|not a video"):
        read_frames(path)


def test_a_folder_with_a_frame_missing_says_which(tmp_path):
    folder = write_video(tmp_path / "frames", draw_frames(4), 7)
    (folder / "frame-0002.png").unlink()
    with pytest.raises(ValueError, match=r"frame-0002\.png is missing"):
        read_frames(folder)
    (folder / "frame-0003.png").unlink()
    with pytest.raises(ValueError, match="2 of 4 frames"):
        read_frames(folder)


def test_files_that_are_no_video_are_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        read_frames(tmp_path / "x.mp4")
    with pytest.raises(ValueError, match="without PNG frames"):
        read_frames(tmp_path)
    (tmp_path / "x.mp4").write_text("#EXTM3U\nfile:///etc/passwd\n")  # ffmpeg alone would follow it
    with pytest.raises(ValueError, match="not a video"):
        read_frames(tmp_path / "x.mp4")
    draw_frames(1)[0].save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="still picture"):
        read_frames(tmp_path / "x.png")


def test_hostile_sizes_are_refused_before_they_cost_memory(tmp_path, monkeypatch):
    picture = Image.new("RGB", (300, 300))
    for name in ("x.mp4", "x.gif", "x.webp", "frames"):
        write_video(tmp_path / name, draw_frames(4), 7, picture=picture)
    monkeypatch.setattr("svdlab.media.read_video.MAX_PIXELS", 128 * 72 * 3)
    for name in ("x.mp4", "x.gif", "x.webp", "frames"):
        with pytest.raises(ValueError, match="more than is read here"):
            read_frames(tmp_path / name)
        with pytest.raises(ValueError, match="more than is read here"):
            read_metadata(tmp_path / name)


def test_a_lie_about_the_number_of_frames_costs_nothing(tmp_path):
    metadata = json.dumps({"svdlab": None, "fps": 0.000001, "frames": 10**12}).encode()
    draw_frames(1)[0].save(tmp_path / "x.gif", save_all=True, append_images=draw_frames(2), comment=metadata)
    with pytest.raises(ValueError, match="more than is read here"):
        read_frames(tmp_path / "x.gif")


def test_a_picture_inside_that_is_none_is_one_sentence(tmp_path):
    for inside in (base64.b64encode(b"no picture").decode(), "%%%"):
        metadata = json.dumps({"svdlab": "x", "picture": inside}).encode()
        draw_frames(1)[0].save(tmp_path / "x.gif", comment=metadata)
        with pytest.raises(ValueError, match=r"cannot be read|picture inside"):
            read_metadata(tmp_path / "x.gif")


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "x.webp", "frames"])
@pytest.mark.parametrize("replacing", [False, True], ids=["new", "replacing"])
def test_a_full_disk_leaves_what_was_there(tmp_path, name, replacing):
    path = tmp_path / name
    if replacing:
        write_video(path, draw_frames(3), 7, metadata="before")
    files = sorted(tmp_path.rglob("*"))
    noise = [Image.effect_noise((128, 72), 80).convert("RGB") for _ in range(6)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))  # what a full disk looks like to a program: write() fails
    try:
        with pytest.raises(OSError, match="too large"):
            write_video(path, noise, 7)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.rglob("*")) == files
    assert not replacing or read_metadata(path)[0] == "before"


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "frames"])
def test_an_interrupt_leaves_nothing(tmp_path, name, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / name, draw_frames(2), 7)
    assert not any(tmp_path.iterdir())


def test_folders_on_the_way_are_made(tmp_path):
    assert write_video(tmp_path / "a" / "b" / "x.MP4", draw_frames(2), 7).is_file()


def test_a_single_frame_is_a_clip_too(tmp_path):
    for name in ("x.mp4", "x.gif", "x.webp", "frames"):
        frames, fps = read_frames(write_video(tmp_path / name, draw_frames(1), 5))
        assert (len(frames), fps) == (1, 5)


def test_in_memory_pngs_are_not_recompressed(tmp_path):
    """The cover's bytes are a plain PNG that any program can take out of the file."""
    picture = draw_frames(1)[0]
    path = write_video(tmp_path / "x.mp4", draw_frames(2), 7, picture=picture)
    raw = ffmpeg("-v", "error", "-i", str(path), "-map", "0:v:1", "-c", "copy", "-f", "image2pipe", "-").stdout
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(raw))), np.asarray(picture))
