"""Training at a size of seconds: the parametrisation, a few steps, a restart, a folder that loads."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline

from training import train
from training.model import SCHEDULER, build_unet, build_vae, decode, encode


def test_a_perfect_network_makes_the_pipelines_scheduler_return_the_clean_latents():
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(6)
    clean, noise = torch.randn(1, 3, 4, 5, 6), torch.randn(1, 3, 4, 5, 6)
    latents = noise * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[step]
        given = scheduler.scale_model_input(latents, t)
        implied = (latents - clean) / sigma
        expected, timestep, target = train.preconditioned(clean, implied, sigma[None])
        assert torch.allclose(given, expected, atol=1e-4)
        assert float(timestep) == pytest.approx(float(t), abs=1e-5)
        latents = scheduler.step(target, t, latents, return_dict=False)[0]
    assert torch.allclose(latents, clean, atol=1e-2)


def test_noise_levels_cover_the_samplers():
    sigmas = train.draw_sigmas(4000, torch.Generator().manual_seed(0))
    assert sigmas.min() >= 0.002
    assert sigmas.max() <= 700
    assert 0.15 < (sigmas > 100).float().mean() < 0.35
    assert 0.15 < (sigmas < 1).float().mean() < 0.4


@torch.no_grad()
def test_untrained_the_unet_repeats_the_picture_and_fast_attention_changes_nothing():
    unet = build_unet(1.6)
    condition = torch.randn(1, 1, 4, 18, 32).expand(-1, 14, -1, -1, -1) * 0.6
    inputs = (torch.randn(1, 14, 4, 18, 32), condition)
    rest = (torch.tensor(1.6), torch.randn(1, 1, 64), torch.tensor([[6.0, 127.0, 0.02]]))
    answer = unet(torch.cat(inputs, 2), *rest).sample
    assert ((answer + 1.6 * condition).square().mean() / (1.6 * condition).square().mean()) < 0.05
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.02)
    slow = unet(torch.cat(inputs, 2), *rest).sample
    train.speed_up(unet)
    assert torch.allclose(unet(torch.cat(inputs, 2), *rest).sample, slow, atol=1e-4)


def test_orthogonal_matrices():
    from training.optimizer import orthogonal

    for shape in ((3, 8, 20), (2, 20, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.4
        assert values.max() < 1.4


@torch.no_grad()
def test_the_untrained_vae_returns_the_picture_softened():
    pictures = train.draw([3], 0, 7, 1)[0][:, 0] * 2 - 1
    vae = build_vae()
    returned = decode(vae, encode(vae, pictures))
    assert (returned - pictures).square().mean() < 4 * 10**-2.2  # 22 dB


def test_a_few_steps_a_restart_and_a_folder(tmp_path, capfd):
    options = train.Options(
        vae_minutes=60, minutes=60, batch=1, vae_batch=2, processes=1, device="cpu", pool=2, steps=2,
        checkpoints=tmp_path / "checkpoints", weights=tmp_path / "weights",
    )  # fmt: skip
    train.START = 1
    threads = torch.get_num_threads()
    try:
        train.work(0, options, "")
        before = torch.load(tmp_path / "checkpoints/unet.pt", weights_only=True)
        train.work(0, options, "")  # nothing left to do: the same state comes back
    finally:
        torch.set_num_threads(threads)
        train.START = 24
    after = torch.load(tmp_path / "checkpoints/unet.pt", weights_only=True)
    assert before["step"] == after["step"] == 2
    assert before["seconds"] == pytest.approx(after["seconds"])
    for part in ("model", "average"):
        assert all(torch.equal(before[part][name], after[part][name]) for name in before[part])
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "weights")
    saved, average = pipeline.unet.state_dict(), after["average"]
    assert all(torch.allclose(saved[name], average[name], atol=2e-3) for name in average)
