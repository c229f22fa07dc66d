"""`svdlab` on the command line: thin, every option a field of `Request` or `Setup` under the same name.

svdlab clip rocket --motion-bucket-id 180 --seed 3 -o out.mp4
svdlab clip --again out.mp4 -o twin.mp4
svdlab report results/motion -o report.html
svdlab plan --gpu "RTX 3060"
svdlab doctor
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
from svdlab.prediction.cards import find_card, parse_memory, this_card
from svdlab.prediction.fitting import candidates, cards_table, estimates_table
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
    except (RuntimeError, MemoryError, OSError, ImportError) as error:
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
            _knob(clip, field.name)
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
    run.add_argument("--on", metavar="RAY", help="a cluster for the notebook's sweep: 'ray', or an address")

    report = commands.add_parser("report", help="one page about studies, for somebody who has no Python")
    report.set_defaults(run=_report)
    report.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a study, or a folder of studies")
    report.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="(report.html)")
    where = "one file to send, or the videos in a folder beside it (inside)"
    report.add_argument("--videos", choices=("inside", "beside"), default="inside", help=where)

    plan = commands.add_parser("plan", help="which setups fit a card, and how long they take: predicted, in seconds")
    plan.set_defaults(run=_plan)
    plan.add_argument("--variant", choices=VARIANTS, default="svd-xt", help="the model (svd-xt)")
    which = plan.add_mutually_exclusive_group()
    which.add_argument("--gpu", metavar="NAME", help="a card such as 'RTX 3060' (this machine's, else all known ones)")
    which.add_argument("--memory", metavar="12GB", help="of a card that is not known by name")
    plan.add_argument(
        "--optimization", action="append", default=[], metavar="NAME", help="these alone; may be repeated"
    )
    for name in ("height", "width", "num_frames", "num_inference_steps", "max_guidance_scale", "decode_chunk_size"):
        _knob(plan, name)

    doctor = commands.add_parser("doctor", help="is this machine ready, and for what")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="the same for a bug report")

    variants = commands.add_parser("variants", help="the models, what they are for and what they need")
    variants.set_defaults(run=_variants)
    return parser


def _knob(command: argparse.ArgumentParser, name: str) -> None:
    kind = float if "scale" in name or "strength" in name else int
    flag = f"--{name.replace('_', '-')}"
    command.add_argument(flag, type=kind, metavar="N", help=_HELP[name], default=argparse.SUPPRESS)


def _clip(options: argparse.Namespace) -> int:
    from svdlab.generation.chain import chain
    from svdlab.generation.clip import read
    from svdlab.media import video
    from svdlab.pipelines.load import load
    from svdlab.setup import Setup

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

    fitting = Setup.fitting(say=lambda sentence: print(f"svdlab: {sentence}", file=sys.stderr))
    return dataclasses.replace(fitting, **{name: value for name, value in chosen.items() if value})


def _run(options: argparse.Namespace) -> int:
    from svdlab.headless.run_notebooks import run_notebook

    also = {"on": options.on} if options.on else {}
    for copy in run_notebook(options.notebook, options.params, options.results, **also):
        print(copy, flush=True)
    return 0


def _report(options: argparse.Namespace) -> int:
    from svdlab.interface.report import report

    print(report(options.folders, options.output, options.videos))
    return 0


def _plan(options: argparse.Namespace) -> int:
    from svdlab.prediction import estimate as estimates
    from svdlab.prediction import fitting
    from svdlab.setup import Setup

    asked = {name: value for name, value in vars(options).items() if name in _HELP}
    setup = Setup(options.variant, dtype="fp16", optimizations=tuple(options.optimization))
    request = setup.request(image="rocket", **asked)
    card = find_card(options.gpu) if options.gpu else None if options.memory else this_card()
    if card is None and not options.memory:
        print(f"{setup.variant} on each known card: the fastest exact setup predicted to fit.")
        _print([{k: v for k, v in line.items() if k != "source"} for line in cards_table(setup, request)])
    else:
        memory = card.memory_bytes if card else parse_memory(options.memory)
        found = [estimates.estimate(setup, request)] if options.optimization else None
        found = found or candidates(setup, request, card, on_card=True)
        print(f"{setup.variant} on {card.name if card else 'a card'} of {memory / 2**30:.1f} GiB, the fastest first:")
        _print([{k: v for k, v in line.items() if k != "setup"} for line in estimates_table(found, memory, card)])
        less = None if any(e.fits(memory) for e in found) else fitting.smaller_chunk(setup, request, memory)
        if less:
            print(f"None fits, but with --decode-chunk-size {less.request.decode_chunk_size} this does: {less}")
    print(
        f"Predicted, not measured. GiB: allocated by PyTorch; needed: {estimates.ALLOWANCE_BYTES / 2**30:.1f} more, "
        "for what cannot be traced.\nSeconds: the floor, under which nothing can be; expected, at "
        f"{estimates.UTILISATION:.0%} of what each operation could reach."
    )
    return 0


def _print(lines: list[dict[str, Any]]) -> None:
    """A table for a terminal."""
    shown = {None: "–", True: "yes", False: "no"}
    texts = [[str(name) for name in lines[0]]]
    texts += [[shown[v] if v is None or isinstance(v, bool) else str(v) for v in line.values()] for line in lines]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for cells in texts:
        print("  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)).rstrip())


def _doctor(options: argparse.Namespace) -> int:
    from svdlab.interface.doctor import doctor

    found = doctor()
    print(found.to_json() if options.json else found)
    return 0 if found.ready else 1


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
