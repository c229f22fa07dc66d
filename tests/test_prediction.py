"""Predictions against what is known of the model, against PyTorch's own meters, and against what the processor did."""

from __future__ import annotations

import dataclasses

import golden_traces
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svdlab import Request, Setup, generate, load
from svdlab.generation.generate import OutOfMemory
from svdlab.optimizations import OPTIMIZATIONS
from svdlab.prediction import fake_run, fitting
from svdlab.prediction.cards import CARDS, find_card, parse_memory
from svdlab.prediction.estimate import Estimate, estimate
from svdlab.prediction.fitting import candidates, lighter, smaller_chunk

GiB = 2**30
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:svdlab")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Nothing is left in the home, and nothing is read there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def full(name: str, *optimizations: str, **fields) -> Estimate:
    """A full-size prediction, of a golden trace."""
    setup = Setup(name, dtype="fp16", optimizations=optimizations)
    request = setup.request(**{"image": "rocket"} | fields)
    assert fake_run._key(setup, request) in fake_run._traces, "add it to golden_traces.py"
    return estimate(setup, request)


@pytest.mark.parametrize(
    "case",
    [
        ("svd", ("single-token", "split-guidance", "forward-chunking=2", "lean-decode"), {}),
        pytest.param(("svd-xt", (), {"decode_chunk_size": 25}), marks=pytest.mark.slow),
        pytest.param(("svd", (), {"max_guidance_scale": 1.0}), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_golden_traces_are_what_a_fake_run_gives(case):
    """Three of them; the other tests read the file, which `python tests/golden_traces.py` writes."""
    setup, request = golden_traces.case(*case)
    assert fake_run.fake_run(setup, request) == golden_traces.read()[fake_run._key(setup, request)]


# The figures of the project's notes: the UNet alone, 576x1024, fp16, so its weights and what lives beside them
@pytest.mark.parametrize(
    ("name", "optimizations", "gib"),
    [
        ("svd-xt", (), 10.57),
        ("svd-xt", ("forward-chunking",), 7.27),
        ("svd-xt", ("split-guidance",), 6.55),
        ("svd-xt", ("forward-chunking=5", "split-guidance"), 4.90),
        ("svd", (), 7.18),
        ("svd", ("forward-chunking=2",), 5.34),
        ("svd", ("split-guidance",), 4.92),
        ("svd", ("forward-chunking=2", "split-guidance"), 3.99),
    ],
)
def test_the_peak_of_a_step(name, optimizations, gib):
    prediction = full(name, *optimizations)
    unet = prediction.component_bytes["unet"]
    assert unet / GiB == pytest.approx(2.84, rel=0.01)
    assert (unet + prediction.stages["denoise"].activation_bytes) / GiB == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize(
    ("chunk", "gib"),
    [(2, 2.43), (5, 5.81), (8, 9.18), (14, 15.93), (25, 28.31)],
)
def test_the_peak_of_decoding(chunk, gib):
    """Those figures are of one chunk; the clip's last one has the frames before it to carry as well."""
    prediction = full("svd-xt", decode_chunk_size=chunk)
    carried = (25 - (25 % chunk or chunk)) * 3 * 576 * 1024 * 2
    last_is_whole = carried if 25 % chunk == 0 else carried - chunk * 3 * 576 * 1024 * 2
    peak = prediction.component_bytes["vae"] + prediction.stages["decode"].activation_bytes - last_is_whole
    assert peak / GiB == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize(
    ("name", "asked", "tera"),
    [
        ("svd", {"max_guidance_scale": 1.0}, 44.8),
        ("svd-xt", {"max_guidance_scale": 1.0}, 80.0),
        ("svd", {}, 89.6),
        ("svd-xt", {}, 159.9),
    ],
)
def test_the_operations_of_a_step(name, asked, tera):
    denoise = full(name, **asked).stages["denoise"]
    assert denoise.passes == 25
    assert denoise.flops / 25e12 == pytest.approx(tera, rel=0.02)


def test_the_operations_of_a_clip():
    assert full("svd", max_guidance_scale=1.0).stages["denoise"].flops / 25e12 == pytest.approx(
        45.4, rel=0.02
    )  # published
    assert full("svd").stages["decode"].flops / 1e12 == pytest.approx(97, rel=0.02)
    prediction = full("svd-xt")
    assert prediction.stages["decode"].flops / 1e12 == pytest.approx(174, rel=0.02)
    assert prediction.flops / 1e15 == pytest.approx(4.17, rel=0.02)


def test_single_token_saves_what_was_computed():
    plain, saved = full("svd-xt").stages["denoise"], full("svd-xt", "single-token").stages["denoise"]
    assert 1 - saved.flops / plain.flops == pytest.approx(0.036, abs=0.002)
    assert saved.least_bytes < plain.least_bytes


def test_what_is_resident_when():
    """`model-offload` leaves the VAE beside the UNet: it has encoded, and no component after it sends it away."""
    parts = full("svd-xt").component_bytes
    plain, offloaded = full("svd-xt").stages, full("svd-xt", "model-offload").stages
    assert plain["denoise"].weight_bytes == sum(parts.values())
    assert plain["encode"].weight_bytes == sum(parts.values()) + parts["vae"]  # in 32 bits while it encodes
    assert offloaded["denoise"].weight_bytes == parts["unet"] + parts["vae"]
    assert offloaded["decode"].weight_bytes == parts["vae"]
    for name in ("sequential-offload", "group-offload", "group-offload=stream", "group-offload=block"):
        less = full("svd-xt", name).stages["denoise"]
        assert less.weight_bytes < offloaded["denoise"].weight_bytes
        assert less.activation_bytes == offloaded["denoise"].activation_bytes
        assert less.moved_bytes > 0 or name.endswith("stream")
    assert full("svd-xt", "fp8").component_bytes["unet"] / GiB == pytest.approx(1.5, abs=0.1)


def test_accelerate_moves_components_when_the_prediction_says(checkpoint, ask):
    """The hooks themselves, on a processor: who was asked to come and to go in which stage."""
    from accelerate import cpu_offload_with_hook

    pipeline = load(Setup("svd", weights=str(checkpoint)))
    present, present_at, hook = set(), {}, None

    def watch(name, own):
        come = own.pre_forward

        def pre_forward(*args, **kwargs):
            present.add(name)
            if own.prev_module_hook is not None:
                present.discard({"unet": "image_encoder", "vae": "unet"}[name])
            return come(*args, **kwargs)

        own.pre_forward = pre_forward

    for name in pipeline.model_cpu_offload_seq.split("->"):
        _, hook = cpu_offload_with_hook(getattr(pipeline, name), "cpu", prev_module_hook=hook)
        watch(name, getattr(pipeline, name)._hf_hook)
    stages = {"encode": pipeline.vae.encoder, "denoise": pipeline.unet.conv_in, "decode": pipeline.vae.decoder}
    for stage, module in stages.items():
        module.register_forward_pre_hook(lambda *_, stage=stage: present_at.update({stage: set(present)}))
    generate(pipeline, ask(), progress=False)
    assert present_at == {"encode": {"image_encoder", "vae"}, "denoise": {"unet", "vae"}, "decode": {"vae"}}


def test_it_agrees_with_pytorchs_own_meters(checkpoint, ask):
    """FLOP of the real thing on real tensors, counted by PyTorch; memory followed by PyTorch's tracker."""
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    setup, request = Setup("svd", weights=str(checkpoint)), ask()
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


def test_scores_of_attention_without_a_fused_kernel():
    scores = 25 * 2 * 5 * (72 * 128) ** 2 * 2  # the "39 GB" of a PyTorch without fused attention, several times over
    assert scores / GiB == pytest.approx(39.55, rel=0.001)
    assert full("svd-xt", "attention=math").stages["denoise"].activation_bytes > scores


def test_a_trace_is_remembered_on_disk(tmp_path, monkeypatch):
    runs, run = [], fake_run.fake_run
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fake_run, "fake_run", lambda *question: runs.append(question) or run(*question))
    setup = Setup("tiny", dtype="fp32")
    traces = []
    for _ in range(2):  # the second time as another process
        monkeypatch.setattr(fake_run, "_traces", {})
        traces += [fake_run.trace(setup, setup.request(image="rocket", seed=seed)) for seed in (1, 2)]
    assert len(runs) == 1
    assert all(trace == traces[0] for trace in traces)
    [file] = tmp_path.rglob("*.json")
    file.write_text("[]")  # damaged
    monkeypatch.setattr(fake_run, "_traces", {})
    monkeypatch.setattr(fake_run, "fake_run", lambda *question: traces[0])
    assert fake_run.trace(setup, setup.request(image="rocket")) == traces[0]


def test_times_on_cards():
    prediction = full("svd-xt")
    h200, a100 = prediction.seconds(find_card("H200")), prediction.seconds(find_card("A100"))
    assert h200.floor == pytest.approx(4.17e15 / 989e12, rel=0.02)
    assert h200.floor < h200.expected
    assert 39.9 <= a100.expected <= 50.9  # published times of plain SVD-XT on that card, which set the utilisation
    slower = full("svd-xt", "sequential-offload").seconds(find_card("A100"))
    assert slower.floor == a100.floor
    assert slower.expected > a100.expected


def test_candidates_are_exact_fastest_first_and_different():
    card = find_card("RTX 3060")
    estimates = candidates(Setup("svd-xt", dtype="fp16"), card=card, on_card=True)
    times = [each.seconds(card).expected for each in estimates]
    assert times == sorted(times)
    assert len({each.setup for each in estimates}) == len(estimates) == 15
    assert all(o.exact for each in estimates for o, _ in each.setup.parsed)


@pytest.fixture
def without_traces(monkeypatch):
    """Every optimisation more needs a little less, so that no model has to run."""
    plain = full("svd-xt")

    def guess(setup, request):
        return dataclasses.replace(plain, setup=setup, request=request, allowance_bytes=-len(setup.optimizations))

    monkeypatch.setattr(fitting, "estimate", guess)
    return guess


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
    smaller = smaller_chunk(setup, request, without_traces(setup, request).needed_bytes)
    assert smaller is not None
    assert "fp8" in smaller.setup.optimizations


def test_candidates_list_approximate_ones_when_asked(without_traces):
    plain = [each.setup for each in candidates(Setup("tiny"), on_card=False)]
    every = [each.setup for each in candidates(Setup("tiny"), on_card=False, approximate=True)]
    assert set(plain) < set(every)
    approximate = {o.name for o in OPTIMIZATIONS.values() if not o.exact}
    assert {o.name for setup in every for o, _ in setup.parsed if not o.exact} == approximate


def test_what_fits_a_card():
    sentences: list[str] = []
    chosen = {gib: Setup.fitting("svd-xt", f"{gib} GB", say=sentences.append) for gib in (80, 12, 8, 4)}
    for gib, setup in chosen.items():
        assert estimate(setup).needed_bytes <= gib * GiB
        assert setup.variant == "svd-xt"
        assert setup.dtype == "fp16"
    assert not any("offload" in name for name in chosen[80].optimizations)
    assert any("offload" in name for name in chosen[8].optimizations)
    assert "lean-decode" in chosen[4].optimizations
    seconds = [estimate(setup).seconds(find_card("RTX 3060")).expected for setup in chosen.values()]
    assert seconds == sorted(seconds)
    assert "fastest of 15 exact setups predicted to fit in 8.0 GiB" in sentences[2]
    with pytest.raises(MemoryError, match=r"No setup of svd-xt fits in 2\.0 GiB.* smaller decode_chunk_size \(now 5\)"):
        Setup.fitting("svd-xt", 2 * GiB)
    assert Setup.fitting("tiny", "1GB", say=sentences.append) == Setup("tiny")


def test_other_frames_than_the_variants_get_predictions_too(checkpoint, ask):
    """14 frames of svd-xt take a forward chunk of 2, which divides none of its own 25."""
    request = Request.for_variant("svd-xt", image="rocket", num_frames=14, decode_chunk_size=2)
    setup = Setup.fitting("svd-xt", "8GB", request, say=lambda _: None)
    assert estimate(setup, request).fits(8 * GiB)
    assert "by prediction these fit" in lighter(Setup("svd-xt", device="cuda"), request, 6 * GiB)
    with pytest.raises(ValueError, match="num_frames=14 is not divisible by the forward chunk of 5"):
        estimate(Setup("svd-xt", optimizations=("forward-chunking=5",)), request)


def test_running_out_of_memory_says_what_would_fit(checkpoint, ask, monkeypatch):
    pipeline = load(Setup("svd", weights=str(checkpoint)))

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.91 GiB.")

    handle = pipeline.vae.decoder.register_forward_pre_hook(fail)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "candidates", lambda setup, request, card: [estimate(setup, request)])  # few to trace
        with pytest.raises(OutOfMemory) as caught:
            generate(pipeline, ask(), progress=False)
    handle.remove()
    sentence = str(caught.value)
    assert sentence.startswith("Out of memory while decoding (6 frames of 64x96, decode chunk 3). ")
    assert "GiB were predicted" in sentence
    assert caught.value.__context__ is None  # whose traceback would hold the attempt's tensors
    assert generate(pipeline, ask(), progress=False).frames
    full_size = lighter(Setup("svd-xt", device="cuda"), Request.for_variant("svd-xt", image="rocket"), 8 * GiB)
    assert "'split-guidance'" in full_size
    assert "slower)" in full_size


def test_all_frames_decoded_together_in_a_quarter_of_the_memory():
    plain = full("svd-xt", decode_chunk_size=25).stages["decode"]
    lean = full("svd-xt", "lean-decode", decode_chunk_size=25).stages["decode"]
    assert lean.activation_bytes < plain.activation_bytes / 4
    assert lean.flops < 1.1 * plain.flops


def test_other_errors_of_torch_are_not_taken_for_memory(checkpoint, ask):
    pipeline = load(Setup("svd", weights=str(checkpoint)))
    pipeline.unet.conv_in.register_forward_pre_hook(lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        generate(pipeline, ask(), progress=False)


# --- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("RTX 3060", "RTX 3060"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("nvidia geforce rtx 4070 ti", "RTX 4070 Ti"),
        ("Tesla T4", "T4"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("l40s", "L40S"),
    ],
)
def test_cards_by_the_names_that_drivers_give(said, meant):
    assert find_card(said) is CARDS[meant]


@pytest.mark.parametrize("name", ["RTX 3061", "NVIDIA GeForce RTX 4070 Laptop GPU", "RTX 3090 Ti", "", "T400", "A1000"])
def test_what_is_another_card_is_not_guessed(name):
    with pytest.raises(ValueError, match="Unknown card"):
        find_card(name)


@given(st.integers(1, 10**6))
def test_memory_as_people_write_it(mib):
    assert parse_memory(f"{mib}MB") == parse_memory(f" {mib} MiB ") == parse_memory(mib * 2**20) == mib * 2**20


@pytest.mark.parametrize("text", ["", "8", "GB", "-8GB", "0GB", "8TB", "8 GB or so", 0, -1, True, None])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(ValueError, match=r"is no amount of memory: expected something like '12GB'"):
        parse_memory(text)
