"""The page that `show` makes, without a browser; what a browser does with it is in `tests/browser`."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from svdlab.media.read_video import probe
from svdlab.media.show import show, strip
from svdlab.media.write_video import write_video


def clip(count: int = 4, size: tuple[int, int] = (128, 72)) -> SimpleNamespace:
    shades = np.linspace(0, 200, count).astype(int)
    return SimpleNamespace(frames=[Image.new("RGB", size, (int(shade), 80, 120)) for shade in shades])


def decode_source(attributes: dict[str, str | None]) -> bytes:
    return base64.b64decode((attributes["src"] or "").split(",", 1)[1])


def test_a_video_plays_without_any_script(tmp_path):
    page = Page(show(clip()).html)
    (tag,) = page.all("video")
    assert {"autoplay", "loop", "muted", "playsinline", "controls"} <= tag.keys()
    assert (tag["src"] or "").startswith("data:video/mp4;base64,")
    assert page.all("source") == []  # JupyterLab would strip its src
    (tmp_path / "x.mp4").write_bytes(decode_source(tag))
    assert probe(tmp_path / "x.mp4")[2:] == (7.0, 4, "h264", "yuv420p")
    assert (tag["data-fps"], tag["data-frames"]) == ("7", "4")


def test_a_page_that_keeps_neither_scripts_nor_videos_says_so():
    """GitHub's, and JupyterLab's of a notebook from elsewhere; a script takes the line away where scripts run."""
    page = show({"calm": clip(), "still": Image.new("RGB", (8, 8))})
    text = Page(re.sub(r"</?video[^>]*>", "", page.html)).text
    assert "GitHub" in text
    assert "Trust Notebook" in text
    assert "4 frames" in text
    assert "function" not in text
    assert "data-untrusted" in page.html.partition("<script>")[2]
    assert "GitHub" not in Page(show(Image.new("RGB", (8, 8))).html).text


def test_small_clips_are_enlarged_and_large_ones_are_not_sent_whole(tmp_path):
    def encoded_size(size: tuple[int, int], **options) -> tuple[int, int]:
        (tmp_path / "x.mp4").write_bytes(decode_source(Page(show(clip(2, size), **options).html).all("video")[0]))
        return probe(tmp_path / "x.mp4")[:2]

    assert encoded_size((128, 72)) == (640, 360)
    assert encoded_size((127, 71), width=100) == (128, 72)  # even sides, whatever comes
    assert encoded_size((1024, 576), width=300) == (600, 338)
    assert encoded_size((64, 128)) == (256, 512)  # upright: not taller than the screen


def test_labels_and_title_are_only_text():
    label, title = '<img src=x onerror="alert(1)">', '"><script>alert(2)</script>'
    page = Page(show({label: clip(), "</figcaption>": clip()}, title=title).html)
    assert page.all("img") == []
    assert len(page.all("script")) == 1
    assert label in page.text
    assert title in page.text
    assert page.all("div")[0]["aria-label"] == title
    assert page.all("video")[0]["aria-label"] == label


def test_everything_that_can_be_shown(tmp_path):
    frames = clip().frames
    mp4 = write_video(tmp_path / "a.mp4", frames, 12)
    frames[0].save(tmp_path / "still.jpg")
    things = [clip(), mp4, str(mp4), frames[0], tmp_path / "still.jpg"]
    things += [write_video(tmp_path / name, frames, 5) for name in ("b.gif", "c.webp", "d")]
    text = show(things).html
    page = Page(text)
    assert [tag["data-fps"] for tag in page.all("video")] == ["7", "12", "12", "5", "5", "5"]
    assert len(page.all("img")) == 2
    assert decode_source(page.all("video")[1]) == mp4.read_bytes()
    captions = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", text)
    assert captions == ["", "a.mp4", "a.mp4", "", "still.jpg", "b.gif", "c.webp", "d"]  # of what has a name


def test_fps_is_for_clips_and_columns_are_held():
    page = Page(show([clip(), clip(), clip()], fps=12.5, columns=2).html)
    assert [tag["data-fps"] for tag in page.all("video")] == ["12.5"] * 3
    assert "repeat(2, " in (page.all("div")[1]["style"] or "")


def test_two_shows_have_two_names_and_display_themselves():
    first, second = show(clip()), show(clip())
    assert first._repr_html_() == str(first) == first.html
    assert Page(first.html).all("div")[0]["data-svdlab"] != Page(second.html).all("div")[0]["data-svdlab"]
    assert repr(show({"a": clip(), 3: clip()})) == "Shown(a, 3)"  # not a page of base64


def test_the_page_asks_nothing_of_the_network():
    page = Page(show({"a": clip(), "b": clip().frames[0]}).html)
    links = [
        value or "" for _, tag in page.elements for name, value in tag.items() if name in ("src", "href", "poster")
    ]
    assert len(links) == 3  # a video, its poster and a picture
    assert all(link.startswith("data:") for link in links)


@pytest.mark.parametrize("value", [[], {}, 7, {"a": object()}])
def test_what_cannot_be_shown_is_refused(value):
    with pytest.raises(ValueError, match="give a clip"):
        show(value)


def test_a_missing_file_is_one_sentence(tmp_path):
    for name in ("x.mp4", "x.png"):
        with pytest.raises(ValueError, match="There is no file"):
            show(tmp_path / name)


def test_strip_is_the_first_to_the_last():
    film = strip(clip(25), n=3, height=36)
    assert film.size == (3 * 64 + 2 * 4, 36)
    assert [film.getpixel((x, 5))[0] for x in (10, 100, 190)] == [0, 100, 200]  # pyright: ignore
    assert strip(clip(2), n=7).width == strip(clip(2), n=2).width


def test_importing_it_loads_no_torch():
    check = "import sys, svdlab.media.show; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_pictures_inside_are_pngs():
    (tag,) = Page(show(clip().frames[2]).html).all("img")
    with Image.open(io.BytesIO(decode_source(tag))) as picture:
        assert (picture.format, picture.size) == ("PNG", (640, 360))


def test_a_photograph_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (64, 32)).save(tmp_path / "photo.jpg", exif=exif)
    (tag,) = Page(show(tmp_path / "photo.jpg").html).all("img")
    with Image.open(io.BytesIO(decode_source(tag))) as picture:
        assert picture.height == 2 * picture.width
