"""Teach the tiny model to move as told: `python -m training.train` makes `svdlab/tiny/weights/` anew.

You will see a line every few seconds (stage, step, loss, seconds a step, time left), and a folder that plain diffusers
loads, renewed every ten minutes. First the VAE learns to return pictures; then, with the VAE fixed, the UNet learns to
move them, with SVD's own parametrisation: EDM preconditioning as `EulerDiscreteScheduler` has it, v-prediction,
continuous timesteps ln(sigma)/4, noise augmentation drawn and told, fps - 1 told, the condition dropped at times.

Kill it whenever you like: the same command goes on from its last checkpoint, at most two minutes back. On a CPU every
core runs a process of one thread and gradients are averaged, which soaks up idle cores without threads waiting for
each other; on a GPU one process draws, encodes and trains there.
"""

import argparse
import os
import random
import tempfile
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Tensor, nn

from svdlab.atomic_files import atomic_write
from svdlab.tiny import WEIGHTS

from .model import FRAMES, build_image_encoder, build_pipeline, build_unet, build_vae, decode, encode
from .optimizer import Muon
from .scenes import HELD_OUT_END, draw

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's CLIP, as CLIPImageProcessor has them
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SEED_END = 2**31
Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Options:
    """What a training run is asked to do; times in minutes of this machine's work, kept across restarts."""

    vae_minutes: float = 14.0
    minutes: float = 100.0  # the UNet's
    batch: int = 2  # clips a step and process
    vae_batch: int = 4  # pictures a step and process
    processes: int = field(default_factory=lambda: 1 if torch.cuda.is_available() else os.cpu_count() or 1)
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    rate: float = 1e-3
    vae_rate: float = 3e-4
    uses: int = 6  # how often a drawn and encoded clip is trained on, each time with other noise
    pool: int = 192  # clips kept encoded, a process
    photos: float = 0.1  # share of clips without a rocket
    short: float = 0.3  # share of the UNet's time spent on short clips, a third as dear
    save_minutes: float = 2.0
    export_minutes: float = 10.0
    steps: int | None = None  # stop after so many, whatever the time: for tests
    checkpoints: Path = Path("checkpoints/tiny")
    weights: Path = WEIGHTS


# --- what the UNet is asked ---------------------------------------------------------------------------------------


def preconditioned(clean: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(network input, timestep, target) for clean latents (B, F, 4, h, w) and sigma (B,).

    The scheduler reads x0 = x / (sigma^2 + 1) - out * sigma / sqrt(sigma^2 + 1); solved for `out` that is the target.
    In these units EDM's loss weight is 1.
    """
    wide = sigma[:, None, None, None, None]
    norm = (wide**2 + 1).sqrt()
    return (clean + wide * noise) / norm, 0.25 * sigma.log(), (noise - wide * clean) / norm


def draw_sigmas(count: int, dice: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Noise levels: three in four log-uniform from 4 to 700, the others log-normal around 0.6.

    Picture, bucket and frame rate settle the clip, so the sampler's first steps, at the highest noise, decide where
    everything goes; the rest only sharpens it. That is why the high levels get the larger share.
    """
    high = 4 * (700 / 4) ** torch.rand(count, generator=dice)
    low = torch.exp(-0.5 + 1.4 * torch.randn(count, generator=dice))
    return torch.where(torch.rand(count, generator=dice) < 0.75, high, low).clamp(0.002, 700).to(device)


def motion_weight(clean: Tensor, strength: float = 8.0) -> Tensor:
    """1 where a frame equals the first, up to 1 + strength where it differs: (B, F, 1, h, w).

    The rocket is a tenth of the picture; without this the loss hardly notices where it went.
    """
    change = (clean - clean[:, :1]).abs().mean(2, keepdim=True)
    return 1 + strength * (change / 0.5).clamp(max=1)


# --- the same network, faster to train ------------------------------------------------------------------------------


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


def speed_up(unet: UNetSpatioTemporalConditionModel) -> None:
    """Change how attention is computed, not what; the saved weights know nothing of it."""
    unet.set_attn_processor(
        {name: OneTokenAttention() if ".attn2." in name else PlainAttention() for name in unet.attn_processors}  # type: ignore[arg-type]
    )


# --- clips to learn from --------------------------------------------------------------------------------------------


@dataclass
class Clips:
    """Encoded clips: latents (n, F, 4, h, w) unscaled; image latents (n, 4, h, w) of the first picture with noise of
    `strength` (n,) added; the image encoder's tokens (n, 1, d); what is told, `bucket` and `fps` (n,)."""

    latents: Tensor
    condition: Tensor
    strength: Tensor
    tokens: Tensor
    bucket: Tensor
    fps: Tensor


SHORT_FRAMES = 5
START = 24  # clips drawn before the first step


def random_frame_rate(dice: random.Random, frames: int) -> float:
    """5 to 30, three in four from 5 to 12, where clips move enough to learn from.

    Short clips are slowed to span the same time: as much movement to learn, in fewer frames.
    """
    rate = dice.randint(5, 12) if dice.random() < 0.75 else dice.randint(13, 30)
    return rate * (frames - 1) / (FRAMES - 1)


class Source:
    """Draws scenes never held out, encodes them, and keeps the latest to be used a few times each."""

    def __init__(self, vae: AutoencoderKLTemporalDecoder, options: Options, seed: int):
        self.vae, self.options, self.dice = vae.eval().requires_grad_(False), options, random.Random(seed)
        self.encoder = place(build_image_encoder(), options.device)
        self.kept: list[Clips] = []
        self.owed, self.frames = 0.0, FRAMES

    @torch.no_grad()
    def add(self) -> None:
        """Draw and encode one clip."""
        options, dice = self.options, self.dice
        world = "photo" if dice.random() < options.photos else "rocket"
        seed, bucket = dice.randrange(HELD_OUT_END, SEED_END), dice.uniform(0, 255)
        fps = random_frame_rate(dice, self.frames)
        clip, _ = draw([seed], bucket, fps, self.frames, world=world, device=options.device)
        pictures = clip[0] * 2 - 1
        # The first picture with noise of two strengths: encoding costs a third of what the UNet does, so it is shared.
        strength = torch.tensor([0.005 * 80 ** dice.random() for _ in range(2)], device=options.device)
        noisy = pictures[:1] + strength[:, None, None, None] * torch.randn_like(pictures[:1].expand(2, -1, -1, -1))
        with half(options.device):
            latents = encode(self.vae, torch.cat([pictures, noisy])).float()
        knobs = torch.tensor([bucket, fps], dtype=torch.float32, device=options.device)
        tokens = token(self.encoder, clip[:, 0])
        for each in (-2, -1):
            condition = latents[each, None], strength[each, None]
            self.kept.append(Clips(latents[None, :-2], *condition, tokens, knobs[:1], knobs[1:]))
        del self.kept[: -2 * options.pool]

    def batch(self, count: int, frames: int) -> Clips:
        if frames != self.frames:
            self.kept.clear()
            self.frames = frames
        self.owed += count / self.options.uses if self.kept else START
        while self.owed >= 1:
            self.add()
            self.owed -= 1
        chosen = [self.dice.choice(self.kept) for _ in range(count)]
        return Clips(*(torch.cat([getattr(each, name) for each in chosen]) for name in Clips.__dataclass_fields__))


def token(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """The image encoder's answer (B, 1, d) to pictures in [0, 1], prepared as the pipeline prepares them."""
    small = (_resize_with_antialiasing(pictures * 2 - 1, (224, 224)) + 1) / 2
    mean, std = (small.new_tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    return encoder((small - mean) / std).image_embeds[:, None]


def unet_loss(
    unet: UNetSpatioTemporalConditionModel, clips: Clips, scaling_factor: float, dice: torch.Generator
) -> Tensor:
    """The weighted squared error of one step, with noise and dropout drawn from `dice`."""
    count, device = len(clips.latents), clips.latents.device

    def chance(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=dice).to(device)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=dice).to(device)

    # Both conditions go together in one of twenty (what guidance subtracts), either alone in one of fifty.
    fate = chance(count)
    condition = clips.condition * ((fate > 0.07) | ((fate > 0.05) & (fate < 0.06)))[:, None, None, None]
    tokens = clips.tokens * (fate > 0.06)[:, None, None]

    clean = clips.latents * scaling_factor
    sigma = draw_sigmas(count, dice, device)
    given, timestep, target = preconditioned(clean, normal(clean), sigma)
    given = torch.cat([given, condition[:, None].expand_as(given)], 2)
    with half(device.type):
        answer = unet(given, timestep, tokens, torch.stack([clips.fps - 1, clips.bucket, clips.strength], 1)).sample
    weight = motion_weight(clean)
    return (weight * (answer.float() - target).square()).mean() / weight.mean()


# --- running --------------------------------------------------------------------------------------------------------


def half(device: str):
    """bf16 where it pays: 2.3 times as fast on CPUs that multiply in it."""
    return torch.autocast(device, torch.bfloat16)


def place(model: Model, device: str) -> Model:
    model.to(torch.device(device))  # in a line of its own: diffusers' types lose the model in `.to(...)`
    return model


def average(parameters: list[nn.Parameter], world: int) -> None:
    """Average gradients over all processes, in one message."""
    if world == 1:
        return
    flat = torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in parameters])
    dist.all_reduce(flat)
    flat /= world
    for each, piece in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
        each.grad = piece.view_as(each)


class Average:
    """A running mean of the weights that forgets the early ones: step t counts t^8 (Karras and others, 2312.02696)."""

    def __init__(self, model: nn.Module, power: float = 8.0):
        self.power, self.step = power, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.step += 1
        share = 1 - (1 - 1 / self.step) ** (self.power + 1)
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value, share)


@dataclass
class Run:
    """A model in training and all that a restart needs: `save` and `load` keep it in one file, whole or not at all."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    path: Path
    seconds: float = 0.0
    step: int = 0

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "seconds": self.seconds,
                 "step": self.step, "average": self.average.weights, "average_step": self.average.step}  # fmt: skip
        with atomic_write(self.path) as beside:
            torch.save(state, beside)

    def load(self) -> bool:
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=True, map_location=next(self.model.parameters()).device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.weights, self.average.step = state["average"], state["average_step"]
        self.seconds, self.step = state["seconds"], state["step"]
        return True


def rate_at(done: float, step: int, warm_up: int) -> float:
    """The learning rate's share of its top: up over the first steps, level, down over the last third of the time."""
    return min(1.0, (step + 1) / warm_up) * min(1.0, max(0.03, (1 - done) * 3))


def train(
    run: Run, loss_of, minutes: float, rate: float, warm_up: int, options: Options, rank: int, clip: float, export=None
):
    """Step until the time is up. `loss_of(step)` gives a loss; `export()` renews the weights folder now and then."""
    parameters = [each for each in run.model.parameters() if each.requires_grad]
    last, saved, exported, losses, parent = time.monotonic(), run.seconds, run.seconds, [], os.getppid()
    while run.seconds < minutes * 60 and (options.steps is None or run.step < options.steps):
        for group in run.optimizer.param_groups:
            group["lr"] = rate * rate_at(run.seconds / (minutes * 60), run.step, warm_up)
        loss = loss_of(run.step)
        run.optimizer.zero_grad()
        loss.backward()
        average(parameters, options.processes)
        nn.utils.clip_grad_norm_(parameters, clip)
        run.optimizer.step()
        run.average.update(run.model)
        run.step += 1
        losses.append(loss.item())
        now = time.monotonic()
        clock = torch.tensor([run.seconds + now - last], dtype=torch.float64)
        last = now
        if options.processes > 1:
            dist.broadcast(clock, 0)  # one clock, so that all stop together
        run.seconds = float(clock)
        if os.getppid() != parent:
            raise SystemExit("the process that started this one is gone")
        if rank:
            continue
        if run.step % 10 == 0:
            left = max(0.0, minutes - run.seconds / 60)
            mean = sum(losses) / len(losses)
            losses.clear()
            pace = f"{run.seconds / run.step:.2f} s/step  {left:5.1f} min left"
            print(f"{run.name} step {run.step:6d}  loss {mean:.4f}  {pace}", flush=True)
        if run.seconds - saved > options.save_minutes * 60:
            run.save()
            saved = run.seconds
        if export and run.seconds - exported > options.export_minutes * 60:
            export()
            exported = run.seconds
    if rank == 0:
        run.save()
        if export:
            export()


def vae_run(options: Options, rank: int) -> AutoencoderKLTemporalDecoder:
    """The VAE, trained for its share of the time, with the scaling factor that gives its latents unit size."""
    vae = place(build_vae(), options.device)
    optimizer = torch.optim.Adam(vae.parameters(), options.vae_rate, betas=(0.9, 0.99))
    run = Run("vae ", vae, optimizer, Average(vae, power=30), options.checkpoints / "vae.pt")
    run.load()

    def loss_of(step: int) -> Tensor:
        pictures = vae_pictures(options, step * options.processes + rank)
        with half(options.device):
            latents = encode(vae, pictures)
            # A little noise, about a twentieth of the latents' size: what the UNet hands over is never exact.
            returned = decode(vae, latents + 0.015 * torch.randn_like(latents))
        return (returned.float() - pictures).square().mean()

    train(run, loss_of, options.vae_minutes, options.vae_rate, 60, options, rank, clip=0.5)
    vae.load_state_dict(run.average.weights)
    vae.register_to_config(scaling_factor=measured_scale(vae, options))
    return vae.eval().requires_grad_(False)


def vae_pictures(options: Options, seed: int) -> Tensor:
    """Three rockets somewhere on their way to one picture without, in [-1, 1]."""
    dice = random.Random(seed)
    seeds = [dice.randrange(HELD_OUT_END, SEED_END) for _ in range(options.vae_batch)]
    photos, frame = max(1, options.vae_batch // 4), dice.randrange(4)
    rockets = seeds[photos:]
    buckets, rates = [dice.uniform(0, 255) for _ in rockets], [dice.uniform(1.7, 5) for _ in rockets]
    pictures = [draw(seeds[:photos], 0, 7, 1, world="photo", device=options.device)[0][:, 0]]
    if rockets:
        pictures.append(draw(rockets, buckets, rates, 4, device=options.device)[0][:, frame])
    return torch.cat(pictures) * 2 - 1


@torch.no_grad()
def measured_scale(vae: AutoencoderKLTemporalDecoder, options: Options) -> float:
    """One over the latents' root mean square, on 16 training scenes; three digits, so that it reads well."""
    pictures = draw(range(HELD_OUT_END, HELD_OUT_END + 16), 127, 7, 1, device=options.device)[0][:, 0] * 2 - 1
    return round(float(encode(vae, pictures).square().mean() ** -0.5), 3)


def unet_run(options: Options, rank: int, vae: AutoencoderKLTemporalDecoder) -> None:
    unet = place(build_unet(vae.config["scaling_factor"]), options.device)
    speed_up(unet)
    edges = [*unet.conv_in.parameters(), *unet.conv_out.parameters()]  # made by hand, and no mixing of features: Adam's
    optimizer = Muon(unet.parameters(), options.rate, adam_only=edges)
    run = Run("unet", unet, optimizer, Average(unet), options.checkpoints / "unet.pt")
    run.load()
    source = Source(vae, options, seed=1_000_003 * run.step + rank)
    dice = torch.Generator().manual_seed(7_919 * run.step + rank)

    def loss_of(_: int) -> Tensor:
        short = run.seconds < options.short * options.minutes * 60
        if not short and source.frames == SHORT_FRAMES:
            run.average.step = 0  # whole clips differ enough that the mean should begin afresh
        clips = source.batch(options.batch, SHORT_FRAMES if short else FRAMES)
        return unet_loss(unet, clips, vae.config["scaling_factor"], dice)

    def export() -> None:
        export_weights(vae, run.average.weights, options.weights)

    if rank == 0 and run.step == 0:
        export()
    train(run, loss_of, options.minutes, options.rate, 100, options, rank, clip=1.0, export=export)


def export_weights(vae: AutoencoderKLTemporalDecoder, unet_weights: dict[str, Tensor], folder: Path) -> None:
    """Write the pipeline to `folder`, fp16, each file whole or not at all; what else lies there stays."""
    unet = build_unet(vae.config["scaling_factor"])
    unet.load_state_dict(unet_weights)
    fresh = build_vae()
    fresh.load_state_dict(vae.state_dict())
    fresh.register_to_config(scaling_factor=vae.config["scaling_factor"])
    pipeline = build_pipeline(fresh.half(), unet.half())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".weights-") as beside:
        pipeline.save_pretrained(beside)
        for path in sorted(each for each in Path(beside).rglob("*") if each.is_file()):
            goal = folder / path.relative_to(beside)
            goal.parent.mkdir(exist_ok=True)
            path.replace(goal)


def work(rank: int, options: Options, meeting: str) -> None:
    """One process's part of the run."""
    if options.device == "cpu":
        torch.set_num_threads(1)
    if options.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.processes)
    torch.manual_seed(rank)
    vae = vae_run(options, rank)
    unet_run(options, rank, vae)
    if options.processes > 1:
        dist.destroy_process_group()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in fields(Options):
        default = getattr(Options(), option.name)
        kind = int if default is None else type(default)
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=default)
    options = Options(**vars(parser.parse_args(arguments)))
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        if options.processes == 1:
            work(0, options, meeting)
        else:
            torch.multiprocessing.spawn(work, (options, meeting), nprocs=options.processes)


if __name__ == "__main__":
    main()
