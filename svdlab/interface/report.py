"""One page about studies, for somebody who has no Python: findings, curves, walls, all rows, how to make them again.

>>> report(["results/motion", "results/noise"], "report.html")
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from svdlab.atomic_files import atomic_write
from svdlab.interface import plots
from svdlab.interface.review import Entry, cell, fields, file_names, knobs, page, replaceable, review
from svdlab.media.encode import data_url
from svdlab.rows.row import Row
from svdlab.rows.rows_table import rows_table
from svdlab.sweeps import study

if TYPE_CHECKING:
    import pandas as pd

_TEMPLATE = Path(__file__).with_name("templates") / "report.html"


def report(
    folders: str | Path | Iterable[str | Path],
    path: str | Path = "report.html",
    videos: Literal["inside", "beside"] = "inside",
) -> Path:
    """Write an HTML page that opens by a double click and asks nothing of any network: its path.

    For each study (a folder, or the folders in it): what the clips share, findings and curves for what varied, what was
    measured, and the rows as `svdlab.review` shows them, under their wall. `videos` are "inside" the page, one file to
    send, or "beside" it in `report_files/`, for clips that are many or large. All is written, or nothing; a report
    that stood there is replaced. `ValueError` where there are no rows, or something else is in the way.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm") or videos not in ("inside", "beside"):
        raise ValueError(f"Cannot write {path.name!r} with videos={videos!r}: use a name.html, and inside or beside.")
    entries, folder = review(folders).entries, path.with_name(f"{path.stem}_files")
    films = [entry for entry in entries if entry.clip]
    names = dict(zip([entry.clip for entry in films], file_names(films, entries), strict=True))
    if path.is_dir() or (videos == "beside" and not replaceable(folder)):
        raise ValueError(f"{path} or {folder.name} is something else than a report: give this one another name.")

    def beside(entry: Entry) -> str | None:
        return f"{quote(folder.name)}/{quote(names[entry.clip])}" if entry.clip else None

    homes: dict[Path, list[Entry]] = {}
    for entry in entries:
        homes.setdefault(entry.folder, []).append(entry)
    title = ", ".join(home.resolve().name for home in homes)
    sections = [_section(home, own, Entry.inside if videos == "inside" else beside) for home, own in homes.items()]
    body = f"<h1>{escape(title)}</h1>{_lead([entry.row for entry in entries])}{''.join(sections)}"
    media = "data:" if videos == "inside" else "'self' file:"
    html = _TEMPLATE.read_text(encoding="utf-8").replace("{{media}}", media).replace("{{title}}", escape(title))
    with ExitStack() as stack:  # the page takes its place last
        document = stack.enter_context(atomic_write(path))
        if videos == "beside":
            made = stack.enter_context(atomic_write(folder))
            made.mkdir()
            for entry in films:
                copyfile(str(entry.clip), made / names[entry.clip])
        document.write_text(html.replace("{{body}}", body), encoding="utf-8")
    return path


def _lead(rows: Sequence[Row]) -> str:
    days = sorted({row.created[:10] for row in rows if row.created})
    made = f", made {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    failed = sum(row.status != "done" for row in rows)
    failures = f", {failed} of them failed" if failed else ""
    return (
        f'<p class="lead">{len(rows)} rows{failures}{made}, with svdlab, a laboratory for Stable Video Diffusion.</p>'
        "<p>Click a clip to see it large. Tick two to six and press <em>Compare</em> to see them in step: ← and → go "
        "frame by frame, the space bar plays. <em>make again</em> has the lines that make a clip again.</p>"
    )


def _section(folder: Path, entries: list[Entry], source: Callable[[Entry], str | None]) -> str:
    rows, name = [entry.row for entry in entries], folder.resolve().name
    frame = rows_table(rows)
    varied = [knob for knob in knobs(rows) if knob in frame and len(set(frame[knob])) > 1]
    found = "".join(_finding(frame, knob) for knob in [k for k in varied if k != "seed"] or varied)
    table = page(entries, f"Rows of {name}", source, opened="wall" if any(entry.clip for entry in entries) else "")
    return f"<section><h2>{escape(name)}</h2>{_shared(rows)}{found}{_measured(rows)}<h3>The clips</h3>{table}</section>"


def _shared(rows: Sequence[Row]) -> str:
    """The settings that are the same for all, and where they ran."""
    given = {name: values[0] for name, values in fields(rows).items() if all(value == values[0] for value in values)}
    given["machine"] = " / ".join(dict.fromkeys(str(row.machine) for row in rows if row.machine)) or None
    given["svdlab"] = ", ".join(dict.fromkeys(row.version for row in rows if row.version)) or None
    said = {name: ", ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}
    lines = [[name, str(value)] for name, value in said.items() if value not in (None, "")]
    return _table("What all of them share", ["setting", "value"], lines)


def _finding(frame: pd.DataFrame, knob: str) -> str:
    try:
        said, done = study.findings(frame, knob), study.rows_with_clips(frame)
    except ValueError as error:
        return f"<h3>{escape(knob)}</h3><p>{escape(str(error))}</p>"
    lines = [_prose(line) for line in said.splitlines() if line]
    items = "".join(f"<li>{line[2:]}</li>" for line in lines if line.startswith("- "))
    first, *rest = [f"<p>{line}</p>" for line in lines if not line.startswith("- ")]
    words = f"{first}<ul>{items}</ul>{''.join(rest)}" if items else first
    return f"<h3>What <code>{escape(knob)}</code> does</h3>{words}{_curves(done, knob)}"


def _curves(done: pd.DataFrame, knob: str) -> str:
    """The curves as pictures, one for a light page and one for a dark one."""
    import matplotlib.pyplot as plt

    if not study.complete_measures(done, knob, tuple(study.MEASURES)):
        return ""
    urls = []
    for style, paper in (("default", "#ffffff"), ("dark_background", "#161616")):  # those of the page
        data = io.BytesIO()
        with plt.style.context([style, {"axes.facecolor": paper}]):
            plots.curves(done, knob).savefig(data, format="png", dpi=110, facecolor=paper)
        urls.append(data_url("image/png", data.getvalue()))
    about = f"Curves of each measure against {knob}, over {len(done)} clips; the sentences above say the same in words."
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{urls[1]}">'
    return f'<picture>{dark}<img class="curves" src="{urls[0]}" alt="{escape(about)}"></picture>'


def _measured(rows: Sequence[Row]) -> str:
    """Memory and time, where they were measured."""
    measured = [row for row in rows if row.measurement]
    if not measured:
        return ""
    varied, lines = knobs(measured), [_with_units(row.measurement.figures) for row in rows if row.measurement]
    told = [name for name in lines[0] if any(line[name] is not None for line in lines)]
    table = [
        [row.key[:8], *(values[place] for values in varied.values()), *(line[name] for name in told)]
        for place, (row, line) in enumerate(zip(measured, lines, strict=True))
    ]
    caption = "Medians over the calls after the first, peaks over all"
    return f"<h3>Memory and speed</h3>{_table(caption, ['row', *varied, *told], table)}"


def _with_units(line: dict[str, float | None]) -> dict[str, float | None]:
    """The same with headings for people, bytes as GiB."""
    found: dict[str, float | None] = {}
    for name, value in line.items():
        of_bytes = name.endswith("_bytes")
        heading = name.replace("_bytes", " (GiB)").replace("_seconds", " (s)").replace("_db", " (dB)").replace("_", " ")
        found[heading] = value / 2**30 if of_bytes and value is not None else value
    return found


def _table(caption: str, heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(str(line[0]))}</th>{"".join(map(cell, line[1:]))}</tr>' for line in lines
    )
    return (
        f'<div class="scroll"><table class="plain"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _prose(text: str) -> str:
    """A line of the findings' Markdown."""
    marked = re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", marked)
