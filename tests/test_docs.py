"""The help pages: their links lead somewhere, their examples run, and the site needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from html_page import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_to_a_file(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    for target in targets:
        if target.startswith("https://"):
            continue
        notebook = re.fullmatch(r"notebooks/(\w+)\.md", target)
        file = ROOT / f"notebooks/{notebook[1]}.ipynb" if notebook else DOCS / target
        assert file.exists() or target == "reference.md", target


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(block, names)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    pages = {path: Page(path.read_text()) for path in tmp_path.rglob("*.html")}
    assert len([path for path in pages if path.parent.name == "notebooks"]) == 5
    anchors = {
        path: {attributes.get(name) for _, attributes in page.elements for name in ("id", "name")}
        for path, page in pages.items()
    }
    del pages[tmp_path / "404.html"]  # whose addresses begin at the server's root
    for path, page in pages.items():
        addresses = [attributes.get("src") for _, attributes in page.elements + page.template_elements]
        addresses += [link.get("href") for link in page.all("link")]
        files = [address.partition("?")[0] for address in addresses if address and not address.startswith("data:")]
        assert [file for file in files if not (path.parent / file).is_file()] == []
        links = [str(link["href"]) for link in page.all("a") if link.get("href")]
        for link in links:
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if target.is_dir():
                target /= "index.html"
            assert target.exists(), f"{path.name}: {link}"
            assert not anchor or target.suffix != ".html" or anchor in anchors[target], f"{path.name}: {link}"
