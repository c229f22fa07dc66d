"""The checkpoints of Stable Video Diffusion that svdlab knows.

One pipeline serves them all. A `Variant` holds only what differs: where the weights are, how many frames of which size
the model was trained on, and which values of the knobs it knows. `tiny` is svdlab's own small model, bundled with the
package, so that everything can be tried on any machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from svdlab.messages import did_you_mean, shorten


@dataclass(frozen=True)
class Sampling:
    """A published choice of steps and guidance, under the names of a request's fields."""

    num_inference_steps: int
    min_guidance_scale: float
    max_guidance_scale: float


@dataclass(frozen=True)
class Variant:
    """One checkpoint: where it is, what it was trained for, and what may be done with it.

    Args:
        name: as `Setup` and `Request.for_variant` take it.
        repository: on the Hugging Face hub; None where the weights are bundled.
        frames, height, width: the size of clip that it was trained on, in pixels.
        decode_chunk_size: a divisor of `frames`: a last chunk of one frame would flicker, and compile again.
        presets: steps and guidance by name; the first is the default.
        fps, motion_bucket_id, noise_aug_strength: the defaults.
        fps_range: lowest and highest; Stability's sampling script warns outside.
        steps_range: under the first the picture degrades, over the second nothing is gained, by the guides.
        only: fields of a request with the one value that the checkpoint was tuned at.
        download_bytes: fp16 safetensors of all components.
        licence: of the weights.
        gated: whether the licence must be accepted on the hub, and a token given.
        good_for: what to choose it for.

    Example:
        >>> from svdlab import VARIANTS
        >>> VARIANTS["svd-xt"].frames
        25
    """

    name: str
    repository: str | None
    frames: int
    height: int
    width: int
    decode_chunk_size: int
    presets: dict[str, Sampling]
    fps: int = 7
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    fps_range: tuple[int, int] = (5, 30)
    steps_range: tuple[int, int] = (20, 30)
    only: dict[str, int] = field(default_factory=dict)
    download_bytes: int = 0
    licence: str = ""
    gated: bool = False
    good_for: str = ""

    @property
    def sampling(self) -> Sampling:
        """The default preset."""
        return next(iter(self.presets.values()))

    def stored_bytes(self, half: bool) -> int:
        """What the weights take on disk, and to download.

        Args:
            half: in 16 bits, as on a CUDA card; else in 32.
        """
        return self.download_bytes * (1 if half else 2)


_DIFFUSERS = Sampling(25, 1.0, 3.0)  # StableVideoDiffusionPipeline.__call__'s defaults
# Stability's presets: generative-models/scripts/sampling/simple_video_sample.py.
_XT_PRESETS = {"diffusers": _DIFFUSERS, "stability": Sampling(30, 1.5, 3.0)}
_PUBLISHED = {
    "height": 576,
    "width": 1024,
    # Parameters x 2 bytes, counted on the real modules: UNet 1,524,623,082, image encoder 632,076,800, VAE 97,742,847.
    "download_bytes": 4_508_885_458,
    "licence": "Stability AI Community License",
}

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant(
            "svd",
            repository="stabilityai/stable-video-diffusion-img2vid",
            frames=14,
            decode_chunk_size=7,
            presets={"diffusers": _DIFFUSERS, "stability": Sampling(25, 1.0, 2.5)},
            good_for="faster tries: about half the time of svd-xt, 14 frames",
            **_PUBLISHED,
        ),
        Variant(
            "svd-xt",
            repository="stabilityai/stable-video-diffusion-img2vid-xt",
            frames=25,
            decode_chunk_size=5,
            presets=_XT_PRESETS,
            good_for="almost everything: longer, smoother clips that answer to every knob",
            **_PUBLISHED,
        ),
        Variant(
            "svd-xt-1.1",
            repository="stabilityai/stable-video-diffusion-img2vid-xt-1-1",
            frames=25,
            decode_chunk_size=5,
            presets=_XT_PRESETS,
            only={"fps": 7, "motion_bucket_id": 127},
            gated=True,
            good_for="steadier clips at fps 7 and bucket 127, the only values it was tuned at",
            **_PUBLISHED,
        ),
        Variant(
            "tiny",
            repository=None,
            frames=14,
            height=96,
            width=160,
            decode_chunk_size=14,
            presets={"tiny": Sampling(4, 1.0, 1.0)},
            steps_range=(2, 12),
            licence="Apache-2.0",
            good_for="learning the knobs, tests and headless tries on any machine, in seconds",
        ),
    )
}

_NO_PIPELINE = {  # names of what people have beside these repositories -> what it is
    r"animatelcm": "a UNet alone, made for 2 to 8 steps of a scheduler that diffusers lacks; use svd-xt",
    r"svd.*\.safetensors$": "all of a model in one file, for other programs; use weights='hub'",
}


def variant(name: str) -> Variant:
    """The variant of a name, or a `ValueError` with the nearest one."""
    if not isinstance(name, str) or name not in VARIANTS:
        reason = explain_unloadable(str(name))
        hint = f"; {reason}." if reason else did_you_mean(name, VARIANTS) or "."
        raise ValueError(f"Unknown variant {shorten(name)}: expected one of {', '.join(VARIANTS)}{hint}")
    return VARIANTS[name]


def explain_unloadable(name: str) -> str:
    """What a model or file is that is known and makes no pipeline; empty where the name says nothing.

    Args:
        name: of a variant, a repository or a file.
    """
    last = name.rstrip("/").rsplit("/")[-1]
    known = (what for pattern, what in _NO_PIPELINE.items() if re.match(pattern, last, re.IGNORECASE))
    return next((f"{last} is {what}" for what in known), "")
