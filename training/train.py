"""Teach the tiny model to move as asked: `python -m training.train` makes a folder that plain diffusers loads.

You will see a line every few seconds (stage, step, loss, seconds a step, time left, seconds spent drawing and
encoding). It starts from the weights of the edition before, widened; with `--start none`, from those made by hand.
First the VAE learns to return clips, steadily; then, with the VAE fixed, the UNet learns to move them.

Kill it whenever you like: the same command goes on from its last checkpoint, at most two minutes back. On a CPU every
core runs a process of one thread and gradients are averaged, which soaks up idle cores without threads waiting for
each other; on a GPU one process draws, encodes and trains there.
"""

import argparse
import json
import os
import random
import tempfile
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLTemporalDecoder
from safetensors.torch import load_file
from torch import Tensor

from svdlab.tiny import WEIGHTS

from .clips import Source, random_pictures
from .model import FRAMES, HEIGHT, LATENTS, WIDTH, build_pipeline, build_unet, build_vae, decode, encode, grow
from .objective import half, speed_up, unet_loss
from .optimizer import Muon
from .runs import Average, Clock, Run, hasten, place, train
from .scenes import HELD_OUT_END, draw

CARD = torch.cuda.is_available()
FILE = "diffusion_pytorch_model.safetensors"
SHORT_FRAMES = 5
VAE_FRAMES = 6  # that follow each other, for the decoder's layers over time
NEW_PARTS = 8.0  # how much faster the weights of the new latent channels learn than the others
STEADINESS = 2.0  # of the VAE: what changes by itself is a hundredth of its error, and the first thing that is seen
DETAIL = 0.4  # size of the new latent channels; the first ones have 0.6. Larger, the UNet's loss would be mostly theirs


@dataclass
class Options:
    """What a training run is asked to do; times in minutes of this machine's work, kept across restarts.

    The defaults fill eight minutes of one large card (two of ten are for its start), or an evening of two cores.
    """

    vae_minutes: float = 2.0 if CARD else 40.0
    minutes: float = 6.0 if CARD else 160.0  # the UNet's
    batch: int = 32 if CARD else 4  # clips a step and process
    vae_batch: int = 16 if CARD else 1  # clips of a few frames a step and process
    processes: int = field(default_factory=lambda: 1 if CARD else os.cpu_count() or 1)
    device: str = "cuda" if CARD else "cpu"
    rate: float = 1e-3 if CARD else 5e-4
    vae_rate: float = 2e-4 if CARD else 1e-4
    uses: int = 6  # how often a drawn and encoded clip is trained on, each time with other noise
    draws: int = 4 if CARD else 1  # clips of one world drawn and encoded together
    pool: int = 2048 if CARD else 192  # clips kept encoded, a process
    compile: int = 0  # 1: fewer, larger kernels, after a minute or more of compiling
    height: int = HEIGHT
    width: int = WIDTH
    depth: int = 1  # of the UNet: 2 has half as many parameters again, and needs a third longer for a step
    short: float = 0.0  # share of the UNet's time spent on short clips, a third as dear
    save_minutes: float = 2.0
    export_minutes: float = 2.0 if CARD else 10.0
    steps: int | None = None  # stop after so many, whatever the time: for tests
    start: Path = WEIGHTS  # the edition before, or "none"
    checkpoints: Path = Path("checkpoints/tiny")  # and in it the folder `weights`


def edition_before(options: Options, part: str) -> dict[str, Tensor] | None:
    """The weights to start from, if any."""
    path = options.start / part / FILE
    if str(options.start) != "none" and not path.exists():
        raise FileNotFoundError(f"{path} is missing: give --start a folder of weights, or none.")
    return None if str(options.start) == "none" else load_file(path)


def vae_run(options: Options, rank: int) -> AutoencoderKLTemporalDecoder:
    """The VAE, trained for its share of the time, with the scaling factor that gives its latents unit size."""
    vae = place(build_vae(), options.device)
    before = edition_before(options, "vae")
    if before:
        grow(vae, before)
    optimizer = torch.optim.Adam(vae.parameters(), options.vae_rate, betas=(0.9, 0.99))
    run = Run("vae ", vae, optimizer, Average(vae, power=30), options.checkpoints / "vae.pt")
    first = deepcopy(vae).requires_grad_(False) if before else None
    run.load()
    known = before["decoder.conv_in.weight"].shape[1] if before else 0  # latent channels
    if 0 < known < LATENTS:
        new = slice(known, LATENTS)
        hasten(optimizer, [vae.encoder.conv_out.weight[new], vae.decoder.conv_in.weight[:, new]], NEW_PARTS)
    if options.compile:
        vae.encoder.compile()
        vae.decoder.compile()
    dice, drawing = random.Random(1_000_003 * run.step + rank), Clock(options.device)

    def loss_of() -> Tensor:
        with drawing, torch.no_grad():
            size, batch = (options.height, options.width), (options.vae_batch, VAE_FRAMES)
            pictures, frames = random_pictures(dice, *batch, size, options.device, options.draws)
            pictures = pictures * 2 - 1
        with half(options.device):
            latents = encode(vae, pictures)
            # A little noise, up to a tenth of the latents' size: what the UNet hands over is never exact.
            noise = 0.06 * torch.rand(len(latents), 1, 1, 1, device=latents.device) * torch.randn_like(latents)
            returned = decode(vae, latents + noise, frames)
        return vae_loss(returned.float(), pictures, frames) + latents_loss(latents.float(), pictures, first, known)

    train(run, loss_of, options.vae_minutes, options.vae_rate, 60, options, rank, clip=0.5, drawing=drawing)
    vae.load_state_dict(run.average.weights)
    # A UNet that is taken over knows latents of the size that the edition before gave it.
    config = options.start / "vae" / "config.json"
    scale = json.loads(config.read_text())["scaling_factor"] if before else measured_scale(vae, options)
    vae.register_to_config(scaling_factor=scale)
    return vae.eval().requires_grad_(False)


def vae_loss(returned: Tensor, pictures: Tensor, frames: int) -> Tensor:
    """The squared error of frames (n, 3, H, W), and of their change to the next: what changes by itself is flicker."""
    errors = (returned - pictures).unflatten(0, (-1, frames))
    steady = (errors[:, 1:] - errors[:, :-1]).square().mean() if frames > 1 else 0.0
    return errors.square().mean() + STEADINESS * steady


def latents_loss(latents: Tensor, pictures: Tensor, first: AutoencoderKLTemporalDecoder | None, known: int) -> Tensor:
    """Keeps the `known` channels where the edition before has them, for its UNet, and new ones at `DETAIL`."""
    if first is None:
        return latents.new_zeros(())
    with torch.no_grad(), half(pictures.device.type):
        before = encode(first, pictures)[:, :known].float()
    kept = 0.1 * (latents[:, :known] - before).square().mean()
    sizes = latents[:, known:].square().mean((0, 2, 3)).sqrt()
    return kept + 0.002 * (sizes / DETAIL - 1).square().sum() / max(1, len(sizes))


@torch.no_grad()
def measured_scale(vae: AutoencoderKLTemporalDecoder, options: Options) -> float:
    """One over the latents' root mean square, on 16 training scenes; three digits, so that it reads well."""
    pictures = draw(range(HELD_OUT_END, HELD_OUT_END + 16), 127, 7, 1, device=options.device)[0][:, 0] * 2 - 1
    return round(float(encode(vae, pictures).square().mean() ** -0.5), 3)


def unet_run(options: Options, rank: int, vae: AutoencoderKLTemporalDecoder) -> None:
    unet = place(build_unet(vae.config["scaling_factor"], options.depth), options.device)
    before = edition_before(options, "unet")
    if before:
        grow(unet, before)
    speed_up(unet, options.device)
    if options.compile:
        unet.compile()
    edges = [*unet.conv_in.parameters(), *unet.conv_out.parameters()]  # made by hand, and no mixing of features: Adam's
    optimizer = Muon(unet.parameters(), options.rate, adam_only=edges)
    run = Run("unet", unet, optimizer, Average(unet), options.checkpoints / "unet.pt")
    run.load()
    if before and (known := before["conv_out.weight"].shape[0]) < LATENTS:
        new, condition = slice(known, LATENTS), slice(LATENTS + known, 2 * LATENTS)
        parts = [unet.conv_in.weight[:, new], unet.conv_in.weight[:, condition], unet.conv_out.weight[new]]
        hasten(optimizer, parts, NEW_PARTS)
    dice, drawing = torch.Generator(options.device).manual_seed(7_919 * run.step + rank), Clock(options.device)
    source: Source | None = None

    def loss_of() -> Tensor:
        nonlocal source
        frames = SHORT_FRAMES if run.seconds < options.short * options.minutes * 60 else FRAMES
        if source is None or source.frames != frames:
            if source:
                run.average.step = 0  # whole clips differ enough that the mean should begin afresh
            seed = 1_000_003 * run.step + rank
            size, kept = (options.height, options.width), (options.draws, options.pool, options.uses)
            source = Source(vae, options.device, size, frames, seed, *kept)
        with drawing:
            clips = source.batch(options.batch)
        return unet_loss(unet, clips, vae.config["scaling_factor"], dice, random.Random(run.step))

    def export() -> None:
        export_weights(vae, run.average.weights, options)

    if rank == 0 and run.step == 0:
        export()
    train(run, loss_of, options.minutes, options.rate, 100, options, rank, clip=1.0, drawing=drawing, export=export)


def export_weights(vae: AutoencoderKLTemporalDecoder, unet_weights: dict[str, Tensor], options: Options) -> None:
    """Write the pipeline to the weights folder, fp16, each file whole or not at all; what else lies there stays."""
    unet, folder = build_unet(vae.config["scaling_factor"], options.depth), options.checkpoints / "weights"
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
    torch.backends.cudnn.benchmark = True  # all shapes stay as they are
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
