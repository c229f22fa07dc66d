"""Row files: one small JSON file each, beside its clip, in a folder that any number of writers may share.

A folder holds `<key>.json` beside `<key>.mp4`, or `<key>.failed.json`, and the key is a hash of the question. Folders
merge by being copied together: the same name is the same question, and a failure never replaces an answer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.media.images import image_sha256
from svdlab.request import conditioning, quiet_requests

if TYPE_CHECKING:
    pass
from svdlab.rows.row import Row, _checked, _picture_name


def read_rows(folder: str | Path) -> list[Row]:
    """The rows in `folder`, oldest first. A file that is torn or no row is passed over; a warning names it."""
    found, unread = [], []
    given = _documents(Path(folder))
    with quiet_requests():  # what a request warns of was said when it was made
        for fields in given:
            try:
                found.append(Row.from_json(fields, folder))
            except (ValueError, TypeError, AttributeError) as error:
                unread.append(f"Row {fields['key']} in {folder} is passed over: {error}")
    for sentence in unread:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    return sorted(found, key=lambda row: (row.created, row.key))


def find_row(folder: str | Path, key: str) -> Row | None:
    """The row of that key; None where there is none, it is torn, or its clip is gone: so that it is made anew."""
    for name in (f"{key}.json", f"{key}.failed.json"):
        path = Path(folder) / name
        try:
            with quiet_requests():
                row = Row.from_json(path.read_bytes(), folder)
        except (OSError, ValueError, TypeError, AttributeError):
            continue
        if row.clip is None or row.clip.exists():
            return row
    return None


def write_row(row: Row, folder: str | Path, scratch: Path, clip: Path | None = None) -> Row:
    """Move a row into `folder`, after its `clip` and its picture, so that no row ever names what is not there.

    `scratch`, on the same disk, is for what is not whole yet. Of several writers of one key the last one wins.
    """
    folder = Path(folder)
    if not isinstance(row.request.image, str):
        picture = conditioning(row.request)
        row = dataclasses.replace(row, picture=image_sha256(picture))
        picture.save(scratch / "picture.png")
        _move(scratch / "picture.png", folder / _picture_name(row.picture or ""))
    if clip is not None:
        row = dataclasses.replace(row, clip=_move(clip, folder / f"{row.key}{clip.suffix}"))
    failures = folder / f"{row.key}.failed.json"
    (scratch / "row.json").write_text(row.to_json(), encoding="utf-8")
    _move(scratch / "row.json", folder / f"{row.key}.json" if row.status == "done" else failures)
    if row.status == "done":
        failures.unlink(missing_ok=True)
    return row


def _documents(folder: Path) -> list[dict[str, Any]]:
    """The rows' files as they are, one for each key: an answer before a failure."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: run a sweep into it first.")
    found: dict[str, dict[str, Any]] = {}
    for entry in os.scandir(folder):
        if entry.name.endswith(".json"):
            try:
                with open(entry, "rb") as file:  # noqa: PTH123  (a Path for each of 10,000 would take as long again)
                    fields = _checked(json.loads(file.read()))
            except (OSError, ValueError, RecursionError) as error:
                warnings.warn(f"{entry.path} is passed over: it is torn, or no row ({error}).", stacklevel=3)
                continue
            if fields["key"] not in found or fields.get("status") == "done":
                found[fields["key"]] = fields
    return list(found.values())


def _move(file: Path, to: Path) -> Path:
    """Whole or not at all, after a power cut too."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.replace(to)
    return to
