"""`generate` asks a pipeline for a clip: encode the picture, denoise, decode.

>>> clip = generate(pipeline, Request.for_variant("tiny", image="rocket", seed=11))
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast, overload

from svdlab.machine import is_out_of_memory, peak_bytes, reset_peak
from svdlab.pipelines.exclusive import exclusive
from svdlab.pipelines.load import setup_of
from svdlab.pipelines.vae_precision import float32_decoder, keep_precision
from svdlab.prediction.fitting import lighter
from svdlab.progress_bar import Progress
from svdlab.request import Request, conditioning
from svdlab.setup import Setup

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    OnStep = Callable[[int, int, torch.Tensor], None]
from svdlab.generation.clip import BLACK, Clip


class GenerationError(RuntimeError):
    """The model gave no picture that could be shown; the message says where it broke and what to try."""


class OutOfMemory(GenerationError, MemoryError):
    """The device's memory did not last; the message says at what, and which setups would fit."""


@overload
def generate(
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    *,
    seeds: None = None,
    on_step: OnStep | None = None,
    progress: bool = True,
    picture: Image.Image | None = None,
) -> Clip: ...


@overload
def generate(
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    *,
    seeds: Iterable[int],
    on_step: OnStep | None = None,
    progress: bool = True,
    picture: Image.Image | None = None,
) -> list[Clip]: ...


def generate(
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    *,
    seeds: Iterable[int] | None = None,
    on_step: OnStep | None = None,
    progress: bool = True,
    picture: Image.Image | None = None,
) -> Clip | list[Clip]:
    """The clip that `request` asks for, its frames those of plain diffusers on the same weights, bit for bit.

    `seeds` makes one clip for each instead of for the request's own, and returns them in that order.
    `on_step(done, total, latents)` is called after every step; what it raises stops the clip within that step, and
    leaves the pipeline fit for the next. `picture` is the request's image, read and fitted already (RGB, of the
    request's size); left out, it is read here, once for all seeds. Raises `GenerationError` where the frames come out
    as not-a-number.
    """
    setup = setup_of(pipeline)
    request = request.filled(_variant_for(request, setup))
    picture = conditioning(request) if picture is None else picture
    if picture.size != (request.width, request.height) or picture.mode != "RGB":
        raise ValueError(
            f"The picture is {picture.mode} of {picture.width}x{picture.height} and the request asks for RGB of "
            f"{request.width}x{request.height} (width x height): give svdlab.conditioning(request), or leave it out."
        )
    if seeds is not None:
        each = [dataclasses.replace(request, seed=seed) for seed in seeds]
        return [generate(pipeline, one, on_step=on_step, progress=progress, picture=picture) for one in each]

    for optimization, value in setup.parsed if setup else ():
        optimization.before_clip(pipeline, value, request)

    import torch

    notes = list(request.concerns())
    started = time.perf_counter()
    label, steps = f"seed {request.seed}", request.num_inference_steps
    doing, exhausted = "encoding or in the first step", None

    def stepped(done: int, total: int, latents: torch.Tensor) -> None:
        nonlocal doing
        doing = f"denoising, step {done + 1} of {total}"
        if on_step is not None:
            on_step(done, total, latents)

    device = str(pipeline._execution_device)
    with ExitStack() as stack:
        stack.enter_context(exclusive(pipeline))
        bar = stack.enter_context(Progress(total=steps, desc=label, unit="step", disable=not progress))
        stack.enter_context(keep_precision(pipeline))
        stack.enter_context(_freed(pipeline))
        stack.enter_context(torch.no_grad())
        reset_peak(device)
        try:
            latents = _sample(pipeline, request, picture, stepped, bar)
            sampled = time.perf_counter()
            doing = "decoding"
            bar.set_postfix_str(doing)
            pixels = _decode(pipeline, latents, request, notes)
            frames: Any = pipeline.video_processor.postprocess_video(video=pixels, output_type="pil")[0]
            bar.set_postfix_str("")
        except (MemoryError, RuntimeError, OSError) as error:
            if not is_out_of_memory(error):
                raise
            exhausted = doing
    if exhausted:  # out here, where no traceback holds the tensors of the attempt
        raise OutOfMemory(_what_would_fit(setup, request, exhausted, device))
    timings = {"sample_seconds": sampled - started, "decode_seconds": time.perf_counter() - sampled}
    black = [i for i, frame in enumerate(frames) if max(high for _, high in frame.getextrema()) <= BLACK]
    if black:
        sentence = (
            f"{len(black)} of {len(frames)} frames are black (first: frame {black[0]}): the picture may be black, or "
            "the size too far from what the model was trained at; try dtype='bf16' or 'fp32' and the trained size."
        )
        warnings.warn(sentence, UserWarning, stacklevel=2)
        notes.append(sentence)
    return Clip(frames, request, setup, timings, tuple(notes), latents=latents[0].cpu(), picture=picture)


def _variant_for(request: Request, setup: Setup | None) -> str:
    if setup is not None:
        return setup.variant
    if request.variant is None:
        raise ValueError(
            "The request leaves fields to the variant and the pipeline does not say which it is: make the request with "
            "Request.for_variant('svd-xt', …), or the pipeline with svdlab.load."
        )
    return request.variant


def _sample(
    pipeline: StableVideoDiffusionPipeline, request: Request, picture: Image.Image, on_step: OnStep, bar: Progress
) -> torch.Tensor:
    """Latents (1, frames, channels, height, width), as the pipeline leaves them before decoding."""
    import torch

    def step_end(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        bar.update()
        on_step(step + 1, request.num_inference_steps, tensors["latents"])
        return tensors

    out: Any = pipeline(
        picture,
        height=request.height,
        width=request.width,
        num_frames=request.num_frames,
        min_guidance_scale=request.min_guidance_scale,
        max_guidance_scale=request.max_guidance_scale,
        fps=request.fps,
        motion_bucket_id=request.motion_bucket_id,
        noise_aug_strength=request.noise_aug_strength,
        num_inference_steps=request.num_inference_steps,
        sigmas=None if request.sigmas is None else list(request.sigmas),
        generator=torch.Generator("cpu").manual_seed(request.seed),  # the same noise on every device
        output_type="latent",
        callback_on_step_end=cast(Any, step_end),  # diffusers declares two arguments and passes four
    )
    return out.frames


def _decode(
    pipeline: StableVideoDiffusionPipeline, latents: torch.Tensor, request: Request, notes: list[str]
) -> torch.Tensor:
    """Pixels (1, channels, frames, height, width) in -1..1; decoded again in fp32 where half precision overflowed."""
    import torch

    if not torch.isfinite(latents).all():
        raise GenerationError(
            f"The denoiser gave not-a-number at seed {request.seed}, {request.height}x{request.width}: nothing can be "
            "shown; use dtype='bf16' or 'fp32', or a size nearer to the trained one."
        )
    pixels = pipeline.decode_latents(latents, request.num_frames, request.decode_chunk_size)
    broken = int((~torch.isfinite(pixels)).any(dim=(0, 1, 3, 4)).sum())
    if not broken:
        return pixels
    dtype = pipeline.vae.dtype
    with float32_decoder(pipeline) as changed:
        if changed:
            pixels = pipeline.decode_latents(latents.float(), request.num_frames, request.decode_chunk_size)
            if torch.isfinite(pixels).all():
                notes.append(f"{broken} frames decoded to not-a-number in {dtype} and were decoded again in float32.")
                return pixels
    raise GenerationError(
        f"{broken} of {request.num_frames} frames decoded to not-a-number in {dtype}, and float32 was no cure: load "
        "with dtype='bf16' or 'fp32'; if that is no better, the weights of the VAE are damaged: fetch them again."
    )


def _what_would_fit(setup: Setup | None, request: Request, doing: str, device: str) -> str:
    import torch

    asked = f"{request.num_frames} frames of {request.height}x{request.width}, decode chunk {request.decode_chunk_size}"
    used, there = "", None
    if (peak := peak_bytes(device)) is not None:
        torch.cuda.empty_cache()
        there = torch.cuda.get_device_properties(device).total_memory
        used = f" at {peak / 2**30:.1f} of {there / 2**30:.1f} GiB"
    try:
        advice = "" if setup is None else lighter(setup, request, there)
    except Exception:  # a prediction must not stand in the way of the reason
        advice = ""
    return (
        f"Out of memory{used} while {doing} ({asked}). {advice or 'Lower decode_chunk_size, or load with offloading.'}"
    )


@contextmanager
def _freed(pipeline: StableVideoDiffusionPipeline) -> Iterator[None]:
    """Give back what offloading holds on the device, however the clip ends."""
    try:
        yield
    finally:
        pipeline.maybe_free_model_hooks()
