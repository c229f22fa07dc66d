"""Colab's environment as far as it can be had here, in build/colab: its Python, and what constraints-colab.txt names.

torch is the index's own wheel without CUDA's libraries, which take gigabytes: what the loader asks of them is met by
empty functions, and torch runs on the processor. svdlab is installed as a notebook's first cell does it, which must
replace nothing that Colab's kernel has loaded.

    python -m release.colab_environment
    python -m release.colab_environment --resolve    # only ask pip whether the versions go together
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

from packaging.requirements import Requirement

from release.install_cell import ROOT

HOME = ROOT / "build" / "colab"
PINS = ROOT / "constraints-colab.txt"
BESIDE_TORCH = ("filelock", "fsspec", "networkx", "setuptools<82", "sympy")  # what its wheel asks for, CUDA apart
FIRST = ("diffusers==0.39.0", "huggingface_hub==1.27.0", "transformers==5.15.0")  # Colab's; svdlab may replace these
TESTS = ("hypothesis", "pytest", "pytest-timeout", "widgetsnbextension==3.6.1")  # 3.6.10 shows no widget of 7.7.1
_NO_CARD = "(void) { return 100; }"
_ANSWERS = {"cudnnGetProperty": "(int part, int *version) { *version = part ? 99 : 9; return 0; }"}  # 9.99: new enough
_CUDA = re.compile(r"(lib)?(cu|nccl|nv)")  # how its libraries and its functions begin


def make() -> None:
    """The environment, made anew."""
    subprocess.run([_python(), "-m", "venv", "--clear", str(HOME)], check=True)
    _pip("--upgrade", "pip")
    pins = _pins()
    torch = next(line for line in pins if line.startswith("torch=="))
    _pip("--no-deps", torch)
    _without_cuda(next(HOME.glob("lib/python*/site-packages")))
    _pip(*BESIDE_TORCH, *FIRST, *pins)
    before = _versions()
    _pip(f"{ROOT}[notebooks]")
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
    replaced = {name: (old, _versions().get(name)) for name, old in before.items() if name in pinned}
    replaced = {name: versions for name, versions in replaced.items() if versions[0] != versions[1]}
    if replaced:
        raise SystemExit(f"Installing svdlab replaces what Colab's kernel may have loaded: {replaced}")
    _pip(*TESTS)


def resolve() -> None:
    """Ask pip, without installing anything, whether svdlab goes together with Colab's versions, torch among them."""
    torch = next(Requirement(line) for line in _pins() if line.startswith("torch=="))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bound = next(Requirement(line) for line in project["dependencies"] if line.startswith("torch"))
    if not bound.specifier.contains(next(iter(torch.specifier)).version):
        raise SystemExit(f"{bound} would replace Colab's {torch}.")
    HOME.parent.mkdir(exist_ok=True)
    others = HOME.parent / "colab-without-torch.txt"  # the torch that is here stays: another asks for CUDA's gigabytes
    others.write_text("\n".join(line for line in _pins() if not line.startswith("torch==")))
    flags = ["--dry-run", "--no-build-isolation", "--quiet", "--disable-pip-version-check", "--constraint", str(others)]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, f"{ROOT}[notebooks]"], check=True)
    print("svdlab goes together with Colab's versions.")


def _python() -> str:
    """Colab's Python where this machine has it: a name alone may be a shim of pyenv that runs nothing."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [os.environ.get("COLAB_PYTHON"), shutil.which("python3.13"), *pyenv.glob("3.13.*/bin/python")]
    for candidate in filter(None, candidates):
        if not subprocess.run([candidate, "-c", ""], check=False, capture_output=True).returncode:
            return str(candidate)
    return sys.executable


def _pins() -> list[str]:
    return [line for line in PINS.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]


def _pip(*arguments: str) -> None:
    command = [str(HOME / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *arguments], check=True)


def _versions() -> dict[str, str]:
    command = [str(HOME / "bin/python"), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}


def _without_cuda(site: Path) -> None:
    """Take CUDA out of what torch asks pip for, and give its loader libraries of empty functions."""
    for metadata in site.glob("torch-*.dist-info/METADATA"):
        lines = metadata.read_text().splitlines(keepends=True)
        metadata.write_text(
            "".join(line for line in lines if not re.match("Requires-Dist: (nvidia|cuda|triton)", line))
        )
    folder = site / "torch" / "lib"
    libraries = sorted(map(str, folder.glob("*.so")))
    needed = set(re.findall(r"NEEDED.*\[(.+)\]", _output("readelf", "-d", *libraries)))
    wanted: dict[str, set[str]] = defaultdict(set)  # version tag, or "" -> functions
    for line in _output("nm", "-D", "--undefined-only", *libraries).splitlines():
        name, _, tag = line.split()[-1].replace("@@", "@").partition("@") if line.split() else ("", "", "")
        if _CUDA.match(tag.lower() or name):
            wanted[tag].add(name)
    for library in sorted(filter(_CUDA.match, needed)):
        if not (folder / library).exists():
            own = {tag: wanted.pop(tag) for tag in list(wanted) if tag and _stem(tag) in _stem(library)}
            if library.startswith("libnccl"):
                own[""] = wanted.pop("", set())
            _stub(folder / library, own)


def _stem(name: str) -> str:
    return name.lower().removeprefix("lib").split(".so")[0]


def _stub(library: Path, functions: dict[str, set[str]]) -> None:
    source, versions = library.with_suffix(".c"), library.with_suffix(".map")
    bodies = {name: _ANSWERS.get(name, _NO_CARD) for names in functions.values() for name in names}
    source.write_text("".join(f"int {name}{body}\n" for name, body in bodies.items()))
    tagged = {tag: names for tag, names in functions.items() if tag}
    versions.write_text("".join(f"{tag} {{ global: {'; '.join(names)}; }};\n" for tag, names in tagged.items()))
    flags = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{library.name}"]
    flags += [f"-Wl,--version-script={versions}"] if tagged else []
    subprocess.run(["gcc", *flags, "-o", str(library), str(source)], check=True)
    source.unlink()
    versions.unlink()


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    resolve() if "--resolve" in sys.argv else make()
