"""Predictions against what is known of the model, against PyTorch's own meters, and against what the processor did."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import types

import golden_traces
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdlab import Request, Setup, generate, load
from svdlab.generation.generate import OutOfMemory
from svdlab.optimizations.registry import optimizations
from svdlab.prediction import cards, fake_run, fitting
from svdlab.prediction.cards import (
    CARDS,
    CONTEXT_BYTES,
    PUBLISHED,
    Card,
    find_card,
    match_card,
    parse_memory,
    this_card,
    this_device,
)
from svdlab.prediction.estimate import Estimate, Seconds, estimate
from svdlab.prediction.fitting import candidates, lighter, recommended, smaller_chunk

GiB = 2**30
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:svdlab")


def predict(name: str, *optimizations: str, **fields) -> Estimate:
    """A full-size prediction, of traces that come with the package."""
    setup = Setup(name, dtype="fp16", optimizations=optimizations)
    request = setup.request(**{"image": "rocket"} | fields)
    assert set(fake_run._keys(setup, request).values()) <= json.loads(fake_run.SHIPPED.read_text()).keys()
    return estimate(setup, request)


def test_the_peak_published_for_an_rtx_3090():
    """10.8 GiB: model offload and eight frames a decode; where it was published stands in docs/cards.md."""
    prediction = predict("svd-xt", "model-offload", decode_chunk_size=8)
    assert prediction.peak_bytes / GiB == pytest.approx(10.76, rel=0.002)


@pytest.mark.parametrize("stage", ["decode", pytest.param("denoise", marks=pytest.mark.slow)])
def test_the_traces_of_the_package_are_what_a_fake_run_gives(stage):
    """One of each kind; `python tests/golden_traces.py` writes them."""
    setup = Setup("svd", dtype="fp16", optimizations=("single-token", "lean-decode"))
    request = setup.request(image="rocket", decode_chunk_size=2)
    trace = fake_run.fake_run(setup, request, [stage])[stage]
    shipped = json.loads(fake_run.SHIPPED.read_text())[fake_run._keys(setup, request)[stage]]
    assert json.loads(json.dumps(dataclasses.asdict(trace))) == shipped


@pytest.mark.slow
def test_all_traces_of_the_package_are_what_fake_runs_give():
    shipped = json.loads(fake_run.SHIPPED.read_text())
    for setup, request in golden_traces.published_sizes():
        keys = fake_run._keys(setup, request)
        stages = [name for name, key in keys.items() if key in shipped]
        for name, trace in fake_run.fake_run(setup, request, stages).items():
            assert json.loads(json.dumps(dataclasses.asdict(trace))) == shipped.pop(keys[name])
    assert not shipped


def test_an_optimisation_changes_no_stages_but_those_that_it_names(checkpoint, make_request):
    """So a stage is traced once for all sets of optimisations that leave it alone."""
    plain = fake_run.fake_run(Setup("svd", weights=str(checkpoint), dtype="fp16"), make_request())
    for optimization in optimizations().values():
        if optimization.traced(None) and len(optimization.stages) < 3:
            setup = Setup("svd", str(checkpoint), "fp16", (optimization.name,))
            traces = fake_run.fake_run(setup, make_request(), set(plain) - set(optimization.stages))
            assert traces == {name: plain[name] for name in traces}, optimization.name


# The figures of the project's notes: the UNet alone, 576x1024, fp16, so its weights and what lives beside them
@pytest.mark.parametrize(
    ("name", "optimizations", "gib"),
    [
        ("svd-xt", (), 10.57),
        ("svd-xt", ("forward-chunking",), 7.27),
        ("svd-xt", ("split-guidance",), 6.55),
        ("svd-xt", ("forward-chunking=5", "split-guidance"), 4.90),
        ("svd", (), 7.18),
        ("svd", ("split-guidance",), 4.92),
        ("svd", ("forward-chunking=2", "split-guidance"), 3.99),
    ],
)
def test_the_peak_of_a_step(name, optimizations, gib):
    prediction = predict(name, *optimizations)
    unet = prediction.component_bytes["unet"]
    assert unet / GiB == pytest.approx(2.84, rel=0.01)
    assert (unet + prediction.stages["denoise"].activation_bytes) / GiB == pytest.approx(gib, rel=0.02)


def test_split_guidance_says_what_is_predicted():
    setups = (("model-offload",), ("model-offload", "split-guidance"))
    peaks = [predict("svd-xt", *names).stages["denoise"].peak_bytes / GiB for names in setups]
    assert re.findall(r"\d+\.\d", optimizations()["split-guidance"].what) == [f"{peak:.1f}" for peak in peaks]


@pytest.mark.parametrize(
    ("chunk", "gib"),
    [(2, 2.43), (5, 5.81), (8, 9.18), (14, 15.93), (25, 28.31)],
)
def test_the_peak_of_decoding(chunk, gib):
    """Those figures are of one chunk; the clip's last one has the frames before it to carry as well."""
    prediction = predict("svd-xt", decode_chunk_size=chunk)
    earlier_bytes = (25 - (25 % chunk or chunk)) * 3 * 576 * 1024 * 2
    extra_bytes = earlier_bytes if 25 % chunk == 0 else earlier_bytes - chunk * 3 * 576 * 1024 * 2
    peak = prediction.component_bytes["vae"] + prediction.stages["decode"].activation_bytes - extra_bytes
    assert peak / GiB == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize(
    ("name", "fields", "tera"),
    [
        ("svd", {"max_guidance_scale": 1.0}, 44.8),
        ("svd-xt", {"max_guidance_scale": 1.0}, 80.0),
        ("svd", {}, 89.6),
        ("svd-xt", {}, 159.9),
    ],
)
def test_the_operations_of_a_step(name, fields, tera):
    assert predict(name, **fields).stages["denoise"].flops / 25e12 == pytest.approx(tera, rel=0.02)


def test_the_operations_of_a_clip():
    assert predict("svd", max_guidance_scale=1.0).stages["denoise"].flops / 25e12 == pytest.approx(
        45.4, rel=0.02
    )  # published
    assert predict("svd").stages["decode"].flops / 1e12 == pytest.approx(97, rel=0.02)
    prediction = predict("svd-xt")
    assert prediction.stages["decode"].flops / 1e12 == pytest.approx(174, rel=0.02)
    assert prediction.flops / 1e15 == pytest.approx(4.17, rel=0.02)


def test_single_token_saves_what_was_computed():
    plain, single_token = predict("svd-xt").stages["denoise"], predict("svd-xt", "single-token").stages["denoise"]
    assert 1 - single_token.flops / plain.flops == pytest.approx(0.036, abs=0.002)
    traffic = [sum(size * times for _, size, times in stage.operations) for stage in (plain, single_token)]
    assert 1 - traffic[1] / traffic[0] == pytest.approx(0.067, abs=0.01)


def test_the_weights_on_the_card_in_each_stage():
    """`model-offload` leaves the VAE beside the UNet: it has encoded, and no component after it sends it away."""
    parts = predict("svd-xt").component_bytes
    plain, offloaded = predict("svd-xt").stages, predict("svd-xt", "model-offload").stages
    assert plain["denoise"].weight_bytes == sum(parts.values())
    in_32_bits = pytest.approx(parts["vae"], rel=0.001)  # more, while it encodes
    assert plain["encode"].weight_bytes - sum(parts.values()) == in_32_bits
    assert offloaded["denoise"].weight_bytes == parts["unet"] + parts["vae"]
    assert offloaded["decode"].weight_bytes == parts["vae"]
    for name in ("sequential-offload", "group-offload", "group-offload=stream", "group-offload=block"):
        stage = predict("svd-xt", name).stages["denoise"]
        assert stage.weight_bytes < offloaded["denoise"].weight_bytes
        assert stage.activation_bytes == offloaded["denoise"].activation_bytes
    assert predict("svd-xt", "fp8", "single-token").component_bytes["unet"] / GiB == pytest.approx(1.5, abs=0.1)


def test_offloading_moves_what_each_call_of_a_layer_needs():
    """Both ways in each step; of a forward chunk of 1 the feed-forward layers 25 times, and once with streams."""
    parts = predict("svd-xt").component_bytes
    groups = ("group-offload", "group-offload=block", "group-offload=stream")
    steps = [predict("svd-xt", name).stages["denoise"].moved_bytes / 25 / parts["unet"] for name in groups]
    assert steps == [pytest.approx(2, rel=0.001), pytest.approx(2, rel=0.001), pytest.approx(1, rel=0.001)]
    moved = {name: stage.moved_bytes for name, stage in predict("svd-xt", "model-offload").stages.items()}
    both_ways = 2 * (parts["image_encoder"] + parts["unet"] + 2 * parts["vae"])  # in 32 bits while it encodes
    assert moved == {"encode": pytest.approx(both_ways, rel=0.001), "denoise": 0, "decode": 2 * parts["vae"]}
    assert predict("svd-xt", "sequential-offload").seconds(CARDS["RTX 3060"]) is None


@pytest.mark.slow
def test_a_forward_chunk_of_one_frame_brings_the_weights_of_a_layer_for_each_frame():
    setup = Setup("svd-xt", dtype="fp16", optimizations=("forward-chunking=1", "single-token", "split-guidance"))
    trace = fake_run.fake_run(setup, setup.request(image="rocket"), ["denoise"])["denoise"]
    assert trace.weights["unet"].layer_traffic / 1e9 == pytest.approx(48.8, rel=0.01)


def test_accelerate_moves_components_when_the_prediction_says(checkpoint, make_request):
    """The hooks themselves, on a processor: who was asked to come and to go in which stage."""
    from accelerate import cpu_offload_with_hook

    pipeline = load(Setup("svd", weights=str(checkpoint)))
    resident, resident_at, hook = set(), {}, None

    def watch(name, component_hook):
        move_weights = component_hook.pre_forward

        def pre_forward(*args, **kwargs):
            resident.add(name)
            if component_hook.prev_module_hook is not None:
                resident.discard({"unet": "image_encoder", "vae": "unet"}[name])
            return move_weights(*args, **kwargs)

        component_hook.pre_forward = pre_forward

    for name in pipeline.model_cpu_offload_seq.split("->"):
        _, hook = cpu_offload_with_hook(getattr(pipeline, name), "cpu", prev_module_hook=hook)
        watch(name, getattr(pipeline, name)._hf_hook)
    stages = {"encode": pipeline.vae.encoder, "denoise": pipeline.unet.conv_in, "decode": pipeline.vae.decoder}
    for stage, module in stages.items():
        module.register_forward_pre_hook(lambda *_, stage=stage: resident_at.update({stage: set(resident)}))
    generate(pipeline, make_request(), progress=False)
    assert resident_at == {"encode": {"image_encoder", "vae"}, "denoise": {"unet", "vae"}, "decode": {"vae"}}


def test_predictions_agree_with_pytorchs_meters(checkpoint, make_request):
    """FLOP of the real thing on real tensors, counted by PyTorch; memory followed by PyTorch's tracker."""
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    setup, request = Setup("svd", weights=str(checkpoint)), make_request()
    pipeline, prediction = load(setup), estimate(setup, request)
    sample = torch.randn(2, 6, 8, 32, 48)
    inputs = {"encoder_hidden_states": torch.randn(2, 1, 16), "added_time_ids": torch.rand(2, 3)}
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    count = {attention: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    counter = FlopCounterMode(display=False, custom_mapping=count)
    with torch.no_grad(), counter:
        pipeline.unet(sample, torch.tensor(1.0), **inputs)
    assert prediction.stages["denoise"].flops == counter.get_total_flops() * request.num_inference_steps
    tracker = MemTracker()
    tracker.track_external(pipeline.unet, sample, *inputs.values())
    with torch.no_grad(), tracker:
        pipeline.unet(sample, torch.tensor(1.0), **inputs)
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert prediction.component_bytes["unet"] + prediction.stages["denoise"].activation_bytes == pytest.approx(
        peak, rel=0.02
    )


@pytest.mark.slow
def test_scores_of_attention_without_a_fused_kernel():
    scores = 25 * 2 * 5 * (72 * 128) ** 2 * 2  # the "39 GB" of a PyTorch without fused attention, several times over
    assert scores / GiB == pytest.approx(39.55, rel=0.001)
    setup = Setup("svd-xt", dtype="fp16", optimizations=("attention=math",))
    assert fake_run.fake_run(setup, setup.request(image="rocket"), ["denoise"])["denoise"].activation_bytes > scores


def test_a_stage_is_traced_once_in_a_process(monkeypatch):
    traced_stages, run = [], fake_run.fake_run
    monkeypatch.setattr(fake_run, "fake_run", lambda *question: traced_stages.append(question[2]) or run(*question))
    monkeypatch.setattr(fake_run, "_remembered", functools.cache(dict))
    setup = Setup("tiny", dtype="fp32")
    for seed, chunk in ((1, 2), (2, 2), (1, 7)):
        fake_run.trace(setup, setup.request(image="rocket", seed=seed, num_frames=14, decode_chunk_size=chunk))
    assert traced_stages == [["encode", "denoise", "decode"], [], ["decode"]]


def test_published_times_lie_within_the_predicted_ranges():
    """Like with like: the frames, steps, decode chunk and offloading of each."""
    cases = [("A100 80GB", 39.9, (), {"decode_chunk_size": 5}), ("RTX 4080", 83, ("model-offload",), {})]
    cases += [("RTX 3090", 100.5, ("model-offload",), {"decode_chunk_size": 8, "num_inference_steps": 20})]
    cases += [("T4", 600, ("model-offload",), {"decode_chunk_size": 8})]
    for name, seconds, texts, fields in cases:
        low, high = predict("svd-xt", *texts, **fields).seconds(CARDS[name])
        assert low <= seconds <= high, name
    assert set(PUBLISHED) == {name for name, *_ in cases}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [((39.4, 98.6), "39 to 99 seconds"), ((224, 561), "3.7 to 9.3 minutes"), ((26000, 67000), "7.2 to 19 hours")],
)
def test_a_range_of_time_has_two_digits(seconds, text):
    assert str(Seconds(*seconds)) == text


def test_rates_are_those_of_the_dtype():
    """Turing has no bf16 of its own, and fp32 without tensor cores is far slower."""
    half, single, bf16 = (estimate(Setup("svd-xt", dtype=dtype)) for dtype in ("fp16", "fp32", "bf16"))
    assert bf16.seconds(CARDS["T4"]) is None
    assert bf16.seconds(CARDS["A100"]).low == pytest.approx(half.seconds(CARDS["A100"]).low, rel=0.01)
    assert single.seconds(CARDS["RTX 3060"]).low > 1.8 * half.seconds(CARDS["RTX 3060"]).low


def test_what_is_needed_has_room_for_workspaces_and_a_desktop():
    """A fifth of a GiB for each frame that is decoded plainly, where decoding is the peak; 0.6 GiB elsewhere."""
    one, five = (predict("svd-xt", decode_chunk_size=chunk).stages["decode"] for chunk in (1, 5))
    lean = predict("svd-xt", "lean-decode").stages["decode"]
    assert (five.needed_bytes - five.peak_bytes) / GiB == pytest.approx(0.4 + 5 * 0.2, rel=0.05)
    assert (one.needed_bytes - one.peak_bytes) / GiB == pytest.approx(0.6, rel=0.05)
    assert lean.needed_bytes - lean.peak_bytes < 0.75 * GiB
    prediction = predict("svd-xt", "model-offload", "single-token", "split-guidance")
    needed = prediction.needed_bytes
    cases = (Card("a", needed), Card("a", needed, taken_bytes=1), Card("a", needed - 1))
    assert [prediction.fits_on(card) for card in cases] == ["yes", "tight", "no"]


def test_candidates_are_exact_different_and_the_best_first():
    """None costs something for a gain of a percent or two."""
    card = find_card("RTX 3060")
    estimates = candidates(Setup("svd-xt", dtype="fp16"), card=card, on_card=True)
    times = [each.seconds(card).middle for each in estimates]
    assert min(times) > times[0] / 1.05
    assert len({each.setup for each in estimates}) == len(estimates) == 18
    assert all(o.exact for each in estimates for o, _ in each.setup.parsed)
    best = {name: recommended(estimates, CARDS[name]) for name in ("RTX 3090", "A100", "T4", "RTX 2060")}
    assert best["RTX 3090"].setup.optimizations == best["A100"].setup.optimizations == ("single-token",)
    assert "group-offload" in best["RTX 2060"].setup.optimizations
    assert all(each.fits_on(CARDS[name]) == "yes" for name, each in best.items())


@pytest.fixture
def without_traces(monkeypatch):
    """Every optimisation more needs a little less, so that no model has to run."""
    plain = predict("svd-xt")

    def predict_less(setup, request):
        stage = dataclasses.replace(plain.stages["denoise"], weight_bytes=GiB - len(setup.optimizations))
        return dataclasses.replace(plain, setup=setup, request=request, stages={"denoise": stage})

    monkeypatch.setattr(fitting, "estimate", predict_less)
    return predict_less


def test_candidates_suit_a_machine_without_a_card(without_traces):
    assert not any(o.accelerator for each in candidates(Setup("tiny"), on_card=False) for o, _ in each.setup.parsed)


def test_candidates_keep_what_a_setup_asks_for(without_traces):
    setup = Setup("tiny", optimizations=("fp8", "model-offload", "forward-chunking=7"), device="cuda")
    request = setup.request(image="rocket")
    setups = [each.setup for each in candidates(setup)]
    assert setup in setups
    assert len(setups) > 2
    assert all(set(setup.optimizations) <= set(each.optimizations) for each in setups)
    assert "'fp8', 'model-offload'" in lighter(setup, request)
    smaller = smaller_chunk(setup, request, Card("a card", without_traces(setup, request).needed_bytes))
    assert smaller is not None
    assert "fp8" in smaller.setup.optimizations


def test_candidates_list_approximate_ones_when_asked(without_traces):
    plain = [each.setup for each in candidates(Setup("tiny"), on_card=False)]
    setups = [each.setup for each in candidates(Setup("tiny"), on_card=False, approximate=True)]
    assert set(plain) < set(setups)
    approximate = {o.name for o in optimizations().values() if not o.exact}
    assert {o.name for setup in setups for o, _ in setup.parsed if not o.exact} == approximate


def test_setup_fitting_fits_the_card():
    sentences: list[str] = []
    setups = {gib: Setup.fitting("svd-xt", f"{gib} GB", say=sentences.append) for gib in (80, 12, 8, 6)}
    for gib, setup in setups.items():
        assert estimate(setup).fits(0.97 * gib * GiB - 0.7 * GiB)
        assert setup.variant == "svd-xt"
        assert setup.dtype == "fp16"
    assert not any("offload" in name for name in setups[80].optimizations)
    assert "forward-chunking=5" in setups[8].optimizations
    assert any("offload" in name for name in setups[6].optimizations)
    seconds = [estimate(setup).seconds(find_card("RTX 3060")).middle for setup in setups.values()]
    assert all(later > 0.99 * earlier for earlier, later in itertools.pairwise(seconds))
    assert "best of 18 exact setups for the 7.1 GiB that a card of 8 GB has free" in sentences[2]
    with pytest.raises(MemoryError, match=r"No setup of svd-xt fits the 2\.0 GiB.* decode_chunk_size \(now 5\)"):
        Setup.fitting("svd-xt", 2 * GiB)
    assert Setup.fitting("tiny", "1GB", say=sentences.append) == Setup("tiny")
    wanted = Setup.fitting("svd-xt", "24GB", say=sentences.append, dtype="fp32", optimizations=["channels-last"])
    assert wanted.dtype == "fp32"
    assert "channels-last" in wanted.optimizations
    assert estimate(wanted).fits(0.97 * 24 * GiB - 0.7 * GiB)
    on_colab = Setup.fitting("svd-xt", "14.6GiB", say=sentences.append)  # what a T4 shows there: notebook 01 asks this
    assert estimate(on_colab).needed_bytes < 0.9 * 14.6 * GiB


def test_other_frames_than_the_variants_get_predictions_too(checkpoint, make_request):
    """14 frames of svd-xt take a forward chunk of 2, which divides none of its own 25."""
    request = Request.for_variant("svd-xt", image="rocket", num_frames=14, decode_chunk_size=2)
    setup = Setup.fitting("svd-xt", "8GB", request, say=lambda _: None)
    assert estimate(setup, request).fits(7 * GiB)
    assert "by prediction these fit" in lighter(Setup("svd-xt", device="cuda"), request, 6 * GiB)
    with pytest.raises(ValueError, match="num_frames=14 is not divisible by the forward chunk of 5"):
        estimate(Setup("svd-xt", optimizations=("forward-chunking=5",)), request)


def test_running_out_of_memory_says_what_would_fit(checkpoint, make_request, monkeypatch):
    pipeline = load(Setup("svd", weights=str(checkpoint)))

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.91 GiB.")

    handle = pipeline.vae.decoder.register_forward_pre_hook(fail)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "candidates", lambda setup, request, card: [estimate(setup, request)])  # few to trace
        with pytest.raises(OutOfMemory) as error:
            generate(pipeline, make_request(), progress=False)
    handle.remove()
    sentence = str(error.value)
    assert sentence.startswith("Out of memory while decoding (6 frames of 64x96, decode chunk 3). ")
    assert "GiB were predicted" in sentence
    assert error.value.__context__ is None  # whose traceback would hold the attempt's tensors
    assert generate(pipeline, make_request(), progress=False).frames
    advice = lighter(Setup("svd-xt", device="cuda"), Request.for_variant("svd-xt", image="rocket"), 8 * GiB)
    assert "'split-guidance'" in advice
    assert "slower)" in advice


def test_out_of_memory_in_bf16_names_the_other_half_on_a_card_without_its_kernels(monkeypatch):
    """Whose attention takes 39 GiB there, so that nothing in bf16 fits."""
    request = Request.for_variant("svd-xt", image="rocket")
    for dtypes, omits_fp16 in ((("fp32",), False), (("bf16", "fp32"), True)):
        monkeypatch.setattr(fitting, "safer_dtypes", lambda dtypes=dtypes: dtypes)
        sentence = lighter(Setup("svd-xt", dtype="bf16", device="cuda"), request, 8 * GiB)
        assert ("dtype='fp16'" in sentence) != omits_fp16
        assert "'split-guidance'" in sentence


def test_all_frames_decoded_together_in_a_quarter_of_the_memory():
    plain = predict("svd-xt", decode_chunk_size=25).stages["decode"]
    lean = predict("svd-xt", "lean-decode", decode_chunk_size=25).stages["decode"]
    assert lean.activation_bytes < plain.activation_bytes / 4
    assert lean.flops < 1.1 * plain.flops


def test_other_errors_of_torch_are_not_taken_for_memory(checkpoint, make_request):
    pipeline = load(Setup("svd", weights=str(checkpoint)))
    pipeline.unet.conv_in.register_forward_pre_hook(lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        generate(pipeline, make_request(), progress=False)


# --- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gib", "card"),
    [
        ("RTX 3060", None, "RTX 3060"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 15.6, "RTX 4070 Ti SUPER"),
        ("nvidia geforce rtx 4070 ti", None, "RTX 4070 Ti"),
        ("Tesla T4", 14.75, "T4"),
        ("NVIDIA H200", 139.8, "H200"),
        ("NVIDIA H100 80GB HBM3", 79.1, "H100"),
        ("NVIDIA H100 NVL", 93.1, "H100 NVL"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "A100"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", 79.2, "A100 PCIe 80GB"),
        ("Tesla V100-SXM2-32GB", 31.7, "V100 32GB"),
        ("NVIDIA GeForce RTX 5060 Ti", 7.6, "RTX 5060 Ti"),
        ("NVIDIA GeForce RTX 5060 Ti", 15.5, "RTX 5060 Ti 16GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 7.99, "RTX 4060 Ti"),
        ("NVIDIA RTX 6000 Ada Generation", 47.5, "RTX 6000 Ada"),
        ("l40s", None, "L40S"),
    ],
)
def test_cards_by_the_names_and_the_memory_that_drivers_give(name, gib, card):
    assert match_card(name, gib and int(gib * GiB)) is CARDS[card]


@pytest.mark.parametrize(
    "name",
    ["RTX 3061", "NVIDIA GeForce RTX 4070 Laptop GPU", "RTX 4090 D", "A100-SXM4-40GB MIG 3g.20gb", "", "T400", "A1000"],
)
def test_an_unknown_card_is_not_guessed(name):
    with pytest.raises(ValueError, match="Unknown card"):
        find_card(name)


def test_a_card_of_another_memory_size_does_not_match():
    assert match_card("NVIDIA GeForce RTX 3060", 8 * GiB) is None


@pytest.mark.slow  # a trace of its own
def test_bf16_does_not_fit_a_t4_which_keeps_all_scores_of_attention():
    assert estimate(Setup("svd-xt", dtype="bf16")).fits_on(find_card("T4")) == "no"
    assert estimate(Setup("tiny", dtype="bf16")).fits_on(find_card("T4")) == "yes"


def test_a_card_here_has_the_memory_that_is_free_now(monkeypatch):
    """A desktop's share is taken, what this process holds is not, and an unknown card's rates are measured."""
    names = iter(["NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 4080 Laptop GPU"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = lambda _: types.SimpleNamespace(name=next(names), total_memory=12 * GiB)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (9 * GiB, 12 * GiB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 * GiB)
    card = this_card()
    assert (card.memory_bytes, card.free_bytes) == (12 * GiB, 11 * GiB + CONTEXT_BYTES)  # which is counted as needed
    assert (card.name, card.flops) == ("RTX 3060", CARDS["RTX 3060"].flops)
    monkeypatch.setattr(cards, "_measured_rates", lambda device: ({"fp16": 1e14}, 1e11, "measured here"))
    assert this_card().flops == {"fp16": 1e14}


def test_a_processor_says_hours():
    device = this_device()
    assert 1e8 < device.flops["fp32"] < 1e14
    assert str(estimate(Setup("svd-xt", dtype="fp32", device="cpu")).seconds(device)).endswith("hours")


@given(st.integers(1, 10**6))
def test_memory_as_people_write_it(mib):
    """As it is sold, of which a program sees a little less, or exactly."""
    assert parse_memory(f" {mib} MiB ") == parse_memory(mib * 2**20) == mib * 2**20
    assert parse_memory(f"{mib}MB") == pytest.approx(0.97 * mib * 2**20, abs=1)
    assert find_card(f"{mib}MiB").free_bytes == mib * 2**20


@pytest.mark.parametrize("text", ["", "8", "GB", "-8GB", "0GB", "8TB", "8 GB or so", 0, -1, True, None])
def test_text_that_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(ValueError, match=r"is no amount of memory: expected something like '12GB'"):
        parse_memory(text)


@pytest.mark.slow
def test_a_plan_for_a_card_answers_in_ten_seconds_of_a_new_process():
    start = os.times()
    command = [sys.executable, "-m", "svdlab", "plan", "--gpu", "RTX 4060"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "group-offload" in text
    assert sum(os.times()[2:4]) - sum(start[2:4]) < 20  # seconds of its processors, whatever else they do
