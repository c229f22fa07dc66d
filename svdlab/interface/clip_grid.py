"""A wall of clips: one knob across, another down, all playing in step. Inline, or as one video to send to somebody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from svdlab.media import video
from svdlab.media.show import Shown, show
from svdlab.media.video import write_video
from svdlab.rows.row import Row

INK, PAPER, EMPTY = (30, 30, 30), (255, 255, 255), (225, 225, 225)
CELL = 256  # pixels of a clip's width in the video, unless the wall would be wider than
WIDEST = 3840  # which 4K screens and H.264 decoders take


def wall(rows: Iterable[Row], across: str, down: str | None = None, width: int | None = None) -> Shown:
    """The clips of `rows` inline, in a grid with one bar of controls: `across` grows to the right, `down` downwards.

    Of several rows for one place the first is shown. A place without a clip is grey, and says why.
    """
    table, columns, lines = _places(rows, across, down)
    labelled: dict[str, Any] = {}
    for line in lines:
        for column in columns:
            row = table.get((column, line))
            label = f"{across} {_text(column)}" + (f", {down} {_text(line)}" if down else "")
            labelled[label] = row.clip if row is not None and row.clip else _empty(row, (128, 72))
    return show(labelled, columns=len(columns), width=width, fps=_fps(table.values()))


def save_wall(
    rows: Iterable[Row], path: str | Path, across: str, down: str | None = None, fps: float | None = None
) -> Path:
    """The same wall as one MP4 (or GIF), names and values of both knobs written along its edges."""
    video.check_path(path)
    table, columns, lines = _places(rows, across, down)
    clips = {place: row.open().frames for place, row in table.items() if row.clip}
    if not clips:
        raise ValueError("None of these rows has a clip: there is nothing to put on a wall.")
    wide, high = next(iter(clips.values()))[0].size
    side = min(CELL, (WIDEST - 80) // len(columns)) // 2 * 2
    cell = (side, round(side * high / wide / 2) * 2)
    letters = max(11, cell[0] // 16)  # pixels high
    font = ImageFont.load_default(size=letters)
    gap, head = 4, round(letters * 1.8)
    left = 8 + max(round(font.getlength(text)) for text in (down, *map(_text, lines))) if down else 0
    size = (left + len(columns) * (cell[0] + gap), 2 * head + len(lines) * (cell[1] + gap))
    page = Image.new("RGB", (size[0] + size[0] % 2, size[1] + size[1] % 2), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((left + (size[0] - left) / 2, head / 2), across, INK, font, anchor="mm")
    if down:
        draw.text((4, head * 1.5), down, INK, font, anchor="lm")
    for i, column in enumerate(columns):
        draw.text((left + i * (cell[0] + gap) + cell[0] / 2, head * 1.5), _text(column), INK, font, anchor="mm")
    for j, line in enumerate(lines):
        if down:
            draw.text((4, 2 * head + j * (cell[1] + gap) + cell[1] / 2), _text(line), INK, font, anchor="lm")
    corners = {
        (column, line): (left + i * (cell[0] + gap), 2 * head + j * (cell[1] + gap))
        for i, column in enumerate(columns)
        for j, line in enumerate(lines)
    }
    for place in corners.keys() - clips.keys():
        page.paste(_empty(table.get(place), cell), corners[place])
    frames = []
    for moment in range(max(map(len, clips.values()))):
        frame = page.copy()
        for place, shots in clips.items():
            shot = shots[min(moment, len(shots) - 1)]
            frame.paste(shot.resize(cell, Image.Resampling.LANCZOS), corners[place])
        frames.append(frame)
    return write_video(path, frames, fps or _fps(table.values()) or 7)


def _places(
    rows: Iterable[Row], across: str, down: str | None
) -> tuple[dict[tuple[Any, Any], Row], list[Any], list[Any]]:
    """Which row hangs where, and the values along both edges, sorted where they can be."""
    table: dict[tuple[Any, Any], Row] = {}
    for row in rows:
        place = (_value(row, across), _value(row, down) if down else None)
        if place not in table or (table[place].clip is None and row.clip is not None):
            table[place] = row
    if not table:
        raise ValueError("There are no rows to put on a wall: run a sweep first.")
    return table, _ordered({column for column, _ in table}), _ordered({line for _, line in table})


def _value(row: Row, name: str) -> Any:
    for thing in (row.request, row.setup):
        if hasattr(thing, name):
            value = getattr(thing, name)
            return value if isinstance(value, (int, float, str, tuple, type(None))) else "picture"
    raise ValueError(f"Rows have no {name!r}: expected a field of a request or a setup, such as motion_bucket_id.")


def _ordered(values: set[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # None beside numbers
        return sorted(values, key=str)


def _text(value: Any) -> str:
    return (
        f"{value:g}"
        if isinstance(value, float)
        else ""
        if value is None
        else Path(value).name
        if isinstance(value, str)
        else str(value)
    )


def _fps(rows: Iterable[Row]) -> float | None:
    """The playback speed that the clips share; walls over `fps` play all at the slowest."""
    return min((row.request.fps for row in rows), default=None)


def _empty(row: Row | None, size: Sequence[int]) -> Image.Image:
    picture = Image.new("RGB", (size[0], size[1]), EMPTY)
    reason = "not made" if row is None else row.error or "no clip"
    font = ImageFont.load_default(size=10)
    words, text = reason.split(), ""
    for word in words:  # wrapped to the cell
        text += ("\n" if font.getlength(text.rsplit("\n", 1)[-1] + " " + word) > size[0] - 8 else " ") + word
    ImageDraw.Draw(picture).multiline_text((4, 4), text.strip(), INK, font)
    return picture
