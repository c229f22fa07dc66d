"""Which kind of video a file is, by its first bytes: its name may promise anything. And how fast one may play.

Rows and clips are passed around, so a file is decoded only if it begins like one of the kinds that svdlab writes.
"""

from __future__ import annotations

import re

MAX_FPS = 240  # of a file
BEGINNING_BYTES = 12  # that tell it
_BEGINNINGS = {"gif": rb"GIF8[79]a", "webp": rb"RIFF....WEBP", "png": rb"\x89PNG\r\n\x1a\n", "mp4": rb"....ftyp"}


def video_kind(beginning: bytes) -> str | None:
    """ "mp4" (MOV too), "gif", "webp" or "png"; None for all others."""
    # FFmpeg's own guess would take playlists too, which make it open other files.
    kinds = (kind for kind, sign in _BEGINNINGS.items() if re.match(sign, beginning, re.DOTALL))
    return next(kinds, None)
