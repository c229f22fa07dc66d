"""Every notebook, executed by papermill in a directory outside the project, on the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import papermill
import pytest

from svdlab import Setup, estimate, ladder, read
from svdlab.headless.run_notebooks import check_parameters, read_parameters, run_notebook
from svdlab.headless.warm_kernel import stop_kernels
from svdlab.interface.command_line import main
from svdlab.rows.rows_table import rows_table

PARAMS = Path(__file__).parents[1] / "params"
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a notebook with parameters; gives the texts and the HTML that its cells left, joined."""
    monkeypatch.chdir(tmp_path)

    def executed(name: str, **parameters) -> str:
        done = papermill.execute_notebook(
            NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb", parameters, progress_bar=False, kernel_name="python3"
        )
        outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
        assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
        texts = [o.get("text", "") for o in outputs]
        pages = [
            o["data"].get(kind, "")
            for o in outputs
            if "data" in o
            for kind in ("text/plain", "text/html", "text/markdown")
        ]
        return "\n".join(texts + pages)

    return executed


def test_quickstart(execute, tmp_path):
    shown = execute("01_quickstart", variant="tiny", results=str(tmp_path / "made"))
    assert "The same frames: True" in shown
    assert shown.count("<video") >= 3
    calm, lively = read(tmp_path / "made" / "clip.mp4"), read(tmp_path / "made" / "livelier.mp4")
    assert (calm.request.motion_bucket_id, lively.request.motion_bucket_id) == (127, 220)
    assert len(calm.frames) == len(read(tmp_path / "made" / "livelier.gif").frames) == 14


def test_memory_and_speed(execute, tmp_path):
    """Predicted and measured: the rungs are rows beside any others, and their frames were compared."""
    asked = {"predict": "tiny", "memory": "8GB", "names": ["single-token"], "steps": 2, "repeats": 1}
    asked |= {"fixed": {"num_frames": 4}}
    shown = execute("03_memory_and_speed", results=str(tmp_path / "made"), **asked)
    assert "tiny on a card of 8.0 GiB" in shown
    assert "RTX 3060" in shown
    assert "the fastest, exact" in shown
    frame = rows_table(tmp_path / "made")
    assert frame.optimizations.tolist() == ["", "single-token"]
    assert (frame.peak_process_bytes > 10**8).all()
    assert (frame.psnr_db > 50).all()


@pytest.fixture
def warm():
    yield
    stop_kernels()


@pytest.mark.slow
def test_micro_conditioning(execute, tmp_path):
    """The study at the size that the notebook itself has: motion rises with the bucket."""
    shown = execute("02_micro_conditioning", results=str(tmp_path / "made"))
    assert "rises with it (rank correlation +" in shown
    assert shown.count("<video") == 18 + 1
    assert (tmp_path / "made" / "wall.mp4").stat().st_size > 10_000
    assert len(rows_table(tmp_path / "made")) == 18


def reduced(given: dict) -> dict:
    """The study at the size of a test: two values an axis, one seed, few steps, few frames."""
    axes = {}
    for name, values in given["axes"].items():
        values = [values["start"], values["stop"]] if isinstance(values, dict) else [values[0], values[-1]]
        axes[name] = values[:1] if name == "seed" and len(given["axes"]) > 1 else values
    if "num_inference_steps" in axes:
        axes |= {"num_inference_steps": [1, 2]}
    steps = {} if "num_inference_steps" in axes else {"num_inference_steps": 1}
    return given | {"axes": axes, "fixed": given.get("fixed", {}) | steps | {"num_frames": 6}}


@pytest.mark.parametrize("file", sorted(PARAMS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_parameter_file_says_what_it_is_for_and_fits_its_notebook(file):
    assert file.read_text().startswith("# ")
    given = read_parameters(file)
    if "memory_speed" not in file.name:
        assert check_parameters(NOTEBOOKS / "02_micro_conditioning.ipynb", given)
        return
    assert check_parameters(NOTEBOOKS / "03_memory_and_speed.ipynb", given)
    setup = Setup(given["variant"], given.get("weights", ""), optimizations=tuple(given.get("start", ())))
    rungs = ladder(setup, given["names"], cumulative=given.get("cumulative", True))
    assert len(rungs) == len(given["names"]) + 1
    assert all(rung.setup.weights in ("random", "bundled") for rung in rungs)  # nothing is downloaded


@pytest.mark.slow
@pytest.mark.parametrize("gib", [8, 12, 16])
def test_every_rung_for_a_card_is_predicted_to_fit_it(gib):
    given = read_parameters(PARAMS / f"memory_speed_{gib}gb.yaml")
    start = Setup(given["variant"], "random", dtype="fp16", optimizations=tuple(given.get("start", ())))
    for trial in ladder(start, given["names"]):
        assert estimate(trial.setup, trial.request).fits(gib * 2**30)


@pytest.mark.parametrize("of", ["tiny", pytest.param("svd-xt", marks=pytest.mark.slow)])
def test_every_parameter_file_runs_at_reduced_size(tmp_path, monkeypatch, capsys, warm, of):
    """One warm kernel for all of them. The twins for SVD-XT differ by their variant, which here is tiny."""
    monkeypatch.chdir(tmp_path)
    studies = sorted(file for file in PARAMS.glob("*.yaml") if "memory_speed" not in file.name)
    files = [file for file in studies if read_parameters(file)["variant"] == of]
    for file in files:
        given = reduced(read_parameters(file)) | {"variant": "tiny", "image": "rocket"}
        (tmp_path / file.name).write_text(json.dumps(given))  # JSON is YAML
    assert (len(files), len(studies)) == (8 if of == "tiny" else 7, 15)
    assert main(["run", str(NOTEBOOKS / "02_micro_conditioning.ipynb"), *(file.name for file in files)]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(Path("results") / file.stem / "02_micro_conditioning.ipynb") for file in files]
    for file in files:
        frame = rows_table(tmp_path / "results" / file.stem)
        assert set(frame["status"]) == {"done"}, file.stem
        assert len(frame) >= 2
        assert (tmp_path / "results" / file.stem / "wall.mp4").is_file()


@pytest.mark.parametrize(("steps", "frames"), [(1, 8), pytest.param(4, 14, marks=pytest.mark.slow)])
def test_troubleshooting(execute, steps, frames):
    """Every symptom is found after the clip that was to have it, and only there."""
    shown = execute("05_troubleshooting", steps=steps, frames=frames)
    found = [line.split(":")[0].strip() for line in shown.splitlines() if "\n" not in line and ": " in line]
    told = [
        name for name in found if name in ("black", "size", "shape", "enlarged", "static", "seams", "colour", "faces")
    ]
    assert told == ["static", "seams", "colour", "size", "shape", "enlarged", "black", "static", "faces"]
    assert "Nothing was found that needs a cure." in shown
    assert "This machine is ready." in shown
    assert f"Out of memory while decoding ({frames} frames of 72x128" in shown
    assert "The next clip is the same as before: True" in shown
    assert shown.count("<video") == 11


@pytest.fixture
def probe(tmp_path) -> Path:
    """A notebook that tells which process ran it and what it found there."""
    cells = [
        nbformat.v4.new_code_cell("who = 1", metadata={"tags": ["parameters"]}),
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


def said(copy: Path) -> list[str]:
    [output] = [o for c in nbformat.read(copy, 4).cells for o in c.get("outputs", ()) if o.output_type == "stream"]
    return output.text.split()


def test_one_kernel_for_several_files_with_its_names_cleared(probe, tmp_path, monkeypatch, warm):
    monkeypatch.chdir(tmp_path)
    for name, text in {"a": "who: 2", "b": "who: 3", "c": "{}"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    copies = list(run_notebook(probe, ["a.yaml", "b.yaml", "c.yaml"]))
    first, second, third = (said(copy) for copy in copies)
    assert first[0] == second[0] == third[0]
    assert [x[1] for x in (first, second, third)] == ["2", "3", "1"]
    assert [x[2] for x in (first, second, third)] == ["False"] * 3  # names are cleared
    assert [x[3] for x in (first, second, third)] == ["False", "True", "True"]  # modules stay
    assert first[4] == str(tmp_path)
    assert [cell.execution_count for cell in nbformat.read(copies[1], 4).cells] == [1, 2, 3]


def test_a_run_that_fails_or_dies_names_the_study_and_the_next_gets_a_new_kernel(
    probe, tmp_path, monkeypatch, capsys, warm
):
    monkeypatch.chdir(tmp_path)
    for name, text in {"good": "who: 2", "bad": "who: 13", "dead": "who: 99"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert main(["run", "probe.ipynb", "good.yaml", "bad.yaml"]) == 1
    captured = capsys.readouterr()
    assert captured.out.split() == ["results/good/probe.ipynb"]
    assert "bad: AssertionError: unlucky" in captured.err.splitlines()[-1]
    assert main(["run", "probe.ipynb", "dead.yaml"]) == 1
    assert "dead: " in capsys.readouterr().err.splitlines()[-1]
    [copy] = run_notebook(probe, ["good.yaml"])
    assert said(copy)[2:4] == ["False", "False"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("who: 2\nwho: 3", "sets 'who' twice"),
        ("who: !!python/object/apply:os.system [echo]", "is not plain YAML"),
        ("- 1\n- 2", "sets nothing: expected lines like"),
        ("who: [1", "is not plain YAML"),
        ("wha: 2", "probe.ipynb has no parameter 'wha'; did you mean 'who'?"),
        ("zzz: 2", "probe.ipynb has no parameter 'zzz': it has who."),
    ],
)
def test_a_parameter_file_that_cannot_be_meant_stops_before_anything_runs(probe, tmp_path, monkeypatch, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text("who: 2")
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        list(run_notebook(probe, ["good.yaml", "odd.yaml"]))
    assert sentence in str(refusal.value)
    assert not (tmp_path / "results").exists()
    with pytest.raises(ValueError, match="cannot be read"):
        read_parameters(tmp_path / "none.yaml")
