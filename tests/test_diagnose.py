"""Each symptom, drawn or provoked, is found, with a cure that applies; and clips that are well have none."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pictures
import pytest
from micro_model import break_decoder
from PIL import Image

from svdlab import VARIANTS, Request, Setup, diagnose, generate, read
from svdlab.generation.clip import Clip, Seam
from svdlab.media.images import EXAMPLES, fit_image, open_image
from svdlab.quality.diagnose import Finding
from svdlab.quality.faces import faces
from svdlab.quality.symptoms import measures, seam_ratio, travel_percent

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
draw_frames = partial(pictures.draw_frames, size=(VARIANTS["tiny"].height, VARIANTS["tiny"].width))


def make_clip(frames: list[Image.Image], setup: Setup | None = None, variant: str = "tiny", **fields: Any) -> Clip:
    arguments: dict[str, Any] = {"image": frames[0], "height": frames[0].height, "width": frames[0].width}
    arguments |= {"num_frames": len(frames)} | fields
    return Clip(frames, Request(**arguments).filled(variant), setup)


def change_frames(frames: list[Image.Image], change) -> list[Image.Image]:
    return [
        Image.fromarray((np.asarray(f, float) + change(i)).clip(0, 255).astype(np.uint8)) for i, f in enumerate(frames)
    ]


def find_one(clip: Clip, symptom: str) -> Finding:
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
    findings = diagnose(make_clip(draw_frames(seed, bucket), motion_bucket_id=bucket))
    assert findings == []
    assert repr(findings) == "Nothing was found that needs a cure."
    assert findings.apply(Setup("tiny")) == Setup("tiny")


def test_travel_is_the_rule_and_shimmer_is_no_travel():
    """Eleven frames lie between the middles of the first three and the last three."""
    for bucket, share in ((60, 0.35), (127, 0.25)):
        promised = 12.5 * bucket / 255 / 7 * 11
        assert travel_percent(make_clip(draw_frames(100, bucket))) == pytest.approx(promised, rel=share)
    dice = np.random.default_rng(0)
    still = change_frames(draw_frames(100, 0)[:1] * 14, lambda _: dice.normal(0, 6, (96, 160, 3)))
    assert travel_percent(make_clip(still)) < 1


def test_nothing_moves_because_little_was_asked():
    finding = find_one(make_clip(draw_frames(100, 5), motion_bucket_id=5), "static")
    assert finding.changes == {"motion_bucket_id": 190, "noise_aug_strength": 0.1}
    assert "bucket 5 at fps 7 asks for little" in finding.cause
    fast_playback = find_one(make_clip(draw_frames(100, 5), motion_bucket_id=127, fps=30), "static")
    assert fast_playback.changes["fps"] == 7


def test_nothing_moves_although_it_was_asked():
    clip = make_clip(draw_frames(100, 5), motion_bucket_id=200)
    finding = find_one(clip, "static")
    assert "bucket 200 at fps 7 promises" in finding.evidence
    assert finding.apply(clip.request).motion_bucket_id == 200
    assert finding.apply(clip.request).noise_aug_strength == 0.1
    last = find_one(make_clip(draw_frames(100, 5), motion_bucket_id=200, noise_aug_strength=0.1), "static")
    assert (last.changes, last.advice) == ({}, "give a cleaner picture")
    published = make_clip([f.resize((256, 144)) for f in draw_frames(100, 20)], variant="svd", motion_bucket_id=200)
    assert "promises" not in find_one(published, "static").evidence  # nobody has published a rule
    fixed = find_one(make_clip([f.resize((256, 144)) for f in draw_frames(100, 20)], variant="svd-xt-1.1"), "static")
    assert fixed.changes == {"noise_aug_strength": 0.1}  # its bucket is the only one that it was tuned at


@pytest.mark.parametrize(("chunk", "frames", "variant", "next_chunk"), [
    (2, 14, "tiny", 14), (4, 14, "tiny", 14), (2, 25, "svd-xt", 5), (5, 25, "svd-xt", 9), (4, 14, "svd", 7),
])  # fmt: skip
def test_flicker_in_time_with_the_chunks(chunk, frames, variant, next_chunk):
    """Frames at the edges of chunks a little darker, as where the VAE lacks a neighbour; or every other chunk."""
    edge = [i % chunk in (0, chunk - 1) or i == frames - 1 for i in range(frames)]
    dark = (lambda i: -6 * edge[i]) if chunk > 2 else (lambda i: -6 * (i // chunk % 2))
    smooth = draw_frames(100, 100, frames=frames)
    assert (seam_ratio(make_clip(smooth, variant=variant, decode_chunk_size=chunk)) or 0) < 1.2
    clip = make_clip(change_frames(smooth, dark), variant=variant, decode_chunk_size=chunk, num_inference_steps=25)
    finding = find_one(clip, "seams")
    assert finding.changes["decode_chunk_size"] == next_chunk
    assert finding.changes.get("num_inference_steps") == (None if variant == "tiny" else 30)
    assert finding.apply(clip.request).decode_chunk_size == next_chunk
    fields = {"variant": variant, "decode_chunk_size": chunk, "sigmas": (700.0, 50.0, 5.0), "num_inference_steps": 3}
    scheduled = make_clip(clip.frames, **fields)
    assert find_one(scheduled, "seams").apply(scheduled.request).sigmas  # a schedule has its own steps


def test_flicker_out_of_time_with_the_chunks_is_not_theirs():
    pulse = change_frames(draw_frames(100, 100), lambda i: -6 * (i % 3 == 0))
    assert "seams" in symptoms(make_clip(pulse, decode_chunk_size=3))
    assert "seams" not in symptoms(make_clip(pulse, decode_chunk_size=7))
    for chunk in (1, 14):
        assert seam_ratio(make_clip(pulse, decode_chunk_size=chunk)) is None
    chained = dataclasses.replace(make_clip(pulse, decode_chunk_size=3), seams=(Seam(7, 1.0),))
    assert seam_ratio(chained) is None


def test_black_frames_ask_for_precision_and_the_trained_size():
    black = [Image.new("RGB", (256, 256))] * 14
    half = Setup("svd", weights="random", dtype="fp16")
    finding = find_one(make_clip(black, half, "svd", image=draw_frames(100, 0)[0]), "black")
    assert finding.evidence == "14 of 14 frames are black"
    assert (finding.changes, finding.apply(half).dtype) == ({"height": 576, "width": 1024}, "bf16")
    full = make_clip(black, Setup("svd", weights="random", dtype="fp32"), "svd", image=draw_frames(1, 0)[0])
    assert "fp16" not in str(find_one(full, "black"))  # which is not to blame
    trained = [Image.new("RGB", (160, 96))] * 14
    assert find_one(
        make_clip(trained, Setup("tiny", dtype="bf16"), image=draw_frames(100, 0)[0]), "black"
    ).setup_changes == {"dtype": "fp32"}
    assert (
        "load them again" in find_one(make_clip(trained, Setup("tiny", dtype="fp32"), image="rocket"), "black").advice
    )
    assert find_one(make_clip(trained), "black").cause == "so is the picture"


def test_frames_that_were_decoded_twice_ask_for_bf16(checkpoint, make_request):
    """As `generate` itself notes it."""
    import torch

    from svdlab import load

    setup = Setup("svd", weights=str(checkpoint), dtype="bf16", device="cpu")
    clip = generate(break_decoder(load(setup), torch.bfloat16), make_request(), progress=False)
    assert find_one(clip, "half precision").apply(setup).dtype == "fp32"
    assert clip.latents is not None
    broken = dataclasses.replace(clip, latents=clip.latents * float("nan"))
    assert "not-a-number" in find_one(broken, "black").evidence


def test_colours_that_run_away():
    frames = draw_frames(100, 127)
    grey = [np.asarray(f).mean(axis=2, keepdims=True) for f in frames]
    fading = change_frames(frames, lambda i: (grey[i] - np.asarray(frames[i])) * i / 13 * 0.9)
    finding = find_one(make_clip(fading, noise_aug_strength=1.0, motion_bucket_id=100), "colour")
    assert finding.changes == {"noise_aug_strength": 0.02}
    saturating = change_frames(frames, lambda i: (np.asarray(frames[i]) - grey[i]) * i / 13 * 2)
    finding = find_one(make_clip(saturating, max_guidance_scale=6.0), "colour")
    assert finding.changes == {"max_guidance_scale": 1.0, "min_guidance_scale": 1.0}
    assert find_one(make_clip(saturating), "colour").changes == {"seed": 1}
    brightening = make_clip(change_frames(frames, lambda i: 3 * i))
    chained = dataclasses.replace(brightening, seams=(Seam(7, 1.0),))
    assert "2 segments" in find_one(chained, "colour").cause


def test_size_shape_and_small_pictures_come_together_gravest_first():
    portrait = draw_frames(100, 0)[0].crop((50, 0, 98, 96)).resize((18, 36))
    frames = [f.resize((64, 64)) for f in draw_frames(100, 127)]
    clip = make_clip(frames, image=portrait)
    findings = diagnose(clip)
    assert [f.symptom for f in findings][:3] == ["size", "shape", "enlarged"]
    assert "enlarged 3.6 times" in findings[2].evidence
    request = findings.apply(clip.request)
    assert (request.height, request.width, request.fit) == (96, 160, "pad")
    stretched = make_clip(frames, image=portrait, fit="stretch")
    assert find_one(stretched, "shape").changes == {"fit": "crop"}
    assert "2.0 times too wide" in find_one(stretched, "shape").cause
    assert "shape" not in symptoms(make_clip(frames, image=portrait, fit="pad"))


def test_a_clip_from_a_file_asks_for_the_original_that_it_no_longer_has(tmp_path):
    portrait = draw_frames(100, 0)[0].resize((240, 480))
    clip = make_clip([f.resize((64, 64)) for f in draw_frames(100, 127)], image=portrait)
    for finding in diagnose(read(clip.save(tmp_path / "clip.mp4")))[:2]:
        assert finding.symptom in ("size", "shape")
        assert "original picture" in finding.advice
        assert not finding.changes
    turned = make_clip(draw_frames(100, 127), image=portrait.resize((96, 160)))  # the clip's size on its side
    assert not find_one(read(turned.save(tmp_path / "turned.mp4")), "shape").changes
    lying = portrait.resize((96, 160)).transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[0x0112] = 6  # to be shown upright
    assert find_one(make_clip(draw_frames(100, 127), image=lying), "shape").changes == {"fit": "pad"}
    clip.request.image.save(tmp_path / "portrait.png")
    named = dataclasses.replace(clip, request=dataclasses.replace(clip.request, image=str(tmp_path / "portrait.png")))
    assert diagnose(read(named.save(tmp_path / "named.mp4"))).apply(clip.request).fit == "pad"


def test_of_two_cures_for_one_field_the_graver_one_is_taken():
    findings = diagnose(make_clip(draw_frames(100, 5), motion_bucket_id=5))
    other = dataclasses.replace(findings[0], symptom="lesser", changes={"motion_bucket_id": 60})
    findings.append(other)
    assert findings.apply(make_clip(draw_frames(100, 5)).request).motion_bucket_id == 190


def test_faces_are_named_where_there_are_some():
    from skimage import data

    astronaut = Image.fromarray(data.astronaut()).crop((0, 0, 512, 288))
    [box] = faces(astronaut)
    assert box == pytest.approx((180, 70, 95, 95), abs=30)
    assert faces(astronaut.resize((2048, 1152)))
    clip = make_clip(draw_frames(100, 127), image=astronaut)
    assert "1 face was found" in find_one(clip, "faces").evidence
    assert not find_one(clip, "faces").changes
    for name in ("coffee", "text"):
        assert faces(Image.fromarray(getattr(data, name)()).convert("RGB")) == []
    assert faces(Image.new("RGB", (40, 40))) == []


def test_a_photograph_is_nothing_for_the_bundled_model():
    """Each example but the photograph among them is a drawing; a photograph that stands still gets this cure alone."""
    for name in EXAMPLES:
        picture = fit_image(open_image(name), 96, 160)
        names = symptoms(make_clip([picture] * 14, image=name))
        assert ("photograph" in names, "static" in names) == (name == "launch", name != "launch")
    assert "photograph" not in symptoms(make_clip([fit_image(open_image("launch"), 96, 160)] * 14, variant="svd"))


def test_more_motion_and_calm_faces_are_one_advice():
    from skimage import data

    astronaut = Image.fromarray(data.astronaut()).crop((0, 0, 512, 288))
    still = make_clip([astronaut.resize((256, 144))] * 14, variant="svd", image=astronaut, motion_bucket_id=30)
    finding = find_one(still, "static")
    assert "faces" not in symptoms(still)
    assert "1 face was found" in finding.evidence
    assert finding.changes["motion_bucket_id"] == 127


def test_measures_are_numbers_to_put_side_by_side():
    numbers = measures(make_clip(draw_frames(100, 127), decode_chunk_size=7))
    assert numbers["black frames"] == 0
    assert all(value is None or np.isfinite(value) for value in numbers.values())


@pytest.mark.slow
def test_the_bundled_model_falls_ill_and_is_cured():
    from svdlab import load

    pipeline, setup = load(Setup("tiny")), Setup("tiny")
    for symptom, fields in (("static", {"motion_bucket_id": 5}), ("colour", {"max_guidance_scale": 6.0})):
        clip = generate(pipeline, setup.request(image="rocket", seed=11, **fields), progress=False)
        assert symptoms(clip) == [symptom]
        assert diagnose(generate(pipeline, diagnose(clip).apply(clip.request), progress=False)) == []
