"""A star and a note beside a row, in a small file `<key>.note`.

They travel with the folder. A row itself is never changed by what somebody thinks of it, so a note has a file of its
own, and is read each time anew: another kernel may have written it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from svdlab.atomic_files import atomic_write


@dataclass(frozen=True)
class Note:
    """What somebody thought of a row: whether it is worth keeping, and any words."""

    star: bool = False
    text: str = ""


def read_note(folder: Path, key: str) -> Note:
    """The note as it is on disk now; an empty one where none can be read.

    Args:
        folder: where the row lies.
        key: of the row.
    """
    path = _path(folder, key)
    if path.is_symlink() or not path.is_file():  # a named pipe would be waited for
        return Note()
    try:
        fields = json.loads(path.read_bytes())
        fields["text"].encode()  # half a character, which no page could be written with
        return Note(bool(fields["star"]), fields["text"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Note()


def write_note(folder: Path, key: str, note: Note) -> None:
    """Write the note beside the row; an empty one leaves no file. Of several writers the last one wins.

    Args:
        folder: where the row lies.
        key: of the row.
        note: what to write.
    """
    if note == Note():
        _path(folder, key).unlink(missing_ok=True)
        return
    with atomic_write(_path(folder, key)) as scratch:
        scratch.write_text(json.dumps(dataclasses.asdict(note), ensure_ascii=False), encoding="utf-8")


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.note"
