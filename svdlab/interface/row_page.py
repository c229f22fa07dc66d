"""Rows as a page: a table of previews to filter, sort, star, enlarge, compare and hang on a wall.

Python decides what the columns are, `templates/review.html` lays them out, `review.js` brings them to life. Jinja
escapes every value, so that hostile text in a row stays text. Where no script runs, as in a notebook that JupyterLab
does not trust, the plain table remains, and its previews play.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from svdlab.interface.make_again import python_and_shell_lines
from svdlab.interface.row_labels import knobs, text_of
from svdlab.interface.study_folder import Entry, why_no_clip
from svdlab.media.images import data_url
from svdlab.rows.row import Row
from svdlab.rows.row_note import Note
from svdlab.rows.row_preview import read_preview
from svdlab.sweeps.knob_effects import MEASURES

_THUMBNAIL = 144  # pixels wide
_CONTROLS = Path(__file__).parents[1] / "media" / "show.html"
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.filters |= {"text": text_of, "next": next}


def render(template: str, **values: Any) -> Markup:
    """A template filled in, every text escaped.

    Args:
        template: A name in `templates/`.
        **values: What the template names.
    """
    return Markup(TEMPLATES.get_template(template).render(values))


def rows_page(
    entries: Sequence[Entry],
    caption: str,
    clip_url: Callable[[Entry], str | None],
    *,
    preview_bytes: float = float("inf"),
    name: str = "",
    live: bool = False,
    opened: str = "",
    measures: Mapping[str, Sequence[float | None]] | None = None,
) -> dict[str, Any]:
    """What `review.html` lays out as `page`. Files are read when the template comes to them, one at a time.

    Args:
        entries: The rows, in order.
        caption: The title of the table, also for screen readers.
        clip_url: Gives the address of a clip at full size; None where the page has to fetch it from the kernel.
        preview_bytes: So much of previews is put into the page; the others are fetched from the kernel.
        name: Sets this page apart from others in the same notebook. Left out, it is random.
        live: Whether a kernel listens, which keeps stars and notes.
        opened: What is above the table at first: "compare" (all rows), "wall" (by the first two knobs), or "".
        measures: Further measures, in front of those of the rows: a heading, and a value for each row.
    """
    rows = [entry.row for entry in entries]
    across, down, *_ = *knobs(rows), "", ""
    return {
        "name": name or secrets.token_hex(8),
        "caption": caption,
        "opened": opened,
        "across": across,
        "down": down,
        "entries": entries,
        "columns": _columns(rows, measures or {}),
        "noted": live or any(entry.note != Note() for entry in entries),
        "several_studies": len({entry.folder for entry in entries}) > 1,
        "clip_url": clip_url,
        "preview_urls": _preview_urls(entries, preview_bytes, make=not live),
        "why_no_clip": why_no_clip,
        "make_again": python_and_shell_lines,
        "thumbnail": _THUMBNAIL,
        "controls": Markup(_CONTROLS.read_text(encoding="utf-8")),
    }


def _columns(rows: Sequence[Row], measures: Mapping[str, Sequence[float | None]]) -> list[tuple[Any, ...]]:
    """Each column that has a value: what it is of, heading, unit, title and values."""
    columns: list[tuple[Any, ...]] = [("knob", name, "", name, values) for name, values in knobs(rows).items()]
    columns += [("measure", heading, "", heading, values) for heading, values in measures.items()]
    for field, measure in MEASURES.items():
        values = [getattr(row.quality, field, None) for row in rows]
        unit = measure.unit.split(" a ")[0].split(" of ")[0]  # px, of px a frame; the whole of it is in the title
        columns.append(("measure", measure.name, unit, str(measure), values))
    parts = ("sample_seconds", "decode_seconds")
    seconds = [sum(row.timings.get(part, 0) for part in parts) if row.timings else None for row in rows]
    columns.append(("measure", "seconds", "", "seconds to make the clip", seconds))
    return [column for column in columns if any(value is not None for value in column[-1])]


def embedded(entry: Entry) -> str | None:
    """The clip as a URL that holds it; None where there is none to show."""
    return data_url("video/mp4", clip.read_bytes()) if (clip := entry.clip) else None


def _preview_urls(entries: Sequence[Entry], most_bytes: float, make: bool) -> Iterator[str | None]:
    """The preview of each row as a URL that holds it; None from where they would be too many."""
    for entry in entries:
        data = read_preview(entry.row, make) if most_bytes > 0 else None
        most_bytes -= len(data or b"")
        yield data_url("image/webp", data) if data and most_bytes >= 0 else None
