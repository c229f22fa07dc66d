"""What is published: the wheel makes a clip outside of the project, and the notebooks' first cell installs it."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import svdlab
from release.install_cell import install_cell, install_command, install_from
from release.release import MOST_BYTES, build, check_contents, make_clip

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return build(tmp_path_factory.mktemp("dist"))


def test_wheel_and_sdist_hold_what_they_should(files):
    assert [path.suffix for path in files] == [".whl", ".gz"]
    for path in files:
        assert path.name.removesuffix(".tar.gz").split("-")[1] == svdlab.__version__
        check_contents(path)
        assert path.stat().st_size < MOST_BYTES


def test_a_wheel_installed_elsewhere_makes_a_clip(files, tmp_path, monkeypatch):
    with zipfile.ZipFile(files[0]) as archive:
        archive.extractall(tmp_path / "elsewhere")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    assert make_clip(Path(sys.executable), tmp_path) == "4 frames"


def test_the_install_line_is_the_same_everywhere():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        [cell] = ["".join(cell["source"]) for cell in cells if "install" in cell["metadata"].get("tags", [])]
        assert cell == install_cell(install_from()), f"{path.name}: run `make install-cell`"
    assert install_command(install_from()) in (ROOT / "README.md").read_text()


def test_the_first_cell_brings_all_that_the_package_imports():
    """A stranger has nothing else: what a larger extra alone brought would end a notebook half way."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines, installed = [*project["dependencies"], *project["optional-dependencies"]["notebooks"]], set()
    while lines:
        requirement = Requirement(lines.pop())
        name = canonicalize_name(requirement.name)
        if name not in installed and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
            installed.add(name)
            with contextlib.suppress(PackageNotFoundError):
                lines += requires(name) or []
    imported = set()
    for path in (ROOT / "svdlab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported |= {
                alias.name.split(".")[0] for alias in getattr(node, "names", ()) if isinstance(node, ast.Import)
            }
            imported |= {str(node.module).split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
    distributions = packages_distributions()
    others = imported - set(sys.stdlib_module_names) - {"svdlab"}
    assert {name for name in others if not {*map(canonicalize_name, distributions[name])} & installed} == {"ray"}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python that has all that svdlab needs, and no svdlab."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home / "venv")
    [site] = (home / "venv").glob("lib/*/site-packages")
    (home / "packages").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "svdlab" not in path.name and path.suffix != ".pth":
            (home / "packages" / path.name).symlink_to(path)
    (site / "packages.pth").write_text(str(home / "packages"))
    return home / "venv" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.parametrize("script", [["benchmarks/gpu.py"], ["-m", "training.train"]], ids=str)
def test_a_checkout_measures_and_trains_without_being_installed(python, script):
    environment = {**os.environ, "PYTHONPATH": "."}  # as `make gpu` and `make tiny` do without a .venv
    command = [str(python), *script, "--help"]
    help_text = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    assert "usage:" in help_text


@pytest.mark.parametrize("beside", ["wheel", pytest.param("checkout", marks=pytest.mark.slow), "nothing"])
def test_the_first_cell_installs_what_lies_beside_the_notebook(python, files, tmp_path, beside):
    """The cell as it is, with the real pip, in a folder of its own."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    if beside == "wheel":
        shutil.copy(files[0], folder)
    elif beside == "checkout":
        with tarfile.open(files[1]) as archive:
            archive.extractall(tmp_path, filter="data")
        folder = next(tmp_path.glob("svdlab-*/notebooks"))
    (folder / "cell.ipy").write_text(install_cell("") + "\nimport svdlab\nprint('from', svdlab.__file__)\n")
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "IPYTHONDIR": str(tmp_path)}
    environment.pop("PYTHONPATH", None)
    command = [str(python), "-m", "IPython", "--no-banner", "cell.ipy"]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if beside == "nothing":
        assert "wheel beside this notebook" in process.stdout + process.stderr
        return
    assert f"from {python.parents[1]}" in process.stdout, process.stdout + process.stderr
    subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", "svdlab"], env=environment, check=True)


def test_the_line_follows_where_svdlab_is_published():
    assert "svdlab[notebooks] @ git+https://example.org/lab" in install_cell("https://example.org/lab")
    assert install_command("svdlab") == 'pip install "svdlab[notebooks]"'
