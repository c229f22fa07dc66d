"""A sweep makes every clip once, whatever fails and wherever it is stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
from functools import partial
from unittest.mock import MagicMock

import pytest
from sweeps import check_folder, make_trials, run_quietly

from svdlab import Setup, assess, generate, read
from svdlab.pipelines import pipeline_cache
from svdlab.pipelines.hub import WeightsError
from svdlab.pipelines.load import is_temporary, load
from svdlab.pipelines.pipeline_cache import _cached, load_cached, unload_cached
from svdlab.quality.quality import Quality
from svdlab.request import conditioning
from svdlab.rows.row_files import read_rows
from svdlab.sweeps import make_row as make_row_module
from svdlab.sweeps import picture_cache, ray_cluster
from svdlab.sweeps import run as run_module
from svdlab.sweeps.dry_run import dry_run
from svdlab.sweeps.grid import with_image
from svdlab.sweeps.locks import claim

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_sweep_makes_plain_clips_and_makes_them_once(setup, make_request, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "motion"
    trials = make_trials(setup, make_request, motion_bucket_id=[30, 220], seed=[1, 2])
    rows = run_quietly(trials, folder)
    check_folder(folder, trials)
    pipeline = load(setup)
    for trial, row in zip(trials, rows, strict=True):
        assert row.request == trial.request
        assert row.axes == ("motion_bucket_id", "seed")
        assert set(row.timings) == {"sample_seconds", "decode_seconds", "save_seconds"}
        clip = generate(pipeline, trial.request, progress=False)
        clip.save(tmp_path / "again.mp4")
        frames = read(tmp_path / "again.mp4").frames
        assert all(a.tobytes() == b.tobytes() for a, b in zip(frames, row.open().frames, strict=True))
    monkeypatch.setattr(pipeline_cache, "load", None)
    monkeypatch.setattr(make_row_module, "generate", None)
    assert run_quietly(trials, folder) == rows
    assert run_quietly(trials[::-1], folder) == rows[::-1]


def test_a_picture_is_read_once(setup, tmp_path, picture, make_request, monkeypatch):
    picture.save(tmp_path / "cat.png")
    reads = []
    monkeypatch.setattr(picture_cache, "conditioning", lambda request: reads.append(1) or conditioning(request))
    trials = make_trials(setup, partial(make_request, image=str(tmp_path / "cat.png")), seed=range(3))
    rows = run_quietly(trials, tmp_path / "rows")
    assert len(reads) == 1
    assert rows[0].open().request == trials[0].request  # the video names its picture
    assert not list((tmp_path / "rows").glob("*.png"))


def test_one_pipeline_is_kept_between_runs(setup, make_request, tmp_path, monkeypatch):
    unload_cached()
    loads = []
    monkeypatch.setattr(pipeline_cache, "load", lambda s: loads.append(s) or load(s))
    bf16 = dataclasses.replace(setup, dtype="bf16")
    trials = [
        t
        for pair in zip(
            make_trials(setup, make_request, seed=[1, 2]), make_trials(bf16, make_request, seed=[1, 2]), strict=True
        )
        for t in pair
    ]
    rows = run_quietly(trials, tmp_path)
    assert loads == [setup, bf16]
    assert [row.setup.dtype for row in rows] == ["fp32", "bf16"] * 2
    run_quietly(make_trials(bf16, make_request, seed=[3]), tmp_path)
    assert loads == [setup, bf16]
    assert len(_cached) == 1


def test_a_pipeline_is_loaded_again_when_its_weights_have_changed(checkpoint, make_request, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "weights")
    setup = Setup("svd", weights=str(tmp_path / "weights"), dtype="fp32")
    first = load_cached(setup)
    assert load_cached(setup) is first
    config = tmp_path / "weights" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("700.0", "500.0"))
    assert load_cached(setup) is not first


def test_what_fails_is_a_row_and_the_rest_go_on(setup, make_request, tmp_path, monkeypatch):
    trials = make_trials(setup, make_request, seed=range(5))

    def fail_some(pipeline, request, **options):
        if request.seed == 3:
            return dataclasses.replace(generate(pipeline, request, **options), frames=[])
        if request.seed == 1:
            raise RuntimeError("CUDA out of memory\nand much more")
        if request.seed == 2:
            raise WeightsError("The weights are wet: dry them.")
        return generate(pipeline, request, **options)

    monkeypatch.setattr(make_row_module, "generate", fail_some)
    rows = run_quietly(trials, tmp_path)
    assert [row.status for row in rows] == ["done", "failed", "failed", "failed", "done"]
    assert rows[1].error
    assert rows[1].error.startswith("RuntimeError: CUDA out of memory (test_run.py, line ")
    assert rows[2].error == "The weights are wet: dry them."
    assert "no frames" in (rows[3].error or "")  # which no file could be written with
    assert (rows[1].clip, rows[1].quality) == (None, None)
    assert str(dry_run(trials, tmp_path, quality=False)).startswith(
        "5 clips: 2 there already, 3 failed before (retry_failed=True"
    )

    monkeypatch.setattr(make_row_module, "generate", generate)
    assert run_quietly(trials, tmp_path) == rows  # left alone
    assert dry_run(trials, tmp_path, retry_failed=True).to_make == 3
    assert [row.status for row in run_quietly(trials, tmp_path, retry_failed=True)] == ["done"] * 5
    check_folder(tmp_path, trials)


def test_a_setup_that_cannot_be_loaded_fails_at_once_and_the_others_go_on(setup, make_request, tmp_path):
    broken = Setup("svd", weights=str(tmp_path / "nothing"), dtype="fp32")
    rows = run_quietly(make_trials([broken, setup], make_request, seed=[1, 2]), tmp_path / "rows")
    assert [row.status for row in rows] == ["failed", "failed", "done", "done"]
    assert rows[0].error
    assert "nor a folder that exists" in rows[0].error


def test_what_the_machine_failed_at_is_tried_again(setup, make_request, tmp_path, monkeypatch):
    hub = Setup("svd", dtype="fp32")
    trials, pipeline = make_trials(hub, make_request, seed=[1, 2]), load(setup)
    for error in (OSError("network down"), RuntimeError("CUDA-capable device(s) is/are busy or unavailable")):
        monkeypatch.setattr(make_row_module, "load_cached", MagicMock(side_effect=error))
        rows = run_quietly(trials, tmp_path)
        assert [row.error.startswith(f"{type(error).__name__}: {error}") for row in rows] == [True, True]
        plan = dry_run(trials, tmp_path)
        assert (plan.done, plan.failed, plan.to_make) == (0, 0, 2)
    pipeline._svdlab_setup = dataclasses.replace(hub.resolved(), revision="a" * 40)  # known from now on: another key
    monkeypatch.setattr(make_row_module, "load_cached", lambda _: pipeline)
    rows = run_quietly(trials, tmp_path)
    assert [row.status for row in rows] == ["done"] * 2
    assert sorted(row.key for row in read_rows(tmp_path)) == sorted(row.key for row in rows)  # and no failures beside


def test_memory_that_others_hold_is_the_machines_and_what_a_setup_asks_for_is_not(setup, monkeypatch):
    for others, temporary in ((3 * 2**29, False), (2**32, True)):  # a desktop and a context; another program
        monkeypatch.setattr("svdlab.pipelines.load.bytes_of_others", lambda device, others=others: others)
        assert is_temporary(RuntimeError("CUDA out of memory"), setup) == temporary
    monkeypatch.undo()
    monkeypatch.setattr("torch.cuda.mem_get_info", MagicMock(side_effect=RuntimeError("CUDA error: out of memory")))
    assert is_temporary(RuntimeError("CUDA out of memory"), dataclasses.replace(setup, device="cuda"))
    assert is_temporary(MemoryError("4.2 GiB and 3.9 GiB are free"), setup)
    assert is_temporary(WeightsError("The hub cannot be reached."), Setup("svd"))
    assert not is_temporary(WeightsError("There is no such folder."), setup)
    assert not is_temporary(RuntimeError("'model-offload' needs a GPU"), setup)


def test_a_missing_picture_stops_before_anything_starts(setup, make_request, tmp_path):
    trials = make_trials(setup, make_request, image=["rocket", "no-such-picture.png"])
    with pytest.raises(ValueError, match=r"There is no file 'no-such-picture\.png'"):
        run_quietly(trials, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_quality_goes_into_the_row_and_its_failure_into_the_notes(setup, make_request, tmp_path, monkeypatch):
    quality = Quality(*(0.5 for _ in range(11)), 0, None)
    fake = types.SimpleNamespace(assess=lambda clip: quality)
    monkeypatch.setitem(sys.modules, "svdlab.quality.assess", fake)  # pyright: ignore[reportArgumentType]
    [row] = run_quietly(make_trials(setup, make_request, seed=1), tmp_path, quality=True)
    assert row.quality == quality
    assert "quality_seconds" in row.timings
    fake.assess = lambda clip: 1 / 0
    [row] = run_quietly(make_trials(setup, make_request, seed=2), tmp_path, quality=True)
    assert (row.status, row.quality) == ("done", None)
    assert row.notes[-1].startswith("Its quality could not be measured: ZeroDivisionError")


def test_clips_that_were_not_measured_are_measured_from_their_files(setup, make_request, tmp_path, monkeypatch):
    trials = make_trials(setup, make_request, seed=[1, 2])  # their picture has no name
    old_rows = run_quietly(trials, tmp_path)
    monkeypatch.setattr(make_row_module, "generate", MagicMock(side_effect=AssertionError("nothing is to be made")))
    with claim(tmp_path, old_rows[0].key):
        assert make_row_module.measure_row(old_rows[0], tmp_path) is None  # another writer has it
    monkeypatch.setattr(ray_cluster, "connected", MagicMock(side_effect=AssertionError("nor has Ray to start")))
    [row] = run_quietly(trials[:1], tmp_path, quality=True, on="ray")
    rows = run_quietly(trials, tmp_path, quality=True)
    assert rows[0] == row
    check_folder(tmp_path, trials)
    for old, new in zip(old_rows, rows, strict=True):
        assert new.quality == assess(old.open())
        added = {"quality": new.quality, "timings": new.timings, "notes": new.notes}
        assert dataclasses.replace(old, **added) == new
        assert new.timings == old.timings | {"quality_seconds": new.timings["quality_seconds"]}
        text = (tmp_path / f"{new.key}.json").read_text()
        assert json.loads(text)["request"]["image"] is None  # the picture lies beside it, and the folder can move
        assert new.notes == (*old.notes, "Its quality was measured from its video file.")
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run_quietly(trials, tmp_path, quality=True) == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


def test_measuring_a_clip_later_changes_nothing_else(setup, make_request, tmp_path, picture, monkeypatch):
    picture.save(tmp_path / "cat.png")
    folder, fake = tmp_path / "rows", types.SimpleNamespace()
    [trial] = trials = make_trials(setup, partial(make_request, image=str(tmp_path / "cat.png")), seed=1)
    old_rows = run_quietly(trials, folder)
    [path] = folder.glob("*.json")
    text, files = path.read_text(), sorted(folder.iterdir())
    monkeypatch.setitem(sys.modules, "svdlab.quality.assess", fake)  # pyright: ignore[reportArgumentType]
    assert "there already (1 to measure), nothing to make" in str(dry_run(trials, folder))
    assert dry_run(trials, folder, quality=False).to_measure == 0

    # What the machine fails at is no answer: the next run tries again.
    def read_badly(clip):
        raise ValueError("The video cannot be read.") from OSError("input/output error")

    for failure in (MagicMock(side_effect=MemoryError("3 GiB")), read_badly):
        fake.assess = failure
        with pytest.warns(UserWarning, match="1 of 1 rows in .* could not be measured now: .*The next run tries again"):
            assert run_quietly(trials, folder, quality=True) == old_rows
    fake.assess = lambda clip: Quality(*(0.5 for _ in range(11)), 0, None)
    with monkeypatch.context() as patch:
        patch.setattr(make_row_module, "claim", MagicMock(side_effect=PermissionError("an archive")))
        with pytest.warns(UserWarning, match="an archive"):
            assert run_quietly(trials, folder, quality=True) == old_rows
    assert (path.read_text(), sorted(folder.iterdir())) == (text, files)

    # Waiting for another writer is said, and ends at Ctrl-C as measuring does.
    bar = MagicMock()
    with claim(folder, old_rows[0].key), monkeypatch.context() as patch:
        patch.setattr(run_module, "Progress", bar)
        patch.setattr(run_module.time, "sleep", MagicMock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt, match=r"all 1 rows are in .* 1 of them to be measured next time"):
            run_quietly(trials, folder, quality=True)
    assert "waiting" in str(bar.mock_calls)

    # The row keeps its own words for its picture, whoever asks: a picture in memory, with the same pixels.
    same = dataclasses.replace(trial, request=with_image(trial.request, picture))
    [row] = run_quietly([same], folder, quality=True)
    assert (row.quality is None, row.request) == (False, same.request)
    old, new = json.loads(text), json.loads(path.read_text())
    assert {name for name in old if old[name] != new[name]} == {"quality", "timings", "notes"}
    assert sorted(folder.iterdir()) == files

    # A clip that cannot be measured is not tried again, and says why; one that is deleted meanwhile stays deleted.
    path.write_text(text)
    fake.assess = lambda clip: 1 / 0
    [row] = run_quietly(trials, folder, quality=True)
    assert row.notes[:-1] == old_rows[0].notes
    assert row.notes[-1].startswith("Its quality could not be measured: ZeroDivisionError")
    path.write_text(text)
    fake.assess = lambda clip: [file.unlink() for file in files]
    run_quietly(trials, folder, quality=True)
    assert not list(folder.iterdir())


def test_a_plan_counts_and_estimates(setup, make_request, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trials = make_trials(setup, make_request, seed=range(4))
    plan = dry_run(trials, tmp_path / "rows")
    assert (plan.total, plan.done, plan.to_make, plan.seconds) == (4, 0, 4, None)
    assert str(plan) == "4 clips: none there yet, 4 to make, time unknown, about 0.0 MB."
    assert not (tmp_path / "rows").exists()
    rows = run_quietly(trials[:2], "~/rows")
    assert not (tmp_path / "~").exists()
    later_plan = dry_run([*trials, trials[0]], "~/rows")  # a trial that comes twice is one clip
    assert (later_plan.total, later_plan.done, later_plan.to_make) == (4, 2, 2)
    assert later_plan.seconds == pytest.approx(sum(sum(row.timings.values()) for row in rows), rel=0.5)
    sizes = [row.clip.stat().st_size for row in rows if row.clip]
    assert later_plan.disk_bytes == pytest.approx(sum(sizes), rel=0.01)
    run_quietly(trials, tmp_path / "rows")
    assert str(dry_run(trials, tmp_path / "rows", quality=False)) == "4 clips: 4 there already, nothing to make."


def test_progress_is_one_plain_line(setup, make_request, tmp_path, capsys):
    run_quietly(make_trials(setup, make_request, seed=[1, 2]), tmp_path, progress=True)
    text = capsys.readouterr().err
    assert "clip 2 of 2" in text
    assert "seed=2" in text
    assert "2/2" in text
    run_quietly(make_trials(setup, make_request, seed=[1, 2]), tmp_path, progress=True)
    assert capsys.readouterr().err == ""  # nothing to wait for


def test_ctrl_c_keeps_what_is_finished_and_says_so(setup, make_request, tmp_path, monkeypatch):
    trials = make_trials(setup, make_request, seed=range(4))

    def interrupt(pipeline, request, *, on_step, **options):
        def step(*arguments):
            on_step(*arguments)
            if request.seed == 2:
                raise KeyboardInterrupt

        return generate(pipeline, request, on_step=step, **options)

    monkeypatch.setattr(make_row_module, "generate", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"Stopped: 2 of 4 rows are in .*next run makes the others"):
        run_quietly(trials, tmp_path)
    check_folder(tmp_path, trials[:2])
    monkeypatch.setattr(make_row_module, "generate", generate)
    run_quietly(trials, tmp_path)
    check_folder(tmp_path, trials)


# --- folders, clips and pictures that change meanwhile ---------------------------------------------------------------


@pytest.mark.parametrize(
    "fate", ["renamed", *(pytest.param(each, marks=pytest.mark.slow) for each in ("deleted", "made again"))]
)
def test_a_folder_that_is_gone_ends_the_run_and_stays_gone(setup, make_request, tmp_path, monkeypatch, fate):
    folder, trials = tmp_path / "rows", make_trials(setup, make_request, seed=range(4))

    def generate_without_folder(pipeline, request, **options):
        if request.seed == 2:
            folder.rename(tmp_path / "renamed") if fate == "renamed" else shutil.rmtree(folder)
            if fate == "made again":
                folder.mkdir()
        return generate(pipeline, request, **options)

    monkeypatch.setattr(make_row_module, "generate", generate_without_folder)
    with pytest.raises(FileNotFoundError, match=r"was deleted or renamed .*after 2 of 4 rows"):
        run_quietly(trials, folder)
    assert folder.exists() == (fate == "made again")
    assert not folder.exists() or not list(folder.iterdir())
    if fate == "renamed":
        monkeypatch.setattr(make_row_module, "generate", generate)
        run_quietly(trials, tmp_path / "renamed")
        check_folder(tmp_path / "renamed", trials)


def test_a_clip_that_is_not_its_rows_own_is_made_again(setup, make_request, tmp_path):
    trials = make_trials(setup, make_request, seed=range(4))
    rows = run_quietly(trials, tmp_path)
    contents = [row.clip.read_bytes() for row in rows if row.clip]
    for row, content in zip(rows, (b"", contents[1][:-100], contents[3], contents[3]), strict=True):
        assert row.clip
        row.clip.write_bytes(content)  # empty, cut, exchanged, its own
    with pytest.warns(UserWarning, match="counts as not made") as warning_list:
        new_rows = run_quietly(trials, tmp_path)
    assert len([each for each in warning_list if "counts as not made" in str(each.message)]) == 3  # each once
    assert [new.created == old.created for new, old in zip(new_rows, rows, strict=True)] == [False, False, False, True]
    check_folder(tmp_path, trials)
