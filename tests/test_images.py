"""Any picture in, one RGB picture of the right size out: every format and mode, the geometry, and each refusal."""

from __future__ import annotations

import io
import ipaddress
import os
import re
import socket
import ssl
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import cmyk_profile, encoded, http, scene, serve, swapped_profile
from PIL import Image, ImageCms

from svdlab.media import fetch, images
from svdlab.media.images import EXAMPLES, crop_box, fit_image, image_sha256, open_image, to_text

SCENE = scene()
PIXELS = np.asarray(SCENE)
ROOT = Path(images.__file__).parents[2]


def same(picture: Image.Image, expected: Image.Image | np.ndarray, within: int = 0) -> bool:
    """Whether `picture` is plain RGB and shows `expected`, give or take `within` of 255."""
    found, wanted = np.asarray(picture).astype(int), np.asarray(expected).astype(int)
    return (picture.mode, picture.info, found.shape) == ("RGB", {}, wanted.shape) and bool(
        (abs(found - wanted) <= within).all()
    )


# --- sources -----------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    SCENE.save("a picture.png")
    data = encoded(SCENE)
    sources = [
        "a picture.png",
        "./a picture.png",
        "~/a picture.png",
        Path("a picture.png"),
        tmp_path / "a picture.png",
        data,
    ]
    for source in [*sources, bytearray(data), memoryview(data), SCENE, PIXELS, to_text(data)]:
        assert same(open_image(source), SCENE), source


def test_a_name_is_the_bundled_example_and_a_path_is_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SCENE.save("rocket", "PNG")
    assert open_image("rocket").size == (1024, 576)
    assert same(open_image("./rocket"), SCENE)


def test_examples_are_few_small_and_documented():
    origin = (ROOT / "svdlab/examples/README.md").read_text()
    assert "rocket" in EXAMPLES
    assert sum(p.stat().st_size for p in EXAMPLES.values()) < 1.5e6
    for name, path in EXAMPLES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # large enough for SVD
            assert fit_image(open_image(name), 576, 1024).size == (1024, 576)
        assert f"`{name}`" in origin
        assert path.is_relative_to(ROOT / "svdlab/examples")


def test_drawn_examples_are_what_the_script_draws_today():
    from training import examples
    from training.scenes import draw

    assert set(examples.SCENES) | {"launch"} == set(EXAMPLES)
    for name, (seed, world) in examples.SCENES.items():
        clip, _ = draw([seed], 0, 7, frames=1, height=72, width=128, world=world)
        drawn = (clip[0, 0].permute(1, 2, 0) * 255).numpy()
        small = np.asarray(fit_image(open_image(name), 72, 128)).astype(float)
        assert abs(small - drawn).mean() < 4, f"{name} is out of date: python -m training.examples"


def test_reading_changes_nothing_and_gives_a_picture_of_its_own():
    given_ = SCENE.copy()
    open_image(given_).putpixel((0, 0), (9, 9, 9))
    fit_image(given_, 24, 40).putpixel((0, 0), (9, 9, 9))
    assert same(given_, SCENE)


def test_importing_loads_neither_numpy_nor_torch_nor_http():
    code = "import sys, svdlab.media.images; print({'numpy', 'torch', 'http.client', 'ssl'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "set()"
    )


# --- modes and formats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "AVIF", "JPEG", "GIF"])
def test_formats(format):
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "JPEG": {"quality": 95}}
    flat = SCENE.quantize(16).convert("RGB") if format == "GIF" else scene().resize((160, 96))
    assert same(
        open_image(encoded(flat, format, **options.get(format, {}))), flat, {"AVIF": 12, "JPEG": 60}.get(format, 0)
    )


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "YCbCr", "HSV", "CMYK", "RGBX", "LA", "RGBA", "PA", "La", "RGBa"]
)
def test_opaque_pictures_of_every_mode_look_as_pillow_shows_them(mode):
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
    picture = (SCENE.convert(through) if through else SCENE).convert(mode)
    shown = picture.convert(through).convert("RGB") if mode in ("La", "RGBa") else picture.convert("RGB")
    assert same(open_image(picture), shown)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_tiffs(mode, compression):
    picture = SCENE.convert(mode)
    assert same(open_image(encoded(picture, "TIFF", compression=compression)), picture.convert("RGB"))


def test_a_cmyk_jpeg_is_not_negative():
    flat = Image.new("CMYK", (16, 16), (0, 200, 200, 0))
    assert same(open_image(encoded(flat, "JPEG", quality=95)), flat.convert("RGB"), 4)


def test_a_lab_tiff_has_its_colours():
    for options in ({}, {"icc_profile": b"broken"}):
        white = encoded(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF", **options)
        assert same(open_image(white), np.full((4, 4, 3), 255), 1)


def test_transparency_shows_white():
    half = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    half.putpixel((1, 0), (200, 0, 0, 0))
    half.putpixel((2, 0), (200, 0, 0, 51))
    expected = [[(200, 0, 0), (255, 255, 255), (244, 204, 204)]]  # 255 + (200 - 255) / 5
    for picture in (half, encoded(half), encoded(half, "WEBP", lossless=True), encoded(half, "TIFF"), np.asarray(half)):
        assert same(open_image(picture), np.array(expected))
    assert same(open_image(half.convert("LA")), np.asarray(open_image(half.convert("LA").convert("RGBA"))))


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_s_transparent_colour_shows_white(format):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(open_image(encoded(picture, format, transparency=1)), np.array([[(10, 20, 30), (255, 255, 255)]]))
    if format == "PNG":  # a palette may also be transparent by degrees
        shades = encoded(picture, "PNG", transparency=bytes([255, 102]))
        assert same(open_image(shades), np.array([[(10, 20, 30), (233, 193, 173)]]))


@pytest.mark.parametrize(("mode", "key", "other"), [("L", 7, 90), ("RGB", (1, 2, 3), (90, 80, 70))])
def test_a_colour_named_transparent_shows_white(mode, key, other):
    picture = Image.new(mode, (2, 1), key)
    picture.putpixel((1, 0), other)
    expected = np.array([[(255, 255, 255), other if mode == "RGB" else (other,) * 3]])
    assert same(open_image(encoded(picture, "PNG", transparency=key)), expected)


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 40 * 24).round().astype(np.uint16).reshape(24, 40)
    expected = np.repeat(np.round(ramp / 257).astype(np.uint8)[..., None], 3, 2)
    grey = Image.fromarray(ramp)
    assert grey.mode == "I;16"
    for source in (
        ramp,
        ramp[..., None],
        ramp.astype(">u2"),
        grey,
        encoded(grey),
        encoded(grey, "TIFF"),
        grey.convert("I"),
    ):
        assert same(open_image(source), expected)
    assert same(open_image(np.stack([ramp] * 3, -1)), expected)


def test_sixteen_bit_rgb_png():
    """Pillow cannot write one, so this is one by hand; it keeps the high byte."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in PIXELS)
    head = struct.pack(">2I5B", 40, 24, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert same(open_image(png), SCENE)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_float_arrays_are_zero_to_one(dtype):
    assert same(open_image((PIXELS / 255).astype(dtype)), SCENE)
    assert same(
        open_image(Image.fromarray((PIXELS[..., 0] / 255).astype(np.float32))), np.repeat(PIXELS[..., :1], 3, 2)
    )


def test_array_shapes():
    grey = np.repeat(PIXELS[..., :1], 3, 2)
    assert same(open_image(PIXELS[..., 0]), grey)
    assert same(open_image(PIXELS[..., :1]), grey)
    assert same(open_image(PIXELS[::-1, ::-1]), SCENE.rotate(180))  # not contiguous
    assert same(open_image(PIXELS[..., 0] > 20), np.where(grey > 20, 255, 0))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_the_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (32, 32), c) for c in ((250, 10, 10), (10, 250, 10), (10, 10, 250))]
    moving = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert getattr(Image.open(io.BytesIO(moving)), "n_frames", 1) == 3
    assert same(open_image(moving), frames[0], 4)


def test_a_phone_s_multi_picture_jpeg():
    flat = [Image.new("RGB", (32, 32), c) for c in ((250, 10, 10), (10, 250, 10))]
    assert same(open_image(encoded(flat[0], "MPO", save_all=True, append_images=flat[1:])), flat[0], 4)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, format):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera held that way has done: Image.Transpose
    stored = SCENE.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else SCENE
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(stored, format, exif=exif, **{"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(format, {}))
    upright = open_image(file)
    assert same(upright, SCENE, 90 if format == "JPEG" else 0)
    assert same(open_image(Image.open(io.BytesIO(file))), upright)
    assert same(open_image(upright), upright)  # applied once


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage that is no TIFF", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"no"]
)
def test_broken_exif_does_not_spoil_a_whole_picture(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow speaks of it
        assert same(open_image(encoded(SCENE, "PNG", exif=exif)), SCENE)


def test_colour_profiles():
    red, green = Image.new("RGB", (4, 4), (255, 0, 0)), np.full((4, 4, 3), (0, 255, 0))
    swapped = swapped_profile()
    assert same(open_image(encoded(red, "PNG", icc_profile=swapped)), green, 3)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert same(open_image(encoded(clear, "PNG", icc_profile=swapped)), np.full((4, 4, 3), 255))
    once = open_image(encoded(red, "PNG", icc_profile=swapped))
    assert same(open_image(once), once)  # not a second time


def test_srgb_and_broken_profiles_leave_pixels_alone():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"not a profile", swapped_profile()[:200], cmyk_profile()):
        assert same(open_image(encoded(SCENE, "PNG", icc_profile=profile)), SCENE)


def test_cmyk_goes_through_its_profile():
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert same(open_image(encoded(cyan, "TIFF")), np.full((4, 4, 3), (0, 255, 255)))
    grey = np.asarray(open_image(encoded(cyan, "TIFF", icc_profile=cmyk_profile())))
    assert np.ptp(grey, axis=-1).max() <= 3
    assert 100 < grey.mean() < 140  # L* = 50


# --- fit ---------------------------------------------------------------------------------------------------------

sides = st.integers(1, 300)
fractions = st.floats(0, 1)


@given(sides, sides, st.integers(1, 200), st.integers(1, 200), st.tuples(fractions, fractions))
def test_a_crop_has_the_shape_asked_for_is_as_large_as_can_be_and_keeps_the_focus(w, h, height, width, focus):
    left, top, right, bottom = crop_box((w, h), height, width, focus)
    assert 0 <= left < right <= w
    assert 0 <= top < bottom <= h
    assert (right - left) * height == pytest.approx((bottom - top) * width, rel=1e-6)
    assert right - left == pytest.approx(w) or bottom - top == pytest.approx(h)
    slack = 0.5 if (right - left, bottom - top) == (width, height) else 1e-6  # whole pixels where nothing is resampled
    for fraction, whole, low, high in ((focus[0], w, left, right), (focus[1], h, top, bottom)):
        point, middle = fraction * whole, (low + high) / 2
        assert low - slack <= point <= high + slack
        at_an_edge = low <= slack or high >= whole - slack
        assert abs(point - middle) <= slack + 1e-6 or at_an_edge


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 120), st.integers(1, 120), st.sampled_from(["crop", "pad", "stretch"]))
@pytest.mark.filterwarnings("ignore:This picture of")
def test_every_fit_has_exactly_the_size_and_invents_no_colour(w, h, height, width, how):
    """An even colour stays that colour everywhere: no border, no bar, no ringing."""
    fitted = fit_image(Image.new("RGB", (w, h), (10, 200, 90)), height, width, how)
    assert same(fitted, np.full((height, width, 3), (10, 200, 90)), 1)


@given(
    st.integers(1, 80), st.integers(1, 80), st.sampled_from(["crop", "pad", "stretch"]), st.tuples(fractions, fractions)
)
def test_a_picture_of_that_size_comes_back_as_it_was(w, h, how, focus):
    picture = scene(w, h)
    assert same(fit_image(picture, h, w, how, focus), picture)


@given(st.integers(40, 90), st.integers(24, 60), st.tuples(fractions, fractions))
def test_a_crop_without_resampling_only_cuts(w, h, focus):
    """Only where a side is already right: no half-pixel blur."""
    picture = scene(w, 24)
    left, top, right, bottom = crop_box(picture.size, 24, 40, focus)
    assert all(float(edge).is_integer() for edge in (left, top, right, bottom))
    assert same(fit_image(picture, 24, 40, focus=focus), picture.crop((int(left), int(top), int(right), int(bottom))))
    tall = scene(40, h)
    top = int(crop_box(tall.size, 24, 40, focus)[1])
    assert same(fit_image(tall, 24, 40, focus=focus), tall.crop((0, top, 40, top + 24)))


@pytest.mark.parametrize("how", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(120, 40), (70, 120), (333, 77)])
def test_pad_and_stretch_keep_all_corners_and_crop_does_not(how, size):
    picture = Image.new("RGB", size, (0, 0, 0))
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    part, (w, h) = min(size) // 4, size
    for colour, (x, y) in zip(colours, [(0, 0), (w - part, 0), (0, h - part), (w - part, h - part)], strict=True):
        picture.paste(colour, (x, y, x + part, y + part))

    def seen(fitted: Image.Image) -> int:
        return sum(bool((abs(np.asarray(fitted).astype(int) - colour).max(-1) < 40).any()) for colour in colours)

    assert seen(fit_image(picture, 72, 128, how)) == 4
    assert seen(fit_image(picture, 72, 128)) < 4


def test_pad_keeps_the_shape_and_shows_the_picture_in_the_middle():
    disc = Image.new("RGB", (200, 200), (0, 0, 0))
    disc.paste((255, 255, 255), (50, 50, 150, 150))
    padded = np.asarray(fit_image(disc, 100, 300, "pad"))
    assert same(fit_image(disc, 100, 300, "pad").crop((100, 0, 200, 100)), fit_image(disc, 100, 100))
    assert padded[:, 100:200].shape == (100, 100, 3)
    assert padded[:, :100].any()  # the blurred copy, no black bar


def test_the_ground_of_a_padded_picture_is_blurred():
    noise = open_image(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))
    padded = np.asarray(fit_image(noise, 100, 300, "pad")).astype(int)
    assert abs(np.diff(padded[:, :100], axis=1)).mean() < 3  # against 85 between neighbours of the picture itself
    assert abs(np.diff(padded[:, 100:200], axis=1)).mean() > 60


def test_focus_moves_the_crop():
    wide = scene(200, 24)
    size: Any = np.array([24, 40])  # NumPy's integers come from sweeps
    assert same(fit_image(wide, *size), wide.crop((80, 0, 120, 24)))
    assert same(fit_image(wide, 24, 40, focus=(0, 0)), wide.crop((0, 0, 40, 24)))
    assert same(fit_image(wide, 24, 40, focus=(1, 1)), wide.crop((160, 0, 200, 24)))
    assert same(fit_image(wide, 24, 40, focus=(0.25, 0.5)), wide.crop((30, 0, 70, 24)))


def test_shrinking_is_antialiased():
    stripes = np.zeros((96, 160, 3), np.uint8)
    stripes[:, ::2] = 255
    for how in ("crop", "stretch"):
        small = np.asarray(fit_image(open_image(stripes), 24, 40, how)).astype(int)
        assert abs(small[:, 2:-2] - 127.5).max() < 8  # nearest or plain bilinear would give stripes again


@pytest.mark.parametrize(("how", "times"), [("crop", "3.0"), ("stretch", "3.0"), ("pad", "2.4")])
def test_enlarging_more_than_twice_warns(how, times):
    with pytest.warns(UserWarning, match="enlarged") as caught:
        fit_image(scene(40, 30), 72, 120, how)
    assert str(caught[0].message) == (
        f"This picture of 40x30 pixels (width x height) is enlarged {times} times to 120x72, so details will be soft: "
        "give a larger one, or ask for a smaller clip."
    )
    assert caught[0].filename == __file__


def test_enlarging_twice_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_image(scene(40, 30), 60, 80).size == (80, 60)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_odd_pictures_fit_with_a_warning(size, how):
    with pytest.warns(UserWarning, match="enlarged") if how != "pad" or size == (1, 1) else warnings.catch_warnings():
        assert fit_image(Image.new("RGB", size, (5, 6, 7)), 72, 128, how).getpixel((64, 36)) == (5, 6, 7)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((72, 128, "cover"), "how='cover' is unknown: expected one of crop, pad, stretch."),
        ((0, 128), "A size of 0x128 (height x width) is not possible: both must be whole and above 0."),
        ((72, 12.5), "A size of 72x12.5 (height x width) is not possible: both must be whole and above 0."),
        (
            (72, 128, "crop", (0.5, 1.2)),
            "focus=(0.5, 1.2) must be two numbers from 0 to 1: x from the left, y from the top.",
        ),
        (
            (72, 128, "crop", (float("nan"), 0)),
            "focus=(nan, 0) must be two numbers from 0 to 1: x from the left, y from the top.",
        ),
        ((72, 128, "crop", (0.5,)), "focus=(0.5,) must be two numbers from 0 to 1: x from the left, y from the top."),
    ],
)
def test_fit_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        fit_image(scene(128, 72), *arguments)


# --- text and digest ---------------------------------------------------------------------------------------------


def test_text_keeps_names_paths_and_urls():
    for text in ("rocket", "a/b.png", "https://example.org/a.png", "data:image/png;base64,AAAA"):
        assert to_text(text) == text
    assert to_text(Path("a/b.png")) == str(Path("a/b.png"))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from(["RGB", "RGBA", "L", "P", "CMYK"]), st.booleans())
def test_a_picture_travels_as_text(w, h, mode, as_bytes):
    picture = scene(w, h).convert(mode)
    source = encoded(picture, "TIFF") if as_bytes else picture
    text = to_text(source)
    assert text.startswith("data:image/png;base64,")
    assert same(open_image(text), open_image(source))
    assert image_sha256(open_image(text)) == image_sha256(open_image(source))
    assert to_text(open_image(text)) == text


def test_digest_tells_pixels_and_sizes_apart_and_nothing_else():
    files = [encoded(SCENE), encoded(SCENE, "BMP"), encoded(SCENE, "TIFF"), encoded(SCENE, "PNG", compress_level=1)]
    assert len({image_sha256(open_image(file)) for file in files}) == 1
    other = SCENE.copy()
    other.putpixel((0, 0), (0, 0, 1))
    turned = (
        open_image(np.zeros((2, 8, 3), np.uint8)),
        open_image(np.zeros((8, 2, 3), np.uint8)),
        open_image(np.zeros((4, 4, 3), np.uint8)),
    )
    assert len({image_sha256(picture) for picture in (SCENE, other, *turned)}) == 5
    assert len(image_sha256(SCENE)) == 64
    assert (
        image_sha256(SCENE) == "390b8b1f7f6ccc7f449d449d7c8662801b72b2773c9d64e526d2b8d0816fd868"
    )  # part of saved rows: must not change


# --- refusals ----------------------------------------------------------------------------------------------------


def refusal(source) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        open_image(source)
    text = str(caught.value)
    assert text.endswith((".", "?")), text
    assert "\n" not in text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return text


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_file(format, part):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, format)
    text = refusal(data[: int(len(data) * part)])
    assert "is a damaged or truncated image" in text or "is not an image that can be read" in text
    assert f"The data given ({int(len(data) * part)} bytes)" in text


@settings(max_examples=150, deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_refused_in_a_sentence(data):
    format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]))
    file = bytearray(encoded(SCENE, format))
    for at in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=8)):
        file[at] = data.draw(st.integers(0, 255))
    try:
        outcome = open_image(bytes(file)).mode
    except ValueError as error:
        outcome = str(error)
    assert outcome == "RGB" or outcome.startswith(f"The data given ({len(file)} bytes) is ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<!doctype html><html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0",
    ],
)
def test_what_is_no_image(data):
    assert refusal(data) == (
        f"The data given ({len(data)} bytes) is not an image that can be read, or its beginning is damaged "
        f"(it starts with {data[:12]!r}): expected PNG, JPEG, WEBP, AVIF, GIF, BMP or TIFF; "
        "convert anything else (HEIC, SVG, PDF) first."
    )


def test_only_safe_decoders_are_tried(tmp_path):
    for format in ("EPS", "PPM", "ICO", "PCX", "TGA", "IM"):
        SCENE.save(tmp_path / "x", format)
        assert "is not an image that can be read" in refusal(tmp_path / "x")


def test_bombs_are_refused_by_their_header(monkeypatch):
    bomb, huge = encoded(Image.new("1", (10_000, 8_001))), bytearray(encoded(Image.new("1", (8, 8)), "BMP"))
    decoded = []
    monkeypatch.setattr(Image.Image, "load", lambda self: decoded.append(self))
    assert refusal(bomb) == (
        f"The data given ({len(bomb)} bytes) is too large, 10000x8001 pixels (width x height): "
        "at most 80 million are decoded, so scale it down first."
    )
    huge[18:26] = (60_000).to_bytes(4, "little") * 2
    assert "is too large (Image size (3600000000 pixels)" in refusal(bytes(huge))
    assert "is too large, 9000x9000" in refusal(np.broadcast_to(np.uint8(0), (9000, 9000)))
    assert decoded == []


def test_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SCENE.save("holiday.png")
    assert refusal("roket") == "There is no file 'roket'; did you mean 'rocket'?"
    assert refusal("holliday.png") == "There is no file 'holliday.png'; did you mean 'holiday.png'?"
    names = ", ".join(EXAMPLES)
    for path in ("qqq", "no/such/x.png", "nul\0byte.png"):
        assert refusal(path) == f"There is no file {path!r}: give a path, a URL, or the name of an example ({names})."
    assert refusal(tmp_path) == f"{str(tmp_path)!r} is a folder, not a picture: name a file in it."
    assert refusal("x" * 300).startswith(f"'{'x' * 100}…{'x' * 20}' cannot be read (File name too long)")
    assert "cannot be read" in refusal("~nobody-of-that-name/x.png")
    os.mkfifo("pipe")
    assert refusal("pipe") == "'pipe' is not a regular file: give a picture's path."


def test_other_schemes_and_data_urls():
    assert refusal("file:///etc/passwd").startswith("'file:///etc/passwd' cannot be fetched: only http:// and https://")
    assert "only http:// and https://" in refusal("ftp://example.org/a.png")
    for url in (
        "data:image/png;base64",
        "data:image/svg+xml,<svg/>",
        "data:image/png;base64,@@@",
        "data:image/png;base64,abc",
    ):
        assert refusal(url) == f"{url!r} is not a whole data URL: expected data:image/png;base64,… ."
    assert refusal("data:image/png;base64,aGVsbG8=").startswith("The data URL is not an image")
    assert refusal("http://[::1/a.png").startswith("This URL is malformed")
    assert refusal("http://h:99999/a.png").startswith("This URL is malformed")


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((0, 4)), "The array is empty, 4x0 pixels (width x height): give a picture with pixels in it."),
        (np.zeros(4), "The array has shape (4,): expected (height, width) or (height, width, 1|3|4)."),
        (np.zeros((4, 4, 2)), "The array has shape (4, 4, 2): expected (height, width) or (height, width, 1|3|4)."),
        (
            np.zeros((3, 8, 8)),
            "The array has shape (3, 8, 8): expected (height, width) or (height, width, 1|3|4); "
            "move the channels last with .transpose(1, 2, 0).",
        ),
        (
            np.zeros((1, 4, 4, 3)),
            "The array has shape (1, 4, 4, 3): expected (height, width) or (height, width, 1|3|4).",
        ),
        (
            np.full((2, 2), 255.0),
            "The array has float values from 255.0 to 255.0: expected 0 to 1, none of them NaN; "
            "divide by the largest possible value (255 for 8 bits), or cut off what is over with .clip(0, 1).",
        ),
        (
            np.array([[0.5, np.nan]]),
            "The array has float values from nan to nan: expected 0 to 1, none of them NaN; "
            "divide by the largest possible value (255 for 8 bits), or cut off what is over with .clip(0, 1).",
        ),
        (
            np.zeros((2, 2), np.int64),
            "The array has values of type int64: expected uint8, uint16, bool, or floats in 0 to 1.",
        ),
    ],
)
def test_arrays_that_are_no_pictures(array, sentence):
    assert refusal(array) == sentence


def test_other_things_that_are_no_pictures():
    assert "is empty" in refusal(Image.new("RGB", (0, 4)))
    assert "-0.1 to 0.5" in refusal(np.array([[-0.1, 0.5]]))
    assert "0.0 to 1.0000001" in refusal(np.array([[0, 1.0000001]]))
    assert "0.5 to inf" in refusal(np.array([[0.5, np.inf]]))
    assert "values of type int32" in refusal(Image.new("I", (2, 2), 70_000))
    for thing in (None, 3, ["rocket"]):
        assert refusal(thing).startswith(f"A {type(thing).__name__} is not a picture: give a path, a URL")


# --- the network -------------------------------------------------------------------------------------------------

PNG = encoded(SCENE)


@pytest.fixture
def loopback(monkeypatch):
    """127.0.0.1, and it alone, counts as public."""
    monkeypatch.setattr(fetch, "_allowed_address", lambda ip: str(ip) == "127.0.0.1")


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(fetch, "MAX_DOWNLOAD_SECONDS", 0.6)


def test_a_good_download(loopback):
    with serve(lambda path, file: file.write(http(PNG))) as (url, requests):
        assert same(open_image(f"{url}/ä b%20c.png?q=1 2#part"), SCENE)
    assert requests[0].startswith("GET /%C3%A4%20b%20c.png?q=1%202 HTTP/1.1\r\n")
    assert f"Host: {url[7:]}\r\n" in requests[0]


def test_a_chunked_download_and_one_that_ends_with_the_connection(loopback):
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (PNG[:50], PNG[50:])) + b"0\r\n\r\n"
    with serve(lambda path, file: file.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces)) as (
        url,
        _,
    ):
        assert same(open_image(url), SCENE)
    with serve(lambda path, file: file.write(b"HTTP/1.0 200 OK\r\n\r\n" + PNG)) as (url, _):
        assert same(open_image(url), SCENE)


def test_redirects_are_followed_a_few_times(loopback):
    def hop(path, file):
        n = int(path[1:])
        file.write(http(PNG) if n == 0 else http(b"", "302 Found", Location=f"/{n - 1}"))

    with serve(hop) as (url, requests):
        assert same(open_image(f"{url}/3"), SCENE)
        assert len(requests) == 4
        assert refusal(f"{url}/4") == f"'{url}/0' is one redirect too many (over 3): give the picture's own address."


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{port}/x", "//10.0.0.1/x", "http://169.254.169.254/latest/meta-data"]
)
def test_a_redirect_to_a_private_address_is_refused(loopback, target):
    def hop(path, file):
        file.write(http(b"", "301 Moved", Location=target.format(port=port)))

    with serve(hop) as (url, requests):
        port = url.rpartition(":")[2]
        assert "is not a public address" in refusal(url)
        assert len(requests) == 1


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "data:image/png;base64,AAAA", "ftp://127.0.0.1/x", "gopher:x"]
)
def test_a_redirect_to_another_scheme_is_refused(loopback, target):
    with serve(lambda path, file: file.write(http(b"", "302 Found", Location=target))) as (url, _):
        assert "cannot be fetched: only http:// and https:// URLs are" in refusal(url)


def test_a_redirect_with_credentials_is_refused_and_does_not_tell(loopback):
    with serve(lambda path, file: file.write(http(b"", "302 Found", Location="http://me:hunter2@127.0.0.1/x"))) as (
        url,
        _,
    ):
        assert "hunter2" not in (text := refusal(url))
        assert "is given with a user name or password" in text


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (http(PNG, "404 Not Found"), "'URL' answered 404 Not Found: check the address, or download it by hand."),
        (
            http(b"", "500 key=hunter2"),
            "'URL' answered 500 Internal Server Error: check the address, or download it by hand.",
        ),
        (http(PNG, length=len(PNG) + 9), f"'URL' broke off after {len(PNG)} of {len(PNG) + 9} bytes: try again."),
        (http(PNG, length=2**40), "'URL' is over 1 MiB: download it, scale it down, and give its path."),
        (http(bytes(2**21)), "'URL' is over 1 MiB: download it, scale it down, and give its path."),
        (
            b"HTTP/1.0 200 OK\r\n\r\n" + bytes(2**21),
            "'URL' is over 1 MiB: download it, scale it down, and give its path.",
        ),
        (http(PNG, length=70), "What 'URL' sent is a damaged or truncated image"),
        (http(b"<html>"), "What 'URL' sent is not an image that can be read"),
        (http(b"<svg/>", Type="image/svg+xml"), "What 'URL' sent is not an image that can be read"),
        (b"", "'URL' could not be fetched (RemoteDisconnected: "),
        (b"garbage\r\n\r\n", "'URL' could not be fetched (BadStatusLine: "),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort",
            "'URL' could not be fetched (IncompleteRead",
        ),
        (
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
            "'URL' could not be fetched (HTTPException: got more than",
        ),
    ],
)
def test_bad_answers(loopback, monkeypatch, answer, sentence):
    monkeypatch.setattr(fetch, "MAX_DOWNLOAD_BYTES", 2**20)
    with serve(lambda path, file: file.write(answer)) as (url, _):
        text = refusal(f"{url}/x.png?key=hunter2")
        assert text.startswith(sentence.replace("URL", f"{url}/x.png"))
        assert "hunter2" not in text


@pytest.mark.parametrize(
    "begin", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n", http(b"", length=999)]
)
def test_a_server_that_drips_is_cut_off(loopback, hasty, begin):
    def drip(path, file):
        file.write(begin)
        for _ in range(100):
            time.sleep(0.05)
            file.write(b"x")

    with serve(drip) as (url, _):
        began = time.monotonic()
        assert refusal(url) == f"'{url}' took over 0.6 seconds: try again, or download it and give its path."
        assert time.monotonic() - began < 2.5


def test_a_server_that_says_nothing_is_cut_off(loopback, hasty):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.png"
        assert refusal(url) == f"'{url}' took over 0.6 seconds: try again, or download it and give its path."
        secure = url.replace("http:", "https:")  # the handshake is in the time too
        assert refusal(secure) == f"'{secure}' took over 0.6 seconds: try again, or download it and give its path."


def test_time_counts_over_redirects(loopback, hasty):
    def hop(path, file):
        time.sleep(0.25)
        file.write(http(b"", "302 Found", Location="/again"))

    with serve(hop) as (url, _):
        assert "took over 0.6 seconds" in refusal(url)


def test_nobody_listens(loopback):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    assert f"'http://127.0.0.1:{port}/a.png' could not be fetched (ConnectionRefusedError" in refusal(
        f"http://127.0.0.1:{port}/a.png"
    )


PRIVATE = [
    "127.0.0.1",
    "localhost",
    "[::1]",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "0.0.0.0",
    "100.64.0.1",
]
PRIVATE += [
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "[::ffff:127.0.0.1]",
    "[fe80::1]",
    "[fd00::1]",
    "[ff02::1]",
    "[::]",
]
PRIVATE += ["2130706433", "0x7f.1", "127.1", "[64:ff9b::10.0.0.1]", "[2002:7f00:1::]", "[::ffff:10.0.0.1]"]


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused_before_any_connection(monkeypatch, host):
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a connection was begun"))
    text = refusal(f"http://{host}:8080/a.png")
    assert "is not a public address" in text


def test_loopback_is_refused_although_somebody_listens():
    with serve(lambda path, file: file.write(http(PNG))) as (url, requests):
        assert refusal(url) == (
            "'127.0.0.1' points to 127.0.0.1, which is not a public address, and nothing is fetched from private "
            "networks: download the picture and give its path."
        )
        assert requests == []


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_allowed(address):
    assert fetch._allowed_address(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", [h.strip("[]") for h in PRIVATE if h[0] == "[" or h.count(".") == 3])
def test_private_addresses_are_not_allowed(host):
    assert not fetch._allowed_address(ipaddress.ip_address(host))


def resolves_to(monkeypatch, *answers: list[str]) -> list[str]:
    """Makes the name server give these answers one after the other; the names it was asked for."""
    asked: list[str] = []

    def getaddrinfo(host, port, **_):
        asked.append(host)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in answers[min(len(asked), len(answers)) - 1]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_one_private_address_among_public_ones_is_refused(monkeypatch):
    resolves_to(monkeypatch, ["93.184.216.34", "10.0.0.7"])
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a connection was begun"))
    assert "'pictures.example' points to 10.0.0.7, which is not a public address" in refusal(
        "http://pictures.example/a.png"
    )


def test_the_address_that_was_checked_is_the_one_connected_to(loopback, monkeypatch):
    """DNS rebinding: a second question would get the address of somebody else."""
    with serve(lambda path, file: file.write(http(PNG))) as (url, requests):
        asked = resolves_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
        port = url.rpartition(":")[2]
        assert same(open_image(f"http://pictures.example:{port}/a.png"), SCENE)
        assert asked == ["pictures.example"]
        assert f"Host: pictures.example:{port}\r\n" in requests[0]
        assert "points to 127.0.0.2" in refusal(f"http://pictures.example:{port}/a.png")


def test_a_host_that_is_not_found(monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert (
        refusal("https://nowhere.invalid/a.png")
        == "The host 'nowhere.invalid' cannot be found: check the address and the network."
    )


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@example.org/a.png?token=hunter2", "https://hunter2@example.org/a.png"]
)
def test_credentials_in_a_url_are_refused_and_not_shown(url):
    assert (
        refusal(url)
        == "'https://example.org/a.png' is given with a user name or password: download the picture and give its path."
    )


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=us -addext subjectAltName=DNS:pictures.example"
    try:
        subprocess.run(
            [*make.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("needs the openssl program, to make a certificate")
    return folder


def test_tls_is_verified_against_the_host_name(loopback, monkeypatch, certificate):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with serve(lambda path, file: file.write(http(PNG)), tls=server) as (url, requests):
        port = url.rpartition(":")[2]
        resolves_to(monkeypatch, ["127.0.0.1"])
        good, bad = f"https://pictures.example:{port}/a.png", f"https://other.example:{port}/a.png"
        assert "could not be fetched (SSLCertVerificationError" in refusal(good)  # nobody vouches for it
        monkeypatch.setattr(fetch, "_tls_context", lambda: ssl.create_default_context(cafile=certificate / "cert.pem"))
        assert same(open_image(good), SCENE)
        assert "Hostname mismatch" in refusal(bad)
        assert len(requests) == 1


def test_a_dripping_tls_server_is_cut_off(loopback, hasty, monkeypatch, certificate):
    def drip(path, file):
        file.write(http(b"", length=999))
        for _ in range(100):
            time.sleep(0.05)
            file.write(b"x")

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with serve(drip, tls=server) as (url, _):
        resolves_to(monkeypatch, ["127.0.0.1"])
        monkeypatch.setattr(fetch, "_tls_context", lambda: ssl.create_default_context(cafile=certificate / "cert.pem"))
        began = time.monotonic()
        assert "took over 0.6 seconds" in refusal(f"https://pictures.example:{url.rpartition(':')[2]}/a.png")
        assert time.monotonic() - began < 2.5
