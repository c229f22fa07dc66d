"""Rows as a tidy pandas table: a line for each row, a column for each field, for grouping and plotting.

Fields of setup, request, timings, quality, measurement and machine are columns side by side, under their own names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.rows.row import Row, picture_name
from svdlab.rows.row_files import read_rows
from svdlab.rows.typed_json import fields_of

if TYPE_CHECKING:
    import pandas

_FIRST = ("key", "status", "error", "clip")  # of the columns
_GROUPS = ("setup", "request", "timings", "quality", "measurement", "machine")  # whose fields are columns of their own


def rows_table(rows: str | Path | Iterable[Row]) -> pandas.DataFrame:
    """One line for each row. Opens no clip.

    Args:
        rows: the rows, as `run` returned them, or a folder, whose rows are read, oldest first.

    Returns:
        Columns, each with the name of its field:
        of the row: `key`, `status`, `error`, `clip` (a path), `created`, `axes`, `notes` and a few more;
        of the setup and the request: `variant`, `dtype`, `optimizations`, `image`, `seed`, `motion_bucket_id` and on;
        of the timings, in seconds: `sample_seconds`, `decode_seconds`, `quality_seconds`, `save_seconds`;
        of `Quality`: `motion_mean_px` (pixels a frame), `likeness_mean_ssim` (-1 to 1), `flicker_percent` and on;
        of `Measurement.figures`, in measured rows: `clip_seconds`, `peak_allocated_bytes`, `psnr_db` and on;
        of the machine and its libraries, with `machine_` before: `machine_name`, `machine_torch`.
        Lists of names are one text: "model-offload, single-token", or "" for none. A name that occurs twice is one
        column: `variant` is the same in both places, and of a measured row `sample_seconds` and `decode_seconds` are
        the medians of its measurement.
        A failed row has `status` "failed", its sentence in `error`, no `clip`, and nothing under the numbers (NaN).
        `frame.to_parquet("rows.parquet")` or `frame.to_csv("rows.csv")` writes the table.

    Raises:
        FileNotFoundError: there is no such folder.

    Example:
        With `rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> frame = rows_table(rows)
        >>> frame.groupby("motion_bucket_id")["motion_mean_px"].median().index.tolist()
        [30, 220]
    """
    import pandas

    lines = [_line(row) for row in (read_rows(rows) if isinstance(rows, (str, Path)) else rows)]
    return pandas.DataFrame(lines, columns=None if lines else list(_FIRST))


def _line(row: Row) -> dict[str, Any]:
    fields = fields_of(row)
    image = row.request.image if isinstance(row.request.image, str) else picture_name(row.picture_sha256 or "")
    machine = fields_of(row.machine) if row.machine else {}
    machine |= machine.pop("libraries", {})
    columns: dict[str, Any] = {
        **{name: fields.pop(name) for name in _FIRST},
        "clip": row.clip and str(row.clip),
        **fields_of(row.setup),
        **fields_of(row.request),
        "image": image,
        **{name: value for name, value in fields.items() if name not in _GROUPS},
        **row.timings,
        **(fields_of(row.quality) if row.quality else {}),
        **(row.measurement.figures if row.measurement else {}),
        **{f"machine_{name}": value for name, value in machine.items()},
    }
    return columns | {name: ", ".join(columns[name]) for name in ("optimizations", "notes", "axes")}
