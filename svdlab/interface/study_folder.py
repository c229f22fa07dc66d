"""Folders of rows as a person keeps them: studies, their clips, and what somebody noted beside each row.

A *study* is a folder that a sweep wrote. Folders are passed around, so only regular files are read, and a clip is shown
or copied only where it is the file that the row was written with. A link under its name might lead to any file of the
reader's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from svdlab.rows.deleted_rows import deleted_keys
from svdlab.rows.results_folders import no_folder, results_home
from svdlab.rows.row import Row
from svdlab.rows.row_files import read_rows
from svdlab.rows.row_note import Note, read_note


@dataclass(frozen=True)
class Entry:
    """A row and the folder where it lies, with its clip and its note."""

    row: Row
    folder: Path

    @property
    def note(self) -> Note:
        """The note as it is on disk now."""
        return read_note(self.folder, self.row.key)

    @property
    def clip(self) -> Path | None:
        """The video, where it is the file that the row was written with."""
        return self.row.clip_file()


def why_no_clip(row: Row) -> str:
    """Why a row has no video to show; "" where it has one."""
    if row.clip is None:
        return row.error or "no clip was kept"
    problem = row.clip_problem()
    return f"the clip {problem}" if problem else ""


def find_studies(folders: str | Path | Iterable[str | Path]) -> list[Path]:
    """The folders with rows, or with rows that were deleted and can be brought back.

    Args:
        folders: A study, a folder of studies, or several of these.
    """
    paths = [folders] if isinstance(folders, (str, Path)) else list(folders)
    return [study for folder in paths for study in _studies(Path(folder).expanduser())]


def read_entries(folders: str | Path | Iterable[str | Path], may_be_empty: bool = False) -> list[Entry]:
    """The rows of studies, oldest first within a study. A warning names each file that is passed over.

    Args:
        folders: A study, a folder of studies, or several of these.
        may_be_empty: No row in any of them is no error.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no row in any of them.
    """
    folders = [folders] if isinstance(folders, (str, Path)) else list(folders)
    entries = [Entry(row, study) for study in find_studies(folders) for row in read_rows(study)]
    if not entries and not may_be_empty:
        names = ", ".join(map(str, folders)) or "no folder"
        raise ValueError(f"There are no rows in {names}: run a sweep into it first, or give another folder.")
    return entries


def newest(folder: str | Path = "") -> list[Path]:
    """The study with clips that was written to last: a list of one folder, ready for `review`, or an empty one.

    Args:
        folder: Where to look, two levels deep. Left out, it is the `results` of where one works.

    Example:
        After `run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import newest
        >>> newest("results")[0].name
        'motion'
    """
    home = Path(folder or results_home()).expanduser()
    inner = [each for each in home.glob("*/") if not each.name.startswith(".")]
    studies = {study for each in (home, *inner) if each.is_dir() for study in _studies(each)}
    studies = [study for study in studies if any(study.glob("*.mp4")) and any(study.glob("*.json"))]
    return sorted(studies, key=lambda study: max(file.lstat().st_mtime for file in study.glob("*.json")))[-1:]


def _studies(folder: Path) -> list[Path]:
    """The folders with rows, or with deleted ones: this one and those in it, by name."""
    if not folder.is_dir():
        raise no_folder(folder)
    inner = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [each for each in (folder, *inner) if any(each.glob("*.json")) or deleted_keys(each)]
