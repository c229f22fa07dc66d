"""Folders of rows as a person keeps them: studies, their clips, and what somebody noted about each.

A *study* is a folder that a sweep wrote. A star and a note are a small file beside the row, `<key>.note`: they travel
with the folder, and no row is touched.
Folders are passed around, so a clip is shown or copied only where it is the file that the row was written with.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from svdlab.atomic_files import atomic_write
from svdlab.headless.run_notebooks import results_folder
from svdlab.interface.row_labels import knobs, text_of
from svdlab.rows.row import Row
from svdlab.rows.row_files import read_rows


def studies(folder: str | Path) -> list[Path]:
    """The studies in a folder: itself and the folders in it, those that hold rows, by name.

    Args:
        folder: Where to look, one level deep.

    Raises:
        FileNotFoundError: There is no such folder.

    Example:
        >>> [study.name for study in studies("results")]
        ['ladder', 'motion']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: run a sweep into it first.")
    inner = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [each for each in (folder, *inner) if any(each.glob("*.json"))]


def newest(folder: str | Path = "") -> list[Path]:
    """The study with clips that was written to last.

    Args:
        folder: Where to look, one level deep. Left out, it is `results/`.

    Returns:
        One folder in a list, ready for `review`; an empty list where there is none.

    Example:
        >>> from svdlab import newest
        >>> newest("results")[0].name
        'motion'
    """
    with_clips = [each for each in studies(folder or results_folder("", "")) if any(each.glob("*.mp4"))]
    return sorted(with_clips, key=lambda each: max(file.stat().st_mtime for file in each.glob("*.json")))[-1:]


@dataclass(frozen=True)
class Note:
    """What somebody thought of a row.

    Attributes:
        star: Whether it is worth keeping.
        text: Any words.
    """

    star: bool = False
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """A row of a study, with the files that lie beside it.

    Attributes:
        row: The row.
        folder: Where it lies.
    """

    row: Row
    folder: Path

    @property
    def note(self) -> Note:
        """The note as it is on disk now; an empty one where there is none, or none that can be read."""
        try:
            fields = json.loads(self._note_path.read_bytes())
            return Note(bool(fields["star"]), str(fields["text"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return Note()

    def write_note(self, note: Note) -> None:
        """Write the note beside the row; an empty one leaves no file. Of several writers the last one wins.

        Args:
            note: What takes the place of the note that is there.
        """
        if note == Note():
            self._note_path.unlink(missing_ok=True)
            return
        with atomic_write(self._note_path) as scratch:
            scratch.write_text(json.dumps(dataclasses.asdict(note), ensure_ascii=False), encoding="utf-8")

    @property
    def _note_path(self) -> Path:
        return self.folder / f"{self.row.key}.note"

    @property
    def clip(self) -> Path | None:
        """The row's video, where it may be shown: see `why_no_clip`."""
        return self.row.clip_file()


def read_entries(folders: str | Path | Iterable[str | Path]) -> list[Entry]:
    """The rows of studies, each with its folder. A warning names each file that is passed over.

    Args:
        folders: A study, a folder of studies, or several of these.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no row in any of them.

    Example:
        >>> len(read_entries("results/motion"))
        2
    """
    given = [folders] if isinstance(folders, (str, Path)) else list(folders)
    entries = [Entry(row, study) for folder in given for study in studies(folder) for row in read_rows(study)]
    if not entries:
        named = ", ".join(map(str, given)) or "no folder"
        raise ValueError(f"There are no rows in {named}: run a sweep into it first, or give another folder.")
    return entries


def why_no_clip(row: Row) -> str:
    """Why a row has no video to show, embed or copy.

    A file that is not the row's own clip counts as none. A link is refused too, since it may lead to any file of the
    reader's.

    Args:
        row: Any row.

    Returns:
        A clause; "" where there is a video.

    Example:
        >>> why_no_clip(rows[0])
        ''
    """
    if row.clip is None:
        return row.error or "no clip was kept"
    problem = row.clip_problem()
    return f"the clip {problem}" if problem else ""


def file_names(entries: Sequence[Entry], among: Sequence[Entry]) -> list[str]:
    """A telling name for each clip: its study, what varies, its key.

    Args:
        entries: The clips to name.
        among: All that they were chosen from, which decides what varies.

    Returns:
        Names that end in `.mp4`, no two the same, without a folder.
    """
    varied, place = knobs([entry.row for entry in among]), {id(entry): i for i, entry in enumerate(among)}
    names = []
    for entry in entries:
        words = [entry.folder.name, *(f"{knob}-{text_of(values[place[id(entry)]])}" for knob, values in varied.items())]
        plain = re.sub(r"[^\w.+-]+", "-", "_".join(words)).strip(".-")[:100]
        names.append(f"{plain}_{entry.row.key}.mp4")
    return [name if names.index(name) == i else f"{i}_{name}" for i, name in enumerate(names)]


def is_replaceable(folder: Path) -> bool:
    """Whether an export may be written there: nothing is there, or only what an export or a report left.

    Args:
        folder: The folder to be written.
    """
    if not folder.is_dir():
        return not folder.exists()
    return all(file.suffix == ".mp4" or file.name == "rows.csv" for file in folder.iterdir())
