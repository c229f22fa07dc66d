"""Rungs of a ladder, and what a measured one comes to in a table and in words."""

from __future__ import annotations

import dataclasses

import pytest
from measured_rows import GiB, ladder_rows, rung

from svdlab import estimate, ladder
from svdlab.optimizations.registry import optimizations
from svdlab.profiling.ladder import is_exact, ladder_advice, ladder_table
from svdlab.rows.measurement import Measurement
from svdlab.rows.row import Row


@pytest.fixture(scope="module")
def rows():
    return ladder_rows()


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
    assert len(ladder("tiny", optimizations(), cumulative=False)) == len(optimizations()) + 1


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ["single-token", "sngle-token"],
            r"Rung 2 \(sngle-token\): Unknown optimisation .*did you mean 'single-token'",
        ),
        (["model-offload", "sequential-offload"], r"Rung 2 \(sequential-offload\): .*each decides alone"),
        (["forward-chunking=3"], r"Rung 1 \(forward-chunking=3\): num_frames=14"),
        (["single-token", "fp8", "single-token"], r"Rung 3 .*named twice"),
    ],
)
def test_a_ladder_refuses_a_rung_that_cannot_be(names, sentence):
    with pytest.raises(ValueError, match=sentence):
        ladder("tiny", names)


def test_the_table(rows):
    table = ladder_table(rows)
    labels = ("fp16, single-token", "fp16, fp8", "fp16, split-guidance, lean-decode")  # which drop something
    assert table.index.tolist() == ["fp16", "+ split-guidance", *labels]
    assert table.peak_gib.tolist()[:4] == [4, 2, 3.9, 1.5]
    assert table.time.tolist()[1:4] == ["not repeated"] * 3  # one clip each
    assert (table.fastest.iloc[0], table.slowest.iloc[0]) == (2, 2)
    assert table.exact.tolist() == [True, True, True, False, True]
    prediction = estimate(rows[0].setup, rows[0].request)
    assert table.predicted_gib.iloc[0] == pytest.approx(prediction.peak_bytes / GiB, abs=1e-4)
    assert table.of_peak_percent.iloc[0] == pytest.approx(100 * prediction.flops / 2 / 25.5e12, abs=1e-3)
    assert "out of memory" in table.error.iloc[4]
    assert ladder_table([]).empty


def test_a_processors_peak_is_what_came_on_top():
    row = rung(gib=4, seconds=2)
    stages = tuple(
        dataclasses.replace(stage, peaks={"process_bytes": stage.peaks["process_bytes"]})
        for stage in row.measurement.stages
    )
    measurement = Measurement(stages, before={"process_bytes": GiB // 2}, process_peak_bytes=3 * GiB)
    assert measurement.peak_bytes == 2.5 * GiB


def test_a_rung_is_exact_beside_a_baseline_with_the_same_approximations(rows):
    def row(*names: str) -> Row:
        return dataclasses.replace(rows[0], setup=dataclasses.replace(rows[0].setup, optimizations=names))

    fp8, leaner, plain = row("fp8"), row("fp8", "single-token"), row()
    assert [is_exact(row, fp8) for row in (fp8, leaner, plain)] == [True, True, False]
    assert not is_exact(fp8, plain)


def test_weights_that_were_moved_away_cost_a_column_alone(rows):
    setup = dataclasses.replace(rows[0].setup, weights="/moved/away")
    assert len(ladder_table([dataclasses.replace(rows[0], setup=setup), *rows[1:]])) == len(rows)


def add_slow_clip(row: Row, factor: float) -> Row:
    stages = [
        dataclasses.replace(s, call=2, seconds=s.seconds * factor, others_busy=0.4)
        for s in row.measurement.stages
        if s.call == 1
    ]
    measurement = dataclasses.replace(row.measurement, stages=(*row.measurement.stages, *stages))
    return dataclasses.replace(row, measurement=measurement)


def test_overlapping_spreads_are_no_difference_and_a_busy_machine_is_named(rows):
    """Each rung's second clip takes longer; the first rung's by so much that nobody can tell."""
    busy = [add_slow_clip(row, factor) for row, factor in zip(rows[:3], (1.5, 1.02, 1.02), strict=True)]
    assert ladder_table(busy).time.tolist()[1:] == ["no difference", "39 % faster"]
    advice = ladder_advice(busy[:2])
    assert "no exact setup differs" in advice
    assert "other programs used up to 40 % of the processors" in advice
    assert "the same clip of `fp16` took 2.00 to 3.00 s" in advice
    once = ladder_advice([busy[0], rows[1]])
    assert "**the fastest, exact, not compared:**" in once
    assert "faster" not in once  # nothing tells it from chance
    lean = dataclasses.replace(busy[2], setup=dataclasses.replace(busy[2].setup, optimizations=("channels-last",)))
    assert "as far as the clips tell: `fp16, channels-last`\n" in ladder_advice([busy[0], busy[2], lean])


def test_a_baseline_that_is_the_fastest_is_the_advice_as_in_the_table():
    names = {(): 2, ("split-guidance",): 5, ("single-token",): 9}
    rows = [add_slow_clip(rung(*name, gib=4, seconds=seconds), 1.02) for name, seconds in names.items()]
    assert [cell.split("%")[1] for cell in ladder_table(rows).time[1:]] == [" slower"] * 2
    assert "**the fastest, exact:** `fp16`, 2.02 s" in ladder_advice(rows)
    same = add_slow_clip(rung("channels-last", gib=4, seconds=1.99), 1.02)  # faster by chance
    assert ladder_advice([*rows, same]).splitlines()[0].endswith("tell: `fp16, channels-last`")


def test_a_rung_is_not_compared_with_a_baseline_that_failed(rows):
    assert "time" not in ladder_table([rows[4], *rows[:3]])


def test_frames_that_were_compared_with_another_ladders_baseline_are_left_out(rows):
    def compared_with(key: str | None) -> list[Row]:
        def change(row: Row) -> Row:
            fidelity = dataclasses.replace(row.measurement.fidelity, baseline_key=key)
            return dataclasses.replace(row, measurement=dataclasses.replace(row.measurement, fidelity=fidelity))

        return [rows[0], *map(change, rows[1:4])]

    for key in (rows[0].key, None):  # which rows of older versions lack
        assert ladder_table(compared_with(key)).psnr_db.tolist() == [100, 100, 100, 41.2]
        assert "41 dB" in ladder_advice(compared_with(key))
    table = ladder_table(compared_with("f" * 16))
    assert table[["psnr_db", "ssim", "latents_relative"]].iloc[1:].isna().all(axis=None)
    assert "dB" not in ladder_advice(compared_with("f" * 16))


def test_a_clip_of_the_processor_is_not_one_of_the_card_beside_it(rows):
    """In rows of older versions; today's name the processor."""
    row = dataclasses.replace(rows[0], setup=dataclasses.replace(rows[0].setup, device="cpu"))
    assert "of_peak_percent" not in ladder_table([row])


def test_the_advice(rows):
    advice = ladder_advice(rows)
    assert "not compared:** `fp16, single-token`, 1.50 s a clip (1.50 to 1.50), 3.90 GiB" in advice
    assert "**the least memory, exact:** `fp16, split-guidance`" in advice
    assert "**not exact:** `fp16, fp8`, 2.40 s a clip (2.40 to 2.40), 1.50 GiB, 41 dB" in advice
    assert "**failed:** `fp16, split-guidance, lean-decode`: In decode of call 1" in advice
    assert ladder_advice(rows[4:]).startswith("Nothing was measured: In decode")
    assert ladder_advice([]).startswith("Nothing was measured: the ladder has no rungs")
