from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image

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
                    "clip": f"{bucket}_{seed}.mp4",
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
    assert table.loc[120, "fastest 5 % (px a frame)"] == pytest.approx(1.202)
    assert table.loc[120, "seconds"] == pytest.approx(2.5)
    assert "camera motion (px a frame)" not in table  # never measured here


def draw_sweep(rng, change=0.0, noise=0.01, seeds=3, values=6, shape=None) -> pd.DataFrame:
    """A sweep whose truth is known: likeness at its values, each seed with a level of its own."""
    lines = []
    course = change * np.linspace(0, 1, values) if shape is None else np.asarray(shape)
    for seed, level in enumerate(rng.normal(0, 0.02, seeds)):
        for place, expected in enumerate(course):
            likeness = 0.9 + level + expected + rng.normal(0, noise)
            lines.append(
                {"status": "done", "clip": "x.mp4", "motion_bucket_id": 20 + 40 * place, "seed": seed, "axes": "seed"}
                | {"likeness_mean_ssim": likeness, "sample_seconds": 1.0, "decode_seconds": 1.0}
            )
    return pd.DataFrame(lines)


def verdict(frame: pd.DataFrame) -> str:
    return study.effect(frame, "motion_bucket_id", "likeness_mean_ssim").verdict


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_a_knob_that_does_nothing_is_rarely_said_to_do_something(seeds):
    rng = np.random.default_rng(0)
    count = sum(verdict(draw_sweep(rng, seeds=seeds)) != "no clear effect" for _ in range(200))
    assert count < 0.12 * 200  # the trend is wrong in 5 of 100, the difference in no direction in fewer


def test_a_small_steady_fall_in_a_thin_band_is_a_fall():
    """0.919 to 0.839 is under a tenth of the value, and eight times the spread."""
    rng = np.random.default_rng(1)
    effects = [
        study.effect(draw_sweep(rng, -0.08, noise=0.002), "motion_bucket_id", "likeness_mean_ssim") for _ in range(50)
    ]
    assert {effect.verdict for effect in effects} == {"falls"}
    assert sum(abs(effect.change + 0.08) < effect.margin for effect in effects) > 40
    humps = [verdict(draw_sweep(rng, shape=[0, 0.05, 0.08, 0.08, 0.05, 0], noise=0.002)) for _ in range(20)]
    assert set(humps) == {"differs"}


def test_one_seed_proves_nothing_and_leads_to_no_advice():
    frame = draw_sweep(np.random.default_rng(2), -0.08, noise=0, seeds=1)
    frame["motion_mean_px"] = frame["motion_bucket_id"] / 100
    assert verdict(frame) == "one seed"
    text = study.findings(frame, "motion_bucket_id")
    assert "nothing tells a change from chance" in text
    assert "For this picture" not in text
    assert "add seeds" in text


def test_seeds_alone_are_chance_and_lead_to_the_best_of_them(frame):
    seeds = frame[frame["motion_bucket_id"] == 120].assign(motion_mean_px=[2.0, 0.5, 1.0], axes="seed")
    text = study.findings(seeds, "seed")
    assert "`seed` of 3 kinds, 3 clips (at the same settings, so what differs is chance)" in text
    assert "is 0.5 at 2 and 2 at 1" in text  # the least and the most: seeds have no order
    assert "seed `1` (2 pixels a frame, likeness 0.78) moved most, and likeness hardly changes" in text
    assert "add seeds" not in text
    alone = frame[frame["seed"] == 1].drop(columns=[name for name in study.MEASURES if name in frame])
    assert "no two seeds at every value" in study.findings(alone, "motion_bucket_id")  # no measure tells it either


def test_other_knobs_are_no_seeds(frame):
    frame = frame[frame["status"] == "done"].assign(motion_mean_px=frame["motion_bucket_id"] / 100, axes="fps", fps=7)
    frame["fps"] += frame.pop("seed")
    text = study.findings(frame, "motion_bucket_id")
    assert "± is the 95 % interval over fps" in text
    assert "e-1" not in text  # equal trends: no spread, whatever rounding leaves of it
    assert "add seeds" in text
    assert "For this picture" not in text


def test_findings_say_what_rises_falls_and_stands(frame):
    text = study.findings(frame, "motion_bucket_id")
    lines = {
        name: next(x for x in text.splitlines() if str(measure) in x)
        for name, measure in study.MEASURES.items()
        if str(measure) in text
    }
    assert "rises by 2.2 ±" in lines["motion_fast_px"]
    assert "0.202 at 20 and 2.4 at 240" in lines["motion_fast_px"]
    assert "falls by" in lines["likeness_mean_ssim"]
    assert "no clear effect" in lines["flicker_percent"]
    assert "no clear effect" in lines["sharpness_relative"]


def test_a_sweep_that_stopped_half_way_is_described_by_the_seeds_it_is_judged_by(frame):
    """The lively seeds lack the last bucket, so that over all clips motion falls and likeness rises."""
    frame["motion_mean_px"] = frame["motion_bucket_id"] * (0.5 + frame["seed"] / 1e4) + 200 * (frame["seed"] > 2)
    frame["likeness_mean_ssim"] = 0.9 - frame["motion_mean_px"] / 1000
    frame["camera_motion_px"] = frame["motion_fast_px"].mask(frame["seed"] != frame["motion_bucket_id"] % 3 + 1)
    frame.loc[frame["motion_bucket_id"] == 60, "camera_motion_px"] = 1.0
    part = frame[~((frame["motion_bucket_id"] == 240) & (frame["seed"] == 3))]
    part = pd.concat([part, *(part[part["seed"] == 3].assign(seed=seed) for seed in (4, 5))])
    text = study.findings(part, "motion_bucket_id")
    assert "over seeds that have every value" in text
    assert "rises by 108.0 ± 0.1: 10 at 20 and 120 at 240" in text  # no exponent, and no margin of 0
    assert "`240` (120 pixels a frame, likeness 0.78) moved most, and `20` (10 pixels" in text
    assert "nothing tells a change from chance" not in text
    assert "too few clips" in next(line for line in text.splitlines() if "camera motion" in line)
    figure = plots.curves(part, "motion_bucket_id", ["motion_mean_px", "camera_motion_px"])
    assert "rises, 10 at 20, 120 at 240" in figure.alt
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([10, 30, 60, 120], rel=1e-3)
    assert figure.axes[1].get_title().endswith("too few clips")
    ends = part["seed"].isin([2, 3]) | (part["seed"] == part["motion_bucket_id"].map({20: 1, 120: 4}))
    shifted = study.findings(part[ends & part["motion_bucket_id"].isin([20, 120])], "motion_bucket_id")
    assert "6 clips (± is the 95 % interval over seeds that have every value)" in shifted


def test_advice_names_the_two_ends_of_the_choice_and_only_where_they_are_clear(frame):
    frame["motion_mean_px"] = frame["motion_fast_px"] / 2
    advice = study.findings(frame, "motion_bucket_id").splitlines()[-1]
    assert "motion_bucket_id `240` (1.2 pixels a frame, likeness 0.66) moved most" in advice
    assert "`20` (0.101 pixels a frame, likeness 0.88) stayed most like it" in advice
    frame["likeness_mean_ssim"] = frame["motion_mean_px"]
    assert "`240` (1.2 pixels a frame, likeness 1.20) both moved most" in study.findings(frame, "motion_bucket_id")
    frame["likeness_mean_ssim"] = frame["motion_mean_px"] = frame["sharpness_relative"]
    assert "`" not in study.findings(frame, "motion_bucket_id").splitlines()[-1]


def test_nothing_is_recommended_from_changes_that_cannot_be_seen(frame):
    frame["motion_mean_px"] = 1 + frame["motion_fast_px"] / 1000
    frame["likeness_mean_ssim"] = 0.9 - frame["motion_fast_px"] / 1000
    text = study.findings(frame, "motion_bucket_id")
    assert text.count("hardly to be seen") == 2
    assert "For this picture" not in text


def test_a_row_that_was_measured_and_has_no_clip_is_none_to_study(frame):
    with pytest.raises(ValueError, match="no clip to study"):
        study.summary(frame[frame["status"] == "done"].assign(clip=None), "motion_bucket_id")


def test_one_value_is_nothing_to_compare_and_failures_are_quoted(frame):
    assert study.effect(frame[frame["motion_bucket_id"] == 20], "motion_bucket_id", "motion_fast_px").change is None
    assert "give it two or more" in study.findings(frame[frame["motion_bucket_id"] == 20], "motion_bucket_id")
    with pytest.raises(ValueError, match="no clip to study: The card is too small"):
        study.summary(frame[frame["status"] == "failed"], "seed")
    with pytest.raises(ValueError, match="run a sweep into it"):
        study.summary(pd.DataFrame(), "seed")
    with pytest.raises(ValueError, match="no 'bucket'"):
        study.summary(frame, "bucket")


def test_curves_draw_every_clip_once_and_the_medians_under_what_the_findings_say(frame, tmp_path):
    figure = plots.curves(frame, "motion_bucket_id")
    axis = figure.axes[0]
    assert axis.get_title() == f"{study.MEASURES['motion_fast_px']}\nrises"
    median, dots = axis.lines
    assert list(median.get_xdata()) == [20, 60, 120, 240]
    assert len(dots.get_xdata()) == 12
    assert "What motion_bucket_id does to a clip" in figure.get_suptitle()
    assert "fastest 5 % (px a frame): rises, 0.202 at 20, 2.4 at 240" in figure.alt
    assert figure.legends[0].get_texts()[0].get_text() == "lowest to highest clip"
    with plots.style(width=3.4, dark=True):
        column = plots.curves(frame, "motion_bucket_id")
    column.savefig(tmp_path / "curves.png", dpi=300)
    assert Image.open(tmp_path / "curves.png").size[0] == 1020
    assert Image.open(tmp_path / "curves.png").convert("L").getpixel((0, 0)) == 0


def test_a_thousandth_makes_no_cliff_and_likeness_has_one_scale(frame):
    frame["likeness_mean_ssim"] = 0.95 - frame["motion_bucket_id"] / 1e6
    frame["likeness_first_ssim"] = frame["likeness_mean_ssim"] + 0.03
    axes = {axis.get_title().split("\n")[0]: axis for axis in plots.curves(frame, "motion_bucket_id").axes}
    likeness = [axis.get_ylim() for title, axis in axes.items() if "SSIM" in title]
    assert likeness[0] == likeness[1]
    assert likeness[0][1] - likeness[0][0] > 0.1
    assert all(axis.get_ylim()[0] == 0 for title, axis in axes.items() if title and "SSIM" not in title)


def test_a_second_knob_gets_a_line_a_value_and_words_are_categories(frame):
    frame["image"] = ["rocket", "launch"] * 6 + ["rocket"]
    figure = plots.curves(frame, "image", by="seed")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["seed 1", "seed 2", "seed 3"]
    assert "`image` of 2 kinds, 12 clips" in study.findings(frame, "image")
    assert "at launch" in study.findings(frame, "image")


def test_the_models_own_schedule_is_a_value_and_no_optimization_too(frame):
    frame = frame[frame["motion_bucket_id"] < 100]
    frame["sigmas"] = [None if bucket == 20 else (700.0, 0.002) for bucket in frame["motion_bucket_id"]]
    assert list(study.summary(frame, "sigmas")["clips"]) == [3, 3]
    assert "`sigmas` of 2 kinds" in study.findings(frame, "sigmas")
    assert "the model's own" in study.findings(frame, "sigmas")
    assert (
        study.effect(frame.assign(axes="sigmas, seed", motion_bucket_id=frame["seed"]), "seed", "motion_fast_px").seeds
        == 2
    )
    frame["optimizations"] = ["" if bucket == 20 else "single-token" for bucket in frame["motion_bucket_id"]]
    assert "at none" in study.findings(frame, "optimizations")


@pytest.mark.parametrize("count", [2, 9])
@pytest.mark.parametrize("width", [3.4, 10])
def test_words_stand_beside_each_other_below_a_plot_whatever_is_in_them(count, width):
    paths = [f"/mnt/pictures of $10_to_$20/holiday in {city}_,{'$,' * 10}.jpg" for city in "ABCDEFGHI"[:count]]
    line = {"status": "done", "clip": "x.mp4", "axes": "image", "seed": 1, "motion_mean_px": 1.0, "variant": "$1_$2"}
    frame = pd.DataFrame([line | {"image": path} for path in paths])
    with plots.style(width):
        figure = plots.curves(frame, "image", list(study.MEASURES)[:1], by="image" if count == 2 else None)
    figure.draw_without_rendering()
    [axis] = figure.axes
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert len(boxes) == count
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert axis.get_window_extent().height > 0.8 * figure.dpi
    assert "holiday" in axis.get_xticklabels()[0].get_text()
    assert "/mnt" not in axis.get_xticklabels()[0].get_text()
    texts = [text.get_text() for text in (*axis.get_xticklabels(), *figure.legends[0].get_texts())]
    assert not any("\\\n" in text for text in texts)
    if count == 2:
        assert [" ".join(text.split())[:18] for text in texts[2:]] == ["image holiday in A", "image holiday in B"]


def test_clips_that_were_not_measured_give_a_figure_that_says_so(frame):
    """`run(quality=False)` leaves rows without measures; a notebook goes on."""
    bare = frame[["status", "clip", "error", "motion_bucket_id", "seed", "sample_seconds", "decode_seconds"]]
    [axis] = plots.curves(bare, "motion_bucket_id").axes
    assert "quality=True" in axis.texts[0].get_text()
    assert list(study.summary(bare, "motion_bucket_id").columns) == ["clips", "seconds"]
    assert "12 clips" in study.findings(bare, "motion_bucket_id")
