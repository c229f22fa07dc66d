from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shlex
import threading
import warnings
import zipfile
from pathlib import Path

import nbformat
import pytest
import studies
from html_page import HOSTILE, Page
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from svdlab import Row, newest, review
from svdlab.interface.command_line import _parser
from svdlab.media.read_video import read_frames
from svdlab.rows.row_files import read_rows
from svdlab.rows.row_note import Note, write_note
from svdlab.rows.rows_table import rows_table

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "04_review.ipynb"


def test_rows_of_a_study_of_several_and_of_a_folder_of_studies(motion, tmp_path, monkeypatch):
    studies.write_row(tmp_path / "noise", 40, studies.draw_clip(3))
    assert len(review(motion).rows) == 6
    assert len(review([motion, str(tmp_path / "noise")]).rows) == 7
    view = review(tmp_path)
    assert [entry.folder.name for entry in view.entries] == ["motion"] * 6 + ["noise"]
    headings = Page(view._repr_html_()).all("th")
    assert {"motion_bucket_id", "seed"} == {h["data-knob"] for h in headings if h.get("data-knob")}
    assert "<td>noise</td>" in view._repr_html_()
    assert newest(tmp_path) == [tmp_path / "noise"]
    studies.write_row(
        tmp_path / "quickstart" / "panel", 41, studies.draw_clip(4)
    )  # as the first notebook's panel leaves one
    assert newest(tmp_path) == [tmp_path / "quickstart" / "panel"]
    assert newest(tmp_path / "nowhere") == []
    with pytest.raises(ValueError, match="There are no rows in"):
        review([])
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*run a sweep"):
        review(tmp_path / "nothing")
    (tmp_path / "notebooks").mkdir()  # where the kernel of a notebook works
    monkeypatch.chdir(tmp_path / "notebooks")
    words = re.escape(f"{Path('noise').absolute()}: give '{tmp_path / 'noise'}'")
    for read in (review, rows_table):
        with pytest.raises(FileNotFoundError, match=words):
            read("noise")


def test_five_hundred_rows_are_a_light_page(tmp_path):
    studies.write_copies(tmp_path / "many", 500)
    text = review(tmp_path / "many", inside=False)._repr_html_()
    page = Page(text)
    assert len(page.all("img")) == 500
    assert not any(film.get("src") or film.get("data-full") for film in page.all("img"))
    assert len(text) < 1_500_000
    assert len(page.elements) < 500 * 30


def test_few_clips_travel_inside_and_of_many_the_first_previews(motion, monkeypatch):
    films = Page(review(motion)._repr_html_()).all("img")
    assert [str(film["src"])[:16] for film in films] == ["data:image/webp;"] * 6
    assert [str(film["data-full"])[:15] for film in films] == ["data:video/mp4;"] * 6
    size = max(path.stat().st_size for path in motion.glob("*.preview.webp"))
    monkeypatch.setattr("svdlab.interface.review.INSIDE_BYTES", 2 * size)
    films = Page(review(motion)._repr_html_()).all("img")
    assert [bool(film.get("src")) for film in films] == [True] * 2 + [False] * 4
    assert not any(film.get("data-full") for film in films)
    assert not any(film.get("src") for film in Page(review(motion, inside=False)._repr_html_()).all("img"))
    assert all(film.get("data-full") for film in Page(review(motion, inside=True)._repr_html_()).all("img"))


def test_what_is_deleted_can_be_brought_back_for_a_week(motion):
    view = review(motion)
    first, second, *others = [row.key for row in view.rows]
    view.note(first, "doubtful")
    files = {path.name: path.read_bytes() for path in motion.iterdir()}
    view.delete(first, second)
    assert [row.key for row in view.rows] == [row.key for row in review(motion).rows] == others
    assert not [path for path in motion.iterdir() if path.name.startswith((first, second))]
    view.restore(second)
    view = review(motion)  # as after the kernel was started anew
    with pytest.raises(ValueError, match=f"0 deleted rows have a key that begins with 'f': .*{first}"):
        view.restore("f")
    view.restore()
    assert {path.name: path.read_bytes() for path in motion.iterdir() if path.is_file()} == files
    assert {row.key for row in view.rows} == {first, second, *others}
    view.delete(*[row.key for row in view.rows])
    view = review(motion)
    assert "All rows were deleted" in view._repr_html_()
    view.restore()
    assert {path.name: path.read_bytes() for path in motion.iterdir() if path.is_file()} == files
    view.delete(first)
    (motion / f"{first}.json").write_bytes(files[f"{first}.json"])  # as if it had been made again meanwhile
    view.restore()
    assert first in [row.key for row in view.rows]
    view.delete(first)
    [day] = (motion / ".deleted").iterdir()
    day.rename(day.with_name("2020-01-01"))
    view.delete(second)
    assert [path.name for path in (motion / ".deleted").iterdir()] == [day.name]  # what is old has been cleared
    assert len(review(motion.parent).rows) == 4  # a folder of studies does not take it for one


def test_rows_of_a_study_that_is_a_link_are_deleted_too(motion, tmp_path):
    (tmp_path / "link").symlink_to(motion)
    view = review(tmp_path / "link")
    view.delete(view.rows[0].key)
    assert len(read_rows(motion)) == 5
    view.restore()
    assert len(read_rows(motion)) == 6


def test_nothing_outside_of_the_study_is_deleted(motion, tmp_path):
    view = review(motion)
    key, outside = view.rows[0].key, tmp_path / "outside"
    outside.mkdir()
    (motion / ".deleted").symlink_to(outside)
    with pytest.raises(ValueError, match="is a link"):
        view.delete(key)
    assert (motion / f"{key}.json").exists()
    assert not list(outside.iterdir())


def test_stars_and_notes_are_kept_beside_the_rows_and_disturb_none(motion):
    view = review(motion)
    first, second, *_ = [row.key for row in view.rows]
    view.star(first, second)
    view.note(second, "the flame is right ✓")
    reopened = review(motion)
    assert [row.key for row in reopened.starred] == [first, second]
    assert reopened.entries[1].note == Note(True, "the flame is right ✓")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_rows(motion)) == len(rows_table(motion)) == 6
    view.star(first, second, on=False)
    view.note(second, "")
    assert not list(motion.glob("*.note"))
    (motion / f"{first}.note").write_text('{"star": tru')
    assert review(motion).entries[0].note == Note()
    with pytest.raises(ValueError, match="6 rows have a key that begins with '00'"):
        view.star("00")


@pytest.mark.parametrize("text", ['{"star": true, "text": "\\ud800"}', '{"star": true, "text": 5}', "[" * 100_000])
def test_a_note_that_nobody_wrote_is_an_empty_one(motion, text):
    entry = review(motion).entries[0]
    write_note(motion, entry.row.key, Note(True, "mine"))
    [path] = motion.glob("*.note")
    path.write_text(text)
    assert entry.note == Note()
    path.unlink()
    os.mkfifo(path)  # a reader would wait for ever
    assert entry.note == Note()
    path.unlink()
    path.symlink_to(motion.parent / "elsewhere")
    (motion.parent / "elsewhere").write_text('{"star": true, "text": "a secret"}')
    assert entry.note == Note()


def test_the_newest_study_may_hold_a_broken_link(motion, tmp_path):
    (motion / "0.json").symlink_to(tmp_path / "nothing")
    assert newest(tmp_path) == [motion]


def test_an_export_replaces_no_videos_of_somebodys_own(motion, tmp_path):
    view = review(motion)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.mp4").write_bytes(b"mine")
    with pytest.raises(ValueError, match="give a new folder"):
        view.export(tmp_path / "holiday", [view.rows[0].key])
    assert (tmp_path / "holiday" / "beach.mp4").read_bytes() == b"mine"
    with zipfile.ZipFile(tmp_path / "thesis.zip", "w") as archive:
        archive.writestr("thesis.tex", "mine")
    with pytest.raises(ValueError, match="give a new folder"):
        view.export(tmp_path / "thesis.zip", [view.rows[0].key])
    assert zipfile.is_zipfile(tmp_path / "thesis.zip")
    for _ in range(2):  # an older export is replaced
        view.export(tmp_path / "chosen.zip", [view.rows[0].key])


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_several_writers_of_one_note_leave_a_whole_one(motion):
    entry = review(motion).entries[0]
    notes = [(motion, entry.row.key, Note(True, "x" * size)) for size in range(1, 40)]
    writers = [threading.Thread(target=write_note, args=note) for note in notes]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert entry.note.star
    assert set(entry.note.text) == {"x"}
    assert {file.suffix for file in motion.iterdir()} == {".json", ".mp4", ".note"}


def test_hostile_text_stays_text(motion):
    studies.write_failure(motion, 70, HOSTILE, image=f"/pictures/{HOSTILE}.png")
    view = review(motion)
    view.note(view.rows[0].key, HOSTILE)
    page = Page(view._repr_html_())
    assert len(page.all("img")) == 6  # the previews alone
    assert len(page.all("script")) == 1
    assert len(page.all("tr")) == 1 + 7
    assert [td["data-v"] for td in page.all("td") if td.get("class") == "svdlab-note"] == [HOSTILE] + [""] * 6


@pytest.mark.filterwarnings("ignore:In .*clips are not as their rows say")
def test_what_is_no_video_of_this_study_is_neither_shown_nor_exported(motion, tmp_path):
    secret = studies.replace_clips(motion, tmp_path)
    view = review(motion)
    page = Page(view._repr_html_())
    assert len(page.all("img")) == 6 - 3
    assert base64.b64encode(secret).decode() not in view._repr_html_()
    assert sum("no MP4 video" in (line["data-error"] or "") for line in page.all("tr") if "data-error" in line) == 1
    keys = [row.key for row in view.rows]
    names = zipfile.ZipFile(view.export(tmp_path / "all.zip", keys)).namelist()
    assert len(names) == 3 + 1
    with pytest.raises(ValueError, match="There is no clip to export"):
        view.export(tmp_path / "secrets", keys[:2])


def test_one_bad_row_file_spoils_nothing_and_is_named(motion, tmp_path):
    good = json.loads((motion / "0000000000000000.json").read_text())
    for name, text in {
        "climbing": json.dumps(good | {"key": "../../pwned"}),
        "deep": "[" * 100_000,
        "0000000000000009": json.dumps(good | {"key": "0000000000000009", "created": 5}),
    }.items():
        (motion / f"{name}.json").write_text(text)
    with pytest.warns(UserWarning, match="is passed over") as warned:
        view = review(motion)
    assert len(view.rows) == 6
    sentences = " ".join(str(each.message) for each in warned)
    assert all(name in sentences for name in ("climbing.json", "deep.json", "0000000000000009.json"))
    view.star(*[row.key for row in view.rows])
    assert not list(tmp_path.rglob("pwned*"))
    assert len(list(motion.glob("*.note"))) == 6


def test_what_a_killed_export_left_is_cleared(motion, tmp_path):
    (tmp_path / ".svdlab-0123456789ab").mkdir()
    (tmp_path / ".svdlab-0123456789ab" / "chosen.zip").write_bytes(b"half of it")
    view = review(motion)
    view.export(tmp_path / "chosen.zip", [view.rows[0].key])
    assert {file.name for file in tmp_path.iterdir()} == {"chosen.zip", "motion"}


def test_an_exported_table_holds_no_formulas(motion, tmp_path):
    import pandas as pd

    studies.write_row(
        motion, 50, studies.draw_clip(5, noise_aug_strength=0.1), version="=HYPERLINK(A1)", notes=("@SUM(A1)", "-x")
    )
    view = review(motion)
    view.note("0032", "+1 for this one")
    table = pd.read_csv(view.export(tmp_path / "chosen", ["0032"]) / "rows.csv").iloc[0]
    assert (table["version"], table["notes"]) == ("'=HYPERLINK(A1)", "'@SUM(A1), -x")
    assert table["note"] == "'+1 for this one"
    assert table["noise_aug_strength"] == 0.1


def test_what_makes_a_row_again_makes_that_row(motion):
    row = studies.write_row(motion, 50, studies.draw_clip(5, 60, noise_aug_strength=0.1, focus=(0.2, 0.5)))
    view = review(motion)
    imports, *python, shell = filter(None, view.again(row.key).splitlines())
    names: dict = {}
    exec(imports, names)
    assert {"generate", "load", "show"} <= names.keys()
    # what it asks for, not the seconds that it takes
    names |= {"load": lambda setup: setup, "generate": lambda *arguments: arguments, "show": lambda clip: None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec("\n".join(python), names)
    assert names["clip"] == (row.setup, row.request)
    options = _parser().parse_args(shlex.split(shell)[1:])
    assert options.again == row.clip
    failed = studies.write_failure(motion, 51, "The card is too small.")
    assert "svdlab clip" not in review(motion).again(failed.key)


def test_clips_are_compared_with_the_first(motion):
    view = review(motion)
    same, other = view.rows[0], view.rows[1]
    comparison = view.compare(same.key, other.key, view.rows[5].key)
    page = Page(comparison.html)
    assert all(str(film["data-full"]).startswith("data:video/mp4") for film in page.all("img"))
    assert len(page.all("img")) == 3
    assert "PSNR (dB) against the first" in comparison.html
    heads = [head.get("data-measure") for head in page.all("th") if head["scope"] == "col"]
    place = heads.index("PSNR (dB) against the first")
    lines = [line.split("<t")[1:] for line in comparison.html.split("<tr")[2:5]]
    first, second, third = [line[place].partition(">")[2].partition("</td>")[0] for line in lines]
    assert first == ""
    assert 50 > float(second) > float(third) > 20
    for count in (1, 7):
        with pytest.raises(ValueError, match="name two to six"):
            view.compare(*[same.key] * count)


def test_a_wall_by_any_two_knobs(motion):
    view = review(motion)
    assert len(view.wall().labels) == 6
    assert view.wall().labels[0] == "motion_bucket_id 20, seed 1"
    assert view.wall("seed").labels[0] == "seed 1, motion_bucket_id 20"


def test_chosen_clips_are_exported_with_their_rows(motion, tmp_path):
    import pandas as pd

    view = review(motion)
    with pytest.raises(ValueError, match="star a row first"):
        view.export(tmp_path / "chosen")
    view.star(view.rows[0].key, view.rows[5].key)
    view.note(view.rows[5].key, "the best")
    folder, archive = view.export(tmp_path / "chosen"), view.export(tmp_path / "chosen.zip")
    names = [
        "motion_motion_bucket_id-20_seed-1_0000000000000000.mp4",
        "motion_motion_bucket_id-220_seed-2_0005000000000000.mp4",
    ]
    assert sorted(file.name for file in folder.iterdir()) == [*names, "rows.csv"]
    assert sorted(zipfile.ZipFile(archive).namelist()) == [*names, "rows.csv"]
    assert (folder / names[0]).read_bytes() == (motion / "0000000000000000.mp4").read_bytes()
    assert len(read_frames(folder / names[1])[0]) == studies.FRAMES
    table = pd.read_csv(folder / "rows.csv", dtype={"key": str})
    assert list(table["file"]) == names
    assert list(table["note"].fillna("")) == ["", "the best"]
    assert list(table["motion_bucket_id"]) == [20, 220]
    (folder / ".DS_Store").touch()  # somebody looked into it
    view.export(folder, [view.rows[1].key])  # takes the place of the one before
    name = "motion_motion_bucket_id-20_seed-2_0001000000000000.mp4"
    assert sorted(file.name for file in folder.iterdir()) == [name, "rows.csv"]
    with pytest.raises(ValueError, match="give a new folder"):
        view.export(motion)  # holds rows
    with pytest.raises(ValueError, match="give a new folder"):
        view.export(tmp_path / "chosen.mp4")
    assert len(read_rows(motion)) == 6


class Messages(list):
    """A channel to a page, which keeps what is sent."""

    def send(self, content, buffers=None):
        self.append((content, buffers))


def test_a_star_leaves_the_note_that_another_page_wrote_and_is_taken_back_where_it_cannot_be_kept(motion, monkeypatch):
    view, messages = review(motion), Messages()
    view.note(view.rows[0].key, "the flame is right")
    view._answer(messages, {"what": "keep", "row": 0, "star": True}, None)
    assert view.entries[0].note == Note(True, "the flame is right")

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("svdlab.interface.review.write_note", refuse)
    view._answer(messages, {"what": "keep", "row": 1, "star": True}, None)
    [(problem, _), (notes, _), _] = messages
    assert "Read-only file system" in problem["problem"]
    assert [note["star"] for note in notes["notes"][:2]] == [True, False]


def test_the_page_can_ask_only_for_rows_that_it_shows(motion):
    view, messages = review(motion), Messages()
    view._answer(messages, {"what": "clip", "row": 2}, None)
    view._answer(messages, {"what": "compare", "rows": [0, 0]}, None)
    view._answer(messages, {"what": "keep", "row": 3, "star": True, "text": HOSTILE}, None)
    view._answer(messages, {"what": "notes"}, None)
    view._answer(messages, {"what": "preview", "rows": [2, 3]}, None)
    assert messages[0] == ({"files": ["clip 2"]}, [(motion / "0002000000000000.mp4").read_bytes()])
    previews = [(motion / f"000{place}000000000000.preview.webp").read_bytes() for place in (2, 3)]
    assert messages[-1] == ({"files": ["preview 2", "preview 3"]}, previews)
    view._answer(messages, {"what": "delete", "rows": [4, 5]}, None)
    view._answer(messages, {"what": "restore", "rows": [4]}, None)
    assert [content["absent"] for content, _ in messages[-2:]] == [[4, 5], [5]]
    assert messages[1][0]["measures"] == [
        ["PSNR (dB) against the first", ["", "100"]],
        ["SSIM against the first", ["", "1"]],
    ]
    assert messages[2][0]["notes"][3] == {"star": True, "text": HOSTILE}
    for row in ("../secret", 99, None):
        with pytest.raises((IndexError, TypeError)):
            view._answer(messages, {"what": "clip", "row": row}, None)


@pytest.mark.parametrize("clips", [6, 1])
def test_the_notebook_runs_without_a_browser(motion, clips, tmp_path, monkeypatch):
    """In this process: all notebooks run in kernels of their own elsewhere. Of one clip, the other rows have failed."""
    for file in sorted(motion.glob("*.json"))[clips:]:
        row = Row.from_json(file.read_text(), motion)
        file.write_text(dataclasses.replace(row, status="failed", clip=None, error="out of memory").to_json())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("svdlab.interface.report._curves", lambda done, knob: {})  # which take seconds to draw
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    shell, pages = InteractiveShell(), []
    for cell in cells:
        with capture_output() as captured:
            outcome = shell.run_cell(cell.source)
        outcome.raise_error()
        assert not captured.stderr
        if "parameters" in cell.metadata.get("tags", []):
            shell.user_ns |= {"folders": [str(motion)], "results": str(tmp_path / "kept")}
        if hasattr(outcome.result, "_repr_html_"):
            pages.append(outcome.result._repr_html_())
    assert [len(Page(text).all("img")) for text in pages] == ([6, 3, 6] if clips > 1 else [1, 1])
    assert all(film["src"] for text in pages for film in Page(text).all("img"))
    assert {file.name for file in (tmp_path / "kept").iterdir()} == {"chosen", "chosen.zip", "report.html"}
    assert "svdlab clip --again" in captured.stdout
