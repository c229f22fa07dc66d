"""What a person meets who has a card: advice on cards of every size, the panel, measuring, a ladder."""

from __future__ import annotations

import re
import time

import pytest
import torch
from small_clips import allocated_bytes, most_bytes, small_request, small_setup

from svdlab import Machine, Request, Setup, doctor, estimate, ladder, panel, profile
from svdlab.pipelines.pipeline_cache import unload_cached
from svdlab.prediction.cards import CONTEXT_BYTES, this_card
from svdlab.prediction.fitting import lighter

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning")]
GiB = 2**30


@pytest.mark.parametrize("desktop_gib", [0, 0.9])
@pytest.mark.parametrize("gib", [6, 8, 12, 16, 24])
def test_what_is_advised_fits_a_card_of_any_size(pretended, card_of, gib, desktop_gib):
    free, sentences = card_of(gib - 0.3, desktop_gib), []
    assert Machine.here().memory_bytes == int((gib - 0.3) * GiB)
    setup = Setup.fitting("svd-xt", say=sentences.append)
    prediction = estimate(setup)
    # with the allowance for what cannot be traced, beside the desktop; CUDA's context is there already
    assert prediction.needed_bytes <= free + CONTEXT_BYTES
    assert prediction.fits_on(this_card()) == "yes"
    assert "tight" not in sentences[0]
    checks = [check for check in doctor().checks if check.name in ("device", "fits")]
    assert "RTX 4060" in checks[0].fact
    assert [check.state for check in checks] == ["ok"] * 4  # the card, and each published model on it
    plain = Setup("svd-xt", dtype="fp16")
    sentence = lighter(plain, Request(image="rocket").filled("svd-xt"), free)  # of running out of memory
    sizes = re.findall(r"\(([\d.]+) GiB", sentence)
    assert sizes
    assert all(float(size) <= free / GiB + 0.05 for size in sizes)


def test_a_panel_shows_previews_is_cancelled_and_makes_the_next_clip(card_of, tmp_path):
    card_of(5.7, 0.9)
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


def test_a_ladder_measures_what_was_predicted_on_the_card(card_of, tmp_path):
    card_of(11.7, 0.9)
    request = small_request()
    rows = profile(ladder(small_setup(), ["group-offload"], request), tmp_path, repeats=1, progress=False)
    for row in rows:
        assert row.error is None
        assert row.machine.memory_bytes == torch.cuda.get_device_properties(0).total_memory
        prediction = estimate(row.setup, request)
        assert 0.98 * prediction.peak_bytes < row.measurement.peak_allocated_bytes < most_bytes(prediction)
        assert all(stage.peaks["allocated_bytes"] for stage in row.measurement.stages if stage.stage != "prepare")
    assert rows[1].measurement.fidelity.max_abs_levels == 0
