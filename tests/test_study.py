from __future__ import annotations

import pandas as pd
import pytest

from svdlab.interface import plots
from svdlab.sweeps import study


@pytest.fixture
def frame() -> pd.DataFrame:
    """Motion doubles with the bucket, likeness falls, flicker wanders, sharpness stands; three seeds, one failure."""
    lines = []
    for bucket in (20, 60, 120, 240):
        for seed in (1, 2, 3):
            lines.append(
                {
                    "status": "done",
                    "error": None,
                    "motion_bucket_id": bucket,
                    "seed": seed,
                    "motion_fast_px": bucket / 100 + seed / 1000,
                    "likeness_mean_ssim": 0.9 - bucket / 1000,
                    "flicker_percent": (bucket * 7 + seed * 5) % 11 + 1.0,
                    "sharpness_relative": 1 + seed / 1000,
                    "sample_seconds": 2.0,
                    "decode_seconds": 0.5,
                }
            )
    lines.append({"status": "failed", "error": "The card is too small.", "motion_bucket_id": 255, "seed": 1})
    return pd.DataFrame(lines)


def test_summary_is_the_median_over_the_clips_of_a_value(frame):
    table = study.summary(frame, "motion_bucket_id")
    assert list(table.index) == [20, 60, 120, 240]
    assert list(table["clips"]) == [3, 3, 3, 3]
    assert table.loc[120, "motion_fast_px"] == pytest.approx(1.202)
    assert table.loc[120, "seconds"] == pytest.approx(2.5)
    assert "camera_motion_px" not in table  # never measured here


def test_findings_say_what_rises_falls_wanders_and_stands(frame):
    text = study.findings(frame, "motion_bucket_id")
    line = {
        name: next(x for x in text.splitlines() if label in x)
        for name, label in study.MEASURES.items()
        if label in text
    }
    assert "rises with it (rank correlation +0.97): 0.202 at 20, 2.4 at 240" in line["motion_fast_px"]
    assert "falls with it (rank correlation -" in line["likeness_mean_ssim"]
    assert "does not follow it clearly" in line["flicker_percent"]
    assert "hardly changes" in line["sharpness_relative"]


def test_advice_names_the_two_ends_of_the_choice(frame):
    frame["motion_mean_px"] = frame["motion_fast_px"] / 2
    advice = study.findings(frame, "motion_bucket_id").splitlines()[-1]
    assert "motion_bucket_id `240` (1.2 pixels a frame, likeness 0.66) moved most" in advice
    assert "`20` (0.101 pixels a frame, likeness 0.88) stayed most like it" in advice
    frame["likeness_mean_ssim"] = frame["motion_mean_px"]
    assert "`240` (1.2 pixels a frame, likeness 1.20) both moved most" in study.findings(frame, "motion_bucket_id")


def test_one_value_is_nothing_to_compare_and_failures_are_quoted(frame):
    assert "give it two or more" in study.findings(frame[frame["motion_bucket_id"] == 20], "motion_bucket_id")
    with pytest.raises(ValueError, match="no clip to study: The card is too small"):
        study.summary(frame[frame["status"] == "failed"], "seed")
    with pytest.raises(ValueError, match="run a sweep into it"):
        study.summary(pd.DataFrame(), "seed")
    with pytest.raises(ValueError, match="no 'bucket'"):
        study.summary(frame, "bucket")


def test_curves_draw_every_clip_once_and_the_medians(frame, tmp_path):
    figure = plots.curves(frame, "motion_bucket_id")
    axis = figure.axes[0]
    assert axis.get_title() == study.MEASURES["motion_fast_px"]
    median, dots = axis.lines
    assert list(median.get_xdata()) == [20, 60, 120, 240]
    assert len(dots.get_xdata()) == 12
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_a_second_knob_gets_a_line_a_value_and_words_are_categories(frame):
    frame["image"] = ["rocket", "launch"] * 6 + ["rocket"]
    figure = plots.curves(frame, "image", by="seed")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["seed 1", "seed 2", "seed 3"]
    assert "`image` of 2 kinds, 12 clips" in study.findings(frame, "image")
    assert "(launch)" in study.findings(frame, "image")


def test_clips_that_were_not_measured_give_a_figure_that_says_so(frame):
    """`run(quality=False)` leaves rows without measures; a notebook goes on."""
    bare = frame[["status", "error", "motion_bucket_id", "seed", "sample_seconds", "decode_seconds"]]
    [axis] = plots.curves(bare, "motion_bucket_id").axes
    assert "quality=True" in axis.texts[0].get_text()
    assert list(study.summary(bare, "motion_bucket_id").columns) == ["clips", "seconds"]
    assert "12 clips" in study.findings(bare, "motion_bucket_id")


def test_clips_that_were_not_measured_are_counted_and_said_so(frame):
    bare = frame.drop(columns=[name for name in study.MEASURES if name in frame])
    assert study.complete_measures(study.rows_with_clips(bare), "motion_bucket_id") == []
    assert list(study.summary(bare, "motion_bucket_id").columns) == ["clips", "seconds"]
    assert "quality=True" in study.findings(bare, "motion_bucket_id")
