"""Words for messages, and files that appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from svdlab.atomic_files import atomic_write, clear_leftovers
from svdlab.messages import describe_error, did_you_mean, first_line, shorten


def test_text_from_elsewhere_is_one_short_printable_line():
    assert first_line("\n\n \x1b[31mred\x07\u202e\nmore") == "[31mred"
    assert first_line("") == "no reason given"
    assert len(first_line("x" * 10**6)) == 300


def list_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    "value", ["x" * 100_000, 10**300, 10**5000, [0.5] * 1000, {"a": ["\x1b[2J"] * 500}], ids=list("abcde")
)
def test_long_values_are_cut(value):
    text = shorten(value)
    assert len(text) <= 200
    assert text.isprintable()


def test_nearest_names():
    assert did_you_mean("rocet", ["rocket", "portrait"]) == "; did you mean 'rocket'?"
    assert did_you_mean("x" * 100_000, ["rocket"]) == ""


def test_an_error_that_was_never_raised_has_no_place():
    assert describe_error(KeyError("x")) == "KeyError: 'x'."


WRITER = """
import sys, time
from pathlib import Path
from svdlab.atomic_files import atomic_write
with atomic_write(Path(sys.argv[1])) as scratch:
    scratch.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    target = tmp_path / "report.html"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout
    assert writer.stdout.readline() == "writing\n"
    clear_leftovers(tmp_path)
    assert len(list_names(tmp_path)) == 1
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    clear_leftovers(tmp_path)
    assert list_names(tmp_path) == []


def test_the_next_writer_clears_what_a_killed_one_left(tmp_path):
    (tmp_path / ".svdlab-0123456789ab").mkdir()
    with atomic_write(tmp_path / "report.html") as scratch:
        scratch.write_text("whole")
    assert list_names(tmp_path) == ["report.html"]


def test_a_folder_whose_writer_was_killed_half_way_is_put_back(tmp_path):
    (tmp_path / ".svdlab-frames.old").mkdir()
    clear_leftovers(tmp_path)
    assert list_names(tmp_path) == ["frames"]
    (tmp_path / ".svdlab-frames.old").mkdir()
    clear_leftovers(tmp_path)
    assert list_names(tmp_path) == ["frames"]


def fail_in_the_middle(target):
    with atomic_write(target) as scratch:
        scratch.write_text("a")
        raise OSError(28, "No space left on device")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at the process's open files")
def test_a_full_disk_leaves_no_file_open_and_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        fail_in_the_middle(tmp_path / "full.txt")
    assert not [file for file in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(tmp_path) in file]
    assert list_names(tmp_path) == []
