"""Claims: writers of one folder share the work, wherever they are killed, and nobody loses what a living one holds."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from sweeps import check_folder, die_at_call, fork, make_trials, run_quietly

from svdlab import atomic_files
from svdlab.atomic_files import clear_leftovers, process_name
from svdlab.pipelines.pipeline_cache import load_cached
from svdlab.rows.row_files import read_rows
from svdlab.rows.row_key import row_key
from svdlab.sweeps import locks
from svdlab.sweeps import make_row as make_row_module
from svdlab.sweeps.locks import claim, is_claimed, is_contested

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the tests kill forks of themselves"),
]
KEY = "0" * 16


@pytest.fixture(scope="module")
def setup(setup):
    load_cached(setup)  # forks have it then
    return setup


# --- who is who ------------------------------------------------------------------------------------------------------


def write_claim(folder: Path, owner: str, key: str = KEY, number: int = 1) -> Path:
    """What a writer of that name holds, or has left."""
    scratch = folder / f".{key}~{owner}~{number}"
    scratch.mkdir()
    (scratch / "clip.mp4").write_bytes(b"half")
    return scratch


def name_dead_process() -> str:
    """The name of a process that was killed."""
    read, write = os.pipe()
    process = fork(lambda: os.write(write, process_name().encode()))
    os.waitpid(process, 0)
    return os.read(read, 1000).decode()


def test_what_dead_writers_left_is_cleared_and_what_may_be_alive_is_not(tmp_path):
    machine, process, start = process_name().split("~")
    host = machine.rpartition("-")[0]
    dead_name, parent = name_dead_process(), f"{machine}~{os.getppid()}~{atomic_files._start_of(os.getppid())}"
    leftovers = [
        write_claim(tmp_path, dead_name),
        write_claim(tmp_path, f"{machine}~{process}~1{start}"),  # an older process of the same id
        write_claim(tmp_path, process_name()),  # of this process, which holds none
        write_claim(tmp_path, dead_name.replace(machine, f"{host}-00000000"), number=3),  # silent for two days
        write_claim(tmp_path, "elsewhere~4711", number=3),  # of an older version, silent as well
    ]
    for scratch in leftovers[-2:]:
        os.utime(scratch, (0, time.time() - 2 * 86_400))
    (tmp_path / ".svdlab-0123456789ab").mkdir()  # of an export that was killed
    kept_claims = [
        write_claim(tmp_path, parent),
        # a container of the host's name (`docker --network host`), or a machine cloned from the same image: what runs
        # there under a process id says nothing about what runs under it here
        write_claim(tmp_path, dead_name.replace(machine, f"{host}-00000000")),
        write_claim(tmp_path, "elsewhere~4711"),
    ]
    (tmp_path / ".hidden").mkdir()
    with claim(tmp_path, KEY) as own_claim:
        clear_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (*kept_claims, own_claim)} | {
            ".hidden"
        }
        clear_leftovers(tmp_path, dead_name.replace(machine, f"{host}-00000000"))  # now that it is known to be dead
        assert not kept_claims[1].exists()
        assert kept_claims[2].exists()


def test_the_boot_and_the_pid_namespace_belong_to_a_machines_name(monkeypatch):
    names = set()
    read_text, readlink = Path.read_text, os.readlink
    for change in ({}, {"boot_id": "another"}, {"pid": "pid:[1]"}):
        atomic_files._machine_name.cache_clear()
        monkeypatch.setattr(Path, "read_text", lambda path, c=change, **o: c.get(path.name) or read_text(path, **o))
        monkeypatch.setattr(os, "readlink", lambda path, c=change: c.get(Path(path).name) or readlink(path))
        names.add(process_name().split("~")[0])
    monkeypatch.undo()
    atomic_files._machine_name.cache_clear()
    assert len(names) == 3


def test_a_claim_is_contested_by_whoever_lives_and_is_heard_of(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.01)
    with claim(tmp_path, KEY) as first:
        assert not is_contested(first)
        with claim(tmp_path, "1" * 16) as other:
            assert not is_contested(other)
        with claim(tmp_path, KEY) as second:
            assert is_contested(second)
            assert is_contested(first)
        os.utime(first, (0, 0))
        while first.stat().st_mtime == 0:  # its owner touches it
            time.sleep(0.01)
    foreign = write_claim(tmp_path, "elsewhere-0badcafe~4711~1")
    assert is_claimed(tmp_path, KEY)
    os.utime(foreign, (0, time.time() - 2 * locks.SILENT_SECONDS))
    assert not is_claimed(tmp_path, KEY)
    shutil.rmtree(foreign)
    write_claim(tmp_path, name_dead_process())
    assert not is_claimed(tmp_path, KEY)


# --- several writers -------------------------------------------------------------------------------------------------


def count_clips(folder: Path, trials, writers: int) -> dict[int, int]:
    """How often each seed was made, by so many writers at once."""
    log = folder.parent / "made"

    def work() -> None:
        real = make_row_module.generate

        def generate(pipeline, request, **options):
            with log.open("a") as file:
                file.write(f"{request.seed}\n")
            return real(pipeline, request, **options)

        make_row_module.generate = generate
        assert [row.status for row in run_quietly(trials, folder)] == ["done"] * len(trials)

    for process in [fork(work) for _ in range(writers)]:
        assert os.waitpid(process, 0)[1] == 0
    seeds = log.read_text().split()
    return {int(seed): seeds.count(seed) for seed in seeds}


@pytest.mark.parametrize("writers", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_of_many_writers_one_makes_each_clip_and_the_others_wait_for_it(setup, make_request, tmp_path, writers):
    trials = make_trials(setup, make_request, steps=3, seed=[1, 2])
    assert count_clips(tmp_path / "rows", trials, writers) == {1: 1, 2: 1}
    check_folder(tmp_path / "rows", trials)


@pytest.mark.slow
def test_two_writers_share_the_work(setup, make_request, tmp_path):
    trials = make_trials(setup, make_request, seed=range(6))
    assert count_clips(tmp_path / "rows", trials, 2) == dict.fromkeys(range(6), 1)
    check_folder(tmp_path / "rows", trials)


def test_a_trial_that_a_living_writer_holds_is_waited_for_and_made_when_it_dies(setup, make_request, tmp_path, capsys):
    trials = make_trials(setup, make_request, seed=range(2))
    read, write = os.pipe()

    def hold() -> None:
        with claim(tmp_path, row_key(setup, trials[0].request)):
            os.write(write, b"1")
            time.sleep(600)

    process = fork(hold)
    os.read(read, 1)
    killer = fork(lambda: [time.sleep(2), os.kill(process, signal.SIGKILL)])
    reaper = threading.Thread(target=os.waitpid, args=(process, 0))  # the child would stay a zombie otherwise
    reaper.start()
    rows = run_quietly(trials, tmp_path, progress=True)
    os.waitpid(killer, 0)
    reaper.join()
    assert rows[1].created < rows[0].created
    assert "waiting for 1 clip of another writer" in capsys.readouterr().err
    assert run_quietly(trials, tmp_path) == rows
    check_folder(tmp_path, trials)


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_next_run_finishes_the_rest(setup, make_request, tmp_path, kills):
    trials, folder = make_trials(setup, make_request, seed=range(8)), tmp_path / "rows"
    started = time.perf_counter()
    run_quietly(trials[:1], tmp_path / "timing")
    seconds, dice, killed = time.perf_counter() - started, random.Random(4), 0
    while killed < kills:
        process = fork(lambda: run_quietly(trials, folder))
        time.sleep(dice.uniform(0, 1.5 * seconds))
        killed += os.waitpid(process, os.WNOHANG) == (0, 0)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        for row in read_rows(folder) if folder.exists() else []:
            assert len(row.open().frames) == 2
            if dice.random() < 0.5:  # so that there is always something left to make
                (folder / f"{row.key}.json").unlink()
    run_quietly(trials, folder)
    check_folder(folder, trials)


def test_windows_flushes_only_what_may_be_written_to_and_no_folder(tmp_path, monkeypatch):
    flags = []
    windows = SimpleNamespace(**vars(os) | {"name": "nt"})
    windows.fsync = lambda descriptor: flags.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_RDWR)
    monkeypatch.setattr(atomic_files, "os", windows)
    with atomic_files.atomic_write(tmp_path / "folder") as scratch:
        scratch.mkdir()
        (scratch / "frame.png").write_bytes(b"pixels")
    assert flags == [os.O_RDWR]


def write_folder(path: Path, text: str) -> None:
    with atomic_files.atomic_write(path) as scratch:
        scratch.mkdir()
        (scratch / "frame.png").write_text(text)


def test_writers_of_one_folder_at_the_same_moment_do_not_stop_each_other(tmp_path, monkeypatch):
    path, rename, others = tmp_path / "frames", Path.rename, iter(["second", "third"])
    write_folder(path, "first")

    def rename_and_be_overtaken(source, target):
        rename(source, target)
        if other := next(others, None):
            write_folder(path, other)  # while the first one's frames are away

    monkeypatch.setattr(Path, "rename", rename_and_be_overtaken)
    write_folder(path, "last")
    with atomic_files.atomic_write(path) as scratch:
        scratch.mkdir()
        atomic_files._replaced(path).mkdir()  # as another writer leaves it for a moment
        (atomic_files._replaced(path) / "frame.png").write_text("older")
        (scratch / "frame.png").write_text("very last")
    assert [file.name for file in tmp_path.iterdir()] == ["frames"]
    assert (path / "frame.png").read_text() == "very last"


def test_a_folder_that_cannot_be_put_back_at_once_is_kept(tmp_path, monkeypatch):
    path, rename = tmp_path / "frames", Path.rename
    write_folder(path, "first")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    def rename_once(source, target):
        rename(source, target)
        monkeypatch.setattr(Path, "rename", fail)
        monkeypatch.setattr(Path, "replace", fail)

    monkeypatch.setattr(Path, "rename", rename_once)
    with pytest.raises(OSError, match="Input/output"):
        write_folder(path, "second")
    monkeypatch.undo()
    assert (atomic_files.restore_replaced(path) / "frame.png").read_text() == "first"


@pytest.mark.slow
@pytest.mark.parametrize("call", ["replace", "fsync", "unlink", "mkdir"])
def test_killed_at_every_dangerous_point_of_a_save(setup, make_request, tmp_path, call):
    """Before each of the system calls that put a row and its clip in place, and after it."""
    trials = make_trials(setup, make_request, seed=[1])
    run_quietly(make_trials(setup, make_request, seed=[2]), tmp_path / "warm")
    kills = {False: 0, True: 0}
    for after, number in itertools.product(kills, range(1, 9)):
        folder = tmp_path / f"{after}{number}"

        def work(folder=folder, after=after, number=number):
            die_at_call(call, number, after)
            run_quietly(trials, folder)

        _, status = os.waitpid(fork(work), 0)
        kills[after] += os.WIFSIGNALED(status)
        if folder.exists():
            for row in read_rows(folder):
                assert len(row.open().frames) == 2
        run_quietly(trials, folder)
        check_folder(folder, trials)
    assert min(kills.values()) >= 1


def test_a_living_writer_that_is_silent_is_waited_for_on_its_own_machine(tmp_path):
    """Stopped by Ctrl-Z or asleep it touches nothing, and its process still proves that it lives."""
    with locks.claim(tmp_path, "0" * 16) as scratch:
        os.utime(scratch, (0, time.time() - 2 * locks.SILENT_SECONDS))
        assert locks.is_claimed(tmp_path, "0" * 16)
        os.utime(scratch, (0, time.time() - 2 * locks.PAUSED_SECONDS))  # as in a copy of the folder
        assert not locks.is_claimed(tmp_path, "0" * 16)
