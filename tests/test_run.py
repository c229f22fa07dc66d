"""A sweep makes every clip once, whatever fails and wherever it is stopped."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types

import pytest
from sweeps import check_whole, quick, trials_of

from svdlab import Setup, generate, read
from svdlab.pipelines import pipeline_cache
from svdlab.pipelines.hub import WeightsError
from svdlab.pipelines.load import load
from svdlab.pipelines.pipeline_cache import _kept, load_cached, unload_cached
from svdlab.quality.quality import Quality
from svdlab.request import conditioning
from svdlab.sweeps import make_row as make_row_module
from svdlab.sweeps import picture_cache
from svdlab.sweeps.dry_run import dry_run

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def setup(checkpoint) -> Setup:
    return Setup("svd", weights=str(checkpoint), dtype="fp32", device="cpu")


@pytest.fixture(autouse=True, scope="module")
def unloaded():
    yield
    unload_cached()


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
    monkeypatch.setattr(pipeline_cache, "load", None)
    monkeypatch.setattr(make_row_module, "generate", None)
    assert quick(trials, folder) == rows
    assert quick(trials[::-1], folder) == rows[::-1]


def test_a_picture_is_read_once(setup, tmp_path, picture, ask, monkeypatch):
    picture.save(tmp_path / "cat.png")
    seen = []
    monkeypatch.setattr(picture_cache, "conditioning", lambda request: seen.append(1) or conditioning(request))
    trials = trials_of(setup, lambda **f: ask(image=str(tmp_path / "cat.png"), **f), seed=range(3))
    rows = quick(trials, tmp_path / "rows")
    assert len(seen) == 1
    assert rows[0].open().request == trials[0].request  # the video names its picture
    assert not list((tmp_path / "rows").glob("*.png"))


def test_one_pipeline_is_kept_between_runs(setup, ask, tmp_path, monkeypatch):
    unload_cached()
    loads = []
    monkeypatch.setattr(pipeline_cache, "load", lambda s: loads.append(s) or load(s))
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
    assert rows[1].error.startswith("RuntimeError: CUDA out of memory (test_run.py, line ")
    assert rows[2].error == "The weights are wet: dry them."
    assert (rows[1].clip, rows[1].quality) == (None, None)
    assert str(dry_run(trials, tmp_path)).startswith("4 clips: 2 there already, 2 failed before (retry_failed=True")

    monkeypatch.setattr(make_row_module, "generate", generate)
    assert quick(trials, tmp_path) == rows  # left alone
    assert dry_run(trials, tmp_path, retry_failed=True).to_make == 2
    assert [row.status for row in quick(trials, tmp_path, retry_failed=True)] == ["done"] * 4
    check_whole(tmp_path, trials)


def test_a_setup_that_cannot_be_loaded_fails_at_once_and_the_others_go_on(setup, ask, tmp_path):
    broken = Setup("svd", weights=str(tmp_path / "nothing"), dtype="fp32")
    rows = quick(trials_of([broken, setup], ask, seed=[1, 2]), tmp_path / "rows")
    assert [row.status for row in rows] == ["failed", "failed", "done", "done"]
    assert rows[0].error
    assert "nor a folder that exists" in rows[0].error


def test_a_missing_picture_stops_before_anything_starts(setup, ask, tmp_path):
    trials = trials_of(setup, ask, image=["rocket", "no-such-picture.png"])
    with pytest.raises(ValueError, match=r"There is no file 'no-such-picture\.png'"):
        quick(trials, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_quality_goes_into_the_row_and_its_failure_into_the_notes(setup, ask, tmp_path, monkeypatch):
    measured = Quality(*(0.5 for _ in range(11)), 0, None)
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
    before = dry_run(trials, tmp_path / "rows")
    assert (before.total, before.done, before.to_make, before.seconds) == (4, 0, 4, None)
    assert str(before) == "4 clips: none there yet, 4 to make, time unknown, about 0.0 MB."
    assert not (tmp_path / "rows").exists()
    rows = quick(trials[:2], tmp_path / "rows")
    after = dry_run([*trials, trials[0]], tmp_path / "rows")  # a trial that comes twice is one clip
    assert (after.total, after.done, after.to_make) == (4, 2, 2)
    assert after.seconds == pytest.approx(sum(sum(row.timings.values()) for row in rows), rel=0.5)
    sizes = [row.clip.stat().st_size for row in rows if row.clip]
    assert after.disk_bytes == pytest.approx(sum(sizes), rel=0.01)
    quick(trials, tmp_path / "rows")
    assert str(dry_run(trials, tmp_path / "rows")) == "4 clips: 4 there already, nothing to make."


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
    monkeypatch.setattr(make_row_module, "generate", generate)
    quick(trials, tmp_path)
    check_whole(tmp_path, trials)


# --- folders, clips and pictures that change meanwhile ---------------------------------------------------------------


@pytest.mark.parametrize(
    "become", ["renamed", *(pytest.param(each, marks=pytest.mark.slow) for each in ("deleted", "made again"))]
)
def test_a_folder_that_is_gone_ends_the_run_and_stays_gone(setup, ask, tmp_path, monkeypatch, become):
    folder, trials = tmp_path / "rows", trials_of(setup, ask, seed=range(4))

    def generate_and_strike(pipeline, request, **options):
        if request.seed == 2:
            folder.rename(tmp_path / "renamed") if become == "renamed" else shutil.rmtree(folder)
            if become == "made again":
                folder.mkdir()
        return generate(pipeline, request, **options)

    monkeypatch.setattr(make_row_module, "generate", generate_and_strike)
    with pytest.raises(FileNotFoundError, match=r"was deleted or renamed .*after 2 of 4 rows"):
        quick(trials, folder)
    assert folder.exists() == (become == "made again")
    assert not folder.exists() or not list(folder.iterdir())
    if become == "renamed":
        monkeypatch.setattr(make_row_module, "generate", generate)
        quick(trials, tmp_path / "renamed")
        check_whole(tmp_path / "renamed", trials)


def test_a_clip_that_is_not_its_rows_own_is_made_again(setup, ask, tmp_path):
    trials = trials_of(setup, ask, seed=range(4))
    rows = quick(trials, tmp_path)
    contents = [row.clip.read_bytes() for row in rows if row.clip]
    for row, content in zip(rows, (b"", contents[1][:-100], contents[3], contents[3]), strict=True):
        assert row.clip
        row.clip.write_bytes(content)  # empty, cut, exchanged, its own
    with pytest.warns(UserWarning, match="counts as not made") as warned:
        again = quick(trials, tmp_path)
    assert len([each for each in warned if "counts as not made" in str(each.message)]) == 3  # each once
    assert [new.created == old.created for new, old in zip(again, rows, strict=True)] == [False, False, False, True]
    check_whole(tmp_path, trials)
