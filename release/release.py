"""Build what is published, and try it as a stranger would: `make release`.

Wheel and sdist are built, checked (metadata, contents, size), and the wheel is installed into a fresh environment,
which makes a clip. What is left to do by hand is written to dist/PUBLISH.md.

    python -m release.release
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

from release.install_cell import ROOT, install_command, install_from

MOST_BYTES = 45 * 10**6
NEEDED = (
    *("svdlab/media/show.html", "svdlab/examples/rocket.png", "svdlab/__init__.pyi"),
    *("svdlab/tiny/weights/model_index.json", "svdlab/tiny/weights/unet/diffusion_pytorch_model.safetensors"),
)
ONLY_SDIST = ("notebooks/01_quickstart.ipynb", "tests/conftest.py", "training/train.py", "Makefile", "constraints.txt")
CLIP = """
import sys, svdlab
from svdlab import Setup, generate, load, read
assert sys.argv[1] in svdlab.__file__, svdlab.__file__
request = Setup("tiny").request(image="rocket", num_inference_steps=4, num_frames=4)
clip = generate(load(Setup("tiny")), request, progress=False)
print(len(read(clip.save("clip.mp4")).frames), "frames")
"""
PUBLISH = """\
# To publish svdlab {version}

{files}

Checked here: metadata (`twine check --strict`), contents, sizes, and a clip made from the wheel in a fresh environment.

1. `git tag v{version}`, and push the tag to the project's repository.
2. `twine upload {names}` with a token of the index; first `--repository testpypi`.
3. In pyproject.toml set `install-from`, now {source!r}: the repository's address, or "svdlab" once the index has it.
   `make install-cell` writes it into the notebooks and the README, which say now `{command}`. Commit that.
4. In Colab open notebook 01 from the repository and run all of it.
"""


def build(folder: Path) -> list[Path]:
    """The sdist, and the wheel that is built from it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return sorted(path for path in folder.iterdir() if path.name.startswith("svdlab-"))


def check_contents(path: Path) -> None:
    """Raise where a wheel or an sdist lacks something, carries too much, or is too large."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
        lacking = set(NEEDED) - names
        foreign = {name for name in names if not name.startswith(("svdlab/", "svdlab-"))}
    else:
        with tarfile.open(path) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        lacking = {*NEEDED, *ONLY_SDIST} - names
        foreign = {name for name in names if "/.venv" in name or "__pycache__" in name or name.startswith("results/")}
    if lacking or foreign:
        raise SystemExit(f"{path.name} lacks {sorted(lacking)} and should not hold {sorted(foreign)}.")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise SystemExit(f"{path.name} takes {size / 1e6:.1f} MB, and {MOST_BYTES / 1e6:.0f} MB are the most.")


def make_clip(python: Path, home: Path) -> str:
    """What making a clip prints, in an empty folder, with the svdlab that this Python has below `home`."""
    folder = home / "clip"
    folder.mkdir(exist_ok=True)
    command = [str(python), "-c", CLIP, str(home)]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The clip from the wheel failed:\n{done.stderr}")
    return done.stdout.strip()


def main() -> None:
    """Everything, into dist/."""
    dist, home = ROOT / "dist", ROOT / "build" / "release"
    for folder in (dist, home):
        shutil.rmtree(folder, ignore_errors=True)
    files = build(dist)
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)], check=True)
    for path in files:
        check_contents(path)
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    wheel = next(path for path in files if path.suffix == ".whl")
    install = ["install", "--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([str(python), "-m", "pip", *install, str(wheel)], check=True)
    print(f"The wheel in a fresh environment made a clip: {make_clip(python, home)}")
    (dist / "PUBLISH.md").write_text(
        PUBLISH.format(
            version=wheel.name.split("-")[1],
            files="\n".join(
                f"- `{path.name}`: {path.stat().st_size / 1e6:.1f} MB, sha256 "
                f"`{hashlib.sha256(path.read_bytes()).hexdigest()}`"
                for path in files
            ),
            names=" ".join(f"dist/{path.name}" for path in files),
            source=install_from(),
            command=install_command(install_from()),
        )
    )
    print((dist / "PUBLISH.md").read_text())


if __name__ == "__main__":
    main()
