"""Rows as a page: a table whose clips play, to filter, sort, star, compare and hang on a wall.

Python decides what is in the cells, `templates/review.html` lays them out, `review.js` brings them to life. Jinja
escapes every value, so that hostile text in a row stays text. Where no script runs, as in a notebook that JupyterLab
does not trust, the plain table remains.
Clips carry the picture that they started from. It stands in a clip's place until the clip plays, and is sent once for
all rows that share it.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from svdlab.interface.make_again import python_lines, shell_line
from svdlab.interface.row_labels import knobs, text_of
from svdlab.interface.study_folder import Entry, Note, why_no_clip
from svdlab.media.encode import data_url
from svdlab.media.read_video import read_metadata
from svdlab.rows.row import Row
from svdlab.sweeps.study import MEASURES

_THUMBNAIL = 144  # pixels wide
_PRELOADED = 48  # clips: where no script runs, which knows what is in sight, more than these load when they are played
_TEMPLATES = Path(__file__).with_name("templates")
_CONTROLS = Path(__file__).parents[1] / "media" / "show.html"


def rows_page(
    entries: Sequence[Entry],
    caption: str,
    clip_url: Callable[[Entry], str | None],
    *,
    name: str = "",
    live: bool = False,
    opened: str = "",
    measures: Mapping[str, Sequence[float | None]] | None = None,
) -> str:
    """The rows as HTML, with the scripts that make them live.

    Args:
        entries: The rows, in order.
        caption: The title of the table, also for screen readers.
        clip_url: Gives the address of a clip; None where the page has to fetch it from the kernel.
        name: Sets this page apart from others in the same notebook. Left out, it is random.
        live: Whether a kernel listens, which keeps stars and notes.
        opened: What is above the table at first: "compare" (all rows), "wall" (by the first two knobs), or "".
        measures: Further measures, in front of those of the rows: a heading, and a value for each row.

    Returns:
        HTML for a cell's output or for the body of a page; it asks nothing of the network.

    Example:
        >>> from svdlab.interface.study_folder import read_entries
        >>> "<video" in rows_page(read_entries("results/motion"), "Rows", lambda entry: None)
        True
    """
    name = name or secrets.token_hex(8)
    rows, notes = [entry.row for entry in entries], [entry.note for entry in entries]
    problems = [why_no_clip(row) for row in rows]
    poster_of, posters = _posters(entries, name)
    lines = [
        {
            "key": row.key,
            "problem": problem,
            "note": note,
            "study": entry.folder.name,
            "poster": poster_of.get(_picture(row), ""),
            "url": None if problem else clip_url(entry),
            "height": round(_THUMBNAIL * row.request.height / row.request.width),
            "fps": row.request.fps,
            "frames": row.request.num_frames,
            "again": make_again(row),
        }
        for entry, row, note, problem in zip(entries, rows, notes, problems, strict=True)
    ]
    across, down, *_ = *knobs(rows), "", ""
    return render(
        "review.html",
        name=name,
        caption=caption,
        opened=opened,
        across=across,
        down=down,
        noted=live or any(note != Note() for note in notes),
        several_studies=len({entry.folder for entry in entries}) > 1,
        columns=_columns(rows, measures or {}),
        lines=lines,
        posters=posters,
        preload="metadata" if len(entries) <= _PRELOADED else "none",
        thumbnail=_THUMBNAIL,
        controls=trusted_html(_CONTROLS.read_text(encoding="utf-8")),
    )


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in. Text is escaped; `trusted_html` is not.

    Args:
        template: The name of a file in `templates/`.
        **values: What the template names.
    """
    return _environment().get_template(template).render(values)


def embedded(entry: Entry) -> str | None:
    """The clip as a URL that holds it; None where there is none to show.

    Args:
        entry: A row with its folder.
    """
    return data_url("video/mp4", entry.clip.read_bytes()) if entry.clip else None


def make_again(row: Row) -> str:
    """The lines of Python, and under them the line for a shell, that make a row's clip again.

    Args:
        row: What to make again.
    """
    return "\n\n".join(filter(None, (python_lines(row), shell_line(row))))


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["text"] = text_of
    environment.tests["number"] = _is_number
    return environment


def trusted_html(html: str) -> Any:
    """HTML of our own, which a template takes as it is.

    Args:
        html: Never with anything in it that was not escaped.
    """
    from markupsafe import Markup

    return Markup(html)


@dataclass(frozen=True)
class _Column:
    """A column that can be sorted, with a value for each row."""

    kind: str  # "knob" or "measure"
    heading: str
    values: Sequence[Any]

    @property
    def numeric(self) -> bool:
        return any(map(_is_number, self.values))


def _columns(rows: Sequence[Row], measures: Mapping[str, Sequence[float | None]]) -> list[_Column]:
    parts = ("sample_seconds", "decode_seconds")
    seconds = [sum(row.timings.get(part, 0) for part in parts) if row.timings else None for row in rows]
    of_rows = {MEASURES[name]: [getattr(row.quality, name, None) for row in rows] for name in MEASURES}
    groups = {
        "knob": knobs(rows),
        "measure": {**measures, **of_rows, "seconds": seconds},
    }
    return [
        _Column(kind, heading, values)
        for kind, group in groups.items()
        for heading, values in group.items()
        if any(value is not None for value in values)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _picture(row: Row) -> str:
    """What rows share that started from the same picture."""
    return row.picture_sha256 or row.key


def _posters(entries: Sequence[Entry], name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The CSS class of each picture that clips started from, and for each class the picture's URL."""
    classes: dict[str, str] = {}
    urls: dict[str, str] = {}
    for entry in entries:
        if _picture(entry.row) not in classes and entry.clip:
            classes[_picture(entry.row)] = poster = f"svdlab-{name}-{len(classes)}"
            if url := _poster_url(entry.clip):
                urls[poster] = url
    return classes, urls


def _poster_url(clip: Path) -> str | None:
    try:
        picture = read_metadata(clip)[1]
    except ValueError:  # cut short: it will not play either
        return None
    if picture is None:
        return None
    size = (2 * _THUMBNAIL, max(1, round(2 * _THUMBNAIL * picture.height / picture.width)))
    file = io.BytesIO()
    picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=80)
    return data_url("image/jpeg", file.getvalue())
