"""Claims: who is making which clip in a results folder, so that two processes do not make the same one.

A claim is a scratch folder beside the rows whose name begins with the row's key and tells its owner (`atomic_files`).
The owner touches its claim every few seconds. A writer on another machine is taken to live while its claim is fresh;
of one on this machine the process is known to live, and its claim holds for ten minutes after the last touch.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from svdlab.atomic_files import is_of_this_machine, may_live, scratch_folder

BEAT_SECONDS = 15  # how often an owner touches its claim
SILENT_SECONDS = 120  # then nobody waits for another machine's claim; NFS shows a touch a minute late
PAUSED_SECONDS = 600  # the same for a living process here: it may be paused (Ctrl-Z), or the folder may be a copy


@contextmanager
def claim(folder: Path, key: str) -> Iterator[Path]:
    """Claim a key, and give a new folder on the same disk for unfinished files, which is removed afterwards.

    Args:
        folder: the results folder, which must exist.
        key: of a row.
    """
    with scratch_folder(folder, f".{key}") as scratch:
        released = threading.Event()
        threading.Thread(target=_keep_fresh, args=(scratch, released), name="svdlab-claim", daemon=True).start()
        try:
            yield scratch
        finally:
            released.set()


def is_contested(scratch: Path) -> bool:
    """Whether a living writer besides the owner of this claim claims the same key.

    Two writers that claim a key at once may both see each other: whoever gives way looks again after a random time.
    """
    return is_claimed(scratch.parent, scratch.name[1:].split("~")[0], own_claim=scratch)


def is_claimed(folder: Path, key: str, own_claim: Path | None = None) -> bool:
    """Whether a living writer is making the row of a key.

    Args:
        folder: the results folder.
        key: of the row.
        own_claim: one's own claim, which does not count.
    """
    # The time of the file server, where a claim of one's own tells it: clocks of machines differ.
    now = own_claim.stat().st_mtime if own_claim else time.time()
    for entry in os.scandir(folder):
        if entry.name.startswith(f".{key}~") and (own_claim is None or entry.name != own_claim.name):
            with suppress(FileNotFoundError):  # released while we look
                limit = PAUSED_SECONDS if is_of_this_machine(entry.name) else SILENT_SECONDS
                if may_live(entry.name) and now - entry.stat().st_mtime < limit:
                    return True
    return False


def _keep_fresh(scratch: Path, released: threading.Event) -> None:
    while not released.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(scratch)
