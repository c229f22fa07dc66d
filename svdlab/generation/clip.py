"""A clip, and how it comes about: `generate` asks a pipeline for one, `read` opens one that was saved.

>>> clip = generate(pipeline, Request.for_variant("tiny", image="rocket", seed=11))
>>> clip.save("rocket.mp4")
>>> generate(pipeline, read("rocket.mp4").request).frames == clip.frames
True
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from PIL import Image

import svdlab
from svdlab.media import images
from svdlab.optimizations.forward_chunking import chunk_sizes
from svdlab.pipelines.load import setup_of
from svdlab.prediction.fitting import lighter
from svdlab.progress_bar import Progress
from svdlab.request import Request
from svdlab.setup import Setup

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline

    OnStep = Callable[[int, int, torch.Tensor], None]

BLACK = 2  # of 255: a frame with no value above this shows nothing on any screen


class GenerationError(RuntimeError):
    """The model gave no picture that could be shown; the message says where it broke and what to try."""


class OutOfMemory(GenerationError, MemoryError):
    """The device's memory did not last; the message says at what, and which setups would fit."""


@dataclass(frozen=True)
class Seam:
    """Where one segment of a chained clip ends. `jump` is the change across it over the median change between
    neighbouring frames: 1 cannot be seen, 3 is a visible cut."""

    frame: int  # the first frame of the new segment
    jump: float | None  # None: nothing else moves, so there is nothing to compare with


@dataclass(frozen=True)
class Clip:
    """Frames, and the truth about them: shown inline when last in a cell.

    `frames` are RGB pictures of the request's size. `request` and `setup` have every open field filled in.
    `latents` (frames, channels, height, width) are what was decoded; None for a clip read from a file.
    `timings` are seconds: `sample_seconds` (encoding and denoising), `decode_seconds`.
    """

    frames: list[Image.Image]
    request: Request
    setup: Setup | None
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was noticed or mended on the way, a sentence each
    seams: tuple[Seam, ...] = ()  # of a chained clip
    latents: torch.Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def segments(self) -> int:
        """How many calls of the model this clip was chained from; 1 for an ordinary one."""
        return len(self.seams) + 1

    def save(self, path: str | Path, fps: float | None = None, **options: Any) -> Path:
        """Write `.mp4`, `.gif`, `.webp` or, for a name without a suffix, a folder of PNG frames.

        `fps` is the playback speed; left out, the clip plays at the speed that it was conditioned on. The request, the
        setup and the picture travel inside, so that `read` can make it again. `options`: see `video.write`.
        """
        from svdlab.media import video  # PyAV, which clips that are only measured can do without

        image = self.request.image  # a picture in memory has no other home: it is carried whole
        picture = image if isinstance(image, Image.Image) else conditioning(self.request)
        settings = {
            "svdlab": svdlab.__version__,
            "request": _without_picture(self.request) | {"image": image if isinstance(image, str) else None},
            "setup": None if self.setup is None else dataclasses.asdict(self.setup),
            "timings": self.timings,
            "notes": self.notes,
            "seams": [dataclasses.asdict(seam) for seam in self.seams],
        }
        text = json.dumps(settings, ensure_ascii=False)
        return video.write(
            path, self.frames, self.request.fps if fps is None else fps, metadata=text, picture=picture, **options
        )

    def _repr_html_(self) -> str:
        from svdlab.media.show import show

        return show(self)._repr_html_()


def conditioning(request: Request) -> Image.Image:
    """The picture as the model will see it: RGB, of the request's size."""
    return images.fit(images.read(request.image), request.height, request.width, request.fit, request.focus)


@overload
def generate(
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    *,
    seeds: None = None,
    on_step: OnStep | None = None,
    progress: bool = True,
) -> Clip: ...
@overload
def generate(
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    *,
    seeds: Iterable[int],
    on_step: OnStep | None = None,
    progress: bool = True,
) -> list[Clip]: ...
def generate(
    pipeline: StableVideoDiffusionPipeline,
    request: Request,
    *,
    seeds: Iterable[int] | None = None,
    on_step: OnStep | None = None,
    progress: bool = True,
) -> Clip | list[Clip]:
    """The clip that `request` asks for, its frames those of plain diffusers on the same weights, bit for bit.

    `seeds` makes one clip for each instead of for the request's own, and returns them in that order.
    `on_step(done, total, latents)` is called after every step; what it raises stops the clip within that step, and
    leaves the pipeline fit for the next. Raises `GenerationError` where the frames come out as not-a-number.
    """
    setup = setup_of(pipeline)
    request = request.filled(_variant_for(request, setup))
    if seeds is not None:
        each = [dataclasses.replace(request, seed=seed) for seed in seeds]
        return [generate(pipeline, one, on_step=on_step, progress=progress) for one in each]

    for size in chunk_sizes(pipeline):
        if request.num_frames % size:
            raise ValueError(
                f"num_frames={request.num_frames} is not divisible by the forward chunk of {size}: "
                "ask for a multiple of it, or load with forward-chunking=1."
            )

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

    with Progress(total=steps, desc=label, unit="step", disable=not progress) as bar, _freed(pipeline), torch.no_grad():
        try:
            latents = _sample(pipeline, request, stepped, bar)
            sampled = time.perf_counter()
            doing = "decoding"
            bar.set_postfix_str(doing)
            pixels = _decode(pipeline, latents, request, notes)
            frames: Any = pipeline.video_processor.postprocess_video(video=pixels, output_type="pil")[0]
            bar.set_postfix_str("")
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _of_memory(error):
                raise
            exhausted = doing
    if exhausted:  # out here, where no traceback holds the tensors of the attempt
        raise OutOfMemory(_what_would_fit(setup, request, exhausted))
    timings = {"sample_seconds": sampled - started, "decode_seconds": time.perf_counter() - sampled}
    black = [i for i, frame in enumerate(frames) if max(high for _, high in frame.getextrema()) <= BLACK]
    if black:
        sentence = (
            f"{len(black)} of {len(frames)} frames are black (first: frame {black[0]}): the picture may be black, or "
            "the size too far from what the model was trained at; try dtype='bf16' or 'fp32' and the trained size."
        )
        warnings.warn(sentence, UserWarning, stacklevel=2)
        notes.append(sentence)
    return Clip(frames, request, setup, timings, tuple(notes), latents=latents[0].cpu())


def read(path: str | Path) -> Clip:
    """The clip saved at `path`, with the request and the setup that made it.

    The frames are as the file holds them (MP4 and GIF lose a little); the settings are exact. The request names its
    picture as it did where that can still be found unchanged, and else carries the copy from inside the file.
    A `ValueError` for a file without settings of ours.
    """
    from svdlab.media import video

    text, picture = video.read_metadata(path)
    try:
        settings = json.loads(text or "")
        fields = dict(settings["request"])
        setup = settings["setup"] and Setup.from_json(settings["setup"])
        seams = tuple(Seam(**seam) for seam in settings.get("seams", ()))
        timings, notes = dict(settings.get("timings", {})), tuple(settings.get("notes", ()))
    except (ValueError, TypeError, KeyError) as error:
        reason = str(error) if isinstance(error, ValueError) and text and "svdlab" in text else "none found"
        raise ValueError(
            f"{path} holds no settings that svdlab can read ({reason}): expected a file written by clip.save."
        ) from error
    with warnings.catch_warnings():  # said when the clip was made, and in its notes
        warnings.simplefilter("ignore", UserWarning)
        request = _with_picture(fields, picture)
    return Clip(video.read(path)[0], request, setup, timings, notes, seams)


def _variant_for(request: Request, setup: Setup | None) -> str:
    if setup is not None:
        return setup.variant
    if request.variant is None:
        raise ValueError(
            "The request leaves fields to the variant and the pipeline does not say which it is: make the request with "
            "Request.for_variant('svd-xt', …), or the pipeline with svdlab.load."
        )
    return request.variant


def _sample(pipeline: StableVideoDiffusionPipeline, request: Request, on_step: OnStep, bar: Progress) -> torch.Tensor:
    """Latents (1, frames, channels, height, width), as the pipeline leaves them before decoding."""
    import torch

    def step_end(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        bar.update()
        on_step(step + 1, request.num_inference_steps, tensors["latents"])
        return tensors

    out: Any = pipeline(
        conditioning(request),
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
    if dtype != torch.float32 and not any(weight.is_meta for weight in pipeline.vae.parameters()):
        pipeline.vae.to(torch.float32)  # (under sequential offload its weights are elsewhere, and stay as they are)
        try:
            pixels = pipeline.decode_latents(latents.float(), request.num_frames, request.decode_chunk_size)
        finally:
            pipeline.vae.to(dtype)
        if torch.isfinite(pixels).all():
            notes.append(f"{broken} frames decoded to not-a-number in {dtype} and were decoded again in float32.")
            return pixels
    raise GenerationError(
        f"{broken} of {request.num_frames} frames decoded to not-a-number in {dtype}, and float32 was no cure: load "
        "with dtype='bf16' or 'fp32'; if that is no better, the weights of the VAE are damaged: fetch them again."
    )


def _of_memory(error: RuntimeError) -> bool:
    import torch

    of_a_card = isinstance(error, torch.OutOfMemoryError)
    return of_a_card or "can't allocate memory" in str(error)  # as a processor says it


def _what_would_fit(setup: Setup | None, request: Request, doing: str) -> str:
    import torch

    asked = f"{request.num_frames} frames of {request.height}x{request.width}, decode chunk {request.decode_chunk_size}"
    used, there = "", None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        there = torch.cuda.get_device_properties(0).total_memory
        used = f" at {torch.cuda.max_memory_allocated() / 2**30:.1f} of {there / 2**30:.1f} GiB"
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


def _without_picture(request: Request) -> dict[str, Any]:
    return {f.name: getattr(request, f.name) for f in dataclasses.fields(request) if f.name != "image"}


def _with_picture(fields: dict[str, Any], picture: Image.Image | None) -> Request:
    """The saved request, its picture by name where that still gives the very pixels that the model saw.

    `picture` is then what the model saw; for a request whose picture had no name it is the whole picture itself.
    """
    source = fields.pop("image", None)
    local = isinstance(source, str) and (source in images.EXAMPLES or Path(source).is_file())  # never a URL
    if local:
        request = Request.from_json(fields | {"image": source})
        try:
            if picture is None or images.digest(conditioning(request)) == images.digest(picture):
                return request
        except ValueError:
            pass  # the file is another now, or no picture any more
    if picture is None:
        raise ValueError(f"The picture {source!r} is gone and the file carries no copy of it.")
    return dataclasses.replace(Request.from_json(fields | {"image": "rocket"}), image=picture)
