"""A row says what was asked and what came of it, is found again by its question, and outlives writers and versions."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svdlab import Request, Setup
from svdlab.machine import Machine
from svdlab.quality.quality import Quality
from svdlab.request import quiet_requests
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row, read_rows, write_row
from svdlab.rows.row_key import row_key
from svdlab.rows.rows_table import rows_table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:svdlab.request")
RANDOM = Setup("svd", weights="random", dtype="fp32")
VIDEO = b"\0\0\0\x20ftypisom" + bytes(100)  # as far as anybody looks who does not open it
MACHINE = Machine("cpu", "Abacus", 64, 2, "3.11", {"torch": "2.13.0", "diffusers": None}, "abc")


def build_request(**fields) -> Request:
    with quiet_requests():
        return Request.for_variant("svd", **{"image": "rocket", "height": 64, "width": 96} | fields)


def build_quality(**fields) -> Quality:
    return dataclasses.replace(Quality(*(0.5 for _ in range(11)), 0, None), **fields)


def build_row(number: int = 0, **fields) -> Row:
    defaults: dict = {
        "key": f"{number:016x}",
        "setup": RANDOM,
        "request": build_request(seed=number),
        "timings": {"sample_seconds": 1.5 + number, "decode_seconds": 0.5},
        "quality": build_quality(motion_mean_px=0.25 * number),
        "axes": ("seed",),
        "picture_sha256": "5f" * 32,
        "machine": MACHINE,
        "created": f"2026-01-01T00:00:{number:02d}+00:00",
        "version": "0.1.0",
    }
    return Row(**defaults | fields)


def save_row(folder: Path, row: Row, clip: bool = True) -> Row:
    """Save a row with a clip that is none: nothing here may open it."""
    scratch = folder / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / "clip.mp4"
    file.write_bytes(VIDEO)
    saved = write_row(row, folder, scratch, file if clip and row.status == "done" else None)
    shutil.rmtree(scratch)
    return saved


# --- rows ----------------------------------------------------------------------------------------------------


def test_a_row_is_read_as_it_was_written(tmp_path):
    saved = save_row(tmp_path, build_row(3, notes=("a", "b"), quality=None))
    assert read_rows(tmp_path) == [saved]
    assert find_row(tmp_path, saved.key) == saved
    assert (saved.clip, saved.clip_bytes) == (tmp_path / f"{saved.key}.mp4", len(VIDEO))
    assert saved.clip_problem(verify=True) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{saved.key}.json", f"{saved.key}.mp4"]
    assert str(tmp_path) not in (tmp_path / f"{saved.key}.json").read_text()  # so that the folder can move


def test_a_row_opens_its_clip(tmp_path, make_request):
    from svdlab.generation.clip import Clip

    frames = [Image.new("RGB", (96, 64), (40 * i, 0, 0)) for i in range(6)]
    clip = Clip(frames, make_request(), RANDOM)
    saved = write_row(build_row(request=clip.request), tmp_path, tmp_path, clip.save(tmp_path / "beside.mp4"))
    assert len(saved.open().frames) == 6
    with pytest.raises(ValueError, match=r"no clip of trial .*: the card caught fire"):
        build_row(status="failed", error="the card caught fire.").open()


def test_a_picture_from_memory_lies_beside_the_rows_once(tmp_path, make_request, picture):
    for seed in (1, 2):
        save_row(tmp_path, build_row(seed, request=make_request(seed=seed)))
    assert len(list(tmp_path.glob("*.png"))) == 1
    [first, _] = read_rows(tmp_path)
    assert row_key(RANDOM, first.request) == row_key(RANDOM, make_request(seed=1))
    assert (tmp_path / "0000000000000001.json").stat().st_size < 2000


def test_numbers_that_are_not_finite_become_null(tmp_path):
    saved = build_row(
        quality=build_quality(camera_motion_px=math.nan, motion_mean_px=np.float32(2)),
        timings={"sample_seconds": np.array(1.5)},
    )
    save_row(tmp_path, saved)
    text = (tmp_path / f"{saved.key}.json").read_text()
    assert "NaN" not in text
    [row] = read_rows(tmp_path)
    assert row.quality == build_quality(camera_motion_px=None, motion_mean_px=2.0)
    assert row.timings == {"sample_seconds": 1.5}


def test_an_answer_stands_before_a_failure_whichever_came_last(tmp_path):
    failed = save_row(tmp_path, build_row(status="failed", error="Out of memory.", timings={}))
    assert read_rows(tmp_path) == [failed]
    row = save_row(tmp_path, build_row())
    assert read_rows(tmp_path) == [row]
    assert not list(tmp_path.glob("*.failed.json"))
    save_row(tmp_path, failed)  # another machine, later
    assert read_rows(tmp_path) == [row]
    assert find_row(tmp_path, row.key) == row


def test_folders_merge_by_being_copied_together(tmp_path):
    first, second, merged = tmp_path / "here", tmp_path / "there", tmp_path / "both"
    for number in range(4):
        save_row(first, build_row(number) if number != 2 else build_row(2, status="failed", error="It failed here."))
    for number in range(2, 6):
        save_row(second, build_row(number) if number != 3 else build_row(3, status="failed", error="It failed there."))
    for folder in (first, second):
        shutil.copytree(folder, merged, dirs_exist_ok=True)
    assert [(r.key, r.status) for r in read_rows(merged)] == [(f"{number:016x}", "done") for number in range(6)]
    assert all(r.clip and r.clip.parent == merged and r.clip.exists() for r in read_rows(merged))
    assert len(rows_table(merged)) == 6


@pytest.mark.parametrize(
    "text", ["", "{", '{"key": 3}', "[1]", '{"key": "a", "setup": {}, "request": 5}', "\0\0\0", "[" * 100_000]
)
def test_a_torn_or_foreign_file_is_named_and_passed_over(tmp_path, text):
    saved = save_row(tmp_path, build_row(1))
    (tmp_path / "params.json").write_text(text)
    with pytest.warns(UserWarning, match=r"params\.json is passed over"):
        assert read_rows(tmp_path) == [saved]
    with pytest.warns(UserWarning, match=r"params\.json is passed over"):
        assert len(rows_table(tmp_path)) == 1


def test_a_torn_row_counts_as_not_there(tmp_path):
    saved = save_row(tmp_path, build_row(1))
    file = tmp_path / f"{saved.key}.json"
    content = file.read_bytes()
    for length in range(0, len(content) - 1, 97):
        file.write_bytes(content[:length])
        assert find_row(tmp_path, saved.key) is None
    file.write_bytes(content)
    assert find_row(tmp_path, saved.key) == saved
    (tmp_path / f"{saved.key}.mp4").unlink()
    with pytest.warns(UserWarning, match="gone"):
        assert find_row(tmp_path, saved.key) is None


def test_rows_of_an_older_version_still_read(tmp_path):
    fields = {"key": "ab" * 8, "setup": {"variant": "svd"}, "request": {"image": "rocket"}, "picture": "5f" * 32}
    fields["quality"] = dataclasses.asdict(build_quality()) | {"motion_mean_percent": 0.5, "loop_seam": None}
    (tmp_path / f"{fields['key']}.json").write_text(json.dumps(fields))
    [row] = read_rows(tmp_path)
    assert (row.status, row.timings, row.measurement, row.clip, row.version) == ("done", {}, None, None, None)
    assert (row.quality, row.picture_sha256) == (build_quality(), "5f" * 32)
    assert list(rows_table(tmp_path)["image"]) == ["rocket"]


def test_the_committed_rows_of_an_older_version_still_read():
    folder = Path(__file__).parents[1] / "results" / "reference" / "amd-epyc-2-cores"
    rows = read_rows(folder)
    assert len(rows) == len(list(folder.glob("*.json")))
    assert all(row.measurement and row.measurement.clip_seconds and row.picture_sha256 for row in rows)
    assert (rows_table(rows).peak_process_bytes > 2**29).all()


def test_rows_of_a_newer_version_read_as_far_as_they_can(tmp_path):
    saved = save_row(tmp_path, build_row(1))
    file = tmp_path / f"{saved.key}.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"watts": 300, "machine": fields["machine"] | {"planet": "Earth"}}))
    assert read_rows(tmp_path) == [saved]
    for part in ("request", "setup"):  # it would be another question
        file.write_text(json.dumps(fields | {part: fields[part] | {"camera": "left"}}))
        with pytest.warns(UserWarning, match="passed over.*'camera'.*newer svdlab"):
            assert read_rows(tmp_path) == []


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        read_rows(tmp_path / "nothing")


# --- what others left in the folder -----------------------------------------------------------------------------------


def spoil_clip(kind: str, path: Path) -> None:
    """Make the clip at `path` another file than the row was written with."""
    if kind == "gone":
        path.unlink()
    elif kind in ("a link", "a folder", "a pipe"):
        path.rename(path.with_name("elsewhere.mp4"))
        {"a link": lambda: path.symlink_to("elsewhere.mp4"), "a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path)}[
            kind
        ]()
    else:
        contents = {
            "empty": b"",
            "cut": VIDEO[:-9],
            "foreign": b"SECRET=1".ljust(len(VIDEO)),
            "exchanged": VIDEO[:-1] + b"x",
        }
        path.write_bytes(contents[kind])
        os.utime(path, ns=(2 * 10**18, 2 * 10**18))  # later than the row, as coarse clocks would not tell


BAD_CLIPS = ["gone", "empty", "cut", "foreign", "exchanged", "a link", "a folder", "a pipe"]


@pytest.mark.parametrize("kind", BAD_CLIPS)
def test_a_clip_that_is_not_the_rows_own_is_named_and_made_again(tmp_path, kind):
    good, bad = save_row(tmp_path, build_row(1)), save_row(tmp_path, build_row(2))
    spoil_clip(kind, bad.clip)
    with pytest.warns(UserWarning, match=bad.clip.name):
        assert read_rows(tmp_path) == [good, bad]
    assert find_row(tmp_path, good.key) == good
    with pytest.warns(UserWarning, match=f"{bad.clip.name} .*not made"):
        assert find_row(tmp_path, bad.key) is None
    assert good.clip_file() == good.clip
    if kind != "exchanged":  # which takes reading it
        assert bad.clip_file() is None
        with pytest.raises(ValueError, match=f"no clip of trial {bad.key}"):
            bad.open()
    assert bad.clip_problem(verify=True)


def test_a_clip_of_an_older_version_is_known_by_its_beginning(tmp_path):
    saved = save_row(tmp_path, build_row(1))
    file = tmp_path / f"{saved.key}.json"
    old_row = dataclasses.replace(saved, clip_bytes=None, clip_sha256=None)
    file.write_text(old_row.to_json())
    assert find_row(tmp_path, saved.key) == old_row
    saved.clip.write_bytes(b"<html>")
    assert old_row.clip_problem()
    assert old_row.clip_file() is None


def test_a_clip_that_is_deleted_while_rows_are_read_hides_no_other(tmp_path, monkeypatch):
    good, bad = save_row(tmp_path, build_row(1)), save_row(tmp_path, build_row(2))
    check = Row.clip_problem

    def check_then_delete(self, verify=False):
        problem = check(self, verify)
        if self.key == bad.key:
            self.clip.unlink(missing_ok=True)
        return problem

    monkeypatch.setattr(Row, "clip_problem", check_then_delete)
    with pytest.warns(UserWarning, match=rf"{bad.key}.*passed over"):
        assert read_rows(tmp_path) == [good]


def test_a_row_that_is_deleted_while_rows_are_read_is_not_spoken_of(tmp_path, monkeypatch, recwarn):
    good, other = save_row(tmp_path, build_row(1)), save_row(tmp_path, build_row(2))
    glob = Path.glob

    def list_then_delete(self, pattern):
        paths = list(glob(self, pattern))
        (tmp_path / f"{other.key}.json").unlink(missing_ok=True)
        return paths

    monkeypatch.setattr(Path, "glob", list_then_delete)
    assert read_rows(tmp_path) == [good]
    assert not recwarn.list


def wrong_values(fields: dict[str, Any]) -> dict[str, list[Any]]:
    """Field of a row -> values that it cannot have, however near they are to those of a good row."""
    machine, request, quality = fields["machine"], fields["request"], fields["quality"]
    stages = [{"stage": "load", "seconds": "long"}]
    return {
        "created": [5, [], {"a": 1}, "\ud800"],
        "timings": ["text", 5, [1], {"a": "b"}, {"a": [1]}, {"a": True}, {"a": 10**400}],
        "error": [5, ["a"], "\udcff"],
        "machine": ["x", 5, {"device": "cpu"}, machine | {"libraries": 5}, machine | {"cores": "two"}],
        "status": ["perhaps", 5, "\n"],
        "clip": ["../../etc/passwd.mp4", "/etc/passwd", "..", ".env", "a/b.mp4", 5, ["x.mp4"], "x.mp4\0"],
        "clip_bytes": ["many", 1.5],
        "clip_sha256": [5],
        "picture_sha256": ["../../../pwned", 5, "5f"],
        "quality": [5, "good", [], {"motion_mean_px": 1}, quality | {"motion_mean_px": "fast"}],
        "measurement": [5, "x", {"stages": 5}, {"stages": [5]}, {"stages": stages}, {"timeline": {"seconds": 5}}],
        "notes": ["text", 5, [5], {"a": "b"}],
        "axes": ["seed", [["seed"]]],
        "setup": [5, [], {}, {"variant": 5}, {"variant": "svd", "optimizations": 5}, {"variant": "svd", "device": 5}],
        "request": [5, {}, request | {"image": 5}, request | {"seed": "one"}, request | {"sigmas": {"a": 1}}],
        "version": [5],
    }


def bad_texts(good: Row) -> dict[str, str | bytes]:
    """File name -> contents of what no reader may stop at."""
    fields, deep = json.loads(good.to_json()), "[" * 100_000
    texts: dict[str, str | bytes] = {"another.json": good.to_json()}  # its name is not its key
    texts |= {"deep.json": deep, "closed.json": deep + "]" * 100_000, "infinite.json": "Infinity"}
    texts |= {"bytes.json": b"\xff\xfe\0", "inside.json": json.dumps(fields)[:-1] + f', "quality": {deep}'}
    for name, values in wrong_values(fields).items():
        for value in values:
            key = f"{0xBAD0000 + len(texts):016x}"
            texts[f"{key}.json"] = json.dumps(fields | {"key": key, name: value})
    for key in ("../../pwned", "x" * 16, "A" * 16, "ab", 5, None, f"{good.key}\n"):
        texts[f"key{len(texts)}.json"] = json.dumps(fields | {"key": key})
    return texts


def test_no_bad_file_hides_a_good_row(tmp_path):
    good = [save_row(tmp_path, build_row(number)) for number in range(3)]
    outside = tmp_path.parent / "outside.json"
    outside.write_text(good[0].to_json())
    texts = bad_texts(good[0])
    assert len(texts) >= 60
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(outside)
    (tmp_path / "large.json").touch()
    os.truncate(tmp_path / "large.json", 2**36)
    bad = len(texts) + 4
    for reader in (read_rows, rows_table):
        with pytest.warns(UserWarning, match="passed over") as sentences:
            result = reader(tmp_path)
        assert list(result.key if reader is rows_table else [each.key for each in result]) == [
            each.key for each in good
        ]
        assert len(sentences) == bad
        assert all(len(str(each.message)) < 500 + len(str(tmp_path)) for each in sentences)
    for name in [*texts, "pipe.json", "folder.json", "link.json", "large.json"]:
        assert find_row(tmp_path, name.removesuffix(".json")) is None
    assert [find_row(tmp_path, each.key) for each in good] == good


# --- tables ----------------------------------------------------------------------------------------------------------


def test_the_table_is_tidy(tmp_path):
    for number in (2, 0, 1):
        save_row(tmp_path, build_row(number))
    save_row(tmp_path, build_row(3, status="failed", error="Out of memory.", timings={}, quality=None))
    table = rows_table(tmp_path)
    assert list(table.seed) == [0, 1, 2, 3]
    assert list(table.status) == ["done"] * 3 + ["failed"]
    assert list(table.sample_seconds[:3]) == [1.5, 2.5, 3.5]
    assert list(table.motion_mean_px[:3]) == [0, 0.25, 0.5]
    assert list(table["clip"])[0] == str(tmp_path / f"{0:016x}.mp4")  # noqa: RUF015
    first = table.iloc[0]
    assert (first.variant, first["dtype"], first["axes"], first.focus) == ("svd", "fp32", "seed", (0.5, 0.5))
    assert (first.machine_name, first.machine_torch, first.machine_memory_bytes) == ("Abacus", "2.13.0", 64)
    assert table.groupby(["optimizations", "focus"]).seed.count().item() == 4
    assert "quality" not in table


def test_an_empty_folder_gives_an_empty_table(tmp_path):
    assert rows_table(tmp_path).query("status == 'done'").empty


def test_the_table_goes_into_files(tmp_path):
    import pandas

    rows_table([build_row(1)]).to_csv(tmp_path / "rows.csv")
    assert list(pandas.read_csv(tmp_path / "rows.csv").sample_seconds) == [2.5]
    pytest.importorskip("pyarrow")
    rows_table([build_row(1)]).to_parquet(tmp_path / "rows.parquet")
    assert list(pandas.read_parquet(tmp_path / "rows.parquet").sample_seconds) == [2.5]


# --- row_key --------------------------------------------------------------------------------------------------------


def test_a_setup_without_a_device_keeps_the_key_that_older_rows_have():
    for setup in (RANDOM, dataclasses.replace(RANDOM, device="cpu")):
        assert row_key(setup, build_request()) == "3100e5c8a589352b"


def test_the_same_question_has_the_same_key_wherever_the_picture_lies(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    (tmp_path / "moved").mkdir()
    shutil.copy(tmp_path / "a.png", tmp_path / "moved" / "b.png")
    sources = [picture, np.asarray(picture), tmp_path / "a.png", str(tmp_path / "moved" / "b.png")]
    sources += [(tmp_path / "a.png").read_bytes()]
    assert len({row_key(RANDOM, build_request(image=source)) for source in sources}) == 1
    assert row_key(RANDOM, build_request(image=picture.rotate(180))) != row_key(RANDOM, build_request(image=picture))
    # what counts is what the model sees
    assert row_key(RANDOM, build_request(image=picture, focus=(0, 0.5))) == row_key(
        RANDOM, build_request(image=picture)
    )
    assert row_key(RANDOM, build_request(image=picture, fit="stretch")) == row_key(RANDOM, build_request(image=picture))
    tall = picture.resize((48, 96))
    assert row_key(RANDOM, build_request(image=tall, focus=(0.5, 0))) != row_key(RANDOM, build_request(image=tall))


def test_every_field_of_the_question_counts():
    changes = {
        "seed": 1,
        "height": 128,
        "width": 128,
        "num_frames": 13,
        "num_inference_steps": 9,
        "sigmas": (9.0, 1.0),
        "min_guidance_scale": 1.5,
        "max_guidance_scale": 2.0,
        "fps": 8,
        "motion_bucket_id": 0,
        "noise_aug_strength": 0.0,
        "decode_chunk_size": 2,
    }
    assert set(changes) == {f.name for f in dataclasses.fields(Request)} - {"image", "fit", "focus", "variant"}
    keys = [row_key(RANDOM, build_request()), *(row_key(RANDOM, build_request(**{k: v})) for k, v in changes.items())]
    setups = [Setup("svd", weights="random", dtype="bf16"), Setup("svd", revision="a" * 40, dtype="fp32")]
    setups += [Setup("svd", weights="random", dtype="fp32", optimizations=("forward-chunking=7",))]
    keys += [row_key(setup, build_request()) for setup in setups]
    assert len(set(keys)) == len(keys)


def test_what_is_filled_in_and_where_it_runs_do_not_count():
    import torch

    request = Request(image="rocket")
    assert row_key(RANDOM, request) == row_key(RANDOM, request.filled("svd"))
    cpu = Setup("svd", weights="random", device="cpu")
    assert row_key(cpu, request) == row_key(RANDOM, request)
    if not torch.cuda.is_available():
        assert row_key(Setup("svd", weights="random"), request) == row_key(RANDOM, request)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**63 - 1),
            "motion_bucket_id": st.integers(0, 255),
            "noise_aug_strength": st.floats(0, 10),
            "fps": st.integers(1, 240),
            "min_guidance_scale": st.floats(0, 1),
            "sigmas": st.sets(st.floats(0.01, 700), min_size=1).map(lambda s: tuple(sorted(s, reverse=True))),
        },
    ),
    order=st.randoms(),
)
def test_a_key_survives_json_and_the_order_of_fields(fields, order):
    request = build_request(**fields)
    key = row_key(RANDOM, request)
    restored = Row.from_json(build_row(request=request, key=key).to_json(), Path())
    assert row_key(restored.setup, restored.request) == restored.key == key
    shuffled = list(json.loads(request.to_json()).items())
    order.shuffle(shuffled)
    assert row_key(RANDOM, Request.from_json(dict(shuffled))) == key
    assert (
        row_key(RANDOM, build_request(**{k: np.float64(v) if isinstance(v, float) else v for k, v in fields.items()}))
        == key
    )


def test_weights_are_known_by_what_is_in_them(tmp_path, checkpoint, micro):
    import torch
    from safetensors.torch import load_file, save_file

    def key(folder) -> str:
        return row_key(Setup("svd", weights=str(folder), dtype="fp32"), build_request())

    shutil.copytree(checkpoint, tmp_path / "moved")
    assert key(tmp_path / "moved") == key(checkpoint)
    micro.save_pretrained(tmp_path / "saved again")
    assert key(tmp_path / "saved again") == key(checkpoint)
    micro.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded" / "unet").glob("*.safetensors"))) > 1
    assert key(tmp_path / "sharded") == key(checkpoint)

    file = tmp_path / "moved" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[len(tensors) // 2]
    tensors[name] = tensors[name] + torch.full_like(tensors[name], 1e-3)
    save_file(tensors, file, metadata={"format": "pt"})
    assert key(tmp_path / "moved") != key(checkpoint)

    scheduler = tmp_path / "saved again" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("700.0", "500.0"))
    assert key(tmp_path / "saved again") != key(checkpoint)
    file.write_bytes(file.read_bytes()[:1000])
    assert key(tmp_path / "moved") == key(tmp_path / "moved")  # unreadable, and still a key for the failure
    assert key(tmp_path / "nothing") != key(tmp_path / "moved")


def test_weights_of_the_hub_are_known_by_their_commit(tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "c0ffee" * 6 + "abcd"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--stabilityai--stable-video-diffusion-img2vid"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "model_index.json").write_text("{}")
    setup = Setup("svd", dtype="fp16")
    assert setup.resolved().revision == commit
    assert row_key(setup, build_request()) == row_key(dataclasses.replace(setup, revision=commit), build_request())
    assert Setup("svd-xt", dtype="fp16").resolved().revision is None  # not fetched yet
