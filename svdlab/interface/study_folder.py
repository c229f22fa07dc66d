"""Folders of rows as a person keeps them: studies, their clips, and what somebody noted beside each row.

A *study* is a folder that a sweep wrote. A star and a note are a small file beside the row, `<key>.note`: they travel
with the folder, and no row is touched. What is deleted waits in the study's own `.deleted`, a folder for each day.
Folders are passed around, so only regular files are read, and a clip is shown or copied only where it is the file that
the row was written with. A link under its name might lead to any file of the reader's.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from svdlab.atomic_files import atomic_write
from svdlab.headless.run_notebooks import results_home
from svdlab.interface.row_labels import row_labels
from svdlab.rows.row import Row
from svdlab.rows.row_files import read_rows

_KEPT_DAYS = 7  # of what was deleted


@dataclass(frozen=True)
class Note:
    """What somebody thought of a row: whether it is worth keeping, and any words."""

    star: bool = False
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """A row and the folder where it lies, with its clip and its note."""

    row: Row
    folder: Path

    @property
    def note(self) -> Note:
        """The note as it is on disk now; an empty one where none can be read."""
        path = self._note_path
        if path.is_symlink() or not path.is_file():  # a named pipe would be waited for
            return Note()
        try:
            fields = json.loads(path.read_bytes())
            fields["text"].encode()  # half a character, which no page could be written with
            return Note(bool(fields["star"]), fields["text"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return Note()

    def write_note(self, note: Note) -> None:
        """Write the note beside the row; an empty one leaves no file. Of several writers the last one wins."""
        if note == Note():
            self._note_path.unlink(missing_ok=True)
            return
        with atomic_write(self._note_path) as scratch:
            scratch.write_text(json.dumps(dataclasses.asdict(note), ensure_ascii=False), encoding="utf-8")

    def delete(self) -> None:
        """Move the row's files into the study's `.deleted`, which keeps them for a week; `restore` brings them back."""
        self._move_files(self.folder, self._trash() / date.today().isoformat())

    def restore(self) -> None:
        """Bring back what `delete` moved. What has come into its place meanwhile is replaced."""
        for day in sorted(self._trash().glob("*")):
            self._move_files(day, self.folder)

    def _trash(self) -> Path:
        """The folder `.deleted`, without the days that are over a week ago."""
        trash = self.folder / ".deleted"
        if trash.is_symlink():
            raise ValueError(f"{trash} is a link, which may lead anywhere: remove it, then delete rows.")
        for day in trash.glob("????-??-??"):
            if day.name < (date.today() - timedelta(days=_KEPT_DAYS)).isoformat():
                shutil.rmtree(day, ignore_errors=True)
        return trash

    def _move_files(self, source: Path, target: Path) -> None:
        if source.is_symlink() or target.is_symlink():
            return
        target.mkdir(parents=True, exist_ok=True)
        files = sorted(source.glob(f"{self.row.key}.*"), key=lambda file: file.suffix == ".json")
        # a row never names a clip that is not there: it leaves first, and comes back last
        for file in files if target == self.folder else reversed(files):
            file.replace(target / file.name)

    @property
    def _note_path(self) -> Path:
        return self.folder / f"{self.row.key}.note"

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


def read_entries(folders: str | Path | Iterable[str | Path]) -> list[Entry]:
    """The rows of studies, oldest first within a study. A warning names each file that is passed over.

    Args:
        folders: A study, a folder of studies, or several of these.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no row in any of them.
    """
    given = [folders] if isinstance(folders, (str, Path)) else list(folders)
    entries = [Entry(row, study) for folder in given for study in _studies(Path(folder)) for row in read_rows(study)]
    if not entries:
        named = ", ".join(map(str, given)) or "no folder"
        raise ValueError(f"There are no rows in {named}: run a sweep into it first, or give another folder.")
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
    home = Path(folder or results_home())
    inner = [each for each in home.glob("*/") if not each.name.startswith(".")]
    studies = {study for each in (home, *inner) if each.is_dir() for study in _studies(each)}
    studies = [study for study in studies if any(study.glob("*.mp4"))]
    return sorted(studies, key=lambda study: max(file.lstat().st_mtime for file in study.glob("*.json")))[-1:]


def _studies(folder: Path) -> list[Path]:
    """The folders with rows: this one and those in it, by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: run a sweep into it first.")
    inner = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [each for each in (folder, *inner) if any(each.glob("*.json"))]


def file_names(entries: Sequence[Entry]) -> list[str]:
    """A telling name for each clip, no two the same: its study, what varies, its key."""
    names = []
    for entry, label in zip(entries, row_labels([entry.row for entry in entries]), strict=True):
        words = re.sub(r"[^\w.+-]+", "-", f"{entry.folder.name}_{label}".replace(", ", "_")).strip(".-")[:100]
        names.append(f"{words}_{entry.row.key}.mp4")
    return [name if names.index(name) == place else f"{place}_{name}" for place, name in enumerate(names)]


def is_replaceable(folder: Path) -> bool:
    """Whether an export may be written there: nothing is there, or only files as `file_names` names them."""
    if not folder.is_dir():
        return not folder.exists()
    return all(re.fullmatch(r"rows\.csv|.+_[0-9a-f]{16}\.mp4", file.name) for file in folder.iterdir())
