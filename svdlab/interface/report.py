"""One page about studies, for somebody who has no Python: findings, curves, walls, all rows, how to make them again.

The page opens by a double click and asks nothing of any network: its content policy allows only what is inside it, or
the folder of videos beside it. `templates/report.html` lays out what this file gathers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from markupsafe import Markup, escape

from svdlab.atomic_files import atomic_write
from svdlab.interface import plots
from svdlab.interface.export import file_names, is_replaceable
from svdlab.interface.plots.figure_style import PHONE
from svdlab.interface.row_labels import knobs, settings, setup_labels, text_of
from svdlab.interface.row_page import TEMPLATES, embedded, rows_page
from svdlab.interface.study_folder import Entry, read_entries
from svdlab.rows.row import Row
from svdlab.rows.row_preview import make_previews
from svdlab.rows.rows_table import rows_table
from svdlab.sweeps.knob_effects import complete_measures, rows_with_clips
from svdlab.sweeps.study import findings

if TYPE_CHECKING:
    import pandas as pd

_STYLES = {  # matplotlib's, with the page's paper: the pages, in CSS
    ("dark_background", "#161616"): "(prefers-color-scheme: dark)",
    ("default", "#ffffff"): "(prefers-color-scheme: light)",
}
_INSIDE_BYTES = 50_000_000  # of clips in one page, which some mail and every browser take
_UNITS = {"_bytes": " (GiB)", "_seconds": " (s)", "_db": " (dB)", "_": " "}  # endings of the names of figures


def report(
    folders: str | Path | Iterable[str | Path],
    path: str | Path = "report.html",
    videos: Literal["inside", "beside"] | None = None,
) -> Path:
    """Write a page about studies: what the clips share, findings and curves for what varied, memory and time, all rows.

    Previews of all clips are in it. It appears whole or not at all, replaces an older one, and its path comes back.

    Args:
        folders: A study, which is the folder that `run` or `profile` wrote; a folder of studies; or several of these.
        path: A name that ends in `.html`.
        videos: Where clips at their full size are. "inside" makes one file to send; "beside" keeps them in a folder
            next to it. Left out, it is "beside" where they take more than 50 MB.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no rows, the name is no `.html`, or something else than a report has that name.

    Example:
        After `run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import report
        >>> report("results/motion", "motion.html").name
        'motion.html'
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".html", ".htm") or videos not in ("inside", "beside", None):
        raise ValueError(f"Cannot write {path.name!r} with videos={videos!r}: use a name.html, and inside or beside.")
    entries, folder = read_entries(folders), path.with_name(f"{path.stem}_files")
    clips_bytes = sum(clip.stat().st_size for entry in entries if (clip := entry.clip))
    videos = videos or ("inside" if clips_bytes <= _INSIDE_BYTES else "beside")
    if not _is_report(path) or (videos == "beside" and not is_replaceable(folder)):
        raise ValueError(f"{path} or {folder.name} is something else than a report: give this one another name.")
    names = {clip: name for entry, name in zip(entries, file_names(entries), strict=True) if (clip := entry.clip)}
    urls = {clip: f"{quote(folder.name)}/{quote(name)}" for clip, name in names.items()}
    clip_url = embedded if videos == "inside" else lambda entry: urls.get(entry.clip)
    sections = [_section(list(study), clip_url) for _, study in groupby(entries, lambda entry: entry.folder)]
    days = sorted({entry.row.created[:10] for entry in entries if entry.row.created})
    page = TEMPLATES.get_template("report.html").stream(
        title=", ".join(dict.fromkeys(section["name"] for section in sections)),
        media_sources="data:" if videos == "inside" else "'self' file:",
        rows=len(entries),
        failed=sum(entry.row.status != "done" for entry in entries),
        days=" to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        sections=sections,
    )
    make_previews(entry.row for entry in entries)
    with ExitStack() as stack:  # the page takes its place last
        document = stack.enter_context(atomic_write(path))
        if videos == "beside":
            _link_clips(names, stack.enter_context(atomic_write(folder)))
        with document.open("wb") as file:  # piece by piece: clips inside would take gigabytes of memory
            page.dump(file, encoding="utf-8")
    return path


def _is_report(path: Path) -> bool:
    """Whether a report may be written there: nothing is there, or an older one."""
    if not path.is_file():
        return not path.exists()
    with path.open("rb") as page:
        return b'<meta name="generator" content="svdlab">' in page.read(1000)


def _link_clips(names: dict[Path, str], folder: Path) -> None:
    folder.mkdir()
    for clip, name in names.items():
        try:
            os.link(clip, folder / name, follow_symlinks=False)  # gigabytes in no time, on the same disk
        except OSError:
            copyfile(clip, folder / name, follow_symlinks=False)


def _section(entries: list[Entry], clip_url: Callable[[Entry], str | None]) -> dict[str, Any]:
    rows, name = [entry.row for entry in entries], entries[0].folder.resolve().name
    frame = rows_table(rows).assign(setup=setup_labels(rows))
    varied = [knob for knob in knobs(rows) if len(set(frame[knob])) > 1]
    return {
        "name": name,
        "shared": _shared_settings(rows),
        "findings": [_finding(frame, knob) for knob in [knob for knob in varied if knob != "seed"] or varied],
        "measured": _measured([row for row in rows if row.measurement]),
        "page": rows_page(entries, f"Rows of {name}", clip_url, opened="wall" if any(e.clip for e in entries) else ""),
    }


def _shared_settings(rows: Sequence[Row]) -> dict[str, str]:
    """The settings that are the same for all rows, and where they ran."""
    shared = {name: text_of(values[0], 12) for name, values in settings(rows).items() if len(set(values)) == 1}
    shared["machine"] = " / ".join(dict.fromkeys(str(row.machine) for row in rows if row.machine))
    shared["svdlab"] = ", ".join(dict.fromkeys(row.version for row in rows if row.version))
    return {name: text for name, text in shared.items() if text}


def _finding(frame: pd.DataFrame, knob: str) -> dict[str, Any]:
    """What a knob does, in paragraphs and lists and in curves; the reason where that cannot be told."""
    try:
        text, done = findings(frame, knob), rows_with_clips(frame)
    except ValueError as error:
        return {"knob": knob, "blocks": [str(error)], "curves": {}}
    blocks = [_markdown(block) for block in text.split("\n\n") if block]
    return {"knob": knob, "blocks": blocks, "curves": _curves(done, knob)}


def _markdown(text: str) -> Markup:
    """Text with the code and the strong words of its Markdown."""
    html = re.sub(r"`(.+?)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html))


def _curves(done: pd.DataFrame, knob: str) -> dict[str, Any]:
    """The curves by their page's media query, the last for any, and their words; {} where no measure is complete."""
    import matplotlib.pyplot as plt

    urls: dict[str, str] = {}
    alt = ""
    for (style, paper), scheme in _STYLES.items() if complete_measures(done, knob) else ():
        with plt.style.context([style, {"axes.facecolor": paper}]):
            figure = plots.curves(done, knob)
            wide, narrow = figure.urls(dpi=110, facecolor=paper)
        urls |= {f"{PHONE} and {scheme}": narrow, scheme: wide}
        alt = figure.alt
    return {"urls": urls, "alt": alt} if urls else {}


def _measured(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The table of memory and time of rows that were measured: bytes in GiB."""
    if not rows:
        return None
    figures = [row.measurement.figures for row in rows if row.measurement]
    columns: dict[str, Sequence[Any]] = {"row": [row.key[:8] for row in rows], **knobs(rows)}
    for name in figures[0]:
        unit, heading = (2**30 if name.endswith("_bytes") else 1), name
        for ending, text in _UNITS.items():
            heading = heading.replace(ending, text)
        values = [None if value is None else value / unit for value in (line[name] for line in figures)]
        if any(value is not None for value in values):
            columns[heading] = values
    return {"heads": list(columns), "lines": list(zip(*columns.values(), strict=True))}
