"""Claims: who is making which clip in a results folder, so that two processes do not make the same one.

A claim is a hidden folder beside the rows, named `.<key>~<machine>~<process>~<start>~<number>`: its owner's scratch
space. Containers and cloned machines share a host's name, so that boot and PID namespace belong to the machine's.
The owner touches its claim every few seconds. A writer on another machine is taken to live while its claim is fresh.
A claim whose owner is known to be dead is removed at once, any other one after a day of silence.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from svdlab.atomic_files import clear_leftovers

BEAT_SECONDS = 15  # how often an owner touches its claim
SILENT_SECONDS = 120  # then nobody waits for another machine's claim; NFS shows a touch a minute late
ABANDONED_SECONDS = 86_400  # then a claim of another machine is removed

_own_claims: set[str] = set()  # the names of those that this process holds now


@contextmanager
def claim(folder: Path, key: str) -> Iterator[Path]:
    """Claim a key, and give a new folder on the same disk for unfinished files, which is removed afterwards.

    Args:
        folder: the results folder, which must exist.
        key: of a row.
    """
    scratch = folder / f".{key}~{process_name()}~{time.time_ns()}"
    scratch.mkdir()
    _own_claims.add(scratch.name)
    released = threading.Event()
    threading.Thread(target=_keep_fresh, args=(scratch, released), name="svdlab-claim", daemon=True).start()
    try:
        yield scratch
    finally:
        released.set()
        _own_claims.discard(scratch.name)
        shutil.rmtree(scratch, ignore_errors=True)


def is_contested(scratch: Path) -> bool:
    """Whether a living writer besides the owner of this claim claims the same key.

    Two writers that claim a key at once may both see each other: whoever gives way looks again after a random time.
    """
    return is_claimed(scratch.parent, scratch.name[1:].split("~")[0], besides=scratch)


def is_claimed(folder: Path, key: str, besides: Path | None = None) -> bool:
    """Whether a living writer is making the row of a key.

    Args:
        folder: the results folder.
        key: of the row.
        besides: one's own claim, which does not count.
    """
    # The time of the file server, where a claim of one's own tells it: clocks of machines differ.
    now = besides.stat().st_mtime if besides else time.time()
    for entry in os.scandir(folder):
        if entry.name.startswith(f".{key}~") and (besides is None or entry.name != besides.name):
            with suppress(FileNotFoundError):  # released while we look
                fresh = now - entry.stat().st_mtime < SILENT_SECONDS
                if _may_live(entry.name) and (fresh or _is_of_this_machine(entry.name)):  # here a process proves it
                    return True
    return False


def clear_claims(folder: Path, dead_process: str = "") -> None:
    """Remove what killed writers left in a results folder: their claims and unfinished files.

    Args:
        folder: the results folder.
        dead_process: the `process_name` of one that has ended, on whatever machine it ran.
    """
    for entry in list(os.scandir(folder)):
        if entry.name.startswith(".") and entry.name.count("~") >= 3:
            with suppress(FileNotFoundError):
                old = time.time() - entry.stat().st_mtime > ABANDONED_SECONDS
                has_ended = bool(dead_process) and f"~{dead_process}~" in entry.name
                if has_ended or not _may_live(entry.name) or (old and not _is_of_this_machine(entry.name)):
                    shutil.rmtree(entry, ignore_errors=True)
    clear_leftovers(folder)


def process_name() -> str:
    """What tells this process from all others that ever were: machine, process id and start, joined by "~"."""
    return f"{_machine_name()}~{os.getpid()}~{_start_of(os.getpid())}"


def _may_live(claim_name: str) -> bool:
    """False where the owner of a claim is known to be dead."""
    if not _is_of_this_machine(claim_name):
        return True
    _, _, process, start, *_ = claim_name.split("~")
    if int(process) == os.getpid() and start == _start_of(os.getpid()):
        return claim_name in _own_claims  # others of ours were left in a folder that was renamed meanwhile
    return start == _start_of(int(process))


def _is_of_this_machine(claim_name: str) -> bool:
    parts = claim_name.split("~")
    return len(parts) == 5 and parts[1] == _machine_name() and parts[2].isdigit()


@cache
def _machine_name() -> str:
    """The host's name, and a hash of what tells apart machines and containers of one name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (a link to no path)
    except OSError:  # not Linux
        boot, namespace = str(uuid.getnode()), ""
    host = socket.gethostname().replace("~", "-")
    return f"{host}-{hashlib.sha256(f'{host} {boot} {namespace}'.encode()).hexdigest()[:8]}"


def _start_of(process: int) -> str:
    """When a process of this machine began; "" for one that has ended. Process ids are used again, starts are not."""
    import psutil

    try:
        if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return ""
        with suppress(OSError):  # ticks since the boot, which a clock that is set does not move
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        return str(int(psutil.Process(process).create_time()))
    except psutil.NoSuchProcess:
        return ""


def _keep_fresh(scratch: Path, released: threading.Event) -> None:
    while not released.wait(BEAT_SECONDS):
        with suppress(OSError):
            os.utime(scratch)
