"""The words for rows: which settings vary, and short labels that tell rows apart.

Rows of one sweep share most of their settings. A *knob* is a field of a request in which they differ, or "setup" where
their setups do, labelled by `Setup.label`. Everything that shows rows (wall, review, report, panel) takes its words
from here, so that two things that differ never carry the same label.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from svdlab.media.images import image_sha256
from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.setup import Setup


def text_of(value: Any, digits: int = 4) -> str:
    """A value as a table shows it.

    Args:
        value: A field of a row, or a measure. Missing is "".
        digits: Of a float.
    """
    if isinstance(value, tuple):
        return ", ".join(text_of(each, digits) for each in value)
    return "" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def distinct_texts(values: Iterable[Any]) -> dict[Any, str]:
    """The different values in their order, each with a short text that no other has.

    Args:
        values: Anything hashable. Of a path its end is shown, of a float its first digits: one more until all differ.

    Example:
        >>> distinct_texts(["a/cat.png", "b/cat.png", "a/cat.png"])
        {'a/cat.png': 'a/cat.png', 'b/cat.png': 'b/cat.png'}
    """
    different, texts = list(dict.fromkeys(values)), []
    for more in range(14):
        texts = [
            "/".join(Path(value).parts[-more - 1 :])[-80:] if isinstance(value, str) else text_of(value, 4 + more)
            for value in different
        ]
        if len(set(texts)) == len(texts):
            break
    return dict(zip(different, _numbered(texts), strict=True))


def settings(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Every field of the rows' setups and requests: its name, and a value for each row.

    Args:
        rows: Any rows. Their images and weights are told by the ends of their paths.
    """
    columns: dict[str, list[Any]] = {}
    for part, kind in (("setup", Setup), ("request", Request)):
        for name in (field.name for field in dataclasses.fields(kind)):
            columns[name] = [getattr(getattr(row, part), name) for row in rows]
    for name in ("image", "weights"):
        paths = [value if isinstance(value, str) else f"picture {image_sha256(value)[:6]}" for value in columns[name]]
        texts = distinct_texts(paths)
        columns[name] = [texts[path] for path in paths]
    return columns


def setup_labels(rows: Sequence[Row]) -> list[str]:
    """One label for each row's setup: `Setup.label`, and where two setups share it, what else differs.

    Args:
        rows: Any rows.
    """
    labels, columns = [row.setup.label for row in rows], settings(rows)
    if len(set(labels)) < len({row.setup for row in rows}):
        others = [name for name in ("variant", "weights", "revision", "device") if len(set(columns[name])) > 1]
        return [", ".join([label, *(str(columns[name][i]) for name in others)]) for i, label in enumerate(labels)]
    return labels


def knobs(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The fields in which rows differ, the axes of their sweeps first: the name, and a value for each row.

    Args:
        rows: Any rows. Where nothing differs, the knob is the seed.

    Example:
        >>> knobs(rows)
        {'motion_bucket_id': [30, 220]}
    """
    of_request = [field.name for field in dataclasses.fields(Request) if field.name != "variant"]
    columns = {name: values for name, values in settings(rows).items() if name in of_request}
    columns = {"setup": setup_labels(rows), **columns}
    differing = [name for name, values in columns.items() if len(set(values)) > 1]
    axes = [axis for row in rows for axis in row.axes if axis in differing]
    return {name: columns[name] for name in dict.fromkeys([*axes, *differing]) or ("seed",)}


def row_labels(rows: Sequence[Row]) -> list[str]:
    """One label for each row: the knobs in which the rows differ; for a single row, bucket and seed.

    Args:
        rows: Any rows. No two get the same label.

    Example:
        >>> row_labels(rows)
        ['motion_bucket_id 30', 'motion_bucket_id 220']
        >>> row_labels(rows[:1])
        ['motion_bucket_id 30, seed 0']
    """
    varied = knobs(rows)
    if list(varied) == ["seed"]:
        varied = {"motion_bucket_id": settings(rows)["motion_bucket_id"]} | varied
    texts = {name: distinct_texts(values) for name, values in varied.items()}
    return _numbered(
        ", ".join(f"{name} {texts[name][values[i]]}" for name, values in varied.items()) for i in range(len(rows))
    )


def _numbered(texts: Iterable[str]) -> list[str]:
    """The texts; where one comes again, a number tells it apart."""
    repeats: Counter[str] = Counter()
    numbered = []
    for text in texts:
        repeats[text] += 1
        numbered.append(text if repeats[text] == 1 else f"{text} ({repeats[text]})")
    return numbered
