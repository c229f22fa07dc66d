"""Words for messages: every error that a reader meets is one clear sentence.

Text that comes from elsewhere (a server's answer, a file's metadata, a value that somebody passed) may be endless and
may hold control characters that rewrite a terminal. It goes through `first_line` or `shorten` before it enters a
sentence.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def first_line(error_or_text: object, limit: int = 300) -> str:
    """The first line that is not empty, without control characters; "no reason given" where there is none.

    Args:
        error_or_text: An exception, or text from elsewhere.
        limit: The most letters to keep.
    """
    lines = str(error_or_text)[: limit * 20].splitlines()
    return next((line for raw in lines if (line := _printable(raw).strip())), "no reason given")[:limit]


def shorten(value: Any, limit: int = 200) -> str:
    """A value as Python writes it, without control characters, cut in the middle where it is over `limit` letters.

    Args:
        value: Anything; its own `repr` may fail.
        limit: The most letters to keep.

    Example:
        >>> shorten("a" * 100_000, limit=20)
        "'aaaaaaaaaaaaa…aaaa'"
    """
    try:
        text = repr(value[:100_000] if isinstance(value, str) else value)
    except Exception:  # an integer of thousands of digits, a list within itself too deep, somebody's own class
        text = f"a value of type {type(value).__name__}"
    text = _printable(text)
    tail = limit // 4
    return text if len(text) <= limit else f"{text[: limit - tail - 1]}…{text[-tail:]}"


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """The end of a sentence that proposes the nearest known name; "" where none is alike.

    Args:
        name: What was given.
        names: Those that would have done.

    Example:
        >>> did_you_mean("roket", ["rocket", "portrait"])
        "; did you mean 'rocket'?"
    """
    nearest = difflib.get_close_matches(str(name)[:200], list(names), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def describe_error(error: BaseException, where: bool = True) -> str:
    """One sentence for any error: svdlab's own are sentences already, of others the class is named too.

    Args:
        error: The exception that was caught.
        where: Name the file and the line that raised it, where it is not svdlab's own.
    """
    line = first_line(error, 500)
    if line.endswith("."):
        return line
    frames = traceback.extract_tb(error.__traceback__) if where else []
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {line}{place}."


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable() or character == "\t")
