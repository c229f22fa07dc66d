"""Row files: one small JSON file each, beside its clip, in a folder that any number of writers may share.

A folder holds `<key>.json` beside `<key>.mp4`, or `<key>.failed.json`; the key is a hash of the question. Folders merge
by being copied together: the same name is the same question, and a failure never replaces an answer.
A file that is no row of ours is passed over, and a warning names it, so that one bad file never hides a good row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path

from svdlab.media.images import image_sha256
from svdlab.messages import first_line
from svdlab.request import conditioning
from svdlab.rows.results_folders import no_folder
from svdlab.rows.row import Row, picture_name, preview_name

_MAX_ROW_BYTES = 16 * 2**20  # a measured row with its timeline takes 30 kB


def read_rows(folder: str | Path) -> list[Row]:
    """The rows in a folder, oldest first.

    Files that are no rows are left out; rows whose clip was deleted or changed stay in the list. Warnings name both.

    Args:
        folder: where `run` or `profile` wrote.

    Raises:
        FileNotFoundError: there is no such folder.

    Example:
        After `run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> [row.request.motion_bucket_id for row in read_rows("results/motion")]
        [30, 220]
    """
    if not (folder := Path(folder).expanduser()).is_dir():
        raise no_folder(folder)
    rows: dict[str, Row] = {}
    bad_clips = []
    for path in sorted(folder.glob("*.json")):
        try:
            row = _load_row(path)
            problem = _clip_problem(row, path)
        except (OSError, ValueError) as error:
            if os.path.lexists(path):  # else the row was deleted since the folder was listed
                warnings.warn(f"{path} is passed over: {first_line(error)}.", UserWarning, stacklevel=2)
            continue
        if row.key not in rows or row.status == "done":  # an answer before a failure
            rows[row.key] = row
            if row.clip and problem:
                bad_clips.append(f"{row.clip.name} {problem}")
    if bad_clips:
        listed = "; ".join(bad_clips[:3]) + (f"; and {len(bad_clips) - 3} more" if len(bad_clips) > 3 else "")
        sentence = f"In {folder}, clips are not as their rows say: {listed}. The next run makes them again."
        warnings.warn(sentence, UserWarning, stacklevel=2)
    return sorted(rows.values(), key=lambda row: (row.created, row.key))


def find_row(folder: str | Path, key: str, *, warn: bool = True) -> Row | None:
    """The row of a key, or None where it has to be made: there is none, it cannot be read, or its clip is not its own.

    Args:
        folder: where the rows are.
        key: as `row_key` gives it.
        warn: name a clip that has to be made again in a warning.
    """
    for name in _row_names(key):
        try:
            row = _load_row(path := Path(folder) / name)
            problem = _clip_problem(row, path)
        except (OSError, ValueError):
            continue
        if not problem:
            return row
        if warn:
            warnings.warn(f"{row.clip} {problem}: it counts as not made.", UserWarning, stacklevel=2)
    return None


def find_rows(folder: str | Path, keys: Iterable[str], *, warn: bool = True) -> dict[str, Row]:
    """The rows of those keys that need not be made, by key.

    Args:
        folder, keys, warn: as for `find_row`.
    """
    return {key: row for key in dict.fromkeys(keys) if (row := find_row(folder, key, warn=warn))}


def write_row(
    row: Row, folder: str | Path, scratch: Path, clip: Path | None = None, preview: bytes | None = None
) -> Row:
    """Move a row into `folder`, after its clip and its pictures, so that no row ever names what is not there.

    Of several writers of one key the last one wins. Returns the row as it will be read.

    Args:
        row: what to write.
        folder: where to.
        scratch: a folder on the same disk, for files that are not complete yet.
        clip: the row's video, which is moved.
        preview: the clip in small. Left out, that of an older clip is removed.
    """
    folder = Path(folder)
    if not isinstance(row.request.image, str):
        picture = conditioning(row.request)
        row = dataclasses.replace(row, picture_sha256=image_sha256(picture))
        picture.save(scratch / "picture.png")
        _move(scratch / "picture.png", folder / picture_name(row.picture_sha256 or ""))
    if clip is not None:
        size, sha256 = clip.stat().st_size, hashlib.sha256(clip.read_bytes()).hexdigest()
        small = folder / preview_name(row.key)
        small.unlink(missing_ok=True)
        target = _move(clip, folder / f"{row.key}{clip.suffix}")
        if preview:
            (scratch / small.name).write_bytes(preview)
            _move(scratch / small.name, small)
        row = dataclasses.replace(row, clip=target, clip_bytes=size, clip_sha256=sha256)
    (scratch / "row.json").write_text(row.to_json(), encoding="utf-8")
    _move(scratch / "row.json", folder / _row_names(row.key)[row.status != "done"])
    if row.status == "done":
        remove_failure(folder, row.key)
    return row


def remove_failure(folder: Path, key: str) -> None:
    """Remove the row of a key that failed, where there is one.

    Args:
        folder: where the rows are.
        key: as `row_key` gives it.
    """
    (folder / _row_names(key)[1]).unlink(missing_ok=True)


def _load_row(path: Path) -> Row:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):  # a named pipe would be waited for, and a link may lead anywhere
        raise ValueError("it is no regular file")
    if status.st_size > _MAX_ROW_BYTES:
        raise ValueError(f"it has {status.st_size} bytes, more than a row ever takes")
    row = Row.from_json(path.read_bytes(), path.parent)
    if path.name not in _row_names(row.key):
        raise ValueError(f"its name is not that of row {row.key}")
    return row


def _clip_problem(row: Row, path: Path) -> str | None:
    """As `Row.clip_problem`; the hash is compared where a clip is newer than its row, since writing leaves it older."""
    problem = row.clip_problem()
    if problem is None and row.clip and row.clip.stat().st_mtime_ns > path.stat().st_mtime_ns:
        problem = row.clip_problem(verify=True)
    return problem


def _row_names(key: str) -> tuple[str, str]:
    return f"{key}.json", f"{key}.failed.json"


def _move(file: Path, target: Path) -> Path:
    """Move a complete file, so that it is complete after a power cut too."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.replace(target)
    return target
