"""The panel as somebody uses it: in a real JupyterLab, by mouse, keyboard and dropped files, in light and dark."""

from __future__ import annotations

import base64
import re

import pytest

pytestmark = pytest.mark.browser

CELL = """\
from svdlab import panel
tried = panel(results="made")
tried
"""
DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  const panel = document.querySelector(".svdlab-panel");
  for (const type of ["dragover", "drop"]) {
    panel.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
  }
}"""
ENDED = "() => !document.querySelector('.svdlab-panel .svdlab-go button').disabled"
NAMELESS = """() => {
  const all = document.querySelectorAll('.svdlab-panel :is(input, select, button, [role=slider], img, video)');
  const named = (one) => one.labels?.length || one.getAttribute('aria-label') || one.alt || one.textContent.trim();
  return [...all].filter((one) => one.offsetParent && !named(one)).map((one) => one.outerHTML);
}"""


@pytest.fixture(scope="module")
def live(lab, browser):
    """A panel in a trusted notebook; the tests follow one another in it, as a visitor's hands would."""
    lab.put("panel.ipynb", [CELL])
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.set_default_timeout(120_000)
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda r: re.match(r"(data|blob|https?://127|ws://127)", r.url) or complaints.append(r.url[:200])
    )
    lab.open(page, "panel.ipynb")
    lab.run_all(page)
    page.wait_for_selector(".svdlab-panel[data-ready]")
    yield page
    page.close()
    assert complaints == []


def press(page, name: str) -> None:
    page.locator(".svdlab-panel").get_by_role("button", name=name, exact=True).click()


def slider(page, name: str):
    return page.locator(".svdlab-panel").get_by_role("slider", name=name, exact=True)


def bucket_becomes(page, value: int) -> None:
    page.wait_for_function(
        """now => document.querySelector('[aria-label="Motion bucket"]').ariaValueNow === now""", arg=f"{value}.0"
    )


def test_it_opens_with_a_name_on_everything(live, screenshot):
    live.get_by_text("✓ fits the").wait_for()
    assert live.evaluate(NAMELESS) == []
    assert slider(live, "Motion bucket").get_attribute("aria-valuenow") == "127.0"
    assert live.get_by_role("img", name="128 × 72, as the model will see it").is_visible()
    screenshot(live, "panel-opened-light")


def test_the_keyboard_moves_a_slider_and_jupyterlab_does_not_take_it(live):
    slider(live, "Motion bucket").focus()
    for _ in range(3):
        live.keyboard.press("ArrowRight")
    bucket_becomes(live, 130)
    assert live.locator(".jp-Notebook .jp-Cell").count() == 1
    press(live, "Standard")
    bucket_becomes(live, 127)


def test_generate_shows_progress_a_preview_and_a_clip_that_plays(live, screenshot):
    press(live, "Generate")
    live.wait_for_selector(".svdlab-panel progress")
    first = live.locator(".svdlab-panel progress").get_attribute("value")
    live.wait_for_selector("img[alt^='What the model expects']")
    screenshot(live, "panel-running-light")
    live.wait_for_function(
        "first => document.querySelector('.svdlab-panel progress')?.getAttribute('value') !== first", arg=first
    )
    live.wait_for_selector(".svdlab-panel .svdlab-bar")
    seen = set()
    for _ in range(8):
        seen.add(live.evaluate("() => document.querySelector('.svdlab-panel video').currentTime"))
        live.wait_for_timeout(150)
    assert len(seen) >= 4
    assert live.get_by_role("status").filter(has_text="made in").is_visible()
    screenshot(live, "panel-clip-light")


def test_both_files_can_be_downloaded(live):
    for kind, start in (("MP4", b"ftyp"), ("GIF", b"GIF8")):
        if kind == "GIF":
            press(live, "Make a GIF")
        with live.expect_download() as waiting:
            live.get_by_role("link", name=f"Download {kind}").click()
        data = waiting.value.path().read_bytes()
        assert start in data[:12]
        assert waiting.value.suggested_filename.endswith(kind.lower())


def test_the_python_is_copied(live):
    live.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press(live, "Copy")
    live.get_by_role("button", name="Copied").wait_for()
    copied = live.evaluate("() => navigator.clipboard.readText()")
    assert copied.splitlines()[0].startswith("from svdlab import")
    assert 'for_variant("tiny"' in copied or "for_variant('tiny'" in copied


def test_cancel_ends_one_and_the_next_is_fine(live, screenshot):
    press(live, "Dramatic")
    press(live, "Generate")
    live.wait_for_selector(".svdlab-panel progress")
    press(live, "Cancel")
    live.get_by_role("status").filter(has_text="cancelled").wait_for()
    live.wait_for_function(ENDED)
    assert live.get_by_role("checkbox").count() == 1
    press(live, "Generate")
    live.get_by_role("checkbox", name="Show clip 2").wait_for()
    live.wait_for_function(ENDED)


def test_two_clips_play_side_by_side_and_the_dark_theme_is_followed(live, screenshot):
    for name in ("Show clip 1", "Show clip 2"):
        live.get_by_role("checkbox", name=name).check()
    live.wait_for_function("() => document.querySelectorAll('.svdlab-panel video').length === 2")
    live.wait_for_selector(".svdlab-panel .svdlab-bar")
    assert live.evaluate(NAMELESS) == []
    screenshot(live, "panel-compared-light")
    colour = "() => getComputedStyle(document.querySelector('.svdlab-panel .widget-label')).color"
    light = live.evaluate(colour)
    live.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    live.wait_for_function(f"light => ({colour})() !== light", arg=light)
    live.wait_for_selector("#jupyterlab-splash", state="detached")
    assert min(int(part) for part in re.findall(r"\d+", live.evaluate(colour))[:3]) > 150
    screenshot(live, "panel-compared-dark")


def test_a_dropped_clip_brings_its_settings_back(live, lab, screenshot):
    press(live, "Subtle")
    bucket_becomes(live, 60)
    saved = sorted((lab.files / "made").glob("*.mp4"), key=lambda file: file.stat().st_mtime)[-1]
    live.evaluate(DROP, ["made.mp4", base64.b64encode(saved.read_bytes()).decode()])
    bucket_becomes(live, 180)
    press(live, "Standard")
    bucket_becomes(live, 127)
    live.get_by_role("textbox", name="Path or URL").fill(f"made/{saved.name}")
    live.keyboard.press("Enter")
    bucket_becomes(live, 180)
    live.wait_for_function("() => document.querySelector('.svdlab-picture input[type=text]').value === ''")


def test_what_is_wrong_is_said_in_the_panel(live, screenshot):
    live.get_by_role("textbox", name="Path or URL").fill("nowhere.png")
    live.keyboard.press("Enter")
    live.get_by_role("alert").filter(has_text="There is no file 'nowhere.png'").wait_for()
    screenshot(live, "panel-wrong-dark")
