"""Clips to learn from: drawn, encoded and kept to be used a few times each, all on one device."""

import random
from dataclasses import fields

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor, nn

from .model import FRAMES, build_image_encoder, encode
from .objective import Clips, half
from .scenes import HELD_OUT_END, draw

# How often each world is drawn. Rockets are what the package's tests and notebooks ask for; leaves are hardest.
SHARES = {"rocket": 0.32, "ball": 0.16, "boat": 0.1, "clouds": 0.1, "photo": 0.06, "leaves": 0.16, "grain": 0.1}
# The same for the VAE, which has to return real photographs: leaves and grain have most of their detail.
VAE_SHARES = {"rocket": 0.15, "ball": 0.08, "boat": 0.05, "clouds": 0.05, "photo": 0.07, "leaves": 0.3, "grain": 0.3}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's CLIP, as CLIPImageProcessor has them
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SEED_END = 2**31


def random_bucket(dice: random.Random) -> float:
    """0 to 255, and one in seventeen is 0: standing still must be learnt exactly."""
    return max(0.0, dice.uniform(-16, 255))


def random_frame_rate(dice: random.Random, frames: int) -> float:
    """5 to 30, three in four from 5 to 12, where clips move enough to learn from.

    Short clips are slowed to span the same time: as much movement to learn, in fewer frames.
    """
    rate = dice.randint(5, 12) if dice.random() < 0.75 else dice.randint(13, 30)
    return rate * max(1, frames - 1) / (FRAMES - 1)


def random_clips(
    dice: random.Random, count: int, frames: int, size: tuple[int, int], device: str, shares: dict[str, float] = SHARES
) -> tuple[Tensor, Tensor, Tensor]:
    """Clips (count, frames, 3, H, W) of one world, from seeds never held out; their buckets and frame rates."""
    [world] = dice.choices(list(shares), list(shares.values()))
    seeds = [dice.randrange(HELD_OUT_END, SEED_END) for _ in range(count)]
    buckets, rates = zip(*((random_bucket(dice), random_frame_rate(dice, frames)) for _ in seeds), strict=True)
    bucket, rate = (torch.tensor(each, dtype=torch.float32, device=device) for each in (buckets, rates))
    return draw(seeds, bucket, rate, frames, *size, world, device)[0], bucket, rate


def random_pictures(
    dice: random.Random, clips: int, frames: int, size: tuple[int, int], device: str, draws: int = 1
) -> tuple[Tensor, int]:
    """Pictures (n, 3, H, W) in [0, 1] for the VAE, and how many of them follow each other; `draws` are drawn at once.

    Half of the times they are `clips` of so many `frames`, from which steadiness is learnt, else single pictures, half
    as many but all different, from which detail is learnt.
    """
    if dice.random() < 0.5:
        groups = [random_clips(dice, draws, frames, size, device, VAE_SHARES)[0] for _ in range(0, clips, draws)]
        return torch.cat(groups).flatten(0, 1), frames
    groups = [random_clips(dice, draws, 1, size, device, VAE_SHARES)[0] for _ in range(0, clips * frames // 2, draws)]
    return torch.cat(groups).flatten(0, 1), 1


def token(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """The image encoder's answer (B, 1, d) to pictures in [0, 1], prepared as the pipeline prepares them."""
    small = (_resize_with_antialiasing(pictures * 2 - 1, (224, 224)) + 1) / 2
    mean, std = (small.new_tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    return encoder((small - mean) / std).image_embeds[:, None]


class Source:
    """Draws and encodes `draws` clips of one world at a time, keeps the latest `pool`, each to be used `uses` times."""

    def __init__(
        self,
        vae: AutoencoderKLTemporalDecoder,
        device: str,
        size: tuple[int, int],
        frames: int,
        seed: int,
        draws: int,
        pool: int,
        uses: int,
    ):
        self.vae, self.device, self.dice = vae.eval().requires_grad_(False), device, random.Random(seed)
        self.size, self.frames, self.draws, self.pool, self.uses = size, frames, draws, pool, uses
        self.encoder = build_image_encoder()
        nn.Module.to(self.encoder, torch.device(device))  # transformers' types know no device
        self.kept: list[Clips] = []
        self.owed = float(min(pool, 24 * draws))  # before the first step

    @torch.no_grad()
    def add(self) -> None:
        clips, bucket, rate = random_clips(self.dice, self.draws, self.frames, self.size, self.device)
        pictures = clips * 2 - 1
        # The first picture with noise of two strengths: encoding costs a third of what the UNet does, so it is shared.
        strengths = torch.tensor([[0.005 * 80 ** self.dice.random() for _ in clips] for _ in range(2)])
        strength = strengths.to(self.device)
        noisy = pictures[:, 0] + strength[..., None, None, None] * torch.randn_like(
            pictures[:, 0].expand(2, -1, -1, -1, -1)
        )
        with half(self.device):
            latents = encode(self.vae, torch.cat([pictures.flatten(0, 1), noisy.flatten(0, 1)])).float()
        shown = latents[: -2 * self.draws].unflatten(0, (self.draws, self.frames))
        conditions = latents[-2 * self.draws :].unflatten(0, (2, self.draws))
        tokens = token(self.encoder, clips[:, 0])
        for each in range(2):
            several = shown, conditions[each], strength[each], tokens, bucket, rate
            self.kept += [Clips(*(one[index, None] for one in several)) for index in range(self.draws)]
        del self.kept[: -2 * self.pool]

    def batch(self, count: int) -> Clips:
        self.owed += count / self.uses if self.kept else 0
        while self.owed > 0:
            self.add()
            self.owed -= self.draws
        chosen = [self.dice.choice(self.kept) for _ in range(count)]
        return Clips(*(torch.cat([getattr(each, field.name) for each in chosen]) for field in fields(Clips)))
