"""Locks of a results folder: who is making which clip, so that two processes do not make the same one."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


_ABANDONED_SECONDS = 86_400  # when what another machine has not finished is taken for given up


@contextmanager
def claim(folder: Path, key: str) -> Iterator[Path]:
    """A folder for what is not whole yet; its name tells other writers who makes what since when. Gone afterwards."""
    scratch = folder / f".{key}~{socket.gethostname()}~{os.getpid()}~{time.time_ns()}"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _taken(claim: Path) -> bool:
    """Whether somebody claimed the same before."""
    key, *_, since = claim.name.split("~")
    others = [other for other in claim.parent.glob(f"{key}~*") if int(other.name.split("~")[-1]) < int(since)]
    return any(_alive(other) for other in others)


def clear(folder: Path, gone: tuple[str, int] | None = None) -> None:
    """Remove what killed writers left; of `gone` (host and process) that is known, wherever it ran."""
    for scratch in folder.glob(".*~*~*~*"):
        if tuple(scratch.name.split("~")[1:3]) == (gone and (gone[0], str(gone[1]))) or not _alive(scratch):
            shutil.rmtree(scratch, ignore_errors=True)


def _alive(scratch: Path) -> bool:
    import psutil

    _, host, pid, _ = scratch.name.split("~")
    try:
        if host == socket.gethostname():
            return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
        return time.time() - scratch.stat().st_mtime < _ABANDONED_SECONDS
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
