"""How to make a clip again: the lines of Python, and of the shell, that ask for the same clip once more.

Only what differs from the defaults is written, so that a reader sees what was chosen.
"""

from __future__ import annotations

import shlex

from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.rows.typed_json import fields_of
from svdlab.setup import Setup


def python_lines(row: Row, setup: Setup | None = None, fps: float | None = None) -> str:
    """The Python that makes the clip of a row again and shows it; pasted into a cell it runs as it is.

    Args:
        row: What to make again.
        setup: To write down. Left out, it is the row's, which has everything filled in.
        fps: Playback speed, frames a second. Left out, it is that of the request.
    """
    setup = setup or row.setup
    variant, playback = repr(setup.variant), "" if fps is None else f", fps={fps}"
    image = repr(row.request.image) if isinstance(row.request.image, str) else f"read({str(row.clip)!r}).request.image"
    of_request = _arguments(row.request, Request.for_variant(setup.variant, image="-"))
    return (
        "from svdlab import Request, Setup, generate, load, read, show\n\n"
        f"pipeline = load(Setup({variant}{_arguments(setup, Setup(setup.variant))}))\n"
        f"request = Request.for_variant({variant}, image={image}{of_request})\n"
        f"clip = generate(pipeline, request)\nshow(clip{playback})"
    )


def python_and_shell_lines(row: Row) -> str:
    """`python_lines` and, where the row has a clip, the same for a shell."""
    shell = f"\n\nsvdlab clip --again {shlex.quote(str(row.clip))} -o again.mp4" if row.clip else ""
    return python_lines(row) + shell


def _arguments(thing: Request | Setup, default: Request | Setup) -> str:
    """The fields that are not at their default, as keyword arguments."""
    defaults = fields_of(default) | {"image": fields_of(thing).get("image")}
    return "".join(f", {name}={value!r}" for name, value in fields_of(thing).items() if value != defaults[name])
