"""A row: what was asked, on which machine, and what came of it.

A row is one JSON file beside its clip. The file holds the clip's bare name, so that folders can move, and the clip's
size and hash, so that an exchanged or cut video is not taken for it.
`Row.from_json` checks every field, since folders of rows are copied, merged and edited by hand.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from svdlab.generation.clip import Clip, read
from svdlab.machine import Machine
from svdlab.media.video_kinds import BEGINNING_BYTES, video_kind
from svdlab.quality.quality import Quality
from svdlab.request import Request, quiet_requests
from svdlab.rows.measurement import Measurement
from svdlab.rows.typed_json import fields_of, from_plain, to_plain
from svdlab.setup import Setup

_PATTERNS = {  # of what becomes part of a path
    "key": "[0-9a-f]{16}",
    "picture_sha256": "([0-9a-f]{16,64})?",
    "clip": r"(\w[\w.-]{0,100}\.(mp4|gif|webp))?",
}


@dataclass(frozen=True)
class Row:
    """One trial on one machine: the question, then the answer or the reason that there is none.

    `run` and `profile` return rows, `read_rows` reads those of a folder; `open` gives the clip with its frames.

    Attributes:
        key: 16 hex digits, a hash of setup, request and picture: the name of its files.
        setup: how the model ran, with dtype and commit filled in.
        request: what was asked, complete. An image without a name lies beside the rows as a PNG.
        status: "done" or "failed".
        error: why it failed, one sentence.
        temporary: the failure was the machine's (no network, a card that others filled), and the next run tries again.
        clip: the path of the video, ready for `show`. None where none was kept.
        clip_bytes: size of that file. None in rows of older versions.
        clip_sha256: hash of that file, 64 hex digits. None in rows of older versions.
        timings: seconds by name, none of them part of another: `sample_seconds` (encoding and denoising),
            `decode_seconds`, `quality_seconds`, `save_seconds`.
        quality: the clip in numbers. None where it was not measured.
        measurement: memory and time, where the setup was measured (`measure`, `profile`).
        notes: what was noticed on the way, a sentence each.
        axes: the fields that its sweep varied.
        picture_sha256: hash of the picture that the model saw.
        machine: where it ran.
        created: when, UTC in ISO 8601.
        version: of svdlab.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`, of two frames a clip:
        >>> rows[0].status, rows[0].request.motion_bucket_id
        ('done', 30)
        >>> len(rows[0].open().frames)
        2
    """

    key: str
    setup: Setup
    request: Request
    status: Literal["done", "failed"] = "done"
    error: str | None = None
    temporary: bool = False
    clip: Path | None = None
    clip_bytes: int | None = None
    clip_sha256: str | None = None
    timings: dict[str, float] = field(default_factory=dict)
    quality: Quality | None = None
    measurement: Measurement | None = None
    notes: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    picture_sha256: str | None = None
    machine: Machine | None = None
    created: str = ""
    version: str | None = None

    def open(self) -> Clip:
        """The clip, with its frames.

        Raises:
            ValueError: there is none; the sentence says why.
        """
        if self.clip is None:
            raise ValueError(f"There is no clip of trial {self.key}: {self.error or 'none was kept.'}")
        if problem := self.clip_problem():
            raise ValueError(f"There is no clip of trial {self.key}: {self.clip} {problem}.")
        return read(self.clip)

    def is_final(self, retry_failed: bool = False) -> bool:
        """Whether the next run leaves the row as it is: it is done, or its failure is an answer to its question.

        Args:
            retry_failed: such failures are tried again too.
        """
        return self.status == "done" or not (retry_failed or self.temporary)

    def clip_problem(self, verify: bool = False) -> str | None:
        """Why the clip's file is not the one that the row was written with; None where it is, or there is none.

        It has to be a regular file of `clip_bytes` bytes, and its first bytes have to fit its suffix.

        Args:
            verify: compare the file's hash too, which reads all of it.
        """
        if self.clip is None:
            return None
        try:
            status = self.clip.lstat()
            if not stat.S_ISREG(status.st_mode):
                return "is no regular file"
            if self.clip_bytes not in (None, status.st_size):
                return f"has {status.st_size} bytes and not the {self.clip_bytes} of the clip that was written"
            with self.clip.open("rb") as file:
                if f".{video_kind(file.read(BEGINNING_BYTES))}" != self.clip.suffix:
                    return f"is no {self.clip.suffix.lstrip('.').upper()} video"
            if verify and self.clip_sha256 not in (None, hashlib.sha256(self.clip.read_bytes()).hexdigest()):
                return "is another clip than the row was written with"
        except FileNotFoundError:
            return "is gone"
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return None

    def clip_file(self) -> Path | None:
        """The clip's path if its file is the one that was written, else None."""
        return None if self.clip_problem() else self.clip

    def to_json(self) -> str:
        """The text of the row's file. Numbers that are not finite, and a picture beside the rows, become null."""
        image, beside = self.request.image, self.clip and self.clip.with_name(picture_name(self.picture_sha256 or ""))
        image = image if isinstance(image, str) and image != str(beside) else None
        fields = fields_of(self) | {"request": fields_of(self.request) | {"image": image}}
        fields["clip"] = self.clip and self.clip.name
        return json.dumps(to_plain(fields), ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, folder: Path) -> Row:
        """The row that `to_json` wrote, in this version or another one.

        What it lacks keeps today's defaults, and unknown fields are left out. An unknown field of the setup or the
        request is an error, since without it the row would answer another question.

        Args:
            text: of a row's file.
            folder: where its clip and its picture lie.

        Raises:
            ValueError: it is no row, or its question has a part that only a newer svdlab knows.
        """
        try:
            fields = json.loads(text)
            fields["picture_sha256"] = fields.get("picture_sha256", fields.get("picture"))  # as older versions named it
            for name, pattern in _PATTERNS.items():
                if not re.fullmatch(pattern, from_plain(str | None, fields.get(name), name) or ""):
                    raise ValueError(f"{name} is not as svdlab writes it")
            fields["clip"] = folder / fields["clip"] if fields.get("clip") else None
            from_plain(Setup, fields["setup"], "setup")  # checks types, where `Setup.from_json` checks names and values
            fields["setup"] = Setup.from_json(fields["setup"])
            image = from_plain(str | None, fields["request"]["image"], "request.image")
            image = image or str(folder / picture_name(fields["picture_sha256"]))
            with quiet_requests():  # the warnings came when the request was made
                fields["request"] = Request.from_json(fields["request"] | {"image": image})
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"it is no row, or a part of it has another type ({type(error).__name__})") from None
        return from_plain(cls, fields, "the row")


def picture_name(sha256: str) -> str:
    """The file name, beside the rows, of a picture that had no name."""
    return f"{sha256[:16]}.png"


def preview_name(key: str) -> str:
    """The file name, beside the rows, of a clip in small.

    Args:
        key: of its row.
    """
    return f"{key}.preview.webp"
