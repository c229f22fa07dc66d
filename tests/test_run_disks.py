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
from sweeps import quick, trials_of

from svdlab import Setup
from svdlab.pipelines.pipeline_cache import unload_cached
from svdlab.rows.row_files import read_rows
from svdlab.rows.rows_table import rows_table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def setup(checkpoint) -> Iterator[Setup]:
    yield Setup("svd", weights=str(checkpoint), dtype="fp32", device="cpu")
    unload_cached()


def test_a_disk_that_fills_up_keeps_the_finished_rows_and_the_next_run_goes_on(setup, ask, disk, tmp_path):
    trials = trials_of(setup, ask, seed=range(6))
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(36 * 1024))
    with pytest.raises(OSError, match="No space left on device"):
        quick(trials, disk)
    kept = read_rows(disk)
    assert 0 < len(kept) < 6
    assert all(len(row.open().frames) == 2 for row in kept)
    assert not [p for p in disk.iterdir() if p.name.startswith(".")]  # nothing half-written
    assert not [name for name in open_files() if str(disk) in name]  # and no deleted file that still takes its space
    ballast.unlink()
    moved = shutil.copytree(disk, tmp_path / "larger")
    before = {row.key: (moved / f"{row.key}.json").stat().st_mtime_ns for row in kept}
    assert len(quick(trials, moved)) == 6
    assert {key: (moved / f"{key}.json").stat().st_mtime_ns for key in before} == before


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [str(path.readlink()) for path in folder.iterdir() if path.is_symlink()] if folder.exists() else []


@pytest.fixture
def sealed(tmp_path, setup, ask) -> Iterator[tuple[Path, list]]:
    """A results folder with one row that nobody may write to, root neither; and its trials, with one more."""
    folder, trials = tmp_path / "rows", trials_of(setup, ask, seed=[1, 2])
    if os.geteuid():
        quick(trials[:1], folder)
        folder.chmod(0o555)
        yield folder, trials
        folder.chmod(0o755)
        return
    mount(folder, "size=1m")
    quick(trials[:1], folder)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield folder, trials
    subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_is_read_only_is_read_and_says_that_it_cannot_be_written(sealed, tmp_path):
    folder, trials = sealed
    reason = r"Read-only file system|Permission denied"
    [row] = read_rows(folder)
    assert len(row.open().frames) == 2
    assert len(rows_table(folder)) == 1
    assert quick(trials[:1], folder)[0].key == row.key  # nothing is to be written
    with pytest.raises(OSError, match=reason):
        quick(trials, folder)
    with pytest.raises(OSError, match=reason):
        row.open().save(folder / "again.mp4")
    assert len(read_rows(folder)) == 1


def test_a_row_that_no_longer_fits_is_not_half_there(setup, ask, tmp_path):
    """RLIMIT_FSIZE is a full disk for everybody: write() fails in the middle of a file."""
    trials = trials_of(setup, ask, seed=[1, 2])
    quick(trials[:1], tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            quick(trials, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(quick(trials, tmp_path)) == 2
