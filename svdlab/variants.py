"""The checkpoints of Stable Video Diffusion that this laboratory knows, and only what differs between them.

>>> from svdlab import VARIANTS
>>> VARIANTS["svd-xt"].frames
25
"""

from __future__ import annotations

from dataclasses import dataclass, field

from svdlab.messages import did_you_mean, shorten


@dataclass(frozen=True)
class Sampling:
    """A published choice of steps and guidance. Guidance rises linearly from the first frame to the last."""

    num_inference_steps: int
    min_guidance_scale: float
    max_guidance_scale: float


@dataclass(frozen=True)
class Variant:
    """One checkpoint: where it is, what it was trained for, what it needs, and what may be done with it.

    Sizes are pixels, `*_bytes` are bytes. A field that is `None` is not known; it is never a zero.
    """

    name: str
    repository: str | None  # on the Hugging Face hub; None: the weights travel inside this package
    frames: int
    height: int
    width: int
    decode_chunk_size: int  # a divisor of `frames`, so that no chunk is left with one frame (a flicker, a recompile)
    presets: dict[str, Sampling]  # the first is the default
    fps: int = 7  # diffusers conditions on fps - 1
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    fps_range: tuple[int, int] = (5, 30)  # Stability's sampling script warns outside
    steps_range: tuple[int, int] = (20, 30)  # under 20 the guides see it degrade; over 30 they see no gain
    only: dict[str, int] = field(default_factory=dict)  # values the checkpoint was tuned at, and at no others
    download_bytes: int = 0  # fp16 safetensors of all components
    decode_peak_bytes: int | None = None  # computed, fp16, one 576x1024 chunk of `decode_chunk_size` frames
    denoise_peak_bytes: int | None = None  # computed, fp16 with SDPA, UNet weights and a guided step
    licence: str = ""
    gated: bool = False  # the licence must be accepted on the hub, and a token given
    good_for: str = ""

    @property
    def sampling(self) -> Sampling:
        """The default preset."""
        return next(iter(self.presets.values()))


GiB = 2**30

# Parameters x 2 bytes: UNet 1,524,623,082 + image encoder 632,076,800 + VAE 97,742,847; counted on the real modules.
_FP16_BYTES = 4_508_885_458
_DIFFUSERS = Sampling(25, 1.0, 3.0)  # StableVideoDiffusionPipeline.__call__'s defaults

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant(
            "svd",
            repository="stabilityai/stable-video-diffusion-img2vid",
            frames=14,
            height=576,
            width=1024,
            decode_chunk_size=7,
            # Stability: generative-models/scripts/sampling/simple_video_sample.py
            presets={"diffusers": _DIFFUSERS, "stability": Sampling(25, 1.0, 2.5)},
            download_bytes=_FP16_BYTES,
            denoise_peak_bytes=int(7.18 * GiB),
            licence="Stability AI Community License",
            good_for="faster tries: about half the time of svd-xt, 14 frames",
        ),
        Variant(
            "svd-xt",
            repository="stabilityai/stable-video-diffusion-img2vid-xt",
            frames=25,
            height=576,
            width=1024,
            decode_chunk_size=5,
            presets={"diffusers": _DIFFUSERS, "stability": Sampling(30, 1.5, 3.0)},
            download_bytes=_FP16_BYTES,
            decode_peak_bytes=int(5.81 * GiB),
            denoise_peak_bytes=int(10.57 * GiB),
            licence="Stability AI Community License",
            good_for="almost everything: longer, smoother clips that answer to every knob",
        ),
        Variant(
            "svd-xt-1.1",
            repository="stabilityai/stable-video-diffusion-img2vid-xt-1-1",
            frames=25,
            height=576,
            width=1024,
            decode_chunk_size=5,
            presets={"diffusers": _DIFFUSERS, "stability": Sampling(30, 1.5, 3.0)},
            only={"fps": 7, "motion_bucket_id": 127},
            download_bytes=_FP16_BYTES,
            decode_peak_bytes=int(5.81 * GiB),
            denoise_peak_bytes=int(10.57 * GiB),
            licence="Stability AI Community License",
            gated=True,
            good_for="steadier clips at fps 7 and bucket 127, the only values it was tuned at",
        ),
        Variant(
            "tiny",
            repository=None,
            frames=14,
            height=72,
            width=128,
            decode_chunk_size=14,
            presets={"tiny": Sampling(4, 1.0, 1.0), "guided": Sampling(4, 1.0, 2.0)},
            steps_range=(2, 12),
            licence="Apache-2.0",
            good_for="learning the knobs, tests and headless tries on any machine, in seconds",
        ),
    )
}


def variant(name: str) -> Variant:
    """The variant called `name`; a `ValueError` with the nearest name if there is none."""
    if name in VARIANTS:
        return VARIANTS[name]
    hint = did_you_mean(name, VARIANTS) or "."
    raise ValueError(f"Unknown variant {shorten(str(name))}: expected one of {', '.join(VARIANTS)}{hint}")
