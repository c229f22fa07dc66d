"""A card that runs out of memory at any moment of a clip, and one that is lost."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from small_clips import allocated_bytes, small_request, small_setup

from svdlab import OutOfMemory, generate, grid, load, run
from svdlab.pipelines.pipeline_cache import unload_cached

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning")]


SLOW = [((), 10), (("model-offload",), 5), (("group-offload",), 3), (("group-offload=stream",), 2)]


@pytest.mark.parametrize(
    ("names", "moments"), [((), 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_out_of_memory_at_any_moment_says_where_and_the_next_clip_is_as_before(
    names, moments, plain, pretended, monkeypatch
):
    if moments == 2:  # what would fit is predicted by the slow ones
        monkeypatch.setattr("svdlab.generation.generate.lighter", lambda *_: "1 GiB were predicted.")
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
        # The error holds no latents; a stream may have fetched a layer that the next clip runs first.
        assert allocated_bytes() - between < (2**20 if "group-offload=stream" in names else 4096)
    clip = generate(pipeline, request, progress=False)
    assert torch.equal(clip.latents, plain.latents)
    assert clip.frames == plain.frames


def test_the_error_quotes_the_limit_that_was_set_and_not_the_card(monkeypatch):
    monkeypatch.setattr("svdlab.generation.generate.lighter", lambda *arguments: f"Limit {arguments[-1]}.")
    pipeline, total = load(small_setup()), torch.cuda.get_device_properties(0).total_memory
    limit = torch.cuda.memory_allocated()
    try:
        torch.cuda.set_per_process_memory_fraction(limit / total)
        with pytest.raises(OutOfMemory, match=rf"of {limit / 2**30:.1f} GiB .* Limit {limit}"):
            generate(pipeline, small_request(), progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_lost_card_ends_a_sweep_and_the_next_one_makes_what_is_left(pretended, tmp_path, monkeypatch):
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
    unload_cached()


def test_where_bf16_has_no_kernel_it_is_not_advised(monkeypatch):
    pipeline = load(small_setup())
    with torch.no_grad():
        pipeline.unet.conv_out.bias.fill_(float("inf"))
    for capability, advice in (((7, 5), "use dtype='fp32'"), ((8, 6), "use dtype='bf16' or 'fp32'")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None, c=capability: c)
        with pytest.raises(RuntimeError, match=advice):
            generate(pipeline, dataclasses.replace(small_request(), num_inference_steps=1), progress=False)


def test_an_fp16_clip_casts_its_vae_without_a_warning_of_no_modules(caplog):
    generate(load(small_setup(dtype="fp16")), small_request(num_inference_steps=1), progress=False)
    assert "kept in float32" not in caplog.text
