"""The line that installs svdlab, written into the first cell of every notebook and into README.md.

Where it installs from is one constant, `install-from` in pyproject.toml: a repository's address once there is one,
`svdlab` once an index has it. Left empty, svdlab comes from a wheel beside the notebook or the checkout around it.

    python -m release.install_cell
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LOCAL = """\
from importlib.util import find_spec
from pathlib import Path

source = next(Path().glob("svdlab-*.whl"), "..")  # a wheel beside this notebook, or the checkout around it
if not find_spec("svdlab"):
    %pip install -qq "{source}[notebooks]"
assert find_spec("svdlab"), "svdlab is not published yet: put its wheel beside this notebook, or open a checkout's."
"""
_PUBLISHED = """\
from importlib.util import find_spec

if not find_spec("svdlab"):
    %pip install -qq "REQUIREMENT"
"""


def install_from() -> str:
    """The constant of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["svdlab"]["install-from"]


def install_cell(source: str) -> str:
    """The first cell of a notebook."""
    return (_PUBLISHED.replace("REQUIREMENT", _requirement(source)) if source else _LOCAL).rstrip()


def install_command(source: str) -> str:
    """The same line for a shell."""
    return f'pip install "{_requirement(source)}"'


def _requirement(source: str) -> str:
    if "://" in source:
        return f"svdlab[notebooks] @ git+{source}"
    return f"{source or 'svdlab-0.1.0-py3-none-any.whl'}[notebooks]"


def write_all() -> None:
    """Write both where they belong; nothing else of those files changes."""
    source = install_from()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if "install" in cell["metadata"].get("tags", []):
                cell["source"] = install_cell(source).splitlines(keepends=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    block = f"<!-- install -->\n```sh\n{install_command(source)}\n```\n<!-- /install -->"
    readme.write_text(re.sub(r"<!-- install -->.*?<!-- /install -->", lambda _: block, text, flags=re.DOTALL))


if __name__ == "__main__":
    write_all()
