from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import studies
from html_page import HOSTILE, Page

from svdlab import Setup, newest, report
from svdlab.interface.command_line import main
from svdlab.rows.measurement import Measurement
from svdlab.rows.typed_json import from_plain


@pytest.fixture(scope="module")
def report_path(tmp_path_factory) -> Path:
    """A report with everything in it, for tests that only read it."""
    folder = tmp_path_factory.mktemp("studies")
    studies.write_study(folder / "motion")
    return report(folder / "motion", folder / "out" / "report.html")


@pytest.fixture
def without_curves(monkeypatch):
    """Drawing takes seconds, and most tests look elsewhere."""
    monkeypatch.setattr("svdlab.interface.report._curves", lambda done, knob: {})


def sources(page: Page) -> list[str]:
    """Everything that a browser would fetch."""
    values = [
        value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "srcset")
    ]
    return [value for value in values if value]


def test_a_report_is_one_file_that_needs_nothing_else(report_path):
    text = report_path.read_text()
    page = Page(text)
    assert [file.name for file in report_path.parent.iterdir()] == ["report.html"]
    assert [str(film["data-full"])[:14] for film in page.all("img") if "data-full" in film] == ["data:video/mp4"] * 6
    assert all(source.startswith("data:") for source in sources(page))
    assert not re.search("https?://", text)
    assert not page.all("link")
    [policy] = [str(meta["content"]) for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    assert "<strong>motion (px a frame)</strong>" in text
    assert "svdlab clip --again" in text


def test_a_screen_reader_finds_its_way_in_a_report(report_path):
    page = Page(report_path.read_text())
    assert page.all("img")
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(f"h{level}")) for level in (1, 2)] == [1, 1]
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(image["alt"] for image in page.all("img"))
    assert all(head["scope"] for head in page.all("th"))


def test_videos_beside_a_report(motion, tmp_path, without_curves):
    path = report([motion], tmp_path / "out" / "a report.html", "beside")
    films = [str(film["data-full"]) for film in Page(path.read_text()).all("img")]
    assert len(films) == 6
    for film in films:
        assert film.startswith("a%20report_files/motion_motion_bucket_id-")
        assert (path.parent / unquote(film)).read_bytes()[4:8] == b"ftyp"
    studies.write_row(motion, 40, studies.draw_clip(3))
    assert len(Page(report([motion], path, "beside").read_text()).all("img")) == 7  # it took the other's place
    assert {file.name for file in path.parent.iterdir()} == {"a report.html", "a report_files"}
    assert len(list((path.parent / "a report_files").iterdir())) == 7


def test_many_megabytes_of_clips_lie_beside_a_report(motion, tmp_path, without_curves, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert report(f"~/{motion.relative_to(tmp_path)}", "~/one.html") == tmp_path / "one.html"
    assert newest("~") == [motion]
    monkeypatch.setattr("svdlab.interface.report._INSIDE_BYTES", 10_000)
    report(motion, tmp_path / "light.html")
    assert not (tmp_path / "one_files").exists()
    assert len(list((tmp_path / "light_files").iterdir())) == 6
    assert (tmp_path / "light.html").stat().st_size < (tmp_path / "one.html").stat().st_size


def test_a_report_is_written_whole_or_not_at_all(motion, tmp_path, without_curves):
    out = tmp_path / "out"
    (out / "report_files").mkdir(parents=True)
    (out / "report_files" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="something else than a report"):
        report(motion, out / "report.html", "beside")
    with pytest.raises(ValueError, match=r"use a name\.html"):
        report(motion, out / "report.pdf")
    with pytest.raises(ValueError, match="There are no rows"):
        report(out, out / "report.html")
    (out / "homepage.html").write_text("mine")
    with pytest.raises(ValueError, match="something else than a report"):
        report(motion, out / "homepage.html")
    (out / "homepage.html").unlink()
    (out / "in the way").write_text("")
    with pytest.raises(OSError, match="in the way"):
        report(motion, out / "in the way" / "report.html")
    assert {file.name for file in out.iterdir()} == {"report_files", "in the way"}
    assert [file.name for file in (out / "report_files").iterdir()] == ["thesis.txt"]


def test_hostile_text_stays_text(tmp_path, without_curves):
    folder = tmp_path / "<script>alert(3)"
    studies.write_study(folder)
    studies.write_failure(folder, 70, HOSTILE, image=f"/pictures/{HOSTILE}.png")
    (folder / "0000000000000000.note").write_text('{"star": true, "text": "{{body}}</pre><script>alert(4)</script>"}')
    text = report(folder, tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    page = Page(text)
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 6  # the previews alone
    assert text.count("<h1>") == 1
    assert "1 of them failed" in text


def test_what_was_measured_has_a_table(tmp_path):
    folder = tmp_path / "memory"
    stage = {"call": 0, "seconds": 2.0, "peaks": {"allocated_bytes": 3 * 2**30, "process_bytes": 2**30}}
    stages = [{**stage, "stage": name} for name in ("encode", "denoise", "decode", "finish")]
    repeats = [{**each, "call": 1, "seconds": 1.5} for each in stages]
    measurement = from_plain(Measurement, {"stages": stages + repeats, "process_peak_bytes": 2**31}, "measurement")
    for place in range(2):  # nothing but measured, as with weights of random values
        bare = {"clip": None, "quality": None, "timings": {}, "axes": ("setup",)}
        studies.write_row(folder, place, studies.draw_clip(place), measurement=measurement, **bare)
    text = report(folder, tmp_path / "report.html").read_text()
    assert "Memory and speed" in text
    assert '<th scope="col">peak allocated (GiB)</th>' in text
    assert '<td class="svdlab-number" data-v="3.0">3</td>' in text
    assert "psnr" not in text.split("Memory and speed")[1].split("</table>")[0]  # nobody measured it


def test_measured_setups_are_compared_by_their_labels(tmp_path, without_curves):
    for place, optimizations in enumerate([(), ("single-token",)]):
        setup = Setup("tiny", dtype="fp32", optimizations=optimizations)
        studies.write_row(tmp_path / "ladder", place, replace(studies.draw_clip(), setup=setup), axes=("setup",))
    text = report(tmp_path / "ladder", tmp_path / "report.html").read_text()
    assert "What <code>setup</code> does" in text
    assert "<td>fp32, single-token</td>" in text


@pytest.mark.filterwarnings("ignore:In .*clips are not as their rows say")
def test_what_is_no_video_of_this_study_stays_out(motion, tmp_path, without_curves):
    secret = studies.replace_clips(motion, tmp_path)
    inside = report(motion, tmp_path / "report.html").read_text()
    assert base64.b64encode(secret).decode() not in inside
    assert len(Page(inside).all("img")) == 6 - 3
    beside = report(motion, tmp_path / "out" / "report.html", "beside").parent / "report_files"
    assert len(list(beside.iterdir())) == 6 - 3
    assert not any(file.read_bytes() == secret for file in beside.iterdir())


def test_one_bad_row_file_spoils_nothing_and_is_named(motion, tmp_path, without_curves):
    (motion / "bad.json").write_text("[" * 100_000)
    (motion / ".svdlab-0123456789ab").mkdir()
    (tmp_path / ".svdlab-0123456789ab").mkdir()  # of a report that was killed
    with pytest.warns(UserWarning, match=r"bad\.json is passed over"):
        text = report(motion, tmp_path / "report.html").read_text()
    assert len(Page(text).all("img")) == 6
    assert not (tmp_path / ".svdlab-0123456789ab").exists()


def test_one_row_and_only_failures_are_reported_too(tmp_path):
    studies.write_row(tmp_path / "one", 0, studies.draw_clip())
    assert "Only one" not in report(tmp_path / "one", tmp_path / "one.html").read_text()
    (tmp_path / "none").mkdir()
    for place in range(2):
        studies.write_failure(tmp_path / "none", place, "The card is too small.", height=72 + 8 * place)
    text = report(tmp_path / "none", tmp_path / "none.html").read_text()
    assert "There is no clip to study: The card is too small." in text
    assert Page(text).all("img") == []


def test_a_report_from_the_command_line(motion, tmp_path, capsys, without_curves):
    out = tmp_path / "page.html"
    assert main(["report", str(motion), "-o", str(out), "--videos", "beside"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert len(list((tmp_path / "page_files").iterdir())) == 6
    assert main(["report", str(tmp_path / "nothing")]) == 1
    assert "There is no folder" in capsys.readouterr().err
