"""A hook of mkdocs: notebooks and the list of public names become pages, and pages that `nav` does not name come last.

Notebooks are shown as `make docs` ran them, into build/notebooks_run; one that was not run is shown without outputs.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_RUN = ROOT / "build" / "notebooks_run"  # whose own place is nobody's business
_WIDGET = "application/vnd.jupyter.widget-view+json"  # beside each stands a picture of it, or a page that needs none
_GROUPS = {  # sub-package -> heading of its part of the reference
    "": "What is asked, how it runs",
    "generation": "Making clips",
    "media": "Showing clips",
    "pipelines": "Loading",
    "prediction": "Memory and time, predicted",
    "profiling": "Memory and time, measured",
    "sweeps": "Sweeps",
    "rows": "Rows",
    "quality": "Measures and diagnosis",
    "interface": "Panel, review, report",
    "headless": "Without a browser",
}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each notebook, and the reference."""
    for name, notebook in _notebooks().items():
        title = "".join(notebook["cells"][0]["source"]).splitlines()[0].removeprefix("# ")
        files.append(File.generated(config, f"notebooks/{name}.md", content=f"---\ntitle: '{title}'\n---\n"))
    files.append(File.generated(config, "reference.md", content=_reference()))
    named = {item for item in config["nav"] if isinstance(item, str)}
    pages = [file.src_uri for file in files.documentation_pages()]
    others = [uri for uri in pages if "/" not in uri and uri not in named and uri != "reference.md"]
    config["nav"] = [
        {"Guides": [*config["nav"], *others]},
        {"Notebooks": [f"notebooks/{name}.md" for name in _notebooks()]},
        {"Reference": ["reference.md"]},
    ]
    return files


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """The notebook itself, as HTML."""
    name = Path(page.file.src_uri).stem
    if not page.file.src_uri.startswith("notebooks/"):
        return html
    return f'<div class="notebook">{_render(_notebooks()[name])}</div>'


@cache
def _notebooks() -> dict[str, Any]:
    paths = {path.stem: path for folder in (ROOT / "notebooks", _RUN) for path in _sorted(folder)}
    texts = {name: path.read_text(encoding="utf-8").replace(f"{_RUN}/", "") for name, path in paths.items()}
    return {name: json.loads(text) for name, text in texts.items()}


def _sorted(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.ipynb"))


def _render(notebook: dict[str, Any]) -> str:
    import nbformat
    from nbconvert import HTMLExporter

    cells = []
    for cell in notebook["cells"]:
        if {"install", "injected-parameters"} & set(cell["metadata"].get("tags", [])):
            continue
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if _WIDGET not in output.get("data", {})]
        cells.append(cell)
    shown = nbformat.reads(json.dumps({**notebook, "cells": cells}), as_version=4)
    html, _ = HTMLExporter(template_name="basic", exclude_input_prompt=True).from_notebook_node(shown)
    return html


def _reference() -> str:
    """One entry for each public name, by the sub-package that it lives in, from the package's stub."""
    by_group: dict[str, list[str]] = {group: [] for group in _GROUPS}
    stub = (ROOT / "svdlab" / "__init__.pyi").read_text(encoding="utf-8")
    for module, name in re.findall(r"^from \.([\w.]*) import (\w+) as", stub, re.MULTILINE):
        group = module.split(".")[0] if "." in module else module if module in _GROUPS else ""
        by_group[group].append(f"::: svdlab.{module}.{name}")
    parts = [f"## {heading}\n\n" + "\n\n".join(by_group[group]) for group, heading in _GROUPS.items()]
    return (
        "# Reference\n\nEvery public name, `from svdlab import …`. Every example runs.\n\n" + "\n\n".join(parts) + "\n"
    )
