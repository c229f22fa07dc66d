"""The promises of the project's own shape: what imports what, what is pinned, what a clone carries."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import svdlab

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def imports(path: Path) -> set[Path]:
    """The files of ours that a file imports, wherever in it, those for types alone too."""
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            file = ROOT / Path(*name.split(".")).with_suffix(".py")
            if file.is_file():
                files.add(file)
    return files - {path}


def test_no_import_leads_back():
    """Files have floors: a file stands above all that it imports, so no chain of imports comes back to its start."""
    files = {path: imports(path) for path in (ROOT / "svdlab").rglob("*.py")}
    while bases := {path for path, needs in files.items() if not needs & files.keys()}:
        files = {path: needs for path, needs in files.items() if path not in bases}
    assert not files, {str(path.relative_to(ROOT)): [n.name for n in needs] for path, needs in files.items()}


def test_only_setup_fitting_uses_an_upper_floor():
    """A public name, as `svdlab.load`, may be of any floor, so imports do not tell: only `Setup.fitting` takes one."""
    nodes = {path: ast.walk(ast.parse(path.read_text())) for path in (ROOT / "svdlab").rglob("*.py")}
    uses = {
        (path.name, node.attr)
        for path in nodes
        for node in nodes[path]
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "svdlab"
        and node.attr in svdlab.__all__
    }
    assert uses == {("setup.py", "fitting_setup")}


def test_files_are_short_and_folders_small():
    files = sorted((ROOT / "svdlab").rglob("*.py"))
    long_files = {str(path.relative_to(ROOT)): lines for path in files if (lines := path.read_text().count("\n")) > 350}
    assert not long_files, "split them, or say it in fewer words"
    for folder in {path.parent for path in files}:
        limit = 16 if folder == ROOT / "svdlab" else 12
        assert len(list(folder.glob("*.py"))) <= limit, f"{folder.relative_to(ROOT)} holds more than one looks through"


def test_every_public_name_is_there():
    modules = {path.stem for path in (ROOT / "svdlab").iterdir()}
    assert not modules & set(svdlab.__all__), "importing the module of that name would hide what it offers"
    for name in svdlab.__all__:
        assert getattr(svdlab, name).__doc__ or isinstance(getattr(svdlab, name), dict)
    with pytest.raises(AttributeError, match="nothing"):
        svdlab.nothing  # noqa: B018


def test_a_fresh_import_is_light():
    """Of a checkout that is not installed, too: its scripts run beside a torch that a machine has already."""
    code = """
import importlib.metadata, sys
importlib.metadata.MetadataPathFinder.find_distributions = lambda *context: iter(())
import svdlab
print([name for name in ("torch", "diffusers", "PIL", "numpy", "av") if name in sys.modules], svdlab.__version__)
"""
    out = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)
    assert out.split() == ["[]", svdlab.__version__]


def test_environment_leaves_versions_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, *conda, pip = environment["dependencies"]
    assert environment["channels"] == ["conda-forge"]
    assert python.startswith("python" + PROJECT["requires-python"])
    assert conda == ["pip"]
    [installed] = pip["pip"]
    extra = re.fullmatch(r"-e \.\[([\w,]+)\]", installed)
    assert extra
    assert set(extra[1].split(",")) == set(PROJECT["optional-dependencies"]) - {"dev", "parquet", "ray"}


def test_every_dependency_has_a_lower_bound_and_a_tested_version():
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    dependencies = PROJECT["dependencies"] + [d for extra in PROJECT["optional-dependencies"].values() for d in extra]
    for dependency in dependencies:
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)", dependency).groups()  # pyright: ignore[reportOptionalMemberAccess]
        version = pinned[name.lower().replace("_", "-")]
        assert tuple(map(int, bound.split("."))) <= tuple(map(int, version.split("."))), dependency
    assert pinned["torch"] == "2.13.0"


def test_notebooks_are_committed_without_outputs_and_define_nothing():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert any("parameters" in cell["metadata"].get("tags", []) for cell in cells), path.name
        for cell in cells:
            assert not cell["outputs"], path.name
            assert cell["execution_count"] is None, path.name
            assert not re.search(r"^\s*(def|class) ", "".join(cell["source"]), re.MULTILINE), path.name


def test_nothing_names_this_machine():
    """No path of a developer's machine, in any file that git would carry."""
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    private = re.compile(r"/(?:home|Users|root|work)/\w+")
    for name in names:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".ipynb", ".html", ""} and path.is_file():
            assert not private.search(path.read_text(errors="ignore")), name
