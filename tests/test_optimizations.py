"""Each optimisation on the same weights as plain diffusers: the frames, and whether it took hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.models.attention_processor import AttnProcessor2_0

from svdlab import VARIANTS, Setup, generate, load
from svdlab.optimizations import OPTIMIZATIONS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:svdlab")

ROUNDING = 1e-3  # the noise starts at sigma 700, whose neighbours in float32 are 6e-5 apart; a few of those add up
ON_CPU = [o for o in OPTIMIZATIONS.values() if not o.accelerator and not o.name.startswith("compile")]


@pytest.fixture(scope="module")
def latents_of(checkpoint):
    def made(ask, *names: str) -> torch.Tensor:
        setup = Setup("svd", weights=str(checkpoint), optimizations=names)
        latents = generate(load(setup), ask(), progress=False).latents
        assert latents is not None
        return latents

    return made


@pytest.mark.parametrize("optimization", [o for o in ON_CPU if o.exact], ids=lambda o: o.name)
def test_exact_ones_change_rounding_at_most(latents_of, ask, optimization):
    plain, fast = latents_of(ask), latents_of(ask, optimization.name)
    torch.testing.assert_close(fast, plain, rtol=0, atol=ROUNDING)
    assert plain.std() > 100 * ROUNDING


@pytest.mark.parametrize("optimization", [o for o in ON_CPU if not o.exact], ids=lambda o: o.name)
def test_approximate_ones_stay_near_and_are_not_the_same(latents_of, ask, optimization):
    plain, fast = latents_of(ask), latents_of(ask, optimization.name)
    assert torch.isfinite(fast).all()
    error = float((fast - plain).norm() / plain.norm())
    assert 0 < error < 0.3


def test_all_that_agree_work_together(latents_of, ask):
    together = latents_of(ask, "channels-last", "forward-chunking=2", "split-guidance", "single-token")
    torch.testing.assert_close(together, latents_of(ask), rtol=0, atol=ROUNDING)


def batches_of(pipeline, ask) -> set[int]:
    """The batch sizes that the UNet's first convolution sees, in frames."""
    seen = set()
    handle = pipeline.unet.conv_in.register_forward_pre_hook(lambda _, inputs: seen.add(len(inputs[0])))
    generate(pipeline, ask(), progress=False)
    handle.remove()
    return seen


def test_split_guidance_takes_one_video_at_a_time(checkpoint, ask):
    assert batches_of(load(Setup("svd", weights=str(checkpoint))), ask) == {12}
    pipeline = load(Setup("svd", weights=str(checkpoint), optimizations=("split-guidance",)))
    assert batches_of(pipeline, ask) == {6}


def test_split_guidance_stays_when_offloading_renews_its_hooks(checkpoint, ask):
    """What `enable_model_cpu_offload` and `maybe_free_model_hooks` do to a module, without a card."""
    pipeline = load(Setup("svd", weights=str(checkpoint)))
    add_hook_to_module(pipeline.unet, ModelHook())
    split = OPTIMIZATIONS["split-guidance"]
    assert not split.holds(pipeline)
    split.apply(pipeline, None)
    assert split.holds(pipeline)
    assert batches_of(pipeline, ask) == {6}
    remove_hook_from_module(pipeline.unet)
    assert split.holds(pipeline)
    add_hook_to_module(pipeline.unet, ModelHook())
    assert split.holds(pipeline)
    assert batches_of(pipeline, ask) == {6}


def test_single_token_refuses_a_context_that_could_choose(checkpoint):
    pipeline = load(Setup("svd", weights=str(checkpoint), optimizations=("single-token",)))
    attention = next(m.attn2 for m in pipeline.unet.modules() if getattr(m, "attn2", None) is not None)
    with pytest.raises(RuntimeError, match="for a context of one embedding"):
        attention(torch.zeros(1, 4, 32), encoder_hidden_states=torch.zeros(1, 2, 16))


def test_what_was_undone_does_not_hold(checkpoint):
    pipeline = load(Setup("svd", weights=str(checkpoint), optimizations=("channels-last", "single-token")))
    assert OPTIMIZATIONS["channels-last"].holds(pipeline)
    pipeline.unet.conv_in.weight.data = pipeline.unet.conv_in.weight.data.contiguous()
    assert not OPTIMIZATIONS["channels-last"].holds(pipeline)
    next(m.attn2 for m in pipeline.unet.modules() if hasattr(m, "attn2")).set_processor(AttnProcessor2_0())
    assert not OPTIMIZATIONS["single-token"].holds(pipeline)
    assert not OPTIMIZATIONS["fp8"].holds(pipeline)


def test_fp8_halves_what_fp16_takes(checkpoint, ask):
    pipeline = load(Setup("svd", weights=str(checkpoint), dtype="bf16", optimizations=("fp8",)))
    weights = list(pipeline.unet.parameters())
    small = sum(p.numel() * p.element_size() for p in weights)
    assert small < 0.6 * sum(p.numel() * 2 for p in weights)
    frames = generate(pipeline, ask(), progress=False).frames
    assert np.asarray(frames[-1]).std() > 1


def test_every_optimisation_says_what_it_does_in_one_line_and_stands_in_the_readme():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    for o in OPTIMIZATIONS.values():
        assert f"| `{o.name}`" in readme
        assert 20 < len(o.what) < 130
        assert "\n" not in o.what
        assert (o.values is None) == (not o.expected(VARIANTS["svd"]))
