"""How to make a clip again: the lines of Python, and of the shell, that ask for the same clip once more.

Only what differs from the defaults is written, so that a reader sees what was chosen.
"""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.setup import Setup


def python_lines(row: Row, setup: Setup | None = None, fps: float | None = None) -> str:
    """The Python that makes the clip of a row again and shows it.

    Args:
        row: What to make again.
        setup: The setup to write down. Left out, it is the row's, which has everything filled in.
        fps: Playback speed, frames a second. Left out, it is that of the request.

    Returns:
        Lines that run as they are when pasted into a cell.

    Example:
        >>> print(python_lines(rows[0]).splitlines()[-1])
        show(clip)
    """
    setup = setup or row.setup
    variant = repr(setup.variant)
    image = repr(row.request.image) if isinstance(row.request.image, str) else f"read({str(row.clip)!r}).request.image"
    of_setup = _arguments(setup, Setup(setup.variant))
    of_request = _arguments(row.request, Request.for_variant(setup.variant, image="-"))
    playback = "" if fps is None else f", fps={fps}"
    return (
        "from svdlab import Request, Setup, generate, load, read, show\n\n"
        f"pipeline = load(Setup({variant}{of_setup}))\n"
        f"request = Request.for_variant({variant}, image={image}{of_request})\n"
        f"clip = generate(pipeline, request)\nshow(clip{playback})"
    )


def shell_line(row: Row) -> str:
    """The command that makes the clip of a row again from its file.

    Args:
        row: What to make again.

    Returns:
        One line for a shell; "" for a row without a clip.

    Example:
        >>> shell_line(rows[0]).startswith("svdlab clip --again results/motion/")
        True
    """
    return f"svdlab clip --again {shlex.quote(str(row.clip))} -o again.mp4" if row.clip else ""


def _arguments(thing: Request | Setup, default: Request | Setup) -> str:
    """The fields that are not at their default, as keyword arguments."""
    fields: dict[str, Any] = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    return "".join(
        f", {name}={value!r}" for name, value in fields.items() if name != "image" and value != getattr(default, name)
    )
