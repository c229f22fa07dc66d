"""Does the tiny model do as asked? `python -m training.evaluate` answers with one table.

You will see the bars of the model card, each with what was measured on scenes from seeds never trained on. The same
table goes into `weights/README.md` and, where its markers stand, into docs/tiny.md. Everything runs through
plain `StableVideoDiffusionPipeline.from_pretrained`, as a stranger would use it.

`python -m training.evaluate --compare ONE OTHER` measures two editions in one run, each at its own size, and says of
every bar which is better. "drawn" in place of a folder measures the drawn clips themselves: what no model can pass.
"""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image
from torch import Tensor

from svdlab import assess
from svdlab.tiny import WEIGHTS, pixels_per_frame

from .bars import table, write_between
from .measures import (
    camera_shift,
    colourfulness,
    find_camera,
    find_rocket,
    flicker_percent,
    levels,
    movement,
    moving_parts,
    optical_flow,
    psnr,
    psnr_moved,
    rank_correlation,
    turn_between,
)
from .model import decode, encode
from .photographs import NAMES, photograph
from .scenes import HEIGHT, WIDTH, WORLDS, draw

# What the tiny model is asked by default; chosen by measurement (see LOG.md).
STEPS, GUIDANCE, FPS, NOISE = 4, 1.0, 7, 0.02
BUCKETS = (20, 60, 105, 150, 195, 240)
PHOTO_BUCKETS = (20, 90, 160, 240)
RATES = (6, 9, 14, 22)
NOISES = (0.02, 0.1, 0.3)
GUIDANCES = (1.0, 2.0, 3.0)
FIRST_SEED = 1_000  # of the held-out scenes measured here; tests and galleries use others
DRAWN = Path("drawn")

Values = dict[str, list[float]]  # each measure by its name, one value a clip


@dataclass
class Edition:
    """A model that makes clips of one size: a folder of weights, or the drawing itself in place of a model."""

    folder: Path = WEIGHTS
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    pipeline: StableVideoDiffusionPipeline | None = field(init=False, default=None)
    height: int = field(init=False, default=HEIGHT)
    width: int = field(init=False, default=WIDTH)

    def __post_init__(self) -> None:
        if self.folder != DRAWN:
            pipeline = load(self.folder, self.dtype).to(self.device)
            scale, (height, width) = pipeline.vae_scale_factor, pipeline.unet.config["sample_size"]
            self.pipeline, self.height, self.width = pipeline, scale * height, scale * width

    def truth(self, seed: int, bucket: float, fps: float = FPS, world: str = "rocket", frames: int = 14):
        """The drawn clip (F, 3, H, W) at this edition's size, and its truth."""
        clips, truth = draw([seed], bucket, fps, frames, self.height, self.width, world)
        return clips[0], truth

    def clip(self, seed: int, bucket: float, fps: int = FPS, world: str = "rocket", **request) -> Tensor:
        """The clip that the model makes of a scene's first frame: (F, 3, H, W) in [0, 1]."""
        if self.pipeline is None:
            return self.truth(seed, bucket, fps, world)[0]
        return self.animate(self.truth(seed, 0, world=world, frames=1)[0][0], seed, bucket, fps, **request)

    def animate(
        self,
        picture: Tensor,
        seed: int,
        bucket: float,
        fps: int = FPS,
        noise: float = NOISE,
        guidance: float = GUIDANCE,
    ) -> Tensor:
        """The clip that the model makes of a picture (3, H, W)."""
        assert self.pipeline is not None
        reply: Any = self.pipeline(
            image(picture), height=self.height, width=self.width, num_inference_steps=STEPS, min_guidance_scale=1.0,
            max_guidance_scale=guidance, fps=fps, motion_bucket_id=round(bucket), noise_aug_strength=noise,
            generator=torch.Generator("cpu").manual_seed(seed), output_type="pt",
        )  # fmt: skip
        return reply.frames[0].float().cpu()

    @property
    def megabytes(self) -> float:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()) / 1e6


def image(frame: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as a picture."""
    return Image.fromarray(levels(frame[None])[0])


def load(folder: Path | str = WEIGHTS, dtype: torch.dtype = torch.float32) -> StableVideoDiffusionPipeline:
    pipeline = StableVideoDiffusionPipeline.from_pretrained(str(folder), dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure_vae(edition: Edition, seeds: Sequence[int], values: Values) -> None:
    """How well pictures come back from latents, in fp32."""
    if edition.pipeline is None:
        return
    vae = load(edition.folder).vae.to(edition.device)
    for seed in seeds:
        for world in WORLDS:
            shown = edition.truth(seed, 200, world=world, frames=8)[0][7:].to(edition.device)
            returned = decode(vae, encode(vae, shown * 2 - 1)) / 2 + 0.5
            values[f"vae {world}"].append(psnr(returned.clamp(0, 1), shown))


def measure_rocket(edition: Edition, seed: int, values: Values) -> None:
    """Speed and heading by the bucket, as the rule has it, and as plain optical flow sees it."""
    first, truth = edition.truth(seed, 0)
    heading, speeds, flows = float(truth.heading), [], []
    for bucket in BUCKETS:
        clip = edition.clip(seed, bucket)
        values["first frame"].append(psnr(clip[0], first[0]))
        speed, way = movement(find_rocket(clip, seed))
        speeds.append(speed)
        flows.append(assess(list(map(image, clip))).motion_mean_px)
        if bucket >= 60:
            rule = pixels_per_frame(bucket, FPS, WIDTH)
            values["speed error"].append(abs(speed - rule) / rule)
            values["heading error"].append(turn_between(way, heading))
    values["rank"].append(rank_correlation(speeds))
    values["flow rank"].append(rank_correlation(flows))


def measure_knobs(edition: Edition, seed: int, values: Values) -> None:
    """Frame rate, noise and guidance of one rocket, and how still bucket 0 is."""
    first, _ = edition.truth(seed, 0, frames=1)
    for rate in RATES:
        speed, _ = movement(find_rocket(edition.clip(seed, 150, fps=rate), seed))
        values[f"speed at {rate}"].append(speed)
    still, at_rest = edition.clip(seed, 0), edition.truth(seed, 0)[0]
    values["flicker"].append(flicker_percent(still, ~moving_parts(at_rest)))
    values["flow at rest"].append(optical_flow(still) / optical_flow(edition.clip(seed, 127)))
    if edition.pipeline is None:
        return
    for noise in NOISES:
        values[f"likeness at {noise:g}"].append(psnr(edition.clip(seed, 150, noise=noise)[0], first[0]))
    truth = edition.truth(seed, 150)[0]
    for guidance in GUIDANCES:
        clip = edition.clip(seed, 150, guidance=guidance)
        values[f"guided {guidance:g}"].append(psnr(clip, truth))
        values[f"colours {guidance:g}"].append(colourfulness(clip[-1]) / colourfulness(truth[-1]))


def measure_world(edition: Edition, world: str, seed: int, values: Values) -> None:
    """The last frame at a high bucket against the truth, where anything moves."""
    truth = edition.truth(seed, 220, world=world)[0]
    values[f"last {world}"].append(psnr(edition.clip(seed, 220, world=world)[-1], truth[-1], moving_parts(truth)))


def measure_photograph(edition: Edition, name: str, values: Values) -> None:
    """A real photograph: its first frame, whether the camera follows the bucket, and what it does to the picture."""
    if edition.pipeline is None:
        return
    size = edition.height, edition.width
    shown, shifts = photograph(name, *size), []
    for bucket in PHOTO_BUCKETS:
        clip = edition.animate(shown, 0, bucket)
        values["photo first"].append(psnr(clip[0], shown))
        camera = find_camera(clip, shown)
        shifts.append(camera_shift(camera, *size))
        values["photo moved"].append(psnr_moved(clip[-1], shown, camera))
    values["photo camera"].append(rank_correlation(shifts))


@torch.no_grad()
def measure(folder: Path, device: str, jobs: Sequence[tuple]) -> Values:
    """Do `jobs`, each a name and what it is about. Clips are made in bf16: half the wait where cores multiply in it."""
    edition, values = Edition(folder, device, torch.bfloat16), defaultdict(list)
    for done, (what, *about) in enumerate(jobs, 1):
        {"rocket": measure_rocket, "knobs": measure_knobs, "world": measure_world, "photo": measure_photograph,
         "vae": measure_vae}[what](edition, *about, values)  # fmt: skip
        print(f"{folder.name}: {what} {about[0]}, {done} of {len(jobs)}", flush=True)
    return dict(values)


@torch.no_grad()
def evaluate(folder: Path, scenes: int = 32, processes: int | None = None, device: str = "cpu") -> Values:
    """Everything measured of one edition: jobs shared out over `processes` of one thread, then the clock."""
    seeds = range(FIRST_SEED, FIRST_SEED + scenes)
    few = seeds[: max(2, scenes // 4)]
    jobs: list[tuple] = [("vae", few), *(("rocket", seed) for seed in seeds), *(("knobs", seed) for seed in few)]
    jobs += [("world", world, seed) for world in WORLDS for seed in few]
    jobs += [("photo", name) for name in NAMES[: max(1, scenes)]]
    processes = processes or (1 if device != "cpu" else min(len(jobs), os.cpu_count() or 1))
    if processes == 1:
        parts = [measure(folder, device, jobs)]
    else:
        shares = [jobs[part::processes] for part in range(processes)]
        with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            parts = list(pool.map(measure, [folder] * processes, [device] * processes, shares))
    values: Values = defaultdict(list)
    for part in parts:
        for key, several in part.items():
            values[key] += several
    edition = Edition(folder, "cpu")
    values["size"] = [edition.height, edition.width]
    if edition.pipeline is not None:
        values["megabytes"] = [edition.megabytes]
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        for seed in seeds[:3]:
            start = time.perf_counter()
            edition.clip(seed, 127)
            values["seconds"].append(time.perf_counter() - start)
        torch.set_num_threads(threads)
    return dict(values)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--compare", type=Path, nargs="+", metavar="FOLDER", help="editions, beside each other")
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dry", action="store_true", help="print the table, write no file")
    options = parser.parse_args(arguments)
    folders = options.compare or [options.weights]
    editions = {str(each): evaluate(each, options.scenes, options.processes, options.device) for each in folders}
    text = table(editions, options.scenes)
    print(text)
    if not options.dry and not options.compare:
        for card in (options.weights / "README.md", Path(__file__).parents[1] / "docs" / "tiny.md"):
            if write_between(card, text):
                print(f"written into {card}")


if __name__ == "__main__":
    main()
