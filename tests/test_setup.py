"""`Setup` says no with a reason; `load` gives what was asked for, in force.

That frames are plain diffusers' is shown in `test_clip`, and what optimisations do to them in `test_optimizations`.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from svdlab import generate
from svdlab.machine import release_frames
from svdlab.optimizations import forward_chunking
from svdlab.optimizations.forward_chunking import _chunks_of
from svdlab.optimizations.registry import optimizations
from svdlab.pipelines import random_weights as architecture
from svdlab.pipelines.hub import WeightsError
from svdlab.pipelines.load import is_temporary, load, setup_of
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial
from svdlab.tiny import WEIGHTS
from svdlab.variants import VARIANTS

GiB = 2**30


def on_cpu(folder: Path, *optimizations: str, **fields) -> Setup:
    return Setup("svd", weights=str(folder), device="cpu", optimizations=optimizations, **fields)


# What a setup refuses


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"variant": "svd-xt1.1"},
            "Unknown variant 'svd-xt1.1': expected one of svd, svd-xt, svd-xt-1.1, tiny; did you mean 'svd-xt-1.1'?",
        ),
        (
            {"dtype": "float16"},
            "Unknown dtype 'float16': expected one of fp32, fp16, bf16, or None to let the device decide.",
        ),
        ({"device": "gpu"}, "Unknown device 'gpu': expected 'cuda', 'cuda:1', 'mps' or 'cpu'."),
        ({"weights": "bundled"}, "'svd' is not bundled: use weights='hub', 'random' or a folder."),
        (
            {"variant": "tiny", "weights": "hub"},
            "'tiny' is not on the hub: leave weights out, its own are bundled.",
        ),
        (
            {"weights": "random", "revision": "v1"},
            "revision='v1' goes with weights='hub' only, not with 'random'.",
        ),
        (
            {"optimizations": ("compile-unet", "model-offlaod")},
            f"Unknown optimisation 'model-offlaod': expected one of {', '.join(optimizations())}; "
            "did you mean 'model-offload'?",
        ),
        ({"optimizations": 3}, f"Unknown optimisation '3': expected one of {', '.join(optimizations())}."),
        ({"optimizations": ("model-offload=3",)}, "'model-offload=3' is not understood: model-offload takes no value."),
        (
            {"optimizations": ("forward-chunking=",)},
            "'forward-chunking=' is not understood: forward-chunking takes a divisor of the clip's frames.",
        ),
        (
            {"optimizations": ("forward-chunking", "model-offload")},
            "'model-offload' (placement) must come before 'forward-chunking' (graph): the order is weights, then "
            "placement, then graph.",
        ),
        (
            {"optimizations": ("model-offload", "compile-unet")},
            "'model-offload' and 'compile-unet' cannot be had together: its hooks break the one graph that fullgraph "
            "asks for.",
        ),
        (
            {"optimizations": ("sequential-offload", "model-offload")},
            "'sequential-offload' and 'model-offload' cannot be had together: each decides alone where a module lives.",
        ),
        (
            {"optimizations": ("forward-chunking", "compile-vae", "forward-chunking=2")},
            "'forward-chunking' is named twice: name it once.",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_a_wrong_setup_is_refused_in_one_sentence(fields, sentence):
    with pytest.raises(ValueError, match=r"[.?]$") as error:
        Setup(**({"variant": "svd"} | fields))
    assert str(error.value) == sentence


def test_one_name_is_as_good_as_a_tuple_of_one():
    assert Setup("svd", optimizations="forward-chunking") == Setup("svd", optimizations=("forward-chunking",))  # pyright: ignore[reportArgumentType]


def test_weights_are_bundled_where_there_are_such_and_else_on_the_hub(tmp_path):
    assert Setup("tiny").weights == "bundled"
    assert Setup("svd").weights == "hub"
    assert Setup("svd", weights=tmp_path).weights == str(tmp_path)  # pyright: ignore[reportArgumentType]


def test_none_is_the_default_and_a_device_of_torch_is_taken_by_its_name():
    fields: dict[str, Any] = {"weights": None, "optimizations": None, "device": torch.device("cuda", 1)}
    assert Setup("svd", **fields) == Setup("svd", device="cuda:1")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "٣", ""])
def test_a_chunk_that_divides_no_number_of_frames(value):
    with pytest.raises(ValueError, match=f"'forward-chunking={value}' is not understood"):
        Setup("svd-xt", optimizations=(f"forward-chunking={value}",))


def test_a_chunk_must_divide_the_frames_of_the_request_and_no_others(checkpoint, make_request):
    """A setup does not know the frames; a trial and a clip do."""
    for frames, chunk in ((25, 4), (14, 5)):
        setup = Setup("svd-xt", optimizations=(f"forward-chunking={chunk}",))
        with pytest.raises(ValueError, match=f"num_frames={frames} is not divisible by the forward chunk of {chunk}"):
            Trial(setup, setup.request(image="rocket", num_frames=frames))
        Trial(setup, setup.request(image="rocket", num_frames=2 * chunk))
    pipeline = load(on_cpu(checkpoint, "forward-chunking=2"))
    assert _chunks_of(pipeline) == {2}
    with pytest.raises(ValueError, match=r"num_frames=5 is not divisible by the forward chunk of 2.* \(1, 5\)"):
        generate(pipeline, make_request(num_frames=5), progress=False)
    assert len(generate(pipeline, make_request(num_frames=4), progress=False).frames) == 4


def test_a_chunk_that_is_not_named_suits_every_clip(checkpoint, make_request, monkeypatch):
    monkeypatch.setitem(forward_chunking._CHUNKS, 6, 3)
    pipeline = load(on_cpu(checkpoint, "forward-chunking"))
    assert _chunks_of(pipeline) == {3}
    generate(pipeline, make_request(num_frames=4), progress=False)
    assert _chunks_of(pipeline) == {1}


def test_an_unknown_compile_mode():
    with pytest.raises(ValueError, match=r"takes a mode of torch\.compile: default, reduce-overhead, "):
        Setup("svd", optimizations=("compile-unet=fastest",))


@pytest.mark.parametrize("name", [o.name for o in optimizations().values() if o.accelerator])
def test_offloading_is_refused_on_a_processor_before_anything_is_read(tmp_path, name):
    with pytest.raises(RuntimeError) as error:
        load(on_cpu(tmp_path / "nothing here", name))
    assert str(error.value) == f"'{name}' needs a GPU to offload from, and this runs on the processor: leave it out."


@pytest.mark.parametrize(
    ("device", "cards", "seen"),
    [("cuda:1", 0, "no CUDA card"), ("cuda:2", 2, "2 CUDA cards"), ("mps", 0, "no Apple GPU")],
)
def test_a_card_that_is_not_there(monkeypatch, device, cards, seen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    setup = Setup("svd", weights="random", dtype="fp16", device=device)
    with pytest.raises(RuntimeError, match=f"device='{device}' is asked for, but torch sees {seen}: ") as error:
        load(setup)
    assert is_temporary(error.value, setup)  # another machine may have it


@pytest.mark.parametrize("name", ["compile-vae", "compile-blocks"])
def test_graphs_that_would_overwrite_results_are_refused_before_anything_is_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    setup = on_cpu(tmp_path / "nothing here", f"{name}=reduce-overhead", dtype="fp16")
    with pytest.raises(RuntimeError, match="overwrite results"):
        load(dataclasses.replace(setup, device="cuda"))


# In and out of JSON


@pytest.mark.parametrize(
    "setup",
    [
        Setup("tiny"),
        Setup("svd-xt", dtype="bf16", revision="v1", device="cuda:1"),
        Setup("svd", weights="random", optimizations=("model-offload", "forward-chunking=2")),
    ],
    ids=lambda setup: setup.variant,
)
def test_json_gives_the_same_setup_back(setup):
    restored = Setup.from_json(setup.to_json())
    assert restored == setup
    assert hash(restored) == hash(setup)  # the optimisations are a tuple again
    assert Setup.from_json(json.loads(setup.to_json())) == setup


def test_json_of_a_newer_version_is_refused():
    with pytest.raises(ValueError, match=r"Unknown setup field 'cards': it was written by a newer svdlab"):
        Setup.from_json('{"variant": "tiny", "cards": 2}')


# What load gives


def test_a_processor_runs_fp32_unless_told_otherwise(checkpoint):
    pipeline = load(on_cpu(checkpoint))
    setup = setup_of(pipeline)
    assert setup == on_cpu(checkpoint, dtype="fp32")
    assert {module.dtype for module in (pipeline.unet, pipeline.vae, pipeline.image_encoder)} == {torch.float32}


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precisions_load_on_a_processor(checkpoint, name, dtype):
    pipeline = load(on_cpu(checkpoint, dtype=name))
    for module in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
        assert {parameter.dtype for parameter in module.parameters()} == {dtype}
        assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}


def test_loading_says_nothing_of_what_is_deprecated(checkpoint, recwarn):
    load(on_cpu(checkpoint))
    assert [str(w.message) for w in recwarn if issubclass(w.category, FutureWarning)] == []


def test_the_setup_of_a_pipeline_that_diffusers_made(micro):
    assert setup_of(micro) is None


# An optimisation proves that it holds


def test_forward_chunking_that_was_undone_does_not_hold(checkpoint):
    pipeline = load(on_cpu(checkpoint, "forward-chunking"))
    chunking = optimizations()["forward-chunking"]
    assert chunking.holds(pipeline)
    for module in pipeline.unet.modules():
        if hasattr(module, "set_chunk_feed_forward"):
            module.set_chunk_feed_forward(chunk_size=None, dim=0)
    assert not chunking.holds(pipeline)


@pytest.mark.parametrize(("name", "part"), [("compile-unet", "unet"), ("compile-vae", "vae.decoder")])
def test_compiling_that_was_undone_does_not_hold(checkpoint, name, part):
    pipeline = load(on_cpu(checkpoint, name))  # nothing compiles before the first call
    assert optimizations()[name].holds(pipeline)
    operator.attrgetter(part)(pipeline)._compiled_call_impl = None
    assert not optimizations()[name].holds(pipeline)


def test_a_switch_that_does_nothing_is_an_error(checkpoint, monkeypatch):
    modules = []
    idle = dataclasses.replace(
        optimizations()["forward-chunking"], apply=lambda pipeline, _: modules.append(weakref.ref(pipeline.unet))
    )
    monkeypatch.setitem(optimizations(), idle.name, idle)
    with pytest.raises(
        RuntimeError, match="'forward-chunking' was applied and did not take hold on this pipeline"
    ) as e:
        load(on_cpu(checkpoint, "forward-chunking"))
    assert e.tb  # as a notebook keeps it
    assert modules[0]() is None  # and with it no pipeline


# Random weights, and the sizes that predictions rest on


@pytest.fixture(scope="module")
def blank_xt():
    return architecture.blank(VARIANTS["svd-xt"])


def test_svd_xt_has_the_published_number_of_parameters(blank_xt):
    counts = {name: sum(p.numel() for p in getattr(blank_xt, name).parameters()) for name in ("unet", "vae")}
    encoder = sum(p.numel() for p in blank_xt.image_encoder.parameters())
    assert counts == {"unet": 1_524_623_082, "vae": 97_742_847}
    assert encoder == 632_076_800


@pytest.mark.parametrize("name", ["svd", "svd-xt", "svd-xt-1.1"])
def test_the_download_is_two_bytes_for_every_parameter(blank_xt, name):
    modules = (blank_xt.unet, blank_xt.vae, blank_xt.image_encoder)
    parameters = sum(p.numel() for module in modules for p in module.parameters())
    assert VARIANTS[name].download_bytes == pytest.approx(2 * parameters, rel=1e-3)


def test_a_blank_pipeline_takes_no_memory_and_is_the_published_one(blank_xt):
    modules = (blank_xt.unet, blank_xt.vae, blank_xt.image_encoder)
    assert {p.device.type for module in modules for p in module.parameters()} == {"meta"}
    assert blank_xt.unet.config["num_frames"] == 25
    assert architecture.blank(VARIANTS["svd"]).unet.config["num_frames"] == 14
    assert blank_xt.unet.config["block_out_channels"] == (320, 640, 1280, 1280)
    assert blank_xt.vae.config["force_upcast"]
    assert blank_xt.vae.config["scaling_factor"] == 0.18215
    assert blank_xt.scheduler.config["prediction_type"] == "v_prediction"
    assert not any(module.training for module in modules)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_random_weights_run_and_stay_finite(checkpoint, monkeypatch, picture, dtype):
    monkeypatch.setattr(architecture, "WEIGHTS", checkpoint)  # tiny's configuration files, replaced by micro's
    pipeline = load(Setup("tiny", weights="random", device="cpu", dtype=dtype))
    size = {"height": 32, "width": 48, "num_frames": 6, "num_inference_steps": 2, "decode_chunk_size": 6}
    frames = pipeline(picture, **size, generator=torch.manual_seed(11), output_type="pt").frames[0]
    assert frames.shape == (6, 3, 32, 48)
    assert torch.isfinite(frames).all()
    assert frames.float().std() > 0
    for module in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
        assert all(torch.isfinite(tensor).all() for tensor in (*module.parameters(), *module.buffers()))


def test_random_weights_are_the_same_every_time(checkpoint, monkeypatch):
    monkeypatch.setattr(architecture, "WEIGHTS", checkpoint)
    first, second = (load(Setup("tiny", weights="random", device="cpu")).unet.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_weights_need_memory_too(monkeypatch):
    monkeypatch.setattr("svdlab.pipelines.load.free_bytes", lambda device: GiB)
    with pytest.raises(MemoryError, match=r"Random weights of svd-xt take 8\.4 GiB and 1\.0 GiB are free on cpu: use "):
        load(Setup("svd-xt", weights="random", device="cpu"))


# The bundled model


@pytest.mark.skipif(not (WEIGHTS / "model_index.json").exists(), reason="the bundled weights are not made yet")
def test_the_bundled_model_loads():
    pipeline = load(Setup("tiny", device="cpu"))
    assert setup_of(pipeline) == Setup("tiny", device="cpu", dtype="fp32")
    assert pipeline.unet.config["num_frames"] == VARIANTS["tiny"].frames


def test_a_bundled_model_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr("svdlab.pipelines.load.WEIGHTS", tmp_path / "weights")
    with pytest.raises(WeightsError, match=r"holds no model_index\.json"):
        load(Setup("tiny", device="cpu"))


@pytest.mark.parametrize(("device", "dtype"), [("cuda", "fp16"), ("cuda:1", "fp16"), ("mps", "fp32"), ("cpu", "fp32")])
def test_a_resolved_setup_has_a_device_and_a_dtype(device, dtype):
    resolved = Setup("svd", weights="random", device=device).resolved()
    assert (resolved.device, resolved.dtype) == (device, dtype)  # fp16 on Apple's GPUs gave black frames
    assert Setup("svd", dtype="fp16", device="mps").resolved().dtype == "fp16"
    assert Setup("tiny").resolved().device in ("cuda", "mps", "cpu")


@pytest.mark.parametrize("field", ["variant", "dtype", "device", "revision", "optimizations"])
def test_long_values_of_a_setup_are_cut(field):
    with pytest.raises(ValueError, match=r"\.") as error:
        Setup(**{"variant": "tiny", field: "x" * 100_000})
    assert len(str(error.value)) < 900


def test_the_docstring_names_every_optimisation():
    assert all(f"{name}: " in str(Setup.__doc__) for name in optimizations())


def test_frames_are_released_of_what_failed_here_and_of_nothing_else():
    def fail(text: str) -> None:
        local = text  # noqa: F841
        raise RuntimeError(text)

    def local_variables(error: BaseException | None) -> dict:
        assert error is not None
        assert error.__traceback__ is not None
        assert error.__traceback__.tb_next is not None
        return error.__traceback__.tb_next.tb_frame.f_locals

    with pytest.raises(RuntimeError) as earlier:
        fail("earlier")
    with pytest.raises(RuntimeError) as info:
        fail("now")
    error = info.value
    error.__cause__ = ValueError("in a ring")
    error.__cause__.__cause__, error.__cause__.__context__ = error, earlier.value
    release_frames(error, earlier.value)
    assert local_variables(error) == {}
    assert local_variables(earlier.value) == {"text": "earlier", "local": "earlier"}
