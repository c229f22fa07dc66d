"""Any picture in, one RGB picture of the right size out: every format and mode, the geometry, and each refusal."""

from __future__ import annotations

import io
import os
import re
import socket
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
from pictures import cmyk_profile, encode, http, scene, serve, swapped_profile
from PIL import Image, ImageCms

from svdlab.media import download, images
from svdlab.media.images import EXAMPLES, _crop_box, fit_image, image_sha256, open_image, to_text

SCENE = scene()
PIXELS = np.asarray(SCENE)
ROOT = Path(images.__file__).parents[2]


def same(picture: Image.Image, expected: Image.Image | np.ndarray, within: int = 0) -> bool:
    """Whether `picture` is plain RGB and shows `expected`, give or take `within` of 255."""
    pixels, wanted = np.asarray(picture).astype(int), np.asarray(expected).astype(int)
    return (
        (picture.mode, pixels.shape) == ("RGB", wanted.shape)
        and not picture.info.keys() - {"image_size"}
        and bool((abs(pixels - wanted) <= within).all())
    )


# --- sources -----------------------------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    SCENE.save("a picture.png")
    data = encode(SCENE)
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
        drawing = (clip[0, 0].permute(1, 2, 0) * 255).numpy()
        small = np.asarray(fit_image(open_image(name), 72, 128)).astype(float)
        assert abs(small - drawing).mean() < 4, f"{name} is out of date: python -m training.examples"


def test_reading_changes_nothing_and_gives_a_picture_of_its_own():
    source = SCENE.copy()
    open_image(source).putpixel((0, 0), (9, 9, 9))
    fit_image(source, 24, 40).putpixel((0, 0), (9, 9, 9))
    assert same(source, SCENE)


def test_importing_loads_neither_numpy_nor_torch_nor_http():
    code = "import sys, svdlab.media.images; print({'numpy', 'torch', 'http.client', 'ssl'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "set()"
    )


# --- modes and formats -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "AVIF", "JPEG", "GIF"])
def test_formats(format):
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "JPEG": {"quality": 95}}
    flat = SCENE.quantize(16).convert("RGB") if format == "GIF" else scene().resize((160, 96))
    assert same(
        open_image(encode(flat, format, **options.get(format, {}))), flat, {"AVIF": 12, "JPEG": 60}.get(format, 0)
    )


def test_transparency_shows_white():
    half = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    half.putpixel((1, 0), (200, 0, 0, 0))
    half.putpixel((2, 0), (200, 0, 0, 51))
    expected = [[(200, 0, 0), (255, 255, 255), (244, 204, 204)]]  # 255 + (200 - 255) / 5
    for picture in (half, encode(half), encode(half, "WEBP", lossless=True), encode(half, "TIFF"), np.asarray(half)):
        assert same(open_image(picture), np.array(expected))
    assert same(open_image(half.convert("LA")), np.asarray(open_image(half.convert("LA").convert("RGBA"))))


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
        encode(grey),
        encode(grey, "TIFF"),
        grey.convert("I"),
    ):
        assert same(open_image(source), expected)
    assert same(open_image(np.stack([ramp] * 3, -1)), expected)
    grey = SCENE.convert("L")
    assert same(open_image(grey.convert("I")), open_image(grey))  # 32 bits, and no more than 8 are used


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "YCbCr", "HSV", "CMYK", "RGBX", "LA", "RGBA", "PA", "La", "RGBa"]
)
def test_opaque_pictures_of_every_mode_look_as_pillow_shows_them(mode):
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
    picture = (SCENE.convert(through) if through else SCENE).convert(mode)
    expected = picture.convert(through).convert("RGB") if mode in ("La", "RGBa") else picture.convert("RGB")
    assert same(open_image(picture), expected)


def check_orientation(orientation: int, format: str) -> None:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera held that way has done: Image.Transpose
    stored = SCENE.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else SCENE
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(stored, format, exif=exif, **{"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(format, {}))
    upright = open_image(file)
    assert same(upright, SCENE, 90 if format == "JPEG" else 0)
    assert same(open_image(Image.open(io.BytesIO(file))), upright)
    assert same(open_image(upright), upright)  # applied once


def test_exif_orientation():
    check_orientation(6, "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow speaks of it
        assert same(open_image(encode(SCENE, "PNG", exif=b"Exif\0\0garbage that is no TIFF")), SCENE)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_every_exif_orientation(format):
    for orientation in range(1, 9):
        check_orientation(orientation, format)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_the_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (32, 32), c) for c in ((250, 10, 10), (10, 250, 10), (10, 10, 250))]
    moving = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert getattr(Image.open(io.BytesIO(moving)), "n_frames", 1) == 3
    assert same(open_image(moving), frames[0], 4)


def test_colour_profiles():
    red, green = Image.new("RGB", (4, 4), (255, 0, 0)), np.full((4, 4, 3), (0, 255, 0))
    swapped = swapped_profile()
    assert same(open_image(encode(red, "PNG", icc_profile=swapped)), green, 3)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert same(open_image(encode(clear, "PNG", icc_profile=swapped)), np.full((4, 4, 3), 255))
    converted = open_image(encode(red, "PNG", icc_profile=swapped))
    assert same(open_image(converted), converted)  # not a second time


def test_srgb_and_broken_profiles_leave_pixels_alone():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"not a profile", swapped_profile()[:200], cmyk_profile()):
        assert same(open_image(encode(SCENE, "PNG", icc_profile=profile)), SCENE)


def test_cmyk_goes_through_its_profile():
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    assert same(open_image(encode(cyan, "TIFF")), np.full((4, 4, 3), (0, 255, 255)))
    grey = np.asarray(open_image(encode(cyan, "TIFF", icc_profile=cmyk_profile())))
    assert np.ptp(grey, axis=-1).max() <= 3
    assert 100 < grey.mean() < 140  # L* = 50


# --- fit ---------------------------------------------------------------------------------------------------------

sides = st.integers(1, 300)
fractions = st.floats(0, 1)


@settings(max_examples=50, deadline=None)
@given(sides, sides, st.integers(1, 200), st.integers(1, 200), st.tuples(fractions, fractions))
def test_a_crop_has_the_shape_asked_for_is_as_large_as_can_be_and_keeps_the_focus(w, h, height, width, focus):
    left, top, right, bottom = _crop_box((w, h), height, width, focus)
    assert 0 <= left < right <= w
    assert 0 <= top < bottom <= h
    assert (right - left) * height == pytest.approx((bottom - top) * width, rel=1e-6)
    assert right - left == pytest.approx(w) or bottom - top == pytest.approx(h)
    slack = 0.5 if (right - left, bottom - top) == (width, height) else 1e-6  # whole pixels where nothing is resampled
    for fraction, length, low, high in ((focus[0], w, left, right), (focus[1], h, top, bottom)):
        point, middle = fraction * length, (low + high) / 2
        assert low - slack <= point <= high + slack
        at_an_edge = low <= slack or high >= length - slack
        assert abs(point - middle) <= slack + 1e-6 or at_an_edge


@settings(max_examples=25, deadline=None)
@given(sides, sides, st.integers(1, 120), st.integers(1, 120), st.sampled_from(["crop", "pad", "stretch"]))
@pytest.mark.filterwarnings("ignore:This image of")
def test_every_fit_has_exactly_the_size_and_invents_no_colour(w, h, height, width, how):
    """An even colour stays that colour everywhere: no border, no bar, no ringing."""
    fitted = fit_image(Image.new("RGB", (w, h), (10, 200, 90)), height, width, how)
    assert same(fitted, np.full((height, width, 3), (10, 200, 90)), 1)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 80), st.integers(1, 80), st.sampled_from(["crop", "pad", "stretch"]), st.tuples(fractions, fractions)
)
def test_a_picture_of_that_size_comes_back_as_it_was(w, h, how, focus):
    picture = scene(w, h)
    assert same(fit_image(picture, h, w, how, focus), picture)


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 90), st.integers(24, 60), st.tuples(fractions, fractions))
def test_a_crop_without_resampling_only_cuts(w, h, focus):
    """Only where a side is already right: no half-pixel blur."""
    picture = scene(w, 24)
    left, top, right, bottom = _crop_box(picture.size, 24, 40, focus)
    assert all(float(edge).is_integer() for edge in (left, top, right, bottom))
    assert same(fit_image(picture, 24, 40, focus=focus), picture.crop((int(left), int(top), int(right), int(bottom))))
    tall = scene(40, h)
    top = int(_crop_box(tall.size, 24, 40, focus)[1])
    assert same(fit_image(tall, 24, 40, focus=focus), tall.crop((0, top, 40, top + 24)))


def test_pad_keeps_the_shape_and_shows_the_picture_in_the_middle():
    disc = Image.new("RGB", (200, 200), (0, 0, 0))
    disc.paste((255, 255, 255), (50, 50, 150, 150))
    padded = np.asarray(fit_image(disc, 100, 300, "pad"))
    assert same(fit_image(disc, 100, 300, "pad").crop((100, 0, 200, 100)), fit_image(disc, 100, 100))
    assert padded[:, 100:200].shape == (100, 100, 3)
    assert padded[:, :100].any()  # the blurred copy, no black bar


def test_focus_moves_the_crop():
    wide = scene(200, 24)
    size: Any = np.array([24, 40])  # NumPy's integers come from sweeps
    assert same(fit_image(wide, *size), wide.crop((80, 0, 120, 24)))
    assert same(fit_image(wide, 24, 40, focus=(0, 0)), wide.crop((0, 0, 40, 24)))
    assert same(fit_image(wide, 24, 40, focus=(1, 1)), wide.crop((160, 0, 200, 24)))
    assert same(fit_image(wide, 24, 40, focus=(0.25, 0.5)), wide.crop((30, 0, 70, 24)))


@pytest.mark.parametrize(("how", "times"), [("crop", "3.0"), ("stretch", "3.0"), ("pad", "2.4")])
def test_enlarging_more_than_twice_warns(how, times):
    with pytest.warns(UserWarning, match=f"40x30 .* enlarged {times} times to 120x72") as warned:
        fit_image(scene(40, 30), 72, 120, how)
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_image(scene(40, 30), 60, 80).size == (80, 60)


# --- text and digest ---------------------------------------------------------------------------------------------


def test_text_keeps_names_paths_and_urls():
    for text in ("rocket", "a/b.png", "https://example.org/a.png", "data:image/png;base64,AAAA"):
        assert to_text(text) == text
    assert to_text(Path("a/b.png")) == str(Path("a/b.png"))


def test_digest_tells_pixels_and_sizes_apart_and_nothing_else():
    files = [encode(SCENE), encode(SCENE, "BMP"), encode(SCENE, "TIFF"), encode(SCENE, "PNG", compress_level=1)]
    assert len({image_sha256(open_image(file)) for file in files}) == 1
    other = SCENE.copy()
    other.putpixel((0, 0), (0, 0, 1))
    blank = (
        open_image(np.zeros((2, 8, 3), np.uint8)),
        open_image(np.zeros((8, 2, 3), np.uint8)),
        open_image(np.zeros((4, 4, 3), np.uint8)),
    )
    assert len({image_sha256(picture) for picture in (SCENE, other, *blank)}) == 5
    assert len(image_sha256(SCENE)) == 64
    assert (
        image_sha256(SCENE) == "390b8b1f7f6ccc7f449d449d7c8662801b72b2773c9d64e526d2b8d0816fd868"
    )  # part of saved rows: must not change


# --- refusals ----------------------------------------------------------------------------------------------------


def refusal(source) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        open_image(source)
    text = str(error.value)
    assert text.endswith((".", "?")), text
    assert "\n" not in text
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return text


@pytest.mark.slow
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_a_truncated_file(format, fraction):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encode(noise, format)
    text = refusal(data[: int(len(data) * fraction)])
    assert "is a damaged or truncated image" in text or "is not an image that can be read" in text
    assert f"The data given ({int(len(data) * fraction)} bytes)" in text


@settings(max_examples=30, deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_refused_in_a_sentence(data):
    format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]))
    file = bytearray(encode(SCENE, format))
    for at in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=8)):
        file[at] = data.draw(st.integers(0, 255))
    try:
        outcome = open_image(bytes(file)).mode
    except ValueError as error:
        outcome = str(error)
    assert outcome == "RGB" or outcome.startswith(f"The data given ({len(file)} bytes) is ")


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7"])
def test_data_that_is_no_image_is_refused(data):
    text = refusal(data)
    assert f"The data given ({len(data)} bytes) is not an image" in text
    assert "AVIF" in text


def test_bombs_are_refused_by_their_header(monkeypatch):
    bomb, huge = encode(Image.new("1", (10_000, 8_001))), bytearray(encode(Image.new("1", (8, 8)), "BMP"))
    loads = []
    monkeypatch.setattr(Image.Image, "load", lambda self: loads.append(self))
    huge[18:26] = (60_000).to_bytes(4, "little") * 2
    for source in (bomb, bytes(huge), np.broadcast_to(np.uint8(0), (9000, 9000))):
        assert "is too large" in refusal(source)
    assert loads == []


def test_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SCENE.save("holiday.png")
    assert refusal("roket").endswith("did you mean 'rocket'?")
    assert refusal("holliday.png").endswith("did you mean 'holiday.png'?")
    for path in ("qqq", "no/such/x.png", "nul\0byte.png"):
        assert "the name of an example (launch, " in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    assert len(refusal("x" * 10**5)) < 400
    assert "cannot be read" in refusal("~nobody-of-that-name/x.png")
    os.mkfifo("pipe")
    assert "is not a regular file" in refusal("pipe")


@pytest.mark.parametrize("url", ["data:image/png;base64", "data:image/svg+xml,<svg/>", "data:image/png;base64,@@@"])
def test_data_urls_that_are_incomplete(url):
    assert "is not a complete data URL" in refusal(url)
    assert len(refusal(url + "@" * 10**5)) < 400


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        (np.zeros((0, 4)), "4x0 pixels"),
        (np.zeros(4), "shape (4,)"),
        (np.zeros((4, 4, 2)), "shape (4, 4, 2)"),
        (np.zeros((3, 8, 8)), "move the channels last"),
        (np.full((2, 2), 255.0), "255.0 to 255.0"),
        (np.array([[0.5, np.nan]]), "nan to nan"),
        (np.array([[-0.1, 0.5]]), "-0.1 to 0.5"),
        (np.zeros((2, 2), np.int64), "type int64"),
        (Image.new("I", (2, 2), 70_000), "type int32"),
        (Image.new("RGB", (0, 4)), "is empty"),
        (None, "A NoneType is not an image"),
        (["rocket"], "A list is not an image"),
    ],
)
def test_values_without_a_picture_are_refused(thing, words):
    assert words in refusal(thing)


def test_only_safe_decoders_are_tried(tmp_path):
    for format in ("EPS", "PPM", "ICO", "PCX", "TGA", "IM"):
        SCENE.save(tmp_path / "x", format)
        assert "is not an image that can be read" in refusal(tmp_path / "x")


# --- the network -------------------------------------------------------------------------------------------------

PNG = encode(SCENE)


def test_a_good_download_and_its_redirect():
    def answer(path, file):
        file.write(http(PNG) if path.startswith("/%C3") else http(b"", "302 Found", Location="/%C3%A4 b.png?q=1"))

    with serve(answer) as (url, requests):
        assert same(open_image(f"{url}/ä b%20c.png?q=1 2#part"), SCENE)
        assert same(open_image(f"{url}/short"), SCENE)
    assert requests[0].startswith("GET /%C3%A4%20b%20c.png?q=1%202 HTTP/1.1\r\n")


def test_a_proxy_is_honoured(monkeypatch):
    with serve(lambda path, file: file.write(http(PNG))) as (url, requests):
        monkeypatch.setenv("http_proxy", url)
        assert same(open_image("http://pictures.invalid/a.png"), SCENE)
    assert requests[0].startswith("GET http://pictures.invalid/a.png HTTP/1.1")


@pytest.mark.parametrize("target", ["file:///etc/hostname", "data:image/png;base64,AAAA", "ftp://127.0.0.1/x"])
def test_a_redirect_to_another_scheme_is_refused(target):
    with serve(lambda path, file: file.write(http(b"", "302 Found", Location=target))) as (url, _):
        assert re.search("answered 302|unknown url type", refusal(url))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (http(PNG, "404 Not Found"), "answered 404"),
        (http(PNG, length=len(PNG) + 9), f"broke off after {len(PNG)} of {len(PNG) + 9} bytes"),
        (http(bytes(2**21)), "over 1 MiB"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + bytes(2**21), "over 1 MiB"),
        (http(b"<html>"), "is not an image that can be read"),
        (b"", "could not be fetched (RemoteDisconnected"),
        (b"garbage\r\n\r\n", "could not be fetched (BadStatusLine"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort", "could not be fetched (IncompleteRead"),
    ],
)
def test_bad_answers(monkeypatch, answer, sentence):
    monkeypatch.setattr(download, "MAX_DOWNLOAD_BYTES", 2**20)
    with serve(lambda path, file: file.write(answer)) as (url, _):
        text = refusal(f"{url}/x.png?key=hunter2")
    assert sentence in text
    assert f"{url}/x.png" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("start", [b"", http(b"", length=999)], ids=["nothing", "a byte now and then"])
def test_a_slow_server_is_cut_off(monkeypatch, start):
    def answer_slowly(path, file):
        for part in (start, *[b"x"] * 30):
            file.write(part if start else b"")
            time.sleep(0.05)

    monkeypatch.setattr(download, "MAX_DOWNLOAD_SECONDS", 0.4)
    with serve(answer_slowly) as (url, _):
        assert re.search(r"took over 0\.4 seconds|timed out", refusal(url))


def test_addresses_that_are_refused_unasked(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    for url in ("file:///etc/passwd", "ftp://example.org/a.png", "gopher://example.org"):
        assert "only http:// and https://" in refusal(url)
    for url in ("http://[::1/a.png", "http://h:99999/a.png"):
        assert "malformed" in refusal(url)
    for url in ("https://me:hunter2@example.org/a.png?token=hunter2", "https://hunter2@example.org/a.png"):
        assert "user name or password" in (text := refusal(url))
        assert "hunter2" not in text
    assert len(refusal(f"ftp://{'x' * 10**5}")) < 400


def test_only_a_request_of_one_s_own_is_ever_fetched(tmp_path, monkeypatch):
    """Reading a clip, its row's JSON or showing either asks nothing of the address that they name."""
    from svdlab import Request, read, show
    from svdlab.generation.clip import Clip

    request = Request.for_variant("tiny", image="http://127.0.0.1:9/private.png")
    frames = [Image.new("RGB", (160, 96))] * request.num_frames
    clip = Clip(frames, request, None, picture=frames[0])
    monkeypatch.setattr(download, "download", lambda url: pytest.fail("something was fetched"))
    saved = read(clip.save(tmp_path / "clip.mp4"))
    assert image_sha256(saved.picture) == image_sha256(frames[0])
    assert isinstance(saved.request.image, Image.Image)
    assert Request.from_json(request.to_json()) == request
    assert "<video" in str(show([clip, saved, tmp_path / "clip.mp4"]))
