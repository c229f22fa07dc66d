"""A row: what was asked, on which machine, and what came of it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.generation.clip import Clip, read
from svdlab.machine import Machine
from svdlab.request import Request
from svdlab.setup import Setup

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Row:
    """One trial on one machine: the question, then the answer or the reason that there is none. Missing is `None`."""

    key: str  # `row_key` of the question
    setup: Setup  # with dtype and commit filled in
    request: Request  # complete; a picture without a name lies beside the rows
    status: str = "done"  # or "failed"
    error: str | None = None  # why it failed, one sentence
    clip: Path | None = None  # the video, ready for `show`; the file holds its name only, so that folders can move
    timings: dict[str, float] = field(default_factory=dict)  # seconds, none of them part of another
    quality: dict[str, Any] | None = None
    measurement: dict[str, Any] | None = None  # memory and time, as `svdlab.measure` found them; `summary` reads it
    notes: tuple[str, ...] = ()  # what was noticed on the way
    axes: tuple[str, ...] = ()  # the fields that its sweep varied
    picture: str | None = None  # `images.digest` of what the model saw
    machine: Machine | None = None
    created: str = ""  # UTC, ISO 8601
    version: str | None = None  # of svdlab

    def open(self) -> Clip:
        """The clip, with its frames. A `ValueError` with the reason where there is none."""
        if self.clip is None:
            raise ValueError(f"There is no clip of trial {self.key}: {self.error or 'none was kept.'}")
        return read(self.clip)

    def to_json(self) -> str:
        """What the row's file holds. A number that is not finite becomes null, as JSON has no word for it."""
        fields = _fields(self) | {"clip": self.clip and self.clip.name}
        image = self.request.image if isinstance(self.request.image, str) else None
        fields["request"] = {"image": image} | _fields(self.request, "image")
        return json.dumps(_plain(fields), ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes | dict[str, Any], folder: str | Path = ".") -> Row:
        """The row that `to_json` wrote, now or in another version; what it lacks keeps today's defaults.

        `folder` is where its clip and its picture lie. A `ValueError` for anything that is no row, or whose question
        has a part that only a newer svdlab knows: without it, it would be another question.
        """
        given = _checked(json.loads(text) if isinstance(text, (str, bytes)) else text)
        fields: dict[str, Any] = {f.name: given[f.name] for f in dataclasses.fields(cls) if f.name in given}
        asked, clip, machine = dict(given["request"]), given.get("clip"), given.get("machine")
        if asked.get("image") is None:
            asked["image"] = str(Path(folder) / _picture_name(given.get("picture") or ""))
        fields["setup"], fields["request"] = Setup.from_json(given["setup"]), Request.from_json(asked)
        fields["clip"] = Path(folder) / Path(clip).name if clip else None
        fields["machine"] = machine and Machine(**{f.name: machine.get(f.name) for f in dataclasses.fields(Machine)})
        fields["notes"], fields["axes"] = tuple(given.get("notes") or ()), tuple(given.get("axes") or ())
        return cls(**fields)


def _fields(thing: Any, *left_out: str) -> dict[str, Any]:
    return {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.name not in left_out}


def _plain(value: Any) -> Any:
    """`value` in the words of JSON."""
    if isinstance(value, (Setup, Machine)):
        value = _fields(value)
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy's and torch's numbers and arrays
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _picture_name(digest: str) -> str:
    return f"{digest[:16]}.png"


def _checked(fields: Any) -> dict[str, Any]:
    kinds = {"key": str, "setup": dict, "request": dict}
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name), kind) for name, kind in kinds.items()):
        raise ValueError("expected a JSON object with a key, a setup and a request")
    return fields
