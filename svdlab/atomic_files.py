"""Files and folders that appear whole or not at all.

A writer works in a scratch folder beside its target and moves the result into place with one rename. The name of a
scratch folder ends with `~<machine>~<process>~<start>~<random>`, so that what a killed writer left can be told from
what is being written now. Containers and cloned machines share a host's name: boot and PID namespace belong to the
machine's. What may be alive on another machine is removed after a day of silence.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_PREFIX, _REPLACED = ".svdlab-", ".old"
_ABANDONED_SECONDS = 86_400
_OF_FILE_MANAGERS = re.compile(r"\.DS_Store|\._.+|\.directory|Thumbs\.db|desktop\.ini", re.IGNORECASE)
_own_folders: set[str] = set()  # the names of the scratch folders that this process holds now


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent) as folder:
        written = folder / path.name
        try:
            yield written
            for file in [written, *written.glob("*")]:
                _flush(file)
            _put_in_place(written, path)
        finally:
            if restore_replaced(path).exists():
                shutil.rmtree(replaced, ignore_errors=True)


def _put_in_place(written: Path, path: Path) -> None:
    deadline = time.monotonic() + 5
    while True:
        try:
            if written.is_dir() and path.exists():  # a folder cannot be replaced in one move
                path.rename(_replaced(path))
            written.replace(path)
            return
        except OSError as error:  # another writer of the folder came between, or a reader that put the old one back
            is_passing = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) and written.is_dir()
            if not is_passing or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
        clear_leftovers(path.parent)


def _flush(file: Path) -> None:
    """Wait until a file or a folder is on the disk. Windows flushes only what may be written to, and no folder."""
    if os.name == "nt" and file.is_dir():
        return
    descriptor = os.open(file, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder(parent: Path, name: str = f"{_PREFIX}scratch") -> Iterator[Path]:
    """Yield a new folder, removed afterwards, that `clear_leftovers` leaves alone while this process lives.

    Args:
        parent: where to create it, on the same disk as the target.
        name: what its name begins with.
    """
    folder = parent / f"{name}~{process_name()}~{secrets.token_hex(6)}"
    _own_folders.add(folder.name)  # first, or another thread takes the new folder for one of a dead writer
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _own_folders.discard(folder.name)


def clear_leftovers(folder: Path, dead_process: str = "") -> None:
    """Remove the scratch folders that killed writers left, and nothing of writers that may live.

    Args:
        folder: where they may be; it need not exist.
        dead_process: the `process_name` of one that has ended, on whatever machine it ran.
    """
    for leftover in folder.glob(".*"):
        name = leftover.name
        if name.startswith(_PREFIX) and name.endswith(_REPLACED):
            target = folder / name.removeprefix(_PREFIX).removesuffix(_REPLACED)
            if restore_replaced(target).exists():
                shutil.rmtree(leftover, ignore_errors=True)
        elif name.startswith(_PREFIX) or name.count("~") >= 3:
            with suppress(OSError):  # released while we look
                silent = time.time() - leftover.lstat().st_mtime > _ABANDONED_SECONDS and not is_of_this_machine(name)
                if silent or not may_live(name) or (dead_process and f"~{dead_process}~" in name):
                    shutil.rmtree(leftover, ignore_errors=True)


def restore_replaced(path: Path) -> Path:
    """Put a folder back whose writer was killed between moving the old one away and the new one in; return its path."""
    if not path.exists() and _replaced(path).is_dir():
        with suppress(OSError):  # a reader that must not write goes without it
            _replaced(path).rename(path)
    return path


def kept_names(folder: Path) -> list[str]:
    """The names in a folder, without the files that file managers leave wherever somebody looks."""
    # Nothing else that begins with a dot is passed over: replacing the folder would lose a `.git` or an `.env`.
    return [path.name for path in folder.iterdir() if not (_OF_FILE_MANAGERS.fullmatch(path.name) and path.is_file())]


def process_name() -> str:
    """What tells this process from all others that ever were: machine, process id and start, joined by "~"."""
    return f"{_machine_name()}~{os.getpid()}~{_start_of(os.getpid())}"


def may_live(name: str) -> bool:
    """Whether the owner of a scratch folder is not known to be dead."""
    if not is_of_this_machine(name):
        return "~" in name
    _, _, process, start, _ = name.split("~")
    if int(process) == os.getpid() and start == _start_of(os.getpid()):
        return name in _own_folders  # others of ours were left in a folder that was renamed meanwhile
    return start == _start_of(int(process))


def is_of_this_machine(name: str) -> bool:
    """Whether the owner of a scratch folder runs, or ran, on this machine."""
    parts = name.split("~")
    return len(parts) == 5 and parts[1] == _machine_name() and parts[2].isdigit()


def _replaced(path: Path) -> Path:
    return path.with_name(f"{_PREFIX}{path.name}{_REPLACED}")


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
