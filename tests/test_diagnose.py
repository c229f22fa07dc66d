"""Each symptom, drawn or provoked, is found, with a cure that applies; and clips that are well have none."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svdlab import Request, Setup, diagnose, generate
from svdlab.generation.clip import Clip, Seam
from svdlab.media.images import EXAMPLES, fit_image, open_image
from svdlab.quality.diagnose import Finding
from svdlab.quality.faces import faces
from svdlab.quality.symptoms import measures, seam_ratio, travel_percent

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@cache
def drawn(seed: int, bucket: float, world: str = "rocket", frames: int = 14) -> list[Image.Image]:
    from training.scenes import draw

    clip = draw([seed], bucket, 7, frames, 72, 128, world=world)[0][0]
    return [Image.fromarray(f) for f in (clip.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)]


def clip_of(frames: list[Image.Image], setup: Setup | None = None, variant: str = "tiny", **fields: Any) -> Clip:
    asked: dict[str, Any] = {"image": frames[0], "height": frames[0].height, "width": frames[0].width}
    asked |= {"num_frames": len(frames)} | fields
    return Clip(frames, Request(**asked).filled(variant), setup)


def changed(frames: list[Image.Image], change) -> list[Image.Image]:
    return [
        Image.fromarray((np.asarray(f, float) + change(i)).clip(0, 255).astype(np.uint8)) for i, f in enumerate(frames)
    ]


def only(clip: Clip, symptom: str) -> Finding:
    [finding] = [finding for finding in diagnose(clip) if finding.symptom == symptom]
    assert symptom in str(finding)
    assert "\n  -> " in str(finding)
    table = diagnose(clip)._repr_html_() or ""
    assert all(f"{name}=" in table for name in finding.changes | finding.setup_changes)
    assert ("replace(clip.request, " in table) >= bool(finding.changes)
    assert ("load(replace(clip.setup, " in table) >= bool(finding.setup_changes)
    return finding


def symptoms(clip: Clip) -> list[str]:
    return [finding.symptom for finding in diagnose(clip)]


@pytest.mark.parametrize(
    ("seed", "bucket"), [(100, 60), (100, 220), *(pytest.param(101, b, marks=pytest.mark.slow) for b in (60, 127, 220))]
)
def test_a_clip_that_is_well_has_no_finding(seed, bucket):
    found = diagnose(clip_of(drawn(seed, bucket), motion_bucket_id=bucket))
    assert found == []
    assert repr(found) == "Nothing was found that needs a cure."
    assert found.apply(Setup("tiny")) == Setup("tiny")


def test_travel_is_the_rule_and_shimmer_is_no_travel():
    """Eleven frames lie between the middles of the first three and the last three."""
    for bucket, share in ((60, 0.35), (127, 0.25)):
        promised = 12.5 * bucket / 255 / 7 * 11
        assert travel_percent(clip_of(drawn(100, bucket))) == pytest.approx(promised, rel=share)
    dice = np.random.default_rng(0)
    still = changed(drawn(100, 0)[:1] * 14, lambda _: dice.normal(0, 6, (72, 128, 3)))
    assert travel_percent(clip_of(still)) < 1


def test_nothing_moves_because_little_was_asked():
    finding = only(clip_of(drawn(100, 5), motion_bucket_id=5), "static")
    assert finding.changes == {"motion_bucket_id": 190, "noise_aug_strength": 0.1}
    assert "bucket 5 at fps 7 asks for little" in finding.cause
    quick = only(clip_of(drawn(100, 5), motion_bucket_id=127, fps=30), "static")
    assert quick.changes["fps"] == 7


def test_nothing_moves_although_it_was_asked():
    clip = clip_of(drawn(100, 5), motion_bucket_id=200)
    finding = only(clip, "static")
    assert "bucket 200 at fps 7 promises" in finding.evidence
    assert finding.apply(clip.request).motion_bucket_id == 200
    assert finding.apply(clip.request).noise_aug_strength == 0.1
    last = only(clip_of(drawn(100, 5), motion_bucket_id=200, noise_aug_strength=0.1), "static")
    assert (last.changes, last.advice) == ({}, "give a cleaner picture")
    published = clip_of([f.resize((256, 144)) for f in drawn(100, 20)], variant="svd", motion_bucket_id=200)
    assert "promises" not in only(published, "static").evidence  # nobody has published a rule


@pytest.mark.parametrize(("chunk", "frames", "variant", "next_chunk"), [
    (2, 14, "tiny", 14), (4, 14, "tiny", 14), (2, 25, "svd-xt", 5), (5, 25, "svd-xt", 9), (4, 14, "svd", 7),
])  # fmt: skip
def test_flicker_in_time_with_the_chunks(chunk, frames, variant, next_chunk):
    """Frames at the edges of chunks a little darker, as where the VAE lacks a neighbour; or every other chunk."""
    edge = [i % chunk in (0, chunk - 1) or i == frames - 1 for i in range(frames)]
    dark = (lambda i: -6 * edge[i]) if chunk > 2 else (lambda i: -6 * (i // chunk % 2))
    smooth = drawn(100, 100, frames=frames)
    assert (seam_ratio(clip_of(smooth, variant=variant, decode_chunk_size=chunk)) or 0) < 1.2
    clip = clip_of(changed(smooth, dark), variant=variant, decode_chunk_size=chunk, num_inference_steps=25)
    finding = only(clip, "seams")
    assert finding.changes["decode_chunk_size"] == next_chunk
    assert finding.changes.get("num_inference_steps") == (None if variant == "tiny" else 30)
    assert finding.apply(clip.request).decode_chunk_size == next_chunk


def test_flicker_out_of_time_with_the_chunks_is_not_theirs():
    pulse = changed(drawn(100, 100), lambda i: -6 * (i % 3 == 0))
    assert "seams" in symptoms(clip_of(pulse, decode_chunk_size=3))
    assert "seams" not in symptoms(clip_of(pulse, decode_chunk_size=7))
    for chunk in (1, 14):
        assert seam_ratio(clip_of(pulse, decode_chunk_size=chunk)) is None
    chained = dataclasses.replace(clip_of(pulse, decode_chunk_size=3), seams=(Seam(7, 1.0),))
    assert seam_ratio(chained) is None


def test_black_frames_ask_for_precision_and_the_trained_size():
    black = [Image.new("RGB", (256, 256))] * 14
    half = Setup("svd", weights="random", dtype="fp16")
    finding = only(clip_of(black, half, "svd", image=drawn(100, 0)[0]), "black")
    assert finding.evidence == "14 of 14 frames are black"
    assert (finding.changes, finding.apply(half).dtype) == ({"height": 576, "width": 1024}, "bf16")
    trained = [Image.new("RGB", (128, 72))] * 14
    assert only(clip_of(trained, Setup("tiny", dtype="bf16"), image=drawn(100, 0)[0]), "black").setup_changes == {
        "dtype": "fp32"
    }
    assert "load them again" in only(clip_of(trained, Setup("tiny", dtype="fp32"), image="rocket"), "black").advice
    assert only(clip_of(trained), "black").cause == "so is the picture"


def test_frames_that_were_decoded_twice_ask_for_bf16(checkpoint, ask):
    """As `generate` itself notes it."""
    import torch

    from svdlab import load

    setup = Setup("svd", weights=str(checkpoint), dtype="bf16", device="cpu")
    pipeline = load(setup)
    decode = pipeline.vae.decode

    def overflowing(latents, **named):
        out = decode(latents, **named)
        if latents.dtype == torch.bfloat16:
            out.sample[1] = float("nan")
        return out

    pipeline.vae.decode = overflowing  # pyright: ignore[reportAttributeAccessIssue]
    clip = generate(pipeline, ask(), progress=False)
    assert only(clip, "half precision").apply(setup).dtype == "fp32"
    assert clip.latents is not None
    broken = dataclasses.replace(clip, latents=clip.latents * float("nan"))
    assert "not-a-number" in only(broken, "black").evidence


def test_colours_that_run_away():
    frames = drawn(100, 127)
    grey = [np.asarray(f).mean(axis=2, keepdims=True) for f in frames]
    washed = changed(frames, lambda i: (grey[i] - np.asarray(frames[i])) * i / 13 * 0.9)
    finding = only(clip_of(washed, noise_aug_strength=1.0, motion_bucket_id=100), "colour")
    assert finding.changes == {"noise_aug_strength": 0.02}
    gaudy = changed(frames, lambda i: (np.asarray(frames[i]) - grey[i]) * i / 13 * 2)
    finding = only(clip_of(gaudy, max_guidance_scale=6.0), "colour")
    assert finding.changes == {"max_guidance_scale": 1.0, "min_guidance_scale": 1.0}
    assert only(clip_of(gaudy), "colour").changes == {"seed": 1}
    lit = clip_of(changed(frames, lambda i: 3 * i))
    chained = dataclasses.replace(lit, seams=(Seam(7, 1.0),))
    assert "2 segments" in only(chained, "colour").cause


def test_size_shape_and_small_pictures_come_together_gravest_first():
    portrait = drawn(100, 0)[0].crop((40, 0, 76, 72)).resize((18, 36))
    frames = [f.resize((64, 64)) for f in drawn(100, 127)]
    clip = clip_of(frames, image=portrait)
    found = diagnose(clip)
    assert [f.symptom for f in found][:3] == ["size", "shape", "enlarged"]
    assert "enlarged 3.6 times" in found[2].evidence
    asked = found.apply(clip.request)
    assert (asked.height, asked.width, asked.fit) == (72, 128, "pad")
    stretched = clip_of(frames, image=portrait, fit="stretch")
    assert only(stretched, "shape").changes == {"fit": "crop"}
    assert "2.0 times too wide" in only(stretched, "shape").cause
    assert "shape" not in symptoms(clip_of(frames, image=portrait, fit="pad"))


def test_of_two_cures_for_one_field_the_graver_one_is_taken():
    found = diagnose(clip_of(drawn(100, 5), motion_bucket_id=5))
    other = dataclasses.replace(found[0], symptom="lesser", changes={"motion_bucket_id": 60})
    found.append(other)
    assert found.apply(clip_of(drawn(100, 5)).request).motion_bucket_id == 190


def test_faces_are_named_where_there_are_some():
    from skimage import data

    astronaut = Image.fromarray(data.astronaut()).crop((0, 0, 512, 288))
    [box] = faces(astronaut)
    assert box == pytest.approx((180, 70, 95, 95), abs=30)
    assert faces(astronaut.resize((2048, 1152)))
    clip = clip_of(drawn(100, 127), image=astronaut)
    assert "1 face was found" in only(clip, "faces").evidence
    assert not only(clip, "faces").changes
    for name in ("coffee", "text"):
        assert faces(Image.fromarray(getattr(data, name)()).convert("RGB")) == []
    assert faces(Image.new("RGB", (40, 40))) == []


def test_a_photograph_is_nothing_for_the_bundled_model():
    """Each example but the photograph among them is a drawing; a photograph that stands still gets this cure alone."""
    for name in EXAMPLES:
        picture = fit_image(open_image(name), 72, 128)
        found = symptoms(clip_of([picture] * 14, image=name))
        assert ("photograph" in found, "static" in found) == (name == "launch", name != "launch")
    assert "photograph" not in symptoms(clip_of([fit_image(open_image("launch"), 72, 128)] * 14, variant="svd"))


def test_more_motion_and_calm_faces_are_one_advice():
    from skimage import data

    astronaut = Image.fromarray(data.astronaut()).crop((0, 0, 512, 288))
    still = clip_of([astronaut.resize((256, 144))] * 14, variant="svd", image=astronaut, motion_bucket_id=30)
    finding = only(still, "static")
    assert "faces" not in symptoms(still)
    assert "1 face was found" in finding.evidence
    assert finding.changes["motion_bucket_id"] == 127


def test_measures_are_numbers_to_put_side_by_side():
    numbers = measures(clip_of(drawn(100, 127), decode_chunk_size=7))
    assert numbers["black frames"] == 0
    assert all(value is None or np.isfinite(value) for value in numbers.values())


@pytest.mark.slow
def test_the_bundled_model_falls_ill_and_is_cured():
    from svdlab import load

    pipeline, setup = load(Setup("tiny")), Setup("tiny")
    for symptom, fields in (("static", {"motion_bucket_id": 5}), ("colour", {"max_guidance_scale": 6.0})):
        ill = generate(pipeline, setup.request(image="rocket", seed=11, **fields), progress=False)
        assert symptoms(ill) == [symptom]
        assert diagnose(generate(pipeline, diagnose(ill).apply(ill.request), progress=False)) == []
