"""Clips copied out of their studies under telling names, with their rows as a table for spreadsheets.

A name says in which knobs a clip differs from the others. An export is a folder or a zip, and replaces an older export
at the same place, but nothing else that lies there.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from svdlab.atomic_files import atomic_write, kept_names
from svdlab.interface.row_labels import row_labels
from svdlab.interface.study_folder import Entry
from svdlab.rows.rows_table import rows_table

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for the beginning of one


def export_clips(entries: Sequence[Entry], chosen: Iterable[Entry], path: str | Path) -> Path:
    """Write the clips of chosen rows, and `rows.csv`, into a folder or a zip; it appears whole or not at all.

    Args:
        entries: all rows that are looked at; names tell them apart.
        chosen: those to export; the ones without a clip are left out.
        path: a new folder, an older export, or a name that ends in `.zip`.

    Raises:
        ValueError: none of the rows has a clip, or something else is at the path.
    """
    path, with_clips = Path(path).expanduser(), [entry for entry in chosen if entry.clip]
    if not with_clips:
        raise ValueError("There is no clip to export: star a row first, or name keys.")
    if path.suffix not in (".zip", "") or not is_replaceable(path):
        raise ValueError(f"Cannot export to {path}: give a new folder, or a name that ends in .zip.")
    all_names = file_names(entries)
    names = [all_names[entries.index(entry)] for entry in with_clips]
    files = {name: entry.clip.read_bytes() for name, entry in zip(names, with_clips, strict=True) if entry.clip}
    files["rows.csv"] = _csv(with_clips, names)
    with atomic_write(path) as scratch:
        if path.suffix:
            with zipfile.ZipFile(scratch, "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
        else:
            scratch.mkdir()
            for name, data in files.items():
                (scratch / name).write_bytes(data)
    return path


def file_names(entries: Sequence[Entry]) -> list[str]:
    """A telling name for each clip, no two the same: its study, what varies, its key."""
    names = []
    for entry, label in zip(entries, row_labels([entry.row for entry in entries]), strict=True):
        words = re.sub(r"[^\w.+-]+", "-", f"{entry.folder.name}_{label}".replace(", ", "_")).strip(".-")[:100]
        names.append(f"{words}_{entry.row.key}.mp4")
    return [name if names.index(name) == place else f"{place}_{name}" for place, name in enumerate(names)]


def is_replaceable(path: Path) -> bool:
    """Whether an export may be written there: nothing is there, or only files as `file_names` names them."""
    if path.is_dir():
        names = kept_names(path)
    elif path.suffix == ".zip" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    else:
        return not path.exists()
    return all(re.fullmatch(r"rows\.csv|[^/]+_[0-9a-f]{16}\.mp4", name) for name in names)


def _csv(entries: Sequence[Entry], names: Sequence[str]) -> bytes:
    """The rows as a table that a spreadsheet may open: no text in it is a formula."""
    table = rows_table(entry.row for entry in entries)
    table.insert(0, "file", list(names))
    table.insert(1, "note", [entry.note.text for entry in entries])
    escaped: Any = table.rename(columns=_without_formula).map(_without_formula)
    return escaped.to_csv(index=False).encode()


def _without_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
