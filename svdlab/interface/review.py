"""Everything that was made, at a glance: a table whose clips play, to filter, compare, star, export and make again.

>>> looked = review("results/motion")  # last in a cell: the table
>>> looked.compare("1c207b8c", "2a2dbf50")  # in step, with their difference
>>> looked.export("chosen.zip")  # what was starred
>>> print(looked.again("1c207b8c"))

A star and a note are a small file beside the row, `<key>.note`: they travel with the folder, and no row is touched.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import secrets
import shlex
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from svdlab.atomic_files import atomic_write
from svdlab.headless.run_notebooks import results_folder
from svdlab.interface import clip_grid as walls
from svdlab.interface.recipe import recipe
from svdlab.media import video
from svdlab.media.encode import data_url
from svdlab.media.show import Shown
from svdlab.media.video import read_frames
from svdlab.quality.assess import difference
from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.rows.row_files import read_rows
from svdlab.rows.rows_table import rows_table
from svdlab.setup import Setup
from svdlab.sweeps.study import MEASURES

INSIDE_BYTES = 4 * 2**20  # of clips in one page: notebooks stay light enough to save, and 100 clips of tiny fit
THUMBNAIL = 144  # pixels wide
_PAGE = Path(__file__).with_name("templates") / "review.html"
_CONTROLS = Path(__file__).parents[1] / "media" / "show.html"
_GONE = ("the clip is gone", "no clip was kept")
# Carries messages between the page and the kernel, wherever widgets live (anywidget's module format); shows nothing.
_COURIER = """export default { render() {}, initialize({ model }) {
  const name = "{{id}}", hear = ({ detail }) => detail.name === name && model.send(detail);
  const tell = (detail) => document.dispatchEvent(new CustomEvent("svdlab-tell", { detail: { name, ...detail } }));
  document.addEventListener("svdlab-ask", hear);
  model.on("msg:custom", (content, buffers) => tell({ ...content, data: buffers?.[0] }));
  tell({ ready: true });
  return () => document.removeEventListener("svdlab-ask", hear);
} };"""


@dataclass(frozen=True)
class Note:
    """What somebody thought of a row."""

    star: bool = False
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """A row, and the folder where it lies."""

    row: Row
    folder: Path

    @property
    def note(self) -> Note:
        """As it stands on disk now; an empty one where there is none, or it is torn."""
        try:
            given = json.loads((self.folder / f"{self.row.key}.note").read_bytes())
            return Note(bool(given["star"]), str(given["text"]))
        except (OSError, ValueError, TypeError, KeyError):
            return Note()

    def keep(self, note: Note) -> None:
        """Whole or not at all; of several writers the last one wins. An empty note leaves no file."""
        path = self.folder / f"{self.row.key}.note"
        if note == Note():
            path.unlink(missing_ok=True)
            return
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(dataclasses.asdict(note), ensure_ascii=False), encoding="utf-8")

    @property
    def clip(self) -> Path | None:
        """The video, if it is there."""
        return self.row.clip if self.row.clip is not None and self.row.clip.is_file() else None

    def inside(self) -> str | None:
        """The video as a URL that holds it."""
        return self.clip and data_url("video/mp4", self.clip.read_bytes())


def review(folders: str | Path | Iterable[str | Path], *, inside: bool | None = None) -> Review:
    """The rows of any studies: last in a cell, a table to filter, sort, star and note, clips playing as they are seen.

    A folder is a study, or holds studies. Tick two to six rows to compare them in step, with scrubbing, the difference
    from the first, and measures; *Wall* hangs the rows that the filter leaves by any two knobs. `ValueError` for none.

    Up to 4 MiB of clips travel `inside` the page, and play wherever scripts run: JupyterLab, VS Code, Colab, an export,
    a file. More are fetched from the running kernel as they come into sight, by a widget (anywidget, of the `lab`
    extra; tried in JupyterLab); without it, and in an export, the pictures that they started from stand in their place:
    `inside=True` embeds them all. Stars and notes are kept while the kernel is there; elsewhere they can be read. In a
    notebook that JupyterLab does not trust, which runs no scripts, there is the plain table.
    """
    given = [folders] if isinstance(folders, (str, Path)) else list(folders)
    found = [Entry(row, home) for folder in given for home in studies(folder) for row in read_rows(home)]
    if not found:
        named = ", ".join(map(str, given)) or "no folder"
        raise ValueError(f"There are no rows in {named}: run a sweep into it first, or give another folder.")
    return Review(found, inside)


def studies(folder: str | Path) -> list[Path]:
    """The folders with rows: this one, and those in it, by name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: run a sweep into it first.")
    inner = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [each for each in (folder, *inner) if any(each.glob("*.json"))]


def newest(folder: str | Path = "") -> list[Path]:
    """The study with clips under `folder` (left out: `results/`) that was written to last: one in a list, or none."""
    found = [each for each in studies(folder or results_folder("", "")) if any(each.glob("*.mp4"))]
    return [max(found, key=lambda each: max(file.stat().st_mtime for file in each.glob("*.json")))] if found else []


class Review:
    """What `review` returns. Rows go by their key, or by its beginning."""

    def __init__(self, entries: Sequence[Entry], inside: bool | None = None) -> None:
        self.entries = list(entries)
        self.rows = [each.row for each in self.entries]
        size = sum(each.clip.stat().st_size for each in self.entries if each.clip)
        self.inside = size <= INSIDE_BYTES if inside is None else inside
        self._couriers: list[Any] = []  # kept alive for as long as this is

    @property
    def starred(self) -> list[Row]:
        """As the stars stand on disk now."""
        return [each.row for each in self.entries if each.note.star]

    def star(self, *keys: str, on: bool = True) -> None:
        """Star these rows, or take the stars away."""
        for entry in map(self._entry, keys):
            entry.keep(dataclasses.replace(entry.note, star=on))

    def note(self, key: str, text: str) -> None:
        """Write a note to a row, in place of the one that it had."""
        self._entry(key).keep(dataclasses.replace(self._entry(key).note, text=text))

    def wall(self, across: str = "", down: str = "") -> Shown:
        """The clips by two knobs, in step, as `svdlab.wall` hangs them; knobs left out are the first that vary."""
        left = [knob for knob in knobs(self.rows) if knob not in (across, down)]
        across = across or left.pop(0)
        return walls.wall([each.row for each in self.entries if each.clip], across, down or next(iter(left), None))

    def compare(self, *keys: str) -> Shown:
        """Two to six clips in step, with their difference from the first, and measures; all inside the page."""
        if not 2 <= len(keys) <= 6:
            raise ValueError(f"{len(keys)} rows were given: name two to six by their keys.")
        chosen = [self._entry(key) for key in keys]
        return Shown(page(chosen, "Compared", Entry.inside, opened="compare", more=against_first(chosen)), list(keys))

    def again(self, key: str) -> str:
        """The lines of Python, and of the shell, that make this row's clip again: to print."""
        return again(self._entry(key).row)

    def export(self, path: str | Path, keys: Iterable[str] | None = None) -> Path:
        """Copy clips under telling names, with their rows as `rows.csv`, into a new folder or a `.zip`.

        `keys` left out: those that are starred. Whole or not at all; an export that stood there before is replaced.
        """
        import pandas as pd

        path, wanted = Path(path), [row.key for row in self.starred] if keys is None else keys
        chosen = [entry for entry in map(self._entry, wanted) if entry.clip]
        if not chosen:
            raise ValueError("There is no clip to export: star a row first, looked.star(key), or name keys.")
        if path.suffix not in (".zip", "") or not (path.suffix or replaceable(path)):
            raise ValueError(f"Cannot export to {path}: give a new folder, or a name that ends in .zip.")
        tables = {home: rows_table(home).set_index("key", drop=False) for home in {each.folder for each in chosen}}
        table = pd.DataFrame([tables[each.folder].loc[each.row.key] for each in chosen])
        names = file_names(chosen, self.entries)
        table.insert(0, "file", names)
        table.insert(1, "note", [each.note.text for each in chosen])
        files = {name: each.clip.read_bytes() for name, each in zip(names, chosen, strict=True) if each.clip}
        files["rows.csv"] = table.to_csv(index=False).encode()
        with atomic_write(path) as beside:
            if path.suffix:
                with zipfile.ZipFile(beside, "w") as archive:
                    for name, data in files.items():
                        archive.writestr(name, data)
            else:
                beside.mkdir()
                for name, data in files.items():
                    (beside / name).write_bytes(data)
        return path

    def _entry(self, key: str) -> Entry:
        found = {each.row.key: each for each in reversed(self.entries) if key and each.row.key.startswith(key)}
        if len(found) != 1:
            raise ValueError(f"{len(found)} rows have a key that begins with {key!r}: take one from the table.")
        return next(iter(found.values()))

    def _repr_html_(self, name: str = "", live: bool = False) -> str:
        return page(self.entries, "Rows", Entry.inside if self.inside else lambda _: None, name=name, live=live)

    def _ipython_display_(self) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import HTML, display

        shell, name = get_ipython(), secrets.token_hex(8)
        try:
            from anywidget import AnyWidget
        except ImportError:
            AnyWidget = None
        if AnyWidget is None or not hasattr(shell, "kernel"):
            display(HTML(self._repr_html_()))
            return
        display(HTML(self._repr_html_(name, live=True)))
        courier = type("Courier", (AnyWidget,), {"_esm": _COURIER.replace("{{id}}", name)})()
        courier.on_msg(self._answer)
        self._couriers.append(courier)
        # A Jupyter server's own pages bring widgets to life at once; others when they are shown: so it is, as nothing.
        if "JPY_SESSION_NAME" not in os.environ or "__vsc_ipynb_file__" in getattr(shell, "user_ns", {}):
            display(courier)

    def _answer(self, courier: Any, asked: dict[str, Any], _: Any) -> None:
        """One message of the page: it names rows by their place, so that it can reach no other file."""
        if asked["what"] == "notes":
            courier.send({"notes": [dataclasses.asdict(entry.note) for entry in self.entries]})
        elif asked["what"] == "keep":
            self.entries[asked["row"]].keep(Note(bool(asked["star"]), str(asked["text"])))
        elif asked["what"] == "clip":
            clip = self.entries[asked["row"]].clip
            courier.send({"clip": asked["row"]}, [clip.read_bytes()] if clip else None)
        elif asked["what"] == "compare":
            measured = against_first([self.entries[place] for place in asked["rows"]])
            lines = [[heading, [_text(value) for value in values]] for heading, values in measured.items()]
            courier.send({"of": asked["rows"], "measures": lines})


def again(row: Row) -> str:
    """Python that makes the row's clip, and where there is one the same for the shell."""
    shell = f"\n\nsvdlab clip --again {shlex.quote(str(row.clip))} -o again.mp4" if row.clip else ""
    return recipe(row) + shell


def against_first(entries: Sequence[Entry]) -> dict[str, list[float | None]]:
    """PSNR and SSIM of each clip against the first; None for the first itself, and where they cannot be compared."""
    found: list[tuple[float | None, float | None]] = [(None, None)]
    for entry in entries[1:]:
        try:
            apart = difference(*(read_frames(str(each.clip))[0] for each in (entry, entries[0])))
            found.append((apart.psnr_db, apart.ssim))
        except ValueError:  # of other sizes, or gone
            found.append((None, None))
    return {f"{name} against the first": [each[i] for each in found] for i, name in enumerate(("PSNR (dB)", "SSIM"))}


def page(
    entries: Sequence[Entry],
    caption: str,
    source: Callable[[Entry], str | None],
    *,
    name: str = "",
    live: bool = False,
    opened: str = "",
    more: Mapping[str, Sequence[Any]] | None = None,
) -> str:
    """The table as HTML, with what makes it live. `source` gives the URL of a clip, or None to have it fetched.

    `opened` is what stands above it at first: "compare" (all of the rows), "wall" (by the axes of their sweep) or "".
    `more` are measures to put in front of those of the rows: a heading, and a value for each row.
    """
    name, heads, cells = name or secrets.token_hex(8), "", [""] * len(entries)
    looks, styles = _posters(entries, name)
    errors = [each.row.error or ("" if each.clip else _GONE[each.row.clip is None]) for each in entries]
    preload = "metadata" if len(entries) <= 48 else "none"  # where no script runs, which knows what is in sight
    films = [
        f"<em>{escape(error)}</em>" if error else _film(entry, source(entry), f'class="{look}" preload="{preload}"')
        for entry, error, look in zip(entries, errors, looks, strict=True)
    ]
    for about, heading, column in _columns(entries, films, live, more or {}):
        heads += f'<th scope="col" {about}>{escape(heading)}</th>'
        cells = [line + each for line, each in zip(cells, column, strict=True)]
    body = "".join(
        f'<tr data-row="{place}" data-key="{escape(entry.row.key[:8])}" data-error="{escape(error)}">{line}</tr>'
        for place, (entry, error, line) in enumerate(zip(entries, errors, cells, strict=True))
    )
    across, down, *_ = *knobs([each.row for each in entries]), "", ""
    return (
        f'<div class="svdlab-review" data-svdlab-review="{name}" data-open="{opened}" data-across="{across}" '
        f'data-down="{down}"><div class="svdlab-tools"></div><div class="svdlab-stage"></div>'
        f'<div class="svdlab-scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table class="svdlab-rows"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<template>{_CONTROLS.read_text(encoding='utf-8')}</template></div>"
        f"<style>{styles}</style>{_PAGE.read_text(encoding='utf-8').replace('{{id}}', name)}"
    )


def _columns(
    entries: Sequence[Entry], films: Sequence[str], live: bool, more: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, str, list[str]]]:
    """The attributes of each column's head, its heading, and a cell for each row."""
    rows, notes = [each.row for each in entries], [each.note for each in entries]
    yield 'class="svdlab-pick"', "", ['<td class="svdlab-pick"></td>'] * len(rows)
    yield "", "clip", [f"<td>{film}</td>" for film in films]
    named = [f'<th scope="row" title="{escape(row.key)}">{escape(row.key[:8])}</th>' for row in rows]
    yield "data-sort", "row", named
    if noted := live or any(note != Note() for note in notes):
        stars = [f'<td class="svdlab-star" data-v="{int(n.star)}">{"★" if n.star else ""}</td>' for n in notes]
        yield "data-sort", "star", stars
    if len({each.folder for each in entries}) > 1:
        yield "data-sort", "study", [f"<td>{escape(each.folder.name)}</td>" for each in entries]
    measures = dict(more) | {MEASURES[name]: [getattr(row.quality, name, None) for row in rows] for name in MEASURES}
    parts = ("sample_seconds", "decode_seconds")
    measures["seconds"] = [sum(row.timings.get(p, 0) for p in parts) if row.timings else None for row in rows]
    for kind, found in (("knob", knobs(rows)), ("measure", measures)):
        for heading, values in found.items():
            if any(value is not None for value in values):
                number = ' class="svdlab-number"' if any(map(_number, values)) else ""
                yield f'data-sort data-{kind}="{escape(heading)}"{number}', heading, [cell(value) for value in values]
    if noted:
        words = [escape(note.text) for note in notes]
        yield "data-sort", "note", [f'<td class="svdlab-note" data-v="{text}">{text}</td>' for text in words]
    lines = [f"<details><summary>make again</summary><pre>{escape(again(row))}</pre></details>" for row in rows]
    yield "", "again", [f'<td class="svdlab-again">{each}</td>' for each in lines]


def fields(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Every field of setups and requests, a value for each row; paths are told by their ends."""
    found: dict[str, list[Any]] = {}
    for part, kind in (("setup", Setup), ("request", Request)):
        for name in (each.name for each in dataclasses.fields(kind)):
            values = [getattr(getattr(row, part), name) for row in rows]
            if name in ("image", "weights"):
                values = [Path(value).name if isinstance(value, str) else "picture" for value in values]
            found[name] = values
    return found


def knobs(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Those fields that differ, the axes of the rows' sweeps in front. The seed, where nothing does."""
    found = fields(rows)
    differing = [name for name, values in found.items() if any(value != values[0] for value in values)]
    axes = [axis for row in rows for axis in row.axes if axis in differing]
    return {name: found[name] for name in dict.fromkeys([*axes, *differing]) or ("seed",)}


def file_names(entries: Sequence[Entry], among: Sequence[Entry]) -> list[str]:
    """A telling name for each clip, no two the same: its study, what varies `among` all, its key."""
    varied, values, names = knobs([each.row for each in among]), fields([each.row for each in entries]), []
    for place, entry in enumerate(entries):
        told = [entry.folder.name, *(f"{knob}-{_text(values[knob][place])}" for knob in varied)]
        plain = re.sub(r"[^\w.+-]+", "-", "_".join(told)).strip(".-")[:100]
        names.append(f"{plain}_{entry.row.key}.mp4")
    return [name if names.index(name) == place else f"{place}_{name}" for place, name in enumerate(names)]


def replaceable(folder: Path) -> bool:
    """Nothing stands there, or only what an export or a report left."""
    if not folder.is_dir():
        return not folder.exists()
    return all(file.suffix == ".mp4" or file.name == "rows.csv" for file in folder.iterdir())


def cell(value: Any) -> str:
    """A cell of a table, numbers to the right."""
    about = f' class="svdlab-number" data-v="{value}"' if _number(value) else ""
    return f"<td{about}>{escape(_text(value))}</td>"


def _film(entry: Entry, url: str | None, look: str) -> str:
    asked, src = entry.row.request, f'src="{escape(url)}"' if url else ""
    size = f'width="{THUMBNAIL}" height="{round(THUMBNAIL * asked.height / asked.width)}"'
    about = f'data-fps="{asked.fps}" data-frames="{asked.num_frames}" aria-label="Clip {escape(entry.row.key[:8])}"'
    return f"<video {look} {src} {size} {about} muted loop playsinline controls></video>"


def _posters(entries: Sequence[Entry], name: str) -> tuple[list[str], str]:
    """The class of each clip, whose style shows a picture until it plays, and those styles. Clips carry the picture
    that they started from, and most rows of a study share one: it is read and sent once."""
    known, found = [entry.row.picture_sha256 or entry.row.key for entry in entries], {}
    for digest, entry in zip(known, entries, strict=True):
        if digest not in found and entry.clip:
            cover = _cover(entry.clip)
            found[digest] = (
                cover and f".svdlab-review .svdlab-{name}-{len(found)} {{ background-image: url({cover}); }}"
            )
    looks = {digest: f"svdlab-{name}-{place}" for place, digest in enumerate(found)}
    return [looks.get(digest, "") for digest in known], "\n".join(filter(None, found.values()))


def _cover(clip: Path) -> str | None:
    try:
        cover = video.read_metadata(clip)[1]
    except ValueError:  # cut short: it will not play either
        return None
    if cover is None:
        return None
    small, height = io.BytesIO(), max(1, round(2 * THUMBNAIL * cover.height / cover.width))
    cover.convert("RGB").resize((2 * THUMBNAIL, height), Image.Resampling.LANCZOS).save(small, "JPEG", quality=80)
    return data_url("image/jpeg", small.getvalue())


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
