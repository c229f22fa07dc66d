"""Parameter files, and notebooks run without a browser on a warm kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import papermill  # noqa: F401  (before the engine, which papermill loads itself)
import pytest

from release.install_cell import install_cell, install_from
from svdlab import results_folder, unused_path
from svdlab.headless.papermill_engine import stop_kernels
from svdlab.headless.run_notebooks import MAX_BYTES, read_parameters, run_notebook, unknown_parameter
from svdlab.interface.command_line import main

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def warm_kernel():
    yield
    stop_kernels()


@pytest.fixture
def probe(tmp_path, monkeypatch) -> Path:
    """A notebook that tells which process ran it and what it found there."""
    monkeypatch.chdir(tmp_path)
    cells = [
        nbformat.v4.new_code_cell("who = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(install_cell(install_from())),
        nbformat.v4.new_code_cell(
            "import os, sys\n"
            "print(os.getpid(), who, 'left' in globals(), 'colorsys' in sys.modules, os.getcwd())\n"
            "import colorsys\nleft = 1\nassert who != 13, 'unlucky'\nif who == 99: os._exit(1)"
        ),
    ]
    path = tmp_path / "probe.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def read_output(copy: Path) -> list[str]:
    """What the one cell that prints anything wrote: the line that installs says nothing."""
    [output] = [o for cell in nbformat.read(copy, 4).cells for o in cell.get("outputs", ()) if o.output_type != "error"]
    return output.text.split()


def test_one_kernel_for_several_files_with_its_names_cleared(probe, tmp_path, warm_kernel, capfd):
    for name, text in {"a": "who: 2", "b": "who: 3", "c": "{}"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    copies = list(run_notebook(probe, ["a.yaml", "b.yaml", "c.yaml"]))
    first, second, third = (read_output(copy) for copy in copies)
    assert first[0] == second[0] == third[0]
    assert [x[1] for x in (first, second, third)] == ["2", "3", "1"]
    assert [x[2] for x in (first, second, third)] == ["False"] * 3  # names are cleared
    assert [x[3] for x in (first, second, third)] == ["False", "True", "True"]  # modules stay
    assert first[4] == str(tmp_path)
    assert [cell.execution_count for cell in nbformat.read(copies[1], 4).cells] == [1, 2, 3, 4]
    assert "WARNING" not in capfd.readouterr().err  # ipykernel's, of a connection without encryption


def test_a_run_that_fails_or_dies_names_the_study_and_the_next_gets_a_new_kernel(probe, tmp_path, capsys, warm_kernel):
    for name, text in {"good": "who: 2", "bad": "who: 13", "dead": "who: 99"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert main(["run", "probe.ipynb", "good.yaml", "bad.yaml"]) == 1
    captured = capsys.readouterr()
    assert captured.out.split() == ["results/good/probe.ipynb"]
    assert "bad: AssertionError: unlucky" in captured.err.splitlines()[-1]
    assert main(["run", "probe.ipynb", "dead.yaml"]) == 1
    assert "dead: " in capsys.readouterr().err.splitlines()[-1]
    [copy] = run_notebook(probe, ["good.yaml"])
    assert read_output(copy)[2:4] == ["False", "False"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("who: 2\nwho: 3", "'who' twice"),
        ("who: !!python/object/apply:os.system [echo]", "plain YAML"),
        ("- 1\n- 2", "sets nothing"),
        ("who: [1", "plain YAML"),
        ("who: " + "[" * 5000, "plain YAML"),
        ("who: 2026-13-45", "plain YAML"),
        ("who: 2026-11-21", "plain YAML"),  # a date is no value of a notebook
        ("who: !!binary x", "plain YAML"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nwho: [*b, *b]", "alias"),
        ("who: &a [*a]", "alias"),
        ("wha: 2", "did you mean 'who'?"),
        ("zzz: 2", "it has who."),
        ("w" * 900 + ": 2", "it has who."),
        ("who: " + "1" * MAX_BYTES, "1 MB"),
    ],
)
def test_a_wrong_parameter_file_is_named_before_anything_runs(probe, tmp_path, text, reason):
    (tmp_path / "good.yaml").write_text("who: 2")
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.yaml") as refusal:
        list(run_notebook(probe, ["good.yaml", "odd.yaml"]))
    assert reason in str(refusal.value)
    assert len(str(refusal.value)) < 500
    assert not (tmp_path / "results").exists()


def test_a_parameter_may_be_called_on(tmp_path):
    """YAML 1.1 reads it as true."""
    (tmp_path / "motion.yaml").write_text("variant: tiny\non: ray\nsteps: {on: 1}")
    values = {"variant": "tiny", "on": "ray", "steps": {"on": 1}}
    assert read_parameters(tmp_path / "motion.yaml", ["variant", "on", "steps"]) == values
    assert "in quotes" in unknown_parameter({True: "ray"}, ["variant", "on"])  # as papermill's own reader has it


def test_a_parameter_file_that_is_no_file_is_refused(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="cannot be read"):
            read_parameters(path)


def test_a_parameter_that_is_misspelled_is_refused_by_the_papermill_command_before_anything_runs(tmp_path):
    """The real command, on a real notebook: papermill alone would warn, and run the sweep that nobody asked for."""
    command = [Path(sys.executable).with_name("papermill"), "--engine", "svdlab", "--no-progress-bar"]
    notebook = NOTEBOOKS / "02_micro_conditioning.ipynb"
    process = subprocess.run(
        [*command, notebook, "out.ipynb", "-p", "motion_bucket", "3"], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 2
    assert "did you mean 'motion_bucket_id'?" in process.stderr
    assert "fixed" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "results").exists()


def test_results_lie_where_one_works_and_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert results_folder("", "motion") == tmp_path / "results" / "motion"
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "results" / "motion")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert results_folder("", "motion") == tmp_path / "results" / "motion"
    monkeypatch.setenv("HOME", str(tmp_path))
    for results in (tmp_path / "here", "~/here"):
        assert results_folder(results, "motion") == tmp_path / "here"
    for name in ("clip.mp4", "clip-2.mp4", "clip-3.mp4"):
        assert unused_path(tmp_path / "clip.mp4").name == name
        (tmp_path / name).touch()
    (tmp_path / "chosen").symlink_to("nowhere")
    assert unused_path(tmp_path / "chosen").name == "chosen-2"
