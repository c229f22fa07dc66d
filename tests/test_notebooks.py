"""Every notebook, run in a directory outside the project on the bundled model, and every parameter file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import papermill
import pytest

from svdlab import Request, Setup, estimate, grid, ladder, read
from svdlab.headless.papermill_engine import stop_kernels
from svdlab.headless.run_notebooks import read_parameters
from svdlab.interface.command_line import main
from svdlab.prediction.cards import find_card
from svdlab.rows.rows_table import rows_table

PARAMS = Path(__file__).parents[1] / "params"
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture(scope="module", autouse=True)
def warm_kernel():
    """One kernel for all notebooks of this file."""
    yield
    stop_kernels()


@pytest.fixture
def run_notebook(tmp_path, monkeypatch):
    """Run a notebook with parameters; gives the texts and the HTML that its cells left, joined."""
    monkeypatch.chdir(tmp_path)

    def run_notebook(name: str, **parameters) -> str:
        notebook = papermill.execute_notebook(
            NOTEBOOKS / f"{name}.ipynb",
            tmp_path / "out.ipynb",
            parameters,
            engine_name="svdlab",
            progress_bar=False,
        )
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
        texts = [o.get("text", "") for o in outputs]
        pages = [
            o["data"].get(kind, "")
            for o in outputs
            if "data" in o
            for kind in ("text/plain", "text/html", "text/markdown")
        ]
        return "\n".join(texts + pages)

    return run_notebook


@pytest.mark.parametrize("frames", [4, pytest.param(14, marks=pytest.mark.slow)])
def test_quickstart(run_notebook, tmp_path, frames):
    """Results lie where one works, and none in the checkout that the notebook and svdlab come from."""
    checkout = {path: path.stat().st_mtime_ns for path in (NOTEBOOKS.parent / "results").rglob("*")}
    text = run_notebook("01_quickstart", variant="tiny", fixed={"num_frames": frames})
    assert checkout == {path: path.stat().st_mtime_ns for path in (NOTEBOOKS.parent / "results").rglob("*")}
    folder = tmp_path / "results" / "quickstart"
    assert f"Results go to {folder}" in text
    assert "The same frames: True" in text
    assert "small enough for any machine" in text  # what lets a model fit is chosen where it is named, too
    source = (NOTEBOOKS / "01_quickstart.ipynb").read_text(encoding="utf-8")
    assert "generate(load(" not in source  # most cards hold one pipeline only
    assert source.index("pipeline = None") < source.index("panel(setup")
    assert text.count("<video") >= 3
    calm, lively = read(folder / "clip.mp4"), read(folder / "livelier.mp4")
    assert (calm.request.motion_bucket_id, lively.request.motion_bucket_id) == (127, 220)
    assert len(calm.frames) == len(read(folder / "livelier.gif").frames) == frames


def test_memory_and_speed(run_notebook, tmp_path):
    """Predicted and measured: the rungs are rows beside any others, and their frames were compared."""
    parameters = {"predict": "tiny", "memory": "8GB", "names": ["single-token"], "steps": 2, "repeats": 1}
    parameters |= {"fixed": {"num_frames": 4, "max_guidance_scale": 2.0}}
    text = run_notebook("03_memory_and_speed", results=str(tmp_path / "made"), **parameters)
    assert "tiny on a card of 8GB (7.8 GiB, 7.1 of them free)" in text
    assert "RTX 3060" in text
    assert "the least memory, exact" in text
    frame = rows_table(tmp_path / "made")
    assert frame.optimizations.tolist() == ["", "single-token"]
    assert (frame.peak_allocated_bytes > 10**8).all()
    assert (frame.psnr_db > 50).all()


@pytest.mark.slow
def test_micro_conditioning(run_notebook, tmp_path):
    """The study at the size that the notebook itself has: motion rises with the bucket."""
    text = run_notebook("02_micro_conditioning", results=str(tmp_path / "made"))
    assert "rises by" in text
    assert text.count(' data-frames="') == 18 + 1
    assert (tmp_path / "made" / "wall.mp4").stat().st_size > 10_000
    assert len(rows_table(tmp_path / "made")) == 18


@pytest.mark.slow
def test_review(run_notebook, tmp_path):
    """Where there is no study yet, it makes one; what the page shows is in `test_review.py`."""
    text = run_notebook("04_review")
    assert "3 rows" in text
    assert {path.name for path in (tmp_path / "results/review").iterdir()} == {"chosen", "chosen.zip", "report.html"}
    assert "svdlab clip --again" in text


@pytest.mark.filterwarnings("ignore::UserWarning")  # a study may leave what the model was trained for
@pytest.mark.parametrize("file", sorted(PARAMS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_parameter_file_says_what_it_is_for_and_fits_its_notebook(file):
    """Its names are the notebook's, its values make a grid or a ladder; a file of SVD-XT has a twin for tiny."""
    assert file.read_text().startswith("# ")
    if "memory_speed" not in file.name:
        values = read_parameters(file, papermill.inspect_notebook(str(NOTEBOOKS / "02_micro_conditioning.ipynb")))
        request = Request(image=values.get("image", "rocket"), **values.get("fixed", {}))
        trials = grid(Setup(values["variant"]), request, paired=values.get("paired"), **values["axes"])
        assert len(trials) >= 2
        assert {values.get("across"), values.get("down")} <= {*trials[0].axes, None, "seed"}
        assert (PARAMS / file.name.replace("_svd_xt", "")).is_file()
        if "_svd_xt" in file.name:
            [hint] = re.findall(r"# optimizations: \[(.+)\]  # for a card of 8 to 12 GB", file.read_text())
            lean = Setup("svd-xt", dtype="fp16", optimizations=tuple(hint.split(", ")))
            assert {estimate(lean).fits_on(find_card(card)) for card in ("8GB", "12GB")} == {"yes"}
        return
    values = read_parameters(file, papermill.inspect_notebook(str(NOTEBOOKS / "03_memory_and_speed.ipynb")))
    setup = Setup(values["variant"], values.get("weights", ""), optimizations=tuple(values.get("start", ())))
    rungs = ladder(setup, values["names"], cumulative=values.get("cumulative", True))
    assert len(rungs) == len(values["names"]) + 1
    assert all(rung.setup.weights in ("random", "bundled") for rung in rungs)  # nothing is downloaded


@pytest.mark.slow
@pytest.mark.parametrize("gib", [8, 12, 16])
def test_every_rung_for_a_card_is_predicted_to_fit_it(gib):
    values = read_parameters(PARAMS / f"memory_speed_{gib}gb.yaml")
    start = Setup(values["variant"], "random", dtype="fp16", optimizations=tuple(values.get("start", ())))
    for trial in ladder(start, values["names"]):
        assert estimate(trial.setup, trial.request).fits(gib * 2**30)


def test_a_parameter_file_is_run_from_the_command_line(tmp_path, monkeypatch, capsys):
    """The smallest of them, at a size for a test; the others differ by values, which are checked above."""
    monkeypatch.chdir(tmp_path)
    values = read_parameters(PARAMS / "smoke.yaml")
    values["fixed"] |= {"num_inference_steps": 1, "num_frames": 4}
    (tmp_path / "smoke.yaml").write_text(json.dumps(values))  # JSON is YAML
    assert main(["run", str(NOTEBOOKS / "02_micro_conditioning.ipynb"), "smoke.yaml"]) == 0
    assert capsys.readouterr().out.split() == [str(Path("results/smoke/02_micro_conditioning.ipynb"))]
    frame = rows_table(tmp_path / "results/smoke")
    assert frame["status"].tolist() == ["done"] * 2
    assert (tmp_path / "results/smoke/wall.mp4").is_file()


@pytest.mark.parametrize(("steps", "frames"), [(1, 8), pytest.param(4, 14, marks=pytest.mark.slow)])
def test_troubleshooting(run_notebook, steps, frames):
    """Every symptom is found after the clip that was to have it, and only there."""
    text = run_notebook("05_troubleshooting", steps=steps, frames=frames)
    names = [line.split(":")[0].strip() for line in text.splitlines() if "\n" not in line and ": " in line]
    symptoms = ["static", "seams", "colour", "size", "shape", "enlarged", "photograph", "black", "photograph", "faces"]
    assert [name for name in names if name in symptoms] == symptoms
    assert "Nothing was found that needs a cure." in text
    assert "This machine is ready." in text
    assert f"Out of memory while decoding ({frames} frames of 96x160" in text
    assert "The next clip is the same as before: True" in text
    assert text.count("<video ") == 11
