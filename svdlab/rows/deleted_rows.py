"""Deleted rows: they wait for a week in their study's own `.deleted`, a folder for each day, and can come back.

The files of a row move together: its JSON, its clip, the preview and the note.
"""

from __future__ import annotations

import re
import shutil
from datetime import date, timedelta
from pathlib import Path

_KEPT_DAYS, _DAY = 7, "????-??-??"


def delete_row(folder: Path, key: str) -> None:
    """Move a row's files out of its study; `restore_row` brings them back for a week.

    Args:
        folder: of the study.
        key: of the row.
    """
    folder = folder.resolve()  # a study may be a link to another disk
    _move_files(folder, _deleted(folder) / date.today().isoformat(), key)


def restore_row(folder: Path, key: str) -> None:
    """Bring back what `delete_row` moved. What has come into its place meanwhile is replaced.

    Args:
        folder: of the study.
        key: of the row.
    """
    folder = folder.resolve()
    for day in sorted(_deleted(folder).glob("*")):
        _move_files(day, folder, key)


def deleted_keys(folder: Path) -> set[str]:
    """The keys of the rows that `restore_row` can bring back.

    Args:
        folder: of the study.
    """
    deleted = folder.resolve() / ".deleted"
    days = () if deleted.is_symlink() else deleted.glob(_DAY)
    files = (file for day in days if not (day.is_symlink() or _is_over(day)) for file in day.glob("*.json"))
    return {name[1] for file in files if (name := re.fullmatch(r"([0-9a-f]{16})(\.failed)?\.json", file.name))}


def _deleted(folder: Path) -> Path:
    """The folder of what was deleted, without the days that are over a week ago; a `ValueError` for a link."""
    deleted = folder / ".deleted"
    if deleted.is_symlink():
        raise ValueError(f"{deleted} is a link, which may lead anywhere: remove it, then delete rows.")
    for day in filter(_is_over, deleted.glob(_DAY)):
        shutil.rmtree(day, ignore_errors=True)
    return deleted


def _is_over(day: Path) -> bool:
    return day.name < (date.today() - timedelta(days=_KEPT_DAYS)).isoformat()


def _move_files(source: Path, target: Path, key: str) -> None:
    if source.is_symlink() or target.is_symlink():
        return
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(source.glob(f"{key}.*"), key=lambda file: file.suffix == ".json")
    # a row never names a clip that is not there: it leaves first, and comes back last
    for file in files if source.parent.name == ".deleted" else reversed(files):
        file.replace(target / file.name)
