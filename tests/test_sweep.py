"""A sweep makes every clip once, whatever fails, whoever else is at it, and wherever it is stopped."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import shutil
import signal
import sys
import threading
import time
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from svdlab import Request, Setup, generate, read
from svdlab.media.images import EXAMPLES
from svdlab.pipelines import cached
from svdlab.pipelines.cached import _kept, load_cached, unload_cached
from svdlab.pipelines.hub import WeightsError
from svdlab.pipelines.load import load
from svdlab.pipelines.shared_encodings import shared
from svdlab.quality.quality import Quality
from svdlab.request import conditioning
from svdlab.rows import row_files
from svdlab.rows.row_files import read_rows
from svdlab.rows.row_key import row_key
from svdlab.sweeps import make_row as make_row_module
from svdlab.sweeps import run as run_module
from svdlab.sweeps.grid import Trial, _values, grid
from svdlab.sweeps.make_row import make_row
from svdlab.sweeps.plan import plan
from svdlab.sweeps.run import run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:svdlab", "ignore::UserWarning:test_sweep")
RANDOM = Setup("svd", weights="random", dtype="fp32")
ROCKET = Request(image="rocket")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the test kills forks of itself")


@pytest.fixture(scope="module")
def setup(checkpoint) -> Setup:
    return Setup("svd", weights=str(checkpoint), dtype="fp32", device="cpu")


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    yield
    unload_cached()


def trials_of(setup, ask, **axes) -> list[Trial]:
    return grid(setup, ask(num_inference_steps=1, num_frames=2, decode_chunk_size=2), **axes)


def quick(trials, folder, **options):
    return run(trials, folder, **{"progress": False, "quality": False} | options)


def check_whole(folder: Path, trials: list[Trial]) -> None:
    """Every row is there once, with a clip that decodes, and nothing else is."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rows = read_rows(folder)
    keys = [row_key(t.setup, t.request) for t in trials]
    assert sorted(row.key for row in rows) == sorted(keys)
    for row in rows:
        assert row.status == "done"
        assert len(row.open().frames) == row.request.num_frames
    names = {f"{key}{suffix}" for key in keys for suffix in (".json", ".mp4")}
    assert {p.name for p in folder.iterdir() if p.suffix != ".png"} == names


# --- grids -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["seed", "motion_bucket_id", "fps", "num_inference_steps"]),
        st.lists(st.integers(5, 250), min_size=1, max_size=4),
    )
)
def test_a_grid_is_every_combination_once_the_first_axis_slowest(axes):
    trials = grid(RANDOM, ROCKET, **axes)
    values = [[getattr(t.request, name) for name in axes] for t in trials]
    assert values == [list(v) for v in itertools.product(*(dict.fromkeys(each) for each in axes.values()))]
    assert all(t.axes == tuple(name for name in axes if len(set(axes[name])) > 1) for t in trials)
    assert all(t.request.variant == "svd" and t.setup == RANDOM for t in trials)


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 255), stop=st.integers(0, 255), step=st.integers(-90, 90).filter(bool))
def test_a_range_by_steps_has_both_its_ends(start, stop, step):
    def buckets() -> list[int]:
        given = {"start": start, "stop": stop, "step": step}
        return [t.request.motion_bucket_id for t in grid(RANDOM, ROCKET, motion_bucket_id=given)]

    expected = list(range(start, stop + (1 if step > 0 else -1), step))
    if expected:
        assert buckets() == expected
    else:
        with pytest.raises(ValueError, match=r"motion_bucket_id=.* holds no number"):
            buckets()


@settings(max_examples=60, deadline=None)
@given(start=st.floats(0.01, 5), stop=st.floats(0.01, 5), num=st.integers(2, 20), log=st.booleans())
def test_a_range_by_number_is_even(start, stop, num, log):
    given = {"start": start, "stop": stop, "num": num, "log": log}
    values = _values("noise_aug_strength", given)
    assert len(values) == num
    even = np.geomspace(start, stop, num) if log else np.linspace(start, stop, num)
    assert np.allclose(values, even, rtol=1e-11)


def test_ranges_give_the_numbers_that_one_would_write():
    assert _values("noise_aug_strength", {"start": 0, "stop": 0.4, "step": 0.1}) == [0, 0.1, 0.2, 0.3, 0.4]
    assert _values("motion_bucket_id", {"start": 0, "stop": 255, "num": 4}) == [0, 85, 170, 255]
    assert _values("motion_bucket_id", {"start": 1, "stop": 255, "num": 3, "log": True}) == [1, 16, 255]
    assert _values("seed", {"start": 7, "stop": 99, "num": 1}) == [7]
    assert _values("sigmas", [9.0, 3.0, 1.0]) == [(9.0, 3.0, 1.0)]
    assert _values("focus", [(0, 0), (1, 1)]) == [(0, 0), (1, 1)]
    assert _values("image", np.zeros((8, 8), np.uint8))[0].size == (8, 8)
    assert [len(grid(RANDOM, ROCKET, image=list(EXAMPLES), seed=3))] == [len(EXAMPLES)]


def test_paired_axes_move_together_and_slowest():
    trials = grid(RANDOM, ROCKET, paired={"fps": [6, 12], "motion_bucket_id": [60, 180]}, seed=[1, 2])
    assert [(t.request.fps, t.request.motion_bucket_id, t.request.seed) for t in trials] == [
        (6, 60, 1),
        (6, 60, 2),
        (12, 180, 1),
        (12, 180, 2),
    ]
    assert trials[0].axes == ("fps", "motion_bucket_id", "seed")
    assert str(trials[0]) == "fps=6, motion_bucket_id=60, seed=1"


def test_setups_are_the_slowest_axis():
    bf16 = dataclasses.replace(RANDOM, dtype="bf16")
    trials = grid([RANDOM, bf16, RANDOM], ROCKET, seed=[1, 2])
    assert [t.setup for t in trials] == [RANDOM, RANDOM, bf16, bf16]
    assert trials[0].axes == ("setup", "seed")


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"motion_bucket": [1]}, "'motion_bucket' is no field.* did you mean 'motion_bucket_id'"),
        ({"variant": ["svd"]}, "'variant' is no field"),
        (
            {"seed": [1, 2], "motion_bucket_id": [3, 300]},
            r"Trial 2 \(seed=1, motion_bucket_id=300\): motion_bucket_id=300 is",
        ),
        ({"seed": []}, "seed has no values"),
        ({"seed": {"start": 1, "step": 2}}, "seed=.* is no range"),
        ({"seed": {"start": 1, "stop": 5, "step": 0}}, "seed=.* holds no number"),
        ({"fps": {"start": 0, "stop": 5, "num": 3, "log": True}}, "fps=.* holds no number"),
        ({"fit": {"start": 1, "stop": 5, "num": 3}}, "fit=.* is no range: a field that is a number"),
        ({"paired": {"fps": [6], "seed": [1, 2]}}, "equally many values, and fps has 1, seed has 2"),
        ({"paired": {"fps": [6]}, "fps": [7]}, "fps is both paired and"),
        ({"image": [""]}, "image is empty"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(axes, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid(RANDOM, ROCKET, **axes)


def test_oddities_are_said_once():
    with pytest.warns(UserWarning, match="is under 20") as said:
        grid(RANDOM, ROCKET, num_inference_steps=[2, 3], seed=[1, 2, 3])
    assert len(said) == 2


def test_trials_share_the_picture(picture):
    trials = grid(RANDOM, Request(image=picture), seed=range(50), motion_bucket_id=[1, 2])
    assert len({id(t.request.image) for t in trials}) == 1


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_sweep_makes_plain_clips_and_makes_them_once(setup, ask, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "motion"
    trials = trials_of(setup, ask, motion_bucket_id=[30, 220], seed=[1, 2])
    rows = quick(trials, folder)
    check_whole(folder, trials)
    pipeline = load(setup)
    for trial, row in zip(trials, rows, strict=True):
        assert row.request == trial.request
        assert row.axes == ("motion_bucket_id", "seed")
        assert set(row.timings) == {"sample_seconds", "decode_seconds", "save_seconds"}
        again = generate(pipeline, trial.request, progress=False)
        again.save(tmp_path / "again.mp4")
        frames = read(tmp_path / "again.mp4").frames
        assert all(a.tobytes() == b.tobytes() for a, b in zip(frames, row.open().frames, strict=True))
    monkeypatch.setattr(cached, "load", None)
    monkeypatch.setattr(make_row_module, "generate", None)
    assert quick(trials, folder) == rows
    assert quick(trials[::-1], folder) == rows[::-1]


def test_sharing_leaves_the_frames_as_they_are_and_the_pipeline_too(setup, ask, monkeypatch):
    pipeline = load(setup)
    calls = {"image": 0, "vae": 0}

    def count(name, encode):
        def counted(*args, **named):
            calls[name] += 1
            return encode(*args, **named)

        return counted

    monkeypatch.setattr(pipeline.image_encoder, "forward", count("image", pipeline.image_encoder.forward))
    monkeypatch.setattr(pipeline.vae, "encode", count("vae", pipeline.vae.encode))
    small = {"num_frames": 2, "decode_chunk_size": 2}
    asked = [ask(seed=s, **small, **f) for f in ({}, {"fps": 9}, {"noise_aug_strength": 1.0}) for s in (1, 2)]
    asked += [ask(max_guidance_scale=1.0, **small), ask(image="rocket", **small)]
    plain = [generate(pipeline, one, progress=False) for one in asked]
    assert calls == {"image": 8, "vae": 8}
    before = dict(vars(pipeline))
    with shared(pipeline):
        with_sharing = [generate(pipeline, one, progress=False) for one in asked]
    assert calls == {"image": 8 + 3, "vae": 8 + 6}
    assert all(a.frames == b.frames for a, b in zip(plain, with_sharing, strict=True))
    latents = [(a.latents, b.latents) for a, b in zip(plain, with_sharing, strict=True)]
    assert all(a is not None and b is not None and a.equal(b) for a, b in latents)
    assert vars(pipeline).keys() == before.keys()
    assert "_encode_image" not in vars(pipeline)


def test_a_picture_is_read_once(setup, tmp_path, picture, ask, monkeypatch):
    picture.save(tmp_path / "cat.png")
    seen = []
    monkeypatch.setattr(make_row_module, "conditioning", lambda request: seen.append(1) or conditioning(request))
    trials = trials_of(setup, lambda **f: ask(image=str(tmp_path / "cat.png"), **f), seed=range(3))
    rows = quick(trials, tmp_path / "rows")
    assert len(seen) == 1
    assert rows[0].open().request == trials[0].request  # the video names its picture
    assert not list((tmp_path / "rows").glob("*.png"))


def test_one_pipeline_is_kept_between_runs(setup, ask, tmp_path, monkeypatch):
    unload_cached()
    loads = []
    monkeypatch.setattr(cached, "load", lambda s: loads.append(s) or load(s))
    bf16 = dataclasses.replace(setup, dtype="bf16")
    mixed = [
        t
        for pair in zip(trials_of(setup, ask, seed=[1, 2]), trials_of(bf16, ask, seed=[1, 2]), strict=True)
        for t in pair
    ]
    rows = quick(mixed, tmp_path)
    assert loads == [setup, bf16]
    assert [row.setup.dtype for row in rows] == ["fp32", "bf16"] * 2
    quick(trials_of(bf16, ask, seed=[3]), tmp_path)
    assert loads == [setup, bf16]
    assert len(_kept) == 1


def test_a_pipeline_is_loaded_again_when_its_weights_have_changed(checkpoint, ask, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "weights")
    setup = Setup("svd", weights=str(tmp_path / "weights"), dtype="fp32")
    first = load_cached(setup)
    assert load_cached(setup) is first
    config = tmp_path / "weights" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("700.0", "500.0"))
    assert load_cached(setup) is not first


def test_what_fails_is_a_row_and_the_rest_go_on(setup, ask, tmp_path, monkeypatch):
    trials = trials_of(setup, ask, seed=range(4))

    def fails(pipeline, request, **options):
        if request.seed == 1:
            raise RuntimeError("CUDA out of memory\nand much more")
        if request.seed == 2:
            raise WeightsError("The weights are wet: dry them.")
        return generate(pipeline, request, **options)

    monkeypatch.setattr(make_row_module, "generate", fails)
    rows = quick(trials, tmp_path)
    assert [row.status for row in rows] == ["done", "failed", "failed", "done"]
    assert rows[1].error
    assert rows[1].error.startswith("RuntimeError: CUDA out of memory (test_sweep.py, line ")
    assert rows[2].error == "The weights are wet: dry them."
    assert (rows[1].clip, rows[1].quality) == (None, None)
    assert str(plan(trials, tmp_path)).startswith("4 clips: 2 there already, 2 failed before (retry_failed=True")

    monkeypatch.setattr(make_row_module, "generate", generate)
    assert quick(trials, tmp_path) == rows  # left alone
    assert plan(trials, tmp_path, retry_failed=True).to_make == 2
    assert [row.status for row in quick(trials, tmp_path, retry_failed=True)] == ["done"] * 4
    check_whole(tmp_path, trials)


def test_a_setup_that_cannot_be_loaded_fails_at_once_and_the_others_go_on(setup, ask, tmp_path):
    broken = Setup("svd", weights=str(tmp_path / "nothing"), dtype="fp32")
    rows = quick(trials_of([broken, setup], ask, seed=[1, 2]), tmp_path / "rows")
    assert [row.status for row in rows] == ["failed", "failed", "done", "done"]
    assert rows[0].error
    assert "nor a folder that exists" in rows[0].error


def test_a_half_precision_vae_is_itself_again_after_a_failure(checkpoint, ask, tmp_path, monkeypatch):
    """diffusers encodes in float32, and where that fails, stays there: the next clip would be another."""
    import torch

    pipeline = load(Setup("svd", weights=str(checkpoint), dtype="fp16", device="cpu"))
    trial = Trial(Setup("svd", weights=str(checkpoint), dtype="fp16"), ask())
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.vae, "encode", lambda _: 1 / 0)
        assert make_row(pipeline, trial, tmp_path, quality=False).status == "failed"
    assert pipeline.vae.dtype == torch.float16


def test_a_missing_picture_stops_before_anything_starts(setup, ask, tmp_path):
    trials = trials_of(setup, ask, image=["rocket", "no-such-picture.png"])
    with pytest.raises(ValueError, match=r"There is no file 'no-such-picture\.png'"):
        quick(trials, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_quality_goes_into_the_row_and_its_failure_into_the_notes(setup, ask, tmp_path, monkeypatch):
    measured = Quality(*(0.5 for _ in range(19)), 0, None)
    fake = types.SimpleNamespace(assess=lambda clip: measured)
    monkeypatch.setitem(sys.modules, "svdlab.quality.assess", fake)  # pyright: ignore[reportArgumentType]
    [row] = quick(trials_of(setup, ask, seed=1), tmp_path, quality=True)
    assert row.quality == measured
    assert "quality_seconds" in row.timings
    fake.assess = lambda clip: 1 / 0
    [row] = quick(trials_of(setup, ask, seed=2), tmp_path, quality=True)
    assert (row.status, row.quality) == ("done", None)
    assert row.notes[-1].startswith("Its quality could not be measured: ZeroDivisionError")


def test_a_plan_counts_and_estimates(setup, ask, tmp_path):
    trials = trials_of(setup, ask, seed=range(4))
    before = plan(trials, tmp_path / "rows")
    assert (before.total, before.done, before.to_make, before.seconds) == (4, 0, 4, None)
    assert str(before) == "4 clips: none there yet, 4 to make, time unknown, about 0.0 MB."
    assert not (tmp_path / "rows").exists()
    rows = quick(trials[:2], tmp_path / "rows")
    after = plan([*trials, trials[0]], tmp_path / "rows")  # a trial that comes twice is one clip
    assert (after.total, after.done, after.to_make) == (4, 2, 2)
    assert after.seconds == pytest.approx(sum(sum(row.timings.values()) for row in rows), rel=0.5)
    sizes = [row.clip.stat().st_size for row in rows if row.clip]
    assert after.disk_bytes == pytest.approx(sum(sizes), rel=0.01)
    quick(trials, tmp_path / "rows")
    assert str(plan(trials, tmp_path / "rows")) == "4 clips: 4 there already, nothing to make."


def test_progress_is_one_plain_line(setup, ask, tmp_path, capsys):
    quick(trials_of(setup, ask, seed=[1, 2]), tmp_path, progress=True)
    said = capsys.readouterr().err
    assert "clip 2 of 2" in said
    assert "seed=2" in said
    assert "2/2" in said
    quick(trials_of(setup, ask, seed=[1, 2]), tmp_path, progress=True)
    assert capsys.readouterr().err == ""  # nothing to wait for


def test_ctrl_c_keeps_what_is_finished_and_says_so(setup, ask, tmp_path, monkeypatch):
    trials = trials_of(setup, ask, seed=range(4))

    def interrupted(pipeline, request, *, on_step, **options):
        def step(*arguments):
            on_step(*arguments)
            if request.seed == 2:
                raise KeyboardInterrupt

        return generate(pipeline, request, on_step=step, **options)

    monkeypatch.setattr(make_row_module, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped: 2 of 4 rows are in .*next run makes the others"):
        quick(trials, tmp_path)
    check_whole(tmp_path, trials[:2])
    assert "_encode_image" not in vars(load_cached(setup))
    monkeypatch.setattr(make_row_module, "generate", generate)
    quick(trials, tmp_path)
    check_whole(tmp_path, trials)


# --- kills, and other writers ----------------------------------------------------------------------------------------


def forked(work) -> int:
    """The pid of a child that does `work` and is gone; it has torch and the pipeline already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            tqdm.set_lock(threading.RLock())  # its own is shared with forks, and would stay locked by a killed one
            work()
        finally:
            os._exit(0)
    return pid


@needs_fork
def test_killed_at_any_moment_the_next_run_finishes_the_rest(setup, ask, tmp_path):
    trials = trials_of(setup, ask, seed=range(8))
    started = time.perf_counter()
    quick(trials[:2], tmp_path / "timing")
    each = (time.perf_counter() - started) / 2
    chance, kills = random.Random(4), 0
    for _ in range(16):
        pid = forked(lambda: quick(trials, tmp_path / "rows"))
        time.sleep(chance.uniform(0, 1.5 * each))
        kills += os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for row in read_rows(tmp_path / "rows") if (tmp_path / "rows").exists() else []:
            assert len(row.open().frames) == 2
            if chance.random() < 0.5:  # so that there is always something left to make
                (tmp_path / "rows" / f"{row.key}.json").unlink()
    assert kills >= 12
    quick(trials, tmp_path / "rows")
    check_whole(tmp_path / "rows", trials)


@needs_fork
@pytest.mark.parametrize("call", ["replace", "fsync", "unlink", "mkdir"])
def test_killed_at_every_dangerous_point_of_a_save(setup, ask, tmp_path, call):
    """Before each of the system calls that put a row and its clip in place, and after it."""
    trials = trials_of(setup, ask, seed=[1])
    quick(trials_of(setup, ask, seed=[2]), tmp_path / "warm")
    points = 0
    for after, number in itertools.product((False, True), range(1, 9)):
        folder = tmp_path / f"{after}{number}"

        def work(folder=folder, after=after, number=number):
            real, count = getattr(os, call), itertools.count(1)

            def deadly(*arguments, **named):
                die = next(count) == number
                if die and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                value = real(*arguments, **named)
                if die:
                    os.kill(os.getpid(), signal.SIGKILL)
                return value

            setattr(os, call, deadly)
            quick(trials, folder)

        _, status = os.waitpid(forked(work), 0)
        if not os.WIFSIGNALED(status):
            break
        points += 1
        if folder.exists():
            for row in read_rows(folder):
                assert len(row.open().frames) == 2
        quick(trials, folder)
        check_whole(folder, trials)
    assert points >= 1


@needs_fork
def test_two_writers_at_once_share_the_work(setup, ask, tmp_path):
    trials = trials_of(setup, ask, seed=range(10))
    quick(trials_of(setup, ask, seed=[99]), tmp_path / "warm")

    def work(name):
        made, real = tmp_path / name, run_module.make_row

        def noted(pipeline, trial, *arguments, **named):
            with made.open("a") as file:
                file.write(f"{trial.request.seed}\n")
            return real(pipeline, trial, *arguments, **named)

        run_module.make_row = noted
        quick(trials, tmp_path / "rows")

    for pid in [forked(lambda name=name: work(name)) for name in ("one", "two")]:
        assert os.waitpid(pid, 0)[1] == 0
    check_whole(tmp_path / "rows", trials)
    made = [(tmp_path / name).read_text().split() for name in ("one", "two") if (tmp_path / name).exists()]
    assert sum(map(len, made)) <= 10 + 2  # twice only at the very end, where nothing else is left to do


def test_what_dead_writers_left_is_cleared_and_what_live_ones_hold_is_not(setup, ask, tmp_path):
    import socket

    host, key = socket.gethostname(), "0" * 16
    dead = forked(lambda: None)
    os.waitpid(dead, 0)
    here_dead = tmp_path / f".{key}~{host}~{dead}~1"
    here_live = tmp_path / f".{key}~{host}~{os.getpid()}~1"
    there_new = tmp_path / f".{key}~elsewhere~{dead}~1"
    there_old = tmp_path / f".{key}~elsewhere~{dead}~2"
    for scratch in (here_dead, here_live, there_new, there_old):
        scratch.mkdir()
        (scratch / "clip.mp4").write_bytes(b"half")
    os.utime(there_old, (0, time.time() - 2 * 86_400))
    (tmp_path / ".hidden").mkdir()
    quick(trials_of(setup, ask, seed=1), tmp_path)
    left = {p.name for p in tmp_path.iterdir() if p.name.startswith(".")}
    assert left == {here_live.name, there_new.name, ".hidden"}


def test_a_trial_that_a_live_writer_holds_comes_last(setup, ask, tmp_path):
    import socket

    trials = trials_of(setup, ask, seed=range(3))
    key = row_key(setup, trials[0].request)
    (tmp_path / f".{key}~{socket.gethostname()}~{os.getpid()}~1").mkdir()
    rows = quick(trials, tmp_path)
    assert [row.request.seed for row in sorted(rows, key=lambda row: row.created)] == [1, 2, 0]


def test_a_full_disk_stops_the_run(setup, ask, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_files, "_move", full)
    with pytest.raises(OSError, match="No space left"):
        quick(trials_of(setup, ask, seed=[1, 2]), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == []
