"""A row: what was asked, on which machine, and what came of it.

A row is one JSON file beside its clip. The file holds the clip's bare name, so that folders can move, and the clip's
size and hash, so that an exchanged or cut video is not taken for it.
`Row.from_json` is the one reader: it checks every field, since folders of rows are passed around.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from svdlab.generation.clip import Clip, read
from svdlab.machine import Machine
from svdlab.quality.quality import Quality
from svdlab.request import Request, quiet_requests
from svdlab.rows.clip_file import clip_problem
from svdlab.rows.measurement import Measurement
from svdlab.rows.typed_json import from_plain, to_plain
from svdlab.setup import Setup


@dataclass(frozen=True)
class Row:
    """One trial on one machine: the question, then the answer or the reason that there is none.

    `run` and `profile` return rows, `read_rows` reads those of a folder; `open` gives the clip with its frames.

    Attributes:
        key: 16 hex digits, `row_key` of the question: the name of its files.
        setup: how the model ran, with dtype and commit filled in.
        request: what was asked, complete. An image without a name lies beside the rows as a PNG.
        status: "done" or "failed".
        error: why it failed, one sentence.
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

    def clip_problem(self, verify: bool = False) -> str | None:
        """Why the clip's file is not the one that the row was written with; None where it is, or there is none.

        Args:
            verify: compare the file's hash too, which reads all of it. The size and the beginning are always compared.
        """
        return self.clip and clip_problem(self.clip, self.clip_bytes, self.clip_sha256 if verify else None)

    def clip_file(self) -> Path | None:
        """The clip's path, where that is a regular file of the size and the kind that the row was written with."""
        return None if self.clip_problem() else self.clip

    def to_json(self) -> str:
        """The text of the row's file. A number that is not finite becomes null."""
        image = self.request.image if isinstance(self.request.image, str) else None
        request = {f.name: getattr(self.request, f.name) for f in dataclasses.fields(Request)} | {"image": image}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields |= {"request": request, "clip": self.clip and self.clip.name}
        return json.dumps(to_plain(fields), ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes | dict[str, Any], folder: str | Path = ".") -> Row:
        """The row that `to_json` wrote, in this version or another one.

        What it lacks keeps today's defaults, and fields that are not known are left out; but not those of the question,
        since without a part it would be another question.

        Args:
            text: the text of a row's file, or what `json.loads` makes of it.
            folder: where its clip and its picture lie.

        Raises:
            ValueError: it is no row, or its question has a part that only a newer svdlab knows.
        """
        try:
            fields = json.loads(text) if isinstance(text, (str, bytes)) else text
        except RecursionError:
            raise ValueError("it is nested too deeply for a row") from None
        if not isinstance(fields, dict) or not {"key", "setup", "request"} <= fields.keys():
            raise ValueError("it is no JSON object with a key, a setup and a request")
        fields = {"picture_sha256": fields.get("picture"), **fields}  # the name that older versions gave it
        for name, pattern in _PATTERNS.items():
            if not re.fullmatch(pattern, from_plain(str | None, fields.get(name), name) or ""):
                raise ValueError(f"{name} is not as svdlab writes it")
        fields["setup"] = from_plain(Setup, fields["setup"], "setup", refuse_unknown=True)
        fields["request"] = _request(fields["request"], Path(folder), fields["picture_sha256"])
        fields["clip"] = Path(folder) / fields["clip"] if fields.get("clip") else None
        return from_plain(cls, fields, "the row")


_PATTERNS = {  # what becomes part of a path, so nothing else is let through
    "key": "[0-9a-f]{16}",
    "picture_sha256": "([0-9a-f]{16,64})?",
    "clip": r"(\w[\w.-]{0,100}\.(mp4|gif|webp))?",
}


def _request(fields: Any, folder: Path, picture_sha256: str | None) -> Request:
    if not isinstance(fields, dict) or "image" not in fields:
        raise ValueError("request is not a group of fields with an image")
    image = from_plain(str | None, fields["image"], "request.image")
    if not (image or picture_sha256):
        raise ValueError("neither the request nor the row names an image")
    try:
        with quiet_requests():  # what a request warns of was said when it was made
            return Request.from_json(fields | {"image": image or str(folder / picture_name(picture_sha256 or ""))})
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"request has a field of another type ({type(error).__name__})") from None


def picture_name(sha256: str) -> str:
    """The file name, beside the rows, of a picture that had no name.

    Args:
        sha256: its hash, at least 16 hex digits.
    """
    return f"{sha256[:16]}.png"
