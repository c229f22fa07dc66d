"""A wall of clips: one knob across, another down, all playing in step. Inline, or as one video to send to somebody.

A wall has a place for every pair of values. A place without a clip is grey and says why. The video is composed with one
frame of each clip in memory, so that a wall may hold a hundred of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from svdlab.interface.row_labels import distinct_texts, settings, setup_labels
from svdlab.interface.study_folder import why_no_clip
from svdlab.media.preview import Preview
from svdlab.media.read_video import iterate_frames
from svdlab.media.show import Shown, show
from svdlab.media.write_video import write_video
from svdlab.messages import did_you_mean
from svdlab.rows.row import Row
from svdlab.rows.row_preview import read_preview

_INK, _PAPER, _EMPTY = (30, 30, 30), (255, 255, 255), (225, 225, 225)
_CELL = 256  # pixels of a clip's width in the video and of its labels, unless a side of the wall would be longer than
_LONGEST = 3840  # which 4K screens and H.264 decoders take
_LETTERS, _GAP, _MARGIN = 11, 4, 8  # pixels: the smallest letters, between clips, and beside the labels


@dataclass(frozen=True)
class _Layout:
    """Which row hangs where: a place is the label of a column and the label of a line. Of no knob the label is ""."""

    across: str
    down: str
    columns: list[str]
    lines: list[str]
    rows: dict[tuple[str, str], Row]
    fps: float  # the slowest of the clips: they share one clock


def wall(rows: Iterable[Row], across: str, down: str | None = None, width: int | None = None) -> Shown:
    """The clips of rows in small, in a grid that plays in step, under one bar of controls.

    Along both edges numbers are sorted; words keep the order in which the rows have them. Where several rows have the
    same two values, the first with a clip is shown. A cell without a clip is grey and says why. `show(row.open())`
    plays one clip at its full size.

    Args:
        rows: As `run` or `read_rows` returned them.
        across: The knob that grows to the right: a field of `Request` or `Setup`, or "setup" for whole setups. "" is
            for a single column.
        down: The knob that grows downwards. Left out, there is a single line.
        width: Of each clip on the page, in pixels. Left out, the grid fills a notebook's width.

    Returns:
        A `Shown`, as from `show`: it displays as the last line of a cell. `save_wall` writes a video instead.

    Raises:
        ValueError: There are no rows, or a knob is no field of theirs.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import wall
        >>> wall(rows, across="motion_bucket_id").labels
        ['motion_bucket_id 30', 'motion_bucket_id 220']
    """
    layout = _arrange(rows, across, down)
    cells: dict[str, Any] = {}
    first = next(iter(layout.rows.values())).request
    for column, line in ((column, line) for line in layout.lines for column in layout.columns):
        row = layout.rows.get((column, line))
        label = ", ".join(f"{knob} {text}" for knob, text in ((layout.across, column), (layout.down, line)) if knob)
        cells[label] = (row and _preview(row)) or _empty_cell(row, (256, round(256 * first.height / first.width)))
    return show(cells, columns=len(layout.columns), width=width, fps=layout.fps)


def save_wall(
    rows: Iterable[Row], path: str | Path, across: str, down: str | None = None, fps: float | None = None
) -> Path:
    """Write the wall as one video, with the names and values of both knobs along its edges; the path comes back.

    Args:
        rows: What to hang.
        path: A name that ends in `.mp4`, `.gif` or `.webp`.
        across: As in `wall`.
        down: As in `wall`.
        fps: Playback speed, frames a second. Left out, it is the slowest `fps` of the rows.

    Raises:
        ValueError: There is no clip, or too many; a knob is no field of the rows; or the path has another ending.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import save_wall
        >>> save_wall(rows, "wall.mp4", across="motion_bucket_id").name
        'wall.mp4'
    """
    layout = _arrange(rows, across, down)
    if not any(row.clip_file() for row in layout.rows.values()):
        raise ValueError("None of these rows has a clip: there is nothing to put on a wall.")
    return write_video(path, _frames(layout), fps or layout.fps)


def _preview(row: Row) -> Preview | None:
    data, r = read_preview(row), row.request
    return Preview(data, r.width, r.height, r.fps, r.num_frames) if data else None


def _arrange(rows: Iterable[Row], across: str, down: str | None) -> _Layout:
    rows = list(rows)
    if not rows:
        raise ValueError("There are no rows to put on a wall: run a sweep first.")
    (columns, column_of), (lines, line_of) = _edge(rows, across), _edge(rows, down or "")
    places: dict[tuple[str, str], Row] = {}
    for place, row in zip(zip(column_of, line_of, strict=True), rows, strict=True):
        if place not in places or (row.clip_file() and not places[place].clip_file()):
            places[place] = row
    return _Layout(across, down or "", columns, lines, places, min(row.request.fps for row in places.values()))


def _edge(rows: Sequence[Row], knob: str) -> tuple[list[str], list[str]]:
    """The labels along one edge, numbers sorted and all else in the order of the rows; and the label of each row."""
    columns = {"": [""] * len(rows), "setup": setup_labels(rows), **settings(rows)}
    if knob not in columns:
        hint = did_you_mean(knob, columns) or ": expected a field of a request or a setup, such as motion_bucket_id"
        raise ValueError(f"Rows have no {knob!r}{hint}.")
    texts = distinct_texts(columns[knob])
    if all(isinstance(value, (int, float)) for value in texts):
        texts = dict(sorted(texts.items()))
    return list(texts.values()), [texts[value] for value in columns[knob]]


def _frames(layout: _Layout) -> Iterator[Image.Image]:
    """The video, frame by frame; a clip of another shape than the first has bars, one that ends early stands still."""
    first, sizes = next(iter(layout.rows.values())).request, (len(layout.columns), len(layout.lines))
    across, down = ((_LONGEST - _CELL - _MARGIN) // size - _GAP for size in sizes)
    width = min(_CELL, across, down * first.width // first.height)
    cell = (width, round(width * first.height / first.width))
    page, corners = _page(layout, cell)
    streams = {place: iterate_frames(clip) for place, row in layout.rows.items() if (clip := row.clip_file())}
    while streams:
        for place, stream in list(streams.items()):
            try:
                page.paste(ImageOps.pad(next(stream), cell, Image.Resampling.LANCZOS, _EMPTY), corners[place])
            except (StopIteration, ValueError):  # at its end, or cut short
                del streams[place]
        if streams:
            yield page.copy()


def _page(layout: _Layout, cell: tuple[int, int]) -> tuple[Image.Image, dict[tuple[str, str], tuple[int, int]]]:
    """The wall with its labels and without its clips, and the upper left corner of each place."""
    letters = max(_LETTERS, cell[0] // 16)  # pixels high
    font, head, pitch = ImageFont.load_default(size=letters), round(letters * 1.8), letters + 4
    heads = {column: _wrap(column, font, cell[0]) for column in layout.columns}
    sides = {line: _wrap(line, font, _CELL) for line in layout.lines}
    texts = "\n".join((layout.down, *sides.values())).split("\n")
    left = _MARGIN + round(max(map(font.getlength, texts))) if layout.down else 0
    top = 2 * head + pitch * max(text.count("\n") for text in heads.values())
    height = max(cell[1], pitch * max(text.count("\n") + 1 for text in sides.values()))  # of a line, for its label too
    xs = {column: left + i * (cell[0] + _GAP) for i, column in enumerate(heads)}
    ys = {line: top + i * (height + _GAP) + (height - cell[1]) // 2 for i, line in enumerate(sides)}
    right, bottom = left + len(xs) * (cell[0] + _GAP), top + len(ys) * (height + _GAP)
    middle = (left + right) / 2
    width = max(right, round(middle + font.getlength(layout.across) / 2) + _GAP)
    if min(cell) < _LETTERS or max(width, bottom) > _LONGEST:
        raise ValueError(f"A wall of {len(xs)} x {len(ys)} clips leaves too few pixels for each: hang fewer rows.")
    page = Image.new("RGB", (width + width % 2, bottom + bottom % 2), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((middle, head / 2), layout.across, _INK, font, anchor="mm")
    draw.text((_GAP, top - head / 2), layout.down, _INK, font, anchor="lm")
    for column, text in heads.items():
        y = top - (head + pitch * text.count("\n")) / 2
        draw.text((xs[column] + cell[0] / 2, y), text, _INK, font, anchor="mm", align="center")
    for line, text in sides.items():
        draw.text((_GAP, ys[line] + cell[1] / 2), text, _INK, font, anchor="lm")
    corners = {(column, line): (x, y) for column, x in xs.items() for line, y in ys.items()}
    for place, corner in corners.items():
        page.paste(_empty_cell(layout.rows.get(place), cell), corner)
    return page, corners


def _empty_cell(row: Row | None, size: tuple[int, int]) -> Image.Image:
    """A grey picture with the reason why there is no clip."""
    picture, font = Image.new("RGB", size, _EMPTY), ImageFont.load_default(size=13)
    reason = _wrap("not made" if row is None else why_no_clip(row), font, size[0] - 16)
    ImageDraw.Draw(picture).text((8, 6), reason, _INK, font)
    return picture


def _wrap(text: str, font: Any, width: int) -> str:
    """The text on as many lines as keep it within a width in pixels."""
    text = " ".join(text.split())
    average = (font.getlength(text) or 1) / max(len(text), 1)
    for letters in range(int(width / average), 0, -1):
        lines = textwrap.wrap(text, letters, break_on_hyphens=False)
        if all(font.getlength(line) <= width for line in lines):
            return "\n".join(lines)
    return text
