"""Rows as a page: a table whose clips play, to filter, sort, star, compare and hang on a wall.

Python decides what the columns are, `templates/review.html` lays them out, `review.js` brings them to life. Jinja
escapes every value, so that hostile text in a row stays text. Where no script runs, as in a notebook that JupyterLab
does not trust, the plain table remains.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, ImageOps

from svdlab.interface.make_again import python_and_shell_lines
from svdlab.interface.row_labels import knobs, text_of
from svdlab.interface.study_folder import Entry, Note, why_no_clip
from svdlab.media.images import data_url
from svdlab.media.read_video import read_metadata
from svdlab.rows.row import Row
from svdlab.sweeps.study import MEASURES

_THUMBNAIL = 144  # pixels wide
_CONTROLS = Path(__file__).parents[1] / "media" / "show.html"
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.filters["text"] = text_of


def render(template: str, **values: Any) -> Markup:
    """A template of this package, filled in, every text escaped.

    Args:
        template: The name of a file in `templates/`.
        **values: What the template names.
    """
    return Markup(_TEMPLATES.get_template(template).render(values))


def rows_page(
    entries: Sequence[Entry],
    caption: str,
    clip_url: Callable[[Entry], str | None],
    *,
    name: str = "",
    live: bool = False,
    opened: str = "",
    measures: Mapping[str, Sequence[float | None]] | None = None,
) -> Markup:
    """The rows as HTML, with the scripts that make them live. It asks nothing of the network.

    Args:
        entries: The rows, in order.
        caption: The title of the table, also for screen readers.
        clip_url: Gives the address of a clip; None where the page has to fetch it from the kernel.
        name: Sets this page apart from others in the same notebook. Left out, it is random.
        live: Whether a kernel listens, which keeps stars and notes.
        opened: What is above the table at first: "compare" (all rows), "wall" (by the first two knobs), or "".
        measures: Further measures, in front of those of the rows: a heading, and a value for each row.
    """
    rows, timed = [entry.row for entry in entries], ("sample_seconds", "decode_seconds")
    varied = knobs(rows)
    across, down, *_ = *varied, "", ""
    numbers: dict[str, Sequence[Any]] = {
        **(measures or {}),
        **{str(measure): [getattr(row.quality, field, None) for row in rows] for field, measure in MEASURES.items()},
        "seconds": [sum(row.timings.get(part, 0) for part in timed) if row.timings else None for row in rows],
    }
    columns = [("knob", *column) for column in varied.items()] + [("measure", *column) for column in numbers.items()]
    posters: dict[str, str] = {}  # the picture that a clip started from is sent once for all rows that share it
    for entry in entries:
        if entry.clip and not posters.get(_picture_id(entry.row)):
            posters[_picture_id(entry.row)] = _poster_url(entry.clip)
    return render(
        "review.html",
        name=name or secrets.token_hex(8),
        caption=caption,
        opened=opened,
        across=across,
        down=down,
        entries=entries,
        columns=[column for column in columns if any(value is not None for value in column[2])],
        noted=live or any(entry.note != Note() for entry in entries),
        several_studies=len({entry.folder for entry in entries}) > 1,
        clip_url=clip_url,
        why_no_clip=why_no_clip,
        make_again=python_and_shell_lines,
        posters=posters,
        picture_id=_picture_id,
        thumbnail=_THUMBNAIL,
        controls=Markup(_CONTROLS.read_text(encoding="utf-8")),
    )


def embedded(entry: Entry) -> str | None:
    """The clip as a URL that holds it; None where there is none to show.

    Args:
        entry: A row with its folder.
    """
    return data_url("video/mp4", clip.read_bytes()) if (clip := entry.clip) else None


def _picture_id(row: Row) -> str:
    return (row.picture_sha256 or row.key)[:16]


def _poster_url(clip: Path) -> str:
    """The picture that a clip started from, small; "" where the file holds none or is cut short."""
    try:
        picture = read_metadata(clip)[1]
    except ValueError:
        return ""
    if picture is None:
        return ""
    file, size = io.BytesIO(), (2 * _THUMBNAIL, 10**4)  # twice the width, for sharp screens
    ImageOps.contain(picture.convert("RGB"), size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=80)
    return data_url("image/jpeg", file.getvalue())
