"""What happens to a loaded pipeline between clips: its precision, who may use it, and the libraries' own settings."""

from __future__ import annotations

import threading
import time
import warnings

import pytest
import torch

from svdlab import GenerationError, Request, Setup, generate, load
from svdlab.machine import is_out_of_memory
from svdlab.pipelines import pipeline_cache
from svdlab.pipelines.pipeline_lock import exclusive
from svdlab.pipelines.vae_precision import decode, encode_dtype, keep_precision
from svdlab.progress_bar import quiet_libraries
from svdlab.request import quiet_requests


@pytest.fixture(scope="module")
def half_pipeline(checkpoint):
    """A pipeline in fp16, whose VAE diffusers takes to fp32 while it encodes."""
    return load(Setup("svd", weights=str(checkpoint), dtype="fp16"))


def dtypes(pipeline) -> set[torch.dtype]:
    return {tensor.dtype for tensor in pipeline.vae.parameters()}


def test_an_error_while_encoding_leaves_the_pipeline_fit_for_the_next_clip(half_pipeline, make_request, monkeypatch):
    request = make_request(
        num_frames=2, num_inference_steps=1, decode_chunk_size=2, width=64
    )  # half precision is slow on a processor
    for error in (KeyboardInterrupt, ValueError):

        def fail(*_, error=error, **__):
            assert half_pipeline.vae.dtype == torch.float32
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(half_pipeline, "_encode_vae_image", fail)
            with pytest.raises(error):
                generate(half_pipeline, request, progress=False)
        assert dtypes(half_pipeline) == {torch.float16}
    assert len(generate(half_pipeline, request, progress=False).frames) == 2


def test_a_stop_in_the_middle_of_a_conversion_is_put_back(half_pipeline):
    with keep_precision(half_pipeline):
        half_pipeline.vae.decoder.to(torch.float32)
        assert half_pipeline.vae.dtype == torch.float16  # it tells the type of its first tensor, which is the encoder's
    assert dtypes(half_pipeline) == {torch.float16}


def test_a_stop_in_the_second_decode_is_put_back(half_pipeline, make_request, monkeypatch):
    def fail(latents, *_):
        if latents.dtype == torch.float32:
            raise KeyboardInterrupt
        return torch.full((1, 3, 2, 64, 64), float("nan"))

    monkeypatch.setattr(half_pipeline, "decode_latents", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(
            half_pipeline,
            make_request(num_frames=2, num_inference_steps=1, decode_chunk_size=2, width=64),
            progress=False,
        )
    assert dtypes(half_pipeline) == {torch.float16}


def test_the_type_to_encode_in(half_pipeline, checkpoint):
    assert encode_dtype(half_pipeline.vae) == torch.float32
    bf16_pipeline = load(Setup("svd", weights=str(checkpoint), dtype="bf16"))
    assert encode_dtype(bf16_pipeline.vae) == torch.bfloat16


def test_the_type_of_a_second_decode(half_pipeline, monkeypatch):
    types: list[set[torch.dtype]] = []

    def overflow_once(latents, *_):
        types.append(dtypes(half_pipeline))
        return torch.full((1, 3, 2, 64, 64), 0.0 if latents.dtype == torch.float32 else float("inf"))

    monkeypatch.setattr(half_pipeline, "decode_latents", overflow_once)
    pixels, broken = decode(half_pipeline, torch.zeros(1, 2, 4, 8, 8, dtype=torch.float16), 2, 2)
    assert types == [{torch.float16}, {torch.float32}]
    assert dtypes(half_pipeline) == {torch.float16}
    assert (broken, float(pixels.sum())) == (2, 0)


def test_two_threads_on_one_pipeline_wait_for_each_other(micro, make_request, capfd):
    request = make_request(num_frames=2, num_inference_steps=1, decode_chunk_size=2)
    expected, clips = generate(micro, request, progress=False).frames, {}
    started = threading.Event()

    def make_clip(name: str) -> None:
        clips[name] = generate(micro, request, on_step=lambda *_: started.set(), progress=False).frames

    with exclusive(micro), exclusive(micro):  # re-entrant
        threads = [threading.Thread(target=make_clip, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        assert not started.wait(0.3)
    for thread in threads:
        thread.join(60)
    assert clips == {"a": expected, "b": expected}
    assert "waiting" in capfd.readouterr().err


def test_two_threads_that_ask_for_one_setup_share_a_pipeline(micro, monkeypatch):
    loads = []
    monkeypatch.setattr(pipeline_cache, "_cached", {})
    monkeypatch.setattr(pipeline_cache, "load", lambda setup: loads.append(setup) or time.sleep(0.2) or micro)
    threads = [threading.Thread(target=pipeline_cache.load_cached, args=[Setup("tiny")]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_a_waiting_thread_is_notified(micro):
    sentences: list[str] = []
    with exclusive(micro):
        thread = threading.Thread(target=lambda: exclusive(micro, sentences.append).__enter__(), daemon=True)
        thread.start()
        while not sentences:
            thread.join(0.01)
    thread.join(5)
    assert "another clip" in sentences[0]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.99 GB, max allowed: 18.13 GB)"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 B"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_is_recognised_on_every_device(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), GenerationError("nan")])
def test_what_is_not_out_of_memory(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bars_of_libraries_are_put_back_as_they_were(shown):
    from diffusers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        with quiet_libraries():
            assert not logging.is_progress_bar_enabled()
        assert logging.is_progress_bar_enabled() == shown
    finally:
        (logging.enable_progress_bar if was_enabled else logging.disable_progress_bar)()


def test_libraries_are_put_back_when_two_threads_silence_them_at_once():
    from diffusers.utils import logging

    settings = logging.get_verbosity(), logging.is_progress_bar_enabled()
    first, second = quiet_libraries(), quiet_libraries()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not logging.is_progress_bar_enabled()
    second.__exit__(None, None, None)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == settings


def test_quiet_requests_are_quiet_in_their_own_thread_alone():
    fields, filters = {"image": "rocket", "fps": 99}, list(warnings.filters)
    entered, finished = threading.Event(), threading.Event()

    def hold() -> None:
        with quiet_requests():
            entered.set()
            finished.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    with pytest.warns(UserWarning, match="fps=99"):
        Request.for_variant("svd", **fields)
    finished.set()
    thread.join()
    assert list(warnings.filters) == filters
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_requests():
            Request.for_variant("svd", **fields)
