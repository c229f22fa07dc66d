"""What a measured ladder comes to, in a table, in words and in figures."""

from __future__ import annotations

import dataclasses

import pytest

from svdlab import Machine, Request, Setup
from svdlab.interface import plots
from svdlab.prediction.cards import CARDS
from svdlab.prediction.estimate import estimate
from svdlab.profiling import ladder as rungs
from svdlab.profiling.ladder import ladder_advice, ladder_table
from svdlab.rows.measurement import Measurement
from svdlab.rows.row import Row
from svdlab.rows.typed_json import from_plain

GiB = 2**30
RTX = Machine("cuda", "NVIDIA GeForce RTX 3060", 12 * GiB, 8, "3.12", {})


def rung(*optimizations: str, gib: float, seconds: float, dtype: str = "fp16", psnr: float = 100.0) -> Row:
    """A row as `svdlab.measure` leaves one on a card: load, a first call, and a steady one of two steps."""
    stages, at = [], 0.0
    for call in (None, 0, 1):
        names = ("load",) if call is None else ("encode", "denoise", "decode", "finish")
        for name in names:
            share = {"encode": 0.05, "denoise": 0.6, "decode": 0.3, "finish": 0.05}.get(name, 1.0) * seconds
            peak = {"denoise": gib, "decode": 0.8 * gib}.get(name, 0.4 * gib) * GiB
            peaks = {"process_bytes": GiB, "allocated_bytes": int(peak), "reserved_bytes": int(1.1 * peak)}
            stage = {"stage": name, "call": call, "begun_seconds": at, "seconds": share, "peaks": peaks}
            stages.append(stage | ({"step_seconds": [share / 2] * 2} if name == "denoise" else {}))
            at += share
    times = [stage["begun_seconds"] for stage in stages]
    line = [stage["peaks"]["allocated_bytes"] for stage in stages]
    resident = [{"seconds": 0.1, "unet": {"cuda": 3 * GiB}, "vae": {"cpu": GiB, "cuda": 0}}]
    return Row(
        key="0" * 16,
        setup=Setup("tiny", dtype=dtype, optimizations=optimizations, device="cuda"),
        request=Request.for_variant("tiny", image="rocket"),
        machine=RTX,
        measurement=from_plain(
            Measurement,
            {
                "stages": stages,
                "before": {"seconds": 0.0, "process_bytes": GiB, "allocated_bytes": 0, "device_bytes": GiB},
                "timeline": {"seconds": times, "allocated_bytes": line, "device_bytes": [n + GiB for n in line]},
                "resident": resident,
                "fidelity": {"psnr_db": psnr, "ssim": 0.99, "max_abs_levels": 1, "latents_relative": 1e-4},
            },
            "measurement",
        ),
    )


@pytest.fixture
def rows():
    failed = dataclasses.replace(
        rung("split-guidance", "lean-decode", gib=1, seconds=1),
        status="failed",
        error="In decode of call 1, having reached 11.9 GiB allocated: out of memory.",
        measurement=None,
    )
    return [
        rung(gib=4, seconds=2),
        rung("split-guidance", gib=2, seconds=2.2),
        rung("single-token", gib=3.9, seconds=1.5),
        rung("fp8", gib=1.5, seconds=2.4, psnr=41.2),
        failed,
    ]


def test_the_table(rows):
    table = ladder_table(rows)
    assert table.index.tolist() == ["fp16", "fp16, split-guidance", "fp16, single-token", "fp16, fp8", "fp16, split-guidance, lean-decode"]  # fmt: skip  # noqa: E501
    assert table.peak_gib.tolist()[:4] == [4, 2, 3.9, 1.5]
    assert table.speed.tolist()[:3] == pytest.approx([1, 2 / 2.2, 2 / 1.5], abs=1e-3)
    assert table.exact.tolist() == [True, True, True, False, True]
    guess = estimate(rows[0].setup, rows[0].request)
    assert table.predicted_gib.iloc[0] == pytest.approx(guess.peak_bytes / GiB, abs=1e-4)
    assert table.times_floor.iloc[0] == pytest.approx(2 / guess.seconds(CARDS["RTX 3060"]).floor, rel=1e-3)
    assert table.of_peak_percent.iloc[0] == pytest.approx(100 * guess.flops / 2 / 25.5e12, abs=1e-3)
    assert "out of memory" in table.error.iloc[4]
    assert ladder_table([]).empty


def test_a_processors_peak_is_what_came_on_top():
    row = rung(gib=4, seconds=2)
    stages = tuple(
        dataclasses.replace(stage, peaks={"process_bytes": stage.peaks["process_bytes"]})
        for stage in row.measurement.stages
    )
    measurement = Measurement(stages, before={"process_bytes": GiB // 2}, process_peak_bytes=3 * GiB)
    assert rungs.peak_bytes(dataclasses.replace(row, measurement=measurement)) == 2.5 * GiB


def test_the_advice(rows):
    said = ladder_advice(rows)
    assert "**the fastest, exact:** `fp16, single-token`, 1.50 s a clip, 3.90 GiB" in said
    assert "**the least memory, exact:** `fp16, split-guidance`" in said
    assert "**not exact:** `fp16, fp8`, 2.40 s, 1.50 GiB, 41 dB from the baseline's picture" in said
    assert "**failed:** `fp16, split-guidance, lean-decode`: In decode of call 1" in said
    assert ladder_advice(rows[4:]).startswith("Nothing was measured: In decode")
    assert ladder_advice([]) == "Nothing was measured: the ladder has no rungs"


def test_the_figures_show_every_rung_that_was_measured(rows):
    fall = plots.waterfall(rows).axes[0]
    assert [label.get_text() for label in fall.get_yticklabels()] == ["fp16", "+ split-guidance", "fp16, single-token", "fp16, fp8"]  # fmt: skip  # noqa: E501
    assert any("-50 %" in text.get_text() for text in fall.texts)
    front = plots.pareto(rows)
    assert [text.get_text() for text in front.axes[0].texts] == ["1", "2", "3", "4"]
    stairs = next(line for line in front.axes[0].lines if len(line.get_xdata()) > 1)
    assert list(stairs.get_xdata()) == pytest.approx([1.5, 2, 3.9])  # the plain one is beaten in both
    hollow = [line.get_markerfacecolor() == "none" for line in front.axes[0].lines if line.get_marker() == "o"]
    assert hollow == [True, False, False, False]
    points = [line.get_xydata()[0] for line in plots.predicted(rows).axes[0].lines if line.get_marker() == "o"]
    assert [y for _, y in points] == pytest.approx([4, 2, 3.9, 1.5])
    labels = [text.get_text() for text in plots.timeline(rows[0]).legends[0].get_texts()]
    assert labels == ["on the card, everybody's", "allocated", "weights: unet", "weights: vae"]
    both = plots.stages([*rows[:2], estimate(rows[0].setup, rows[0].request)])
    assert len(both.axes[0].get_yticklabels()) == 3
    for figure in (plots.waterfall, plots.pareto, plots.predicted):
        with pytest.raises(ValueError, match="No rung was measured"):
            figure(rows[4:])
