"""What is measured: in another process, kept whatever ends it, and compared with the frames of the plain setup."""

from __future__ import annotations

import dataclasses
import json
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from svdlab import Setup, ladder, measure, profile
from svdlab.optimizations import OPTIMIZATIONS
from svdlab.profiling.profile import PSNR_CAP_DB, fidelity, ssim
from svdlab.quality import likeness
from svdlab.quality.assess import difference
from svdlab.rows.row_files import read_rows
from svdlab.rows.row_key import row_key
from svdlab.rows.rows_table import rows_table

ROOT = Path(__file__).parents[1]
# In one process: the fixtures make what all of them look at.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.xdist_group("measurements")]
ABSENT = ("av", "cv2", "skimage", "scipy", "pandas", "matplotlib", "mediapy", "papermill", "pynvml")


@pytest.fixture(scope="module", autouse=True)
def _bare(tmp_path_factory):
    """Nothing beyond torch, diffusers, transformers and accelerate is there for the processes that are measured; and
    they talk, which nobody must take for an answer."""
    folder = tmp_path_factory.mktemp("bare")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))"
    (folder / "sitecustomize.py").write_text(f"{blocked}; print('{{\"a line\": 1}}')")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield


@pytest.fixture(scope="module")
def small(checkpoint):
    return Setup("svd", weights=str(checkpoint), dtype="fp32", device="cpu")


@pytest.fixture(scope="module")
def request_(small):
    return small.request(
        image="rocket", height=64, width=96, num_frames=6, num_inference_steps=2, decode_chunk_size=3, seed=5
    )


@pytest.fixture(scope="module")
def measured(small, request_, tmp_path_factory):
    """A ladder of three rungs, its folder; the second cannot be had without a card."""
    folder = tmp_path_factory.mktemp("ladder")
    trials = ladder(small, ["model-offload", "single-token"], request_, cumulative=False)
    return folder, trials, profile(trials, folder, repeats=2, progress=False)


# --- ladders ---------------------------------------------------------------------------------------------------------


def test_a_ladder_adds_one_rung_after_another_in_the_order_of_the_stages():
    names = ["forward-chunking=2", "bf16", "channels-last", "single-token"]
    trials = ladder("tiny", names)
    assert [str(trial) for trial in trials] == [
        "plain",
        "forward-chunking=2",
        "bf16, forward-chunking=2",
        "bf16, channels-last, forward-chunking=2",
        "bf16, channels-last, forward-chunking=2, single-token",
    ]
    assert len({trial.request for trial in trials}) == 1
    assert [str(t) for t in ladder("tiny", names, cumulative=False)][1:] == names


def test_every_optimisation_makes_a_rung():
    assert len(ladder("tiny", OPTIMIZATIONS, cumulative=False)) == len(OPTIMIZATIONS) + 1


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["single-token", "sngle-token"],
            r"Rung 2 \(sngle-token\): Unknown optimisation .*did you mean 'single-token'",
        ),
        (["model-offload", "sequential-offload"], r"Rung 2 \(sequential-offload\): .*each decides alone"),
        (["forward-chunking=3"], r"Rung 1 \(forward-chunking=3\): .*14 frames"),
        (["single-token", "fp8", "single-token"], r"Rung 3 .*named twice"),
    ],
)
def test_a_ladder_refuses_a_rung_that_cannot_be(names, sentence):
    with pytest.raises(ValueError, match=sentence):
        ladder("tiny", names)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_stages_and_calls_are_apart_and_every_repeat_is_kept(measured):
    _, _, [row, *_] = measured
    stages = row.measurement.stages
    call = ["encode", "denoise", "decode", "finish"]
    assert [stage.stage for stage in stages] == ["prepare", "load", *call * 3]
    assert [stage.call for stage in stages] == [None, None, *(n for n in range(3) for _ in call)]
    assert all(stage.seconds > 0 and stage.peaks["process_bytes"] > 2**20 for stage in stages)
    denoising = [stage for stage in stages if stage.stage == "denoise"]
    assert [len(stage.step_seconds) for stage in denoising] == [2, 2, 2]
    assert all(sum(stage.step_seconds) <= stage.seconds for stage in denoising)
    begun = [stage.begun_seconds for stage in stages]
    assert begun == sorted(begun)


def test_a_summary_is_of_the_calls_after_the_first(measured):
    _, _, [row, *_] = measured
    line, stages = row.measurement.figures, row.measurement.stages
    steps = [s for stage in stages for s in stage.step_seconds if stage.call]
    assert line["step_seconds"] == pytest.approx(np.median(steps))
    assert line["first_seconds"] == pytest.approx(sum(stage.seconds for stage in stages if stage.call == 0))
    assert line["peak_allocated_bytes"] is None  # not measured, rather than none
    assert line["encode_seconds"] < line["sample_seconds"] < line["clip_seconds"]
    assert row.timings == {name: line[name] for name in ("sample_seconds", "decode_seconds")}
    assert line["denoise_peak_bytes"] <= line["peak_process_bytes"] * 1.001  # the kernel counts in batches


def test_memory_over_time_and_what_lay_where(measured, micro):
    _, _, [row, *_] = measured
    timeline, before = row.measurement.timeline, row.measurement.before
    assert list(timeline["seconds"]) == sorted(timeline["seconds"])
    assert len(timeline["seconds"]) == len(timeline["process_bytes"]) <= 24 * 9
    assert 0 < before["process_bytes"] <= min(timeline["process_bytes"])
    [there] = row.measurement.resident  # on one device nothing moves
    sizes = {
        name: sum(v.nbytes for v in getattr(micro, name).state_dict().values()) for name in there if name[0] != "s"
    }
    assert {name: places for name, places in there.items() if name != "seconds"} == {
        name: {"cpu": size} for name, size in sizes.items()
    }


def test_the_baseline_is_compared_with_itself_and_the_others_with_it(measured):
    _, _, [baseline, _, shortcut] = measured
    exact = {"psnr_db": PSNR_CAP_DB, "ssim": pytest.approx(1), "max_abs_levels": 0, "latents_relative": 0}
    assert dataclasses.asdict(baseline.measurement.fidelity) == exact  # another process, the same frames
    assert shortcut.measurement.fidelity.latents_relative < 1e-5
    assert shortcut.measurement.fidelity.psnr_db > 80


def test_a_rung_that_fails_is_a_row_and_the_ladder_goes_on(measured):
    folder, _, [_, failed, after] = measured
    assert (failed.status, after.status) == ("failed", "done")
    assert failed.error.startswith("In load, having reached ")
    assert failed.error.endswith(
        "'model-offload' needs a GPU to offload from, and this runs on the processor: leave it out."
    )
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


def test_what_is_there_is_not_measured_again(measured, monkeypatch):
    folder, trials, rows = measured
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # no process could start
    assert profile(trials, folder, progress=False) == rows
    assert profile([], folder) == []


def test_a_measurement_is_another_question_than_a_clip_and_one_of_its_machine(measured, monkeypatch):
    _, [trial, *_], [row, *_] = measured
    assert row.key != row_key(trial.setup, trial.request)
    assert row.key == row_key(trial.setup, trial.request, measured_on=(row.machine.name, "cpu"))
    assert row.key != row_key(trial.setup, trial.request, measured_on=("another", "cpu"))


def test_the_table_of_a_card_has_what_was_measured_and_what_was_not(measured):
    folder, _, _ = measured
    text = runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"))["table"](folder)
    heads, _, *lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert [line[0].strip() for line in lines] == ["plain", "single-token"]
    assert all(len(line) == len(heads) for line in lines)
    assert "s a step" in "".join(heads)
    assert "predicted" not in "".join(heads)  # no card, nothing to compare
    assert "- model-offload: In load, having reached" in text


# --- what ends badly -------------------------------------------------------------------------------------------------


def test_running_out_of_memory_is_a_row_that_says_where():
    full = Setup("svd", weights="random", dtype="fp32", device="cpu")  # 8 GiB
    asked = full.request(image="rocket", height=64, width=64)
    row = measure(full, asked, memory_limit_bytes=700 * 2**20)
    assert row.status == "failed"
    assert row.error.startswith("In load, having reached 0.")
    assert "out of memory" in row.error
    assert row.measurement.memory_limit_bytes == 700 * 2**20
    assert row.key != row_key(full, asked, measured_on=(row.machine.name, "cpu"))


def test_a_process_that_is_killed_leaves_what_it_had_found(small, request_, tmp_path):
    found = []
    endless = dataclasses.replace(request_, num_inference_steps=1000)
    frames = tmp_path / "frames.npz"
    thread = threading.Thread(target=lambda: found.append(measure(small, endless, repeats=1, frames=frames)))
    thread.start()
    while not any('"denoise"' in lines.read_text() for lines in tmp_path.glob(".svdlab-*/lines.jsonl")):
        assert thread.is_alive()
        time.sleep(0.05)
    [child] = [p for p in psutil.Process().children() if "svdlab.profiling.measured_process" in p.cmdline()]
    child.kill()
    thread.join()
    [row] = found
    assert row.status == "failed"
    assert row.error.startswith("In denoise of call 1, having reached 0.")
    assert row.error.endswith(
        "GiB of process memory: the process was killed (SIGKILL), as the system does when memory runs out."
    )
    assert [stage.stage for stage in row.measurement.stages] == ["prepare", "load", "encode", "denoise"]
    assert row.measurement.stages[-1].seconds is None
    assert row.measurement.load_seconds > 0
    assert row.measurement.first_seconds is None
    assert json.loads(row.to_json())["timings"] == {}
    assert list(tmp_path.iterdir()) == []


def test_one_that_takes_too_long_is_stopped(small, request_):
    row = measure(small, request_, timeout_seconds=0.5)
    assert row.status == "failed"
    assert row.error.endswith("it took longer than it was given.")


# --- fidelity --------------------------------------------------------------------------------------------------------


def test_fidelity_is_what_quality_says(tmp_path):
    from PIL import Image
    from skimage.metrics import structural_similarity

    generator = np.random.default_rng(0)
    one = generator.integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    other = np.clip(one + generator.integers(-9, 10, one.shape), 0, 255).astype(np.uint8)
    other[2] = one[2]
    latents = generator.normal(size=(3, 4, 6, 8))
    for name, frames, factor in (("one", one, 1.1), ("other", other, 1.0)):
        np.savez(tmp_path / f"{name}.npz", frames=frames, latents=latents * factor)
    found = fidelity(tmp_path / "one.npz", tmp_path / "other.npz")
    expected = difference(*([Image.fromarray(frame) for frame in frames] for frames in (one, other)))
    assert found.psnr_db == pytest.approx(expected.psnr_db)
    assert found.ssim == pytest.approx(expected.ssim, abs=2e-3)  # OpenCV's grey is of 8 bits
    assert found.max_abs_levels == expected.max_abs_levels
    assert found.latents_relative == pytest.approx(0.1)
    assert PSNR_CAP_DB == likeness.PSNR_CAP_DB

    grey = [frames[0] @ np.array([0.299, 0.587, 0.114]) for frames in (one, other)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    assert ssim(one[0], other[0]) == pytest.approx(structural_similarity(*grey, **options), abs=1e-9)


def test_measuring_needs_nothing_beyond_torch_and_diffusers():
    code = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); from svdlab import ladder, measure, profile"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
