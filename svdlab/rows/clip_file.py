"""Whether a file is the clip that a row was written with.

Folders of rows are copied, merged and edited by hand, so that a video may be gone, empty, cut short or another one.
A clip is a regular file beside its row that begins like the video its name promises. A row also knows its clip's size
and SHA-256; rows of older versions do not, and then the beginning has to do.
"""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path

_BEGINNINGS = {".mp4": rb"....ftyp", ".gif": rb"GIF8[79]a", ".webp": rb"RIFF....WEBP"}


def clip_problem(path: Path, size: int | None = None, sha256: str | None = None) -> str | None:
    """Why a file cannot be taken for a clip: part of a sentence, or None where it can.

    Args:
        path: the file.
        size: bytes that it must have; None where nobody knows.
        sha256: hash that it must have, which reads all of it; None to leave that out.

    Example:
        >>> from pathlib import Path
        >>> clip_problem(Path("nothing.mp4"))
        'is gone'
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return "is no regular file"
        if status.st_size == 0:
            return "is empty"
        if size is not None and status.st_size != size:
            return f"has {status.st_size} bytes and not the {size} of the clip that the row was written with"
        with path.open("rb") as file:
            if not re.match(_BEGINNINGS.get(path.suffix, rb"(?!)"), file.read(16), re.DOTALL):
                return f"is no {path.suffix.lstrip('.').upper()} video"
        if sha256 is not None and file_sha256(path) != sha256:
            return "is another clip than the row was written with"
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits.

    Args:
        path: the file, which is read into memory.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()
