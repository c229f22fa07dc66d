"""The panel without a browser: its controls are set, its threads waited for, and what it shows is read."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import re
import subprocess
import sys
import threading
import time
import warnings

import pytest
import torch
from PIL import Image

from svdlab import Request, Setup, generate, panel, review
from svdlab.generation.latent_preview import preview_frames
from svdlab.interface.panel import setup_marks, worker
from svdlab.media import write_video
from svdlab.pipelines.pipeline_cache import load_cached
from svdlab.pipelines.pipeline_lock import exclusive
from svdlab.prediction.cards import CARDS, Card, this_device
from svdlab.prediction.estimate import estimate
from svdlab.prediction.separate_process import _predict
from svdlab.request import conditioning, quiet_requests
from svdlab.rows.row_files import read_rows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def small(checkpoint):
    """What opens a panel on the micro checkpoint: a setup, and a request of two steps and 4 frames of 64x64."""
    size = {"height": 64, "width": 64, "num_frames": 4, "decode_chunk_size": 2, "num_inference_steps": 2}
    picture = Image.radial_gradient("L").convert("RGB")
    with quiet_requests():
        request = Request.for_variant("svd", image=picture, seed=5, min_guidance_scale=1, max_guidance_scale=1, **size)
    return Setup("svd", weights=str(checkpoint)), request


@pytest.fixture
def tried(small, tmp_path):
    return panel(*small, results=tmp_path / "made")


@pytest.fixture(scope="module")
def once(small, tmp_path_factory):
    """A panel that has made one clip, and what it told and showed on the way."""
    shown = panel(*small, results=tmp_path_factory.mktemp("once"))
    shown.told, shown.looks = [], []
    shown.worker.progress.observe(lambda change: shown.told.append(change["new"]), "value")
    shown.worker.preview.observe(lambda change: shown.looks.append(change["new"]), "value")
    return make(shown)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A panel as it opens by itself, without predictions: full-size ones take many seconds."""
    monkeypatch.setattr(setup_marks.SetupMarks, "predict", lambda *_: None)
    return panel(results=tmp_path)


def make(tried):
    """The panel when its clip is there."""
    tried.generate()
    tried.worker.future.result()
    assert tried.alert.value == ""
    return tried


def send(tried, name, data, pieces=3):
    """A file as the page sends it: its name, then piece by piece, each when the one before was read."""
    size = -(-len(data) // pieces)
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    messages = [{"data": text(part), "is_last": part is parts[-1]} for part in parts]
    for message in ({}, *messages):
        assert tried.form.picture.letterbox.value == ""
        tried.form.picture.letterbox.value = json.dumps({"name": name, **message})


def until(truth):
    deadline = time.monotonic() + 60
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def set_to(tried, **values):
    for name, value in values.items():
        tried.controls[name].value = value


def test_opening_one_loads_no_torch():
    code = "import sys, svdlab; svdlab.panel(); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_page_without_widgets_says_what_is_missing(bundled):
    """GitHub, nbconvert and JupyterLab without ipywidgets show the plain text: its first 110 letters."""
    text = bundled._repr_mimebundle_()["text/plain"]
    assert "widgets" in text
    assert "docs/where.md" in text


def test_controls_say_a_request(bundled):
    assert bundled.request == Request.for_variant("tiny", image="rocket")
    assert bundled.setup == Setup("tiny")
    set_to(bundled, motion_bucket_id=180, noise_aug_strength=0.1, seed=9, fps=12, guidance=(1.0, 2.5), fit="pad")
    set_to(bundled, focus_x=0.25, decode_chunk_size=7, num_inference_steps=6)
    knobs = {"motion_bucket_id": 180, "noise_aug_strength": 0.1, "seed": 9, "fps": 12, "num_inference_steps": 6}
    more = {"max_guidance_scale": 2.5, "fit": "pad", "focus": (0.25, 0.5), "decode_chunk_size": 7}
    assert bundled.request == Request.for_variant("tiny", image="rocket", **knobs, **more)


def test_every_control_has_a_name_and_a_line_of_help(bundled):
    for control in (*bundled.controls.values(), bundled.worker.go, bundled.worker.stop, bundled.history.gif):
        assert control.description
        assert control.tooltip
        assert "\n" not in control.tooltip


def test_frames_size_and_precision_are_controls_and_limits_follow(bundled):
    set_to(bundled, num_frames=6, width=96, height=64, dtype="bf16")
    r = bundled.request
    assert (r.num_frames, r.decode_chunk_size, r.width, r.height) == (6, 6, 96, 64)
    assert bundled.setup == Setup("tiny", dtype="bf16")
    set_to(bundled, num_frames=14)
    assert bundled.request.decode_chunk_size == 6


@pytest.mark.parametrize(("name", "bad", "good"), [("seed", "twelve", "12"), ("height", 100, 96), ("seed", 2**63, -1)])
def test_what_no_request_can_have_is_told_beside_its_field(bundled, name, bad, good):
    set_to(bundled, **{name: bad})
    problem = bundled.form._problems[name]
    assert f"{name}=" in problem.value
    assert "svdlab-wrong" in bundled.controls[name]._dom_classes
    bundled.generate()
    assert "role" in bundled.alert.value
    assert bundled.rows == []
    set_to(bundled, motion_bucket_id=60)
    assert f"{name}=" in problem.value
    set_to(bundled, **{name: good})
    assert (problem.value, bundled.alert.value, bundled.controls[name]._dom_classes) == ("", "", ())


def test_several_clips_have_seeds_one_after_another_or_drawn(bundled):
    set_to(bundled, seed=2**62, clips=3)
    assert [trial.request.seed for trial in bundled.form.trials()] == [2**62, 2**62 + 1, 2**62 + 2]
    set_to(bundled, seed=-1)
    first, second = ([trial.request.seed for trial in bundled.form.trials()] for _ in range(2))
    assert len({*first, *second}) == 6
    assert bundled.request.seed == second[-1]
    assert ", ".join(map(str, second)) in bundled.form._drawn.value
    set_to(bundled, variant="svd")
    assert bundled.controls["seed"].value == "-1"
    assert str(second[-1]) in bundled.form._drawn.value
    set_to(bundled, seed=3)
    assert bundled.form._drawn.value == ""


def test_a_picture_that_the_bundled_model_cannot_animate_is_told_of(bundled):
    told = "animates drawn rockets only"
    assert told not in bundled.form.concerns.value
    set_to(bundled, example="launch")  # a photograph
    assert told in bundled.form.concerns.value
    set_to(bundled, variant="svd")
    assert told not in bundled.form.concerns.value
    set_to(bundled, variant="tiny", guidance=(1.0, 2.0))
    assert "spoils the colours" in bundled.form.concerns.value


def test_a_download_and_hours_are_asked_about_first(bundled, monkeypatch):
    begun = []
    monkeypatch.setattr(bundled.worker, "start", lambda *args: begun.append(args))
    monkeypatch.setattr(setup_marks, "is_cached", lambda *_, **__: False)
    set_to(bundled, variant="svd-xt")
    bundled.form.marks._hours = {bundled.setup: 19.2}
    bundled.generate()
    assert begun == []
    assert re.search(r"8\.4 GiB are downloaded first, and a clip takes 19 hours", bundled.worker.progress.value)
    set_to(bundled, dtype="fp16")
    bundled.generate()
    assert "4.2 GiB are downloaded first. Press" in bundled.worker.progress.value
    bundled.generate()
    assert len(begun) == 1


def test_presets_move_the_sliders(bundled):
    knobs = bundled.form.children[0].children[1]
    motion = next(box for box in knobs.children if hasattr(box, "children"))
    press = {button.description: button.click for button in motion.children[1:]}
    press["Dramatic"]()
    assert (bundled.request.motion_bucket_id, bundled.request.noise_aug_strength) == (180, 0.1)
    press["Subtle"]()
    assert (bundled.request.motion_bucket_id, bundled.request.noise_aug_strength) == (60, 0.02)
    set_to(bundled, variant="svd-xt")
    assert [button.description for button in bundled.form.sampling.children[1:]] == ["diffusers", "stability"]
    bundled.form.sampling.children[2].click()
    r = bundled.request
    assert (r.num_inference_steps, r.min_guidance_scale, r.max_guidance_scale) == (30, 1.5, 3.0)


def test_another_model_brings_its_own_values_and_keeps_picture_and_seed(bundled):
    set_to(bundled, seed=9, example="shapes", motion_bucket_id=30, variant="svd-xt-1.1")
    assert bundled.request == Request.for_variant("svd-xt-1.1", image="shapes", seed=9)
    assert bundled.setup.variant == "svd-xt-1.1"
    assert bundled.form.concerns.value == ""
    set_to(bundled, motion_bucket_id=60)
    assert "tuned at motion_bucket_id=127 only" in bundled.form.concerns.value


def test_the_crop_is_shown_as_the_model_will_see_it(bundled):
    wide = Image.new("RGB", (400, 100), "red")
    wide.paste("blue", (200, 0, 400, 100))
    send(bundled, "wide.png", png(wide))
    assert bundled.request.image.size == (400, 100)
    assert (bundled.controls["example"].value, bundled.controls["path"].value) == ("", "")
    before = bundled.form.picture.figure.value
    assert "wide.png: 128 × 72, as the model will see it" in before
    assert 'data-focus="0.5 0.5"' in before
    bundled.form.picture.letterbox.value = '{"focus": [1, 0.5]}'  # as the page says when the picture was dragged
    assert bundled.request.focus == (1.0, 0.5)
    assert bundled.form.picture.figure.value != before
    assert bundled.form.fitted_picture.getpixel((0, 0)) == (0, 0, 255)


def test_what_goes_wrong_is_one_sentence_in_the_panel(bundled, tmp_path):
    set_to(bundled, path="nowhere <b>.png")
    alert = bundled.form.picture.alert
    assert re.fullmatch(r'<div role="alert">There is no file .*nowhere &lt;b&gt;.*\.</div>', alert.value)
    assert "svdlab-wrong" in bundled.controls["path"]._dom_classes
    assert bundled.request.image == "rocket"
    (tmp_path / "other.mp4").write_bytes(b"no video")
    set_to(bundled, path=str(tmp_path / "other.mp4"))
    assert alert.value.count("role=") == 1
    set_to(bundled, example="launch")
    assert (alert.value, bundled.request.image) == ("", "launch")


def test_a_file_that_does_not_arrive_leaves_no_clip_of_the_old_picture(bundled):
    letterbox, alert = bundled.form.picture.letterbox, bundled.form.picture.alert
    letterbox.value = '{"name": "mine.jpg"}'
    assert "mine.jpg is on its way" in bundled.form.picture.figure.value
    bundled.generate()
    assert "mine.jpg is still on its way" in bundled.alert.value
    assert bundled.worker.future is None
    letterbox.value = '{"name": "mine.jpg", "problem": "it is empty"}'
    assert "could not be sent (it is empty): the picture is still rocket" in html.unescape(alert.value)
    assert "rocket: 128 × 72" in bundled.form.picture.figure.value
    send(bundled, "mine.jpg", b"no picture")
    assert "mine.jpg is not an image" in alert.value
    letterbox.value = '{"name": "late.png"}'
    set_to(bundled, example="shapes")
    letterbox.value = json.dumps({"name": "late.png", "data": text(b"rest"), "is_last": True})
    assert (bundled.request.image, alert.value) == ("shapes", "")


def test_a_clip_is_shown_kept_and_offered(once):
    [row], [clip] = once.rows, once.clips
    assert dataclasses.replace(row.request, image="-") == dataclasses.replace(once.request, image="-")
    assert read_rows(row.clip.parent)[0].key == row.key
    assert (len(clip.frames), clip.frames[0].size) == (4, (64, 64))
    assert once.history.player.outputs[0]["data"]["text/html"].count('data-fps="') == 1
    assert re.search(r'<a download="\w+\.mp4" href="data:video/mp4;base64,', once.history.files.value)
    assert (once.worker.stop.disabled, once.worker.preview.value) == (True, "")
    once.history.gif.click()
    assert 'href="data:image/gif;base64,R0lGOD' in once.history.files.value


def test_progress_and_preview_move_while_it_is_made(once):
    text = " ".join(once.told)
    for part in ("loading svd", 'max="2" value="1"', "step 1 of 2", "decoded 2 of 4", "measuring", "made in"):
        assert part in text
    assert once.looks[0].count("data:image/png") == 1


def test_the_python_shown_makes_the_same_frames(once, small):
    text = html.unescape(re.search("<pre>(.*)</pre>", once.history.code.value, re.DOTALL)[1])
    names = {}
    exec(text, names)
    assert names["clip"].frames == generate(load_cached(small[0]), small[1], progress=False).frames
    assert names["request"].seed == 5


def test_playback_speed_changes_what_is_shown_and_not_what_is_asked(once):
    before = once.request
    set_to(once, playback_fps=12)
    assert once.request == before
    assert 'data-fps="12"' in once.history.player.outputs[0]["data"]["text/html"]
    assert "fps=12" in once.history.code.value
    assert once.history.mp4.layout.display == ""
    once.history.mp4.click()
    assert 'href="data:video/mp4;base64,' in once.history.files.value


def test_playback_speed_encodes_once_when_the_slider_is_let_go(once, monkeypatch):
    assert once.controls["playback_fps"].continuous_update is False
    encoded, encode = [], write_video._write_mp4
    monkeypatch.setattr(write_video, "_write_mp4", lambda *args: encoded.append(args) or encode(*args))
    set_to(once, playback_fps=15)
    assert len(encoded) == 1


def test_clips_are_read_from_their_files_on_demand(once):
    assert once.clips[-1].frames == once.rows[-1].open().frames
    assert [clip.request.seed for clip in once.clips[:1]] == [5]
    assert not [part for part in vars(once.clips).values() if part and hasattr(part[0], "frames")]


def test_a_saved_clip_brings_its_settings_back(once, bundled):
    file, asked = once.rows[0].clip, once.clips[0].request
    for way in (
        lambda: set_to(bundled, path=str(file)),
        lambda: send(bundled, "x.mp4", file.read_bytes()),
    ):
        set_to(bundled, variant="tiny")
        way()
        assert bundled.alert.value == ""
        assert bundled.request.to_json() == asked.to_json()
        assert bundled.setup == once.clips[0].setup


def test_cancel_stops_within_a_step_and_leaves_the_pipeline_fit(tried, tmp_path):
    first = make(tried).clips[0]
    set_to(tried, num_inference_steps=60)
    tried.generate()
    until(lambda: "step" in tried.worker.progress.value)
    tried.cancel()
    tried.worker.future.result()
    assert "cancelled" in tried.worker.progress.value
    assert (tried.alert.value, len(tried.clips), tried.worker.stop.disabled) == ("", 1, True)
    assert not [p for p in (tmp_path / "made").iterdir() if p.name.startswith(".") or "failed" in p.name]
    pipeline = load_cached(tried.setup)
    assert "step" not in vars(pipeline.scheduler)
    assert "decode" not in vars(pipeline.vae)
    set_to(tried, num_inference_steps=2)
    assert make(tried).clips[1].frames == first.frames


def test_clips_wait_in_a_queue_and_each_can_be_removed(tried, small):
    def waiting():
        return [re.search(r"seed (\d+)", line.children[0].value)[1] for line in tried.worker.queue.children[:-1]]

    with exclusive(load_cached(small[0])):  # as a cell does while it makes a clip
        set_to(tried, clips=4)
        tried.generate()
        until(lambda: waiting() == ["6", "7", "8"])
        tried.generate()  # what is in the queue is not made twice
        assert waiting() == ["6", "7", "8"]
        tried.worker.queue.children[1].children[1].click()
        assert waiting() == ["6", "8"]
        tried.cancel()
        until(lambda: len(tried.worker.queue.children) == 1)
    tried.worker.future.result()
    assert [row.request.seed for row in tried.rows] == [6, 8]
    with exclusive(load_cached(small[0])):
        tried.generate()
        until(lambda: len(waiting()) == 3)
        tried.worker.queue.children[-1].click()
        assert tried.worker.queue.children == ()
        tried.cancel()


def test_a_clip_that_waits_can_be_cancelled(tried, small, tmp_path):
    """It waits for a cell on the same pipeline, and another panel's waits for it."""
    other = panel(*small, results=tmp_path)
    with exclusive(load_cached(small[0])):  # as a cell does while it makes a clip
        tried.generate()
        until(lambda: "waiting until" in tried.worker.progress.value)
        other.generate()
        other.cancel()
        assert "cancelled" in other.worker.progress.value
        tried.cancel()
        until(lambda: "cancelled" in tried.worker.progress.value)
    assert (other.rows, tried.rows, tried.alert.value) == ([], [], "")


def test_all_clips_of_all_panels_are_made_on_one_thread(small, once, tmp_path, monkeypatch):
    """CUDA graphs fail in another thread than the one that recorded them."""
    threads = []
    monkeypatch.setattr(worker, "make_row", lambda *_, **__: threads.append(threading.get_ident()) or once.rows[0])
    tried, other = panel(*small, results=tmp_path), panel(*small, results=tmp_path)
    for each in (tried, other, tried):
        make(each)
    assert len(threads) == 3
    assert len({*threads}) == 1
    assert threads[0] != threading.get_ident()


def test_a_panel_and_a_cell_share_a_pipeline(tried, small):
    """The second waits and says so; both get their clip."""
    setup, request = small
    pipeline = load_cached(setup)
    alone = generate(pipeline, request, progress=False).frames
    with exclusive(pipeline):  # as a cell does while it makes a clip
        tried.generate()
        until(lambda: "waiting" in tried.worker.progress.value)
        together = generate(pipeline, request, progress=False).frames
        assert not tried.worker.future.done()
    tried.worker.future.result()
    assert (tried.alert.value, len(tried.clips)) == ("", 1)
    tried.generate()
    frames = generate(pipeline, request, progress=False).frames
    tried.worker.future.result()
    assert (tried.alert.value, len(tried.clips)) == ("", 2)
    assert alone == together == frames
    assert tried.clips[0].frames == tried.clips[1].frames


def test_predictions_and_clips_do_not_wait_for_each_other(tried, small, monkeypatch):
    with exclusive(load_cached(small[0])):
        tried.generate()  # waits
        tried.form.picture.letterbox.value = "{}"
        tried.form.marks.future.result(60)
        assert not tried.worker.future.done()
    tried.worker.future.result()
    gate = threading.Event()
    monkeypatch.setattr(setup_marks, "predict", lambda *_: gate.wait() and ((), CARDS["T4"]))
    set_to(tried, decode_chunk_size=1)
    make(tried)
    assert not tried.form.marks.future.done()
    gate.set()
    tried.form.marks.future.result()


def test_the_picture_is_read_once_and_before_weights(small, tmp_path):
    """A path that names nothing is refused at once, and a file that goes away after it was shown does no harm."""
    file = tmp_path / "mine.png"
    small[1].image.save(file)
    tried = panel(*small, results=tmp_path / "made")
    set_to(tried, path=str(file))
    file.unlink()
    assert make(tried).clips[0].picture.size == (64, 64)


def test_filters_of_warnings_stay_out_of_it(bundled, monkeypatch):
    """They are those of all threads, so two threads that set and reset them leave them wrong."""
    monkeypatch.setattr(warnings, "catch_warnings", lambda **_: pytest.fail("changed the filters"))
    set_to(bundled, fps=30, motion_bucket_id=3)
    assert bundled.request.fps == 30


def test_history_compares_and_restores(tried):
    make(tried)
    set_to(tried, motion_bucket_id=200, seed=-1)
    make(tried)
    seed = tried.rows[1].request.seed
    assert tried.rows[0].request.seed == 5
    assert tried.request.seed == seed != 5
    first, second = tried.history.cards.children
    second.children[1].value = first.children[1].value = True
    page = tried.history.player.outputs[0]["data"]["text/html"]
    assert page.count('data-fps="') == 2
    assert "1: seed 5, motion_bucket_id 127" in page
    assert f"2: seed {seed}, motion_bucket_id 200" in page
    assert tried.history.code.value == tried.history.files.value == ""
    first.children[3].click()
    assert tried.request == tried.rows[0].request
    second.children[1].value = False
    assert tried.history.player.outputs[0]["data"]["text/html"].count('data-fps="') == 1
    assert "motion_bucket_id=200" not in tried.history.code.value


def test_a_finding_goes_into_the_controls(once):
    size = (once.controls["height"].value, once.controls["width"].value)
    once.history.diagnose.click()
    [line] = [line for line in once.history.findings.children if "<strong>size</strong>" in line.children[0].value]
    assert "learnt; " in line.children[0].value
    line.children[1].click()
    assert (once.alert.value, size, once.request.height, once.request.width) == ("", (64, 64), 576, 1024)
    once.history.cards.children[0].children[3].click()
    assert once.request == once.rows[0].request


def test_a_star_and_a_note_lie_beside_the_row(tried):
    make(tried)
    star, note = tried.history.cards.children[0].children[2].children
    star.value, note.value = True, "the flame is right"
    [entry] = review(tried.rows[0].clip.parent).entries
    assert (entry.note.star, entry.note.text) == (True, "the flame is right")


def test_the_same_again_replaces_its_file_and_a_file_that_is_gone_is_told(tried):
    make(tried)
    make(tried)
    assert tried.clips[0].frames == tried.clips[1].frames
    tried.rows[0].clip.unlink()
    tried.history.cards.children[0].children[1].value = True
    assert "alert" in tried.alert.value


def test_a_clip_that_fails_says_why(small, tmp_path):
    tried = panel(Setup("svd", weights=str(tmp_path / "gone")), small[1], results=tmp_path)
    tried.generate()
    tried.worker.future.result()
    assert re.search('role="alert">weights=.*gone.* is neither', tried.alert.value)
    assert tried.worker.stop.disabled


def test_setups_are_marked_with_what_they_need(monkeypatch):
    """Predicted here; the browser's tests do it as the panel does, in a process of its own."""
    monkeypatch.setattr(setup_marks, "predict", _predict)
    bundled = panel(request=Request(image="rocket", num_frames=2, decode_chunk_size=2))
    assert bundled.form.marks.future is None
    bundled.form.picture.letterbox.value = "{}"  # as a page says when it shows the panel
    bundled.form.marks.future.result()
    labels = {setup: text for text, setup in bundled.controls["setup"].options}
    assert re.fullmatch(r"✓ plain: \d\.\d GiB", labels[Setup("tiny")])
    assert len(labels) > 1
    assert bundled.setup == Setup("tiny")
    assert "✓ fits the" in bundled.form.marks.value
    slow = dataclasses.replace(this_device(), flops={"fp32": 1.0})
    monkeypatch.setattr(setup_marks, "predict", lambda *args: (_predict(*args)[0], slow))
    set_to(bundled, num_inference_steps=5)
    bundled.form.marks.future.result()
    assert re.search(r"No card here: .* hours or more a clip", bundled.form.marks.value)
    assert "hours or more" in bundled.form.marks.warning(bundled.setup)


def test_a_picture_of_the_panel_stays_where_no_kernel_runs(once, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
    once._ipython_display_()
    (still, options), (live, _) = shown
    assert "application/vnd.jupyter.widget-view+json" in live
    assert still["text/html"].count("<img") == 2
    assert "script" not in still["text/html"]
    once._display_still(update=True)
    assert shown[-1][1] == {**options, "update": True}


def test_the_look_of_latents_is_that_of_the_clip():
    """The bundled model's latents of a picture, projected, against that picture: the factors are the right ones."""
    pipeline = load_cached(Setup("tiny"))
    picture = conditioning(Request.for_variant("tiny", image="rocket"))
    pixels = pipeline.video_processor.preprocess(picture, 72, 128)
    with torch.no_grad():
        encoded = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
    [look, *_] = preview_frames(encoded[:, None].repeat(1, 3, 1, 1, 1), "tiny", frames=3)
    small = picture.resize(look.size, Image.Resampling.BOX)
    apart = torch.tensor(list(look.getdata())).float() - torch.tensor(list(small.getdata())).float()
    assert look.size == (32, 18)
    assert apart.abs().mean() < 8


def png(picture) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_setup_that_does_not_fit_is_not_said_to_fit(tried, monkeypatch):
    monkeypatch.setattr(setup_marks, "predict", lambda setup, r, _: ([estimate(setup, r)], Card("a card", 1000)))
    set_to(tried, decode_chunk_size=1)
    tried.form.marks.future.result()
    assert "✗ does not fit" in tried.form.marks.value
