"""Each optimisation on the same weights as plain diffusers: whether it takes hold, and what it does to the frames."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.models.attention_processor import AttnProcessor2_0
from optimization_cases import CASES, Case, parameters

from svdlab import Clip, Setup, estimate, generate, load
from svdlab.optimizations import lean_decode
from svdlab.optimizations.registry import Optimization, optimizations, parse

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:svdlab")

ROUNDING = 1e-3  # the noise starts at sigma 700, whose neighbours in float32 are 6e-5 apart; a few of those add up
NEAR = 0.3  # of an approximate one's latents, relative
SIZES = {"height": 72, "width": 104}  # latents that do not divide evenly, of which the UNet logs a line in its graph
ON_CPU = [case for case in CASES if not parse(case.text)[0].accelerator]


@pytest.fixture(scope="module")
def setup_of(checkpoint):
    def setup(*names: str, dtype: str = "fp32") -> Setup:
        return Setup("svd", weights=str(checkpoint), device="cpu", dtype=dtype, optimizations=names)

    return setup


@pytest.fixture(scope="module")
def plain_clip(setup_of):
    """Clips of plain diffusers, each made once."""
    clips = {}

    def plain(make_request, dtype: str = "fp32", **sizes) -> Clip:
        key = (dtype, *sizes.items())
        if key not in clips:
            clips[key] = generate(load(setup_of(dtype=dtype)), make_request(**sizes), progress=False)
        return clips[key]

    return plain


@pytest.fixture
def make_request(make_request):
    """A request that is smaller yet: frames do not have to be many."""
    return lambda **fields: make_request(**{"num_frames": 4, "decode_chunk_size": 2, "width": 64} | fields)


@pytest.fixture
def plain_pipeline(setup_of):
    return load(setup_of())


def levels(clip: Clip) -> np.ndarray:
    return np.stack([np.asarray(frame, dtype=int) for frame in clip.frames])


def check_frames(optimization: Optimization, clip: Clip, plain: Clip) -> None:
    """The clip differs from the plain one as the optimisation says, and no more."""
    latents, expected = clip.latents, plain.latents
    assert latents is not None
    assert expected is not None
    assert expected.std() > 100 * ROUNDING
    assert torch.isfinite(latents).all()
    difference = abs(levels(clip) - levels(plain))
    if optimization.affects in ("nothing", "frames"):
        assert torch.equal(latents, expected)
    if optimization.affects == "nothing":
        assert not difference.any()
    elif optimization.affects == "rounding":
        torch.testing.assert_close(latents, expected, rtol=0, atol=ROUNDING)
        assert difference.max() <= 1
    elif optimization.affects == "latents":
        assert 0 < float((latents.float() - expected.float()).norm() / expected.float().norm()) < NEAR
    else:
        assert 0 < difference.mean() < 5


# --- every optimisation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", parameters(ON_CPU))
def test_an_optimisation_changes_the_frames_as_it_says_and_no_more(setup_of, plain_clip, make_request, case: Case):
    sizes = SIZES if case.compiles else {}
    clip = generate(load(setup_of(case.text, dtype=case.dtype)), make_request(**sizes), progress=False)
    check_frames(parse(case.text)[0], clip, plain_clip(make_request, case.dtype, **sizes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_no_optimisation_holds_on_a_plain_pipeline(micro, case: Case):
    assert not parse(case.text)[0].holds(micro)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_every_optimisation_can_be_predicted(setup_of, make_request, case: Case):
    prediction = estimate(setup_of(case.text, dtype="bf16"), make_request())
    assert set(prediction.stages) == {"encode", "denoise", "decode"}
    assert all(stage.flops > 0 and stage.activation_bytes > 0 for stage in prediction.stages.values())
    assert prediction.needed_bytes > prediction.peak_bytes


def test_each_has_a_case_a_sentence_and_a_line_in_the_table():
    assert {parse(case.text)[0].name for case in CASES} == set(optimizations())
    for optimization in optimizations().values():
        assert 20 < len(optimization.what) < 130
        assert "\n" not in optimization.what
        assert all(name in optimizations() for name in optimization.conflicts)
    root = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("reference", root / "benchmarks" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    table = "\n".join(reference.optimizations_table())
    assert table in (root / "docs" / "optimizations.md").read_text(), "run `make readme`"


def test_a_new_optimisation_of_the_frames_alone_works(setup_of, plain_clip, make_request, monkeypatch):
    """As somebody might add it: one object, and `Setup`, `load`, `generate` and `estimate` take it."""

    def apply(pipeline, value):
        class Float32Decoder(type(pipeline.vae.decoder)):
            def forward(self, sample, *args, **kwargs):
                return super().forward(sample.float(), *args, **kwargs)

        pipeline.vae.decoder.float().__class__ = Float32Decoder

    precise = Optimization(
        "precise-decode",
        phase="graph",
        affects="frames",
        what="the VAE's decoder in 32 bits",
        apply=apply,
        holds=lambda pipeline: type(pipeline.vae.decoder).__name__ == "Float32Decoder",
    )
    monkeypatch.setitem(optimizations(), precise.name, precise)
    setup = setup_of(precise.name, dtype="bf16")
    check_frames(precise, generate(load(setup), make_request(), progress=False), plain_clip(make_request, "bf16"))
    activations = [
        estimate(each, make_request()).stages["decode"].activation_bytes for each in (setup, setup_of(dtype="bf16"))
    ]
    assert activations[0] > activations[1]


def test_compatible_optimisations_work_together(setup_of, plain_clip, make_request):
    names = ("channels-last", "forward-chunking=2", "split-guidance", "single-token", "attention", "lean-decode")
    clip = generate(load(setup_of(*names)), make_request(), progress=False)
    check_frames(optimizations()["single-token"], clip, plain_clip(make_request))


def test_an_optimisation_that_was_undone_does_not_hold(setup_of):
    pipeline = load(setup_of("channels-last", "single-token", "attention=math"))
    pipeline.unet.conv_in.weight.data = pipeline.unet.conv_in.weight.data.contiguous()
    assert not optimizations()["channels-last"].holds(pipeline)
    assert optimizations()["attention"].holds(pipeline)
    next(m.attn2 for m in pipeline.unet.modules() if hasattr(m, "attn2")).set_processor(AttnProcessor2_0())
    assert not optimizations()["single-token"].holds(pipeline)
    assert not optimizations()["attention"].holds(pipeline)


@pytest.mark.parametrize("name", ["fuse_qkv_projections", "set_attention_backend"])
def test_switches_of_diffusers_that_do_nothing_here_still_do_nothing(plain_pipeline, name):
    """Why this registry has processors of its own; the day this fails, diffusers' own may be used."""
    unet = plain_pipeline.unet
    processors = [type(m.processor) for m in unet.modules() if hasattr(m, "processor")]
    try:
        getattr(unet, name)(*(["native"] if name == "set_attention_backend" else []))
    except (AttributeError, ValueError):
        return
    assert [type(m.processor) for m in unet.modules() if hasattr(m, "processor")] == processors
    assert not any(getattr(m, "fused_projections", False) for m in unet.modules())


# --- one at a time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["leaf", pytest.param("block", marks=pytest.mark.slow)])
def test_group_offload_leaves_the_frames_as_they_are(plain_pipeline, plain_clip, make_request, value):
    """The hooks themselves, from the processor to the processor."""
    group = optimizations()["group-offload"]
    group.apply(plain_pipeline, value)
    assert group.holds(plain_pipeline)
    for _ in range(2):
        check_frames(group, generate(plain_pipeline, make_request(), progress=False), plain_clip(make_request))
    with pytest.raises(RuntimeError, match="needs CUDA's streams"):
        group.check_device("stream", "mps")


@pytest.mark.parametrize("names", [("attention=math", "single-token"), ("single-token", "attention=math")])
def test_attention_takes_the_kernel_that_was_named(setup_of, plain_clip, make_request, monkeypatch, names):
    """And leaves the layers alone that another optimisation has changed, whichever of the two comes first."""
    kernels = set()
    inner = torch.nn.functional.scaled_dot_product_attention

    def attention(*args, **kwargs):
        kernels.add((torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()))
        return inner(*args, **kwargs)

    pipeline = load(setup_of(*names))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    clip = generate(pipeline, make_request(), progress=False)
    assert (False, True) in kernels
    check_frames(optimizations()["attention"], clip, plain_clip(make_request))
    assert optimizations()["single-token"].holds(pipeline)


def test_attention_refuses_a_kernel_that_cannot_be_had(setup_of):
    with pytest.raises(RuntimeError, match="'attention=cudnn' cannot be had on cpu in float32"):
        load(setup_of("attention=cudnn"))


def test_a_compiled_module_gives_the_same(setup_of, micro, monkeypatch):
    """One small block, traced as one graph; kernels, and whole clips, are for the slow tests."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    pipeline = load(setup_of("compile-blocks"))
    block, plain = (
        next(m for m in p.unet.modules() if type(m).__name__ == "BasicTransformerBlock") for p in (pipeline, micro)
    )
    hidden, context = torch.randn(2, 12, 32), torch.randn(2, 1, 16)
    with torch.no_grad():
        fast = block(hidden, encoder_hidden_states=context)
        torch.testing.assert_close(fast, plain(hidden, encoder_hidden_states=context))


@pytest.mark.parametrize("elements", [2**26, 2**12, 1])
@pytest.mark.parametrize(("dtype", "bias", "tolerance"), [("fp32", 3, 2e-4), ("fp32", 300, 2.0), ("bf16", 3, 0.1)])
def test_lean_decode_in_any_number_of_pieces(monkeypatch, elements, dtype, bias, tolerance):
    """A decoder with attention between its middle blocks, two videos, and norms that see values far from zero."""
    from diffusers import AutoencoderKLTemporalDecoder

    torch.manual_seed(0)
    shape = {"block_out_channels": (32, 64, 64), "down_block_types": ("DownEncoderBlock2D",) * 3, "layers_per_block": 2}
    vae = AutoencoderKLTemporalDecoder(**shape).eval()
    for name, parameter in vae.decoder.named_parameters():
        if name.endswith("mix_factor"):
            parameter.data.normal_()
        elif name.endswith("conv1.bias"):
            parameter.data.add_(bias)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (10, 1), (1000, 1), (300, 0)])
def test_the_norm_of_lean_decode_does_not_cancel(dtype, mean, deviation):
    """Far from zero, in pieces of other sizes, and over constant groups it is no worse than PyTorch's own."""
    torch.manual_seed(0)
    video = (mean + deviation * torch.randn(1, 16, 5, 12, 8)).to(dtype)
    norm = torch.nn.GroupNorm(4, 16).to(dtype).requires_grad_(False)
    pieces = video.split([1, 7, 4], dim=3)
    statistics = lean_decode._statistics(norm, pieces)
    lean = torch.cat([lean_decode._normalised(norm, piece, *statistics) for piece in pieces], dim=3)
    exact = torch.nn.functional.group_norm(video.double(), 4)
    errors = [float((each.double() - exact).abs().mean()) for each in (lean, norm(video))]
    assert errors[0] <= errors[1] + torch.finfo(dtype).eps


def find_batch_sizes(pipeline, make_request) -> set[int]:
    """The batch sizes that the UNet's first convolution sees, in frames."""
    sizes = set()
    handle = pipeline.unet.conv_in.register_forward_pre_hook(lambda _, inputs: sizes.add(len(inputs[0])))
    generate(pipeline, make_request(num_inference_steps=1), progress=False)
    handle.remove()
    return sizes


def test_split_guidance_takes_one_video_at_a_time_and_stays_when_offloading_renews_its_hooks(
    plain_pipeline, make_request
):
    """What `enable_model_cpu_offload` and `maybe_free_model_hooks` do to a module, without a card."""
    assert find_batch_sizes(plain_pipeline, make_request) == {8}
    add_hook_to_module(plain_pipeline.unet, ModelHook())
    split = optimizations()["split-guidance"]
    assert not split.holds(plain_pipeline)
    split.apply(plain_pipeline, None)
    assert '"_class_name": "UNetSpatioTemporalConditionModel"' in plain_pipeline.unet.to_json_string()  # when saved
    for renew in (lambda: None, lambda: add_hook_to_module(plain_pipeline.unet, ModelHook())):
        renew()
        assert split.holds(plain_pipeline)
        assert find_batch_sizes(plain_pipeline, make_request) == {4}
        remove_hook_from_module(plain_pipeline.unet)
        assert split.holds(plain_pipeline)


def test_single_token_refuses_a_context_that_could_choose(setup_of):
    pipeline = load(setup_of("single-token"))
    attention = next(m.attn2 for m in pipeline.unet.modules() if getattr(m, "attn2", None) is not None)
    with pytest.raises(RuntimeError, match="for a context of one embedding"):
        attention(torch.zeros(1, 4, 32), encoder_hidden_states=torch.zeros(1, 2, 16))


def test_fp8_halves_what_16_bits_take(setup_of):
    weights = list(load(setup_of("fp8", dtype="bf16")).unet.parameters())
    assert sum(p.numel() * p.element_size() for p in weights) < 0.6 * sum(p.numel() * 2 for p in weights)
