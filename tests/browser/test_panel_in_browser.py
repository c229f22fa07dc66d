"""The panel as somebody uses it: in a real JupyterLab, by mouse, keyboard and dropped files, in light and dark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from svdlab import VARIANTS, Request, Setup
from svdlab.generation.clip import Clip
from svdlab.media.images import open_image
from svdlab.request import quiet_requests

pytestmark = pytest.mark.browser

CELL = """\
import time
import ipywidgets
from svdlab import panel

clip_panel, state = panel(results="clips"), ipywidgets.HTML()

def show_state(_):
    text = clip_panel.request.to_json(), clip_panel.setup.to_json()
    state.value = f"<pre hidden data-at='{time.time()}'>{text[0]}\\n{text[1]}</pre>"  # another value each time

button = ipywidgets.Button(description="State")
button.on_click(show_state)
display(button, state)
clip_panel
"""
# Nothing waits for its end here: Chromium may collect a promise that only a test waits for.
DROP = """([url, name]) => {
  fetch(url).then((answer) => answer.arrayBuffer()).then((data) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([data], name, { type: name.endsWith(".jpg") ? "image/jpeg" : "" }));
    const panel = document.querySelector(".svdlab-panel");
    for (const type of ["dragover", "drop"]) {
      panel.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
    }
  });
}"""
IDLE = "() => document.querySelectorAll('.svdlab-panel .svdlab-go button')[1].disabled"
WITHOUT_HELP = """() => [...document.querySelectorAll('.svdlab-panel :is(input, select, button, [role=slider])')]
  .filter((one) => !one.title && one.offsetParent && !one.closest('.svdlab-bar')).map((one) => one.outerHTML)"""
WITHOUT_NAME = """() => {
  const all = document.querySelectorAll('.svdlab-panel :is(input, select, button, [role=slider], img, video)');
  const named = (one) => one.labels?.length || one.getAttribute('aria-label') || one.alt || one.textContent.trim();
  const seen = [...all].filter((one) => one.checkVisibility({visibilityProperty: true}));
  return seen.filter((one) => !named(one)).map((one) => one.outerHTML);
}"""


@pytest.fixture(scope="module")
def live(lab, checked_page):
    """A panel in a trusted notebook; the tests follow one another in it, as a visitor's hands would."""
    lab.put("panel.ipynb", [CELL])
    with checked_page(height=1500) as page:
        lab.open(page, "panel.ipynb")
        lab.run_all(page)
        page.wait_for_selector(".svdlab-panel[data-ready]")
        yield page


def drop(page, lab, file: str) -> None:
    page.evaluate(DROP, [f"{lab.url}/files/{file}?token={lab.token}", Path(file).name])


def state(page) -> list[Any]:
    """The request and the setup that the kernel has by now, as JSON."""
    page.evaluate("() => document.querySelectorAll('.jp-OutputArea pre').forEach((one) => one.remove())")
    page.get_by_role("button", name="State").click()
    return [json.loads(line) for line in page.locator(".widget-html pre").inner_text().splitlines()]


def press(page, name: str) -> None:
    page.locator(".svdlab-panel").get_by_role("button", name=name, exact=True).click()


def slider(page, name: str):
    return page.locator(".svdlab-panel").get_by_role("slider", name=name, exact=True)


def wait_for_bucket(page, value: int) -> None:
    page.wait_for_function(
        """now => document.querySelector('[aria-label="Motion bucket"]').ariaValueNow === now""", arg=f"{value}.0"
    )


def test_every_control_is_named_and_explained(live, screenshot):
    live.get_by_text("Frames, size, precision, crop").click()
    slider(live, "Frames").wait_for()
    assert live.evaluate(WITHOUT_NAME) == live.evaluate(WITHOUT_HELP) == []
    assert slider(live, "Motion bucket").get_attribute("aria-valuenow") == "127.0"
    assert live.get_by_role("img", name="rocket: 160 × 96, as the model will see it").is_visible()
    screenshot(live, "panel-opened-light")


def test_the_keyboard_moves_a_slider_and_jupyterlab_does_not_take_it(live):
    slider(live, "Motion bucket").focus()
    for _ in range(3):
        live.keyboard.press("ArrowRight")
    while state(live)[0]["motion_bucket_id"] != 130:  # the page sends the last of several changes late
        live.wait_for_timeout(50)
    assert live.locator(".jp-Notebook .jp-Cell").count() == 1
    press(live, "Standard")
    wait_for_bucket(live, 127)


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
    times = set()
    for _ in range(8):
        times.add(live.evaluate("() => document.querySelector('.svdlab-panel video').currentTime"))
        live.wait_for_timeout(150)
    assert len(times) >= 4
    live.get_by_role("status").filter(has_text="made in").wait_for()
    screenshot(live, "panel-clip-light")


def test_both_files_can_be_downloaded(live):
    for kind, start in (("MP4", b"ftyp"), ("GIF", b"GIF8")):
        if kind == "GIF":
            press(live, "Make a GIF")
        with live.expect_download() as download:
            live.get_by_role("link", name=f"Download {kind}").click()
        data = download.value.path().read_bytes()
        assert start in data[:12]
        assert download.value.suggested_filename.endswith(kind.lower())


def test_the_python_is_copied(live):
    live.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press(live, "Copy")
    live.get_by_role("button", name="Copied").wait_for()
    code = live.evaluate("() => navigator.clipboard.readText()")
    assert code.splitlines()[0].startswith("from svdlab import")
    assert 'for_variant("tiny"' in code or "for_variant('tiny'" in code


def test_cancel_ends_a_clip_and_the_next_is_made(live, screenshot):
    press(live, "Dramatic")
    press(live, "Generate")
    live.wait_for_selector(".svdlab-panel progress")
    live.get_by_role("button", name="Cancel", exact=True).click()
    live.get_by_role("status").filter(has_text="cancelled").wait_for()
    live.wait_for_function(IDLE)
    assert live.get_by_role("checkbox").count() == 1
    live.get_by_role("button", name="Generate", exact=True).dblclick()
    live.get_by_role("checkbox", name="Show clip 2").wait_for()
    live.wait_for_function(IDLE)
    assert live.get_by_role("checkbox").count() == 2
    assert live.locator(".svdlab-panel [role=alert]").count() == 0


def test_two_clips_play_side_by_side_and_the_dark_theme_is_followed(live, lab, screenshot):
    for name in ("Show clip 1", "Show clip 2"):
        live.get_by_role("checkbox", name=name).check()
    live.get_by_role("button", name="A star for clip 2").click()
    live.get_by_role("textbox", name="A note on clip 2").fill("the flame is right")
    live.keyboard.press("Enter")
    live.wait_for_function("() => document.querySelectorAll('.svdlab-panel video').length === 2")
    live.wait_for_selector(".svdlab-panel .svdlab-bar")
    assert live.evaluate(WITHOUT_NAME) == live.evaluate(WITHOUT_HELP) == []
    screenshot(live, "panel-compared-light")
    colour = "() => getComputedStyle(document.querySelector('.svdlab-panel .widget-label')).color"
    light = live.evaluate(colour)
    lab.execute(live, "apputils:change-theme", theme="JupyterLab Dark")
    live.wait_for_function(f"light => ({colour})() !== light", arg=light)
    live.wait_for_selector("#jupyterlab-splash", state="detached")
    assert min(int(part) for part in re.findall(r"\d+", live.evaluate(colour))[:3]) > 150
    screenshot(live, "panel-compared-dark")


def test_a_dropped_clip_brings_its_settings_back(live, lab, screenshot):
    press(live, "Subtle")
    wait_for_bucket(live, 60)
    file = sorted((lab.files / "clips").glob("*.mp4"), key=lambda file: file.stat().st_mtime)[-1]
    drop(live, lab, f"clips/{file.name}")
    wait_for_bucket(live, 180)
    press(live, "Standard")
    wait_for_bucket(live, 127)
    live.get_by_role("textbox", name="Path or URL").fill(f"clips/{file.name}")
    live.keyboard.press("Enter")
    wait_for_bucket(live, 180)
    live.wait_for_function("() => document.querySelector('.svdlab-picture input[type=text]').value === ''")


def test_a_finding_is_applied_by_its_button(live, screenshot):
    live.get_by_role("textbox", name="Seed").fill("-1")
    press(live, "Subtle")
    wait_for_bucket(live, 60)
    slider(live, "Motion bucket").focus()
    live.keyboard.press("Home")
    wait_for_bucket(live, 0)
    clips = live.get_by_role("checkbox").count()
    press(live, "Generate")
    live.get_by_role("checkbox", name=f"Show clip {clips + 1}").wait_for()
    live.wait_for_function(IDLE)
    seed = live.get_by_role("status").filter(has_text="drawn:").inner_text().removeprefix("drawn: ")
    assert f"seed {seed} made in" in live.get_by_role("status").filter(has_text="made in").inner_text()
    press(live, "Diagnose")
    live.get_by_text("the fastest part of the picture").wait_for()
    screenshot(live, "panel-diagnosed")
    press(live, "Apply")
    wait_for_bucket(live, 190)
    live.get_by_role("button", name="Applied").wait_for()
    request, _ = state(live)
    assert (str(request["seed"]), request["noise_aug_strength"]) == (seed, 0.1)


def test_errors_are_shown_in_the_panel(live, screenshot):
    live.get_by_role("textbox", name="Path or URL").fill("nowhere.png")
    live.keyboard.press("Enter")
    live.get_by_role("alert").filter(has_text="There is no file 'nowhere.png'").wait_for()
    assert live.get_by_role("textbox", name="Path or URL").get_attribute("aria-invalid") == "true"
    live.get_by_role("textbox", name="Seed").fill("twelve")
    live.keyboard.press("Enter")
    live.get_by_role("alert").filter(has_text="seed='twelve'").wait_for()
    screenshot(live, "panel-wrong-dark")
    live.get_by_role("textbox", name="Seed").fill("12")
    live.keyboard.press("Enter")
    for example in ("launch", "rocket"):  # whichever was chosen, one of them is another
        live.get_by_role("combobox", name="Example").select_option(example)
    live.get_by_role("alert").first.wait_for(state="detached")


def test_setups_are_marked_that_fit(live):
    live.get_by_text("✓ fits the").wait_for()
    assert live.get_by_role("combobox", name="Setup").inner_text().count("✓") > 1


def test_clips_wait_in_a_queue_and_one_is_removed(live, lab, screenshot):
    clips = live.get_by_role("checkbox").count()
    live.get_by_role("spinbutton", name="Clips").fill("3")
    live.keyboard.press("Tab")
    press(live, "Generate")
    live.get_by_role("button", name="Remove", exact=True).nth(1).wait_for()
    for width in (700, 390):
        live.set_viewport_size({"width": width, "height": 1500})
        if width == 390:
            lab.execute(live, "application:toggle-left-area")
            live.wait_for_timeout(500)
        clipped_texts = live.evaluate(
            """() => [...document.querySelectorAll('.svdlab-panel :is(button, .widget-label)')].filter((one) =>
                one.offsetParent && (one.scrollWidth > one.clientWidth + 1
                || one.getBoundingClientRect().right > one.closest('.svdlab-panel').getBoundingClientRect().right))
                .map((one) => one.textContent)"""
        )
        screenshot(live, f"panel-queue-{width}-dark")
        assert clipped_texts == []
    lab.execute(live, "application:toggle-left-area")
    live.set_viewport_size({"width": 1280, "height": 1500})
    live.get_by_role("button", name="Remove", exact=True).nth(1).click()
    live.get_by_role("checkbox", name=f"Show clip {clips + 2}").wait_for()
    live.wait_for_function(IDLE)
    assert live.get_by_role("checkbox").count() == clips + 2


def test_a_large_photograph_arrives_upright_and_small_and_its_crop_is_dragged(live, lab, screenshot):
    """The camera stored it lying down, with red on top; upright red is on the right."""
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), dtype=np.uint8)
    photo, exif = Image.fromarray(pixels).resize((6000, 4000)), Image.Exif()
    photo.paste("red", (0, 0, 6000, 1300))
    exif[ExifTags.Base.Orientation] = 6
    photo.save(lab.files / "photo.jpg", quality=95, exif=exif)
    assert (lab.files / "photo.jpg").stat().st_size > 14e6
    drop(live, lab, "photo.jpg")
    live.get_by_role("img", name="photo.jpg: 160 × 96, as the model will see it").wait_for()
    live.get_by_text("tiny animates drawn scenes").wait_for()
    assert state(live)[0]["focus"] == [0.5, 0.5]
    picture = open_image(state(live)[0]["image"])
    assert (picture.width, picture.height) == (2048, 3072)
    assert picture.getpixel((2000, 1500))[0] > 240
    frame = live.locator(".svdlab-crop > div").bounding_box()
    live.mouse.move(frame["x"] + 50, frame["y"] + 50)
    live.mouse.down()
    live.mouse.move(frame["x"] + 90, frame["y"] + 50 - 0.2 * frame["width"] * 1.5, steps=4)
    screenshot(live, "panel-dragging-dark")
    live.mouse.up()
    live.wait_for_selector(".svdlab-crop:not([data-focus='0.5 0.5'])")
    assert state(live)[0]["focus"] == pytest.approx([0.5, 0.7], abs=0.02)
    with live.expect_file_chooser() as chooser:
        live.locator(".svdlab-choose").last.click()
    (lab.files / "words.png").write_text("no picture")
    chooser.value.set_files(lab.files / "words.png")
    live.get_by_role("alert").filter(has_text="words.png is not an image").wait_for()
    live.get_by_role("img", name="photo.jpg: 160 × 96").wait_for()
    screenshot(live, "panel-refused")


def test_every_knob_is_restored_from_any_variant_to_any_other(live, lab):
    """From clips of 10 MB, each with values at and beyond the ends of the sliders, and between their steps."""
    requests, setups = [], {}
    for place, name in enumerate(VARIANTS):
        shape = {"height": 64 + 8 * place, "width": 96, "num_frames": 4 + place, "decode_chunk_size": 1 + place}
        knobs = {"motion_bucket_id": 255 - place, "noise_aug_strength": 0.123 + place, "fps": 2 + 31 * place}
        guidance = {"min_guidance_scale": 1.25 + place, "max_guidance_scale": 3.33 + 3 * place}
        steps = {"num_inference_steps": (4, 101, 61, 12)[place], "seed": 2**62 + place}
        more = {"fit": ("pad", "crop")[place % 2], "focus": (0.125, 0.875), "image": ("launch", "shapes")[place % 2]}
        with quiet_requests():
            requests.append(Request.for_variant(name, **shape, **knobs, **guidance, **steps, **more))
        setups[name] = Setup(name, dtype=(None, "fp32", "bf16", "fp16")[place])
        frames = [Image.new("RGB", (96, 64 + 8 * place), (60 * i, 0, 0)) for i in range(4 + place)]
        file = Clip(frames, requests[-1], setups[name]).save(lab.files / f"{name}.mp4")
        with file.open("ab") as end:  # a box that every player skips
            end.write(int(10e6).to_bytes(4, "big") + b"free" + bytes(int(10e6) - 8))
    for place in (0, 1, 0, 2, 0, 3, 1, 2, 1, 3, 2, 3, 0):  # each of the twelve pairs once
        name = requests[place].variant
        drop(live, lab, f"{name}.mp4")
        live.get_by_role("img", name=f"from {name}.mp4").wait_for()
        live.wait_for_timeout(400)  # a page that knew better would write back by now
        request, setup = state(live)
        assert Request.from_json(request) == requests[place]
        assert Setup.from_json(setup) == setups[name]
        assert live.locator(".svdlab-panel [role=alert]").count() == 0


def test_a_picture_of_the_panel_stays_in_an_export_and_without_trust(live, lab, page, screenshot):
    lab.execute(live, "docmanager:save")
    live.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
    notebook = json.loads((lab.files / "panel.ipynb").read_text())
    notebook["cells"][0]["source"] = "# another notebook, which nobody trusts"
    (lab.files / "copy.ipynb").write_text(json.dumps(notebook))
    assert live.locator("[class^=svdlab-still]").is_hidden()
    lab.open(page, "copy.ipynb")
    page.get_by_role("img", name="The last clip that was made").wait_for()
    assert page.get_by_text("need a running kernel").is_visible()
    screenshot(page, "panel-untrusted")
