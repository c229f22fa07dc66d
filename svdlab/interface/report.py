"""One page about studies, for somebody who has no Python: findings, curves, walls, all rows, how to make them again.

The page opens by a double click and asks nothing of any network: its content policy allows only what is inside it, or
the folder of videos beside it. `templates/report.html` lays it out; this file gathers what it says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from svdlab.atomic_files import atomic_write, clear_leftovers
from svdlab.interface import plots
from svdlab.interface.row_labels import knobs, settings, setup_labels
from svdlab.interface.row_page import embedded, render, rows_page, trusted_html
from svdlab.interface.study_folder import Entry, file_names, is_replaceable, read_entries
from svdlab.media.encode import data_url
from svdlab.rows.row import Row
from svdlab.rows.rows_table import rows_table
from svdlab.sweeps import study

if TYPE_CHECKING:
    import pandas as pd


def report(
    folders: str | Path | Iterable[str | Path],
    path: str | Path = "report.html",
    videos: Literal["inside", "beside"] = "inside",
) -> Path:
    """Write a page about studies: what the clips share, findings and curves for what varied, memory and time, all rows.

    It appears whole or not at all. A report that was there is replaced.

    Args:
        folders: A study, a folder of studies, or several of these.
        path: A name that ends in `.html`.
        videos: "inside" makes one file to send. "beside" keeps the clips in a folder next to it (`report_files/`), for
            clips that are many or large.

    Returns:
        The path.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no rows, the name is no `.html`, or something else is in the way.

    Example:
        >>> from svdlab import report
        >>> report("results/motion", "motion.html").name
        'motion.html'
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm") or videos not in ("inside", "beside"):
        raise ValueError(f"Cannot write {path.name!r} with videos={videos!r}: use a name.html, and inside or beside.")
    entries, folder = read_entries(folders), path.with_name(f"{path.stem}_files")
    clear_leftovers(path.parent)
    if path.is_dir() or (videos == "beside" and not is_replaceable(folder)):
        raise ValueError(f"{path} or {folder.name} is something else than a report: give this one another name.")
    with_clips = [entry for entry in entries if entry.clip]
    names = dict(zip([entry.clip for entry in with_clips], file_names(with_clips, entries), strict=True))

    def beside(entry: Entry) -> str | None:
        return f"{quote(folder.name)}/{quote(names[entry.clip])}" if entry.clip in names else None

    by_study: dict[Path, list[Entry]] = {}
    for entry in entries:
        by_study.setdefault(entry.folder, []).append(entry)
    clip_url = embedded if videos == "inside" else beside
    days = sorted({entry.row.created[:10] for entry in entries if entry.row.created})
    page = render(
        "report.html",
        title=", ".join(each.resolve().name for each in by_study),
        media_sources="data:" if videos == "inside" else "'self' file:",
        rows=len(entries),
        failed=sum(entry.row.status != "done" for entry in entries),
        days=" to ".join(dict.fromkeys((days[0], days[-1]))) if days else "",
        sections=[_section(each, own, clip_url) for each, own in by_study.items()],
    )
    with ExitStack() as stack:  # the page takes its place last
        document = stack.enter_context(atomic_write(path))
        if videos == "beside":
            copies = stack.enter_context(atomic_write(folder))
            copies.mkdir()
            for clip, name in names.items():
                copyfile(str(clip), copies / name, follow_symlinks=False)
        document.write_text(page, encoding="utf-8")
    return path


def _section(folder: Path, entries: list[Entry], clip_url: Callable[[Entry], str | None]) -> dict[str, Any]:
    rows, name = [entry.row for entry in entries], folder.resolve().name
    frame = rows_table(rows).assign(setup=setup_labels(rows))
    varied = [knob for knob in knobs(rows) if knob in frame and len(set(frame[knob])) > 1]
    opened = "wall" if any(entry.clip for entry in entries) else ""
    return {
        "name": name,
        "shared": _shared_settings(rows),
        "findings": [_finding(frame, knob) for knob in [knob for knob in varied if knob != "seed"] or varied],
        "measured": _measured(rows),
        "page": trusted_html(rows_page(entries, f"Rows of {name}", clip_url, opened=opened)),
    }


def _shared_settings(rows: Sequence[Row]) -> dict[str, str]:
    """The settings that are the same for all rows, and where they ran."""
    shared = {name: _plain(values[0]) for name, values in settings(rows).items() if len(set(values)) == 1}
    shared["machine"] = " / ".join(dict.fromkeys(str(row.machine) for row in rows if row.machine))
    shared["svdlab"] = ", ".join(dict.fromkeys(row.version for row in rows if row.version))
    return {name: text for name, text in shared.items() if text}


def _plain(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _finding(frame: pd.DataFrame, knob: str) -> dict[str, Any]:
    """What a knob does, in sentences and curves; the reason where that cannot be told."""
    try:
        text, done = study.findings(frame, knob), study.rows_with_clips(frame)
    except ValueError as error:
        return {"knob": knob, "problem": str(error)}
    lines = [line for line in text.splitlines() if line]
    items = [_markdown(line[2:]) for line in lines if line.startswith("- ")]
    first, *rest = [_markdown(line) for line in lines if not line.startswith("- ")]
    return {"knob": knob, "first": first, "items": items, "rest": rest, "clips": len(done), **_curves(done, knob)}


def _curves(done: pd.DataFrame, knob: str) -> dict[str, str]:
    """The curves as pictures: for a light page, and for a dark one."""
    import matplotlib.pyplot as plt

    if not study.complete_measures(done, knob, tuple(study.MEASURES)):
        return {}
    urls = {}
    for name, style, paper in (("light", "default", "#ffffff"), ("dark", "dark_background", "#161616")):
        file = io.BytesIO()
        with plt.style.context([style, {"axes.facecolor": paper}]):  # the page's own colours
            plots.curves(done, knob).savefig(file, format="png", dpi=110, facecolor=paper)
        urls[name] = data_url("image/png", file.getvalue())
    return urls


def _measured(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The table of memory and time, of the rows where they were measured."""
    measured = [row for row in rows if row.measurement]
    if not measured:
        return None
    varied, figures = knobs(measured), [row.measurement.figures for row in measured if row.measurement]
    names = [name for name in figures[0] if any(line[name] is not None for line in figures)]
    lines = [
        [row.key[:8], *(values[i] for values in varied.values()), *(_in_gib(name, line[name]) for name in names)]
        for i, (row, line) in enumerate(zip(measured, figures, strict=True))
    ]
    return {"heads": ["row", *varied, *map(_heading, names)], "lines": lines}


def _heading(name: str) -> str:
    """The name of a figure for a person: `peak_device_bytes` is shown in GiB."""
    return name.replace("_bytes", " (GiB)").replace("_seconds", " (s)").replace("_db", " (dB)").replace("_", " ")


def _in_gib(name: str, value: float | None) -> float | None:
    return value / 2**30 if value is not None and name.endswith("_bytes") else value


def _markdown(text: str) -> Any:
    """A line of findings: code and strong words of its Markdown."""
    from markupsafe import escape

    marked = re.sub(r"`(.+?)`", r"<code>\1</code>", str(escape(text)))
    return trusted_html(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", marked))
