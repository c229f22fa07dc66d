"""Files and folders that appear whole or not at all.

A writer works in a scratch folder beside its target (`.svdlab-` and a random word) and moves the result into place with
one rename. The scratch folder is locked while its writer lives. The system drops the lock however the writer ends, so
`clear_leftovers` can tell what a killed writer left from what is being written now.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX, _REPLACED = ".svdlab-", ".old"
_ABANDONED_SECONDS = 86_400  # where nothing can be locked (some network disks), age decides


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a scratch path of the same name; the file or folder written there replaces the target at the end.

    The target's folder is created, and what killed writers left in it is cleared.

    Example:
        >>> with atomic_write(Path("notes.txt")) as scratch:
        ...     _ = scratch.write_text("whole")
        >>> Path("notes.txt").read_text()
        'whole'
    """
    replaced = _replaced(path)
    clear_leftovers(path.parent)
    with scratch_folder(path.parent) as folder:
        written = folder / path.name
        try:
            yield written
            for file in [written, *written.glob("*")]:
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            if written.is_dir() and path.exists():  # a folder cannot be replaced in one move
                path.rename(replaced)
            written.replace(path)
        finally:
            restore_replaced(path)
            shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder, removed afterwards, that `clear_leftovers` leaves alone while this process lives."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"{_PREFIX}{secrets.token_hex(6)}"
        folder.mkdir()
        lock = _lock(folder, wait=True)
        if folder.exists():  # not so where another process cleared it before it was locked
            break
        if lock is not None:
            os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def clear_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder, which need not exist, and nothing of writers that live."""
    for leftover in folder.glob(f"{_PREFIX}*"):
        if leftover.name.endswith(_REPLACED):
            target = folder / leftover.name.removeprefix(_PREFIX).removesuffix(_REPLACED)
            if restore_replaced(target).exists():
                shutil.rmtree(leftover, ignore_errors=True)
        elif not leftover.is_dir() or leftover.is_symlink():
            with suppress(OSError):
                leftover.unlink()
        elif (lock := _lock(leftover)) is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def restore_replaced(path: Path) -> Path:
    """Put a folder back whose writer was killed between moving the old one away and the new one in; return its path."""
    if not path.exists() and _replaced(path).is_dir():
        with suppress(OSError):  # a reader that must not write goes without it
            _replaced(path).rename(path)
    return path


def _replaced(path: Path) -> Path:
    return path.with_name(f"{_PREFIX}{path.name}{_REPLACED}")


def _lock(folder: Path, wait: bool = False) -> int | None:
    """A descriptor that holds the folder's lock; None where another process holds it."""
    with suppress(OSError, ImportError):  # neither folders nor locks can be opened so on Windows
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return descriptor
        except OSError as error:
            if not isinstance(error, BlockingIOError) and time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                return descriptor
            os.close(descriptor)
    return None
