"""One clip, from a request and a loaded pipeline: encode, denoise, decode.

Encode: CLIP and the VAE look at the picture, the latter under a little noise. Denoise: the UNet turns noise into
latents, a small image for each frame, in `num_inference_steps` steps. Decode: the VAE turns latents into pixels, a
chunk of frames at a time. diffusers does the first two in one call of the pipeline. What is done here is around it: the
picture is read once, one clip is made at a time, half precision that overflows is decoded again in fp32, and a device
that runs out of memory gets an error that says what would fit.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast, overload

from svdlab.dtypes import safer_dtypes
from svdlab.generation.clip import BLACK, Clip
from svdlab.machine import allowed_bytes, is_out_of_memory, peak_bytes, release_frames, reset_peak, synchronize
from svdlab.messages import shorten
from svdlab.pipelines.load import setup_of
from svdlab.pipelines.pipeline_lock import exclusive
from svdlab.pipelines.vae_precision import decode, keep_precision
from svdlab.prediction.cards import available_bytes
from svdlab.prediction.fitting import lighter
from svdlab.progress_bar import Progress
from svdlab.request import Request, conditioning, quiet_requests
from svdlab.setup import Setup

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    from svdlab.generation.clip import OnStep


# These fields of a request are used here. Every other one is an argument of diffusers' pipeline, of the same name.
_OWN_FIELDS = ("image", "seed", "sigmas", "decode_chunk_size", "fit", "focus", "variant")


class GenerationError(RuntimeError):
    """No frames came out that could be shown. The message says at which stage, and what to try."""


class OutOfMemory(GenerationError, MemoryError):
    """The device's memory was not enough. The message says at which stage, and which setups would fit."""


@overload
def generate(pipeline: StableVideoDiffusionPipeline, request: Request, *, seeds: None = None, **options: Any) -> Clip:
    """One clip, of the request's own seed.

    Args:
        pipeline, request, seeds, **options: As below.
    """


@overload
def generate(
    pipeline: StableVideoDiffusionPipeline, request: Request, *, seeds: Iterable[int], **options: Any
) -> list[Clip]:
    """A clip of each seed.

    Args:
        pipeline, request, seeds, **options: As below.
    """


def generate(  # pyright: ignore[reportInconsistentOverload]  (`options` stands for the three below)
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    *,
    seeds: Iterable[int] | None = None,
    on_step: OnStep | None = None,
    progress: bool = True,
    picture: Image.Image | None = None,
) -> Clip | list[Clip]:
    """The clip that a request asks for; without optimisations its frames are those of plain diffusers, bit for bit.

    Args:
        pipeline: From `load`, or any `StableVideoDiffusionPipeline`. Another thread that uses it is waited for.
        request: What to make. Fields left open are filled in from the pipeline's variant.
        seeds: Make one clip for each of these instead of for the request's own seed.
        on_step: Called after every step with the steps done, how many there are, and the latents (1, frames, channels,
            height, width). With `seeds` the steps done begin at 1 again for each clip. What it raises stops the clip,
            and leaves the pipeline fit for the next one.
        progress: Show a bar.
        picture: The request's image, read and fitted already (`conditioning(request)`). Left out, it is read here, once
            for all seeds.

    Returns:
        A clip; with `seeds` a list of clips in their order.

    Raises:
        GenerationError: The frames came out as not-a-number.
        OutOfMemory: The clip did not fit the device; a `GenerationError` too.
        ValueError: The image cannot be read, the picture has another size, or the setup cannot make this request.

    Example:
        With `pipeline = load(Setup("tiny"))` and a `clip` that it made before:
        >>> clips = generate(pipeline, clip.request, seeds=[7, 8], progress=False)
        >>> [each.request.seed for each in clips]
        [7, 8]
    """
    setup = setup_of(pipeline)
    variant = setup.variant if setup else request.variant
    if variant is None:
        raise ValueError(
            "The request leaves fields to the variant and the pipeline does not say which it is: make the request with "
            "Request.for_variant('svd-xt', …), or the pipeline with svdlab.load."
        )
    request = request.filled(variant)
    picture = conditioning(request) if picture is None else picture
    if picture.size != (request.width, request.height) or picture.mode != "RGB":
        raise ValueError(
            f"The picture is {picture.mode} of {picture.width}x{picture.height} and the request asks for RGB of "
            f"{request.width}x{request.height} (width x height): give svdlab.conditioning(request), or leave it out."
        )
    if seeds is None:
        return _generate_one(pipeline, request, setup, picture, on_step, progress)
    if not isinstance(seeds, Iterable):
        raise ValueError(f"seeds={shorten(seeds)} must be several, such as [7, 8]: one alone is the request's seed.")
    with quiet_requests():  # the first one has warned already, of the same values
        requests = [dataclasses.replace(request, seed=seed) for seed in seeds]
    return [_generate_one(pipeline, each, setup, picture, on_step, progress) for each in requests]


def _generate_one(
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    setup: Setup | None,
    picture: Image.Image,
    on_step: OnStep | None,
    progress: bool,
) -> Clip:
    import torch

    notes, device, earlier = list(request.concerns()), str(pipeline._execution_device), sys.exc_info()[1]
    stage, is_exhausted = "encoding or in the first step", False
    latents: Any = None
    frames: Any = None
    started_at = sampled_at = 0.0
    options: Any = {"total": request.num_inference_steps, "desc": f"seed {request.seed}", "disable": not progress}
    with exclusive(pipeline), keep_precision(pipeline), torch.no_grad(), Progress(unit="step", **options) as bar:

        def after_step(done: int, total: int, latents: torch.Tensor) -> None:
            nonlocal stage
            stage = f"denoising, step {done + 1} of {total}"
            bar.update()
            if on_step is not None:
                on_step(done, total, latents)

        try:
            for optimization, value in setup.parsed if setup else ():
                optimization.before_clip(pipeline, value, request)
            reset_peak(device)
            started_at = time.perf_counter()
            latents = _encode_and_denoise(pipeline, request, picture, after_step)
            stage = "decoding"
            synchronize(device)  # the last steps may still run there
            sampled_at = time.perf_counter()
            bar.set_postfix_str(stage)
            frames = pipeline.video_processor.postprocess_video(
                video=_decode(pipeline, latents, request, notes), output_type="pil"
            )[0]
            bar.set_postfix_str("")
        except BaseException as error:
            is_exhausted = is_out_of_memory(error)
            if not is_exhausted:
                release_frames(error, earlier, until=after_step.__code__)  # `on_step` may be looked at by its writer
                raise
        finally:
            pipeline.maybe_free_model_hooks()  # what offloading holds on the device
    if is_exhausted:  # out here, where no traceback holds the tensors of the attempt
        del latents
        raise OutOfMemory(_memory_advice(setup, request, stage, device))
    timings = {"sample_seconds": sampled_at - started_at, "decode_seconds": time.perf_counter() - sampled_at}
    if note := _black_frames(frames):
        warnings.warn(note, UserWarning, stacklevel=3)
        notes.append(note)
    return Clip(frames, request, setup, timings, tuple(notes), latents=latents[0].cpu(), picture=picture)


def _encode_and_denoise(
    pipeline: StableVideoDiffusionPipeline, request: Request, picture: Image.Image, after_step: OnStep
) -> torch.Tensor:
    """Latents (1, frames, channels, height, width), as the pipeline leaves them before decoding."""
    import torch

    def step_end(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        after_step(step + 1, request.num_inference_steps, tensors["latents"])
        return tensors

    output: Any = pipeline(
        picture,
        **{name: value for name, value in vars(request).items() if name not in _OWN_FIELDS},
        sigmas=None if request.sigmas is None else list(request.sigmas),
        generator=torch.Generator("cpu").manual_seed(request.seed),  # the same noise on every device
        output_type="latent",
        callback_on_step_end=cast(Any, step_end),  # diffusers declares two arguments and passes four
    )
    return output.frames


def _decode(
    pipeline: StableVideoDiffusionPipeline, latents: torch.Tensor, request: Request, notes: list[str]
) -> torch.Tensor:
    """Pixels (1, channels, frames, height, width) in -1..1."""
    import torch

    if not torch.isfinite(latents).all():
        raise GenerationError(
            f"The denoiser gave not-a-number at seed {request.seed}, {request.height}x{request.width}: nothing can be "
            f"shown; use {_safer_dtypes()}, or a size nearer to the trained one."
        )
    pixels, broken = decode(pipeline, latents, request.num_frames, request.decode_chunk_size)
    dtype = pipeline.vae.dtype
    if broken and not torch.isfinite(pixels).all():
        raise GenerationError(
            f"{broken} of {request.num_frames} frames decoded to not-a-number in {dtype}, and float32 was no cure: "
            f"load with {_safer_dtypes()}; if that is no better, the weights of the VAE are damaged: fetch them again."
        )
    if broken:
        notes.append(f"{broken} frames decoded to not-a-number in {dtype} and were decoded again in float32.")
    return pixels


def _black_frames(frames: list[Image.Image]) -> str | None:
    black = [i for i, frame in enumerate(frames) if max(high for _, high in cast(Any, frame.getextrema())) <= BLACK]
    if not black:
        return None
    return (
        f"{len(black)} of {len(frames)} frames are black (first: frame {black[0]}): the picture may be black, or "
        f"the size too far from what the model was trained at; try {_safer_dtypes()} and the trained size."
    )


def _safer_dtypes() -> str:
    return f"dtype={' or '.join(map(repr, safer_dtypes()))}"


def _memory_advice(setup: Setup | None, request: Request, stage: str, device: str) -> str:
    import torch

    size = f"{request.num_frames} frames of {request.height}x{request.width}, decode chunk {request.decode_chunk_size}"
    used, most_bytes, advice = "", None, ""
    if (peak := peak_bytes(device)) is not None:
        torch.cuda.empty_cache()
        most_bytes = allowed_bytes(device)
        used = f" at {peak / 2**30:.1f} of {most_bytes / 2**30:.1f} GiB"
    if setup:
        with suppress(Exception):  # a prediction must not stand in the way of the reason
            advice = lighter(setup, request, most_bytes and min(most_bytes, available_bytes(device)))
    advice = advice or "Lower decode_chunk_size, or load with offloading."
    return f"Out of memory{used} while {stage} ({size}). {advice}"
