"""The words for rows: which settings vary, and short labels that tell rows apart.

Rows of one sweep share most of their settings. A *knob* is a field of setup or request in which they differ; "setup"
itself is one too, labelled by `Setup.label`. Everything that shows rows (wall, review, report, panel) takes its words
from here, so that two things that differ never carry the same label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from svdlab.media.images import image_sha256
from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.setup import Setup

_FIELDS = {kind: [field.name for field in dataclasses.fields(kind)] for kind in (Setup, Request)}
_PATHS = ("image", "weights")  # fields that name files


def text_of(value: Any) -> str:
    """A value as a table shows it: floats with four digits, missing as nothing.

    Args:
        value: A field of a row, or a measure.

    Example:
        >>> text_of(0.123456), text_of((1, 2.5)), text_of(None)
        ('0.1235', '1, 2.5', '')
    """
    if isinstance(value, tuple):
        return ", ".join(map(text_of, value))
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def distinct_texts(values: Iterable[Any]) -> dict[Any, str]:
    """A short text for each value, no two the same.

    Args:
        values: Anything hashable. Texts count as paths and are told by their ends, floats by their first digits.

    Returns:
        The values without repeats, in their order, and their texts.

    Example:
        >>> list(distinct_texts(["a/cat.png", "b/cat.png", "a/cat.png"]).values())
        ['a/cat.png', 'b/cat.png']
        >>> list(distinct_texts([0.02, 0.12345, 0.12346]).values())
        ['0.02', '0.12345', '0.12346']
    """
    different = list(dict.fromkeys(values))
    texts: list[str] = []
    for depth in range(1, 14):  # as far as it takes: one folder more, one digit more
        texts = [_short(value, depth) for value in different]
        if len(set(texts)) == len(texts):
            break
    else:
        texts = [
            f"{text} ({texts[:i].count(text) + 1})" if texts.count(text) > 1 else text for i, text in enumerate(texts)
        ]
    return dict(zip(different, texts, strict=True))


def _short(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return "/".join(Path(value).parts[-depth:])[-80:]
    return f"{value:.{depth + 3}g}" if isinstance(value, float) else text_of(value)


def settings(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Every field of the rows' setups and requests.

    Args:
        rows: Any rows.

    Returns:
        The field's name, and a value for each row. Images and weights are told by the ends of their paths, as far as it
        takes to tell them apart.

    Example:
        >>> settings(rows)["motion_bucket_id"]
        [30, 220]
    """
    columns: dict[str, list[Any]] = {}
    for part, names in (("setup", _FIELDS[Setup]), ("request", _FIELDS[Request])):
        for name in names:
            values = [getattr(getattr(row, part), name) for row in rows]
            if name in _PATHS:
                paths = [_path_text(value) for value in values]
                texts = distinct_texts(paths)
                values = [texts[path] for path in paths]
            columns[name] = values
    return columns


def _path_text(value: Any) -> str:
    if isinstance(value, str):
        return "picture" if value.startswith("data:") else value
    return f"picture {image_sha256(value)[:6]}"


def knobs(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The fields in which rows differ.

    Args:
        rows: Any rows.

    Returns:
        The field's name, and a value for each row: the axes of their sweeps first. Where "setup" is such an axis, its
        labels stand for the fields of the setups. The seed, where nothing differs.

    Example:
        >>> knobs(rows)
        {'motion_bucket_id': [30, 220]}
    """
    columns = settings(rows)
    if any("setup" in row.axes for row in rows):
        columns = {"setup": setup_labels(rows)} | {name: columns[name] for name in _FIELDS[Request]}
    differing = [name for name, values in columns.items() if any(value != values[0] for value in values)]
    axes = [axis for row in rows for axis in row.axes if axis in differing]
    return {name: columns[name] for name in dict.fromkeys([*axes, *differing]) or ("seed",)}


def setup_labels(rows: Sequence[Row]) -> list[str]:
    """One label for each row's setup: `Setup.label`, and where two setups share it, what else differs.

    Args:
        rows: Any rows.

    Returns:
        A label a row; equal for equal setups, different for different ones.

    Example:
        >>> setup_labels(rows)
        ['fp32', 'fp32']
    """
    different = list(dict.fromkeys(row.setup for row in rows))
    texts = dict(zip(different, (setup.label for setup in different), strict=True))
    for label in set(texts.values()):
        alike = [setup for setup in different if texts[setup] == label]
        for name in ("variant", "weights", "revision", "device"):
            values = distinct_texts(str(getattr(setup, name)) for setup in alike)
            if len(values) > 1:
                texts |= {setup: f"{texts[setup]}, {values[str(getattr(setup, name))]}" for setup in alike}
    return [texts[row.setup] for row in rows]


def row_labels(rows: Sequence[Row]) -> list[str]:
    """One label for each row: the fields in which the rows differ; for a single row, bucket and seed.

    Args:
        rows: Any rows.

    Returns:
        A label a row, no two the same.

    Example:
        >>> row_labels(rows)
        ['motion_bucket_id 30', 'motion_bucket_id 220']
        >>> row_labels(rows[:1])
        ['motion_bucket_id 30, seed 0']
    """
    columns, setups = settings(rows), setup_labels(rows)
    of_request = [name for name in _FIELDS[Request] if name not in _FIELDS[Setup] and len(set(columns[name])) > 1]
    several_setups = len(set(setups)) > 1
    names = of_request or ([] if several_setups else ["motion_bucket_id", "seed"])
    texts = {name: distinct_texts(columns[name]) for name in names}
    labels = [
        ", ".join(
            [*([setup] if several_setups else []), *(f"{name} {texts[name][columns[name][i]]}" for name in names)]
        )
        for i, setup in enumerate(setups)
    ]
    repeats = [labels[: i + 1].count(label) for i, label in enumerate(labels)]
    return [label if n == 1 else f"{label} ({n})" for label, n in zip(labels, repeats, strict=True)]
