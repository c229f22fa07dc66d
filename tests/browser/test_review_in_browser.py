"""Looking through rows: in a live JupyterLab, where clips come from the kernel, and in a report opened from a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import studies
from html_page import HOSTILE

from svdlab import report, review
from svdlab.rows.row_note import Note

pytestmark = pytest.mark.browser

LOADED_PREVIEWS = "() => document.querySelectorAll('.svdlab-rows img[src]').length"
VIDEOS = "[...document.querySelectorAll('.svdlab-viewer figure > div > video:first-child')]"
LINES_OF_NUMBERS = """() => Math.max(...[...document.querySelectorAll('.svdlab-rows td.svdlab-number')].map((cell) => {
  cell.textContent = "0.0505312";  // longer than some headings
  const range = document.createRange();
  range.selectNodeContents(cell);
  return new Set([...range.getClientRects()].map((box) => box.top)).size;
}))"""
STILL = f"() => {VIDEOS}.every((video) => video.paused && !video.seeking && video.readyState >= 2)"
GREYS = f"""() => {VIDEOS}.map((video) => {{
  const canvas = Object.assign(document.createElement('canvas'), {{ width: 128, height: 72 }});
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0, 128, 72);
  return context.getImageData(100, 60, 1, 1).data[1];
}})"""


def tick(page, *keys: str) -> None:
    for key in keys:
        page.get_by_role("checkbox", name=f"Tick {key}").check()


def open_comparison(page, *keys: str) -> None:
    """Those clips in the viewer, paused on their first frame."""
    tick(page, *keys)
    page.get_by_role("button", name=f"Compare {len(keys)} clips").click()
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("slider", name="Frame").focus()
    page.keyboard.press("Home")


def shown_frames(page) -> list[int]:
    """The frame that each clip in the viewer shows, told from its grey (see studies.py), when all have done seeking."""
    page.wait_for_function(STILL)
    page.wait_for_timeout(60)
    return [round((grey - 80) / 20) for grey in page.evaluate(GREYS)]


@pytest.fixture(scope="module")
def folder(lab) -> Path:
    """Five hundred rows of one clip, and a failure with a hostile reason, where JupyterLab's kernels find them."""
    studies.write_copies(lab.files / "many", 500)
    studies.write_failure(lab.files / "many", 700, HOSTILE)
    return lab.files / "many"


@pytest.fixture(scope="module")
def live(lab, folder, checked_page):
    """A notebook with the review of them, run; the tests that share it close the viewer and clear the filter."""
    lab.put("review.ipynb", ["from svdlab import review", f"review({str(folder)!r}, inside=False)"])
    with checked_page() as page:
        lab.open(page, "review.ipynb")
        lab.run_all(page)
        page.wait_for_function(f"({LOADED_PREVIEWS})() > 2")
        yield page


def wait_until(page, condition) -> None:
    """Wait for what the kernel does after the page has asked for it."""
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(100)
    assert condition()


def is_animated(page, selector: str) -> bool:
    """Whether what is seen of an element changes within a loop of its clip."""
    pictures = set()
    for _ in range(8):
        pictures.add(page.locator(selector).first.screenshot())
        page.wait_for_timeout(150)
    return len(pictures) > 2


def test_previews_come_from_the_kernel_as_they_are_seen(live, screenshot):
    assert live.locator(".svdlab-rows tbody tr").count() == 501
    assert live.evaluate(LOADED_PREVIEWS) < 30  # a screenful, not five hundred
    assert live.get_by_text("model not found").count() == 0
    assert is_animated(live, ".svdlab-rows img")
    screenshot(live, "review-light")
    last = live.locator(".svdlab-rows tr[data-row='499'] img")
    assert last.get_attribute("src") is None
    last.scroll_into_view_if_needed()
    live.wait_for_function("() => document.querySelector('tr[data-row=\"499\"] img').naturalWidth > 0")
    assert str(last.get_attribute("src")).startswith("blob:")
    live.locator(".svdlab-rows tr[data-row='0'] img").scroll_into_view_if_needed()


def test_filters_by_what_is_seen_and_sorting(live):
    rows, count = live.locator(".svdlab-rows tbody tr:visible"), live.locator(".svdlab-tools output")
    live.get_by_role("combobox", name="motion_bucket_id").select_option("150")
    assert count.inner_text() == "100 of 501 rows"
    live.get_by_role("combobox", name="motion_bucket_id").select_option("all")
    for words, left in {
        "seed=4": 1,
        "seed>=4 seed<10": 7,
        "seed 100..180": 81,
        "bucket = 150": 100,
        "flicker>7.8 bucket=150": 100,
        "150": 101,  # a bucket, and a seed: never a part of a number
        "0": 500,  # the motion of all but the failed one, whose star is not set
        "7.843": 500,  # as it is displayed
        "0163": 1,  # a row's own name
        "onerror": 1,  # the reason why it failed
        "sed=4": 501,
    }.items():
        live.get_by_role("searchbox", name="Filter rows").fill(words)
        assert rows.count() == left, words
        assert int(count.inner_text().split()[0]) == left
    assert "no column sed" in count.inner_text()
    live.get_by_role("searchbox", name="Filter rows").fill("")
    assert count.inner_text() == "501 rows"
    seed = live.locator("th[data-knob=seed]")
    seed.get_by_role("button").click()
    seed.get_by_role("button").click()
    assert seed.get_attribute("aria-sort") == "descending"
    assert live.locator(".svdlab-rows tbody tr").first.get_attribute("data-row") == "499"
    seed.get_by_role("button").click()
    assert live.locator(".svdlab-rows tbody tr").first.get_attribute("data-row") == "0"


def test_forty_clips_are_judged_by_keys_alone(live, folder, screenshot):
    """And JupyterLab, whose own x cuts a cell, hears nothing of them."""
    cells = live.locator(".jp-Notebook .jp-Cell").count()
    notes = lambda: [entry.note for entry in review(folder).entries[:4]]  # noqa: E731
    live.locator("tr[data-row='0'] th").click()  # a place that takes no focus by itself
    live.keyboard.press("j")
    live.keyboard.press("s")
    wait_until(live, lambda: notes()[1] == Note(True, ""))
    live.keyboard.press("Enter")
    live.locator(".svdlab-viewer video").wait_for()
    live.keyboard.press("j")
    live.wait_for_function("() => document.querySelector('.svdlab-viewer strong')?.textContent.endsWith('seed 2')")
    live.locator(".svdlab-viewer video").wait_for()
    live.keyboard.press("n")
    live.keyboard.insert_text(HOSTILE)
    live.keyboard.press("Enter")
    wait_until(live, lambda: notes()[2] == Note(False, HOSTILE))
    live.locator(".svdlab-viewer video").wait_for()
    screenshot(live, "review-enlarged")
    live.keyboard.press("Space")
    live.get_by_role("button", name="Play", exact=True).wait_for()
    live.keyboard.press("Escape")
    assert live.locator(".svdlab-viewer video").count() == 0
    live.keyboard.press("x")
    assert live.get_by_role("checkbox", name="Tick 00020000").is_checked()
    live.keyboard.press("x")
    live.keyboard.press("Delete")
    wait_until(live, lambda: len(review(folder).rows) == 500)
    wait_until(live, lambda: live.locator(".svdlab-tools output").inner_text() == "500 rows")
    screenshot(live, "review-deleted")
    live.keyboard.press("u")
    wait_until(live, lambda: len(review(folder).rows) == 501)
    live.wait_for_function("() => document.querySelector('.svdlab-tools output').textContent === '501 rows'")
    assert notes()[2] == Note(False, HOSTILE)  # it came back too
    assert live.locator(".jp-Notebook .jp-Cell").count() == cells


def test_stars_and_notes_come_back_and_columns_stay_as_they_were_chosen(live, lab, folder, page):
    live.get_by_role("checkbox", name="starred only").check()
    assert live.locator(".svdlab-tools output").inner_text() == "1 of 501 rows"
    live.get_by_role("checkbox", name="starred only").uncheck()
    lab.put("again.ipynb", ["from svdlab import review", f"review({str(folder)!r})"])
    lab.open(page, "again.ipynb")
    lab.run_all(page)
    star = page.get_by_role("button", name="Star 00010000", exact=True)
    assert star.get_attribute("aria-pressed") == "true"
    assert page.get_by_role("textbox", name="Note on 00020000", exact=True).input_value() == HOSTILE
    assert page.locator(".svdlab-rows td:not(.svdlab-clip) img").count() == 0  # and `page` fails if a dialog opened
    page.get_by_text("Columns", exact=True).click()
    page.get_by_role("checkbox", name="flicker").uncheck()
    assert not page.locator("th[data-measure=flicker]").is_visible()
    page.evaluate("window.ran = false")
    lab.run_all(page)
    page.wait_for_function("() => document.querySelector('.svdlab-columns')?.open === false")
    assert not page.locator("th[data-measure=flicker]").is_visible()


def test_comparing_fetches_and_measures(live, lab, screenshot):
    open_comparison(live, "00000000", "00010000")
    assert shown_frames(live) == [0, 0]
    live.get_by_role("rowheader", name="PSNR (dB) against the first").wait_for()
    assert live.locator(".svdlab-measures").get_by_role("cell", name="100", exact=True).count() == 1  # copies
    lab.execute(live, "apputils:change-theme", theme="JupyterLab Dark")
    live.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    live.wait_for_selector("#jupyterlab-splash", state="detached")
    screenshot(live, "review-compare-dark")
    live.get_by_role("button", name="Close").click()
    assert live.locator(".svdlab-viewer video").count() == 0


@pytest.fixture(scope="module")
def motion(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "motion"
    studies.write_study(folder)
    studies.write_failure(folder, 70, HOSTILE)
    review(folder).note("0003", HOSTILE)
    review(folder).star("0003")
    return folder


@pytest.fixture
def open_report(motion, tmp_path, page):
    """The report opened from its file; it fails the test if it asks for anything but itself and its videos."""

    def open_page(videos, scheme="light"):
        path = report(motion, tmp_path / "report.html", videos)
        page.emulate_media(color_scheme=scheme)
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector(".svdlab-wall canvas")
        return page, urls, path

    return open_page


@pytest.mark.parametrize(("videos", "scheme"), [("inside", "light"), ("beside", "dark")])
def test_a_report_plays_from_a_file_and_asks_for_nothing(open_report, screenshot, videos, scheme):
    page, urls, path = open_report(videos, scheme)
    screenshot(page, f"report-{scheme}")
    page.locator(".svdlab-wall").scroll_into_view_if_needed()
    assert is_animated(page, ".svdlab-wall canvas")
    frames = "() => [...document.querySelectorAll('.svdlab-wall canvas')].map((each) => each.dataset.frame)"
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("slider", name="Frame").fill("4")
    page.wait_for_function(f"() => ({frames})().every((frame) => frame === '4')")
    page.locator(".svdlab-rows img").first.scroll_into_view_if_needed()
    assert is_animated(page, ".svdlab-rows img")
    screenshot(page, f"report-rows-{scheme}")
    assert page.locator(".curves").first.evaluate("image => image.complete && image.naturalWidth > 300")
    assert not any("/report_files/" in url for url in urls)  # clips are fetched when somebody looks
    page.get_by_role("button", name="Enlarge motion_bucket_id 127, seed 2").click()
    page.wait_for_function("() => document.querySelector('.svdlab-viewer video')?.currentTime > 0")
    screenshot(page, f"report-enlarged-{scheme}")
    foreign_urls = [
        url for url in urls if not url.startswith(("data:", path.as_uri(), path.parent.as_uri() + "/report_files/"))
    ]
    assert foreign_urls == []
    assert any("/report_files/" in url for url in urls) == (videos == "beside")
    page.get_by_role("button", name="Close").click()
    page.locator(".svdlab-wall canvas").first.wait_for()  # back to the wall
    # hostile notes and reasons are text; `page` fails the test if a dialog opened
    assert page.locator(".svdlab-note").nth(3).inner_text() == HOSTILE
    assert page.locator("img:not(.curves, .svdlab-clip img)").count() == 0


def test_six_clips_fit_and_a_phone_shows_all(open_report, screenshot):
    page, *_ = open_report("inside")
    for width, height in ((1280, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        widths = page.locator(".svdlab-wall canvas").evaluate_all("all => all.map((each) => each.offsetWidth)")
        assert min(widths) >= 120
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # the page itself scrolls down alone
        screenshot(page, f"report-wall-{width}")
        curves = page.locator(".curves").first
        shape = curves.evaluate("image => [image.offsetWidth, image.naturalWidth, image.offsetHeight]")
        assert shape[0] >= 0.9 * min(shape[1], width)  # not so small that its words cannot be read
        assert (shape[2] > shape[0]) == (width == 390)  # one plot below another
        curves.scroll_into_view_if_needed()
        screenshot(page, f"report-curves-{width}")
        tick(page, *(f"000{place}0000" for place in range(6)))
        page.get_by_role("button", name="Compare 6 clips").click()
        page.wait_for_function("() => document.querySelectorAll('.svdlab-viewer figure video').length === 6")
        page.wait_for_timeout(300)
        boxes = [figure.bounding_box() for figure in page.locator(".svdlab-viewer figure").all()]
        assert max(box["y"] + box["height"] for box in boxes) - min(box["y"] for box in boxes) < height
        assert min(box["width"] for box in boxes) >= 120
        screenshot(page, f"report-six-{width}")
        page.get_by_role("button", name="Close").click()
        page.locator(".svdlab-wall canvas").first.wait_for()
        page.locator(".svdlab-scroll").scroll_into_view_if_needed()
        screenshot(page, f"report-table-{width}")
        assert page.evaluate(LINES_OF_NUMBERS) == 1


def test_scrubbing_a_comparison_moves_all_in_step(open_report):
    page, *_ = open_report("inside")
    open_comparison(page, "00000000", "00030000", "00050000")
    assert shown_frames(page) == [0, 0, 0]
    for key, frame in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 5), ("Home", 0)):
        page.keyboard.press(key)
        assert shown_frames(page) == [frame] * 3, key
    page.get_by_role("slider", name="Frame").fill("4")
    assert shown_frames(page) == [4, 4, 4]


def test_the_difference_is_black_where_clips_agree(open_report, screenshot):
    page, *_ = open_report("beside")  # where a page may not read pixels
    open_comparison(page, "00000000", "00010000")  # seeds 1 and 2: a square that is 8 levels redder
    page.get_by_role("combobox", name="Difference from the first").select_option("16")
    page.wait_for_function("() => document.querySelectorAll('.svdlab-difference video').length === 2")
    page.wait_for_timeout(500)
    box = page.locator(".svdlab-difference").bounding_box()
    screenshot(page, "difference")
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")

    def colour_at(x: float, y: float) -> tuple[int, ...]:
        return picture.getpixel((int(box["x"] + x * box["width"]), int(box["y"] + y * box["height"])))  # type: ignore[return-value]

    assert max(colour_at(0.8, 0.8)) < 20
    assert colour_at(0.2, 0.3)[0] > 80
    assert page.locator(".svdlab-bar output").inner_text() == "1 / 6"


def test_everything_is_reached_by_the_keyboard_and_named(open_report):
    page, *_ = open_report("inside")
    nameless = """() => [...document.querySelectorAll('button, input, select, video, canvas, img, [role=region]')]
      .filter((e) => !(e.ariaLabel || e.alt || e.textContent.trim() || e.closest('label'))).map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    page.get_by_role("checkbox", name="Tick 00000000").focus()
    page.keyboard.press("Space")
    page.get_by_role("checkbox", name="Tick 00010000").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Compare 2 clips").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.svdlab-viewer figure').length === 2")
    page.locator("th[data-measure] button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("th[data-measure]").first.get_attribute("aria-sort") == "ascending"
    page.locator(".svdlab-again summary").first.focus()
    page.keyboard.press("Enter")
    assert page.get_by_text("svdlab clip --again").first.is_visible()


@pytest.fixture(scope="module")
def executed_notebook(lab, motion) -> Path:
    """A notebook that nbconvert ran, which no JupyterLab has signed, and beside it the page that it exports."""
    cells = ["from svdlab import read_rows, review, wall", f"folder = {str(motion)!r}"]
    cells += ["wall(read_rows(folder), 'motion_bucket_id', 'seed')", "review(folder)"]
    path = lab.put("executed.ipynb", cells)
    for options in (["--execute", "--inplace", "--to", "notebook"], ["--to", "html"]):
        command = [sys.executable, "-m", "nbconvert", *options, str(path)]
        subprocess.run(command, check=True, capture_output=True, env=lab.environment)
    return path


def test_a_notebook_that_is_not_trusted_plays_its_previews(lab, executed_notebook, page, screenshot):
    lab.open(page, executed_notebook.name)
    page.locator(".svdlab-show img").first.scroll_into_view_if_needed()
    assert is_animated(page, ".svdlab-show img")
    page.locator(".svdlab-rows img").first.scroll_into_view_if_needed()
    assert is_animated(page, ".svdlab-rows img")
    screenshot(page, "review-untrusted")
    assert page.locator(".svdlab-review script, .svdlab-tools button, .svdlab-bar").count() == 0
    assert page.locator(".svdlab-rows tbody tr").count() == 7
    assert page.get_by_text("Trust Notebook").count() == 2


def test_an_exported_page_needs_no_kernel(executed_notebook, page, screenshot):
    page.goto(executed_notebook.with_suffix(".html").as_uri(), wait_until="domcontentloaded")
    page.wait_for_selector(".svdlab-tools button")
    assert page.get_by_text("Trust Notebook").count() == 0
    screenshot(page, "review-exported")
    assert page.locator(".svdlab-star").nth(4).inner_text() == "★"
    page.get_by_role("searchbox", name="Filter rows").fill("★")
    assert page.locator(".svdlab-tools output").inner_text() == "1 of 7 rows"
    page.locator("tbody tr:not([hidden]) .svdlab-clip").click()
    page.wait_for_function("() => document.querySelector('.svdlab-viewer video')?.currentTime > 0")
    # nbconvert's own template asks for require.js, MathJax and, for widgets, more; the page itself for nothing
    page.complaints[:] = [c for c in page.complaints if "cdnjs.cloudflare.com" not in c and "unpkg.com" not in c]
