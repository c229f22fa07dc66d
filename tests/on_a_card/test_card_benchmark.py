"""`make gpu`, from its first part to its table, at a size that fits a pretended card; and what it does without time."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers.video_processor import VideoProcessor
from small_clips import small_request, small_setup

from benchmarks.gpu import Bench, Part, all_parts, main, run, to_levels
from benchmarks.gpu_table import ROWS, predict, table
from svdlab.optimizations.registry import optimizations

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning")]


def test_parts_are_rows_as_they_end_and_the_longest_are_left_out_by_name(tmp_path, capsys):
    bench = SimpleNamespace(folder=tmp_path, step_seconds=1.0, decode_seconds=2.0)
    parts = [
        Part("card", lambda: {"name": "A card", "libraries": {}}),
        Part("plain", lambda: {"step_seconds": [1.0, 3.0, 2.0], "allocated_bytes": 2**30, "decode_seconds": None}),
        Part("breaks", lambda: 1 / 0),
        Part("dear and needed", dict, steps=8, needed=True),
        Part("long", lambda: pytest.fail("there is no time"), steps=25, decodes=1),
        Part("longer", lambda: pytest.fail("there is no time"), seconds=60),
    ]
    run(parts, bench, time.monotonic() + 20)
    rows = [json.loads(line) for line in (tmp_path / ROWS).read_text().splitlines()]
    assert [row["part"] for row in rows] == ["card", "plain", "breaks", "dear and needed"]
    assert "ZeroDivisionError" in rows[2]["error"]
    left = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert [line.split(",")[0] for line in left] == ["left out: longer", "left out: long"]
    text = table(tmp_path)
    assert "| plain | 2.000 |  |  | 1.00 |" in text
    assert "- breaks: ZeroDivisionError" in text
    run([Part("card", dict), Part("decode", lambda: {"decode_seconds": 1.0})], bench, time.monotonic() + 20)
    text = table(tmp_path)
    assert "| decode |" in text
    assert "plain" not in text, "it is of the run before, perhaps of another variant"


def test_what_later_parts_need_is_measured_however_small_the_budget(tmp_path):
    bench = Bench(small_setup(), small_request(), tmp_path)
    parts = all_parts(bench, 256)
    run([part._replace(measure=dict) for part in parts], bench, time.monotonic())
    rows = [json.loads(line)["part"] for line in (tmp_path / ROWS).read_text().splitlines()]
    assert rows == ["card", "load", "plain, few steps", "plain"]
    stay = {name for name, each in optimizations().items() if each.phase != "placement"}
    unmeasured = {name for name in stay if not any(name in part.name for part in parts)}
    assert unmeasured == {"fp8", "compile-blocks"}, "docs/memory.md names them"


def test_the_first_of_its_shapes_is_none_of_the_figures(tmp_path, monkeypatch):
    """By a clock that only work moves: the first call of a stage takes long, as on a card it does."""
    bench, now, shapes = Bench(small_setup(), small_request(), tmp_path), 0.0, set()
    bench.load()
    monkeypatch.setattr("benchmarks.gpu.time", SimpleNamespace(perf_counter=lambda: now))

    def slow_at_first(name: str) -> None:
        method = getattr(type(bench.pipeline), name)

        def wrapped(pipeline, *args, **options):
            nonlocal now
            call = (name, args[-1] if name == "decode_latents" else None)  # the chunk
            now += 1 if call in shapes else 100
            shapes.add(call)
            return method(pipeline, *args, **options)

        monkeypatch.setattr(type(bench.pipeline), name, wrapped)

    slow_at_first("prepare_latents")
    slow_at_first("decode_latents")
    stages = bench.clip()["stages"]
    assert [stages[name]["seconds"] for name in ("encode", "decode")] == [1, 1]
    assert [bench.decode(chunk)["decode_seconds"] for chunk in (1, 2)] == [1, 1]


def test_frames_are_rounded_on_the_card_as_diffusers_rounds_them():
    pixels = torch.linspace(-1.2, 1.2, 3 * 2 * 40 * 40).reshape(1, 3, 2, 40, 40)
    frames = VideoProcessor().postprocess_video(pixels, output_type="np")[0]
    expected = torch.from_numpy((frames * 255).round().astype("uint8")).permute(3, 0, 1, 2)
    assert torch.equal(to_levels(pixels.cuda())[0].cpu(), expected)


def test_from_start_to_end(tmp_path, monkeypatch):
    options = ["--variant", "svd", "--weights", small_setup().weights, "--small", "--budget", "3000"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    monkeypatch.setattr("benchmarks.gpu.ROOT", tmp_path)
    monkeypatch.setattr("benchmarks.gpu.CAPPED", (6,))  # each is a process of its own, which imports for seconds
    if "pretended_card" in sys.modules:  # which has no compiler: what is traced runs as it is
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    main()
    [folder] = (tmp_path / "results" / "reference").iterdir()
    assert folder.name.endswith("-svd-small"), "another variant or size has a folder of its own"
    rows = {row["part"]: row for row in map(json.loads, (folder / ROWS).read_text().splitlines())}
    assert not {part: row["error"] for part, row in rows.items() if "error" in row}
    assert rows["plain"]["stages"].keys() == {"encode", "denoise", "decode", "finish"}
    assert all(row["latents_relative"] < 0.01 for row in rows.values() if "latents_relative" in row)
    assert (folder / "trace.txt").stat().st_size > 1000
    assert "model-offload" in rows["capped at 6 GiB"]["optimizations"]
    predicted = predict(rows)
    assert predicted.keys() < rows.keys()
    peaks = {part: rows[part]["allocated_bytes"] / size for part, size in predicted.items()}
    assert peaks == {part: pytest.approx(1, abs=0.02) for part in predicted}
    assert "| capped at 6 GiB |" in (folder / "table.md").read_text()
