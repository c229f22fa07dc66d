"""How clips were made, in few words: the Python that makes one again, and what tells several apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.setup import Setup


def recipe(row: Row, setup: Setup | None = None, fps: float | None = None) -> str:
    """The Python that makes the clip of a row again and shows it; pasted into a cell it runs as it is.

    `setup` as somebody wrote it reads better than the row's, which has everything filled in.
    """
    setup = setup or row.setup
    how = "".join(f", {name}={value!r}" for name, value in differences(setup, Setup(setup.variant)))
    knobs = differences(row.request, Request.for_variant(setup.variant, image="-"))
    image = repr(row.request.image) if isinstance(row.request.image, str) else f"read({str(row.clip)!r}).request.image"
    fields = "".join(f", {name}={value!r}" for name, value in knobs)
    return (
        "from svdlab import Request, Setup, generate, load, read, show\n\n"
        f"pipeline = load(Setup({setup.variant!r}{how}))\n"
        f"request = Request.for_variant({setup.variant!r}, image={image}{fields})\n"
        f"clip = generate(pipeline, request)\nshow(clip{'' if fps is None else f', fps={fps}'})"
    )


def apart(rows: Sequence[Row]) -> list[str]:
    """What each row has that the others have not; of one alone its bucket and seed."""
    first = rows[0]
    names = dict.fromkeys(name for row in rows for name, _ in differences(row.request, first.request))
    setups = [f"{named(row.setup)}, " if any(r.setup != first.setup for r in rows) else "" for row in rows]
    knobs = names or ("motion_bucket_id", "seed")
    said = [", ".join(f"{name} {getattr(row.request, name)}" for name in knobs) for row in rows]
    return [setup + each for setup, each in zip(setups, said, strict=True)]


def named(setup: Setup) -> str:
    """A setup in a few words, without its variant."""
    weights = "" if setup.weights in ("hub", "bundled") else Path(setup.weights).name
    return ", ".join(filter(None, (weights, setup.dtype, *setup.optimizations))) or "plain"


def differences(thing: Any, other: Any) -> list[tuple[str, Any]]:
    """The fields in which two requests or two setups differ, as the first has them; a picture aside."""
    fields = [(f.name, getattr(thing, f.name)) for f in dataclasses.fields(thing) if f.name != "image"]
    return [(name, value) for name, value in fields if value != getattr(other, name)]
