"""The words for rows: which settings vary, and short labels that tell rows apart.

Rows of one sweep share most of their settings. A *knob* is a field of a request in which they differ, or "setup" where
their setups do. Everything that shows rows (wall, review, report, panel) takes its words from here, so that two things
that differ never carry the same label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from svdlab.media.images import image_sha256
from svdlab.rows.row import Row
from svdlab.rows.typed_json import fields_of


def text_of(value: Any, digits: int = 4) -> str:
    """A value as a table shows it; "" for None.

    Args:
        value: A field of a row, or a measure.
        digits: Of a float.
    """
    if isinstance(value, tuple):
        return ", ".join(text_of(each, digits) for each in value)
    return "" if value is None else f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def distinct_texts(values: Iterable[Any]) -> dict[Any, str]:
    """The different values in their order, each with a short text that no other has."""
    different, texts = list(dict.fromkeys(values)), []
    for more in range(14):
        texts = [
            _end_of(value, more + 1) if isinstance(value, str) else text_of(value, 4 + more) for value in different
        ]
        if len(set(texts)) == len(texts):
            break
    return dict(zip(different, _numbered(texts), strict=True))


def _end_of(path: str, parts: int) -> str:
    """The last parts of a path, or all of a text that is none; cut where that is very long, as a web address may be."""
    text = "/".join(Path(path).parts[-parts:])
    return text if len(text) <= 200 else f"…{text[-199:]}"


def settings(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Every field of the rows' setups and requests: its name, and a value for each row."""
    lines = [fields_of(row.setup) | fields_of(row.request) for row in rows]
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    for name in ("image", "weights"):
        paths = [value if isinstance(value, str) else f"picture {image_sha256(value)[:6]}" for value in columns[name]]
        texts = distinct_texts(paths)
        columns[name] = [texts[path] for path in paths]
    return columns


def setup_labels(rows: Sequence[Row]) -> list[str]:
    """One label for each row's setup: `Setup.label`, and where two setups share it, what else differs."""
    labels = [row.setup.label for row in rows]
    if len(set(labels)) == len({row.setup for row in rows}):
        return labels
    columns = settings(rows)
    others = [columns[name] for name in ("variant", "weights", "revision", "device") if len(set(columns[name])) > 1]
    return [", ".join(map(str, parts)) for parts in zip(labels, *others, strict=True)]


def knobs(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The fields in which rows differ, those of sweeps first, or else the seed: name, and a value for each row."""
    if not rows:
        return {}
    of_request = fields_of(rows[0].request).keys() - {"variant"}
    columns = {"setup": setup_labels(rows)}
    columns |= {name: values for name, values in settings(rows).items() if name in of_request}
    differing = [name for name, values in columns.items() if len(set(values)) > 1]
    axes = [axis for row in rows for axis in row.axes if axis in differing]
    return {name: columns[name] for name in dict.fromkeys([*axes, *differing]) or ("seed",)}


def row_labels(rows: Sequence[Row]) -> list[str]:
    """One label for each row, no two the same: the knobs in which the rows differ; for a single row, bucket and seed.

    Example:
        >>> row_labels(rows)
        ['motion_bucket_id 30', 'motion_bucket_id 220']
    """
    varied = knobs(rows)
    if list(varied) == ["seed"]:
        varied = {"motion_bucket_id": [row.request.motion_bucket_id for row in rows]} | varied
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
