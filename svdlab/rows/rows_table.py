"""Rows as a tidy pandas table: one line a row, one column a field."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.atomic_files import atomic_write

if TYPE_CHECKING:
    import pandas
from svdlab.rows.measurement import summary
from svdlab.rows.row_files import _documents


def rows_table(folder: str | Path) -> pandas.DataFrame:
    """The rows as a tidy table, oldest first: one line a row. Opens no clip.

    The columns are named as the fields of rows, requests and setups, as the timings (seconds) and as the measures of
    quality (nested ones joined: `motion_median`), as in a measurement's `summary`, and `machine_…`; a name taken before
    gets its group in front. A list of words is one text and other lists are tuples, so that `groupby` takes them.
    """
    lines = [_line(fields, os.fspath(folder)) for fields in _documents(Path(folder))]
    lines.sort(key=lambda line: (line.get("created") or "", line["key"]))
    return _needed("pandas").DataFrame(lines, columns=None if lines else list(_FIRST[:4]))


def export(folder: str | Path, path: str | Path) -> Path:
    """`load(folder)` as one `.parquet` or `.csv` file, whole or not at all."""
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"Cannot export to {path.name!r}: use a name that ends in .parquet or .csv.")
    if path.suffix == ".parquet":
        _needed("pyarrow")
    table = rows_table(folder)
    with atomic_write(path) as beside:
        (table.to_csv if path.suffix == ".csv" else table.to_parquet)(beside, index=False)
    return path


def _line(fields: dict[str, Any], folder: str) -> dict[str, Any]:
    """One row as columns."""
    fields["clip"] = fields.get("clip") and os.path.join(folder, fields["clip"])  # noqa: PTH118  (a third of Path's time)
    fields["request"].pop("variant", None)  # it is the setup's
    line: dict[str, Any] = {}
    for name in _FIRST:
        _spread(line, name, name, fields.pop(name, None), "")
    machine, measurement = fields.pop("machine", None) or {}, fields.pop("measurement", None)
    for name, value in fields.items():
        if name != "quality" or value:
            _spread(line, name, name, value, "")
    if measurement:
        line.update(summary(measurement))
    _spread(line, "machine", "machine", machine | (machine.pop("libraries", None) or {}), "machine_")
    return line


_FIRST = ("key", "status", "error", "clip", "setup", "request")  # of the columns


def _spread(line: dict[str, Any], group: str, name: str, value: Any, prefix: str) -> None:
    if isinstance(value, dict):
        for leaf, inner in value.items():
            if isinstance(inner, (dict, list)) or prefix + leaf in line:
                _spread(line, group, prefix + leaf, inner, f"{prefix}{leaf}_")
            else:
                line[prefix + leaf] = inner
        return
    if isinstance(value, list):
        value = ", ".join(value) if all(isinstance(item, str) for item in value) else tuple(value)
    line[f"{group}_{name}" if name in line else name] = value


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        extra = "parquet" if name == "pyarrow" else "notebooks"
        raise ModuleNotFoundError(f"This needs {name}: pip install 'svdlab[{extra}]' brings it.") from None
