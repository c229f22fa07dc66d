"""A card that runs out of memory at any moment of a clip, and one that is lost."""

from __future__ import annotations

import dataclasses
import logging
import random
import re
import time

import pytest
import torch
from small_clips import allocated_bytes, small_request, small_setup

from svdlab import GenerationError, OutOfMemory, diagnose, doctor, generate, grid, load, run
from svdlab.pipelines.pipeline_cache import unload_cached
from svdlab.prediction import cards
from svdlab.sweeps.make_row import make_row

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning")]


MOMENTS = [((), 10), (("model-offload",), 5), (("group-offload",), 3), (("group-offload=stream",), 2)]


@pytest.mark.parametrize(("names", "moments"), MOMENTS)
def test_out_of_memory_at_any_moment_says_where_and_the_next_clip_is_as_before(names, moments, plain, pretended):
    pipeline, request, chance = load(small_setup(*names)), small_request(), random.Random(5)
    generate(pipeline, request, progress=False)
    between, first = allocated_bytes(), pretended.counts()["allocations"]
    generate(pipeline, request, progress=False)
    allocations = pretended.counts()["allocations"] - first
    for _ in range(moments):
        pretended.fail_allocation(chance.randrange(allocations))
        with pytest.raises(OutOfMemory, match=r"GiB while (encoding|denoising, step|decoding)") as caught:
            generate(pipeline, request, progress=False)
        assert "predicted" in str(caught.value)
        # The error holds no latents; group offload's hooks may leave a layer or two, which the next clip sends away.
        assert allocated_bytes() - between < (2**20 if "group-offload" in str(names) else 4096)
        clip = generate(pipeline, request, progress=False)
        assert torch.equal(clip.latents, plain.latents)
        assert clip.frames == plain.frames


def test_the_error_quotes_the_limit_that_was_set_and_not_the_card(monkeypatch):
    monkeypatch.setattr("svdlab.generation.generate.lighter", lambda *arguments: f"Limit {arguments[-1]}.")
    pipeline, total = load(small_setup()), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()  # else what earlier tests had may serve the clip
    limit = torch.cuda.memory_allocated()
    try:
        torch.cuda.set_per_process_memory_fraction(limit / total)
        with pytest.raises(OutOfMemory, match=rf"of {limit / 2**30:.1f} GiB .* Limit {limit}"):
            generate(pipeline, small_request(), progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_clip_without_memory_is_tried_again_where_other_programs_hold_some(pretended, tmp_path):
    pipeline, rows = load(small_setup()), []
    [trial] = grid(small_setup(), small_request(num_inference_steps=1))
    for others_bytes in (2**29, 2**32):
        pretended.set_others_bytes(others_bytes)
        pretended.fail_allocation(3)
        rows.append(make_row(pipeline, trial, tmp_path, quality=False))
    assert [(row.status, row.is_final()) for row in rows] == [("failed", True), ("failed", False)]


def test_a_lost_card_ends_a_sweep_and_the_next_one_makes_what_is_left(card_of, pretended, tmp_path, monkeypatch):
    card_of(15.7, 0.9)
    trials = grid(small_setup(), small_request(num_inference_steps=1), seed=[1, 2, 3])
    options = {"progress": False, "quality": False}
    run(trials[:1], tmp_path, **options)
    unload_cached()
    lose = lambda *_: pretended.set_lost(True)  # noqa: E731
    monkeypatch.setattr("svdlab.sweeps.run._SweepBar.step", lose)
    with pytest.raises(RuntimeError, match="The card was lost"):
        run(trials, tmp_path, **options)
    monkeypatch.undo()
    pretended.set_lost(False)
    assert len(list(tmp_path.glob("*.failed.json"))) == 1
    unload_cached()
    rows = run(trials, tmp_path, retry_failed=True, **options)
    assert [row.status for row in rows] == ["done"] * 3
    assert {row.machine.memory_bytes for row in rows} == {pretended.counts()["total_bytes"]}
    unload_cached()


@pytest.mark.parametrize(("capability", "dtypes"), [((7, 5), ["fp32"]), ((8, 6), ["bf16", "fp32"])])
def test_bf16_is_advised_only_where_it_has_its_kernels(monkeypatch, capability, dtypes):
    """In each sentence about black frames and not-a-number, in what a diagnosis proposes, and by the doctor."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    advice = re.escape(f"dtype={' or '.join(map(repr, dtypes))}")
    pipeline, request = load(small_setup(dtype="fp16")), small_request(num_inference_steps=1)
    last = pipeline.vae.decoder.time_conv_out
    last.weight.data.zero_()
    last.bias.data.fill_(-1)
    with pytest.warns(UserWarning, match=f"2 of 2 frames are black.* {advice}"):
        clip = generate(pipeline, request, progress=False)
    mended = dataclasses.replace(clip, notes=("2 frames decoded to not-a-number in fp16 and were decoded again.",))
    findings = {finding.symptom: finding for finding in diagnose(mended)}
    assert [findings[name].setup_changes for name in ("black", "half precision")] == [{"dtype": dtypes[0]}] * 2
    assert dtypes[0] in findings["half precision"].advice
    last.bias.data.fill_(float("inf"))
    with pytest.raises(GenerationError, match=f"float32 was no cure: .* {advice}"):
        generate(pipeline, request, progress=False)
    pipeline.unet.conv_out.bias.data.fill_(float("inf"))
    with pytest.raises(GenerationError, match=f"The denoiser gave not-a-number .* {advice}"):
        generate(pipeline, request, progress=False)
    assert "bf16" not in str(doctor())  # on no card
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *_, **options: ones(2, 2, **options))  # of which rates are soon measured
    assert cards._measured_rates.__wrapped__("cuda")[0].keys() == {"fp16", *dtypes}


def test_an_fp16_clip_casts_its_vae_without_a_warning_of_no_modules(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)  # to where `caplog` listens
    generate(load(small_setup(dtype="fp16")), small_request(num_inference_steps=1), progress=False)
    assert "kept in float32" not in caplog.text


def test_the_decoding_clock_starts_when_the_card_has_done_the_steps(pretended, monkeypatch):
    now, waited, after_steps = time.perf_counter, [], 0

    def on_step(*_):
        nonlocal after_steps
        waited.clear()
        after_steps = pretended.counts()["synchronizations"]

    monkeypatch.setattr(time, "perf_counter", lambda: waited.append(pretended.counts()["synchronizations"]) or now())
    generate(load(small_setup()), small_request(), on_step=on_step, progress=False)
    assert waited[0] > after_steps
