"""Disks that fill up or refuse: finished rows stay, nothing half-written does, and one sentence says why."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mount
from sweeps import make_trials, run_quietly

from svdlab.rows.row_files import read_rows
from svdlab.rows.rows_table import rows_table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_a_disk_that_fills_up_keeps_the_finished_rows_and_the_next_run_goes_on(setup, make_request, disk, tmp_path):
    trials = make_trials(setup, make_request, seed=range(6))
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(36 * 1024))
    with pytest.raises(OSError, match="No space left on device"):
        run_quietly(trials, disk)
    rows = read_rows(disk)
    assert 0 < len(rows) < 6
    assert all(len(row.open().frames) == 2 for row in rows)
    assert not [p for p in disk.iterdir() if p.name.startswith(".")]  # nothing half-written
    assert not [name for name in open_files() if str(disk) in name]  # and no deleted file that still takes its space
    ballast.unlink()
    folder = shutil.copytree(disk, tmp_path / "larger")
    times = {row.key: (folder / f"{row.key}.json").stat().st_mtime_ns for row in rows}
    assert len(run_quietly(trials, folder)) == 6
    assert {key: (folder / f"{key}.json").stat().st_mtime_ns for key in times} == times


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [str(path.readlink()) for path in folder.iterdir() if path.is_symlink()] if folder.exists() else []


@pytest.fixture
def read_only(tmp_path, setup, make_request) -> Iterator[tuple[Path, list]]:
    """A results folder with one row that nobody may write to, root neither; and its trials, with one more."""
    folder, trials = tmp_path / "rows", make_trials(setup, make_request, seed=[1, 2])
    if os.geteuid():
        run_quietly(trials[:1], folder)
        folder.chmod(0o555)
        yield folder, trials
        folder.chmod(0o755)
        return
    mount(folder, "size=1m")
    run_quietly(trials[:1], folder)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield folder, trials
    subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_is_read_only_is_read_and_says_that_it_cannot_be_written(read_only, tmp_path):
    folder, trials = read_only
    reason = r"Read-only file system|Permission denied"
    [row] = read_rows(folder)
    assert len(row.open().frames) == 2
    assert len(rows_table(folder)) == 1
    assert run_quietly(trials[:1], folder)[0].key == row.key  # nothing is to be written
    with pytest.raises(OSError, match=reason):
        run_quietly(trials, folder)
    with pytest.raises(OSError, match=reason):
        row.open().save(folder / "again.mp4")
    assert len(read_rows(folder)) == 1


def test_a_row_that_no_longer_fits_is_not_half_there(setup, make_request, tmp_path):
    """RLIMIT_FSIZE is a full disk for everybody: write() fails in the middle of a file."""
    trials = make_trials(setup, make_request, seed=[1, 2])
    run_quietly(trials[:1], tmp_path)
    contents = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            run_quietly(trials, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == contents
    assert len(run_quietly(trials, tmp_path)) == 2
