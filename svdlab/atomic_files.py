"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name in the same folder to write to; it takes the place of `path` when all is written, or is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, old = path.with_name(f".svdlab-{secrets.token_hex(6)}"), _aside(path)
    if restore_replaced(path).exists() and old.is_dir():
        shutil.rmtree(old)  # of a writer that was killed when all but this was done
    try:
        yield beside
        for file in [beside, *beside.glob("*")]:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if beside.is_dir() and path.exists():  # a folder cannot be replaced in one move
            path.rename(old)
        beside.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for left in (beside, old):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    return path.with_name(f".svdlab-{path.name}.old")


def restore_replaced(path: Path) -> Path:
    """`path`, where a folder stands again that a writer was killed over, between taking it away and putting the new one
    in its place."""
    if not path.exists() and _aside(path).is_dir():
        with suppress(OSError):  # whoever reads and must not write finds nothing, as before
            _aside(path).rename(path)
    return path
