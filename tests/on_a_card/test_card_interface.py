"""What a person meets who has a card: advice on cards of every size, the panel, measuring, a ladder."""

from __future__ import annotations

import time

import pytest
import torch
from small_clips import allocated_bytes, most_bytes, small_request, small_setup

from svdlab import Machine, Setup, doctor, estimate, find_card, ladder, panel, profile
from svdlab.pipelines.pipeline_cache import unload_cached
from svdlab.prediction.cards import this_card

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning")]
GiB = 2**30


@pytest.fixture
def card_of(pretended, monkeypatch):
    """Gives the pretended card another size, as this process sees it; it is put back afterwards."""
    # No driver's name goes with such a memory, so rates are measured: those of the processor behind it.
    rates = (find_card("RTX 4060").flops, find_card("RTX 4060").bandwidth_bytes, "not measured here")
    monkeypatch.setattr("svdlab.prediction.cards._measured_rates", lambda device: rates)

    def resize(gib: float, desktop_gib: float) -> int:
        pretended.set_total_bytes(int(gib * GiB))
        pretended.set_others_bytes(int(desktop_gib * GiB))
        Machine.here.__func__.cache_clear()
        return torch.cuda.mem_get_info()[0]

    yield resize
    Machine.here.__func__.cache_clear()


@pytest.mark.parametrize("desktop_gib", [0, 0.9])
@pytest.mark.parametrize("gib", [6, 8, 12, 16, 24])
def test_what_is_advised_fits_a_card_of_any_size(card_of, gib, desktop_gib):
    free, sentences = card_of(gib - 0.3, desktop_gib), []
    assert Machine.here().memory_bytes == int((gib - 0.3) * GiB)
    setup = Setup.fitting("svd-xt", say=sentences.append)
    prediction = estimate(setup)
    assert prediction.needed_bytes <= free  # with the allowance for what cannot be traced, beside the desktop
    assert prediction.fits_on(this_card()) == "yes"
    assert "tight" not in sentences[0]
    checks = [check for check in doctor().checks if check.name in ("device", "fits")]
    assert "RTX 4060" in checks[0].fact
    assert [check.state for check in checks] == ["ok"] * 4  # the card, and each published model on it


@pytest.mark.slow
def test_a_panel_shows_previews_is_cancelled_and_makes_the_next_clip(tmp_path):
    unload_cached()
    before, looks = allocated_bytes(), []
    shown = panel(small_setup(), small_request(num_inference_steps=3), results=tmp_path)
    shown.worker.preview.observe(lambda change: looks.append(change["new"]), "value")
    shown.generate()
    shown.worker.future.result()
    assert shown.alert.value == ""
    assert any("<img" in look for look in looks)
    between = allocated_bytes()
    shown.controls["num_inference_steps"].value = 60
    shown.generate()
    until = time.monotonic() + 120
    while "step" not in shown.worker.progress.value:
        assert time.monotonic() < until
        time.sleep(0.01)
    shown.cancel()
    shown.worker.future.result()
    assert "cancelled" in shown.worker.progress.value
    assert allocated_bytes() == between
    shown.controls["num_inference_steps"].value = 3
    shown.generate()
    shown.worker.future.result()
    assert shown.clips[1].frames == shown.clips[0].frames
    unload_cached()
    assert allocated_bytes() == before


@pytest.mark.slow
def test_a_ladder_measures_what_was_predicted_on_the_card(tmp_path):
    request = small_request()
    rows = profile(ladder(small_setup(), ["group-offload"], request), tmp_path, repeats=1, progress=False)
    for row in rows:
        assert row.error is None
        prediction = estimate(row.setup, request)
        assert 0.98 * prediction.peak_bytes < row.measurement.peak_allocated_bytes < most_bytes(prediction)
        assert all(stage.peaks["allocated_bytes"] for stage in row.measurement.stages if stage.stage != "prepare")
    assert rows[1].measurement.fidelity.max_abs_levels == 0
