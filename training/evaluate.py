"""Does the tiny model do as told? `python -m training.evaluate` answers with one table.

You will see the bars of the model card, each with what was measured on scenes from seeds never trained on. The same
table goes into `weights/README.md` and, where its markers stand, into the project's README. Everything runs through
plain `StableVideoDiffusionPipeline.from_pretrained`, as a stranger would use it.

Movement is measured by looking for the rocket: the scene's own rocket is laid over its own empty sky at every place,
and the place that differs least from the generated frame wins (to a fraction of a pixel, by a parabola through the
least difference and its neighbours). Speed and heading are the straight line through a clip's places.
"""

import argparse
import math
import os
import re
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableVideoDiffusionPipeline
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from svdlab.atomic_files import atomic_write
from svdlab.tiny import WEIGHTS, pixels_per_frame

from .model import decode, encode
from .scenes import draw, layers

# What the tiny model is asked by default; found by measurement (see LOG.md).
STEPS, GUIDANCE, FPS, NOISE = 4, 1.0, 7, 0.02
BUCKETS = (20, 60, 105, 150, 195, 240)
RATES = (6, 9, 14, 22)
NOISES = (0.02, 0.1, 0.3)
FIRST_SEED = 1_000  # of the held-out scenes measured here; tests and galleries use others
MARKERS = "<!-- tiny-table -->", "<!-- /tiny-table -->"


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [0, 1]."""
    return -10 * math.log10(max(float((one - other).square().mean()), 1e-10))


def rank_correlation(values: Sequence[float]) -> float:
    """Spearman's, of `values` with their own order: 1 where each is larger than the one before."""
    return float(spearmanr(range(len(values)), values).statistic)  # type: ignore[attr-defined]


def find_rocket(frames: Tensor, seed: int, reach: int = 48) -> Tensor:
    """How far the scene's rocket has moved from its start, in each of `frames` (F, 3, H, W): (F, 2), pixels, y down.

    With sky B, rocket colour R and cover a, the picture with the rocket moved by d is B + a(x-d)(R(x-d) - B). Its
    squared difference from a frame, multiplied out, is a sum of correlations, which one convolution gives for all d.
    """
    height, width = frames.shape[-2:]
    sky, colour, cover = layers(seed, height, width)
    rows, columns = (cover > 0.01).nonzero().unbind(1)
    top, left = int(rows.min()), int(columns.min())
    box = slice(top, int(rows.max()) + 1), slice(left, int(columns.max()) + 1)
    a, paint = cover[box], colour[:, box[0], box[1]]
    rest = frames - sky
    ones, skies = torch.ones(len(frames), 1, height, width), sky.expand(len(frames), -1, -1, -1)
    squares = skies.square().sum(1, keepdim=True)
    maps = torch.cat([ones, skies, squares, rest, (rest * sky).sum(1, keepdim=True)], 1)
    weights = (a * paint).square().sum(0)[None], -2 * a**2 * paint, (a**2)[None], -2 * a * paint, 2 * a[None]
    kernel = torch.cat(weights)[None]
    difference = F.conv2d(F.pad(maps, (reach, reach, reach, reach)), kernel)[:, 0]
    # The window's corner at (top + reach + dy, left + reach + dx) means a movement of (dx, dy).
    window = difference[:, top : top + 2 * reach + 1, left : left + 2 * reach + 1]
    places = window.flatten(1).argmin(1)
    offsets = []
    for surface, place in zip(window, places.tolist(), strict=True):
        row, column = divmod(place, surface.shape[1])
        offsets.append((column + _lowest(surface[row], column) - reach, row + _lowest(surface[:, column], row) - reach))
    return torch.tensor(offsets)


def _lowest(values: Tensor, index: int) -> float:
    """Where between its neighbours a minimum lies: -0.5 to 0.5."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, here, after = (float(values[index + step]) for step in (-1, 0, 1))
    bend = before - 2 * here + after
    return 0.0 if bend <= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))


def movement(places: Tensor) -> tuple[float, float]:
    """Speed in pixels a frame and heading in degrees (counter-clockwise, 0 to the right): the line through (F, 2)."""
    time_ = torch.arange(len(places), dtype=places.dtype)
    time_ = time_ - time_.mean()
    x, y = ((time_[:, None] * places).sum(0) / time_.square().sum()).tolist()
    return math.hypot(x, y), math.degrees(math.atan2(-y, x)) % 360


def turn_between(one: float, other: float) -> float:
    """The angle between two headings, 0 to 180 degrees."""
    return abs((one - other + 180) % 360 - 180)


@dataclass
class Report:
    """Everything measured, raw; the table's rows are made from it."""

    scenes: int
    vae_psnr: list[float] = field(default_factory=list)
    photo_psnr: list[float] = field(default_factory=list)
    first_frame_psnr: list[float] = field(default_factory=list)
    rank: list[float] = field(default_factory=list)
    speed_error: list[float] = field(default_factory=list)
    heading_error: list[float] = field(default_factory=list)
    speed_by_rate: dict[int, list[float]] = field(default_factory=dict)
    likeness_by_noise: dict[float, list[float]] = field(default_factory=dict)
    clip_seconds: list[float] = field(default_factory=list)
    threads: int = field(default_factory=torch.get_num_threads)

    def add(self, other: "Report") -> None:
        """Take in what another process measured."""
        for each in ("vae_psnr", "photo_psnr", "first_frame_psnr", "rank", "speed_error", "heading_error"):
            getattr(self, each).extend(getattr(other, each))
        for each in ("speed_by_rate", "likeness_by_noise"):
            for key, values in getattr(other, each).items():
                getattr(self, each).setdefault(key, []).extend(values)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(what, at least, aim, measured)."""
        middle = statistics.median
        rates = {rate: middle(values) for rate, values in self.speed_by_rate.items() if values}
        noises = {noise: statistics.mean(values) for noise, values in self.likeness_by_noise.items() if values}
        falls = all(a > b for a, b in zip(rates.values(), list(rates.values())[1:], strict=False))
        fades = all(a > b for a, b in zip(noises.values(), list(noises.values())[1:], strict=False))
        by_rate = ", ".join(
            f"{speed:.2f} ({pixels_per_frame(150, rate):.2f}) at {rate}" for rate, speed in rates.items()
        )
        by_noise = ", ".join(f"{value:.1f} dB at {noise:g}" for noise, value in noises.items())
        return [
            ("VAE reconstruction, PSNR", "28 dB", "32 dB",
             f"{statistics.mean(self.vae_psnr):.1f} dB (world \"photo\" {statistics.mean(self.photo_psnr):.1f} dB)"),
            ("first frame against the conditioning picture, PSNR", "23 dB", "27 dB",
             f"{middle(self.first_frame_psnr):.1f} dB"),
            (f"rank correlation of measured speed with the bucket ({BUCKETS[0]} to {BUCKETS[-1]}), median over scenes",
             "0.95", "0.99", f"{middle(self.rank):.2f}"),
            ("median relative error of speed against the rule (bucket 60 to 240)", "25 %", "10 %",
             f"{100 * middle(self.speed_error):.0f} %"),
            ("median heading error", "15°", "5°", f"{middle(self.heading_error):.1f}°"),
            ("speed falls with fps, as the rule says (pixels a frame, in brackets the rule's, at bucket 150)",
             "monotonic", "", ("yes: " if falls else "no: ") + by_rate),
            ("likeness to the input falls as `noise_aug_strength` rises (first frame)", "monotonic", "",
             ("yes: " if fades else "no: ") + by_noise),
            (f"one clip of 14 frames on {self.threads} cores, {STEPS} steps", "15 s", "6 s",
             f"{middle(self.clip_seconds):.1f} s"),
        ]  # fmt: skip

    def table(self) -> str:
        lines = ["| bar | at least | aim | measured |", "|---|---|---|---|"]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows()]
        how = f"{self.scenes} scenes from seeds never trained on; clips made in bf16, seconds measured in fp32."
        return "\n".join([*lines, "", how])


def picture(frame: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as a picture."""
    return Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy())


def generate(pipeline, seed: int, bucket: float, fps: int = FPS, noise: float = NOISE, steps: int = STEPS) -> Tensor:
    """The model's clip (F, 3, H, W) from the first frame of scene `seed`."""
    start = picture(draw([seed], 0, 7, 1)[0][0, 0])
    width, height = start.size
    answer = pipeline(
        start, height=height, width=width, num_inference_steps=steps, min_guidance_scale=GUIDANCE,
        max_guidance_scale=GUIDANCE, fps=fps, motion_bucket_id=bucket, noise_aug_strength=noise,
        generator=torch.Generator("cpu").manual_seed(seed), output_type="pt",
    )  # fmt: skip
    return answer.frames[0].float()


def load(folder: Path | str = WEIGHTS, dtype: torch.dtype = torch.float32) -> StableVideoDiffusionPipeline:
    pipeline = StableVideoDiffusionPipeline.from_pretrained(str(folder), dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def measure(folder: Path | str, seeds: Sequence[int], further: Sequence[int]) -> Report:
    """Everything but seconds, on the held-out scenes `seeds`; fps and noise on those in `further`.

    Clips are made in bf16: half the wait on cores that multiply in it.
    """
    pipeline, report = load(folder, torch.bfloat16), Report(len(seeds))
    vae = load(folder).vae
    for seed in seeds:
        for world, into in (("rocket", report.vae_psnr), ("photo", report.photo_psnr)):
            shown = draw([seed], 200, FPS, 8, world=world)[0][0, 7:]
            into.append(psnr((decode(vae, encode(vae, shown * 2 - 1)) / 2 + 0.5).clamp(0, 1), shown))
        first, truth = draw([seed], 0, FPS, 1)
        start, heading, speeds = first[0, 0], float(truth.heading), []
        for bucket in BUCKETS:
            clip = generate(pipeline, seed, bucket)
            report.first_frame_psnr.append(psnr(clip[0], start))
            speed, way = movement(find_rocket(clip, seed))
            speeds.append(speed)
            if bucket >= 60:
                rule = pixels_per_frame(bucket, FPS)
                report.speed_error.append(abs(speed - rule) / rule)
                report.heading_error.append(turn_between(way, heading))
        report.rank.append(rank_correlation(speeds))
        if seed in further:
            for rate in RATES:
                speed, _ = movement(find_rocket(generate(pipeline, seed, 150, fps=rate), seed))
                report.speed_by_rate.setdefault(rate, []).append(speed)
            for noise in NOISES:
                clip = generate(pipeline, seed, 150, noise=noise)
                report.likeness_by_noise.setdefault(noise, []).append(psnr(clip[0], start))
        print(
            f"scene {seed}: speeds {' '.join(f'{speed:.2f}' for speed in speeds)}, rank {report.rank[-1]:.2f}",
            flush=True,
        )
    return report


def evaluate(folder: Path | str = WEIGHTS, scenes: int = 32, processes: int | None = None) -> Report:
    """The whole report: scenes shared out over `processes` of one thread (a core each by default), then the clock."""
    processes = processes or min(scenes, os.cpu_count() or 1)
    seeds = range(FIRST_SEED, FIRST_SEED + scenes)
    further = seeds[: max(2, scenes // 4)]
    shares = [seeds[part::processes] for part in range(processes)]
    if processes == 1:
        parts = [measure(folder, seeds, further)]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            parts = list(pool.map(measure, [folder] * processes, shares, [further] * processes))
    report = Report(scenes)
    for part in parts:
        report.add(part)
    pipeline = load(folder)
    for seed in seeds[:3]:
        began = time.perf_counter()
        with torch.no_grad():
            generate(pipeline, seed, 127)
        report.clip_seconds.append(time.perf_counter() - began)
    return report


def write_between(path: Path, text: str) -> bool:
    """Put `text` between the markers of a file that has them."""
    if not path.exists() or MARKERS[0] not in (old := path.read_text()):
        return False
    new = re.sub(f"{MARKERS[0]}.*?{MARKERS[1]}", lambda _: f"{MARKERS[0]}\n{text}\n{MARKERS[1]}", old, flags=re.DOTALL)
    with atomic_write(path) as beside:
        beside.write_text(new)
    return True


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--dry", action="store_true", help="print the table, write no file")
    options = parser.parse_args(arguments)
    table = evaluate(options.weights, options.scenes).table()
    print(table)
    if not options.dry:
        for card in (options.weights / "README.md", Path(__file__).parents[1] / "README.md"):
            if write_between(card, table):
                print(f"written into {card}")


if __name__ == "__main__":
    main()
