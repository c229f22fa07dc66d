from __future__ import annotations

import copy
import dataclasses
import io
import json
import weakref

import numpy as np
import pytest
import torch
from micro_model import break_decoder
from PIL import Image

from svdlab import Setup, generate, load, read
from svdlab.generation.clip import Clip
from svdlab.generation.generate import GenerationError
from svdlab.media.images import image_sha256
from svdlab.media.read_video import read_frames, read_metadata
from svdlab.media.write_video import write_video
from svdlab.request import conditioning

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def run_diffusers(pipeline, request, **changes):
    """The same clip by diffusers alone."""
    arguments = {
        name: getattr(request, name)
        for name in (
            *("height", "width", "num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale"),
            *("fps", "motion_bucket_id", "noise_aug_strength", "decode_chunk_size"),
        )
    }
    return pipeline(conditioning(request), generator=torch.manual_seed(request.seed), **arguments | changes).frames[0]


def are_equal(a: list[Image.Image], b: list[Image.Image]) -> bool:
    return len(a) == len(b) and all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


SMALL = {"num_frames": 2, "num_inference_steps": 1, "decode_chunk_size": 2}
OTHER = {"decode_chunk_size": 4, "motion_bucket_id": 200, "noise_aug_strength": 0.3, "fps": 20}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("dtype", "fields"),
    [
        ("bf16", {}),
        ("fp32", OTHER),
        pytest.param("fp32", {}, marks=slow),
        pytest.param("bf16", OTHER, marks=slow),
        pytest.param("fp32", {"max_guidance_scale": 1.0}, marks=slow),
    ],
)
def test_frames_are_plain_diffusers_bit_for_bit(checkpoint, make_request, dtype, fields):
    from diffusers import StableVideoDiffusionPipeline

    setup = Setup("svd", weights=str(checkpoint), dtype=dtype)
    reference = StableVideoDiffusionPipeline.from_pretrained(
        checkpoint, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    )
    request = make_request(**fields)
    clip, steps = generate(load(setup), request, progress=False), []

    def keep_latents(pipeline, step, timestep, tensors):
        steps.append(tensors["latents"])
        return tensors

    assert are_equal(clip.frames, run_diffusers(reference, request, callback_on_step_end=keep_latents))
    assert clip.setup == setup.resolved()
    assert clip.request == request
    assert clip.frames[0].size == (96, 64)
    assert clip.latents is not None
    assert torch.equal(clip.latents, steps[-1][0])
    assert set(clip.timings) == {"sample_seconds", "decode_seconds"}


def test_own_sigmas_are_taken_down_to_zero(micro, make_request):
    """The model's own schedule, with or without its closing zero, gives the plain clip; another that of diffusers."""
    plain = make_request()
    micro.scheduler.set_timesteps(plain.num_inference_steps)
    own = micro.scheduler.sigmas.tolist()
    frames = run_diffusers(micro, plain)
    for sigmas in (own, own[:-1]):
        clip = generate(micro, make_request(sigmas=sigmas, num_inference_steps=None), progress=False)
        assert are_equal(clip.frames, frames)
    steps = []
    request = make_request(sigmas=(700.0, 0.5), num_inference_steps=None)
    clip = generate(micro, request, progress=False, on_step=lambda done, total, _: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    assert are_equal(clip.frames, run_diffusers(micro, request, sigmas=[700.0, 0.5, 0.0]))


def test_several_seeds_in_one_call_are_the_same_clips_as_one_by_one(micro, make_request):
    clips = generate(micro, make_request(**SMALL), seeds=[7, 5], progress=False)
    assert [clip.request.seed for clip in clips] == [7, 5]
    for clip in clips:
        assert are_equal(clip.frames, generate(micro, clip.request, progress=False).frames)
    assert not are_equal(clips[0].frames, clips[1].frames)
    with pytest.raises(ValueError, match=r"seeds=3 must be several"):
        generate(micro, make_request(**SMALL), seeds=3, progress=False)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_a_pipeline_made_elsewhere_works_and_is_not_given_a_setup(micro, make_request):
    assert generate(micro, make_request(), progress=False).setup is None
    with pytest.raises(ValueError, match="leaves fields to the variant"):
        generate(micro, dataclasses.replace(make_request(), variant=None), progress=False)


def test_progress_counts_the_steps_and_cancelling_leaves_the_pipeline_fit(micro, make_request, capsys):
    steps = []
    generate(
        micro,
        make_request(**SMALL | {"num_inference_steps": 3}),
        on_step=lambda done, total, latents: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert "3/3" in capsys.readouterr().err

    class Cancelled(Exception):
        pass

    def cancel(done, total, latents):
        raise Cancelled

    handle = micro.unet.conv_in.register_forward_hook(lambda *call: tensors.append(weakref.ref(call[-1])))
    tensors: list[weakref.ref[torch.Tensor]] = []
    with pytest.raises(Cancelled) as cancelled:
        generate(micro, make_request(**SMALL), on_step=cancel, progress=False)
    assert "latents" in cancelled.traceback[-1].frame.f_locals  # for a debugger
    stop = micro.unet.mid_block.register_forward_hook(lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt) as interrupt:  # a notebook keeps it, with the frames of its traceback
        generate(micro, make_request(**SMALL), progress=False)
    assert len(tensors) == 2
    assert [tensor() for tensor in tensors] == [None, None]
    del interrupt
    stop.remove()
    handle.remove()
    assert are_equal(
        generate(micro, make_request(**SMALL), progress=False).frames, run_diffusers(micro, make_request(**SMALL))
    )


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ""])
def test_a_saved_clip_can_be_made_again(checkpoint, make_request, tmp_path, suffix):
    pipeline = load(Setup("svd", weights=str(checkpoint)))
    clip = generate(pipeline, make_request(seed=9, motion_bucket_id=42, **SMALL), progress=False)
    saved = read(clip.save(tmp_path / f"clip{suffix}"))
    assert saved.picture == clip.picture
    assert image_sha256(saved.request.image) == image_sha256(clip.picture)
    assert dataclasses.replace(saved.request, image=clip.request.image) == clip.request
    assert saved.setup == clip.setup
    assert len(saved.frames) == 2
    repeated = generate(pipeline, saved.request, progress=False)
    assert are_equal(repeated.frames, clip.frames)


def test_the_picture_is_named_where_it_is_unchanged_and_carried_where_it_is_not(micro, make_request, picture, tmp_path):
    source = tmp_path / "input.png"
    picture.save(source)
    clip = generate(micro, make_request(image=source, **SMALL), progress=False)
    path = clip.save(tmp_path / "clip.mp4")
    assert read(path).request == clip.request
    assert read(path).request.image == str(source)
    sha256 = image_sha256(conditioning(clip.request))
    for replacement in (
        lambda: Image.new("RGB", (48, 32)).save(source),
        lambda: source.write_text("no"),
        source.unlink,
    ):
        replacement()
        request = read(path).request
        assert image_sha256(conditioning(request)) == sha256
    assert are_equal(generate(micro, read(path).request, progress=False).frames, clip.frames)


def test_a_clip_keeps_the_picture_that_the_model_saw(micro, make_request, picture, tmp_path):
    """Whatever becomes of the file before the clip is saved and measured."""
    from svdlab import assess, diagnose

    source = tmp_path / "input.png"
    picture.save(source)
    clip = generate(micro, make_request(image=source, **SMALL), progress=False)
    likeness, findings = assess(clip).likeness_first_psnr_db, str(diagnose(clip))
    for change in (lambda: Image.new("RGB", (48, 32)).save(source), source.unlink):
        change()
        saved = read(clip.save(tmp_path / "clip.mp4"))
        assert saved.picture == clip.picture
        assert image_sha256(saved.request.image) == image_sha256(clip.picture)
        assert assess(clip).likeness_first_psnr_db == likeness
        assert str(diagnose(clip)) == findings


def test_the_image_is_read_once_for_all_seeds_and_never_where_its_picture_is_given(
    micro, make_request, picture, monkeypatch
):
    from svdlab.generation import generate as module

    reads = []
    monkeypatch.setattr(module, "conditioning", lambda request: reads.append(1) or conditioning(request))
    clips = generate(micro, make_request(**SMALL), seeds=[1, 2], progress=False)
    assert reads == [1]
    fitted = conditioning(make_request())
    clip = generate(micro, make_request(image="elsewhere.png", seed=2, **SMALL), picture=fitted, progress=False)
    assert reads == [1]
    assert clip.frames == clips[1].frames
    assert clip.picture == fitted
    with pytest.raises(ValueError, match=r"48x32.*96x64"):
        generate(micro, make_request(), picture=picture, progress=False)


def test_a_file_cannot_point_at_a_picture_that_it_does_not_hold(micro, make_request, picture, tmp_path):
    private = tmp_path / "private.png"
    picture.save(private)
    clip = generate(micro, make_request(image=private, **SMALL), progress=False)
    metadata, _ = read_metadata(clip.save(tmp_path / "clip.mp4"))
    bare = write_video(tmp_path / "bare.mp4", clip.frames, 7, metadata=metadata)
    with pytest.raises(ValueError, match=r"is not in .*bare"):
        read(bare)
    other = write_video(tmp_path / "other.mp4", clip.frames, 7, metadata=metadata, picture=Image.new("RGB", (96, 64)))
    assert read(other).request.image == Image.new("RGB", (96, 64))


def test_names_of_a_hundred_thousand_letters_are_cut(micro, make_request, tmp_path):
    clip = generate(micro, make_request(**SMALL), progress=False)
    metadata = json.loads(read_metadata(clip.save(tmp_path / "clip.mp4"))[0] or "")
    for keys, with_picture in (
        (("request", "image"), True),
        (("request", "image"), False),
        (("request", "x" * 10**5), True),
    ):
        fields = json.loads(json.dumps(metadata))
        fields[keys[0]][keys[1]] = "y" * 10**5
        picture = clip.picture if with_picture else None
        path = write_video(tmp_path / "long.mp4", clip.frames, 7, metadata=json.dumps(fields), picture=picture)
        if with_picture and keys[1] == "image":
            assert image_sha256(read(path).request.image) == image_sha256(clip.picture)
        else:
            with pytest.raises(ValueError) as error:  # noqa: PT011
                read(path)
            assert len(str(error.value)) < 700


def test_playback_speed_is_not_the_conditioning(micro, make_request, tmp_path):

    clip = generate(micro, make_request(fps=6, **SMALL), progress=False)
    assert read_frames(clip.save(tmp_path / "own.mp4"))[1] == 6
    assert read_frames(clip.save(tmp_path / "fast.mp4", fps=12.5))[1] == 12.5
    assert read(tmp_path / "fast.mp4").request.fps == 6


def test_a_file_of_somebody_else_is_refused(tmp_path):

    frames = [Image.new("RGB", (64, 64), (i * 40, 0, 0)) for i in range(4)]
    newer = '{"svdlab": "9.0", "request": {"image": "rocket", "zoom": 2}, "setup": null}'
    none = "holds no settings that svdlab can read"
    for metadata, sentence in ((None, none), ("holiday", none), ("[1]", none), (newer, "written by a newer svdlab")):
        path = write_video(tmp_path / "other.mp4", frames, 7, metadata=metadata)
        with pytest.raises(ValueError, match=sentence):
            read(path)


def test_a_decode_that_overflows_in_half_precision_is_done_again_in_fp32(checkpoint, make_request):
    setup = Setup("svd", weights=str(checkpoint), dtype="bf16")
    clip = generate(break_decoder(load(setup), torch.bfloat16), make_request(), progress=False)
    assert any("2 frames decoded to not-a-number in torch.bfloat16" in note for note in clip.notes)
    reference = generate(load(setup), make_request(), progress=False)
    assert not any("not-a-number" in note for note in reference.notes)
    difference = np.abs(np.asarray(clip.frames[1], float) - np.asarray(reference.frames[1], float)).mean()
    assert difference < 3  # of 255: bf16 against fp32 decoding


def test_what_cannot_be_mended_is_an_error_and_not_a_picture(checkpoint, make_request):
    pipeline = break_decoder(load(Setup("svd", weights=str(checkpoint))), None)
    with pytest.raises(
        GenerationError, match=r"2 of 6 frames decoded to not-a-number in torch\.float32, and float32 was no cure"
    ):
        generate(pipeline, make_request(), progress=False)
    pipeline = load(Setup("svd", weights=str(checkpoint)))
    with torch.no_grad():
        pipeline.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(GenerationError, match="denoiser gave not-a-number at seed 5, 64x96"):
        generate(pipeline, make_request(), progress=False)


def test_black_frames_are_reported(checkpoint, make_request):
    pipeline = load(Setup("svd", weights=str(checkpoint)))
    with torch.no_grad():
        pipeline.vae.decoder.time_conv_out.weight.zero_()
        pipeline.vae.decoder.time_conv_out.bias.fill_(-5)
    with pytest.warns(UserWarning, match=r"6 of 6 frames are black \(first: frame 0\)"):
        clip = generate(pipeline, make_request(), progress=False)
    assert any("black" in note for note in clip.notes)


def test_the_settings_of_common_guides_make_a_clip_and_a_gif(micro, picture, tmp_path):
    """What `shared` guides show, said in ours: 8 frames a chunk, lively motion, saved at 7 a second and as a GIF."""
    from svdlab import Request

    request = Request.for_variant(
        "svd", image=picture, height=64, width=96, num_frames=6, num_inference_steps=1, decode_chunk_size=2,
        motion_bucket_id=180, noise_aug_strength=0.1, seed=42,
    )  # fmt: skip
    clip = generate(micro, request, progress=False)
    with Image.open(clip.save(tmp_path / "a.gif", fps=7)) as gif:
        assert gif.n_frames == 6  # pyright: ignore[reportAttributeAccessIssue]
    assert json.loads(request.to_json())["motion_bucket_id"] == 180


def test_bytes_and_arrays_are_pictures_too(micro, make_request, picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    clips = [
        generate(micro, make_request(image=image, **SMALL), progress=False)
        for image in (file.getvalue(), np.asarray(picture))
    ]
    assert are_equal(clips[0].frames, clips[1].frames)


def test_clips_compare_by_what_they_are(micro, make_request):
    clip = generate(micro, make_request(**SMALL), progress=False)
    assert copy.copy(clip) == clip
    assert isinstance(clip, Clip)
    assert "<video" in clip._repr_html_()
