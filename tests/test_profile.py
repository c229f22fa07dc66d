"""What is measured: in another process, kept whatever ends it, and compared with the frames of the plain setup."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import threading
import time
from datetime import datetime
from types import SimpleNamespace
from typing import ClassVar
from unittest.mock import MagicMock

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from svdlab import Setup, estimate, ladder, measure, profile
from svdlab.machine import Machine
from svdlab.media.images import image_sha256
from svdlab.profiling import measure as measure_module
from svdlab.profiling import measure_in_turn, measured_process, memory_time_log
from svdlab.quality.assess import difference
from svdlab.quality.likeness import PSNR_CAP_DB
from svdlab.request import conditioning
from svdlab.rows.measurement import COUNTED_CALL, Measurement
from svdlab.rows.row import Row
from svdlab.rows.row_files import read_rows
from svdlab.rows.row_key import row_key
from svdlab.rows.rows_table import rows_table
from svdlab.sweeps.grid import Trial

# In one process: the fixtures make what all of them look at.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.xdist_group("measurements")]
MISSING = ("av", "cv2", "skimage", "scipy", "pandas", "matplotlib", "mediapy", "papermill", "pynvml")


@pytest.fixture(scope="module", autouse=True)
def _without_extras(tmp_path_factory):
    """Nothing beyond torch, diffusers, transformers and accelerate is there for the processes that are measured; and
    they talk, which nobody must take for an answer."""
    folder = tmp_path_factory.mktemp("bare")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({MISSING}))"
    (folder / "sitecustomize.py").write_text(f"{blocked}; print('{{\"a line\": 1}}')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


@pytest.fixture(scope="module")
def micro_request(setup):
    fields = {"num_frames": 6, "num_inference_steps": 2, "decode_chunk_size": 3, "max_guidance_scale": 1.0}
    return setup.request(image="rocket", height=64, width=96, seed=5, **fields)


@pytest.fixture(scope="module")
def measured(setup, micro_request, tmp_path_factory):
    """A ladder of three rungs, its folder; the second cannot be had without a card."""
    folder = tmp_path_factory.mktemp("ladder")
    trials = ladder(setup, ["model-offload", "single-token"], micro_request, cumulative=False)
    return folder, trials, profile(trials, folder, repeats=2, progress=False)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_stages_and_calls_are_apart_and_every_repeat_is_kept(measured):
    _, _, [row, *_] = measured
    stages = row.measurement.stages
    call = ["encode", "denoise", "decode", "finish"]
    assert [stage.stage for stage in stages] == ["prepare", "load", *call * 4]
    assert [stage.call for stage in stages] == [None, None, *(n for n in (0, 1, 2, COUNTED_CALL) for _ in call)]
    assert all(stage.seconds > 0 and stage.peaks["process_bytes"] > 2**20 for stage in stages)
    denoising = [stage for stage in stages if stage.stage == "denoise"]
    assert [len(stage.step_seconds) for stage in denoising] == [2, 2, 2, 2]
    assert all(sum(stage.step_seconds) <= stage.seconds for stage in denoising)
    starts = [stage.begun_seconds for stage in stages]
    assert starts == sorted(starts)


def test_medians_are_of_the_calls_after_the_first(measured):
    _, _, [row, *_] = measured
    figures, stages = row.measurement.figures, row.measurement.stages
    steps = [s for stage in stages for s in stage.step_seconds if (stage.call or 0) > 0]
    assert figures["step_seconds"] == pytest.approx(np.median(steps))
    assert figures["first_seconds"] == pytest.approx(sum(stage.seconds for stage in stages if stage.call == 0))
    assert figures["encode_seconds"] < figures["sample_seconds"] < figures["clip_seconds"]
    assert row.timings == {name: figures[name] for name in ("sample_seconds", "decode_seconds")}
    assert row.measurement.clip_times == pytest.approx([sum(s.seconds for s in stages if s.call == n) for n in (1, 2)])


def test_memory_on_a_processor_is_what_torchs_tensors_take_as_predicted(measured):
    """Counted in a clip of its own. A prediction leaves out what the pipeline keeps: pictures, noise, the schedule."""
    for row in (row for row in measured[2] if row.status == "done"):
        prediction, figures = estimate(row.setup, row.request), row.measurement.figures
        assert (
            row.measurement.peak_bytes
            == figures["peak_allocated_bytes"]
            == pytest.approx(prediction.peak_bytes, rel=0.05)
        )
        for name in ("denoise", "decode"):
            assert figures[f"{name}_peak_bytes"] == pytest.approx(prediction.stages[name].peak_bytes, rel=0.05)


def test_rungs_of_a_processor_make_their_clips_in_turn(measured):
    """And what else the machine does is in the row."""
    first, _, last = (datetime.fromisoformat(row.created).timestamp() for row in measured[2])
    times = []
    for row, started in zip(measured[2][::2], (first, last), strict=True):
        times += [(started + s.begun_seconds, s.call) for s in row.measurement.stages if s.stage == "encode"]
        assert 0 <= row.measurement.others_busy <= 1
    assert [call for _, call in sorted(times)][:6] == [0, 0, 1, 1, 2, 2]


def test_memory_over_time_and_what_lay_where(measured, micro):
    _, _, [row, *_] = measured
    timeline, before = row.measurement.timeline, row.measurement.before
    assert list(timeline["seconds"]) == sorted(timeline["seconds"])
    assert len(timeline["seconds"]) == len(timeline["process_bytes"]) <= 24 * 9
    assert 0 < before["process_bytes"] <= min(timeline["process_bytes"])
    [change] = row.measurement.resident  # on one device nothing moves
    weights = {name: places for name, places in change.items() if name != "seconds"}
    assert weights == {
        name: {"cpu": sum(tensor.nbytes for tensor in getattr(micro, name).state_dict().values())} for name in weights
    }


def test_the_baseline_is_compared_with_itself_and_the_others_with_it(measured):
    _, _, [baseline, _, shortcut] = measured
    exact = {"psnr_db": PSNR_CAP_DB, "ssim": pytest.approx(1), "max_abs_levels": 0, "latents_relative": 0}
    exact["baseline_key"] = shortcut.measurement.fidelity.baseline_key
    assert dataclasses.asdict(baseline.measurement.fidelity) == exact  # its first clip and its last
    assert exact["baseline_key"] == baseline.key
    assert shortcut.measurement.fidelity.latents_relative < 1e-5
    assert shortcut.measurement.fidelity.psnr_db > 80


def test_a_rung_that_fails_is_a_row_and_the_ladder_goes_on(measured):
    folder, _, [_, failed, last] = measured
    assert (failed.status, last.status) == ("failed", "done")
    assert failed.error.startswith("In load, having reached ")
    assert "'model-offload' needs a GPU" in failed.error
    assert [row.status for row in read_rows(folder)] == ["done", "failed", "done"]


def test_rows_come_back_from_their_files_and_as_a_table(measured):
    folder, _, rows = measured
    assert [dataclasses.replace(row, axes=("setup",)) for row in read_rows(folder)] == rows
    table = rows_table(folder)
    assert list(table["status"]) == ["done", "failed", "done"]
    assert table["step_seconds"][0] == rows[0].measurement.step_seconds
    assert table["psnr_db"][0] == PSNR_CAP_DB
    assert table["optimizations"][2] == "single-token"
    assert not {"stages", "timeline", "measurement", "resident"} & set(table.columns)
    assert max(path.stat().st_size for path in folder.glob("*.json")) < 40_000


def test_rows_of_the_folder_are_not_measured_again(measured, monkeypatch):
    folder, trials, rows = measured
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # no process could start
    assert profile(trials, folder, progress=False) == rows
    assert profile([], folder) == []


def test_a_measurement_is_another_question_than_a_clip_and_one_of_its_machine(measured, monkeypatch):
    _, [trial, *_], [row, *_] = measured
    assert row.key != row_key(trial.setup, trial.request)
    assert row.key == row_key(trial.setup, trial.request, measured_on=(row.machine.name, "cpu"))
    assert row.key != row_key(trial.setup, trial.request, measured_on=("another", "cpu"))


def test_a_row_names_the_device_that_the_setup_runs_on(monkeypatch):
    cards = [SimpleNamespace(name=name, total_memory=2**30) for name in ("first", "second")]
    monkeypatch.setattr("svdlab.machine.best_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    here = Machine.here.__func__.__wrapped__  # without its cache
    devices = (None, "cuda", "cuda:1", "cpu", "cuda:2")
    machines = {device: here(Machine, device) for device in devices}
    assert [machines[device].name for device in devices if device != "cpu"] == ["first", "first", "second", "first"]
    assert [machine.device for machine in machines.values()] == ["cuda", "cuda", "cuda:1", "cpu", "cuda"]
    assert machines["cpu"].name not in ("first", "second")


# --- what ends badly -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_running_out_of_memory_is_a_row_that_says_where():
    setup = Setup("svd", weights="random", dtype="fp32", device="cpu")  # 8 GiB
    request = setup.request(image="rocket", height=64, width=64)
    row = measure(setup, request, memory_limit_bytes=700 * 2**20)
    assert row.status == "failed"
    assert row.error.startswith("In load, having reached 0.")
    assert "out of memory" in row.error
    assert row.measurement.memory_limit_bytes == 700 * 2**20
    assert row.key != row_key(setup, request, measured_on=(row.machine.name, "cpu"))


def test_a_process_that_is_killed_leaves_what_it_had_measured(setup, micro_request, tmp_path):
    rows = []
    endless = dataclasses.replace(micro_request, num_inference_steps=1000)
    trial = Trial(setup, endless)
    thread = threading.Thread(target=lambda: rows.extend(profile([trial], tmp_path, repeats=1, progress=False)))
    thread.start()
    while not any('"denoise"' in file.read_text() for file in tmp_path.glob(".*~*/events.jsonl")):
        assert thread.is_alive()
        time.sleep(0.05)
    [child] = [p for p in psutil.Process().children() if "svdlab.profiling.measured_process" in p.cmdline()]
    child.kill()
    thread.join()
    [row] = rows
    assert row.status == "failed"
    assert row.error.startswith("In denoise of call 1, having reached 0.")
    assert "GiB of process memory: the process was killed (SIGKILL)" in row.error
    assert [stage.stage for stage in row.measurement.stages] == ["prepare", "load", "encode", "denoise"]
    assert row.measurement.stages[-1].seconds is None
    assert row.measurement.load_seconds > 0
    assert row.measurement.first_seconds is None
    assert json.loads(row.to_json())["timings"] == {}
    assert [path.suffixes for path in tmp_path.iterdir()] == [[".failed", ".json"]]


def test_an_interrupt_during_the_first_clip_leaves_no_process(setup, micro_request, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure_module.MeasuredProcess, "_write_and_wait", interrupt)
    before = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        measure_module.MeasuredProcess(Trial(setup, micro_request), conditioning(micro_request), tmp_path, None, None)
    assert set(psutil.Process().children()) == before


@pytest.mark.slow
def test_weights_that_cannot_be_had_are_failed_rows_and_the_hub_is_tried_again(micro_request, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    trials = [Trial(setup, micro_request) for setup in (Setup("svd", weights="/moved/away"), Setup("svd"))]
    rows = profile(trials, tmp_path, repeats=1)
    assert [(row.status, row.is_final()) for row in rows] == [("failed", True), ("failed", False)]
    assert "/moved/away" in rows[0].error
    assert "HF_HUB_OFFLINE" in rows[1].error


def test_a_measurement_that_takes_too_long_is_stopped(setup, micro_request):
    row = measure(setup, micro_request, timeout_seconds=0.5)
    assert row.status == "failed"
    assert "it took longer than it was given" in row.error


def test_what_was_there_before_loading_is_its_first_sample_and_not_the_highest_of_many(tmp_path):
    """A process that grows for long while it loads would have its first gigabytes taken off its peak."""
    samples = [[1 + i / 100, "sample", {"process_bytes": 500 + i}] for i in range(2400)]
    begin = [[0, "begin", {"stage": "prepare", "call": None}], [1, "begin", {"stage": "load", "call": None}]]
    file = tmp_path / memory_time_log.EVENTS_FILE
    file.write_text("\n".join(json.dumps(event) for event in (*begin, *samples)))
    measurement, _ = memory_time_log.read_events(file)
    assert measurement.before == {"seconds": 1, "process_bytes": 500}
    assert measurement.peak_bytes == 2399


def test_running_out_of_memory_is_told_with_the_size_that_was_asked_for():
    """`test_pipelines` has what counts as running out of memory."""
    sized = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 B")
    assert measured_process._reason(sized) == "out of memory, it tried to allocate 9 B more."
    assert measured_process._reason(MemoryError()).startswith("out of memory")
    assert "out of memory" not in measured_process._reason(RuntimeError("shapes do not match"))


def test_a_compiled_rung_says_that_its_memory_is_that_of_the_process(setup, micro_request, tmp_path, monkeypatch):
    """The limit is ignored by a system that has none, as Windows."""
    monkeypatch.setitem(sys.modules, "resource", None)
    clip = SimpleNamespace(frames=[np.zeros((2, 2, 3))], latents=torch.zeros(1), notes=("A note.",))
    monkeypatch.setattr(measured_process, "load", MagicMock())
    monkeypatch.setattr(measured_process, "generate", lambda *_, **options: clip)
    conditioning(micro_request).save(tmp_path / measured_process.PICTURE_FILE)
    notes = []
    for names in (("compile-vae",), ("lean-decode",)):
        events, rung = MagicMock(), dataclasses.replace(setup, optimizations=names)
        question = {"setup": rung.to_json(), "request": micro_request.to_json(), "memory_limit_bytes": 1}
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        measured_process._measure(question, tmp_path, events, MagicMock())
        notes.append(events.write.call_args.kwargs["notes"])
        assert events.count_tensors.called == (names == ("lean-decode",))
    assert notes[1] == ("A note.",)
    assert notes[0][0] == "A note."
    assert "Memory is that of the process" in notes[0][1]


def test_peaks_are_of_the_card_that_is_used_and_counted_anew_in_each_stage(tmp_path, monkeypatch):
    import torch

    calls = []

    def record(name, result):
        monkeypatch.setattr(torch.cuda, name, lambda device=None: (calls.append((name, str(device))), result)[1])

    for name in ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "reset_peak_memory_stats"):
        record(name, 7)
    record("mem_get_info", (3, 10))
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # no samples but those of the stages
    events = memory_time_log.EventLog(tmp_path)
    events.watch_device("cuda:1")
    calls.clear()
    events.begin_stage("load")
    events.end_stage()
    assert {device for _, device in calls} == {"cuda:1"}
    assert calls[0][0] == "reset_peak_memory_stats"
    measurement, _ = memory_time_log.read_events(tmp_path / memory_time_log.EVENTS_FILE)
    peaks = measurement.stages[-1].peaks
    assert (peaks["allocated_bytes"], peaks["reserved_bytes"], peaks["device_bytes"]) == (7, 7, 7)


def test_a_sample_from_before_the_card_is_watched_is_written_before(tmp_path, monkeypatch):
    """Written after, into a stage of the card, it would lack what the stage's others have."""
    import torch

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(memory_time_log.EventLog, "_sample_until_orphaned", lambda events: None)
    events = memory_time_log.EventLog(tmp_path)
    watcher = threading.Thread(target=lambda: events.watch_device("cuda"))

    def memory_info():  # of the process, in the middle of a sample
        watcher.start()
        watcher.join(0.1)
        assert watcher.is_alive()
        return SimpleNamespace(rss=7)

    monkeypatch.setattr(events, "_process", SimpleNamespace(memory_info=memory_info))
    events._write_sample()
    watcher.join()
    assert "device_bytes" not in (tmp_path / memory_time_log.EVENTS_FILE).read_text().splitlines()[-1]


# --- beside other processes ------------------------------------------------------------------------------------------


class FailingProcess(measure_module.MeasuredProcess):
    """A measured process without a process: every rung fails."""

    started: ClassVar[list[str]] = []
    temporary = False

    def __init__(self, trial, picture, scratch, memory_limit_bytes, timeout_seconds):
        self.trial, self.picture, self.memory_limit_bytes = trial, picture, memory_limit_bytes
        self.started.append(trial.setup.label)
        time.sleep(0.3)

    def make_clip(self):
        pass

    def finish(self, *_):
        key = measure_module.measurement_key(self.trial, self.picture, self.memory_limit_bytes)
        row = Row(key, self.trial.setup.resolved(), self.trial.request, status="failed", error="too small")
        measurement = Measurement(memory_limit_bytes=self.memory_limit_bytes)
        row = dataclasses.replace(row, measurement=measurement, created=str(time.time_ns()))
        return dataclasses.replace(row, temporary=self.temporary)

    def __exit__(self, *_):
        pass


@pytest.fixture
def started_labels(monkeypatch):
    monkeypatch.setattr(measure_in_turn, "MeasuredProcess", FailingProcess)
    monkeypatch.setattr(FailingProcess, "started", [])
    return FailingProcess.started


def test_two_profiles_of_one_ladder_measure_each_rung_once(setup, micro_request, tmp_path, started_labels):
    answers = []
    trials = ladder(setup, ["single-token", "channels-last"], micro_request)
    threads = [
        threading.Thread(target=lambda: answers.append(profile(trials, tmp_path, progress=False))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(started_labels) == sorted(trial.setup.label for trial in trials)
    assert [row.error for row in answers[0]] == [row.error for row in answers[1]] == ["too small"] * 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_failed_rungs_are_measured_again_if_that_is_asked_or_the_machine_was_to_blame(
    setup, micro_request, tmp_path, started_labels, monkeypatch
):
    for retry_failed, temporary, measured in ((False, True, 1), (False, False, 2), (False, False, 2), (True, False, 3)):
        monkeypatch.setattr(FailingProcess, "temporary", temporary)
        profile(ladder(setup, [], micro_request), tmp_path, retry_failed=retry_failed, progress=False)
        assert len(started_labels) == measured


def test_a_limit_may_be_written_as_6e9(setup, micro_request, tmp_path, started_labels):
    profile(ladder(setup, [], micro_request), tmp_path, memory_limit_bytes=6e9, progress=False)
    profile(ladder(setup, [], micro_request), tmp_path, memory_limit_bytes=6_000_000_000, progress=False)
    assert len(started_labels) == 1
    assert [row.measurement.memory_limit_bytes for row in read_rows(tmp_path)] == [6_000_000_000]


# --- fidelity --------------------------------------------------------------------------------------------------------


def test_fidelity_is_what_difference_says(tmp_path):
    from PIL import Image

    generator = np.random.default_rng(0)
    one = generator.integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    other = np.clip(one + generator.integers(-9, 10, one.shape), 0, 255).astype(np.uint8)
    other[2] = one[2]
    latents = generator.normal(size=(3, 4, 6, 8))
    for name, frames, factor in (("one", one, 1.1), ("other", other, 1.0)):
        np.savez(tmp_path / f"{name}.npz", frames=frames, latents=latents * factor)
    likeness = measure_module._fidelity(tmp_path / "one.npz", tmp_path / "other.npz", "a key")
    expected = difference(*([Image.fromarray(frame) for frame in frames] for frames in (one, other)))
    assert likeness.psnr_db == pytest.approx(expected.psnr_db)
    assert likeness.ssim == pytest.approx(expected.ssim)
    assert likeness.max_abs_levels == expected.max_abs_levels
    assert likeness.latents_relative == pytest.approx(0.1)


def test_an_image_that_changes_while_it_is_measured_changes_nothing(
    checkpoint, make_request, picture, tmp_path, monkeypatch
):
    """The picture is read once: its key, its hash and what the process sees are of the same pixels."""
    image, hashes = tmp_path / "image.png", []
    picture.save(image)
    request = make_request(image=str(image))
    expected = image_sha256(conditioning(request))

    def write_and_wait(process, line):
        hashes.append(image_sha256(Image.open(process.scratch / measured_process.PICTURE_FILE)))
        image.unlink(missing_ok=True)
        process._process.kill()

    monkeypatch.setattr(measure_module.MeasuredProcess, "_write_and_wait", write_and_wait)
    row = measure(Setup("svd", weights=str(checkpoint), dtype="fp32"), request, repeats=0, memory_limit_bytes=6e9)
    assert row.status == "failed"
    assert Row.from_json(row.to_json(), tmp_path).measurement.memory_limit_bytes == 6_000_000_000
    assert {row.picture_sha256, *hashes} == {expected}
