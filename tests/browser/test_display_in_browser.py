"""What somebody sees who opens a notebook with `show(...)` in it: trusted, untrusted, exported, in light and dark."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.browser

CELL = """\
from types import SimpleNamespace
from PIL import Image, ImageDraw
from svdlab.media.show import show

def ball(phase, count=14):
    frames = []
    for i in range(count):
        frame = Image.new("RGB", (128, 72), (40 + 8 * i, 90, 160 - 8 * i))
        x = 12 + (i * 8 + phase) % 104
        ImageDraw.Draw(frame).ellipse([x - 9, 27, x + 9, 45], fill="white")
        frames.append(frame)
    return SimpleNamespace(frames=frames)
"""
SHOW = """show({"bucket 30": ball(0), "bucket 180": ball(50)}, title="How much moves")"""
HOSTILE = """\
labels = "<img src=x onerror=alert(1)>", "</figcaption><script>alert(2)</script>"
show({labels[0]: ball(0), labels[1]: ball(9)}, title='"><script>alert(3)</script>')
"""
DIAGNOSE = """\
from svdlab import Request, diagnose
from svdlab.generation.clip import Clip

still = [Image.new("RGB", (64, 64), "teal")] * 14
diagnose(Clip(still, Request(image=still[0], height=64, width=64).filled("tiny"), None))
"""
FPS, LAST = 7, 13
STATE = "() => [...document.querySelectorAll('.svdlab-show video')].map(v => ({at: v.currentTime, paused: v.paused}))"
PLAYS = """() => { const all = [...document.querySelectorAll('.svdlab-show video')]
  return all.length && all.every(v => !v.paused && v.readyState >= 2 && v.videoWidth) }"""


def sample_times(page, ticks: int = 8) -> list[list[float]]:
    """The videos' times, asked for `ticks` times while they play."""
    page.wait_for_function(PLAYS)
    samples = []
    for _ in range(ticks):
        samples.append([video["at"] for video in page.evaluate(STATE)])
        page.wait_for_timeout(150)
    return samples


def all_move(samples: list[list[float]]) -> bool:
    """Every video was at four places or more: it moves, round the end of the loop too."""
    return all(len({round(at, 3) for at in times}) >= 4 for times in zip(*samples, strict=True))


def largest_lag(times: list[float]) -> float:
    """Seconds between the videos, round the end of the loop too."""
    gap, length = max(times) - min(times), (LAST + 1) / FPS
    return min(gap, length - gap)


def current_frames(page) -> list[int]:
    """The frame that each video stands on, all videos being paused and done with seeking."""
    page.wait_for_function(
        "() => [...document.querySelectorAll('.svdlab-show video')].every(v => v.paused && !v.seeking)"
    )
    return [int(video["at"] * FPS + 1e-6) for video in page.evaluate(STATE)]


@pytest.fixture(scope="module")
def executed_notebook(lab):
    """A notebook run by nbconvert: its outputs are in the file, and no JupyterLab has ever signed it."""
    path = lab.put("executed.ipynb", [CELL, SHOW])
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(path)]
    subprocess.run(command, check=True, capture_output=True, env=lab.environment)
    return path


@pytest.fixture(scope="module")
def live(lab, checked_page):
    """A notebook opened and run in JupyterLab; the tests that share it leave the videos as they like."""
    lab.put("live.ipynb", [CELL, SHOW])
    with checked_page() as page:
        lab.open(page, "live.ipynb")
        lab.run_all(page)
        page.wait_for_selector(".svdlab-bar")
        yield page


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def rewind(page) -> None:
    """Paused on the first frame, the focus on the slider."""
    if page.get_by_role("button", name="Pause", exact=True).count():
        press(page, "Pause")
    page.get_by_role("slider", name="Frame").focus()
    page.keyboard.press("Home")
    assert current_frames(page) == [0, 0]


def test_videos_play_in_step_under_one_set_of_controls(live, screenshot):
    samples = sample_times(live, 16)  # longer than one loop
    assert all_move(samples)
    in_step = [largest_lag(times) <= 1 / FPS for times in samples]
    assert sum(in_step) >= len(samples) - 1  # one look may fall between two seeks at the end of the loop
    assert live.evaluate("() => [...document.querySelectorAll('.svdlab-show video')].some(v => v.controls)") is False
    assert live.locator(".svdlab-bar").count() == 1
    screenshot(live, "trusted-light")


def test_play_and_pause_move_all(live):
    sample_times(live, 1)
    press(live, "Pause")
    first = current_frames(live)
    assert first[0] == first[1]
    live.wait_for_timeout(400)
    assert current_frames(live) == first
    press(live, "Play")
    assert all_move(sample_times(live))


def test_stepping_and_scrubbing_move_all_by_whole_frames(live):
    rewind(live)
    press(live, "Next frame")
    press(live, "Next frame")
    press(live, "Next frame")
    assert current_frames(live) == [3, 3]
    press(live, "Previous frame")
    assert current_frames(live) == [2, 2]
    live.get_by_role("slider", name="Frame").fill("9")
    assert current_frames(live) == [9, 9]
    assert live.locator(".svdlab-bar output").inner_text() == "10 / 14"
    assert live.get_by_role("slider", name="Frame").get_attribute("aria-valuetext") == "frame 10 of 14"
    press(live, "Play")


def test_the_keyboard_does_all_and_jupyterlab_does_not_take_it(live):
    rewind(live)
    for key, expected in [
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", LAST),
        ("ArrowRight", LAST),
        ("Home", 0),
    ]:
        live.keyboard.press(key)
        assert current_frames(live) == [expected, expected], key
    live.keyboard.press("Space")
    assert all_move(sample_times(live))
    live.keyboard.press("k")
    assert current_frames(live)[0] == current_frames(live)[1]
    press(live, "Play")


def test_without_loop_it_stops_at_the_end_and_starts_again(live):
    rewind(live)
    press(live, "Loop")
    live.get_by_role("combobox", name="Speed").select_option("2")
    press(live, "Play")
    live.wait_for_selector("button[aria-label=Play]")
    assert current_frames(live) == [LAST, LAST]
    press(live, "Loop")
    live.get_by_role("combobox", name="Speed").select_option("1")
    press(live, "Play")
    assert all_move(sample_times(live))


def test_the_dark_theme_is_followed(live, lab, screenshot):
    colour = "() => getComputedStyle(document.querySelector('.svdlab-bar')).color"
    light = live.evaluate(colour)
    lab.execute(live, "apputils:change-theme", theme="JupyterLab Dark")
    live.wait_for_function(f"light => ({colour})() !== light", arg=light)
    live.wait_for_selector("#jupyterlab-splash", state="detached")
    screenshot(live, "trusted-dark")
    assert min(int(part) for part in re.findall(r"\d+", live.evaluate(colour))[:3]) > 150


def test_an_untrusted_notebook_shows_and_plays(lab, page, executed_notebook, screenshot):
    lab.open(page, executed_notebook.name)
    page.wait_for_selector(".svdlab-show video")
    assert page.locator(".svdlab-show script, .svdlab-bar").count() == 0  # JupyterLab does not trust it
    pictures = set()
    for _ in range(8):  # the video, or its poster where JupyterLab moved it before it began
        pictures.add(page.locator(".svdlab-show video").first.screenshot())
        page.wait_for_timeout(150)
    assert len(pictures) > 2
    boxes = [video.bounding_box() for video in page.locator(".svdlab-show video").all()]
    assert boxes[0]["y"] == boxes[1]["y"]  # side by side
    assert all(box["width"] > 250 for box in boxes)
    assert page.locator(".svdlab-show").get_by_text("bucket 180").is_visible()
    screenshot(page, "untrusted-light")


def test_an_exported_page_works_from_a_file(lab, page, executed_notebook, screenshot):
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", "--embed-images", str(executed_notebook)],
        check=True,
        capture_output=True,
        env=lab.environment,
    )
    page.goto(executed_notebook.with_suffix(".html").as_uri(), wait_until="domcontentloaded")
    page.wait_for_selector(".svdlab-bar")
    page.locator(".svdlab-show").scroll_into_view_if_needed()
    assert all_move(sample_times(page))
    rewind(page)
    press(page, "Next frame")
    assert current_frames(page) == [1, 1]
    screenshot(page, "exported")
    # nbconvert's own template asks for require.js and MathJax; the display itself for nothing
    page.complaints[:] = [c for c in page.complaints if "cdnjs.cloudflare.com" not in c]


def test_two_shows_on_a_page_do_not_interfere(lab, page):
    lab.put("two.ipynb", [CELL, SHOW, "show(ball(0, 25))"])
    lab.open(page, "two.ipynb")
    lab.run_all(page)
    first, second = page.locator(".svdlab-show").all()
    first.get_by_role("button", name="Pause").click()
    second.scroll_into_view_if_needed()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.svdlab-show')][1].querySelector('video').currentTime > 0.3"
    )
    assert first.get_by_role("button", name="Play").count() == 1
    assert second.get_by_role("button", name="Pause").count() == 1
    assert second.locator("output").inner_text().endswith("/ 25")


def test_hostile_labels_are_only_text(lab, page):
    lab.put("hostile.ipynb", [CELL, HOSTILE])
    lab.open(page, "hostile.ipynb")
    lab.run_all(page)
    assert page.get_by_text("<img src=x onerror=alert(1)>").last.is_visible()
    assert page.locator(".svdlab-show img, .svdlab-show figure script").count() == 0
    sample_times(page, 2)  # `page` fails the test if a dialog opened


def test_the_lines_that_apply_a_finding_are_copied(lab, page, screenshot):
    lab.put("diagnosis.ipynb", [CELL, DIAGNOSE])
    lab.open(page, "diagnosis.ipynb")
    lab.run_all(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    finding = page.locator(".svdlab-findings tr").filter(has_text="is not the 96x160")
    finding.get_by_role("button", name="Copy").click()
    finding.get_by_role("button", name="Copied").wait_for()
    code = page.evaluate("() => navigator.clipboard.readText()").strip()
    assert code == finding.locator("pre").inner_text()
    assert "clip = generate(pipeline, replace(clip.request, height=96, width=160))" in code.splitlines()
    screenshot(page, "diagnosis")
