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
def micro_question(checkpoint):
    """What opens a panel on the micro checkpoint: a setup, and a request of two steps and 4 frames of 64x64."""
    size = {"height": 64, "width": 64, "num_frames": 4, "decode_chunk_size": 2, "num_inference_steps": 2}
    picture = Image.radial_gradient("L").convert("RGB")
    with quiet_requests():
        request = Request.for_variant("svd", image=picture, seed=5, min_guidance_scale=1, max_guidance_scale=1, **size)
    return Setup("svd", weights=str(checkpoint)), request


@pytest.fixture
def micro_panel(micro_question, tmp_path):
    return panel(*micro_question, results=tmp_path / "made")


@pytest.fixture(scope="module")
def panel_with_clip(micro_question, tmp_path_factory):
    """A panel that has made one clip, and what it told and showed on the way."""
    target = panel(*micro_question, results=tmp_path_factory.mktemp("once"))
    target.messages, target.previews = [], []
    target.worker.progress.observe(lambda change: target.messages.append(change["new"]), "value")
    target.worker.preview.observe(lambda change: target.previews.append(change["new"]), "value")
    return make_clip(target)


@pytest.fixture
def tiny_panel(tmp_path, monkeypatch):
    """A panel as it opens by itself, without predictions: full-size ones take many seconds."""
    monkeypatch.setattr(setup_marks.SetupMarks, "predict", lambda *_: None)
    return panel(results=tmp_path)


def make_clip(target):
    """The panel when its clip is there."""
    target.generate()
    target.worker.future.result()
    assert target.alert.value == ""
    return target


def send_file(target, name, data, pieces=3):
    """A file as the page sends it: its name, then piece by piece, each when the one before was read."""
    size = -(-len(data) // pieces)
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    messages = [{"data": base64_text(part), "is_last": part is parts[-1]} for part in parts]
    for message in ({}, *messages):
        assert target.form.picture.inbox.value == ""
        target.form.picture.inbox.value = json.dumps({"name": name, **message})


def wait_until(truth):
    deadline = time.monotonic() + 60
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def set_controls(target, **values):
    for name, value in values.items():
        target.controls[name].value = value


def test_opening_a_panel_loads_no_torch():
    code = "import sys, svdlab; svdlab.panel(); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_page_without_widgets_says_what_is_missing(tiny_panel):
    """GitHub, nbconvert and JupyterLab without ipywidgets show the plain text: its first 110 letters."""
    text = tiny_panel._repr_mimebundle_()["text/plain"]
    assert "widgets" in text
    assert "docs/where.md" in text


def test_controls_set_the_request(tiny_panel):
    assert tiny_panel.request == Request.for_variant("tiny", image="rocket")
    assert tiny_panel.setup == Setup("tiny")
    set_controls(
        tiny_panel, motion_bucket_id=180, noise_aug_strength=0.1, seed=9, fps=12, guidance=(1.0, 2.5), fit="pad"
    )
    set_controls(tiny_panel, focus_x=0.25, decode_chunk_size=7, num_inference_steps=6)
    knobs = {"motion_bucket_id": 180, "noise_aug_strength": 0.1, "seed": 9, "fps": 12, "num_inference_steps": 6}
    other_fields = {"max_guidance_scale": 2.5, "fit": "pad", "focus": (0.25, 0.5), "decode_chunk_size": 7}
    assert tiny_panel.request == Request.for_variant("tiny", image="rocket", **knobs, **other_fields)


def test_every_control_has_a_name_and_a_line_of_help(tiny_panel):
    for control in (
        *tiny_panel.controls.values(),
        tiny_panel.worker.go,
        tiny_panel.worker.stop,
        tiny_panel.history.gif,
    ):
        assert control.description
        assert control.tooltip
        assert "\n" not in control.tooltip


def test_frames_size_and_precision_are_controls_and_limits_follow(tiny_panel):
    set_controls(tiny_panel, num_frames=6, width=96, height=64, dtype="bf16")
    r = tiny_panel.request
    assert (r.num_frames, r.decode_chunk_size, r.width, r.height) == (6, 6, 96, 64)
    assert tiny_panel.setup == Setup("tiny", dtype="bf16")
    set_controls(tiny_panel, num_frames=14)
    assert tiny_panel.request.decode_chunk_size == 6


@pytest.mark.parametrize(("name", "bad", "good"), [("seed", "twelve", "12"), ("height", 100, 96), ("seed", 2**63, -1)])
def test_what_no_request_can_have_is_told_beside_its_field(tiny_panel, name, bad, good):
    set_controls(tiny_panel, **{name: bad})
    problem = tiny_panel.form._problems[name]
    assert f"{name}=" in problem.value
    assert "svdlab-wrong" in tiny_panel.controls[name]._dom_classes
    tiny_panel.generate()
    assert "role" in tiny_panel.alert.value
    assert tiny_panel.rows == []
    set_controls(tiny_panel, motion_bucket_id=60)
    assert f"{name}=" in problem.value
    set_controls(tiny_panel, **{name: good})
    assert (problem.value, tiny_panel.alert.value, tiny_panel.controls[name]._dom_classes) == ("", "", ())


def test_several_clips_have_seeds_one_after_another_or_drawn(tiny_panel):
    set_controls(tiny_panel, seed=2**62, clips=3)
    assert [trial.request.seed for trial in tiny_panel.form.trials()] == [2**62, 2**62 + 1, 2**62 + 2]
    set_controls(tiny_panel, seed=-1)
    first, second = ([trial.request.seed for trial in tiny_panel.form.trials()] for _ in range(2))
    assert len({*first, *second}) == 6
    assert tiny_panel.request.seed == second[-1]
    assert ", ".join(map(str, second)) in tiny_panel.form._drawn_label.value
    set_controls(tiny_panel, variant="svd")
    assert tiny_panel.controls["seed"].value == "-1"
    assert str(second[-1]) in tiny_panel.form._drawn_label.value
    set_controls(tiny_panel, seed=3)
    assert tiny_panel.form._drawn_label.value == ""


def test_a_picture_that_the_bundled_model_cannot_animate_is_told_of(tiny_panel):
    sentence = "animates drawn scenes"
    assert sentence not in tiny_panel.form.concerns.value
    set_controls(tiny_panel, example="launch")  # a photograph
    assert sentence in tiny_panel.form.concerns.value
    set_controls(tiny_panel, variant="svd")
    assert sentence not in tiny_panel.form.concerns.value
    set_controls(tiny_panel, variant="tiny", guidance=(1.0, 2.0))
    assert "it gains tiny little" in tiny_panel.form.concerns.value


def test_a_download_and_hours_are_asked_about_first(tiny_panel, monkeypatch):
    starts = []
    monkeypatch.setattr(tiny_panel.worker, "start", lambda *args: starts.append(args))
    monkeypatch.setattr(setup_marks, "is_cached", lambda *_, **__: False)
    set_controls(tiny_panel, variant="svd-xt")
    tiny_panel.form.marks._hours = {tiny_panel.setup: 19.2}
    tiny_panel.generate()
    assert starts == []
    assert re.search(r"8\.4 GiB are downloaded first, and a clip takes 19 hours", tiny_panel.worker.progress.value)
    set_controls(tiny_panel, dtype="fp16")
    tiny_panel.generate()
    assert "4.2 GiB are downloaded first. Press" in tiny_panel.worker.progress.value
    tiny_panel.generate()
    assert len(starts) == 1


def test_presets_move_the_sliders(tiny_panel):
    knobs = tiny_panel.form.children[0].children[1]
    motion = next(box for box in knobs.children if hasattr(box, "children"))
    press = {button.description: button.click for button in motion.children[1:]}
    press["Dramatic"]()
    assert (tiny_panel.request.motion_bucket_id, tiny_panel.request.noise_aug_strength) == (180, 0.1)
    press["Subtle"]()
    assert (tiny_panel.request.motion_bucket_id, tiny_panel.request.noise_aug_strength) == (60, 0.02)
    set_controls(tiny_panel, variant="svd-xt")
    assert [button.description for button in tiny_panel.form.sampling.children[1:]] == ["diffusers", "stability"]
    tiny_panel.form.sampling.children[2].click()
    r = tiny_panel.request
    assert (r.num_inference_steps, r.min_guidance_scale, r.max_guidance_scale) == (30, 1.5, 3.0)


def test_another_model_brings_its_own_values_and_keeps_picture_and_seed(tiny_panel):
    set_controls(tiny_panel, seed=9, example="shapes", motion_bucket_id=30, variant="svd-xt-1.1")
    assert tiny_panel.request == Request.for_variant("svd-xt-1.1", image="shapes", seed=9)
    assert tiny_panel.setup.variant == "svd-xt-1.1"
    assert tiny_panel.form.concerns.value == ""
    set_controls(tiny_panel, motion_bucket_id=60)
    assert "tuned at motion_bucket_id=127 only" in tiny_panel.form.concerns.value


def test_the_crop_is_shown_as_the_model_will_see_it(tiny_panel):
    picture = Image.new("RGB", (400, 100), "red")
    picture.paste("blue", (200, 0, 400, 100))
    send_file(tiny_panel, "wide.png", png(picture))
    assert tiny_panel.request.image.size == (400, 100)
    assert (tiny_panel.controls["example"].value, tiny_panel.controls["path"].value) == ("", "")
    figure = tiny_panel.form.picture.figure.value
    assert "wide.png: 160 × 96, as the model will see it" in figure
    assert 'data-focus="0.5 0.5"' in figure
    tiny_panel.form.picture.inbox.value = '{"focus": [1, 0.5]}'  # as the page says when the picture was dragged
    assert tiny_panel.request.focus == (1.0, 0.5)
    assert tiny_panel.form.picture.figure.value != figure
    assert tiny_panel.form.fitted_picture.getpixel((0, 0)) == (0, 0, 255)


def test_what_goes_wrong_is_one_sentence_in_the_panel(tiny_panel, tmp_path):
    set_controls(tiny_panel, path="nowhere <b>.png")
    alert = tiny_panel.form.picture.alert
    assert re.fullmatch(r'<div role="alert">There is no file .*nowhere &lt;b&gt;.*\.</div>', alert.value)
    assert "svdlab-wrong" in tiny_panel.controls["path"]._dom_classes
    assert tiny_panel.request.image == "rocket"
    (tmp_path / "other.mp4").write_bytes(b"no video")
    set_controls(tiny_panel, path=str(tmp_path / "other.mp4"))
    assert alert.value.count("role=") == 1
    set_controls(tiny_panel, example="launch")
    assert (alert.value, tiny_panel.request.image) == ("", "launch")


def test_a_file_that_does_not_arrive_leaves_no_clip_of_the_old_picture(tiny_panel):
    inbox, alert = tiny_panel.form.picture.inbox, tiny_panel.form.picture.alert
    inbox.value = '{"name": "mine.jpg"}'
    assert "mine.jpg is on its way" in tiny_panel.form.picture.figure.value
    tiny_panel.generate()
    assert "mine.jpg is still on its way" in tiny_panel.alert.value
    assert tiny_panel.worker.future is None
    inbox.value = '{"name": "mine.jpg", "problem": "it is empty"}'
    assert "could not be sent (it is empty): the picture is still rocket" in html.unescape(alert.value)
    assert "rocket: 160 × 96" in tiny_panel.form.picture.figure.value
    send_file(tiny_panel, "mine.jpg", b"no picture")
    assert "mine.jpg is not an image" in alert.value
    inbox.value = '{"name": "late.png"}'
    set_controls(tiny_panel, example="shapes")
    inbox.value = json.dumps({"name": "late.png", "data": base64_text(b"rest"), "is_last": True})
    assert (tiny_panel.request.image, alert.value) == ("shapes", "")


def test_a_clip_is_shown_kept_and_offered(panel_with_clip):
    [row], [clip] = panel_with_clip.rows, panel_with_clip.clips
    assert dataclasses.replace(row.request, image="-") == dataclasses.replace(panel_with_clip.request, image="-")
    assert read_rows(row.clip.parent)[0].key == row.key
    assert (len(clip.frames), clip.frames[0].size) == (4, (64, 64))
    assert panel_with_clip.history.player.outputs[0]["data"]["text/html"].count('data-fps="') == 1
    assert re.search(r'<a download="\w+\.mp4" href="data:video/mp4;base64,', panel_with_clip.history.files.value)
    assert (panel_with_clip.worker.stop.disabled, panel_with_clip.worker.preview.value) == (True, "")
    panel_with_clip.history.gif.click()
    assert 'href="data:image/gif;base64,R0lGOD' in panel_with_clip.history.files.value


def test_progress_and_preview_move_while_it_is_made(panel_with_clip):
    text = " ".join(panel_with_clip.messages)
    for part in ("loading svd", 'max="2" value="1"', "step 1 of 2", "decoded 2 of 4", "measuring", "made in"):
        assert part in text
    assert panel_with_clip.previews[0].count("data:image/png") == 1


def test_the_python_shown_makes_the_same_frames(panel_with_clip, micro_question):
    text = html.unescape(re.search("<pre>(.*)</pre>", panel_with_clip.history.code.value, re.DOTALL)[1])
    names = {}
    exec(text, names)
    assert names["clip"].frames == generate(load_cached(micro_question[0]), micro_question[1], progress=False).frames
    assert names["request"].seed == 5


def test_playback_speed_changes_what_is_shown_and_not_what_is_asked(panel_with_clip):
    request = panel_with_clip.request
    set_controls(panel_with_clip, playback_fps=12)
    assert panel_with_clip.request == request
    assert 'data-fps="12"' in panel_with_clip.history.player.outputs[0]["data"]["text/html"]
    assert "fps=12" in panel_with_clip.history.code.value
    assert panel_with_clip.history.mp4.layout.display == ""
    panel_with_clip.history.mp4.click()
    assert 'href="data:video/mp4;base64,' in panel_with_clip.history.files.value
    panel_with_clip.history.cards.children[0].children[3].click()  # what plays goes on as it is, and is saved so
    assert panel_with_clip.controls["playback_fps"].value == 12


def test_playback_speed_encodes_once_when_the_slider_is_let_go(panel_with_clip, monkeypatch):
    assert panel_with_clip.controls["playback_fps"].continuous_update is False
    calls, encode = [], write_video._write_mp4
    monkeypatch.setattr(write_video, "_write_mp4", lambda *args: calls.append(args) or encode(*args))
    set_controls(panel_with_clip, playback_fps=15)
    assert len(calls) == 1


def test_clips_are_read_from_their_files_on_demand(panel_with_clip):
    assert panel_with_clip.clips[-1].frames == panel_with_clip.rows[-1].open().frames
    assert [clip.request.seed for clip in panel_with_clip.clips[:1]] == [5]
    assert not [part for part in vars(panel_with_clip.clips).values() if part and hasattr(part[0], "frames")]


def test_a_saved_clip_brings_its_settings_back(panel_with_clip, tiny_panel):
    file, request = panel_with_clip.rows[0].clip, panel_with_clip.clips[0].request
    for open_clip in (
        lambda: set_controls(tiny_panel, path=str(file)),
        lambda: send_file(tiny_panel, "x.mp4", file.read_bytes()),
    ):
        set_controls(tiny_panel, variant="tiny")
        open_clip()
        assert tiny_panel.alert.value == ""
        assert tiny_panel.request.to_json() == request.to_json()
        assert tiny_panel.setup == dataclasses.replace(panel_with_clip.clips[0].setup, device=None)


def test_a_clip_of_a_card_brings_a_setup_that_runs_here(panel_with_clip, tiny_panel, tmp_path):
    clip = panel_with_clip.clips[0]
    kept = dataclasses.replace(clip.setup, dtype=None, device=None, optimizations=("single-token",))
    of_card = {"device": "cuda:1", "dtype": "fp16", "optimizations": ("model-offload", "single-token")}
    dataclasses.replace(clip, setup=dataclasses.replace(kept, **of_card)).save(tmp_path / "x.mp4")
    tiny_panel.restore(tmp_path / "x.mp4")
    assert tiny_panel.setup == kept
    assert "cuda:1 with fp16, model-offload, single-token" in tiny_panel.form.concerns.value
    set_controls(tiny_panel, dtype="bf16")
    assert "cuda:1" not in tiny_panel.form.concerns.value


def test_cancel_stops_within_a_step_and_leaves_the_pipeline_fit(micro_panel, tmp_path):
    first = make_clip(micro_panel).clips[0]
    set_controls(micro_panel, num_inference_steps=60)
    micro_panel.generate()
    wait_until(lambda: "step" in micro_panel.worker.progress.value)
    micro_panel.cancel()
    micro_panel.worker.future.result()
    assert "cancelled" in micro_panel.worker.progress.value
    assert (micro_panel.alert.value, len(micro_panel.clips), micro_panel.worker.stop.disabled) == ("", 1, True)
    assert not [p for p in (tmp_path / "made").iterdir() if p.name.startswith(".") or "failed" in p.name]
    pipeline = load_cached(micro_panel.setup)
    assert "step" not in vars(pipeline.scheduler)
    assert "decode" not in vars(pipeline.vae)
    set_controls(micro_panel, num_inference_steps=2)
    assert make_clip(micro_panel).clips[1].frames == first.frames


def test_clips_wait_in_a_queue_and_each_can_be_removed(micro_panel, micro_question):
    def queued_seeds():
        return [re.search(r"seed (\d+)", line.children[0].value)[1] for line in micro_panel.worker.queue.children[:-1]]

    with exclusive(load_cached(micro_question[0])):  # as a cell does while it makes a clip
        set_controls(micro_panel, clips=4)
        micro_panel.generate()
        wait_until(lambda: queued_seeds() == ["6", "7", "8"])
        micro_panel.generate()  # what is in the queue is not made twice
        assert queued_seeds() == ["6", "7", "8"]
        remove = micro_panel.worker.queue.children[1].children[1]
        remove.click()
        remove.click()  # before the page has taken it away
        assert (queued_seeds(), micro_panel.worker.stop.disabled) == (["6", "8"], False)
        micro_panel.cancel()
        wait_until(lambda: len(micro_panel.worker.queue.children) == 1)
    micro_panel.worker.future.result()
    assert [row.request.seed for row in micro_panel.rows] == [6, 8]
    with exclusive(load_cached(micro_question[0])):
        micro_panel.generate()
        wait_until(lambda: len(queued_seeds()) == 3)
        micro_panel.worker.queue.children[-1].click()
        assert micro_panel.worker.queue.children == ()
        micro_panel.cancel()


def test_a_clip_that_waits_can_be_cancelled(micro_panel, micro_question, tmp_path):
    """It waits for a cell on the same pipeline, and another panel's waits for it."""
    other = panel(*micro_question, results=tmp_path)
    with exclusive(load_cached(micro_question[0])):  # as a cell does while it makes a clip
        micro_panel.generate()
        wait_until(lambda: "waiting until" in micro_panel.worker.progress.value)
        set_controls(other, clips=3)
        other.generate()
        other.cancel()
        assert "cancelled" in other.worker.progress.value
        assert len(other.worker.queue.children) == 3
        other.worker.queue.children[-1].click()
        assert (other.worker.queue.children, other.worker.stop.disabled) == ((), True)
        micro_panel.cancel()
        wait_until(lambda: "cancelled" in micro_panel.worker.progress.value)
    assert (other.rows, micro_panel.rows, micro_panel.alert.value) == ([], [], "")


def test_all_clips_of_all_panels_are_made_on_one_thread(micro_question, panel_with_clip, tmp_path, monkeypatch):
    """CUDA graphs fail in another thread than the one that recorded them."""
    threads = []
    monkeypatch.setattr(
        worker, "make_row", lambda *_, **__: threads.append(threading.get_ident()) or panel_with_clip.rows[0]
    )
    micro_panel, other = panel(*micro_question, results=tmp_path), panel(*micro_question, results=tmp_path)
    for each in (micro_panel, other, micro_panel):
        make_clip(each)
    assert len(threads) == 3
    assert len({*threads}) == 1
    assert threads[0] != threading.get_ident()


def test_a_panel_and_a_cell_share_a_pipeline(micro_panel, micro_question):
    """The second waits and says so; both get their clip."""
    setup, request = micro_question
    pipeline = load_cached(setup)
    expected = generate(pipeline, request, progress=False).frames
    with exclusive(pipeline):  # as a cell does while it makes a clip
        micro_panel.generate()
        wait_until(lambda: "waiting" in micro_panel.worker.progress.value)
        second_frames = generate(pipeline, request, progress=False).frames
        assert not micro_panel.worker.future.done()
    micro_panel.worker.future.result()
    assert (micro_panel.alert.value, len(micro_panel.clips)) == ("", 1)
    micro_panel.generate()
    third_frames = generate(pipeline, request, progress=False).frames
    micro_panel.worker.future.result()
    assert (micro_panel.alert.value, len(micro_panel.clips)) == ("", 2)
    assert expected == second_frames == third_frames
    assert micro_panel.clips[0].frames == micro_panel.clips[1].frames


def test_predictions_and_clips_do_not_wait_for_each_other(micro_panel, micro_question, monkeypatch):
    with exclusive(load_cached(micro_question[0])):
        micro_panel.generate()  # waits
        micro_panel.form.picture.inbox.value = "{}"
        micro_panel.form.marks.future.result(60)
        assert not micro_panel.worker.future.done()
    micro_panel.worker.future.result()
    gate = threading.Event()
    monkeypatch.setattr(setup_marks, "predict", lambda s, r, _: gate.wait() and ([estimate(s, r)], CARDS["T4"]))
    set_controls(micro_panel, decode_chunk_size=1)
    make_clip(micro_panel)
    assert not micro_panel.form.marks.future.done()
    gate.set()
    micro_panel.form.marks.future.result()


def test_the_picture_is_read_once_and_before_weights(micro_question, tmp_path):
    """A path that names nothing is refused at once, and a file that goes away after it was shown does no harm."""
    file = tmp_path / "mine.png"
    micro_question[1].image.save(file)
    micro_panel = panel(*micro_question, results=tmp_path / "made")
    set_controls(micro_panel, path=str(file))
    file.unlink()
    assert make_clip(micro_panel).clips[0].picture.size == (64, 64)


def test_a_panel_leaves_the_warning_filters_alone(tiny_panel, monkeypatch):
    """They are those of all threads, so two threads that set and reset them leave them wrong."""
    monkeypatch.setattr(warnings, "catch_warnings", lambda **_: pytest.fail("changed the filters"))
    set_controls(tiny_panel, fps=30, motion_bucket_id=3)
    assert tiny_panel.request.fps == 30


def test_history_compares_and_restores(micro_panel):
    set_controls(micro_panel, fps=9)
    make_clip(micro_panel)
    set_controls(micro_panel, motion_bucket_id=200, seed=-1)
    make_clip(micro_panel)
    seed = micro_panel.rows[1].request.seed
    assert micro_panel.rows[0].request.seed == 5
    assert micro_panel.request.seed == seed != 5
    first, second = micro_panel.history.cards.children
    second.children[1].value = first.children[1].value = True
    page = micro_panel.history.player.outputs[0]["data"]["text/html"]
    assert page.count('data-fps="9"') == 2  # the speed of the first
    assert "1: seed 5, motion_bucket_id 127" in page
    assert f"2: seed {seed}, motion_bucket_id 200" in page
    assert micro_panel.history.code.value == micro_panel.history.files.value == ""
    first.children[3].click()
    assert micro_panel.request == micro_panel.rows[0].request
    second.children[1].value = False
    assert micro_panel.history.player.outputs[0]["data"]["text/html"].count('data-fps="') == 1
    assert "motion_bucket_id=200" not in micro_panel.history.code.value


def test_a_finding_goes_into_the_controls(panel_with_clip):
    size = (panel_with_clip.controls["height"].value, panel_with_clip.controls["width"].value)
    panel_with_clip.history.diagnose.click()
    [line] = [
        line for line in panel_with_clip.history.findings.children if "<strong>size</strong>" in line.children[0].value
    ]
    assert "learnt; " in line.children[0].value
    line.children[1].click()
    assert (panel_with_clip.alert.value, size, panel_with_clip.request.height, panel_with_clip.request.width) == (
        "",
        (64, 64),
        576,
        1024,
    )
    panel_with_clip.history.cards.children[0].children[3].click()
    assert panel_with_clip.request == panel_with_clip.rows[0].request


def test_a_star_and_a_note_lie_beside_the_row(micro_panel):
    make_clip(micro_panel)
    star, note = micro_panel.history.cards.children[0].children[2].children
    star.value, note.value = True, "the flame is right"
    [entry] = review(micro_panel.rows[0].clip.parent).entries
    assert (entry.note.star, entry.note.text) == (True, "the flame is right")
    review(micro_panel.rows[0].clip.parent).note(entry.row.key, "written in a cell")
    star.value = False
    assert (entry.note.star, entry.note.text) == (False, "written in a cell")


def test_the_same_again_replaces_its_file_and_a_file_that_is_gone_is_told(micro_panel):
    make_clip(micro_panel)
    make_clip(micro_panel)
    assert micro_panel.clips[0].frames == micro_panel.clips[1].frames
    micro_panel.rows[0].clip.unlink()
    micro_panel.history.cards.children[0].children[1].value = True
    assert "alert" in micro_panel.alert.value


def test_a_clip_that_fails_says_why(micro_question, tmp_path):
    micro_panel = panel(Setup("svd", weights=str(tmp_path / "gone")), micro_question[1], results=tmp_path)
    micro_panel.generate()
    micro_panel.worker.future.result()
    assert re.search('role="alert">weights=.*gone.* is neither', micro_panel.alert.value)
    assert micro_panel.worker.stop.disabled


def test_setups_are_marked_with_what_they_need(monkeypatch):
    """Predicted here; the browser's tests do it as the panel does, in a process of its own."""
    monkeypatch.setattr(setup_marks, "predict", _predict)
    tiny_panel = panel(request=Request(image="rocket", num_frames=2, decode_chunk_size=2))
    assert tiny_panel.form.marks.future is None
    tiny_panel.form.picture.inbox.value = "{}"  # as a page says when it shows the panel
    tiny_panel.form.marks.future.result()
    labels = {setup: text for text, setup in tiny_panel.controls["setup"].options}
    assert re.fullmatch(r"✓ plain: \d\.\d GiB", labels[Setup("tiny")])
    assert len(labels) > 1
    assert tiny_panel.setup == Setup("tiny")
    assert "✓ fits the" in tiny_panel.form.marks.value
    slow = dataclasses.replace(this_device(), flops={"fp32": 1.0})
    monkeypatch.setattr(setup_marks, "predict", lambda *args: (_predict(*args)[0], slow))
    set_controls(tiny_panel, num_inference_steps=5)
    tiny_panel.form.marks.future.result()
    assert re.search(r"No card here: .* hours or more a clip", tiny_panel.form.marks.value)
    assert "hours or more" in tiny_panel.form.marks.warning(tiny_panel.setup)


def test_a_picture_of_the_panel_stays_where_no_kernel_runs(panel_with_clip, monkeypatch):
    displays = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: displays.append((data, options)))
    panel_with_clip._ipython_display_()
    (still, options), (live, _) = displays
    assert "application/vnd.jupyter.widget-view+json" in live
    assert still["text/html"].count("<img") == 2
    assert "script" not in still["text/html"]
    panel_with_clip._display_still(update=True)
    assert displays[-1][1] == {**options, "update": True}


def test_a_latent_preview_looks_like_the_clip():
    """The bundled model's latents of a picture, projected, against that picture: the factors are the right ones."""
    pipeline = load_cached(Setup("tiny"))
    picture = conditioning(Request.for_variant("tiny", image="rocket"))
    pixels = pipeline.video_processor.preprocess(picture, picture.height, picture.width)
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor
    [preview, *_] = preview_frames(latents[:, None].repeat(1, 3, 1, 1, 1), "tiny", frames=3)
    expected = picture.resize(preview.size, Image.Resampling.BOX)
    difference = torch.tensor(list(preview.getdata())).float() - torch.tensor(list(expected.getdata())).float()
    assert preview.size == (picture.width // 4, picture.height // 4)
    assert difference.abs().mean() < 8


def png(picture) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_line_under_the_setups_is_of_the_one_that_is_chosen(micro_panel, monkeypatch):
    """And a setup that nobody chose gives way to one that leaves room for other programs."""

    def predict(setup, request, _):
        small = estimate(setup, request)

        def needing(weight_bytes, *optimizations):
            stages = {name: dataclasses.replace(s, weight_bytes=weight_bytes) for name, s in small.stages.items()}
            return dataclasses.replace(
                small, setup=dataclasses.replace(setup, optimizations=optimizations), stages=stages
            )

        fitting = dataclasses.replace(small, setup=dataclasses.replace(setup, optimizations=("single-token",)))
        return [needing(2**50, "lean-decode"), fitting, needing(2**39)], Card("a card", 2**40, 2**39)

    monkeypatch.setattr(setup_marks, "predict", predict)
    monkeypatch.setattr(setup_marks, "this_card", lambda: CARDS["T4"])
    micro_panel.form.marks.is_chosen = False
    set_controls(micro_panel, decode_chunk_size=1)
    micro_panel.form.marks.future.result()
    assert micro_panel.setup.optimizations == ("single-token",)
    options = dict(micro_panel.controls["setup"].options)
    for beginning, verdict in {"✓ single": "✓ fits the", "(✓) plain": "nothing else", "✗ lean": "does not fit"}.items():
        [setup] = [setup for text, setup in options.items() if text.startswith(beginning)]
        set_controls(micro_panel, setup=setup)
        assert verdict in micro_panel.form.marks.value
    monkeypatch.setattr(setup_marks, "this_card", lambda: None)  # the kernel's own memory is free for its clips
    micro_panel.form.marks.predict(micro_panel.request)
    micro_panel.form.marks.future.result()
    assert sorted(text.split()[0] for text, _ in micro_panel.controls["setup"].options) == ["✓", "✓", "✗"]
