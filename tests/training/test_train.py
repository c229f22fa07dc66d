"""Training at a size of seconds: the parametrisation, a few steps, a restart, a folder that loads."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline

from svdlab.tiny import WEIGHTS
from training import model, objective, train
from training.clips import SHARES, Source
from training.evaluate import image
from training.model import LATENTS, SCHEDULER, build_unet, build_vae, decode, encode, grow
from training.scenes import WORLDS, draw


def test_a_perfect_network_makes_the_pipelines_scheduler_return_the_clean_latents():
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(6)
    clean, noise = torch.randn(1, 3, 4, 5, 6), torch.randn(1, 3, 4, 5, 6)
    latents = noise * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[step]
        scaled = scheduler.scale_model_input(latents, t)
        implied = (latents - clean) / sigma
        expected, timestep, target = objective.preconditioned(clean, implied, sigma[None])
        assert torch.allclose(scaled, expected, atol=1e-4)
        assert float(timestep) == pytest.approx(float(t), abs=1e-5)
        latents = scheduler.step(target, t, latents, return_dict=False)[0]
    assert torch.allclose(latents, clean, atol=1e-2)


def test_the_networks_own_work_is_what_the_sampler_would_have():
    """Of a perfect network it is the clip and the noise that is left; of one that errs, its error joins it."""
    clean, noise = torch.randn(2, 2, 5, 4, 3, 4)
    ones = torch.ones(2)
    clips = objective.Clips(clean, clean[:, 0], ones, torch.zeros(2, 1, 8), ones, ones)
    error = 0.0

    def network(inputs, timestep, tokens, *_):
        """Answers what the scheduler reads as the clean clip, plus an error."""
        level = torch.exp(4 * timestep)[:, None, None, None, None]
        norm = (level**2 + 1).sqrt()
        return SimpleNamespace(sample=(inputs[:, :, :4] - norm * (clean + error)) / level)

    levels = objective.sampler_levels(4)
    assert levels == pytest.approx([700, 135.5, 15.8, 0.7], rel=1e-3)
    for guidance in (ones, 3 * ones):  # it has no effect where both answers are the same
        work = objective.own_work(network, clips, noise, levels, guidance)  # type: ignore[arg-type]
        assert torch.allclose(work, clean + 0.7 * noise, atol=0.02)
    error = 0.5
    erring = objective.own_work(network, clips, noise, levels, ones)  # type: ignore[arg-type]
    assert torch.allclose(erring - work, torch.tensor(0.5), atol=0.01)


@torch.no_grad()
def test_the_networks_own_work_is_the_pipelines():
    """The bundled model's latents on entering the last step, of a guided clip that plain diffusers samples."""
    pipeline = StableVideoDiffusionPipeline.from_pretrained(str(WEIGHTS))
    seen, forward = [], pipeline.unet.forward

    def record(sample, timestep, encoder_hidden_states, added_time_ids, **options):
        seen.append((sample[1:], encoder_hidden_states[1:]))  # the second half has the conditions
        return forward(sample, timestep, encoder_hidden_states, added_time_ids, **options)

    pipeline.unet.forward = record
    picture = draw([7], 0, 7, 1, 48, 80)[0][0, 0]
    pipeline(
        image(picture), height=48, width=80, num_frames=3, num_inference_steps=4, max_guidance_scale=3.0,
        noise_aug_strength=0.02, generator=torch.Generator().manual_seed(0), output_type="latent",
    )  # fmt: skip
    pipeline.unet.forward = forward
    (sample, tokens), (entering, _) = seen[0], seen[-1]
    noise, condition = sample.split(LATENTS, dim=2)
    told = (torch.tensor([each]) for each in (0.02, 127.0, 7.0))
    strength, bucket, fps = told
    clips = objective.Clips(noise, condition[:, 0], strength, tokens, bucket, fps)
    levels = objective.sampler_levels(4)
    work = objective.own_work(pipeline.unet, clips, noise, levels, torch.tensor([3.0])) / (levels[-1] ** 2 + 1) ** 0.5
    assert float((work - entering[:, :, :LATENTS]).square().mean().sqrt()) < 0.02  # of 1; the network answers in bf16


@pytest.mark.parametrize("is_guided", [False, True])
def test_the_guided_answer_is_judged(is_guided):
    """A network that is right where it sees the picture: the rest of what it says counts where guidance uses it."""
    clean, ones = torch.randn(2, 5, LATENTS, 4, 8), torch.ones(2)
    clips = objective.Clips(clean, clean[:, 0], ones, torch.ones(2, 1, 8), ones, ones)

    def network(inputs, timestep, tokens, *_):
        level = torch.exp(4 * timestep)[:, None, None, None, None]
        norm, error = (level**2 + 1).sqrt(), 0.5 * (1 - tokens[:, :1, :1, None, None])
        return SimpleNamespace(sample=(inputs[:, :, :LATENTS] - norm * (clean[: len(inputs)] + error)) / level)

    course = random.Random(0)
    course.random = lambda: 0.0 if is_guided else 1.0
    dice = torch.Generator().manual_seed(next(seed for seed in range(100) if sees_all(seed)))
    loss = objective.unet_loss(network, clips, 1.0, dice, course)  # type: ignore[arg-type]
    assert (loss > 1e-3) == is_guided


def sees_all(seed: int) -> bool:
    """Whether no condition of two clips is dropped."""
    fate = torch.rand(2, 2, generator=torch.Generator().manual_seed(seed))[0]
    return bool(((fate > 0.35) & (fate < 0.98)).all())


def test_what_moves_and_the_first_frame_weigh_more():
    clean = torch.zeros(1, 3, 4, 2, 2)
    clean[:, 2, :, 0, 0] = 1
    weight = objective.motion_weight(clean)[0, :, 0]
    assert weight[0].eq(6).all()
    assert weight[1].eq(1).all()
    assert weight[2].tolist() == [[9, 1], [1, 1]]


def test_noise_levels_cover_the_samplers():
    seeing, blind = torch.zeros(4000, dtype=torch.bool), torch.ones(4000, dtype=torch.bool)
    dice = torch.Generator().manual_seed(0)
    sigmas = objective.draw_sigmas(seeing, dice)
    assert sigmas.min() >= 0.002
    assert sigmas.max() <= 700
    for low, high in ((100, 701), (4, 100), (1, 4), (0, 1)):
        assert 0.1 < ((sigmas >= low) & (sigmas < high)).float().mean() < 0.45
    assert (objective.draw_sigmas(blind, dice) > 20).float().mean() < 0.2  # where a clip tells nothing of its picture


@torch.no_grad()
def test_untrained_the_unet_repeats_the_picture_and_fast_attention_changes_nothing():
    unet = build_unet(1.6)
    condition = torch.randn(1, 1, LATENTS, 8, 12).expand(-1, 14, -1, -1, -1) * 0.6
    condition[:, :, 4:] = 0  # only the first four channels are laid out by hand
    inputs = (torch.randn(1, 14, LATENTS, 8, 12), condition)
    rest = (torch.tensor(1.6), torch.randn(1, 1, 64), torch.tensor([[6.0, 127.0, 0.02]]))
    answer = unet(torch.cat(inputs, 2), *rest).sample
    assert ((answer + 1.6 * condition).square().mean() / (1.6 * condition).square().mean()) < 0.05
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.02)
    slow = unet(torch.cat(inputs, 2), *rest).sample
    objective.speed_up(unet)
    assert torch.allclose(unet(torch.cat(inputs, 2), *rest).sample, slow, atol=1e-4)


def test_orthogonal_matrices():
    from training.optimizer import orthogonal

    for shape in ((3, 8, 20), (2, 20, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.4
        assert values.max() < 1.4


@torch.no_grad()
def test_the_untrained_vae_returns_the_picture_softened():
    pictures = draw([3], 0, 7, 1)[0][:, 0] * 2 - 1
    vae = build_vae()
    returned = decode(vae, encode(vae, pictures))
    assert (returned - pictures).square().mean() < 4 * 10**-2.2  # 22 dB


@torch.no_grad()
@pytest.mark.parametrize(("depth", "latent_channels"), [(1, LATENTS), (2, LATENTS + 4)])
def test_grown_from_the_edition_before_it_does_as_before(depth, latent_channels, monkeypatch):
    """More latent channels, more blocks, the same pictures and movement: nothing that was learnt is lost."""
    monkeypatch.setattr(model, "LATENTS", latent_channels)
    monkeypatch.setitem(model.VAE, "latent_channels", latent_channels)
    monkeypatch.setitem(model.UNET, "in_channels", 2 * latent_channels)
    monkeypatch.setitem(model.UNET, "out_channels", latent_channels)
    old = StableVideoDiffusionPipeline.from_pretrained(WEIGHTS)
    channels = old.vae.config.latent_channels
    vae, unet = build_vae(), build_unet(old.vae.config.scaling_factor, depth)
    grow(vae, old.vae.state_dict())
    grow(unet, old.unet.state_dict())
    pictures = torch.rand(2, 3, 32, 48) * 2 - 1
    latents = encode(vae, pictures)
    assert torch.allclose(latents[:, :channels], encode(old.vae, pictures), atol=1e-5)
    assert torch.allclose(decode(vae, latents), decode(old.vae, latents[:, :channels]), atol=1e-5)
    inputs = torch.randn(1, 14, 2, latent_channels, 8, 12)
    rest = (torch.tensor(1.6), torch.randn(1, 1, 64), torch.tensor([[6.0, 127.0, 0.02]]))
    answer = unet(inputs.flatten(2, 3), *rest).sample
    expected = old.unet(inputs[:, :, :, :channels].flatten(2, 3), *rest).sample
    assert torch.allclose(answer[:, :, :channels], expected, atol=1e-5)


def test_clips_are_drawn_encoded_and_used_again():
    assert set(SHARES) == set(WORLDS)
    assert sum(SHARES.values()) == pytest.approx(1)
    source = Source(build_vae(), "cpu", size=(32, 48), frames=2, seed=0, draws=2, pool=2, uses=3)
    first = source.batch(3)
    assert first.latents.shape == (3, 2, LATENTS, 8, 12)
    assert first.condition.shape == (3, LATENTS, 8, 12)
    first_ids = {id(each) for each in source.kept}
    source.batch(3)
    assert len(source.kept) <= 4, "two clips, each with two strengths of noise"
    assert {id(each) for each in source.kept} != first_ids, "after three uses a new one"


def test_a_few_steps_a_restart_and_a_folder(tmp_path):
    options = train.Options(
        vae_minutes=60, minutes=60, batch=4, vae_batch=1, processes=1, device="cpu", draws=1, pool=1, steps=2,
        height=32, width=48,
        checkpoints=tmp_path,
    )  # fmt: skip
    threads = torch.get_num_threads()
    try:
        train.work(0, options, "")
        state = torch.load(tmp_path / "unet.pt", weights_only=True)
        train.work(0, options, "")  # nothing left to do: the same state comes back
    finally:
        torch.set_num_threads(threads)
    resumed = torch.load(tmp_path / "unet.pt", weights_only=True)
    assert state["step"] == resumed["step"] == 2
    assert state["seconds"] == pytest.approx(resumed["seconds"])
    for part in ("model", "average"):
        assert all(torch.equal(state[part][name], resumed[part][name]) for name in state[part])
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "weights")
    config = json.loads((WEIGHTS / "vae" / "config.json").read_text())
    assert pipeline.vae.config.scaling_factor == config["scaling_factor"], "the UNet knows latents of that size"
    saved, average = pipeline.unet.state_dict(), resumed["average"]
    assert all(torch.allclose(saved[name], average[name], atol=2e-3) for name in average)
