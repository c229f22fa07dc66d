"""Every notebook, executed by papermill in a directory outside the project, on the bundled model."""

from __future__ import annotations

from pathlib import Path

import papermill
import pytest

from svdlab import read

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
        pages = [o["data"].get(kind, "") for o in outputs if "data" in o for kind in ("text/plain", "text/html")]
        return "\n".join(texts + pages)

    return executed


def test_quickstart(execute, tmp_path):
    shown = execute("01_quickstart", variant="tiny", results=str(tmp_path / "made"))
    assert "The same frames: True" in shown
    assert shown.count("<video") >= 3
    calm, lively = read(tmp_path / "made" / "clip.mp4"), read(tmp_path / "made" / "livelier.mp4")
    assert (calm.request.motion_bucket_id, lively.request.motion_bucket_id) == (127, 220)
    assert len(calm.frames) == len(read(tmp_path / "made" / "livelier.gif").frames) == 14
