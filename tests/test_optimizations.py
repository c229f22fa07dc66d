"""Each optimisation on the same weights as plain diffusers: the frames, and whether it took hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.models.attention_processor import AttnProcessor2_0

from svdlab import Setup, generate, load
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


@pytest.mark.parametrize("value", ["leaf", pytest.param("block", marks=pytest.mark.slow)])
def test_group_offload_leaves_the_frames_as_they_are(latents_of, checkpoint, ask, value):
    """The hooks themselves, from the processor to the processor."""
    pipeline, group = load(Setup("svd", weights=str(checkpoint))), OPTIMIZATIONS["group-offload"]
    assert not group.holds(pipeline)
    group.apply(pipeline, value)
    assert group.holds(pipeline)
    for _ in range(2):
        torch.testing.assert_close(generate(pipeline, ask(), progress=False).latents, latents_of(ask), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="needs CUDA's streams"):
        group.apply(pipeline, "stream")


def test_attention_takes_the_kernel_that_was_named(latents_of, checkpoint, ask, monkeypatch):
    seen = []
    inner = torch.nn.functional.scaled_dot_product_attention

    def attention(*given, **named):
        seen.append((torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()))
        return inner(*given, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    plain, chosen = latents_of(ask), latents_of(ask, "attention=math", "single-token")
    torch.testing.assert_close(chosen, plain, rtol=0, atol=ROUNDING)
    assert (True, True) in seen
    assert (False, True) in seen
    with pytest.raises(
        RuntimeError, match="'attention=cudnn' cannot be had on cpu in float32: try flash, efficient, math"
    ):
        load(Setup("svd", weights=str(checkpoint), optimizations=("attention=cudnn",)))


@pytest.mark.parametrize("name", ["fuse_qkv_projections", "set_attention_backend"])
def test_switches_of_diffusers_that_do_nothing_here_still_do_nothing(checkpoint, name):
    """Why this registry has processors of its own; the day this fails, diffusers' own may be used."""
    unet = load(Setup("svd", weights=str(checkpoint))).unet
    before = [type(m.processor) for m in unet.modules() if hasattr(m, "processor")]
    try:
        getattr(unet, name)(*(["native"] if name == "set_attention_backend" else []))
    except (AttributeError, ValueError):
        return
    assert [type(m.processor) for m in unet.modules() if hasattr(m, "processor")] == before
    assert not any(getattr(m, "fused_projections", False) for m in unet.modules())


@pytest.mark.parametrize("elements", [2**26, 2**12, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 2e-4), ("bf16", 0.1)])
def test_lean_decode_in_any_number_of_pieces(monkeypatch, elements, dtype, tolerance):
    """A decoder with attention between its middle blocks, two videos, and norms that see values far from zero."""
    from diffusers import AutoencoderKLTemporalDecoder

    from svdlab.optimizations import lean_decode

    torch.manual_seed(0)
    shape = {"block_out_channels": (32, 64, 64), "down_block_types": ("DownEncoderBlock2D",) * 3, "layers_per_block": 2}
    vae = AutoencoderKLTemporalDecoder(**shape).eval()
    for name, parameter in vae.decoder.named_parameters():
        if name.endswith("mix_factor"):
            parameter.data.normal_()
        elif name.endswith("conv1.bias"):
            parameter.data.add_(3.0)
    latents = torch.randn(10, 4, 6, 8)
    with torch.no_grad():
        exact = vae.double().decode(latents.double(), num_frames=5).sample
        vae.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
        plain = vae.decode(latents.to(vae.dtype), num_frames=5).sample
        monkeypatch.setattr(lean_decode, "ELEMENTS", elements)
        lean_decode.LEAN_DECODE.apply(SimpleNamespace(vae=vae), None)
        lean = vae.decode(latents.to(vae.dtype), num_frames=5).sample
    assert lean_decode.LEAN_DECODE.holds(SimpleNamespace(vae=vae))
    torch.testing.assert_close(lean, plain, rtol=0, atol=tolerance)
    assert (lean - exact).abs().mean() <= 1.1 * (plain - exact).abs().mean()  # no further from the truth
    assert exact.std() > 0.1


def test_all_that_agree_work_together(latents_of, ask):
    together = latents_of(
        ask, "channels-last", "forward-chunking=2", "split-guidance", "single-token", "attention", "lean-decode"
    )
    torch.testing.assert_close(together, latents_of(ask), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    "name", ["compile-blocks", *(pytest.param(f"compile-{n}", marks=pytest.mark.slow) for n in ("unet", "vae"))]
)
def test_compiled_code_changes_rounding_at_most(latents_of, checkpoint, ask, name):
    """At a size whose latents do not divide evenly, of which the UNet logs a line in the middle of its graph."""
    sizes = {"height": 72, "width": 104}
    plain = generate(load(Setup("svd", weights=str(checkpoint))), ask(**sizes), progress=False)
    fast = generate(load(Setup("svd", weights=str(checkpoint), optimizations=(name,))), ask(**sizes), progress=False)
    torch.testing.assert_close(fast.latents, plain.latents, rtol=0, atol=ROUNDING)
    levels = np.stack([np.asarray(frame, dtype=int) for frame in (*fast.frames, *plain.frames)])
    assert abs(levels[:6] - levels[6:]).max() <= 1


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
