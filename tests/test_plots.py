"""Figures of a measured ladder. Those of a sweep are drawn in test_study.py, from the table that it is about."""

from __future__ import annotations

import dataclasses

import pytest
from measured_rows import ladder_rows

from svdlab import Setup, estimate, plots


@pytest.fixture(scope="module")
def rows():
    return ladder_rows()


@pytest.mark.parametrize("draw", [plots.waterfall, plots.pareto, plots.predicted, plots.stages])
def test_figures_say_what_they_show_to_who_cannot_see_them_too(rows, draw):
    figure = draw(rows[:4])
    assert figure.get_suptitle()
    assert figure.alt.startswith(figure.get_suptitle())
    assert "4.00" in figure.alt or "4." in figure.alt


def test_a_notebook_keeps_the_words_as_alt_text(rows, monkeypatch):
    displays = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: displays.append((data, options)))
    figure = plots.waterfall(rows)
    figure._ipython_display_()
    [(data, _)] = displays
    assert f'alt="{figure.alt}"' in data["text/html"]
    assert data["text/plain"] == figure.alt


def test_a_title_names_the_device_of_the_setup(rows):
    """Rows of older versions name a card for what the processor beside it did."""
    other = dataclasses.replace(rows[0], setup=dataclasses.replace(rows[0].setup, device="cpu"))
    titles = [plots.timeline(row).get_suptitle() for row in (rows[0], other)]
    assert ["RTX 3060" in title for title in titles] == [True, False]


def find_dots(figure):
    return [line for line in figure.axes[0].lines if line.get_marker() == "o"]


def test_a_waterfall_names_what_each_rung_adds_and_what_it_changes(rows):
    memory = plots.waterfall(rows).axes[0]
    labels = [label.get_text() for label in memory.get_yticklabels()]
    assert labels == ["fp16", "+ split-guidance", "fp16, single-token", "fp16, fp8"]
    assert any("-50 %" in text.get_text() for text in memory.texts)


def test_the_front_joins_what_nothing_beats_in_both_and_hollow_dots_change_the_frames(rows):
    figure = plots.pareto(rows)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2", "3", "4"]
    front = next(line for line in figure.axes[0].lines if len(line.get_xdata()) > 1)
    assert list(front.get_xdata()) == pytest.approx([1.5, 2, 3.9])
    assert [dot.get_markerfacecolor() == "none" for dot in find_dots(figure)] == [True, False, False, False]


def test_predictions_lie_beside_measurements(rows):
    assert [dot.get_xydata()[0][1] for dot in find_dots(plots.predicted(rows))] == pytest.approx([4, 2, 3.9, 1.5])
    moved = dataclasses.replace(rows[0], setup=Setup("svd", weights="/moved", dtype="fp16", device="cuda"))
    figure = plots.predicted([moved, rows[1]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["2"]
    with pytest.raises(ValueError, match="No rung can be predicted"):
        plots.predicted([moved])


def test_memory_over_time_is_that_of_the_card_where_there_is_one(rows):
    labels = [text.get_text() for text in plots.timeline(rows[0]).legends[0].get_texts()]
    assert labels == ["on the card, everybody's", "allocated", "weights: unet", "weights: vae"]
    with pytest.raises(ValueError, match="out of memory"):
        plots.timeline(rows[4])


def test_stages_take_rows_and_estimates_and_failed_rows_have_no_bars(rows):
    figure = plots.stages([rows[0], rows[4], estimate(rows[0].setup, rows[0].request)])
    memory, time = figure.axes
    assert len(memory.get_yticklabels()) == 3
    assert sum(bar.get_width() for bar in time.patches[:3]) == pytest.approx(2 * 0.95)  # encode, denoise, decode
    assert len(time.patches) == 6
    assert "not measured" in figure.alt


@pytest.mark.parametrize("draw", [plots.waterfall, plots.pareto, plots.predicted, plots.stages])
def test_a_ladder_of_which_nothing_was_measured_is_refused(rows, draw):
    with pytest.raises(ValueError, match=r"No rung was measured|Nothing was measured"):
        draw([dataclasses.replace(row, measurement=None) for row in rows[4:]])
