"""The measures of `svdlab.quality.diagnose` on healthy clips and on broken ones: where its thresholds come from.

    python -m benchmarks.thresholds [--scenes 6]

Each line gives lowest, median and highest of one measure over the clips named. Clips are made by the bundled model
from scenes that it was never trained on, or drawn.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data

from svdlab import VARIANTS, Clip, Request, Setup, assess, generate, load
from svdlab.media.images import fit_image
from svdlab.quality.faces import faces
from svdlab.quality.symptoms import seam_ratio, travel_percent
from svdlab.tiny import pixels_per_frame
from training.scenes import draw, layers

TINY = VARIANTS["tiny"]
PIPELINE = load(Setup("tiny"))
CHUNKS = (2, 3, 4, 7)
LEANS = (0.05, 0.1, 0.2)


def scene(seed: int, world: str = "rocket", scale: int = 1) -> Image.Image:
    frame = draw([seed], 0, 7, 1, TINY.height * scale, TINY.width * scale, world=world)[0][0, 0]
    return Image.fromarray((frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


def make_clip(picture: Image.Image, **fields: Any) -> Clip:
    return generate(PIPELINE, Request.for_variant("tiny", image=picture, **fields), progress=False)


def decode_in_chunks(clip: Clip, chunk: int) -> Clip:
    """The clip's own latents, decoded `chunk` frames at a time."""
    assert clip.latents is not None
    request = Request.for_variant("tiny", image=clip.request.image, decode_chunk_size=chunk)
    with torch.no_grad():
        pixels: Any = PIPELINE.decode_latents(clip.latents[None], len(clip.frames), chunk)
    frames: Any = PIPELINE.video_processor.postprocess_video(video=pixels, output_type="pil")[0]
    return Clip(frames, request, clip.setup)


def print_range(what: str, values: Iterable[float | None]) -> None:
    ordered = sorted(value for value in values if value is not None)
    middle = ordered[len(ordered) // 2]
    print(f"{what:66} {len(ordered):3} clips: {ordered[0]:7.2f} {middle:7.2f} {ordered[-1]:7.2f}", flush=True)


def motion(scenes: range) -> list[Clip]:
    """Travel from beginning to end, in % of the width, and as a share of the rule."""
    healthy = []
    for bucket in (0, 5, 30, 60, 127, 220):
        clips = [make_clip(scene(seed), seed=seed, motion_bucket_id=bucket) for seed in scenes]
        travels = [travel_percent(clip) for clip in clips]
        print_range(f"travel, bucket {bucket}", travels)
        if bucket >= 60:
            healthy += clips
            print_range(
                f"  as a share of the rule, bucket {bucket}",
                (t / (pixels_per_frame(bucket, 7, 100) * 11) for t in travels),
            )
    dice = np.random.default_rng(0)
    for levels in (15, 40):
        busy = [np.asarray(scene(seed)) + dice.normal(0, levels, (TINY.height, TINY.width, 1)) for seed in scenes[:3]]
        clips = [make_clip(Image.fromarray(b.clip(0, 255).astype(np.uint8)), motion_bucket_id=127) for b in busy]
        share = (travel_percent(clip) / (pixels_per_frame(127, 7, 100) * 11) for clip in clips)
        print_range(f"  as a share of the rule, texture of {levels} levels over the picture", share)
    photos = [make_clip(scene(seed, "photo"), motion_bucket_id=127) for seed in scenes]
    print_range(
        "  as a share of the rocket's rule, pictures without a rocket",
        (travel_percent(c) / (pixels_per_frame(127, 7, 100) * 11) for c in photos),
    )
    for height, width in ((72, 128), (64, 64), (128, 128), (192, 320)):
        clips = [make_clip(scene(seed, scale=4), height=height, width=width) for seed in scenes[:2]]
        share = (travel_percent(clip) / (pixels_per_frame(127, 7, 100) * 11) for clip in clips)
        print_range(f"  as a share of the rule, {height}x{width}", share)
    return healthy + photos


def seams(clips: list[Clip]) -> None:
    """The bundled VAE hardly mixes frames. `LEANS` is how far its last convolution over time is made to."""
    for chunk in CHUNKS:
        print_range(f"seam ratio, chunk {chunk}", (seam_ratio(decode_in_chunks(clip, chunk)) for clip in clips))
    convolution: Any = PIPELINE.vae.decoder.time_conv_out
    weight = convolution.weight.detach().clone()
    for lean in LEANS:
        with torch.no_grad():
            convolution.weight[:, :, 1] = weight[:, :, 1] * (1 - 2 * lean)
            convolution.weight[:, :, 0] = convolution.weight[:, :, 2] = weight[:, :, 1] * lean
        for chunk in CHUNKS:
            print_range(
                f"seam ratio, leaning {lean:.0%} on either neighbour, chunk {chunk}",
                (seam_ratio(decode_in_chunks(clip, chunk)) for clip in clips[::3]),
            )
        with torch.no_grad():
            convolution.weight.copy_(weight)


def colour(clips: list[Clip], scenes: range) -> None:
    def print_drift(what: str, group: list[Clip]) -> None:
        measured = [assess(clip) for clip in group]
        print_range(f"saturation drift, {what}", (q.saturation_drift_levels for q in measured))
        print_range(f"light drift, {what}", (q.brightness_drift_levels for q in measured))

    print_drift("clips that are well", clips)
    for scale in (2.0, 3.0, 6.0):
        print_drift(
            f"guidance {scale}", [make_clip(scene(seed), seed=seed, max_guidance_scale=scale) for seed in scenes[:3]]
        )
    for noise in (0.3, 1.0, 3.0):
        print_drift(
            f"noise {noise}", [make_clip(scene(seed), seed=seed, noise_aug_strength=noise) for seed in scenes[:3]]
        )


def pictures() -> None:
    """Drawn scenes alone: what a crop cuts off a rocket, what enlarging takes from a picture, what has a face."""
    for share in (0.9, 0.75, 0.6, 0.45):
        margin = round(128 * (1 - share) / 2)
        covers = [layers(seed)[2] for seed in range(200)]
        cut = np.mean([float(c[:, margin : 128 - margin].sum() / c.sum()) < 0.9 for c in covers])
        print(f"a crop that keeps {share:.0%}: {cut:.0%} of 200 drawn rockets lose over a tenth of themselves")
    for times in (1.5, 2, 3, 4):
        large = [scene(seed, "photo", 4) for seed in range(12)]
        small = [p.resize((round(p.width / times), round(p.height / times)), Image.Resampling.LANCZOS) for p in large]
        pairs = [(p, fit_image(s, p.height, p.width)) for p, s in zip(large, small, strict=True)]
        print_range(
            f"sharpness kept, enlarged {times} times", (assess([big] * 2, p).sharpness_relative for p, big in pairs)
        )
    crops = [Image.fromarray((face * 255).astype(np.uint8)).resize((120, 120)) for face in data.lfw_subset()]
    for name, group in (("faces", crops[:50]), ("others", crops[100:150])):
        count = 0
        for crop in group:
            page = Image.new("RGB", (512, 288), (120, 120, 120))
            page.paste(crop, (190, 80))
            count += bool(faces(page))
        print(f"a face is found in {count} of 50 {name} of scikit-image's lfw_subset")
    scenes = [scene(seed, world, 4) for world in ("rocket", "photo") for seed in range(50)]
    print(f"a face is found in {sum(bool(faces(p)) for p in scenes)} of 100 drawn scenes")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--scenes", type=int, default=6)
    scenes = range(2000, 2000 + options.parse_args().scenes)
    warnings.simplefilter("ignore", UserWarning)
    pictures()
    healthy = motion(scenes)
    seams(healthy)
    colour(healthy, scenes)


if __name__ == "__main__":
    main()
