"""`svdlab` on the command line. Each option is a field of `Request` or `Setup` under the same name.

    svdlab clip rocket --motion-bucket-id 180 --seed 3 -o out.mp4
    svdlab plan --gpu "RTX 3060"

`svdlab --help` lists the commands. Results go to stdout, all else to stderr. What cannot be done is one sentence and an
exit code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, get_args

import svdlab
from svdlab.dtypes import DTYPES
from svdlab.media.images import open_image
from svdlab.messages import describe_error, did_you_mean, first_line, shorten
from svdlab.optimizations.registry import in_order, optimizations, parse
from svdlab.prediction.cards import DESKTOP_BYTES, find_card, parse_memory, this_card
from svdlab.request import Fit, Request, conditioning
from svdlab.rows.results_folders import unused_path
from svdlab.setup import Setup
from svdlab.variants import VARIANTS

_TEXTS = json.loads((Path(__file__).parent / "templates" / "fields.json").read_text(encoding="utf-8"))
_TEXTS["seed"] = ["Seed", "Of the noise: the same seed makes the same clip (0)"]  # the panel's -1 is not known here
_OF_CLIP = ("seed", "fps", "motion_bucket_id", "noise_aug_strength", "min_guidance_scale")  # more than of a plan
_OF_PLAN = ("height", "width", "num_frames", "num_inference_steps", "max_guidance_scale", "decode_chunk_size")
_OF_SETUP = ("variant", "weights", "dtype", "optimizations")
_OPTIONS = (*_OF_CLIP, *_OF_PLAN, *_OF_SETUP, "fit", "focus", "playback_fps", "preset", "segments")
_PYTHON = re.compile(rf"""\b({"|".join(_OPTIONS)})=(\([^()]*\)|'[^']*'|"[^"]*"|[^\s,;:()]*[^\s,;:().])""")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: as after `svdlab` in a shell; None takes those of this process.

    Returns:
        0; 2 for what cannot be honoured, 1 for what broke on the way, 130 for Ctrl-C. The reason goes to stderr.

    Example:
        >>> main(["variants"])
        svd ... presets: ...
        0
    """
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        option = next((text.split("=")[0] for text in unknown if text.startswith("-")), "")
        nearest = did_you_mean(option, options.parser._option_string_actions) or "."
        is_seed = vars(options).get("seeds") and re.fullmatch(r"[\d.,]+", unknown[0])
        way_out = ": several seeds are one word, as --seeds 1..8 or 3,7,11" if is_seed else ""
        surplus = f"{shorten(unknown[0])} is more than {options.parser.prog} takes{way_out}."
        options.parser.error(f"{option} is no option of {options.parser.prog}{nearest}" if option else surplus)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _tell(f"note: {first_line(message)}")
        warnings.filterwarnings("default", category=UserWarning, module="svdlab")
        try:
            return options.run(options) or 0
        except KeyboardInterrupt:
            hints = [f"kept: {', '.join(options.written)}"] * bool(options.written) + options.resume_hints
            _tell(f"stopped; {'; '.join(hints) or 'nothing was written'}.")
            return 130
        except Exception as error:
            is_defect = not isinstance(error, (ValueError, RuntimeError, MemoryError, OSError, ImportError))
            _tell(describe_error(error) if is_defect else first_line(error, 2000))  # of a defect the place is told too
            return 2 if isinstance(error, ValueError) else 1


def _tell(sentence: str) -> None:
    """Print a sentence with options in place of Python: `--width 1020`, where `width=1020` could not be typed."""
    sentence = re.sub(r"Setup\((?:['\"]([\w.-]+)['\"]|…, )(.*?)\)", r"variant=\1 \2", sentence).replace("variant= ", "")
    print(f"svdlab: {_PYTHON.sub(_as_option, sentence)}", file=sys.stderr)


def _as_option(python: re.Match[str]) -> str:
    name, value = python[1], re.sub(r"[()'\",]+", " ", python[2]).strip()
    if name == "optimizations":
        return " ".join(f"--optimization {each}" for each in value.split()) or "no --optimization"
    return f"--{name.replace('_', '-')} {value}"


def _print_written(path: Path, options: argparse.Namespace) -> None:
    """Print the path of what was written, in a terminal as a link, and remember it for who presses Ctrl-C."""
    options.written.append(str(path))
    link = f"\033]8;;{path.resolve().as_uri()}\033\\{path}\033]8;;\033\\"  # OSC 8, which other terminals pass over
    print(link if sys.stdout.isatty() else path, flush=True)


class _Parser(argparse.ArgumentParser):
    """argparse's parser; what is wrong is one sentence that names the nearest choice."""

    def error(self, message: str) -> Any:
        """Exit with a sentence; argparse calls this.

        Args:
            message: argparse's own.
        """
        if choice := re.match(r"argument (.+?): invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
            known = re.findall(r"[^\s,']+", choice[3])
            message = f"{choice[1]} {shorten(choice[2])} is unknown"
            message += did_you_mean(choice[2], known) or f": expected one of {', '.join(known)}."
        message = re.sub(r"argument (\S+): invalid (?:int|float) value: (.*)", r"\1 \2 is no such number.", message)
        message = message.removeprefix("argument ") + "." * (message[-1] not in ".?")
        self.exit(2, f"svdlab: {message} See `{self.prog} --help`.\n")


def _seeds(text: str) -> list[int]:
    """The seeds that a text such as "1..8" or "3,7,11" names."""
    spans = [re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", part.strip()) for part in text.split(",")]
    ranges = [(int(span[1]), int(span[2] or span[1])) for span in spans if span]
    if len(ranges) < len(spans) or any(last < first for first, last in ranges) or sum(b - a for a, b in ranges) > 9999:
        raise argparse.ArgumentTypeError(f"{shorten(text)} names no seeds: write 1..8, or 3,7,11; at most 10000.")
    return list(dict.fromkeys(seed for first, last in ranges for seed in range(first, last + 1)))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="svdlab", description="A laboratory for Stable Video Diffusion.")
    parser.add_argument("--version", action="version", version=f"svdlab {svdlab.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    several: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME"}
    names = f"may be repeated: {', '.join(optimizations())}"
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}

    def command(run: Any, help: str, knobs: Sequence[str] = ()) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__.removeprefix("_"), help=help, allow_abbrev=False)
        sub.set_defaults(run=run, parser=sub, written=[], resume_hints=[])
        for name in knobs:
            kind = float if "scale" in name or "strength" in name else int
            sub.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=_TEXTS[name][1], **unset)
        return sub

    add = command(_clip, "make one clip from a picture", (*_OF_CLIP, *_OF_PLAN)).add_argument
    add("image", nargs="?", help="path, URL, or the name of a bundled example such as 'rocket'")
    output = ".mp4, .gif, .webp, or no suffix: a folder of PNG frames (clip.mp4, then clip-2.mp4)"
    add("-o", "--output", type=Path, help=output)
    add("--seeds", type=_seeds, metavar="1..8", help="one clip for each of these seeds, named after it")
    add("--again", type=Path, metavar="CLIP", help="what this saved clip was asked for; other options change it")
    add("--fit", choices=get_args(Fit), help="how the picture is brought to shape", **unset)
    add("--focus", help="what a crop keeps, 0 to 1", type=float, nargs=2, metavar=("X", "Y"), **unset)
    add("--preset", help="steps and guidance by name: see `svdlab variants`")
    add("--segments", type=int, metavar="N", help="chain N clips into a longer one")
    add("--playback-fps", type=float, metavar="N", help="how fast the file plays")
    add("--variant", choices=VARIANTS, help="the model, in a setup that fits (the one that fits this machine)")
    add("--weights", default="", help="hub, bundled, random, or a folder in the hub's layout")
    add("--dtype", choices=DTYPES, help=_TEXTS["dtype"][1])
    add("--optimization", help=f"added to what fits, or to the saved clip's; {names}", **several)

    add = command(_run, "run a notebook once for each parameter file, on one warm kernel").add_argument
    add("notebook", type=Path, help="such as notebooks/02_micro_conditioning.ipynb")
    add("params", type=Path, nargs="+", metavar="PARAMS.yaml", help="such as params/motion.yaml, for the study motion")
    add("--results", type=Path, help="folder; each study gets its own in it (results, beside the folder notebooks)")
    add("--on", metavar="RAY", help="a cluster for the notebook's sweep: 'ray', or an address")

    add = command(_report, "one page about studies, for somebody who has no Python").add_argument
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="a study, or a folder of studies")
    add("-o", "--output", type=Path, default=Path("report.html"), help="(report.html)")
    videos = "one file to send, or the videos in a folder beside it (inside, up to 50 MB)"
    add("--videos", choices=("inside", "beside"), help=videos)

    plan = command(_plan, "which setups fit a card, and how long they take: predicted, in seconds", _OF_PLAN)
    card = plan.add_mutually_exclusive_group()
    card.add_argument("--gpu", metavar="NAME", help="a card such as 'RTX 3060' (this machine's, else all known ones)")
    card.add_argument("--memory", metavar="12GB", help="of a card that is not known by name, as it is sold")
    add = plan.add_argument
    desktop = "whether a desktop hangs on the card (on GeForce it is taken for granted; this machine's is asked)"
    add("--desktop", action=argparse.BooleanOptionalAction, default=None, help=desktop)
    add("--variant", choices=VARIANTS, default="svd-xt", help="the model (svd-xt)")
    add("--optimization", help=f"in every setup that is compared; {names}", **several)
    add("--approximate", action="store_true", help="compare setups too that change the frames")

    doctor = command(_doctor, "is this machine ready, and for what")
    doctor.add_argument("--json", action="store_true", help="the same for a bug report")
    command(_variants, "the models, what they are for and what they need")
    return parser


def _clip(options: argparse.Namespace) -> None:
    from svdlab.generation.chain import chain
    from svdlab.generation.clip import read
    from svdlab.media.write_video import check_target
    from svdlab.pipelines.load import load

    if (options.image is None) == (options.again is None):
        raise ValueError("Give a picture to start from, or --again CLIP, and not both: svdlab clip rocket -o out.mp4")
    if options.seeds and "seed" in options:
        raise ValueError("Give --seed for one clip or --seeds for several, and not both.")
    output = options.output or Path("clip.mp4")
    fields = {name: vars(options)[name] for name in (*_OF_CLIP, *_OF_PLAN, "fit", "focus") if name in options}
    saved = read(options.again) if options.again else None
    segments = options.segments or (saved.segments if saved else 1)
    if saved:
        if options.preset or options.variant not in (None, saved.request.variant):
            raise ValueError("--preset and another --variant do not go with --again: give that clip's picture instead.")
        request = dataclasses.replace(saved.request, **fields)
    else:
        open_image(options.image)
        request = Request(image=options.image, **fields)
    fps = request.fps or 7 if options.playback_fps is None else options.playback_fps  # 7 is that of all variants
    try:  # before a setup is looked for, gigabytes of weights are fetched, and minutes are spent on a clip
        check_target(output, fps)
    except ValueError as error:
        raise ValueError(str(error).replace("fps=", "playback_fps=")) from None
    if saved:  # it may have been made on another machine
        setup = dataclasses.replace(saved.setup or Setup(saved.request.variant or "svd-xt"), device=None)
    elif options.variant and options.weights:  # a folder's model may be of any size: no prediction holds
        setup = Setup(options.variant)
    else:
        wanted = {"dtype": options.dtype, "optimizations": options.optimization}
        setup = Setup.fitting(options.variant, request=request, say=_tell, **wanted)
    setup = _override(setup, options)
    request = request.filled(setup.variant, preset=options.preset)
    picture = conditioning(request)
    seeds = options.seeds or [request.seed]
    files = [output.with_name(f"{output.stem}_seed{n}{output.suffix}") if options.seeds else output for n in seeds]
    if options.output and (replaced := [str(file) for file in files if file.exists()]):
        _tell(f"note: this replaces {', '.join(replaced)}")
    pipeline = load(setup)
    for seed, file in zip(seeds, files, strict=True):
        _tell(f"{setup.variant}, seed {seed}, bucket {request.motion_bucket_id}")
        clip = chain(pipeline, dataclasses.replace(request, seed=seed), segments, picture=picture)
        with nullcontext(file) if options.output else _unused_file(file) as target:
            clip.save(target, fps=options.playback_fps)
        _print_written(target, options)


@contextmanager
def _unused_file(path: Path) -> Iterator[Path]:
    """Yield the path, numbered where it is used; an empty file keeps the name from other processes meanwhile."""
    while True:
        with suppress(FileExistsError):  # another process was quicker
            (file := unused_path(path)).touch(exist_ok=False)
            break
    try:
        yield file
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _override(setup: Setup, options: argparse.Namespace) -> Setup:
    """The setup with the options on top: its optimisations stay, but for those given again with another value."""
    fields: dict[str, Any] = {"dtype": options.dtype} if options.dtype else {}
    if options.weights:
        fields |= {"weights": options.weights, "revision": None}
    replaced = {parse(text)[0].name for text in options.optimization}
    kept = [text for text in setup.optimizations if parse(text)[0].name not in replaced]
    return dataclasses.replace(setup, optimizations=in_order([*kept, *options.optimization]), **fields)


def _run(options: argparse.Namespace) -> None:
    from svdlab.headless.run_notebooks import run_notebook
    from svdlab.rows.results_folders import results_home

    parameters = {"on": options.on} if options.on else {}
    results = options.results or Path(os.path.relpath(results_home()))
    options.resume_hints = [f"finished clips stay in {results}, and the same command goes on from there"]
    for copy in run_notebook(options.notebook, options.params, results, **parameters):
        _print_written(copy, options)


def _report(options: argparse.Namespace) -> None:
    from svdlab.interface.report import report

    _print_written(report(options.folders, options.output, options.videos), options)


def _plan(options: argparse.Namespace) -> None:
    from svdlab.prediction import fitting

    setup = Setup(options.variant, dtype="fp16", optimizations=tuple(options.optimization))
    request = setup.request(image="rocket", **{name: vars(options)[name] for name in _OF_PLAN if name in options})
    if options.memory:
        parse_memory(options.memory)  # a name is none
    card_text = options.gpu or options.memory
    card = find_card(card_text) if card_text else this_card()
    if card and card_text and options.desktop is not None:
        card = dataclasses.replace(card, taken_bytes=DESKTOP_BYTES if options.desktop else 0)
    _tell("Predicting: a moment at the published sizes, up to a minute at others.")
    table = fitting.fitting_table(setup, request, card, approximate=options.approximate)
    left_out = ["source"] + ([] if any(line["published"] for line in table) else ["published"])
    if card is None:
        print(f"{setup.variant} on each known card, with the best exact setup:")
        _print_table(table, [*left_out, "encode_gib", "denoise_gib", "decode_gib"])
    else:
        size = f"{card.memory_bytes / 2**30:.1f} GiB, of which {card.free_bytes / 2**30:.1f} are free"
        print(f"{setup.variant} on {card.name} ({size}), those that fit first:")
        _print_table(table, [*left_out, "card", "memory_gib"] + ([] if card.flops else ["time"]))
        if not any(line["fits"] != "no" for line in table):
            nearest = min(table, key=lambda line: line["needed_gib"])
            print(f"None fits. The nearest needs {nearest['needed_gib']} GiB: {nearest['optimizations']}.")
            if smaller := fitting.smaller_chunk(setup, request, card):
                print(f"With --decode-chunk-size {smaller.request.decode_chunk_size} this fits: {smaller}")
    print(fitting.LEGEND)


def _print_table(lines: list[dict[str, Any]], left_out: list[str]) -> None:
    names = [name for name in lines[0] if name not in left_out]
    cells = [names, *([str(line[name]) or "–" for name in names] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _doctor(options: argparse.Namespace) -> int:
    from svdlab.interface.doctor import doctor

    health = doctor()
    print(health.to_json() if options.json else health)
    return 0 if health.ready else 1


def _variants(_: argparse.Namespace) -> None:
    for v in VARIANTS.values():
        presets = [
            f"{name} {s.num_inference_steps} steps {s.min_guidance_scale}-{s.max_guidance_scale}"
            for name, s in v.presets.items()
        ]
        source = f"{v.repository}, {v.download_bytes / 2**30:.1f} GiB" if v.repository else "bundled"
        gated = ", gated: accept the licence on the hub first" if v.gated else ""
        print(f"{v.name:11} {v.frames} frames of {v.height}x{v.width}; for {v.good_for}")
        print(f"{'':11} {source}; {v.licence}{gated}; presets: {', '.join(presets)}")
