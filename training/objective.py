"""What the UNet is asked: SVD's own parametrisation, which clips' errors weigh more, and attention fast to train.

EDM preconditioning as `EulerDiscreteScheduler` has it, v-prediction, continuous timesteps ln(sigma)/4, noise
augmentation drawn and told, fps - 1 told, the condition dropped at times.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from torch import Tensor

from .model import SCHEDULER


@dataclass
class Clips:
    """Encoded clips: latents (n, F, c, h, w) unscaled; image latents (n, c, h, w) of the first picture with noise of
    `strength` (n,) added; the image encoder's tokens (n, 1, d); what is told, `bucket` and `fps` (n,)."""

    latents: Tensor
    condition: Tensor
    strength: Tensor
    tokens: Tensor
    bucket: Tensor
    fps: Tensor


def half(device: str):
    """bf16 where it pays: 2.3 times as fast on CPUs that multiply in it."""
    return torch.autocast(device, torch.bfloat16)


def preconditioned(clean: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(network input, timestep, target) for clean latents (B, F, c, h, w) and sigma (B,).

    The scheduler reads x0 = x / (sigma^2 + 1) - out * sigma / sqrt(sigma^2 + 1); solved for `out` that is the target.
    In these units EDM's loss weight is 1.
    """
    wide = sigma[:, None, None, None, None]
    norm = (wide**2 + 1).sqrt()
    return (clean + wide * noise) / norm, 0.25 * sigma.log(), (noise - wide * clean) / norm


def draw_sigmas(blind: Tensor, dice: torch.Generator) -> Tensor:
    """Noise levels (n,): half log-uniform from 4 to 700, the others log-normal around 1.3.

    Picture, bucket and frame rate settle the clip, so the sampler's first steps, at the highest noise, decide where
    everything goes. The others take away what the first ones leave: grain, and edges that shimmer. Of four steps
    (700, 136, 16 and 0.7) that is the last one's work.

    Of a clip whose conditions are dropped, `blind` (n,), high noise tells nothing: nine of ten get less. There its
    colours can be seen, and what the answer lacks of them, guidance adds to the clip.
    """
    kind, high = torch.rand(2, len(blind), generator=dice, device=dice.device)
    low = torch.exp(0.3 + 1.4 * torch.randn(len(blind), generator=dice, device=dice.device))
    share = torch.where(blind, 0.1, 0.5)
    return torch.where(kind < share, 4 * (700 / 4) ** high, low).clamp(0.002, 700)


def motion_weight(clean: Tensor, strength: float = 8.0, first: float = 6.0) -> Tensor:
    """1 where a frame equals the first, up to 1 + strength where it differs, and `first` on that: (B, F, 1, h, w).

    A rocket is a tenth of the picture; without this the loss hardly notices where it went. The first frame is one of
    fourteen, and the one whose likeness to the picture is seen.
    """
    change = (clean - clean[:, :1]).abs().mean(2, keepdim=True)
    weight = 1 + strength * (change / 0.5).clamp(max=1)
    weight[:, 0] = first
    return weight


def answer(
    unet: UNetSpatioTemporalConditionModel,
    clips: Clips,
    given: Tensor,
    timestep: Tensor,
    picture: Tensor,
    token: Tensor,
) -> Tensor:
    """The network's answer for `clips`; `picture` and `token` (n,) are 0 where it is not to see that condition."""
    condition = (clips.condition * picture[:, None, None, None])[:, None].expand_as(given)
    told = torch.stack([clips.fps - 1, clips.bucket, clips.strength], 1)
    with half(given.device.type):
        reply = unet(torch.cat([given, condition], 2), timestep, clips.tokens * token[:, None, None], told).sample
    return reply.float()


def sampler_levels(steps: int) -> list[float]:
    """The noise levels of the bundled scheduler, the highest first."""
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas[:-1].tolist()


def guided(blind: Tensor, reply: Tensor, guidance: Tensor) -> Tensor:
    """Answers (n, F, c, h, w) as the pipeline guides them: by 1 at the first frame, by `guidance` (n,) at the last."""
    ramp = torch.linspace(0, 1, reply.shape[1], device=reply.device)[:, None, None, None]
    return blind + (1 + (guidance - 1)[:, None, None, None, None] * ramp) * (reply - blind)


@torch.no_grad()
def own_work(
    unet: UNetSpatioTemporalConditionModel,
    clips: Clips,
    noise: Tensor,
    levels: Sequence[float],
    guidance: Tensor,
) -> Tensor:
    """What the network itself makes of pure `noise` (n, F, c, h, w) on the way down to the last of `levels`.

    What it got wrong at the levels above is in its input then, as it is at sampling: a blurred rocket, or colours that
    guidance overdid.
    """
    work = noise * (levels[0] ** 2 + 1) ** 0.5
    for before, level in pairwise(levels):
        norm = (before**2 + 1) ** 0.5
        timestep = torch.full_like(guidance, 0.25 * math.log(before))
        given, ones = work / norm, torch.ones_like(guidance)
        reply = answer(unet, clips, given, timestep, ones, ones)
        if bool((guidance > 1).any()):
            reply = guided(answer(unet, clips, given, timestep, 0 * ones, 0 * ones), reply, guidance)
        clean = work / norm**2 - reply * before / norm
        work = clean + (work - clean) * (level / before)
    return work


def unet_loss(
    unet: UNetSpatioTemporalConditionModel,
    clips: Clips,
    scaling_factor: float,
    dice: torch.Generator,
    course: random.Random,
    steadiness: float = 2.0,
    calm: float = 0.2,
) -> Tensor:
    """The weighted squared error of one step, with noise and dropout drawn from `dice`, on the clips' own device.

    Half of the clips are the network's own work, in 3 to 6 steps of the sampler: it learns to trust the picture and the
    knobs more than what it did before. In two of three steps these are guided, and so is the answer that is judged. How
    many steps is drawn from `course`, the same in every process, so that none waits for another. `steadiness` weighs
    how much errors change from frame to frame: what changes is seen as flicker. `calm` weighs how much regions drift.
    """
    count, own = len(clips.latents), len(clips.latents) // 2
    fate, free = torch.rand(2, count, generator=dice, device=dice.device)
    clean = clips.latents * scaling_factor
    noise = torch.randn(clean.shape, generator=dice, device=dice.device)
    levels = sampler_levels(course.choice((3, 4, 4, 4, 4, 5, 6)))
    ends = range(2, len(levels) + 1)
    levels = levels[: course.choices(ends, [3.0**end for end in ends])[0]]  # the lowest level in two of three steps
    is_guided = own > 0 and course.random() < 0.65
    # Both conditions go together in one of five (what guidance subtracts), either alone in one of a hundred.
    blind = fate < 0.20
    if is_guided:
        blind[:own] = False
    elif levels[-1] < 3:
        blind[:own] = fate[:own] < 0.35
    picture, token = (~blind & (fate < 0.99)).float(), (~blind & ((fate < 0.98) | (fate > 0.99))).float()
    sigma, guidance = draw_sigmas(blind, dice), 1 + 2 * free[:own] * is_guided
    few = Clips(*(getattr(clips, each.name)[:own] for each in fields(Clips)))
    if own:
        sigma[:own] = levels[-1]
        noise[:own] = (own_work(unet, few, noise[:own], levels, guidance) - clean[:own]) / levels[-1]
    given, timestep, target = preconditioned(clean, noise, sigma)
    reply = answer(unet, clips, given, timestep, picture, token)
    if is_guided:
        dropped = torch.zeros_like(guidance)
        blind_reply = answer(unet, few, given[:own], timestep[:own], dropped, dropped)
        reply = torch.cat([guided(blind_reply, reply[:own], guidance), reply[own:]])
    weight, errors = motion_weight(clean), reply - target
    change = errors[:, 1:] - errors[:, :-1]
    drift = F.avg_pool2d(change.flatten(0, 1), 4).abs().mean()
    return (weight * errors.square()).mean() / weight.mean() + steadiness * change.square().mean() + calm * drift


class PlainAttention:
    """Self-attention as two matrix products: on CPUs several times faster than the fused kernel's backward pass."""

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_) -> Tensor:
        rows, length, width = hidden_states.shape
        query, key, value = (
            layer(hidden_states).view(rows, length, attn.heads, -1).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        scores = (query * attn.scale) @ key.mT
        out = scores.softmax(-1).to(value.dtype) @ value
        return attn.to_out[0](out.transpose(1, 2).reshape(rows, length, width))


class OneTokenAttention:
    """Cross-attention to a single token: its softmax is 1, so the answer is the token's value, for every query."""

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor, **_) -> Tensor:
        return attn.to_out[0](attn.to_v(encoder_hidden_states))


def speed_up(unet: UNetSpatioTemporalConditionModel, device: str = "cpu") -> None:
    """Change how attention is computed, not what; the saved weights know nothing of it."""
    chosen = dict(unet.attn_processors)
    for name in chosen:
        if ".attn2." in name:
            chosen[name] = OneTokenAttention()  # type: ignore[assignment]
        elif device == "cpu":
            chosen[name] = PlainAttention()  # type: ignore[assignment]
    unet.set_attn_processor(chosen)
