"""What every notebook needs around its question: a place for what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import svdlab


def results_folder(results: str | Path, study: str) -> Path:
    """The folder for what a notebook leaves behind, made if it is not there: `results` where given, else
    `results/<study>` of the checkout that the package runs from, else of the working directory."""
    root = Path(svdlab.__file__).resolve().parents[1]
    home = root if (root / "pyproject.toml").is_file() else Path.cwd()
    folder = Path(results) if results else home / "results" / study
    folder.mkdir(parents=True, exist_ok=True)
    return folder
