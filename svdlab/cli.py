"""`svdlab` on the command line: thin, every option a field of `Request` or `Setup` under the same name.

svdlab clip rocket --motion-bucket-id 180 --seed 3 -o out.mp4
svdlab clip --again out.mp4 -o twin.mp4
svdlab variants
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import svdlab
from svdlab.request import Fit, Request
from svdlab.variants import VARIANTS

_HELP = {
    "seed": "of the noise; the same seed gives the same clip",
    "height": "pixels, a multiple of 8",
    "width": "pixels, a multiple of 8",
    "num_frames": "frames to make",
    "num_inference_steps": "denoising steps",
    "min_guidance_scale": "at the first frame",
    "max_guidance_scale": "at the last frame; 1 turns guidance off",
    "fps": "what the model is told (less one); the playback speed is --playback-fps",
    "motion_bucket_id": "0 to 255: how much moves",
    "noise_aug_strength": "noise on the picture: more is freer, and less alike",
    "decode_chunk_size": "frames the VAE decodes together",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 for a request that cannot be honoured, 1 for what broke on the way, 130 for
    Ctrl-C; the reason goes to stderr as one sentence."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"svdlab: note: {message}", file=sys.stderr)
    warnings.filterwarnings("default", category=UserWarning, module="svdlab")
    try:
        return options.run(options)
    except ValueError as error:
        return _complain(error, 2)
    except (RuntimeError, MemoryError, OSError) as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        print("svdlab: stopped; nothing was written.", file=sys.stderr)
        return 130


def _complain(error: Exception, code: int) -> int:
    print(f"svdlab: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="svdlab", description="A laboratory for Stable Video Diffusion.")
    parser.add_argument("--version", action="version", version=f"svdlab {svdlab.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    clip = commands.add_parser("clip", help="make one clip from a picture")
    clip.set_defaults(run=_clip)
    clip.add_argument("image", nargs="?", help="path, URL, or the name of a bundled example such as 'rocket'")
    clip.add_argument(
        "-o", "--output", type=Path, default=Path("clip.mp4"), help=".mp4, .gif, .webp or a folder (clip.mp4)"
    )
    clip.add_argument("--again", type=Path, metavar="CLIP", help="ask for what this saved clip was asked for")
    for field in dataclasses.fields(Request):
        if field.name in _HELP:
            kind = float if "scale" in field.name or "strength" in field.name else int
            flag = f"--{field.name.replace('_', '-')}"
            clip.add_argument(flag, type=kind, metavar="N", help=_HELP[field.name], default=argparse.SUPPRESS)
    clip.add_argument(
        "--fit", choices=get_args(Fit), help="how the picture is brought to shape", default=argparse.SUPPRESS
    )
    clip.add_argument(
        "--focus", type=float, nargs=2, metavar=("X", "Y"), help="what a crop keeps, 0 to 1", default=argparse.SUPPRESS
    )
    clip.add_argument("--preset", help="steps and guidance by name: see `svdlab variants`")
    clip.add_argument("--segments", type=int, default=None, metavar="N", help="chain N clips into a longer one")
    clip.add_argument("--playback-fps", type=float, metavar="N", help="how fast the file plays")
    clip.add_argument("--variant", choices=VARIANTS, help="the model (what fits this machine)")
    clip.add_argument("--weights", default="", help="hub, bundled, random, or a folder in the hub's layout")
    clip.add_argument("--dtype", choices=("fp32", "fp16", "bf16"))
    clip.add_argument("--optimization", action="append", default=[], metavar="NAME", help="may be repeated")

    run = commands.add_parser("run", help="run a notebook once for each parameter file, on one warm kernel")
    run.set_defaults(run=_run)
    run.add_argument("notebook", type=Path)
    run.add_argument("params", type=Path, nargs="+", metavar="PARAMS.yaml")
    run.add_argument("--results", type=Path, default=Path("results"), help="folder; each study gets its own in it")

    variants = commands.add_parser("variants", help="the models, what they are for and what they need")
    variants.set_defaults(run=_variants)
    return parser


def _clip(options: argparse.Namespace) -> int:
    from svdlab import video
    from svdlab.chaining import chain
    from svdlab.clip import read
    from svdlab.setup import Setup, load

    if (options.image is None) == (options.again is None):
        raise ValueError("Give a picture to start from, or --again CLIP, and not both: svdlab clip rocket -o out.mp4")
    video.check_path(options.output)  # before minutes are spent on a clip that could not be saved
    asked = {f.name: getattr(options, f.name) for f in dataclasses.fields(Request) if hasattr(options, f.name)}
    segments = options.segments
    if options.again is not None:
        saved = read(options.again)
        setup = saved.setup or Setup(saved.request.variant or "svd-xt")
        request = dataclasses.replace(
            saved.request, **{k: v for k, v in asked.items() if k not in ("image", "variant")}
        )
        segments = segments or saved.segments
    else:
        chosen = {"weights": options.weights, "dtype": options.dtype, "optimizations": tuple(options.optimization)}
        setup = Setup(options.variant, **chosen) if options.variant else _fitting(chosen)
        request = setup.request(**asked | {"variant": None}, preset=options.preset)
    print(f"svdlab: {setup.variant}, seed {request.seed}, bucket {request.motion_bucket_id}", file=sys.stderr)
    made = chain(load(setup), request, segments or 1)
    print(made.save(options.output, fps=options.playback_fps))
    return 0


def _fitting(chosen: dict[str, Any]) -> Any:
    """The setup that fits this machine, with what was asked for on top of it."""
    from svdlab.setup import Setup

    return dataclasses.replace(Setup.fitting(), **{name: value for name, value in chosen.items() if value})


def _run(options: argparse.Namespace) -> int:
    from svdlab.notebooks import execute

    for copy in execute(options.notebook, options.params, options.results):
        print(copy, flush=True)
    return 0


def _variants(options: argparse.Namespace) -> int:
    for v in VARIANTS.values():
        presets = ", ".join(
            f"{name} {s.num_inference_steps} steps {s.min_guidance_scale}-{s.max_guidance_scale}"
            for name, s in v.presets.items()
        )
        where = f"{v.repository}, {v.download_bytes / 2**30:.1f} GiB" if v.repository else "bundled"
        gated = ", gated: accept the licence on the hub first" if v.gated else ""
        print(f"{v.name:11} {v.frames} frames of {v.height}x{v.width}; for {v.good_for}")
        print(f"{'':11} {where}; {v.licence}{gated}; presets: {presets}")
    return 0
