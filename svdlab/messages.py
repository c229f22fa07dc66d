"""Words for messages: one clear sentence for any error."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def describe_error(error: Exception, where: bool = True) -> str:
    """Ours are sentences; of others also what they are and, unless it does not matter, `where` they come from."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0][:500]
    if line.endswith("."):
        return line
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {line}{f' ({Path(place.filename).name}, line {place.lineno})' if where else ''}."
